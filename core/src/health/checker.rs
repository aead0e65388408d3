//! The machine of a vantage: which probe is due when, and what follows from how it ended.
//!
//! # Calling contract
//!
//! 1. Tell it its targets ([`Input::Targets`]) whenever they may have changed; what stays keeps its
//!    state.
//! 2. Drain [`Checker::poll_output`] after each input. Make each [`Output::Probe`] and tell its end
//!    once by [`Input::Done`]. One that is never ended counts as timed out, so that nothing is
//!    stuck.
//! 3. Sleep until [`Checker::next_deadline`] at most; then feed [`Input::Timer`].
//!
//! Same inputs, same outputs. Probes are spread by the seed: members that were started together do
//! not probe together.
//!
//! # When the vantage itself stood still
//!
//! A process that was stopped for a second finds all its probes timed out. So when the machine is
//! called much later than it asked for, failures of the probes that were under way are not counted.

use super::check::Check;
use super::verdict::{Failure, Opinion, VERDICTS_MAX, Verdict};
use super::watch::Seen;
use crate::key::MemberId;
use crate::name::CheckName;
use crate::random::Random;
use crate::time::Time;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

/// So many probes are under way at once: each is a socket and some kilobytes. Others wait.
pub const FLIGHTS_MAX: usize = 64;

/// So many checks are watched by one vantage, as many as it can tell of; of more, those that come
/// first in the order of keys.
pub const TARGETS_MAX: usize = VERDICTS_MAX;

/// Acting so much later than asked for means that this process stood still.
const LATE_MIN: Duration = Duration::from_millis(250);

/// The hand gets so much longer than a probe's timeout to say how it ended.
const END_SLACK: Duration = Duration::from_secs(2);

/// One check of one member.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Target {
    /// Whose.
    pub member: MemberId,
    /// Which.
    pub check: CheckName,
}

/// What happened.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum Input {
    /// These are to be watched from now on, and no others; at most [`TARGETS_MAX`] are.
    Targets(Vec<(MemberId, Check)>),
    /// A probe has ended.
    Done {
        /// Of which target.
        target: Target,
        /// Which one.
        attempt: u64,
        /// How long the whole answer took, or why it is none.
        outcome: Result<Duration, Failure>,
    },
    /// A probe could not be made for a reason that lies here: it says nothing about the target.
    Void {
        /// Of which target.
        target: Target,
        /// Which one.
        attempt: u64,
    },
    /// The deadline has passed.
    Timer,
}

/// What to do.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum Output {
    /// Make this probe, within its [`super::Pace::timeout`].
    Probe {
        /// Of which target.
        target: Target,
        /// Which one: goes back with [`Input::Done`].
        attempt: u64,
        /// What to ask.
        check: Box<Check>,
    },
    /// An opinion has changed: tell the others.
    Turned {
        /// Of which target.
        target: Target,
        /// What it was.
        from: Opinion,
        /// What it is.
        to: Opinion,
        /// How the last failure looked.
        why: Option<Failure>,
    },
}

#[derive(Debug)]
struct Watched {
    check: Check,
    seen: Seen,
    due: Time,
    flight: Option<Flight>,
}

#[derive(Debug)]
struct Flight {
    attempt: u64,
    /// When its end is given up on.
    until: Time,
    /// Whether a failure counts: not when this process stood still meanwhile.
    counts: bool,
}

/// The machine. See the module for how to call it.
#[derive(Debug)]
pub struct Checker {
    watched: BTreeMap<Target, Watched>,
    flights: usize,
    attempts: u64,
    random: Random,
    outputs: VecDeque<Output>,
}

impl Checker {
    /// One without targets.
    pub fn new(seed: u64) -> Checker {
        Checker {
            watched: BTreeMap::new(),
            flights: 0,
            attempts: 0,
            random: Random::new(seed),
            outputs: VecDeque::new(),
        }
    }

