//! What is counted over all sets, and what it comes to.

use super::Row;
use std::collections::BTreeMap;
use std::time::Duration;

/// In so many parts of the rounds it is told how the map does.
pub(super) const COURSE: usize = 6;

/// What is counted over all sets. Values are in ms, each with what its clients ask for.
#[derive(Default)]
pub(super) struct Counts {
    /// In the rounds that count.
    utilisations: Vec<f64>,
    /// The number of rounds after which nobody was beyond its capacity again, in the worst set.
    overloaded_until: usize,
    /// The most that anybody gets of its capacity where all go to the nearest on Earth.
    nearest_utilised: f64,
    pub(super) map: Sent,
    pub(super) course: [Sent; COURSE],
    /// Who goes to the nearest on Earth, and to the nearest that has room.
    pub(super) nearest: Sent,
    pub(super) overflow: Sent,
    /// Penalties in the best division, and in the best that leaves something free.
    pub(super) best: Values,
    pub(super) spared: Values,
    pub(super) moved: f64,
    /// In the rounds that do not count.
    pub(super) moved_learning: f64,
    pub(super) asked_learning: f64,
    pub(super) rounds_learning: usize,
    pub(super) spent: Duration,
    pub(super) generations: u32,
}

/// How far clients go, beside how far they might; ms.
#[derive(Clone, Copy)]
pub(super) struct Way {
    pub(super) rtt: f64,
    /// To the best of all.
    pub(super) least: f64,
    /// To the furthest of those whom anybody of their place goes to in the best division.
    pub(super) allowed: f64,
}

impl Way {
    fn is_materially_beyond(self, other: f64) -> bool {
        self.rtt > other * 1.1 && self.rtt > other + 2.0
    }
}

/// Where clients are sent in one way of choosing.
#[derive(Default)]
pub(super) struct Sent {
    /// How much further than to the best replica.
    penalties: Values,
    /// How much further than anybody of their place in the best division.
    beyond: Values,
    /// What those ask for who go materially further than to the best replica…
    worse: f64,
    /// …and than anybody of their place in the best division.
    worse_than_allowed: f64,
    asked: f64,
}

impl Sent {
    pub(super) fn add(&mut self, way: Way, rate: f64) {
        self.penalties.add(way.rtt - way.least, rate);
        self.beyond.add((way.rtt - way.allowed).max(0.0), rate);
        self.worse += if way.is_materially_beyond(way.least) { rate } else { 0.0 };
        self.worse_than_allowed += if way.is_materially_beyond(way.allowed) { rate } else { 0.0 };
        self.asked += rate;
    }

    fn worse_percent(&self) -> f64 {
        100.0 * self.worse / self.asked
    }

    fn worse_than_allowed_percent(&self) -> f64 {
        100.0 * self.worse_than_allowed / self.asked
    }
}

/// Values to a hundredth, with weights.
#[derive(Default)]
pub(super) struct Values {
    weights: BTreeMap<u64, f64>,
}

impl Values {
    pub(super) fn add(&mut self, value: f64, weight: f64) {
        *self.weights.entry((value.max(0.0) * 100.0).round() as u64).or_default() += weight;
    }

    fn sum(&self) -> f64 {
        self.weights.values().sum()
    }

    /// The value below which this part of all weight lies.
    fn quantile(&self, part: f64) -> f64 {
        let mut left = self.sum() * part;
        let found = self.weights.iter().find(|(_, weight)| {
            left -= **weight;
            left <= 0.0
        });
        found.map_or(0.0, |(value, _)| *value as f64 / 100.0)
    }

    fn mean(&self) -> f64 {
        self.weights.iter().map(|(value, weight)| *value as f64 / 100.0 * weight).sum::<f64>() / self.sum()
    }
}

impl Counts {
    /// Notes what replicas got of their capacities in a round.
    pub(super) fn utilised(&mut self, used: &[f64], (round, counted): (usize, bool)) {
        if used.iter().any(|used| *used > 1.0) {
            self.overloaded_until = self.overloaded_until.max(round + 1);
        }
        if counted {
            self.utilisations.extend(used);
        }
    }

    /// The same where all go to the nearest on Earth.
    pub(super) fn nearest_utilised(&mut self, used: &[f64]) {
        self.nearest_utilised = used.iter().copied().fold(self.nearest_utilised, f64::max);
    }

    pub(super) fn row(self, replicas: usize, load: f64, capacities_known: bool) -> Row {
        let over = self.utilisations.iter().filter(|utilisation| **utilisation > 1.0).count();
        let course = self.course.iter().map(|part| (part.penalties.quantile(0.95), part.worse_percent()));
        Row {
            replicas,
            load,
            capacities_known,
            most_utilised: self.utilisations.iter().copied().fold(0.0, f64::max),
            overloaded_percent: 100.0 * over as f64 / self.utilisations.len().max(1) as f64,
            overloaded_until: self.overloaded_until,
            nearest_utilised: self.nearest_utilised,
            p50_ms: self.map.penalties.quantile(0.5),
            p95_ms: self.map.penalties.quantile(0.95),
            mean_ms: self.map.penalties.mean(),
            best_p95_ms: self.best.quantile(0.95),
            best_mean_ms: self.best.mean(),
            spared_p95_ms: self.spared.quantile(0.95),
            spared_mean_ms: self.spared.mean(),
            nearest_p95_ms: self.nearest.penalties.quantile(0.95),
            overflow_p95_ms: self.overflow.penalties.quantile(0.95),
            overflow_mean_ms: self.overflow.penalties.mean(),
            beyond_p95_ms: self.map.beyond.quantile(0.95),
            nearest_beyond_p95_ms: self.nearest.beyond.quantile(0.95),
            overflow_beyond_p95_ms: self.overflow.beyond.quantile(0.95),
            worse_than_allowed_percent: self.map.worse_than_allowed_percent(),
            nearest_worse_than_allowed_percent: self.nearest.worse_than_allowed_percent(),
            overflow_worse_than_allowed_percent: self.overflow.worse_than_allowed_percent(),
            worse_percent: self.map.worse_percent(),
            nearest_worse_percent: self.nearest.worse_percent(),
            overflow_worse_percent: self.overflow.worse_percent(),
            course: course.collect(),
            changes_per_client_hour: 360.0 * self.moved / self.map.asked,
            changes_learning: self.moved_learning / self.asked_learning * self.rounds_learning as f64,
            compute_ms: self.spent.as_secs_f64() * 1000.0 / f64::from(self.generations.max(1)),
        }
    }
}
