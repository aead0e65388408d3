//! `godwit why`: where a client is led, and every reason.

use crate::arguments::DaemonArguments;
use crate::daemon::block_on;
use crate::failure::{Classify, Exit, Outcome};
use crate::terminal::{self, Table};
use clap::Args;
use godwit_dns_plugin::explain::explain;
use godwit_node::admin::Question;
use godwit_redirector::static_zone::StaticZone;
use serde_json::Value;
use std::net::IpAddr;
use std::path::Path;

/// Tell which replica a client gets, and why
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  godwit why www --client 203.0.113.9
  godwit why www --client 2001:db8::9 --json
  godwit why x.apps --client 203.0.113.9 --resolver 192.0.2.53
  godwit why @ --client 203.0.113.9 --type HTTPS
  godwit why www --client 203.0.113.9 --static zone.toml

NAME is a site, an alias, a name under a wildcard or any other name of the zone, `@` the zone
itself. Without --resolver the client asks by itself. With it the resolver asks, and what is told is
the answer for the client's subnet, and the one for resolvers that send none. It is answered by the
running member, or the redirector of a static zone, from what it would answer over DNS at this
moment; of a static zone that nobody serves, by its file.")]
pub(crate) struct Why {
    /// The name: what is before the zone, or all of it
    name: String,
    /// The client's address
    #[arg(long, value_name = "IP")]
    client: IpAddr,
    /// The resolver that asks for the client
    #[arg(long, value_name = "IP")]
    resolver: Option<IpAddr>,
    /// The record type [default: the addresses of the client's family]
    #[arg(long = "type", value_name = "TYPE")]
    kind: Option<String>,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    daemon: DaemonArguments,
}

impl Why {
    pub(crate) fn run(self) -> Outcome {
        let why = match block_on(self.ask())? {
            Some(why) => why,
            None => self.of_file()?,
        };
        if self.json { terminal::print_json(&why) } else { terminal::print(&text(&why)) }
    }
}

impl Why {
    /// What the running process says; none where a static zone is not served at this moment.
    async fn ask(&self) -> Outcome<Option<Value>> {
        let Some(client) = self.daemon.running_client().await? else { return Ok(None) };
        let Why { name, client: address, resolver, kind, .. } = self;
        let question =
            Question { name: name.clone(), kind: kind.clone(), client: *address, resolver: *resolver };
        Ok(Some(client.explain(&question).await?))
    }

    fn of_file(&self) -> Outcome<Value> {
        let file = self.daemon.file.as_deref().unwrap_or(Path::new(""));
        eprintln!("nobody serves {} now: told by the file, as if every check passed", file.display());
        let zone = StaticZone::open(file).or_exit(Exit::Usage)?;
        let kind = self.kind.as_deref();
        let why = explain(zone.view(), &self.name, kind, self.client, self.resolver).or_exit(Exit::Usage)?;
        Ok(serde_json::to_value(why)?)
    }
}

/// The account as text. It is read field by field, so that a member of another version, whose
/// account has more or fewer fields, can be asked too.
fn text(why: &Value) -> String {
    let mut text = answered(&why["dns"], "");
    if why["without_subnet"].is_object() {
        text += &answered(&why["without_subnet"], "Without a client subnet: ");
    }
    if why["site"].is_null() {
        return text + "The map has no choice here.\n";
    }
    text + "\n" + &reasons(why)
}

/// One answer, record by record.
fn answered(answer: &Value, before: &str) -> String {
    let by = if answer["subnet"] == Value::Bool(true) { "client subnet of" } else { "address" };
    let mut text = format!(
        "{before}{} {} by the {by} {}: {}\n",
        word(&answer["name"]),
        word(&answer["type"]),
        word(&answer["by"]),
        word(&answer["code"]),
    );
    for record in answer["answers"].as_array().map_or(&[][..], Vec::as_slice) {
        text += &format!("  {}\n", word(record));
    }
    text += &match answer["depends_on"].as_str() {
        Some("choice") => {
            format!("The map chose for {}; scope /{}.\n", word(&answer["site"]), word(&answer["scope"]))
        }
        Some("client") => format!("It depends on the client; scope /{}.\n", word(&answer["scope"])),
        _ => "It is the same for everybody.\n".to_owned(),
    };
    text
}

