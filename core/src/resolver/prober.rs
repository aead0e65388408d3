//! Decides which resolver is measured when, and how.
//!
//! # Calling contract
//!
//! Tell it by [`Prober::handle`] whom to measure, what became of a probe, and that time has passed;
//! then make each probe that [`Prober::poll_output`] gives, and call again at
//! [`Prober::next_deadline`]. Late, repeated and missing calls break no promise.
//!
//! # Promises to those who are measured
//!
//! Whatever is fed in, whoever joins and leaves the list:
//!
//! - no two probes are made within [`Pace::gap`], and none of one prefix within [`Pace::again`]. Who
//!   left the list is remembered until then, and while there is no room to remember more, nobody new
//!   is measured;
//! - who does not answer is asked the other way the next time, and then half as often each time, for
//!   as long as it is on the list;
//! - nobody is measured that is not on the last list;
//! - when many are due, who has waited longest is first, so that all have their turn.

use super::{FOUND_MAX, Pace, prefix_of};
use crate::observation::{Age, ClientRtt, SAMPLES_MAX};
use crate::random::Random;
use crate::time::Time;
use ipnet::IpNet;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::IpAddr;
use std::time::Duration;

/// At most so many prefixes are remembered: those on the list, and those that rest.
const KNOWN_MAX: usize = 4 * FOUND_MAX;
/// After so long without an answer, those before it say nothing about now.
const PAUSE_MAX: Duration = Duration::from_secs(2 * 3600);
/// A change by less than this share of what was told, as a divisor, or by less than this, µs, is none.
const STEP: u32 = 10;
const STEP_MIN_US: u32 = 1_000;

/// How a resolver is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Method {
    /// One ICMP echo request.
    Echo,
    /// One TCP connection to port 53, closed at once. A refusal tells the time as well.
    Connect,
}

/// What became of a probe.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// An answer came after so long.
    Took(Duration),
    /// None came.
    Silent,
    /// This host cannot make such probes at all; nothing was sent.
    Unable,
}

/// What happened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Input {
    /// These are to be measured from now on, and no others; of each prefix one, at most
    /// [`FOUND_MAX`] of them.
    Targets(Vec<IpAddr>),
    /// A probe has ended.
    Done {
        /// Which.
        probe: Probe,
        /// How.
        outcome: Outcome,
    },
    /// The deadline has passed.
    Timer,
}

/// A probe to be made now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Probe {
    /// Of whom.
    pub address: IpAddr,
    /// How.
    pub method: Method,
}

/// The machine. See the module for how to call it.
pub struct Prober {
    pace: Pace,
    random: Random,
    known: BTreeMap<IpNet, Known>,
    /// Those on the list, by when they are due.
    due: BTreeSet<(Time, IpNet)>,
    /// When the next probe may be made at all.
    free_at: Time,
    /// Whether this host can send echo requests.
    echo: bool,
    output: VecDeque<Probe>,
}

struct Known {
    address: IpAddr,
    wanted: bool,
    /// Before this it is left in peace.
    next: Time,
    /// The last probe, when it was made, and whether it has not ended yet.
    last: Option<Time>,
    under_way: Option<Method>,
    /// Probes in a row without an answer.
    silent: u32,
    method: Method,
    /// The last samples, µs; the oldest is overwritten first.
    samples: [u32; SAMPLES_MAX as usize],
    /// How many there have been since the last pause.
    count: usize,
    /// When the last was.
    at: Time,
    /// What is told of them, µs.
    told_us: u32,
}

impl Prober {
    /// Measures nobody yet. `seed` spreads probes; draw it anew at each start, so that members that
    /// hear of a resolver at the same moment do not measure it at the same moment.
    pub fn new(pace: Pace, seed: u64) -> Prober {
        Prober {
            pace,
            random: Random::new(seed),
            known: BTreeMap::new(),
            due: BTreeSet::new(),
            free_at: Time::default(),
            echo: true,
            output: VecDeque::new(),
        }
    }

