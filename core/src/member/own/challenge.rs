//! The values that this member holds for certificate authorities: told at once when they change,
//! refreshed while there are any, and gone when their lease is over.

use crate::challenge::{Challenge, KIND, LEASE_MAX, VALUES_MAX, encode};
use crate::member::Config;
use crate::record::{Record, Signed, Statement};
use crate::time::Time;
use std::collections::BTreeMap;
use std::time::Duration;

/// Holds this long after it was heard: what a member set that then died is gone soon after.
const LIFETIME: Duration = Duration::from_secs(120);
/// Three times within a lifetime.
const REFRESH: Duration = Duration::from_secs(40);

pub(in crate::member) struct Challenges {
    /// Until when each stands.
    leases: BTreeMap<Challenge, Time>,
    /// When the next statement is due; [`Time::NEVER`] when there is nothing to say.
    at: Time,
    sequence: u64,
}

impl Challenges {
    pub(super) fn new() -> Challenges {
        Challenges { leases: BTreeMap::new(), at: Time::NEVER, sequence: 0 }
    }

    /// A value is to stand for so long from now; zero takes it back. Beyond [`VALUES_MAX`] a new one
    /// is not taken: whoever sets it has asked before.
    pub(in crate::member) fn set(&mut self, now: Time, challenge: Challenge, lease: Duration) {
        if lease.is_zero() {
            if self.leases.remove(&challenge).is_some() {
                self.at = now;
            }
        } else if self.leases.len() < VALUES_MAX || self.leases.contains_key(&challenge) {
            let new = self.leases.insert(challenge, now + lease.min(LEASE_MAX)).is_none();
            if new {
                self.at = now;
            }
        }
    }

    pub(super) fn next_deadline(&self) -> Time {
        let end = self.leases.values().copied().min().unwrap_or(Time::NEVER);
        self.at.min(end)
    }

    /// What is due.
    pub(super) fn record(&mut self, now: Time, config: &Config) -> Option<Record> {
        let before = self.leases.len();
        self.leases.retain(|_, end| *end > now);
        if self.leases.len() == before && now < self.at {
            return None;
        }
        // Taking everything back is said once; then it lapses by itself where that was not heard.
        self.at = if self.leases.is_empty() { Time::NEVER } else { now + REFRESH };
        self.sequence += 1;
        let values: Vec<Challenge> = self.leases.keys().cloned().collect();
        let body = Statement {
            kind: KIND,
            incarnation: config.incarnation,
            sequence: self.sequence,
            lifetime: LIFETIME,
            body: encode(&values),
        };
        Some(Record::Statement(Box::new(Signed::new(&config.key, body))))
    }
}
