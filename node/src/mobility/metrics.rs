//! What monitors are told of home addresses.

use super::status::Told;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct StateLabel {
    state: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct WayLabel {
    way: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ReasonLabel {
    reason: String,
}

/// Metrics of home addresses at a node.
#[derive(Default)]
pub(crate) struct MobilityMetrics {
    services: Family<StateLabel, Gauge>,
    bindings: Family<StateLabel, Gauge>,
    replies: Family<WayLabel, Gauge>,
    packets: Family<WayLabel, Counter>,
    octets: Family<WayLabel, Counter>,
    dropped: Family<ReasonLabel, Counter>,
    moving: Gauge,
    given: Gauge,
    forwarded: Gauge,
    forward_failures: Counter,
}

impl MobilityMetrics {
    pub(crate) fn register(&self, registry: &mut Registry) {
        let mut gauge = |name: &str, help: &str, family: &Family<StateLabel, Gauge>| {
            registry.register(name, help, family.clone());
        };
        gauge("node_home_services", "names served at home addresses", &self.services);
        gauge("node_home_bindings", "bindings at home agents", &self.bindings);
        registry.register("node_home_replies", "home addresses, by the way of replies", self.replies.clone());
        registry.register("node_home_packets", "packets of home addresses", self.packets.clone());
        registry.register("node_home_packets_bytes", "bytes of them", self.octets.clone());
        registry.register("node_home_packets_dropped", "packets that went no further", self.dropped.clone());
        registry.register(
            "node_home_flows_moving",
            "flows whose packets wait or are passed on",
            self.moving.clone(),
        );
        registry.register(
            "node_home_flows_given",
            "flows given away whose packets may still come",
            self.given.clone(),
        );
        registry.register(
            "node_home_forwarded",
            "forwarded connections and sessions",
            self.forwarded.clone(),
        );
        registry.register(
            "node_home_forward_failures",
            "of them, not accepted",
            self.forward_failures.clone(),
        );
    }

    /// What is so now.
    pub(super) fn tell(&self, told: &Told) {
        let states = ["open", "draining", "not bound"];
        for state in states {
            let count = told.services.iter().filter(|service| service.state == state).count();
            self.services.get_or_create(&StateLabel { state: state.replace(' ', "-") }).set(count as i64);
        }
        for state in ["up", "lost", "unproved", "refused"] {
            let count = told.bindings.iter().filter(|binding| binding.state == state).count();
            self.bindings.get_or_create(&StateLabel { state: state.to_owned() }).set(count as i64);
        }
        for way in ["direct", "tunnel"] {
            let mut homes: Vec<_> =
                told.bindings.iter().filter(|one| one.replies == way).map(|one| one.home).collect();
            homes.sort();
            homes.dedup();
            self.replies.get_or_create(&WayLabel { way: way.to_owned() }).set(homes.len() as i64);
        }
        let (counts, decided) = (&told.counts, &told.decided);
        for (way, count) in [
            ("delivered", counts.delivered),
            ("sealed", counts.sealed),
            ("relayed", counts.relayed),
            ("second-chance", decided.second_chances),
            ("given-back", decided.given_back),
            ("passed-on", decided.passed_on),
            ("relayed-here", decided.relayed_here),
            ("injected", counts.injected),
        ] {
            raise(&self.packets.get_or_create(&WayLabel { way: way.to_owned() }), count);
        }
        for (way, octets) in [("delivered", counts.delivered_octets), ("sealed", counts.sealed_octets)] {
            raise(&self.octets.get_or_create(&WayLabel { way: way.to_owned() }), octets);
        }
        for (reason, count) in &counts.dropped {
            raise(&self.dropped.get_or_create(&ReasonLabel { reason: reason.to_string() }), *count);
        }
        raise(&self.dropped.get_or_create(&ReasonLabel { reason: "no-relay".to_owned() }), decided.no_relay);
        self.moving.set(decided.moving as i64);
        self.given.set(decided.given as i64);
        self.forwarded.set(told.services.iter().map(|service| service.forwarded as i64).sum());
        raise(&self.forward_failures, told.services.iter().map(|service| service.failed_total).sum());
    }
}

/// Counters only grow; what was counted elsewhere may have begun anew.
fn raise(counter: &Counter, to: u64) {
    let now = counter.get();
    if to > now {
        counter.inc_by(to - now);
    }
}
