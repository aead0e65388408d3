//! When a member tells what clients ask of it: at once when its capacity changes, otherwise when
//! something has changed by an eighth, and before it lapses.

use crate::demand::{Demand, KIND};
use crate::member::Config;
use crate::record::{Record, Signed, Statement};
use crate::time::Time;
use std::time::Duration;

/// Holds this long, or three periods of telling in a large network. When a member dies its clients
/// go on to others, which count them: until its own word has lapsed they count twice. The window of
/// the others' counts fills in about the same time.
const LIFETIME: Duration = Duration::from_secs(60);

pub(in crate::member) struct Telling {
    told: Option<Demand>,
    next: Option<Demand>,
    at: Time,
    sequence: u64,
}

impl Telling {
    pub(super) fn new(now: Time) -> Telling {
        Telling { told: None, next: None, at: now, sequence: 0 }
    }

    /// What is to be told from now on.
    pub(in crate::member) fn set(&mut self, now: Time, mut demand: Demand) {
        demand.normalize();
        if self.told.as_ref().is_none_or(|told| told.capacity != demand.capacity) {
            self.at = now;
        }
        self.next = Some(demand);
    }

    pub(super) fn next_deadline(&self) -> Time {
        if self.next.is_some() || self.told.is_some() { self.at } else { Time::NEVER }
    }

    /// What is due. `refresh`: how often the member refreshes its entry, given the network's size.
    pub(super) fn record(&mut self, now: Time, config: &Config, refresh: Duration) -> Option<Record> {
        if now < self.at {
            return None;
        }
        let period = config.timing.observations_period.max(refresh);
        let demand = match (self.next.take(), &self.told) {
            (Some(next), Some(told)) => next.steadied(told),
            (Some(next), None) => next,
            (None, Some(told)) => told.clone(),
            (None, None) => return None,
        };
        self.at = now + period;
        self.sequence += 1;
        let body = Statement {
            kind: KIND,
            incarnation: config.incarnation,
            sequence: self.sequence,
            lifetime: LIFETIME.max(period * 3).min(crate::spread::LIFETIME_MAX),
            body: demand.encode(),
        };
        self.told = Some(demand);
        Some(Record::Statement(Box::new(Signed::new(&config.key, body))))
    }
}
