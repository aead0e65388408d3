//! Vantages, services and liars, on a virtual clock.
//!
//! Every host runs a [`Checker`] over links with delay and loss, tells its verdicts to every other
//! host over the same links, and derives what holds by its own [`Judge`]. What is measured is what
//! a redirector on each host would go by. The overlay itself is not run here ([`crate::world`] does
//! that): a verdict that is lost is told again, as reconciliation would.

use crate::link::{LinkModel, Profile, Verdict as Fate};
use crate::world::START;
use godwit_core::health::{
    Agreed, Check, Checker, Failure, Input, Judge, Opinion, Output, Pace, Probe, Target, Verdict, Witness,
};
use godwit_core::key::{MemberId, SecretKey};
use godwit_core::name::RegionName;
use godwit_core::time::Time;
use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

/// A packet that gets no acknowledgement is sent again after this and a round trip (RFC 6298 with a
/// minimum of 200 ms; the first one of a connection after 1 s).
const RETRANSMIT: Duration = Duration::from_millis(200);
const RETRANSMIT_FIRST: Duration = Duration::from_secs(1);

/// What was lost on the way to a member comes by reconciliation.
const RECONCILE: Duration = Duration::from_secs(2);

/// How long the others go on taking a host that is cut off for one in reach.
const ROSTER_DELAY: Duration = Duration::from_secs(2);

/// What a service does when it is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Service {
    /// It answers.
    Works,
    /// It takes connections and is silent.
    Hangs,
    /// It refuses connections.
    Refuses,
    /// It hangs in every other of these spans.
    Flaps(Duration),
}

/// How a vantage tells what it finds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Honesty {
    /// As it is.
    Honest,
    /// The opposite.
    Contrary,
    /// That this one is down, and all others as they are.
    Slanders(usize),
}

enum Happening {
    Wake { host: usize, at: Time },
    Ended { host: usize, target: Target, attempt: u64, outcome: Result<Duration, Failure> },
    Hear { host: usize, from: usize, number: u64 },
}

struct Host {
    id: MemberId,
    region: RegionName,
    service: Service,
    honesty: Honesty,
    checker: Checker,
    targets: BTreeSet<MemberId>,
    /// What it has told, and how often.
    told: (u64, Vec<Verdict>),
    /// What it has heard of each other one.
    heard: BTreeMap<usize, (u64, Vec<Verdict>)>,
    judge: Judge,
    states: BTreeMap<usize, Agreed>,
}

/// A change of what a host holds of another's service.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Turn {
    /// When, since the start.
    pub at: Duration,
    /// Who holds it.
    pub by: usize,
    /// Whose service.
    pub of: usize,
    /// What holds now.
    pub to: Agreed,
}

/// Hosts that check each other.
pub struct Clinic {
    now: Duration,
    rng: ChaCha8Rng,
    pace: Pace,
    hosts: Vec<Host>,
    links: BTreeMap<(usize, usize), LinkModel>,
    cut_since: BTreeMap<usize, Duration>,
    queue: BTreeMap<(Duration, u64), Happening>,
    happenings: u64,
    turns: Vec<Turn>,
    probes: u64,
}

impl Clinic {
    /// `count` hosts in `regions` regions, all of whose services work.
    pub fn new(seed: u64, profile: Profile, count: usize, regions: usize, pace: Pace) -> Clinic {
        let host = |index: usize| {
            let mut key = [7; 32];
            key[..8].copy_from_slice(&(index as u64 ^ seed << 32).to_le_bytes());
            Host {
                id: SecretKey::from_seed(&key).public(),
                region: format!("r{}", index % regions).parse().expect("a label"),
                service: Service::Works,
                honesty: Honesty::Honest,
                checker: Checker::new(seed.wrapping_mul(1_000_003) ^ index as u64),
                targets: BTreeSet::new(),
                told: (0, Vec::new()),
                heard: BTreeMap::new(),
                judge: Judge::default(),
                states: BTreeMap::new(),
            }
        };
        let pairs = (0..count).flat_map(|a| (0..count).map(move |b| (a, b)));
        let mut clinic = Clinic {
            now: Duration::ZERO,
            rng: ChaCha8Rng::seed_from_u64(seed),
            pace,
            hosts: (0..count).map(host).collect(),
            links: pairs.map(|pair| (pair, LinkModel::new(profile))).collect(),
            cut_since: BTreeMap::new(),
            queue: BTreeMap::new(),
            happenings: 0,
            turns: Vec::new(),
            probes: 0,
        };
        (0..count).for_each(|host| clinic.review(host));
        clinic
    }

    /// Changes what a service does.
    pub fn set_service(&mut self, host: usize, service: Service) {
        self.hosts[host].service = service;
    }

