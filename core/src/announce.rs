//! Which home addresses a home agent draws traffic for, and when it stops.
//!
//! Home agents that share an address announce it to the routers around them, each for itself, and
//! tell each other what they announce and whether they could serve it ([`KIND`]). An announcement
//! that goes and comes breaks every flow of every client that the routers move, so three things damp
//! it:
//!
//! 1. A home agent that starts announces nothing before it knows the nodes: after one refresh
//!    interval, or when all that the roster has have registered ([`Input::Settled`]).
//! 2. It withdraws an address only after it could not serve it for [`HOLD`], and only while another
//!    home agent in reach announces it and says that it can serve it. *The last one never withdraws on
//!    its own health alone*: a health check that is wrong everywhere at once must not switch a service
//!    off, and packets that arrive are at least answered.
//! 3. Each withdrawal doubles the time that must go well before the next announcement, up to
//!    [`RISE_MAX`].
//!
//! What the authority takes back, and what a home agent that stops announces, is withdrawn at once.

use crate::binding::HomeAddress;
use crate::time::Time;
use crate::wire;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

/// The kind of statement.
pub const KIND: u16 = 8;
/// The version of the form.
const VERSION: u8 = 1;
/// At most so many addresses are told of: what a network may have, two for each name.
const TOLD_MAX: usize = 1024;

/// An address that could not be served for so long is withdrawn. Statements of others are at most
/// half of that old, so that two that fail together do not both withdraw, each trusting the other.
pub const HOLD: Duration = Duration::from_secs(15);
/// One that can be served for so long is announced.
pub const RISE: Duration = Duration::from_secs(2);
/// The longest time that must go well after many withdrawals.
pub const RISE_MAX: Duration = Duration::from_secs(256);
/// After so long without a withdrawal the earlier ones are forgotten.
const FORGIVE: Duration = Duration::from_secs(600);

/// What one home agent says of one address that it announces.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Announcement {
    /// Which.
    pub home: HomeAddress,
    /// Whether it could serve it: a node is bound to it, and the tunnel works.
    pub well: bool,
}

/// The form that is signed and sent.
pub fn encode(announced: &[Announcement]) -> Vec<u8> {
    let mut announced = announced.to_vec();
    announced.sort_unstable();
    announced.dedup_by_key(|one| one.home);
    announced.truncate(TOLD_MAX);
    let mut bytes = vec![VERSION];
    bytes.extend(wire::encode(&announced));
    bytes
}

/// Reads what [`encode`] of this or a later version wrote; `None` for anything else.
pub fn decode(bytes: &[u8]) -> Option<Vec<Announcement>> {
    let (version, fields) = bytes.split_first()?;
    let announced: Vec<Announcement> = wire::decode_start(fields, wire::RECORD_LEN_MAX).ok()?;
    let holds =
        *version >= VERSION && announced.len() <= TOLD_MAX && announced.is_sorted_by(|a, b| a.home < b.home);
    holds.then_some(announced)
}

/// What happened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Input {
    /// These home addresses there are.
    Granted(BTreeSet<HomeAddress>),
    /// These could be served from here now.
    Well(BTreeSet<HomeAddress>),
    /// These are announced by another home agent in reach that could serve them.
    Elsewhere(BTreeSet<HomeAddress>),
    /// All nodes that are known have registered: there is nothing to wait for.
    Settled,
    /// This home agent stops.
    Leave,
    /// The deadline has passed.
    Timer,
}

/// What to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Output {
    /// Draw traffic for it.
    Announce(HomeAddress),
    /// Draw no more.
    Withdraw(HomeAddress),
    /// Tell the other home agents.
    Tell(Vec<Announcement>),
}

/// One address.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
struct Line {
    announced: bool,
    well: bool,
    /// Since when it is well, or not.
    since: Time,
    /// How often it was withdrawn lately, and when last.
    withdrawn: u32,
    last: Time,
}

/// The machine: feed it, drain it, and feed [`Input::Timer`] at [`Announcer::next_deadline`]. What one
/// process has written down of it another one on the same host may go on with, at the same clock: it tells
/// the others again what is announced.
#[derive(Debug, Serialize, Deserialize)]
pub struct Announcer {
    settled_at: Time,
    lines: BTreeMap<HomeAddress, Line>,
    elsewhere: BTreeSet<HomeAddress>,
    leaving: bool,
    #[serde(skip)]
    told: Vec<Announcement>,
    #[serde(skip)]
    outputs: VecDeque<Output>,
}

