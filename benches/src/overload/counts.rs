//! What is counted over all sets, and what it comes to.

use super::Row;
use std::time::Duration;

/// What is counted over all sets. Values are in ms, each with what its clients ask for.
#[derive(Default)]
pub(super) struct Counts {
    pub(super) utilisations: Vec<f64>,
    pub(super) map: Sent,
    /// Who goes to the nearest on Earth, and to the nearest that has room.
    pub(super) nearest: Sent,
    pub(super) overflow: Sent,
    /// Penalties in the best division, and in the best that leaves something free.
    pub(super) best: Vec<(f64, f64)>,
    pub(super) spared: Vec<(f64, f64)>,
    pub(super) moved: f64,
    /// In the rounds that do not count.
    pub(super) moved_learning: f64,
    pub(super) asked_learning: f64,
    pub(super) rounds_learning: usize,
    pub(super) spent: Duration,
    pub(super) generations: u32,
}

/// Where clients are sent in one way of choosing.
#[derive(Default)]
pub(super) struct Sent {
    /// How much further than to the best replica.
    penalties: Vec<(f64, f64)>,
    /// How much further than anybody of their place in the best division.
    beyond: Vec<(f64, f64)>,
    worse: f64,
    asked: f64,
}

impl Sent {
    /// Clients that ask for `rate` go `rtt` far, where `least` would be possible and `best` is the
    /// furthest of their place in the best division.
    pub(super) fn add(&mut self, rtt: f64, least: f64, best: f64, rate: f64) {
        self.penalties.push((rtt - least, rate));
        self.beyond.push(((rtt - best).max(0.0), rate));
        self.worse += if rtt > best * 1.1 && rtt > best + 2.0 { rate } else { 0.0 };
        self.asked += rate;
    }

    fn worse_percent(&self) -> f64 {
        100.0 * self.worse / self.asked
    }
}

/// The value below which this part of all weight lies. Sorts.
fn quantile(values: &mut [(f64, f64)], part: f64) -> f64 {
    values.sort_by(|a, b| a.0.total_cmp(&b.0));
    let mut left = values.iter().map(|(_, weight)| weight).sum::<f64>() * part;
    let found = values.iter().find(|(_, weight)| {
        left -= weight;
        left <= 0.0
    });
    found.map_or(0.0, |(value, _)| *value)
}

fn mean(values: &[(f64, f64)]) -> f64 {
    let all: f64 = values.iter().map(|(_, weight)| weight).sum();
    values.iter().map(|(value, weight)| value * weight).sum::<f64>() / all
}

impl Counts {
    pub(super) fn row(mut self, replicas: usize, load: f64, capacities_known: bool) -> Row {
        let over = self.utilisations.iter().filter(|utilisation| **utilisation > 1.0).count();
        Row {
            replicas,
            load,
            capacities_known,
            most_utilised: self.utilisations.iter().copied().fold(0.0, f64::max),
            overloaded_percent: 100.0 * over as f64 / self.utilisations.len().max(1) as f64,
            p50_ms: quantile(&mut self.map.penalties, 0.5),
            p95_ms: quantile(&mut self.map.penalties, 0.95),
            mean_ms: mean(&self.map.penalties),
            best_p95_ms: quantile(&mut self.best, 0.95),
            best_mean_ms: mean(&self.best),
            spared_p95_ms: quantile(&mut self.spared, 0.95),
            spared_mean_ms: mean(&self.spared),
            nearest_p95_ms: quantile(&mut self.nearest.penalties, 0.95),
            overflow_p95_ms: quantile(&mut self.overflow.penalties, 0.95),
            overflow_mean_ms: mean(&self.overflow.penalties),
            beyond_p95_ms: quantile(&mut self.map.beyond, 0.95),
            nearest_beyond_p95_ms: quantile(&mut self.nearest.beyond, 0.95),
            overflow_beyond_p95_ms: quantile(&mut self.overflow.beyond, 0.95),
            worse_percent: self.map.worse_percent(),
            nearest_worse_percent: self.nearest.worse_percent(),
            overflow_worse_percent: self.overflow.worse_percent(),
            changes_per_client_hour: 360.0 * self.moved / self.map.asked,
            changes_learning: self.moved_learning / self.asked_learning * self.rounds_learning as f64,
            compute_ms: self.spent.as_secs_f64() * 1000.0 / f64::from(self.generations.max(1)),
        }
    }
}
