//! Keys for people, and for registrars.

use super::Keys;
use crate::failure::Outcome;
use crate::terminal::{self, Table};
use godwit_core::time::Time;
use godwit_dns_plugin::dnssec::date::Date;
use godwit_dns_plugin::dnssec::{Phase, StoredKey};
use serde_json::{Value, json};

/// The keys that a DS record points at, or may.
fn entries(keys: &Keys, now: Time) -> Vec<&StoredKey> {
    let entry =
        |stored: &&StoredKey| stored.key.role.is_entry() && stored.key.times.phase(now) < Phase::Retired;
    keys.keys.iter().filter(entry).collect()
}

impl Keys {
    /// Whether the parent is asked to take the DS records away.
    fn unsigning(&self, now: Time) -> bool {
        self.keys.iter().any(|stored| stored.key.times.wants_no_ds(now))
    }
}

/// What to enter at the registrar.
pub(super) fn ds(keys: &Keys, now: Time, as_json: bool) -> Outcome {
    let (entries, wire) = (entries(keys, now), keys.wire());
    if as_json {
        let records: Vec<Value> = entries
            .iter()
            .map(|stored| {
                let public = stored.key.public();
                json!({
                    "tag": public.tag(),
                    "ds": public.ds_text(&wire),
                    "dnskey": public.dnskey_text(),
                    "wanted": stored.key.times.wants_ds(now),
                })
            })
            .collect();
        return terminal::print_json(&json!({ "zone": keys.zone, "keys": records }));
    }
    if keys.unsigning(now) {
        return terminal::print(&format!(
            "The zone {} is about to be unsigned: take its DS record away at the registrar, and enter none.",
            keys.zone
        ));
    }
    let mut text = format!(
        "Enter at the registrar of the zone above {}: the DS record,\nor where they ask for it the DNSKEY record.\n",
        keys.zone
    );
    for stored in entries {
        let public = stored.key.public();
        match (stored.key.times.wants_ds(now), stored.key.times.ds_from) {
            (true, _) => {}
            (false, Some(from)) if from > now => text += &format!("\nNot before {}:", Date(from)),
            (false, _) => text += "\nTo be replaced by the other:",
        }
        text += &format!("\n{}. DS {}\n", keys.zone, public.ds_text(&wire));
        text += &format!("{}. DNSKEY {}\n", keys.zone, public.dnskey_text());
    }
    terminal::print(text.trim_end())
}

/// The keys, and what comes next.
pub(super) fn status(keys: &Keys, now: Time, as_json: bool) -> Outcome {
    if as_json {
        let all: Vec<Value> = keys.keys.iter().map(|stored| key_json(stored, now)).collect();
        return terminal::print_json(&json!({ "zone": keys.zone, "keys": all, "next": next(keys, now) }));
    }
    let mut table = Table::new(&["TAG", "ROLE", "ALGORITHM", "PHASE", "SINCE", "THEN"]);
    for stored in &keys.keys {
        let (phase, since, then) = course(stored, now);
        table.row(vec![
            stored.key.public().tag().to_string(),
            stored.key.role.to_string(),
            stored.key.key.algorithm().to_string(),
            phase.to_string(),
            since.map_or_else(String::new, |at| Date(at).to_string()),
            then.map_or_else(String::new, |(what, at)| format!("{what} {}", Date(at))),
        ]);
    }
    terminal::print(&format!("{}\n\n{table}\n{}", keys.zone, next(keys, now)))
}

fn key_json(stored: &StoredKey, now: Time) -> Value {
    let times = stored.key.times;
    let date = |at: Option<Time>| at.map(|at| Date(at).to_string());
    json!({
        "tag": stored.key.public().tag(),
        "role": stored.key.role.as_str(),
        "algorithm": stored.key.key.algorithm().as_str(),
        "phase": times.phase(now).to_string(),
        "published": date(Some(times.published)),
        "active": date(Some(times.active)),
        "ds_from": date(times.ds_from),
        "ds_until": date(times.ds_until),
        "retired": date(times.retired),
        "removed": date(times.removed),
        "ds_delete": date(times.ds_delete),
    })
}

/// The phase of a key, since when, and what comes then.
fn course(stored: &StoredKey, now: Time) -> (Phase, Option<Time>, Option<(&'static str, Time)>) {
    let times = stored.key.times;
    let phase = times.phase(now);
    let (since, then) = match phase {
        Phase::Planned => (None, Some(("published", times.published))),
        Phase::Published => (Some(times.published), Some(("active", times.active))),
        // Both at once: it is gone.
        Phase::Active if times.retired == times.removed => {
            (Some(times.active), times.removed.map(|at| ("removed", at)))
        }
        Phase::Active => (Some(times.active), times.retired.map(|at| ("retired", at))),
        Phase::Retired => (times.retired, times.removed.map(|at| ("removed", at))),
        Phase::Removed => (times.removed, None),
    };
    (phase, since, then)
}

/// What the person has to do next.
fn next(keys: &Keys, now: Time) -> String {
    if keys.unsigning(now) {
        let end = keys.keys.iter().filter_map(|stored| stored.key.times.removed).filter(|at| *at > now).max();
        return match end {
            Some(end) => format!("Nothing to do; the zone is unsigned from {} on.", Date(end)),
            None => "Next: take the DS record away at the registrar (one that reads CDS or CDNSKEY does that by itself);\n\
                     when no name server of the parent has it any more: godwit dnssec unsign ds-gone"
                .to_owned(),
        };
    }
    let waiting = keys.keys.iter().filter(|stored| {
        let times = stored.key.times;
        stored.key.role.is_entry() && times.retired.is_none()
    });
    // The last of them: an emergency may have come upon a rollover.
    if let Some(known) = waiting.filter_map(|stored| stored.key.times.ds_until).max() {
        return match known > now {
            true => format!("Next: wait until {}, then `godwit dnssec ds` tells the new DS record.", Date(known)),
            false => "Next: enter the new DS record at the registrar in place of the old one (`godwit dnssec ds`);\n\
                      when the parent zone tells it, and it only: godwit dnssec roll ds-seen"
                .to_owned(),
        };
    }
    let gone: Vec<&str> = keys
        .keys
        .iter()
        .filter(|stored| stored.key.times.phase(now) == Phase::Removed)
        .map(|stored| stored.stem.as_str())
        .collect();
    if gone.len() == keys.keys.len() {
        return "The zone is unsigned. Take `keys` out of the configuration, and delete the files; or sign again:\n\
                godwit dnssec generate"
            .to_owned();
    }
    if !gone.is_empty() {
        return format!("Next: delete the files of removed keys: {}.*", gone.join(".* "));
    }
    match keys.keys.iter().flat_map(|stored| course(stored, now).2).map(|(_, at)| at).min() {
        Some(at) => format!("Nothing to do; the next change comes by itself on {}.", Date(at)),
        None => "Nothing to do. `dig @PARENT-NAME-SERVER ZONE DS` shows whether the parent knows.".to_owned(),
    }
}