impl Announcer {
    /// One that announces nothing before `settled_at`, unless it settles earlier.
    pub fn new(settled_at: Time) -> Announcer {
        Announcer {
            settled_at,
            lines: BTreeMap::new(),
            elsewhere: BTreeSet::new(),
            leaving: false,
            told: Vec::new(),
            outputs: VecDeque::new(),
        }
    }

    /// Takes note of what happened.
    pub fn handle(&mut self, now: Time, input: Input) {
        match input {
            Input::Granted(homes) => self.granted(now, &homes),
            Input::Well(well) => {
                for (home, line) in &mut self.lines {
                    if line.well != well.contains(home) {
                        (line.well, line.since) = (!line.well, now);
                    }
                }
            }
            Input::Elsewhere(homes) => self.elsewhere = homes,
            Input::Settled => self.settled_at = self.settled_at.min(now),
            Input::Leave => self.leaving = true,
            Input::Timer => {}
        }
        self.pass_time(now);
        self.tell();
    }

    /// The next thing to do.
    pub fn poll_output(&mut self) -> Option<Output> {
        self.outputs.pop_front()
    }

    /// When to feed [`Input::Timer`] at the latest.
    pub fn next_deadline(&self) -> Option<Time> {
        let due = self.lines.iter().filter_map(|(home, line)| self.due(*home, line));
        due.min()
    }

    /// What is announced now.
    pub fn announced(&self) -> impl Iterator<Item = HomeAddress> {
        self.lines.iter().filter(|(_, line)| line.announced).map(|(home, _)| *home)
    }

    fn granted(&mut self, now: Time, homes: &BTreeSet<HomeAddress>) {
        let gone: Vec<HomeAddress> =
            self.lines.keys().filter(|home| !homes.contains(home)).copied().collect();
        for home in gone {
            if self.lines.remove(&home).is_some_and(|line| line.announced) {
                self.outputs.push_back(Output::Withdraw(home));
            }
        }
        for home in homes {
            let line =
                Line { announced: false, well: false, since: now, withdrawn: 0, last: Time::default() };
            self.lines.entry(*home).or_insert(line);
        }
    }

    /// When something is to be done about an address; `None` while nothing is.
    fn due(&self, home: HomeAddress, line: &Line) -> Option<Time> {
        match (line.announced, line.well) {
            (true, _) if self.leaving => Some(Time::default()),
            (false, true) if !self.leaving => {
                let rise = (RISE * (1 << line.withdrawn.min(8))).min(RISE_MAX);
                Some(self.settled_at.max(line.since + rise))
            }
            (true, false) if self.elsewhere.contains(&home) => Some(line.since + HOLD),
            _ => None,
        }
    }

    fn pass_time(&mut self, now: Time) {
        let due: Vec<HomeAddress> = self
            .lines
            .iter()
            .filter(|(home, line)| self.due(**home, line).is_some_and(|due| due <= now))
            .map(|(home, _)| *home)
            .collect();
        for home in due {
            let Some(line) = self.lines.get_mut(&home) else { continue };
            line.announced = !line.announced;
            if line.announced {
                self.outputs.push_back(Output::Announce(home));
                continue;
            }
            line.withdrawn = if now.since(line.last) >= FORGIVE { 1 } else { line.withdrawn + 1 };
            line.last = now;
            self.outputs.push_back(Output::Withdraw(home));
        }
    }