/// Every replica, and why it is where it is.
fn reasons(why: &Value) -> String {
    let known = &why["known"];
    let mut text = format!(
        "{}.{} for {} (generation {}, version {})\n",
        match why["region"].as_str() {
            Some(region) => format!("{region}.region"),
            None => word(&why["site"]),
        },
        word(&why["zone"]),
        word(&why["client"]),
        word(&why["generation"]),
        word(&why["current"])
    );
    text += &match known["by"].as_str() {
        Some("observation") => {
            format!("Measured: round-trip times from {} were observed.\n", word(&known["prefix"]))
        }
        Some("resolver") => {
            format!("Probed: round-trip times to a resolver in {} were measured.\n", word(&known["prefix"]))
        }
        Some("demand") => format!("Busy: {} is looked at by itself.\n", word(&known["prefix"])),
        Some("geography") => placed(known),
        Some("rule") => {
            format!("Rule for {}: {}.\n", word(&known["prefix"]), word(&known["rule"]))
        }
        Some("hash") => {
            format!("Unknown: {} keeps the replica that its hash gives it.\n", word(&known["prefix"]))
        }
        _ => String::new(),
    };
    text += &match why["home"].as_array() {
        Some(home) => format!(
            "A home address: everybody is told {}, and home agents pass the client's packets on to the\n\
             first of these that is bound; equals share clients by hash.\n",
            home.iter().map(word).collect::<Vec<_>>().join(" and ")
        ),
        None => format!("Everybody in {} is told the same.\n", word(&why["scope"])),
    };
    if why["kept"] == Value::Bool(true) {
        text += "The first one stays first: it serves them now, and no other is materially better.\n";
    }
    if why["because"] == "overflow" {
        text += "The nearest has no room for them: what room there would cost is added to its time.\n";
    }
    if why["explored"] == Value::Bool(true) {
        text += "The first one is being tried: this client measures it for its neighbours until the epoch ends.\n";
    }
    let mut table =
        Table::new(&["", "REPLICA", "REGION", "RTT", "FROM", "DISTANCE", "HEALTH", "HOLDS", "EXCLUDED"]);
    for replica in why["replicas"].as_array().map_or(&[][..], Vec::as_slice) {
        table.row(row(replica));
    }
    format!("{text}\n{table}")
}

/// A place, and the member near it whose measurements count for it, where there is one.
fn placed(known: &Value) -> String {
    let (prefix, landmark) = (word(&known["prefix"]), known["landmark"].as_str());
    let landmark = landmark.map_or_else(String::new, |name| format!("; times from {name} stand for it"));
    let (latitude, longitude) = (word(&known["latitude"]), word(&known["longitude"]));
    format!("Placed: the GeoIP database has {prefix} at {latitude},{longitude}{landmark}.\n")
}

fn row(replica: &Value) -> Vec<String> {
    let rtt =
        replica["rtt_estimate_us"].as_f64().map_or_else(|| "-".into(), |us| format!("{:.1} ms", us / 1000.0));
    let distance = replica["distance_km"].as_u64().map_or_else(|| "-".into(), |km| format!("{km} km"));
    let mut health = word(&replica["health"]);
    if replica["draining"] == Value::Bool(true) {
        health += ", draining";
    }
    if replica["ready"] == Value::Bool(false) {
        health += ", not ready";
    }
    for check in replica["checks"].as_array().map_or(&[][..], Vec::as_slice) {
        if check["state"] == "down" || check["state"] == "doubted" {
            health += &format!(", {} {}", word(&check["name"]), word(&check["state"]));
            if !check["why"].is_null() {
                health += &format!(" ({})", failure(&check["why"]));
            }
        }
    }
    if replica["spared"] == Value::Bool(true) {
        health += ", spared";
    }
    if let Some(price) = replica["price_us"].as_f64().filter(|price| *price > 0.0) {
        health += &format!(", full (+{:.1} ms)", price / 1000.0);
    }
    vec![
        word(&replica["rank"]),
        word(&replica["name"]),
        word(&replica["region"]),
        rtt,
        source(replica),
        distance,
        health,
        word(&replica["fresh"]["held"]),
        word(&replica["excluded_because"]),
    ]
}

/// Where an estimate comes from, and what a measured one rests on.
fn source(replica: &Value) -> String {
    let (source, measured) = (word(&replica["source"]), &replica["measured"]);
    let Some(samples) = measured["samples"].as_u64() else { return source };
    let bounded =
        if measured["raised"] == Value::Bool(true) { ", less than light allows was told" } else { "" };
    format!("{source} ({samples}, {}{bounded})", word(&measured["age"]))
}

/// Why a check fails: a word, or a word with a code.
fn failure(why: &Value) -> String {
    match why.as_object().and_then(|object| object.iter().next()) {
        Some((kind, code)) => format!("{kind} {code}"),
        None => word(why),
    }
}

/// A value as a word of a table.
fn word(value: &Value) -> String {
    match value {
        Value::Null => "-".into(),
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}
