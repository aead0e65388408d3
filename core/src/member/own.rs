//! What a member says itself: its roster entry, its doubts, the client round-trip times it saw.
//!
//! Said at once when it matters (bounded by [`Timing::entry_gap_min`]), soon when it is of use, and
//! otherwise refreshed before it lapses.

use super::{Config, OwnEntry, Timing};
mod challenge;
mod demand;
mod saying;

use crate::admission::Admission;
use crate::content::VersionNumber;
use crate::health::{CHECKS_MAX, Check, VERDICTS_MAX, Verdict};
use crate::key::MemberId;
use crate::name::SiteName;
use crate::observation::ClientRtt;
use crate::record::{
    ADDRESSES_MAX, HELD_MAX, OBSERVATIONS_MAX, Observations, PEER_RTTS_MAX, Record, RosterEntry, Signed,
    Suspicion,
};
use crate::roster::Roster;
use crate::time::Time;
use crate::wire;
use std::collections::BTreeMap;
use std::time::Duration;

/// What is of use but not urgent is said within this time: changes gather.
pub(super) const SOON: Duration = Duration::from_secs(1);

/// How long a doubt holds unless it is refreshed, and how often it is.
const DOUBT_LIFETIME: Duration = Duration::from_secs(30);
const DOUBT_REFRESH: Duration = Duration::from_secs(10);

/// After so long a doubt is not repeated: the entry of whom it is about has ended everywhere, so
/// that nobody takes it for alive, and a member that is gone for good costs nothing.
const DOUBT_REPEAT: Duration = crate::spread::LIFETIME_MAX;

/// Client round-trip times hold this long: clients come and go.
const OBSERVATIONS_LIFETIME: Duration = Duration::from_secs(300);

/// So much change of load is worth an entry, thousandths.
const LOAD_STEP: u16 = 100;

/// What an entry may take of a record's [`wire::RECORD_LEN_MAX`], signature and key left over.
const ENTRY_LEN_MAX: usize = wire::RECORD_LEN_MAX - 256;

/// So many round-trip times to peers stay in an entry that is too long.
const PEER_RTTS_KEPT: usize = 64;

/// A text that names software is cut at this length.
const SOFTWARE_LEN_MAX: usize = 64;

/// When a doubt was told.
#[derive(Clone, Copy)]
struct Told {
    incarnation: u64,
    first: Time,
    last: Time,
}

impl Told {
    /// When it is to be told again.
    fn again(&self) -> Time {
        if self.last < self.first + DOUBT_REPEAT { self.last + DOUBT_REFRESH } else { Time::NEVER }
    }
}

pub(super) struct Own {
    entry: OwnEntry,
    ready: bool,
    load_permille: u16,
    held: BTreeMap<SiteName, VersionNumber>,
    /// How many of them the last entry had no room for, and whether that is news.
    untold: usize,
    untold_news: bool,
    sequence: u64,
    /// When the next entry is due, and when the last was made.
    due: Time,
    last: Option<Time>,
    told_load: u16,
    told_rtts: BTreeMap<MemberId, u32>,
    /// Whom it said to doubt, and has not taken that back.
    told_doubts: BTreeMap<MemberId, Told>,
    doubt_sequence: u64,
    verdicts: Vec<Verdict>,
    client_rtts: Option<Vec<ClientRtt>>,
    observations_at: Time,
    observations_sequence: u64,
    pub(super) demand: demand::Telling,
    pub(super) challenges: challenge::Challenges,
    /// Resolvers that are to be measured, how far they were found to be, and by what settings this
    /// member decides.
    pub(super) asked: saying::Saying,
    pub(super) found: saying::Saying,
    pub(super) settings: saying::Saying,
    /// The home addresses that it announces.
    pub(super) announced: saying::Saying,
    /// The admission that the shell was told last.
    pub(super) admission: Option<Admission>,
}

impl Own {
    pub(super) fn new(now: Time, entry: OwnEntry) -> Own {
        Own {
            entry,
            ready: false,
            load_permille: 0,
            held: BTreeMap::new(),
            untold: 0,
            untold_news: false,
            sequence: 0,
            due: now,
            last: None,
            told_load: 0,
            told_rtts: BTreeMap::new(),
            told_doubts: BTreeMap::new(),
            doubt_sequence: 0,
            verdicts: Vec::new(),
            client_rtts: None,
            observations_at: now,
            observations_sequence: 0,
            demand: demand::Telling::new(now),
            challenges: challenge::Challenges::new(),
            asked: saying::Saying::new(crate::resolver::ASKED_KIND),
            found: saying::Saying::new(crate::resolver::FOUND_KIND),
            settings: saying::Saying::new(crate::agreement::KIND),
            announced: saying::Saying::new(crate::announce::KIND),
            admission: None,
        }
    }

    /// Whether this member has said that it can serve.
    pub(super) fn ready(&self) -> bool {
        self.ready
    }

    /// An entry is due within `delay`.
    pub(super) fn touch(&mut self, now: Time, delay: Duration) {
        self.due = self.due.min(now + delay);
    }

