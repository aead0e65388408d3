//! What monitors are told: names are public API.

use crate::driver::state_name;
use crate::steering::Steering;
use godwit_core::binding::cache::{Binding, Counts, State};
use godwit_core::flow::FlowKey;
use godwit_core::flow::table::Refusal;
use godwit_net::tunnel::{Engine, Reason};
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeLabelSet, EncodeMetric};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::{ConstCounter, Counter};
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;
use std::fmt;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, PoisonError, Weak};

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Outcome {
    outcome: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct InState {
    state: &'static str,
}

/// What the task counts.
#[derive(Debug, Default)]
pub(crate) struct Metrics {
    bindings: Family<InState, Gauge>,
    updates: Family<Outcome, Counter>,
    paths_lost: Counter,
    care_of_proved: Counter,
    flows: Family<Outcome, Counter>,
    pub(crate) malformed: Counter,
    pub(crate) misdirected: Counter,
    pub(crate) moved_flows: Gauge,
    pub(crate) announced: Gauge,
    pub(crate) announce_failed: Gauge,
    pub(crate) settled: Gauge,
}

impl Metrics {
    /// Registers everything, what the tunnel and the steering count included.
    pub(crate) fn register(
        self: &Arc<Metrics>,
        registry: &Arc<Mutex<Registry>>,
        steering: &Arc<Steering>,
        engine: &Arc<Engine>,
    ) {
        let mut registry = registry.lock().unwrap_or_else(PoisonError::into_inner);
        let home = registry.sub_registry_with_prefix("home");
        home.register("bindings", "Care-of addresses of nodes, by state", self.bindings.clone());
        home.register(
            "binding_updates",
            "What nodes said of bindings, by what became of it",
            self.updates.clone(),
        );
        home.register("paths_lost", "Care-of addresses that stopped answering", self.paths_lost.clone());
        home.register(
            "care_of_proved",
            "Care-of addresses that proved themselves",
            self.care_of_proved.clone(),
        );
        home.register(
            "flow_updates",
            "Flows that nodes bound by name, by what became of it",
            self.flows.clone(),
        );
        home.register("flows_bound", "Flows that are bound by name", self.moved_flows.clone());
        home.register("messages_malformed", "Messages of members that are none", self.malformed.clone());
        home.register(
            "messages_misdirected",
            "Messages of members that are for nodes",
            self.misdirected.clone(),
        );
        home.register("announced", "Home addresses that are announced", self.announced.clone());
        home.register(
            "announce_failed",
            "Whether the last announcement failed",
            self.announce_failed.clone(),
        );
        home.register("settled", "Whether the nodes are known", self.settled.clone());
        let (steering, engine) = (Arc::downgrade(steering), Arc::downgrade(engine));
        home.register_collector(Box::new(Packets { steering, engine }));
    }

    /// The bindings as they are now.
    pub(crate) fn bindings<'a>(&self, bindings: impl Iterator<Item = Binding<'a>>) {
        let mut counts = [(State::Unproved, 0), (State::Up, 0), (State::Lost, 0)];
        for binding in bindings {
            for (state, count) in &mut counts {
                *count += i64::from(*state == binding.state);
            }
        }
        for (state, count) in counts {
            self.bindings.get_or_create(&InState { state: state_name(state) }).set(count);
        }
    }

    /// What the binding cache has counted so far.
    pub(crate) fn updates(&self, counts: &Counts) {
        let set = |counter: &Counter, value: u64| counter.inner().store(value, Ordering::Relaxed);
        let outcomes = [
            ("accepted", counts.accepted),
            ("out-of-order", counts.out_of_order),
            ("prohibited", counts.prohibited),
            ("other-incarnation", counts.other_incarnation),
            ("full", counts.full),
            ("malformed", counts.malformed),
            ("too-often", counts.too_often),
            ("wrong-cookie", counts.wrong_cookies),
            ("expired", counts.expired),
        ];
        for (outcome, value) in outcomes {
            set(&self.updates.get_or_create(&Outcome { outcome }), value);
        }
        set(&self.paths_lost, counts.lost);
        set(&self.care_of_proved, counts.proved);
    }

    /// What became of flows that a node wanted to bind.
    pub(crate) fn flows_bound(&self, count: usize, result: &Result<Vec<(FlowKey, Refusal)>, Refusal>) {
        let add = |outcome, count: usize| {
            self.flows.get_or_create(&Outcome { outcome }).inc_by(count as u64);
        };
        match result {
            Ok(refused) => {
                add("bound", count.saturating_sub(refused.len()));
                refused.iter().for_each(|(_, refusal)| add(refusal_name(*refusal), 1));
            }
            Err(refusal) => add(refusal_name(*refusal), count.max(1)),
        }
    }
}

fn refusal_name(refusal: Refusal) -> &'static str {
    match refusal {
        Refusal::OtherIncarnation => "other-incarnation",
        Refusal::OutOfOrder => "out-of-order",
        Refusal::TooMany => "too-many",
        Refusal::NotOwner => "not-owner",
        Refusal::Receiver => "receiver",
        Refusal::Full => "full",
    }
}

/// Reads what the tunnel's threads count, when it is asked for. It does not keep them running.
struct Packets {
    steering: Weak<Steering>,
    engine: Weak<Engine>,
}

impl fmt::Debug for Packets {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Packets")
    }
}

impl Collector for Packets {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        let (Some(steering), Some(engine)) = (self.steering.upgrade(), self.engine.upgrade()) else {
            return Ok(());
        };
        let counts = engine.counts();
        let mut family = |name: &str, help: &str, label: &'static str, values: &[(&str, u64)]| {
            let mut entries = encoder.encode_descriptor(name, help, None, MetricType::Counter)?;
            for (value, count) in values {
                ConstCounter::new(*count).encode(entries.encode_family(&[(label, *value)])?)?;
            }
            Ok::<(), fmt::Error>(())
        };
        let packets = [("to-node", counts.sealed), ("to-client", counts.delivered)];
        family("packets", "Packets through the tunnel", "direction", &packets)?;
        let octets = [("to-node", counts.sealed_octets), ("to-client", counts.delivered_octets)];
        family("octets", "Their octets, inside", "direction", &octets)?;
        let denied: Vec<(&str, u64)> =
            steering.denied().map(|(denial, count)| (denial.name(), count)).collect();
        family("denied", "Packets that went no further, by the home agent's reason", "reason", &denied)?;
        let dropped: Vec<(&str, u64)> = Reason::ALL
            .iter()
            .map(|reason| (reason.name(), counts.dropped.get(reason).copied().unwrap_or(0)))
            .collect();
        family("dropped", "Packets that went no further, by the tunnel's reason", "reason", &dropped)?;
        let errors = [("too-big", counts.errors_sent), ("unreachable", counts.injected)];
        family("errors_sent", "Errors that were sent to clients", "error", &errors)?;
        family(
            "events_lost",
            "What the tunnel had to tell and nobody had time for",
            "of",
            &[("tunnel", counts.events_lost)],
        )
    }
}