    /// Changes how a vantage tells what it finds.
    pub fn set_honesty(&mut self, host: usize, honesty: Honesty) {
        self.hosts[host].honesty = honesty;
    }

    /// Cuts a host off from all others, or heals that.
    pub fn set_cut(&mut self, host: usize, cut: bool) {
        self.cut_pairs(cut, |a, b| a == host || b == host);
        match cut {
            true => self.cut_since.insert(host, self.now),
            false => self.cut_since.remove(&host),
        };
    }

    /// Cuts the paths between two hosts, and no others.
    pub fn set_path_cut(&mut self, a: usize, b: usize, cut: bool) {
        self.cut_pairs(cut, |x, y| (x, y) == (a, b) || (x, y) == (b, a));
    }

    /// Who checks a host, as `by` has it.
    pub fn vantages(&self, by: usize, of: usize) -> Vec<usize> {
        let chosen = self.hosts[by].judge.vantages(&self.hosts[of].id);
        chosen.iter().filter_map(|id| self.hosts.iter().position(|host| host.id == *id)).collect()
    }

    /// What `by` holds of the service of `of`.
    pub fn state(&self, by: usize, of: usize) -> Agreed {
        self.hosts[by].states.get(&of).copied().unwrap_or_default()
    }

    /// Every change so far.
    pub fn turns(&self) -> &[Turn] {
        &self.turns
    }

    /// How many probes were made so far.
    pub fn probes(&self) -> u64 {
        self.probes
    }

    /// The virtual time since the start.
    pub fn elapsed(&self) -> Duration {
        self.now
    }

    /// Lets the time pass.
    pub fn run_for(&mut self, duration: Duration) {
        let end = self.now + duration;
        while let Some(entry) = self.queue.first_entry().filter(|entry| entry.key().0 <= end) {
            let ((at, _), happening) = entry.remove_entry();
            self.now = self.now.max(at);
            self.happen(happening);
        }
        self.now = end;
    }

    fn cut_pairs(&mut self, cut: bool, which: impl Fn(usize, usize) -> bool) {
        let links = self.links.iter_mut().filter(|((a, b), _)| a != b && which(*a, *b));
        links.for_each(|(_, link)| link.set_cut(cut));
    }

    fn happen(&mut self, happening: Happening) {
        match happening {
            Happening::Wake { host, at } => {
                if self.hosts[host].checker.next_deadline() == Some(at) {
                    self.feed(host, Input::Timer);
                }
            }
            Happening::Ended { host, target, attempt, outcome } => {
                self.feed(host, Input::Done { target, attempt, outcome });
                self.tell(host);
            }
            Happening::Hear { host, from, number } => self.hear(host, from, number),
        }
        if self.happenings.is_multiple_of(16) {
            // Members judge who can be reached all the time; here often enough.
            (0..self.hosts.len()).for_each(|host| self.review(host));
        }
    }

    fn feed(&mut self, host: usize, input: Input) {
        let now = START + self.now;
        self.hosts[host].checker.handle(now, input);
        while let Some(output) = self.hosts[host].checker.poll_output() {
            let Output::Probe { target, attempt, check } = output else { continue };
            let Some(of) = self.hosts.iter().position(|host| host.id == target.member) else { continue };
            self.probes += 1;
            let (took, outcome) = self.probe(host, of, check.pace.timeout);
            self.schedule(self.now + took, Happening::Ended { host, target, attempt, outcome });
        }
        if let Some(at) = self.hosts[host].checker.next_deadline() {
            self.schedule(self.now + at.since(now), Happening::Wake { host, at });
        }
    }

    /// A connection, a request and an answer: how long that takes, and how it ends.
    fn probe(&mut self, from: usize, to: usize, timeout: Duration) -> (Duration, Result<Duration, Failure>) {
        let late = |took| if took >= timeout { Err((timeout, Err(Failure::Timeout))) } else { Ok(took) };
        let mut run = || -> Result<Duration, (Duration, Result<Duration, Failure>)> {
            let connected = late(self.round_trip(from, to, timeout, RETRANSMIT_FIRST))?;
            let service = self.hosts[to].service;
            let hangs = match service {
                Service::Works => false,
                Service::Hangs => true,
                Service::Refuses => return Err((connected, Err(Failure::Refused))),
                Service::Flaps(span) => (self.now.as_millis() / span.as_millis().max(1)) % 2 == 1,
            };
            let answered = connected + self.round_trip(from, to, timeout, RETRANSMIT);
            late(if hangs { timeout } else { answered })
        };
        match run() {
            Ok(took) => (took, Ok(took)),
            Err(ended) => ended,
        }
    }

