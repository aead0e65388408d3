//! A statement that a member makes as it comes, and repeats for as long as it holds.

use crate::member::Config;
use crate::record::{Record, Signed, Statement};
use crate::time::Time;
use std::time::Duration;

/// Holds this long after it was heard: a restart of who says it is not noticed.
const LIFETIME: Duration = Duration::from_secs(240);
/// Three times within a lifetime.
const REFRESH: Duration = Duration::from_secs(80);
/// Changes are told at most this often.
const GAP: Duration = Duration::from_secs(5);

pub(in crate::member) struct Saying {
    kind: u16,
    /// What is said; nothing before it was set.
    body: Option<Vec<u8>>,
    told: Option<Time>,
    /// When the next statement is due; [`Time::NEVER`] when there is nothing to say.
    at: Time,
    sequence: u64,
}

impl Saying {
    pub(super) fn new(kind: u16) -> Saying {
        Saying { kind, body: None, told: None, at: Time::NEVER, sequence: 0 }
    }

    /// This is said from now on, in place of what was said before.
    pub(in crate::member) fn set(&mut self, now: Time, body: Vec<u8>) {
        if self.body.as_ref() != Some(&body) {
            self.body = Some(body);
            self.at = self.told.map_or(now, |told| now.max(told + GAP));
        }
    }

    pub(super) fn next_deadline(&self) -> Time {
        self.at
    }

    /// What is due.
    pub(super) fn record(&mut self, now: Time, config: &Config) -> Option<Record> {
        if now < self.at {
            return None;
        }
        let body = self.body.clone()?;
        (self.at, self.told) = (now + REFRESH, Some(now));
        self.sequence += 1;
        let body = Statement {
            kind: self.kind,
            incarnation: config.incarnation,
            sequence: self.sequence,
            lifetime: LIFETIME,
            body,
        };
        Some(Record::Statement(Box::new(Signed::new(&config.key, body))))
    }
}