    pub(super) fn hold(&mut self, now: Time, site: SiteName, version: Option<VersionNumber>) {
        let before = match version {
            Some(version) => self.held.insert(site, version),
            None => self.held.remove(&site),
        };
        if before != version {
            self.touch(now, Duration::ZERO);
        }
    }

    pub(super) fn set_ready(&mut self, now: Time, ready: bool) {
        if std::mem::replace(&mut self.ready, ready) != ready {
            self.touch(now, Duration::ZERO);
        }
    }

    pub(super) fn set_load(&mut self, now: Time, permille: u16) {
        self.load_permille = permille;
        if permille.abs_diff(self.told_load) >= LOAD_STEP {
            self.touch(now, SOON);
        }
    }

    pub(super) fn entry(&self) -> &OwnEntry {
        &self.entry
    }

    pub(super) fn set_entry(&mut self, now: Time, entry: OwnEntry) {
        if self.entry != entry {
            self.entry = entry;
            self.touch(now, Duration::ZERO);
        }
    }

    pub(super) fn set_verdicts(&mut self, now: Time, mut verdicts: Vec<Verdict>) {
        verdicts.sort_by(|a, b| (&a.target, &a.check).cmp(&(&b.target, &b.check)));
        verdicts.dedup_by(|a, b| (&a.target, &a.check) == (&b.target, &b.check));
        verdicts.truncate(VERDICTS_MAX);
        let opinions = |verdicts: &[Verdict]| -> Vec<_> {
            verdicts.iter().map(|v| (v.target, v.check.clone(), v.opinion)).collect()
        };
        let turned = opinions(&self.verdicts) != opinions(&verdicts);
        self.verdicts = verdicts;
        // What else is in a verdict, like how long answers take, can wait for the next entry.
        if turned {
            self.touch(now, Duration::ZERO);
        }
    }

    pub(super) fn set_client_rtts(&mut self, mut rtts: Vec<ClientRtt>) {
        rtts.sort_unstable();
        rtts.dedup_by_key(|rtt| rtt.prefix);
        rtts.truncate(OBSERVATIONS_MAX);
        self.client_rtts = Some(rtts);
    }

    /// A new peer, or a path that became much longer or shorter, is worth an entry.
    pub(super) fn look_at_rtts(&mut self, now: Time, roster: &Roster) {
        let changed = roster.rtts().any(|(peer, rtt)| {
            self.told_rtts.get(&peer).is_none_or(|told| rtt.abs_diff(*told) > (told / 5).max(2000))
        });
        if changed {
            self.touch(now, SOON);
        }
    }

    /// How many sites are held that the last entry had no room for.
    pub(super) fn untold(&self) -> usize {
        self.untold
    }

    /// How many sites are held, when that has become more than can be told.
    pub(super) fn take_truncated(&mut self) -> Option<usize> {
        std::mem::take(&mut self.untold_news).then_some(self.held.len())
    }

    pub(super) fn next_deadline(&self) -> Time {
        let refresh = self.told_doubts.values().map(Told::again).min();
        let observations = self.client_rtts.as_ref().map(|_| self.observations_at);
        let sayings = [&self.asked, &self.found, &self.settings, &self.announced];
        let sayings = sayings.map(saying::Saying::next_deadline);
        let others =
            [refresh, observations, Some(self.demand.next_deadline()), Some(self.challenges.next_deadline())];
        others.into_iter().flatten().chain(sayings).fold(self.due, Time::min)
    }

    /// The records that are due.
    pub(super) fn records(
        &mut self,
        now: Time,
        config: &Config,
        roster: &Roster,
        members: usize,
    ) -> Vec<Record> {
        let mut records = Vec::new();
        let gap_over = self.last.is_none_or(|last| now.since(last) >= config.timing.entry_gap_min);
        if now >= self.due && gap_over {
            records.push(self.roster_entry(now, config, roster, members));
        } else if now >= self.due {
            // Too soon after the last one: as soon as allowed.
            self.due = self.last.map_or(now, |last| last + config.timing.entry_gap_min);
        }
        records.extend(self.observations(now, config));
        records.extend(self.challenges.record(now, config));
        let sayings = [&mut self.asked, &mut self.found, &mut self.settings, &mut self.announced].into_iter();
        records.extend(sayings.filter_map(|saying| saying.record(now, config)));
        records.extend(self.demand.record(now, config, refresh_period(&config.timing, members)));
        records
    }

