//! What the map has decided, for monitors: the figures of the present generation, and what has
//! changed over all of them.

use godwit_map::Decisions;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;
use serde::Serialize;
use std::collections::BTreeMap;
use std::sync::atomic::AtomicU64;

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Reason {
    reason: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Source {
    source: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Tier {
    tier: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct State {
    state: &'static str,
}

/// Requests per second.
type Rate = Gauge<f64, AtomicU64>;

/// Metrics of the map.
#[derive(Default)]
pub(crate) struct MapMetrics {
    localities: Family<Reason, Gauge>,
    estimates: Family<Source, Gauge>,
    divided: Gauge,
    changes: Counter,
    moved: Counter<f64, AtomicU64>,
    demand: Rate,
    capacity: Rate,
    members: Family<State, Gauge>,
    sites: Family<Tier, Gauge>,
}

impl MapMetrics {
    /// Takes over what a new generation has decided.
    pub(crate) fn decided(&self, decisions: &Decisions) {
        let gauge = |count: u64| i64::try_from(count).unwrap_or(i64::MAX);
        // What does not occur any more is not shown.
        self.localities.clear();
        for (reason, count) in named(&decisions.by_reason) {
            self.localities.get_or_create(&Reason { reason }).set(gauge(count));
        }
        if decisions.hashed > 0 {
            self.localities.get_or_create(&Reason { reason: "hash".into() }).set(gauge(decisions.hashed));
        }
        self.estimates.clear();
        for (source, count) in named(&decisions.by_source) {
            self.estimates.get_or_create(&Source { source }).set(gauge(count));
        }
        self.sites.clear();
        for (tier, count) in named(&decisions.sites_by_tier) {
            self.sites.get_or_create(&Tier { tier }).set(gauge(count));
        }
        let states = [
            ("full", decisions.full),
            ("overloaded", decisions.overloaded),
            ("quarantined", decisions.quarantined),
            ("spared", decisions.spared),
            ("silent", decisions.silent),
        ];
        for (state, count) in states {
            self.members.get_or_create(&State { state }).set(gauge(count));
        }
        self.divided.set(gauge(decisions.divided));
        self.changes.inc_by(decisions.changed);
        self.moved.inc_by(decisions.changed_mrps as f64 / 1000.0);
        self.demand.set(decisions.demand_mrps as f64 / 1000.0);
        self.capacity.set(decisions.capacity_mrps as f64 / 1000.0);
    }

    pub(super) fn register(&self, r: &mut Registry) {
        let help = "Places and prefixes, by why their first replica is the first";
        r.register("map_localities", help, self.localities.clone());
        let help = "Places and prefixes, by where the estimate of the first replica comes from";
        r.register("map_estimates", help, self.estimates.clone());
        let help = "Places and prefixes divided among several replicas";
        r.register("map_divided", help, self.divided.clone());
        let help = "Times that a place or prefix was given another first replica";
        r.register("map_changes", help, self.changes.clone());
        let help = "Requests per second of places and prefixes given another first replica, added up";
        r.register("map_moved_rps", help, self.moved.clone());
        r.register("map_demand_rps", "Requests per second told by all members", self.demand.clone());
        r.register("map_capacity_rps", "Requests per second that nodes can take", self.capacity.clone());
        r.register("map_members", "Members in the map, by what is special", self.members.clone());
        r.register("map_sites", "Sites, by which rules gave way", self.sites.clone());
    }
}

/// The counts by the names that `why` has for the same.
fn named<K: Serialize>(counts: &BTreeMap<K, u64>) -> impl Iterator<Item = (String, u64)> {
    let name = |key: &K| serde_json::to_value(key).ok()?.as_str().map(str::to_owned);
    counts.iter().filter_map(move |(key, count)| Some((name(key)?, *count)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use godwit_map::Because;

    #[test]
    fn figures_are_of_the_present_generation_and_changes_add_up() {
        let metrics = MapMetrics::default();
        let mut registry = Registry::with_prefix("godwit");
        metrics.register(&mut registry);
        let mut decisions = Decisions { changed: 2, changed_mrps: 1500, full: 1, ..Decisions::default() };
        decisions.by_reason.insert(Because::Overflow, 3);
        metrics.decided(&decisions);
        decisions.by_reason = BTreeMap::from([(Because::Nearest, 7)]);
        metrics.decided(&decisions);
        let mut text = String::new();
        prometheus_client::encoding::text::encode(&mut text, &registry).unwrap();
        for line in [
            "godwit_map_localities{reason=\"nearest\"} 7",
            "godwit_map_changes_total 4",
            "godwit_map_moved_rps_total 3.0",
            "godwit_map_members{state=\"full\"} 1",
        ] {
            assert!(text.contains(line), "{line} in\n{text}");
        }
        assert!(!text.contains("overflow"));
    }
}