    /// Takes note of what happened.
    pub fn handle(&mut self, now: Time, input: Input) {
        self.look_for_lateness(now);
        match input {
            Input::Targets(targets) => self.set_targets(now, targets),
            Input::Done { target, attempt, outcome } => self.done(now, &target, attempt, outcome),
            Input::Void { target, attempt } => self.void(now, &target, attempt),
            Input::Timer => {}
        }
        self.end_overdue(now);
        self.launch(now);
    }

    /// The next thing to do.
    pub fn poll_output(&mut self) -> Option<Output> {
        self.outputs.pop_front()
    }

    /// When to feed [`Input::Timer`] at the latest.
    pub fn next_deadline(&self) -> Option<Time> {
        let room = self.flights < FLIGHTS_MAX;
        let due = |watched: &Watched| match &watched.flight {
            Some(flight) => Some(flight.until),
            // Without room the end of a flight is what it waits for.
            None => room.then_some(watched.due),
        };
        self.watched.values().filter_map(due).min()
    }

    /// Everything that is watched, and what was seen of it.
    pub fn watched(&self) -> impl Iterator<Item = (&Target, &Check, &Seen)> {
        self.watched.iter().map(|(target, watched)| (target, &watched.check, &watched.seen))
    }

    /// What there is to tell: a verdict for each target of which something is known.
    pub fn verdicts(&self) -> Vec<Verdict> {
        let known = self.watched.iter().filter(|(_, watched)| watched.seen.opinion != Opinion::Unknown);
        let verdict = |(target, watched): (&Target, &Watched)| Verdict {
            target: target.member,
            check: target.check.clone(),
            opinion: watched.seen.opinion,
            since: watched.seen.since,
            why: watched.seen.failure.filter(|_| watched.seen.opinion == Opinion::Down),
            latency_ms: watched.seen.latency.map(|took| took.as_millis().try_into().unwrap_or(u32::MAX)),
        };
        known.map(verdict).collect()
    }

    fn set_targets(&mut self, now: Time, targets: Vec<(MemberId, Check)>) {
        let named =
            |(member, check): (MemberId, Check)| (Target { member, check: check.name.clone() }, check);
        let mut wanted: BTreeMap<Target, Check> = targets.into_iter().map(named).collect();
        while wanted.len() > TARGETS_MAX {
            wanted.pop_last();
        }
        // Another definition is another check: what was seen of the old one says nothing of it.
        self.watched.retain(|target, watched| wanted.get(target) == Some(&watched.check));
        for (target, check) in wanted {
            if self.watched.contains_key(&target) {
                continue;
            }
            // The first round is over soon, and still not all of it at once.
            let spread = self.random.below(check.pace.fast.as_millis() as usize + 1);
            let due = now + Duration::from_millis(spread as u64);
            self.watched.insert(target, Watched { check, seen: Seen::new(now), due, flight: None });
        }
        self.flights = self.watched.values().filter(|watched| watched.flight.is_some()).count();
    }

    fn done(&mut self, now: Time, target: &Target, attempt: u64, outcome: Result<Duration, Failure>) {
        let Some(watched) = self.watched.get_mut(target) else { return };
        let Some(flight) = watched.flight.take_if(|flight| flight.attempt == attempt) else { return };
        self.flights -= 1;
        if outcome.is_ok() || flight.counts {
            let from = watched.seen.outcome(now, &watched.check.pace, outcome);
            if let Some(from) = from {
                let (to, why) = (watched.seen.opinion, outcome.err());
                self.outputs.push_back(Output::Turned { target: target.clone(), from, to, why });
            }
        }
        watched.due = now + self.random.around(watched.seen.pause(&watched.check));
    }

    fn void(&mut self, now: Time, target: &Target, attempt: u64) {
        let Some(watched) = self.watched.get_mut(target) else { return };
        if watched.flight.take_if(|flight| flight.attempt == attempt).is_some() {
            self.flights -= 1;
            watched.due = now + self.random.around(watched.check.pace.period);
        }
    }

    fn end_overdue(&mut self, now: Time) {
        let overdue = |(target, watched): (&Target, &Watched)| {
            let flight = watched.flight.as_ref().filter(|flight| flight.until <= now)?;
            Some((target.clone(), flight.attempt))
        };
        let overdue: Vec<(Target, u64)> = self.watched.iter().filter_map(overdue).collect();
        for (target, attempt) in overdue {
            self.done(now, &target, attempt, Err(Failure::Timeout));
        }
    }

