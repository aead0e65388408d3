//! Measures resolvers that redirectors ask for, where the operator has agreed
//! (`[map] probe_resolvers`).
//!
//! Who is measured when is decided by [`Prober`]; here is what waits, sends and tells. What is asked
//! for is looked at again with this node's own rules: a redirector can ask for an address, never make
//! a node send anything to one that its operator has not opened.

use crate::clock;
use crate::config::MapConfig;
use crate::driver::Command;
use crate::snapshot::Snapshot;
use futures::stream::{FuturesUnordered, StreamExt};
use godwit_core::member;
use godwit_core::name::ZoneName;
use godwit_core::resolver::{Input, Method, Outcome, Probe, Prober};
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::{Registry, Unit};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{mpsc, watch};
use tokio::time::MissedTickBehavior;
use tokio_util::sync::CancellationToken;

/// An answer that takes longer says nothing of a path.
const TIMEOUT: Duration = Duration::from_secs(2);
/// What was found is told ten times while everybody is measured once, but no more often and no less
/// often than this: each time costs all redirectors a new map.
const TELL_MIN: Duration = Duration::from_secs(5);
const TELL_MAX: Duration = Duration::from_secs(60);
/// With nobody to measure, the clock is looked at this often.
const IDLE: Duration = Duration::from_secs(60);

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Ended {
    method: &'static str,
    outcome: &'static str,
}

/// Metrics of measuring resolvers.
pub(crate) struct ResolverMetrics {
    probes: Family<Ended, Counter>,
    latency: Histogram,
    targets: Gauge,
    silent: Gauge,
    refused: Gauge,
    /// What this member, a redirector, asks for.
    pub(crate) asked: Gauge,
}

impl Default for ResolverMetrics {
    fn default() -> ResolverMetrics {
        ResolverMetrics {
            probes: Family::default(),
            latency: Histogram::new([0.001, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 2.0]),
            targets: Gauge::default(),
            silent: Gauge::default(),
            refused: Gauge::default(),
            asked: Gauge::default(),
        }
    }
}

impl ResolverMetrics {
    pub(crate) fn register(&self, registry: &mut Registry) {
        let registry = registry.sub_registry_with_prefix("probe_resolver");
        let help = "Resolvers probed from here, by how and how it ended";
        registry.register("probes", help, self.probes.clone());
        let help = "Round-trip times found";
        registry.register_with_unit("rtt", help, Unit::Seconds, self.latency.clone());
        registry.register("targets", "Resolvers measured from here", self.targets.clone());
        registry.register("silent", "Of these, those that did not answer last time", self.silent.clone());
        let help = "Resolvers asked for that this node's rules do not let it measure";
        registry.register("forbidden", help, self.refused.clone());
        let help = "Resolvers that this redirector asks to be measured";
        registry.register("asked", help, self.asked.clone());
    }

    fn ended(&self, probe: Probe, outcome: Outcome) {
        let method = match probe.method {
            Method::Echo => "echo",
            Method::Connect => "connect",
        };
        let outcome = match outcome {
            Outcome::Took(took) => {
                self.latency.observe(took.as_secs_f64());
                "ok"
            }
            Outcome::Silent => "silent",
            Outcome::Unable => "unable",
        };
        self.probes.get_or_create(&Ended { method, outcome }).inc();
    }
}

/// Everything that the task needs.
pub(crate) struct Measuring {
    pub(crate) zone: ZoneName,
    pub(crate) config: MapConfig,
    pub(crate) snapshots: watch::Receiver<Arc<Snapshot>>,
    pub(crate) commands: mpsc::Sender<Command>,
    pub(crate) metrics: Arc<ResolverMetrics>,
    pub(crate) stop: CancellationToken,
}

impl Measuring {
    /// Measures until `stop`, and tells the machine what it finds.
    pub(crate) async fn run(mut self) {
        let mut prober = Prober::new(self.config.probe_pace(), rand::random());
        // A person who wonders at the other end can find whose packets these are.
        let who: Arc<str> = format!("godwit {}", self.zone).into();
        let mut flights = FuturesUnordered::new();
        let period = (self.config.probe_pace().again / 10).clamp(TELL_MIN, TELL_MAX);
        let mut tell_at = tokio::time::interval(period);
        tell_at.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut told = Vec::new();
        let mut listed = self.targets();
        prober.handle(clock::now(), Input::Targets(listed.clone()));
        loop {
            while let Some(probe) = prober.poll_output() {
                let who = who.clone();
                flights.push(async move {
                    (probe, godwit_probe::resolver::measure(probe, &who, rand::random(), TIMEOUT).await)
                });
            }
            let wake = prober.next_deadline().map_or(IDLE, |deadline| deadline.since(clock::now()));
            let input = tokio::select! {
                () = self.stop.cancelled() => return,
                changed = self.snapshots.changed() => match changed {
                    Ok(()) => {
                        let now = self.targets();
                        if now == listed { continue }
                        listed.clone_from(&now);
                        Input::Targets(now)
                    }
                    Err(_) => return,
                },
                Some((probe, outcome)) = flights.next(), if !flights.is_empty() => {
                    self.metrics.ended(probe, outcome);
                    Input::Done { probe, outcome }
                }
                _ = tell_at.tick() => {
                    let found = prober.found(clock::now());
                    if found != told {
                        told.clone_from(&found);
                        let input = member::Input::ResolverRtts(found);
                        if self.commands.send(Command::Input(input)).await.is_err() {
                            return;
                        }
                    }
                    Input::Timer
                }
                () = tokio::time::sleep(wake) => Input::Timer,
            };
            prober.handle(clock::now(), input);
            self.metrics.targets.set(prober.watched() as i64);
            self.metrics.silent.set(prober.silent() as i64);
        }
    }

    /// Whom to measure: those asked for that this node's operator lets it measure.
    fn targets(&mut self) -> Vec<IpAddr> {
        let rules = self.config.probe_rules();
        let asked = self.snapshots.borrow_and_update().resolvers.clone();
        let count = asked.len();
        let targets: Vec<IpAddr> = asked.into_iter().filter(|address| rules.allow(*address)).collect();
        self.metrics.refused.set((count - targets.len()) as i64);
        targets
    }
}
