//! Penalties by policy, with weights.

use serde::Serialize;
use std::collections::BTreeMap;

/// One answer to one network.
#[derive(Clone, Copy)]
pub(super) struct Penalty {
    /// RTT to the chosen replica, ms.
    pub(super) chosen: f64,
    /// RTT to the best one, ms.
    pub(super) best: f64,
    /// People behind it.
    pub(super) population: f64,
    /// Its part of its city.
    pub(super) alike: f64,
}

impl Penalty {
    fn ms(&self) -> f64 {
        self.chosen - self.best
    }

    pub(super) fn is_material(&self) -> bool {
        self.chosen > self.best * 1.1 && self.chosen > self.best + 2.0
    }
}

/// Penalties by policy, in the order of the table.
#[derive(Default)]
pub(super) struct Penalties(BTreeMap<usize, (String, Vec<Penalty>)>);

/// One line of the table.
#[derive(Serialize)]
pub(super) struct Row {
    pub(super) replicas: usize,
    pub(super) policy: String,
    pub(super) by_population: Figures,
    pub(super) alike: Figures,
}

/// What is told of a set of penalties.
#[derive(Serialize)]
pub(super) struct Figures {
    pub(super) p50_ms: f64,
    pub(super) p95_ms: f64,
    pub(super) p99_ms: f64,
    pub(super) mean_ms: f64,
    pub(super) worse_percent: f64,
}

impl Penalties {
    pub(super) fn add(&mut self, order: usize, policy: &str, penalty: Penalty) {
        self.0.entry(order).or_insert_with(|| (policy.to_owned(), Vec::new())).1.push(penalty);
    }

    pub(super) fn rows(self, replicas: usize) -> impl Iterator<Item = Row> {
        self.0.into_values().map(move |(policy, mut penalties)| {
            penalties.sort_by(|a, b| a.ms().total_cmp(&b.ms()));
            let by_population = Figures::of(&penalties, |penalty| penalty.population);
            let alike = Figures::of(&penalties, |penalty| penalty.alike);
            Row { replicas, policy, by_population, alike }
        })
    }
}

impl Figures {
    /// Of penalties in ascending order.
    fn of(penalties: &[Penalty], weight: impl Fn(&Penalty) -> f64) -> Figures {
        let total: f64 = penalties.iter().map(&weight).sum();
        let quantile = |q: f64| {
            let mut below = 0.0;
            let at = penalties.iter().find(|penalty| {
                below += weight(penalty);
                below >= q * total
            });
            at.map_or(0.0, Penalty::ms)
        };
        let worse: f64 = penalties.iter().filter(|penalty| penalty.is_material()).map(&weight).sum();
        let mean = penalties.iter().map(|penalty| penalty.ms() * weight(penalty)).sum::<f64>();
        Figures {
            p50_ms: quantile(0.5),
            p95_ms: quantile(0.95),
            p99_ms: quantile(0.99),
            mean_ms: mean / total,
            worse_percent: 100.0 * worse / total,
        }
    }
}
