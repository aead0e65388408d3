//! One check of one target, as one vantage sees it: outcomes in, an opinion out.
//!
//! | opinion | outcome | then |
//! |---|---|---|
//! | unknown | success | up: the first answer counts |
//! | unknown, up | failure | asked again fast; down after `fall` in a row |
//! | up | success | failures are forgotten |
//! | down | success | half open: asked again fast; up after `rise` in a row and not before `hold` is over |
//! | down | failure | successes are forgotten |
//!
//! `hold` doubles with each return within ten times `hold`, so that a flapping service is out most
//! of the time instead of half of it.

use super::check::{Check, Pace};
use super::verdict::{Failure, Opinion};
use crate::time::Time;
use serde::{Deserialize, Serialize};
use std::collections::VecDeque;
use std::time::Duration;

/// So many outcomes are remembered for people: most of a minute at the default pace.
pub const HISTORY_MAX: usize = 12;

/// `hold` doubles so often at the most.
const DOUBLINGS_MAX: u32 = 5;

/// `hold` is never longer than this.
const HOLD_MAX: Duration = Duration::from_secs(600);

/// One outcome.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sample {
    /// When it was known.
    pub at: Time,
    /// How long the answer took, or why there was none.
    pub outcome: Result<Duration, Failure>,
}

/// Where a check stands between two opinions.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Phase {
    /// Nothing is known yet.
    New,
    /// It works, and did so last time.
    Up,
    /// It works but failed last: that is looked into.
    Failing,
    /// It does not work.
    Down,
    /// It is down but succeeded last: that is looked into (half open).
    Rising,
}

/// What a vantage knows of one check of one target.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Seen {
    /// What it holds.
    pub opinion: Opinion,
    /// Since when.
    pub since: Time,
    /// Outcomes in a row that contradict the opinion.
    pub streak: u8,
    /// The last failure, if there was one.
    pub failure: Option<Failure>,
    /// How long an answer takes, smoothed.
    pub latency: Option<Duration>,
    /// The latest outcomes, oldest first; at most [`HISTORY_MAX`].
    pub history: VecDeque<Sample>,
    /// How often it came back up, and when last.
    returns: (u32, Time),
}

impl Seen {
    pub(super) fn new(now: Time) -> Seen {
        Seen {
            opinion: Opinion::Unknown,
            since: now,
            streak: 0,
            failure: None,
            latency: None,
            history: VecDeque::with_capacity(HISTORY_MAX),
            returns: (0, now),
        }
    }

    /// Where it stands.
    pub fn phase(&self) -> Phase {
        match (self.opinion, self.streak) {
            (Opinion::Unknown, _) => Phase::New,
            (Opinion::Up, 0) => Phase::Up,
            (Opinion::Up, _) => Phase::Failing,
            (Opinion::Down, 0) => Phase::Down,
            (Opinion::Down, _) => Phase::Rising,
        }
    }

    /// Takes an outcome; tells the opinion before, if it is another one now.
    pub(super) fn outcome(
        &mut self,
        now: Time,
        pace: &Pace,
        outcome: Result<Duration, Failure>,
    ) -> Option<Opinion> {
        if self.history.len() == HISTORY_MAX {
            self.history.pop_front();
        }
        self.history.push_back(Sample { at: now, outcome });
        match outcome {
            Ok(took) => self.latency = Some(self.latency.map_or(took, |old| (old * 7 + took) / 8)),
            Err(failure) => self.failure = Some(failure),
        }
        let to = match (self.opinion, outcome.is_ok()) {
            (Opinion::Unknown, true) => Opinion::Up,
            (Opinion::Up, true) | (Opinion::Down, false) => {
                self.streak = 0;
                return None;
            }
            (Opinion::Unknown | Opinion::Up, false) => {
                self.streak = self.streak.saturating_add(1);
                if self.streak < pace.fall {
                    return None;
                }
                Opinion::Down
            }
            (Opinion::Down, true) => {
                self.streak = self.streak.saturating_add(1);
                if self.streak < pace.rise || now.since(self.since) < self.hold(now, pace) {
                    return None;
                }
                self.returns = (self.recent_returns(now, pace) + 1, now);
                Opinion::Up
            }
        };
        self.streak = 0;
        self.since = now;
        Some(std::mem::replace(&mut self.opinion, to))
    }

    /// How long after an outcome the next probe is due, before it is spread.
    pub(super) fn pause(&self, check: &Check) -> Duration {
        match self.phase() {
            Phase::Up | Phase::Down => check.pace.period,
            Phase::New | Phase::Failing | Phase::Rising => check.pace.fast,
        }
    }

    /// How long it stays down at the least.
    fn hold(&self, now: Time, pace: &Pace) -> Duration {
        let doublings = self.recent_returns(now, pace).min(DOUBLINGS_MAX);
        pace.hold.saturating_mul(1 << doublings).min(HOLD_MAX)
    }

    fn recent_returns(&self, now: Time, pace: &Pace) -> u32 {
        let (returns, last) = self.returns;
        // The time that it was held down for does not count as time without a return.
        let memory = pace.hold.saturating_mul(10 << returns.min(DOUBLINGS_MAX));
        if now.since(last) > memory { 0 } else { returns }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const OK: Result<Duration, Failure> = Ok(Duration::from_millis(20));
    const BAD: Result<Duration, Failure> = Err(Failure::Timeout);

    /// Outcomes a second apart (`+` and `-`), and the opinions after each.
    #[track_caller]
    fn check(seen: &mut Seen, start: u64, outcomes: &str, expected: &str) {
        let opinions: String = (start..)
            .zip(outcomes.chars())
            .map(|(at, outcome)| {
                seen.outcome(Time::from_secs(at), &Pace::default(), if outcome == '+' { OK } else { BAD });
                match seen.opinion {
                    Opinion::Unknown => '?',
                    Opinion::Up => 'u',
                    Opinion::Down => 'd',
                }
            })
            .collect();
        assert_eq!(opinions, expected);
    }

    #[test]
    fn opinions_follow_from_rows_of_outcomes() {
        let mut seen = Seen::new(Time::from_secs(0));
        check(&mut seen, 0, "+-+-+--", "uuuuuud");
        // Two successes are enough, but not before five seconds are over.
        check(&mut seen, 7, "++-++++", "dddduuu");
        let mut never = Seen::new(Time::from_secs(0));
        check(&mut never, 0, "--", "?d");
        assert_eq!((never.phase(), never.failure), (Phase::Down, Some(Failure::Timeout)));
    }

    #[test]
    fn who_flaps_is_held_down_longer_each_time() {
        let mut seen = Seen::new(Time::from_secs(0));
        let mut downs = Vec::new();
        let mut at = 0;
        for _ in 0..4 {
            while seen.opinion != Opinion::Down {
                seen.outcome(Time::from_secs(at), &Pace::default(), BAD);
                at += 1;
            }
            let since = at;
            while seen.opinion != Opinion::Up {
                seen.outcome(Time::from_secs(at), &Pace::default(), OK);
                at += 1;
            }
            downs.push(at - since);
        }
        assert_eq!(downs, [5, 10, 20, 40]);
        // A quiet hour forgives.
        at += 3600;
        check(&mut seen, at, "--++++++", "uddddduu");
    }

    #[test]
    fn the_history_is_bounded() {
        let mut seen = Seen::new(Time::from_secs(0));
        check(&mut seen, 0, &"+-".repeat(100), &"u".repeat(200));
        assert_eq!(seen.history.len(), HISTORY_MAX);
        assert_eq!(seen.latency, Some(Duration::from_millis(20)));
    }
}
