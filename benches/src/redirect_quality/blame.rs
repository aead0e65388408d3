//! Who is materially worse off at the end, and what put them there.

use serde::Serialize;
use std::collections::BTreeMap;
use std::fmt;

/// Parts of all clients, by reason, percent by population.
#[derive(Default, Serialize)]
pub(super) struct Blame {
    #[serde(skip)]
    people: f64,
    /// Where the client is by the database, and why it is told what it is told.
    pub(super) worse_percent: BTreeMap<String, f64>,
}

impl Blame {
    pub(super) fn count(&mut self, people: f64, reason: Option<String>) {
        self.people += people;
        if let Some(reason) = reason {
            *self.worse_percent.entry(reason).or_default() += people;
        }
    }

    pub(super) fn done(mut self) -> Blame {
        let people = self.people.max(1e-9);
        self.worse_percent.values_mut().for_each(|worse| *worse *= 100.0 / people);
        self
    }
}

impl fmt::Display for Blame {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut reasons: Vec<_> = self.worse_percent.iter().collect();
        reasons.sort_by(|a, b| b.1.total_cmp(a.1));
        reasons.iter().try_for_each(|(reason, percent)| write!(f, "\n  {percent:5.2} % {reason}"))
    }
}