    /// Takes note of what happened.
    pub fn handle(&mut self, now: Time, input: Input) {
        match input {
            Input::Targets(addresses) => self.set_targets(now, &addresses),
            Input::Done { probe, outcome } => self.ended(now, probe, outcome),
            Input::Timer => {}
        }
        self.begin(now);
    }

    /// The next probe to make.
    pub fn poll_output(&mut self) -> Option<Probe> {
        self.output.pop_front()
    }

    /// When to feed [`Input::Timer`] at the latest; `None` when nobody is to be measured.
    pub fn next_deadline(&self) -> Option<Time> {
        self.due.first().map(|(next, _)| (*next).max(self.free_at))
    }

    /// How many are on the list.
    pub fn watched(&self) -> usize {
        self.due.len()
    }

    /// How many of these did not answer the last time.
    pub fn silent(&self) -> usize {
        self.known.values().filter(|known| known.wanted && known.silent > 0).count()
    }

    /// What was found, of each prefix about the first quartile of the last answers: sorted, at most
    /// [`FOUND_MAX`], those on the list first.
    pub fn found(&self, now: Time) -> Vec<ClientRtt> {
        let told = |wanted: bool| {
            let known = self.known.iter().filter(move |(_, known)| known.wanted == wanted);
            known.filter_map(|(prefix, known)| known.told(now, *prefix))
        };
        let mut found: Vec<ClientRtt> = told(true).chain(told(false)).take(FOUND_MAX).collect();
        found.sort_unstable();
        found
    }

    fn set_targets(&mut self, now: Time, addresses: &[IpAddr]) {
        self.known.values_mut().for_each(|known| known.wanted = false);
        self.due.clear();
        let mut fresh = Vec::new();
        for address in addresses.iter().take(FOUND_MAX) {
            let prefix = prefix_of(*address);
            match self.known.get_mut(&prefix) {
                Some(known) if !known.wanted => {
                    (known.wanted, known.address) = (true, *address);
                    self.due.insert((known.next, prefix));
                }
                Some(_) => {}
                None => fresh.push((prefix, *address)),
            }
        }
        let resting = |known: &Known| known.wanted || known.next > now || known.age(now).is_some();
        self.known.retain(|_, known| resting(known));
        self.make_room(now, fresh.len());
        // In an order of this host's own, one after the other.
        let span = self.pace.gap.saturating_mul(fresh.len() as u32).min(self.pace.again);
        for (prefix, address) in fresh {
            if self.known.len() >= KNOWN_MAX {
                break;
            }
            let next = now + self.up_to(span);
            // Two addresses of one prefix: the first counts.
            if let std::collections::btree_map::Entry::Vacant(entry) = self.known.entry(prefix) {
                entry.insert(Known::new(address, next));
                self.due.insert((next, prefix));
            }
        }
    }

    /// Forgets those longest out of use that may be measured again anyway.
    fn make_room(&mut self, now: Time, wanted: usize) {
        let excess = (self.known.len() + wanted).saturating_sub(KNOWN_MAX);
        if excess == 0 {
            return;
        }
        let again = self.pace.again;
        let free = |known: &Known| !known.wanted && known.last.is_none_or(|last| last + again <= now);
        let mut gone: Vec<(Option<Time>, IpNet)> = self
            .known
            .iter()
            .filter(|(_, known)| free(known))
            .map(|(prefix, known)| (known.last, *prefix))
            .collect();
        gone.sort_unstable();
        for (_, prefix) in gone.into_iter().take(excess) {
            self.known.remove(&prefix);
        }
    }