    fn tell(&mut self) {
        let announced = self.lines.iter().filter(|(_, line)| line.announced);
        let told: Vec<Announcement> =
            announced.map(|(home, line)| Announcement { home: *home, well: line.well }).collect();
        if told != self.told {
            self.told.clone_from(&told);
            self.outputs.push_back(Output::Tell(told));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn home(n: u8) -> HomeAddress {
        HomeAddress([192, 0, 2, n].into())
    }

    fn set(homes: &[u8]) -> BTreeSet<HomeAddress> {
        homes.iter().map(|n| home(*n)).collect()
    }

    /// One home agent, its clock, and what it announces.
    struct Run {
        machine: Announcer,
        now: Time,
        changes: Vec<(u64, Output)>,
    }

    impl Run {
        fn new() -> Run {
            let mut run = Run {
                machine: Announcer::new(Time::from_secs(10)),
                now: Time::default(),
                changes: Vec::new(),
            };
            run.feed(Input::Granted(set(&[1, 2])));
            run
        }

        fn feed(&mut self, input: Input) {
            self.machine.handle(self.now, input);
            while let Some(output) = self.machine.poll_output() {
                if !matches!(output, Output::Tell(_)) {
                    self.changes.push((self.now.as_secs(), output));
                }
            }
        }

        /// Wakes the machine at its deadlines only.
        fn until(&mut self, secs: u64) {
            let end = Time::from_secs(secs);
            while let Some(deadline) = self.machine.next_deadline().filter(|deadline| *deadline <= end) {
                self.now = self.now.max(deadline);
                self.feed(Input::Timer);
            }
            self.now = end;
        }

        fn announced(&self) -> Vec<HomeAddress> {
            self.machine.announced().collect()
        }
    }

    #[test]
    fn nothing_before_it_is_settled_and_then_what_can_be_served() {
        let mut run = Run::new();
        run.feed(Input::Well(set(&[1])));
        run.until(60);
        assert_eq!(run.changes, [(10, Output::Announce(home(1)))]);
        let mut early = Run::new();
        early.until(1);
        early.feed(Input::Well(set(&[1])));
        early.feed(Input::Settled);
        early.until(60);
        assert_eq!(early.changes, [(3, Output::Announce(home(1)))]);
    }

    #[test]
    fn the_last_never_withdraws_on_its_own_health() {
        let mut run = Run::new();
        run.feed(Input::Well(set(&[1, 2])));
        run.until(20);
        run.feed(Input::Well(set(&[])));
        run.until(3600);
        assert_eq!(run.announced(), [home(1), home(2)]);
        // Once another one has it, it lets go.
        run.feed(Input::Elsewhere(set(&[2])));
        assert_eq!(run.announced(), [home(1)]);
        // A moment's illness moves nobody.
        run.feed(Input::Well(set(&[1])));
        run.feed(Input::Elsewhere(set(&[1, 2])));
        run.until(3700);
        run.feed(Input::Well(set(&[])));
        run.until(3700 + HOLD.as_secs() - 1);
        run.feed(Input::Well(set(&[1])));
        run.until(3800);
        assert_eq!((run.announced(), run.changes.len()), (vec![home(1)], 3));
    }

    #[test]
    fn withdrawals_make_it_slower_to_come_back_and_are_forgiven() {
        let mut run = Run::new();
        run.feed(Input::Elsewhere(set(&[1])));
        run.feed(Input::Well(set(&[1])));
        run.until(20);
        let mut waits = Vec::new();
        for _ in 0..10 {
            run.feed(Input::Well(set(&[])));
            run.until(run.now.as_secs() + 20);
            assert_eq!(run.announced(), []);
            let from = run.now.as_secs();
            run.feed(Input::Well(set(&[1])));
            run.until(from + 300);
            waits.push(run.changes.last().unwrap().0 - from);
        }
        assert_eq!(waits[..3], [4, 8, 16]);
        assert_eq!(*waits.last().unwrap(), RISE_MAX.as_secs());
        run.until(run.now.as_secs() + 3600);
        run.feed(Input::Well(set(&[])));
        run.until(run.now.as_secs() + 20);
        let from = run.now.as_secs();
        run.feed(Input::Well(set(&[1])));
        run.until(from + 300);
        assert_eq!(run.changes.last().unwrap().0 - from, 4);
    }

    #[test]
    fn what_is_taken_back_and_who_leaves_withdraws_at_once() {
        let mut run = Run::new();
        run.feed(Input::Well(set(&[1, 2])));
        run.until(20);
        run.feed(Input::Granted(set(&[2])));
        assert_eq!(run.changes.last(), Some(&(20, Output::Withdraw(home(1)))));
        run.feed(Input::Leave);
        assert_eq!(run.changes.last(), Some(&(20, Output::Withdraw(home(2)))));
        run.until(3600);
        assert_eq!(run.announced(), []);
    }

    #[test]
    fn what_is_read_is_what_was_written_and_in_bounds() {
        let one = |n: u32| Announcement {
            home: HomeAddress(std::net::Ipv6Addr::from(u128::MAX - 9999 + u128::from(n)).into()),
            well: n.is_multiple_of(2),
        };
        let many: Vec<Announcement> = (1..=TOLD_MAX as u32 + 5).map(one).collect();
        let bytes = encode(&many);
        assert_eq!(decode(&bytes).unwrap(), many[..TOLD_MAX]);
        assert!(bytes.len() < wire::RECORD_LEN_MAX - 256);
        for end in 0..bytes.len() {
            assert_eq!(decode(&bytes[..end]), None, "{end}");
        }
        let mut twice = vec![VERSION];
        twice.extend(wire::encode(&vec![one(1), one(1)]));
        assert_eq!(decode(&twice), None);
    }
}