    /// Starts what is due, the longest due first.
    fn launch(&mut self, now: Time) {
        let due = |watched: &Watched| watched.flight.is_none() && watched.due <= now;
        let mut ready: Vec<(Time, Target)> = self
            .watched
            .iter()
            .filter(|(_, watched)| due(watched))
            .map(|(target, watched)| (watched.due, target.clone()))
            .collect();
        ready.sort();
        for (_, target) in ready.into_iter().take(FLIGHTS_MAX.saturating_sub(self.flights)) {
            let Some(watched) = self.watched.get_mut(&target) else { continue };
            self.attempts += 1;
            self.flights += 1;
            let until = now + watched.check.pace.timeout + END_SLACK;
            watched.flight = Some(Flight { attempt: self.attempts, until, counts: true });
            let check = Box::new(watched.check.clone());
            self.outputs.push_back(Output::Probe { target, attempt: self.attempts, check });
        }
    }

    fn look_for_lateness(&mut self, now: Time) {
        let late = self.next_deadline().is_some_and(|deadline| now.since(deadline) > LATE_MIN);
        if late {
            self.watched
                .values_mut()
                .filter_map(|watched| watched.flight.as_mut())
                .for_each(|f| f.counts = false);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::health::{Pace, Probe};
    use crate::key::SecretKey;

    fn check_of(name: &str) -> Check {
        Check {
            name: name.parse().unwrap(),
            probe: Probe::Tcp { port: 80 },
            pace: Pace::default(),
            sites: vec![],
        }
    }

    fn member(n: usize) -> MemberId {
        let mut seed = [0; 32];
        seed[..8].copy_from_slice(&n.to_le_bytes());
        SecretKey::from_seed(&seed).public()
    }

    /// Runs until `end`; `answer` says how a probe begun at some time ends. Gives the probes begun
    /// and the turns, each with its time in milliseconds.
    fn run(
        checker: &mut Checker,
        now: &mut u64,
        end: u64,
        answer: impl Fn(u64, &Target) -> Option<Result<Duration, Failure>>,
    ) -> (Vec<u64>, Vec<(u64, Opinion)>) {
        let (mut probes, mut turns) = (Vec::new(), Vec::new());
        let mut ends: BTreeMap<(u64, u64), (Target, Result<Duration, Failure>)> = BTreeMap::new();
        loop {
            while let Some(output) = checker.poll_output() {
                match output {
                    Output::Probe { target, attempt, check } => {
                        probes.push(*now);
                        if let Some(outcome) = answer(*now, &target) {
                            let took = outcome.unwrap_or(check.pace.timeout).as_millis() as u64;
                            ends.insert((*now + took, attempt), (target, outcome));
                        }
                    }
                    Output::Turned { to, .. } => turns.push((*now, to)),
                }
            }
            let deadline = checker.next_deadline().map_or(u64::MAX, Time::as_millis);
            let ended = ends.keys().next().copied();
            let next = deadline.min(ended.map_or(u64::MAX, |(at, _)| at));
            if next > end {
                *now = end;
                return (probes, turns);
            }
            *now = (*now).max(next);
            let input = match ended.filter(|(at, _)| *at <= *now) {
                Some(key) => {
                    let (target, outcome) = ends.remove(&key).unwrap();
                    Input::Done { target, attempt: key.1, outcome }
                }
                None => Input::Timer,
            };
            checker.handle(Time::from_millis(*now), input);
        }
    }

    const OK: Option<Result<Duration, Failure>> = Some(Ok(Duration::from_millis(30)));

    #[test]
    fn a_service_that_hangs_is_down_within_what_the_pace_says_and_comes_back() {
        for seed in 0..20 {
            let (mut checker, mut now) = (Checker::new(seed), 0);
            checker.handle(Time::default(), Input::Targets(vec![(member(1), check_of("web"))]));
            let (_, turns) = run(&mut checker, &mut now, 60_000, |_, _| OK);
            assert_eq!(turns.len(), 1);
            let (_, turns) = run(&mut checker, &mut now, 120_000, |_, _| Some(Err(Failure::Timeout)));
            let [(at, Opinion::Down)] = turns[..] else { panic!("{turns:?}") };
            // A probe that was under way when the run was cut ends by its slack.
            let slack = END_SLACK.as_millis() as u64 + 100;
            assert!(at - 60_000 <= Pace::default().detects_within().as_millis() as u64 + slack, "{at}");
            let (_, turns) = run(&mut checker, &mut now, 180_000, |_, _| OK);
            let [(at, Opinion::Up)] = turns[..] else { panic!("{turns:?}") };
            assert!(at - 120_000 <= 8000 + slack, "{at}");
        }
    }

    #[test]
    fn a_hand_that_never_tells_the_end_does_not_stall_a_check() {
        let (mut checker, mut now) = (Checker::new(1), 0);
        checker.handle(Time::default(), Input::Targets(vec![(member(1), check_of("web"))]));
        let (probes, turns) = run(&mut checker, &mut now, 60_000, |_, _| None);
        assert!(probes.len() > 5, "{probes:?}");
        assert_eq!(turns.len(), 1);
        // An end that comes late belongs to no flight any more.
        let target = Target { member: member(1), check: "web".parse().unwrap() };
        checker.handle(Time::from_millis(now), Input::Done { target, attempt: 1, outcome: OK.unwrap() });
        assert_eq!(checker.verdicts()[0].opinion, Opinion::Down);
    }

    #[test]
    fn probes_are_bounded_at_once_and_in_number() {
        let (mut checker, mut now) = (Checker::new(1), 0);
        let targets = (0..300).map(|n| (member(n), check_of("web"))).collect();
        checker.handle(Time::default(), Input::Targets(targets));
        assert_eq!(checker.watched().count(), TARGETS_MAX);
        let (probes, _) = run(&mut checker, &mut now, 1000, |_, _| None);
        assert_eq!(probes.len(), FLIGHTS_MAX);
        // 128 checks every 4 s for a minute, and the first round: give or take what is spread.
        let (mut checker, mut now) = (Checker::new(2), 0);
        let targets = (0..300).map(|n| (member(n), check_of("web"))).collect();
        checker.handle(Time::default(), Input::Targets(targets));
        let (probes, _) = run(&mut checker, &mut now, 60_000, |_, _| OK);
        assert!((1800..2200).contains(&probes.len()), "{}", probes.len());
    }

    #[test]
    fn a_vantage_that_stood_still_blames_nobody() {
        let (mut checker, mut now) = (Checker::new(3), 0);
        let targets: Vec<_> = (0..20).map(|n| (member(n), check_of("web"))).collect();
        checker.handle(Time::default(), Input::Targets(targets));
        run(&mut checker, &mut now, 30_000, |_, _| OK);
        // Every probe of two seconds hangs, and then the process is not called for ten.
        run(&mut checker, &mut now, 32_000, |_, _| None);
        now += 10_000;
        checker.handle(Time::from_millis(now), Input::Timer);
        let (_, turns) = run(&mut checker, &mut now, 60_000, |_, _| OK);
        assert_eq!(turns, []);
        assert!(checker.verdicts().iter().all(|verdict| verdict.opinion == Opinion::Up));
    }

    #[test]
    fn targets_keep_their_state_unless_their_definition_changes() {
        let (mut checker, mut now) = (Checker::new(4), 0);
        let mut targets = vec![(member(1), check_of("web")), (member(2), check_of("web"))];
        checker.handle(Time::default(), Input::Targets(targets.clone()));
        run(&mut checker, &mut now, 20_000, |_, _| OK);
        targets[1].1.pace.fall = 5;
        checker.handle(Time::from_millis(now), Input::Targets(targets));
        let opinions: Vec<_> = checker.watched().map(|(_, _, seen)| seen.opinion).collect();
        assert!(opinions.contains(&Opinion::Up) && opinions.contains(&Opinion::Unknown), "{opinions:?}");
        assert_eq!(checker.verdicts().len(), 1);
    }
}