    fn begin(&mut self, now: Time) {
        let Some((next, prefix)) = self.due.first().copied() else { return };
        if next.max(self.free_at) > now {
            return;
        }
        self.due.pop_first();
        self.free_at = now + self.pace.gap + self.up_to(self.pace.gap / 8);
        let rest = self.rest(0);
        let Some(known) = self.known.get_mut(&prefix) else { return };
        let method = if self.echo { known.method } else { Method::Connect };
        known.last = Some(now);
        known.under_way = Some(method);
        known.next = now + rest;
        self.due.insert((known.next, prefix));
        self.output.push_back(Probe { address: known.address, method });
    }

    fn ended(&mut self, now: Time, probe: Probe, outcome: Outcome) {
        let prefix = prefix_of(probe.address);
        let Some(known) = self.known.get_mut(&prefix) else { return };
        if known.address != probe.address || known.under_way != Some(probe.method) {
            return;
        }
        known.under_way = None;
        match outcome {
            Outcome::Took(rtt) => {
                known.silent = 0;
                // The way that works is kept.
                known.method = probe.method;
                known.take(now, u32::try_from(rtt.as_micros()).unwrap_or(u32::MAX).max(1));
            }
            Outcome::Unable if probe.method == Method::Echo => {
                // It was not measured: the other way, at its turn as if it never had been.
                self.echo = false;
                self.put_off(prefix, now);
            }
            Outcome::Silent | Outcome::Unable => {
                known.silent = known.silent.saturating_add(1);
                known.method = match probe.method {
                    Method::Echo => Method::Connect,
                    Method::Connect => Method::Echo,
                };
                let (last, silent) = (known.last.unwrap_or(now), known.silent);
                let next = last + self.rest(silent);
                self.put_off(prefix, next);
            }
        }
    }

    fn put_off(&mut self, prefix: IpNet, next: Time) {
        let Some(known) = self.known.get_mut(&prefix) else { return };
        if self.due.remove(&(known.next, prefix)) {
            self.due.insert((next, prefix));
        }
        known.next = next;
    }

    /// A pause after so many silent probes; drawn longer, never shorter.
    fn rest(&mut self, silent: u32) -> Duration {
        let pause = self.pace.pause(silent);
        pause + self.up_to(pause / 10)
    }

    fn up_to(&mut self, span: Duration) -> Duration {
        let millis = usize::try_from(span.as_millis()).unwrap_or(usize::MAX - 1);
        Duration::from_millis(self.random.below(millis + 1) as u64)
    }
}

impl Known {
    fn new(address: IpAddr, next: Time) -> Known {
        Known {
            address,
            wanted: true,
            next,
            last: None,
            under_way: None,
            silent: 0,
            method: Method::Echo,
            samples: [0; SAMPLES_MAX as usize],
            count: 0,
            at: Time::default(),
            told_us: 0,
        }
    }

    fn take(&mut self, now: Time, micros: u32) {
        if now.since(self.at) > PAUSE_MAX {
            self.count = 0;
        }
        self.samples[self.count % self.samples.len()] = micros;
        self.count += 1;
        self.at = now;
        let quartile = self.quartile();
        // Nobody who is served steadies the choice for a resolver: so what is told of it rests.
        if self.count == 1 || quartile.abs_diff(self.told_us) > (self.told_us / STEP).max(STEP_MIN_US) {
            self.told_us = quartile;
        }
    }

    /// The first quartile of the samples: queues make times longer and nothing makes them shorter.
    fn quartile(&self) -> u32 {
        let mut samples = self.samples;
        let samples = &mut samples[..self.count.min(self.samples.len())];
        samples.sort_unstable();
        samples.len().checked_sub(1).and_then(|last| samples.get(last / 4)).copied().unwrap_or(0)
    }

    fn age(&self, now: Time) -> Option<Age> {
        if self.count == 0 { None } else { Age::of(now.since(self.at)) }
    }

    fn told(&self, now: Time, prefix: IpNet) -> Option<ClientRtt> {
        let samples = self.count.min(self.samples.len()) as u8;
        Some(ClientRtt { samples, age: self.age(now)?, ..ClientRtt::new(prefix, self.told_us) })
    }
}

#[cfg(test)]
mod tests;
