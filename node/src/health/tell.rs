//! What was found and agreed, for monitors and for the log: told when it changes.

use crate::snapshot::{Known, Snapshot};
use godwit_core::health::{Agreed, Opinion, Target};
use godwit_core::key::MemberId;
use godwit_probe::Fault;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::{Registry, Unit};
use std::collections::BTreeMap;
use std::time::Duration;

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct State {
    state: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Outcome {
    outcome: &'static str,
}

/// Metrics of health checks.
pub(crate) struct HealthMetrics {
    /// Probes made from here, by how they ended.
    probes: Family<Outcome, Counter>,
    /// How long right answers took.
    latency: Histogram,
    /// Checks watched from here.
    pub(crate) watched: Gauge,
    /// Opinions that changed here.
    opinions: Family<State, Counter>,
    /// Checks of all members, by what was agreed.
    checks: Family<State, Gauge>,
    /// Agreed states that changed.
    transitions: Family<State, Counter>,
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
        }
    }
}

impl HealthMetrics {
    pub(crate) fn register(&self, registry: &mut Registry) {
        let help = "Health probes made from here, by how they ended";
        registry.register("health_probes", help, self.probes.clone());
        let help = "Time of probes that succeeded";
        registry.register_with_unit("health_probe", help, Unit::Seconds, self.latency.clone());
        registry.register("health_watched", "Checks of others made from here", self.watched.clone());
        let help = "Times that a check turned for this vantage, by what to";
        registry.register("health_opinions", help, self.opinions.clone());
        registry.register(
            "health_checks",
            "Checks of all members, by what vantages agree on",
            self.checks.clone(),
        );
        let help = "Times that what vantages agree on turned, by what to";
        registry.register("health_transitions", help, self.transitions.clone());
    }

    pub(super) fn ended(&self, outcome: &Result<Duration, Fault>) {
        let name = match outcome {
            Ok(took) => {
                self.latency.observe(took.as_secs_f64());
                "ok"
            }
            Err(Fault::Target(failure)) => failure.as_str(),
            Err(Fault::Here(_)) => "not-made",
        };
        self.probes.get_or_create(&Outcome { outcome: name }).inc();
    }

    pub(super) fn turned(&self, to: Opinion) {
        self.opinions.get_or_create(&State { state: to.as_str() }).inc();
    }

    /// Takes over what was agreed, and logs what has turned.
    pub(crate) fn agreed(&self, snapshot: &Snapshot, turned: &[(Target, Agreed, Agreed)]) {
        let mut counts: BTreeMap<Agreed, i64> = BTreeMap::new();
        snapshot.health.values().for_each(|agreement| *counts.entry(agreement.state).or_default() += 1);
        for state in [Agreed::Unknown, Agreed::Up, Agreed::Doubted, Agreed::Down] {
            let gauge = self.checks.get_or_create(&State { state: state.as_str() });
            gauge.set(counts.get(&state).copied().unwrap_or(0));
        }
        for (target, from, to) in turned {
            self.transitions.get_or_create(&State { state: to.as_str() }).inc();
            let agreement = snapshot.health.get(target);
            let downs =
                agreement.map_or(0, |a| a.says.iter().filter(|say| say.opinion == Opinion::Down).count());
            let vantages = agreement.map_or(0, |agreement| agreement.says.len());
            let why = agreement.and_then(|agreement| agreement.says.iter().find_map(|say| say.why));
            let why = why.map(|why| why.to_string());
            let (member, check, from) = (name(snapshot, &target.member), &target.check, from.as_str());
            match to {
                Agreed::Down => {
                    tracing::warn!(member, %check, from, why, downs, vantages, "a service is down");
                }
                Agreed::Doubted => {
                    tracing::warn!(member, %check, from, why, downs, vantages, "a service is doubted: those who say down see everything down");
                }
                // What was not down before is no news.
                Agreed::Up | Agreed::Unknown if from == "down" || from == "doubted" => {
                    tracing::info!(member, %check, from, to = to.as_str(), "a service is not down any more");
                }
                Agreed::Up | Agreed::Unknown => {}
            }
        }
    }
}

/// A member's name, for people.
pub(super) fn name(snapshot: &Snapshot, member: &MemberId) -> String {
    let name = |known: &Known| known.certificate.grant().name.to_string();
    snapshot.members.get(member).map_or_else(|| member.short().to_string(), name)
}