    /// How long one packet there and one back take, with what is lost sent again.
    fn round_trip(&mut self, from: usize, to: usize, limit: Duration, retransmit: Duration) -> Duration {
        let mut took = Duration::ZERO;
        let mut wait = retransmit;
        while took < limit {
            let there = self.packet(from, to);
            let back = self.packet(to, from);
            if let (Some(there), Some(back)) = (there, back) {
                return took + there + back;
            }
            took += wait;
            wait *= 2;
        }
        limit
    }

    fn packet(&mut self, from: usize, to: usize) -> Option<Duration> {
        let link = self.links.get_mut(&(from, to)).expect("every pair has a link");
        match link.admit(self.now, 200, &mut self.rng) {
            Fate::Deliver(at) => Some(at.saturating_sub(self.now)),
            Fate::Drop(_) => None,
        }
    }

    /// Tells the others what has changed.
    fn tell(&mut self, from: usize) {
        let honesty = self.hosts[from].honesty;
        let mut verdicts = self.hosts[from].checker.verdicts();
        let slandered = match honesty {
            Honesty::Slanders(whom) => Some(self.hosts[whom].id),
            Honesty::Honest | Honesty::Contrary => None,
        };
        for verdict in &mut verdicts {
            let contrary = match verdict.opinion {
                Opinion::Up => Opinion::Down,
                Opinion::Down | Opinion::Unknown => Opinion::Up,
            };
            if honesty == Honesty::Contrary {
                verdict.opinion = contrary;
            } else if slandered == Some(verdict.target) {
                verdict.opinion = Opinion::Down;
            }
        }
        let opinions =
            |verdicts: &[Verdict]| verdicts.iter().map(|v| (v.target, v.opinion)).collect::<Vec<_>>();
        if opinions(&verdicts) == opinions(&self.hosts[from].told.1) {
            return;
        }
        let number = self.hosts[from].told.0 + 1;
        self.hosts[from].told = (number, verdicts);
        for host in 0..self.hosts.len() {
            self.send(from, host, number);
        }
    }

    fn send(&mut self, from: usize, host: usize, number: u64) {
        let after = if from == host { Some(Duration::ZERO) } else { self.packet(from, host) };
        let (after, number) = match after {
            Some(after) => (after, number),
            // Tried again later: 0 stands for whatever is told by then.
            None => (RECONCILE, 0),
        };
        self.schedule(self.now + after, Happening::Hear { host, from, number });
    }

    fn hear(&mut self, host: usize, from: usize, number: u64) {
        let told = self.hosts[from].told.clone();
        if number == 0 {
            return self.send(from, host, told.0);
        }
        // What was told since arrives by its own message.
        let heard = self.hosts[host].heard.entry(from).or_default();
        if number > heard.0 && number == told.0 {
            *heard = told;
        }
        self.review(host);
    }

    /// What a host makes of what it has heard: what holds, and whom it checks itself.
    fn review(&mut self, by: usize) {
        let name = "site".parse().expect("a label");
        let check = Check { name, probe: Probe::Site, pace: self.pace, sites: Vec::new() };
        let checks = [check];
        let gone =
            |host: usize| self.cut_since.get(&host).is_some_and(|since| self.now - *since >= ROSTER_DELAY);
        let this = &self.hosts[by];
        let witnesses: Vec<Witness<'_>> = self
            .hosts
            .iter()
            .enumerate()
            .map(|(index, host)| Witness {
                id: host.id,
                region: &host.region,
                reached: index == by || !gone(by) && !gone(index),
                checks: &checks,
                verdicts: this.heard.get(&index).map_or(&[], |(_, verdicts)| verdicts),
            })
            .collect();
        let mut judge = this.judge.clone();
        let judgement = judge.judge(&witnesses);
        let there = |index: &usize| *index != by && !gone(by) && !gone(*index);
        let chosen = (0..self.hosts.len()).filter(there).map(|index| self.hosts[index].id);
        let own = this.id;
        let targets: BTreeSet<MemberId> = chosen.filter(|id| judge.vantages(id).contains(&own)).collect();
        let index_of = |id: &MemberId| self.hosts.iter().position(|host| host.id == *id);
        for (target, _, to) in &judgement.turned {
            let Some(of) = index_of(&target.member) else { continue };
            self.turns.push(Turn { at: self.now, by, of, to: *to });
        }
        let states = judgement
            .agreements
            .iter()
            .filter_map(|(target, agreement)| Some((index_of(&target.member)?, agreement.state)))
            .collect();
        self.hosts[by].judge = judge;
        self.hosts[by].states = states;
        if targets != self.hosts[by].targets {
            let [check] = checks;
            let input = targets.iter().map(|id| (*id, check.clone())).collect();
            self.hosts[by].targets = targets;
            self.feed(by, Input::Targets(input));
        }
    }

    fn schedule(&mut self, at: Duration, happening: Happening) {
        self.happenings += 1;
        self.queue.insert((at, self.happenings), happening);
    }
}
