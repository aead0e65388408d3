//! Whether a proved care-of address still receives and answers.
//!
//! Only the answer to a probe counts: packets that come from a node do not show that packets reach
//! it. Probes go out at a fixed pace, whatever else the tunnel carries.

use crate::time::Time;
use serde::{Deserialize, Serialize};
use std::time::Duration;

/// How a path is watched.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pace {
    /// Between probes.
    pub interval: Duration,
    /// So many unanswered in a row: the path is lost.
    pub misses: u32,
    /// Between probes of a lost path.
    pub recovery: Duration,
    /// So many answered in a row: it is back.
    pub rises: u32,
}

impl Default for Pace {
    /// Three times 300 ms: a lost path is noticed within 1.2 s. Faster was tried where processes
    /// share processors: 3 x 50 ms declared two healthy sides dead at once.
    fn default() -> Pace {
        Pace {
            interval: Duration::from_millis(300),
            misses: 3,
            recovery: Duration::from_millis(600),
            rises: 2,
        }
    }
}

/// What is to be done about a path now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// Nothing yet.
    Wait,
    /// Send the probe with this number.
    Probe(u32),
    /// The same, and the path is lost from now on.
    Lost(u32),
}

#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Path {
    up: bool,
    /// The number of the last probe.
    number: u32,
    sent: Option<Time>,
    /// The highest number that was answered.
    answered: u32,
    /// Unanswered in a row while up, answered in a row while lost.
    streak: u32,
    next: Time,
}

impl Path {
    /// One that is in use from now on. It is probed at once: so the node hears that it is.
    pub(super) fn new(now: Time) -> Path {
        Path { up: true, number: 0, sent: None, answered: 0, streak: 0, next: now }
    }

    /// One of which nothing is known: lost until it answers.
    pub(super) fn unproved(now: Time) -> Path {
        Path { up: false, number: 0, sent: None, answered: 0, streak: 0, next: now }
    }

    pub(super) fn is_up(&self) -> bool {
        self.up
    }

    /// Whether it is up, and nothing was missed lately.
    pub(super) fn is_well(&self) -> bool {
        self.up && self.streak == 0
    }

    /// When [`Path::step`] is to be called.
    pub(super) fn due(&self) -> Time {
        self.next
    }

    /// Time has passed. Probes sent before `excused` say nothing when they are unanswered: this
    /// process stood still, not the other.
    pub(super) fn step(&mut self, now: Time, pace: &Pace, excused: Time) -> Step {
        if now < self.next {
            return Step::Wait;
        }
        let unanswered = self.sent.is_some() && self.answered < self.number;
        let counts = self.sent.is_some_and(|sent| sent >= excused);
        let mut lost = false;
        match (self.up, unanswered) {
            (true, true) if counts => {
                self.streak += 1;
                lost = self.streak >= pace.misses;
            }
            // Nothing is held against the path that began while nobody looked.
            (true, _) | (false, true) => self.streak = 0,
            (false, false) => {}
        }
        if lost {
            self.up = false;
            self.streak = 0;
        }
        self.number = self.number.wrapping_add(1);
        self.sent = Some(now);
        self.next = now + if self.up { pace.interval } else { pace.recovery };
        if lost { Step::Lost(self.number) } else { Step::Probe(self.number) }
    }

    /// The probe with this number was answered; tells whether the path is back thereby.
    pub(super) fn answered(&mut self, number: u32, pace: &Pace) -> bool {
        // Late answers count while they are to the probes that would otherwise condemn it.
        let recent = number <= self.number && self.number - number < pace.misses;
        if !recent || number <= self.answered {
            return false;
        }
        self.answered = number;
        if self.up {
            self.streak = 0;
            return false;
        }
        self.streak += 1;
        if self.streak < pace.rises {
            return false;
        }
        self.up = true;
        self.streak = 0;
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Runs a path for so many milliseconds in which probes are answered `delay` later if `answers`.
    struct Run {
        path: Path,
        now: u64,
        pending: Vec<(u64, u32)>,
        losses: Vec<u64>,
        returns: Vec<u64>,
    }

    impl Run {
        fn new() -> Run {
            let path = Path::new(Time::default());
            Run { path, now: 0, pending: vec![], losses: vec![], returns: vec![] }
        }

        fn go(&mut self, millis: u64, delay: u64, answers: impl Fn(u64) -> bool) {
            for _ in 0..millis {
                self.now += 1;
                let (due, later) = self.pending.iter().partition(|(at, _)| *at <= self.now);
                self.pending = later;
                let due: Vec<(u64, u32)> = due;
                for (_, number) in due {
                    if self.path.answered(number, &Pace::default()) {
                        self.returns.push(self.now);
                    }
                }
                match self.path.step(Time::from_millis(self.now), &Pace::default(), Time::default()) {
                    Step::Wait => continue,
                    Step::Lost(number) | Step::Probe(number) if answers(self.now) => {
                        self.pending.push((self.now + delay, number));
                    }
                    Step::Lost(_) => self.losses.push(self.now),
                    Step::Probe(_) => {}
                }
            }
        }
    }

    #[test]
    fn a_dead_path_is_lost_within_four_intervals_and_comes_back_after_two_answers() {
        let mut run = Run::new();
        run.go(10_000, 40, |_| true);
        assert_eq!(run.losses, []);
        let died = run.now;
        run.go(5_000, 40, |_| false);
        assert_eq!(run.losses.len(), 1);
        assert!(run.losses[0] - died <= 1200, "{}", run.losses[0] - died);
        let back = run.now;
        run.go(5_000, 40, |_| true);
        assert_eq!(run.returns.len(), 1);
        assert!(run.returns[0] - back <= 1300, "{}", run.returns[0] - back);
    }

    #[test]
    fn a_slow_path_is_not_a_dead_one() {
        let mut run = Run::new();
        run.go(60_000, 800, |_| true);
        assert_eq!(run.losses, []);
    }

    #[test]
    fn two_probes_lost_of_three_are_forgiven() {
        let mut run = Run::new();
        run.go(60_000, 40, |now| (now / 300) % 3 == 0);
        assert_eq!(run.losses, []);
    }

    #[test]
    fn who_stood_still_blames_nobody() {
        let pace = Pace::default();
        let mut path = Path::new(Time::default());
        let mut now = 0;
        for _ in 0..50 {
            now += 5_000;
            let time = Time::from_millis(now);
            assert!(matches!(path.step(time, &pace, time), Step::Probe(_)));
        }
    }

    #[test]
    fn old_and_invented_answers_do_not_count() {
        let pace = Pace::default();
        let mut path = Path::new(Time::default());
        let mut lost = false;
        for at in 1..=10 {
            let step = path.step(Time::from_millis(at * 600), &pace, Time::default());
            lost |= matches!(step, Step::Lost(_));
            for number in [0, 100, u32::MAX] {
                assert!(!path.answered(number, &pace));
            }
        }
        assert!(lost && !path.is_up());
    }
}
