//! What the checks of a static zone find, for monitors: in the names that members use where they mean
//! the same, and by address.

use godwit_core::health::{Agreed, Opinion};
use godwit_core::name::{CheckName, MemberName};
use godwit_map::Inputs;
use godwit_probe::Fault;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::{Registry, Unit};
use std::collections::BTreeMap;
use std::sync::atomic::AtomicU64;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct State {
    state: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Outcome {
    outcome: &'static str,
}

/// One check of one address. There are at most as many as one redirector checks.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, EncodeLabelSet)]
pub(crate) struct TargetLabels {
    pub(crate) address: String,
    pub(crate) region: String,
    pub(crate) check: String,
}

/// Metrics of checks. Cheap to clone; all clones are one.
#[derive(Clone)]
pub(crate) struct HealthMetrics {
    probes: Family<Outcome, Counter>,
    latency: Histogram,
    watched: Gauge,
    opinions: Family<State, Counter>,
    checks: Family<State, Gauge>,
    transitions: Family<State, Counter>,
    up: Family<TargetLabels, Gauge>,
    turned: Family<TargetLabels, Gauge>,
    took: Family<TargetLabels, Gauge<f64, AtomicU64>>,
}

impl Default for HealthMetrics {
    fn default() -> HealthMetrics {
        HealthMetrics {
            probes: Family::default(),
            // From one host to the other side of the earth, to the longest timeout.
            latency: Histogram::new([0.001, 0.005, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 30.0]),
            watched: Gauge::default(),
            opinions: Family::default(),
            checks: Family::default(),
            transitions: Family::default(),
            up: Family::default(),
            turned: Family::default(),
            took: Family::default(),
        }
    }
}

/// What holds of each check of each address.
pub(crate) type Held = BTreeMap<(MemberName, CheckName), Agreed>;

/// What holds in these inputs.
pub(crate) fn held(inputs: &Inputs) -> Held {
    let of = |member: &godwit_map::MemberInput| {
        let name = member.name.clone();
        member
            .checks
            .iter()
            .map(move |check| ((name.clone(), check.name.clone()), check.state))
            .collect::<Vec<_>>()
    };
    inputs.members.iter().flat_map(of).collect()
}

impl HealthMetrics {
    pub(crate) fn register(&self, registry: &mut Registry) {
        let help = "Health probes made from here, by how they ended";
        registry.register("health_probes", help, self.probes.clone());
        let help = "Time of probes that succeeded";
        registry.register_with_unit("health_probe", help, Unit::Seconds, self.latency.clone());
        registry.register("health_watched", "Checks made from here", self.watched.clone());
        let help = "Times that a check turned, by what to";
        registry.register("health_opinions", help, self.opinions.clone());
        registry.register("health_checks", "Checks of all addresses, by what holds", self.checks.clone());
        let help = "Times that what holds turned, by what to";
        registry.register("health_transitions", help, self.transitions.clone());
        let help = "Whether an address passes a check; not there while nothing is known";
        registry.register("health_target_up", help, self.up.clone());
        let help = "When a check of an address turned last, since the Unix epoch";
        registry.register_with_unit(
            "health_target_turned_timestamp",
            help,
            Unit::Seconds,
            self.turned.clone(),
        );
        let help = "Time of an address's last probe that succeeded";
        registry.register_with_unit("health_target_probe", help, Unit::Seconds, self.took.clone());
    }

    /// A probe has ended.
    pub(crate) fn ended(&self, target: Option<TargetLabels>, outcome: &Result<Duration, Fault>) {
        let name = match outcome {
            Ok(took) => {
                self.latency.observe(took.as_secs_f64());
                if let Some(target) = target {
                    self.took.get_or_create(&target).set(took.as_secs_f64());
                }
                "ok"
            }
            Err(Fault::Target(failure)) => failure.as_str(),
            Err(Fault::Here(_)) => "not-made",
        };
        self.probes.get_or_create(&Outcome { outcome: name }).inc();
    }

    /// A check has turned.
    pub(crate) fn turned(&self, target: Option<TargetLabels>, to: Opinion) {
        self.opinions.get_or_create(&State { state: to.as_str() }).inc();
        let Some(target) = target else { return };
        let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
        self.up.get_or_create(&target).set(i64::from(to == Opinion::Up));
        self.turned.get_or_create(&target).set(now as i64);
    }

    /// These are checked from now on; `gone` are not any more.
    pub(crate) fn watch(&self, count: usize, gone: impl IntoIterator<Item = TargetLabels>) {
        self.watched.set(count as i64);
        for target in gone {
            self.up.remove(&target);
            self.turned.remove(&target);
            self.took.remove(&target);
        }
    }

    /// This holds now, and that did before.
    pub(crate) fn holds(&self, now: &Held, before: &Held) {
        for state in [Agreed::Unknown, Agreed::Up, Agreed::Doubted, Agreed::Down] {
            let count = now.values().filter(|held| **held == state).count();
            self.checks.get_or_create(&State { state: state.as_str() }).set(count as i64);
        }
        for (target, state) in now {
            if before.get(target).copied().unwrap_or_default() != *state {
                self.transitions.get_or_create(&State { state: state.as_str() }).inc();
            }
        }
    }
}