    fn roster_entry(&mut self, now: Time, config: &Config, roster: &Roster, members: usize) -> Record {
        let refresh = refresh_period(&config.timing, members);
        let held: Vec<_> =
            self.held.iter().take(HELD_MAX).map(|(site, version)| (site.clone(), *version)).collect();
        self.sequence += 1;
        self.last = Some(now);
        self.due = now + refresh;
        self.told_load = self.load_permille;
        self.told_rtts = roster.rtts().collect();
        let own = config.key.public();
        let mut body = RosterEntry {
            serial: config.certificate.grant().serial,
            incarnation: config.incarnation,
            sequence: self.sequence,
            lifetime: config.timing.lifetime.max(refresh * 3).min(crate::spread::LIFETIME_MAX),
            signed_at: now,
            peer_addresses: self.entry.peer_addresses.iter().copied().take(ADDRESSES_MAX).collect(),
            public_v4: self.entry.public_v4,
            public_v6: self.entry.public_v6,
            http_port: self.entry.http_port,
            ready: self.ready,
            load_permille: self.load_permille,
            held,
            peer_rtts: roster.rtts().take(PEER_RTTS_MAX).collect(),
            software: cut(&self.entry.software, SOFTWARE_LEN_MAX),
            checks: checks(&self.entry.checks),
            // Nobody vouches for itself, and nobody listens to one that does.
            verdicts: self.verdicts.iter().filter(|verdict| verdict.target != own).cloned().collect(),
        };
        fit(&mut body);
        let untold = self.held.len() - body.held.len();
        self.untold_news |= untold > 0 && self.untold == 0;
        self.untold = untold;
        Record::Roster(Box::new(Signed::new(&config.key, body)))
    }

    /// New doubts, those to be told again, and those taken back.
    pub(super) fn doubts(
        &mut self,
        now: Time,
        config: &Config,
        roster: &Roster,
        mind_changed: bool,
    ) -> Vec<Record> {
        let again = self.told_doubts.values().any(|told| told.again() <= now);
        if !mind_changed && !again {
            return Vec::new();
        }
        let current: BTreeMap<MemberId, u64> = roster.own_doubts().collect();
        let mut said: Vec<(MemberId, u64, bool)> = Vec::new();
        for (of, incarnation) in &current {
            let told = self.told_doubts.get(of);
            if told.is_none_or(|told| told.incarnation != *incarnation || told.again() <= now) {
                said.push((*of, *incarnation, true));
            }
        }
        for (of, told) in &self.told_doubts {
            if !current.contains_key(of) {
                said.push((*of, told.incarnation, false));
            }
        }
        let mut records = Vec::new();
        for (of, incarnation, unreachable) in said {
            if unreachable {
                let first = self.told_doubts.get(&of).map_or(now, |told| told.first);
                self.told_doubts.insert(of, Told { incarnation, first, last: now });
            } else {
                self.told_doubts.remove(&of);
            }
            // Larger than anything said before a restart, as long as the clock went on.
            self.doubt_sequence = now.as_millis().max(self.doubt_sequence + 1);
            let sequence = self.doubt_sequence;
            let body = Suspicion { of, incarnation, unreachable, sequence, lifetime: DOUBT_LIFETIME };
            records.push(Record::Suspicion(Signed::new(&config.key, body)));
        }
        records
    }

    fn observations(&mut self, now: Time, config: &Config) -> Option<Record> {
        if now < self.observations_at {
            return None;
        }
        let rtts = self.client_rtts.take()?;
        self.observations_at = now + config.timing.observations_period;
        self.observations_sequence += 1;
        let body = Observations {
            incarnation: config.incarnation,
            sequence: self.observations_sequence,
            lifetime: OBSERVATIONS_LIFETIME,
            rtts,
        };
        Some(Record::Observations(Box::new(Signed::new(&config.key, body))))
    }
}

/// Leaves out of an entry what a record has no room for: nobody takes one that is too long, and who
/// is not heard of is out of the map with all its sites. Round-trip times are missed least.
fn fit(body: &mut RosterEntry) {
    let mut len = wire::encode(body).len();
    while len > ENTRY_LEN_MAX {
        let dropped = match (body.peer_rtts.len() > PEER_RTTS_KEPT, body.held.is_empty()) {
            (true, _) => body.peer_rtts.pop().map(|rtt| wire::encode(&rtt).len()),
            (false, false) => body.held.pop().map(|held| wire::encode(&held).len()),
            (false, true) => body.verdicts.pop().map(|verdict| wire::encode(&verdict).len()),
        };
        let Some(dropped) = dropped else { return };
        len -= dropped;
    }
}

/// The checks that others accept: each name once, sorted, within bounds.
fn checks(checks: &[Check]) -> Vec<Check> {
    let mut checks: Vec<Check> = checks.iter().filter(|check| check.validate().is_ok()).cloned().collect();
    checks.sort_by(|a, b| a.name.cmp(&b.name));
    checks.dedup_by(|a, b| a.name == b.name);
    checks.truncate(CHECKS_MAX);
    checks
}

/// The longest beginning of `text` with at most `len_max` bytes.
fn cut(text: &str, len_max: usize) -> String {
    let end = text.char_indices().map(|(at, c)| at + c.len_utf8()).take_while(|end| *end <= len_max).last();
    text[..end.unwrap_or(0)].to_owned()
}

/// How often an entry is refreshed: the larger the network, the less often, so that what everyone
/// hears does not grow with it. Never so seldom that the longest lifetime has not three of them.
fn refresh_period(timing: &Timing, members: usize) -> Duration {
    let share = timing.refresh_share.saturating_mul(members.try_into().unwrap_or(u32::MAX));
    timing.refresh_period.max(share).min(crate::spread::LIFETIME_MAX / 3)
}
