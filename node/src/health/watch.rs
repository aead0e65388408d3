//! Whom this member checks, and what becomes of it.

use super::site::{SiteProbes, public_address};
use super::tell::{HealthMetrics, name};
use crate::clock;
use crate::driver::Command;
use crate::snapshot::{Known, Snapshot};
use futures::FutureExt;
use futures::future::BoxFuture;
use godwit_core::health::{Check, Failure, Opinion, Probe, Target};
use godwit_core::key::MemberId;
use godwit_core::member::{Input, State};
use godwit_probe::http::{Request, judge};
use godwit_probe::{Fault, Prober, Report, Runner, Vantage};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;

/// Latencies are told to the machine this often when nothing else has changed.
const TELL_PERIOD: Duration = Duration::from_secs(5);

/// What makes this member's probes.
pub(crate) struct Vantages {
    pub(crate) prober: Prober,
    pub(crate) sites: Arc<SiteProbes>,
    pub(crate) snapshots: watch::Receiver<Arc<Snapshot>>,
    pub(crate) metrics: Arc<HealthMetrics>,
}

impl Vantage for Vantages {
    fn probe(&self, target: &Target, check: &Check) -> BoxFuture<'static, Result<Duration, Fault>> {
        let (prober, sites, timeout) = (self.prober.clone(), self.sites.clone(), check.pace.timeout);
        let member = target.member;
        let ip = self.snapshots.borrow().members.get(&member).and_then(public_address);
        let probe = check.probe.clone();
        async move {
            let address = |port| {
                ip.map(|ip| SocketAddr::new(ip, port)).ok_or_else(|| Fault::Here("no public address".into()))
            };
            match probe {
                Probe::Site => sites.probe(member, timeout).await,
                Probe::Tcp { port } => prober.tcp(address(port)?, timeout).await,
                Probe::Http(http) => {
                    let answer = prober.http(address(http.port)?, &Request::of(&http), timeout).await?;
                    Ok(judge(&http, &answer)?)
                }
            }
        }
        .boxed()
    }

    fn ended(&self, _target: &Target, _check: &Check, outcome: &Result<Duration, Fault>) {
        self.metrics.ended(outcome);
    }

    fn turned(&self, target: &Target, from: Opinion, to: Opinion, why: Option<Failure>) {
        self.metrics.turned(to);
        let snapshot = self.snapshots.borrow().clone();
        let (member, check) = (name(&snapshot, &target.member), &target.check);
        match (from, to) {
            (Opinion::Unknown, Opinion::Up) => {
                tracing::debug!(member, %check, "a service works, seen from here")
            }
            (_, Opinion::Down) => {
                let why = why.map(|why| why.to_string());
                tracing::info!(member, %check, why, "a service does not work, seen from here");
            }
            _ => tracing::info!(member, %check, "a service works again, seen from here"),
        }
    }
}

/// Checks whom this member is to check until `stop`, and tells the machine what it finds.
pub(crate) async fn watch(vantages: Vantages, commands: mpsc::Sender<Command>, stop: CancellationToken) {
    let mut snapshots = vantages.snapshots.clone();
    let metrics = vantages.metrics.clone();
    let (targets, followed) = watch::channel(targets(&snapshots.borrow_and_update()));
    let (report, mut reports) = watch::channel(Arc::new(Report::default()));
    let runner = Runner {
        vantage: Arc::new(vantages),
        clock: clock::now,
        seed: rand::random(),
        targets: followed,
        report,
        stop: stop.clone(),
    };
    let mut running = std::pin::pin!(runner.run());
    let mut told = Vec::new();
    let mut told_at = clock::now();
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            () = &mut running => return,
            changed = snapshots.changed() => {
                if changed.is_err() { return }
                let now = self::targets(&snapshots.borrow_and_update());
                targets.send_if_modified(|before| {
                    let differs = *before != now;
                    *before = now;
                    differs
                });
            }
            changed = reports.changed() => {
                if changed.is_err() { return }
                let report = reports.borrow_and_update().clone();
                metrics.watched.set(report.watched.len() as i64);
                let key = |verdicts: &[godwit_core::health::Verdict]| -> Vec<_> {
                    verdicts.iter().map(|v| (v.target, v.check.clone(), v.opinion)).collect()
                };
                let now = clock::now();
                if key(&report.verdicts) == key(&told) && now.since(told_at) < TELL_PERIOD {
                    continue;
                }
                told.clone_from(&report.verdicts);
                told_at = now;
                let input = Input::Verdicts(report.verdicts.clone());
                if commands.send(Command::Input(input)).await.is_err() {
                    return;
                }
            }
        }
    }
}

/// What this member is to check: the checks of those that it was chosen for and that can be there.
fn targets(snapshot: &Snapshot) -> Vec<(MemberId, Check)> {
    let there = |known: &&Known| {
        let there = matches!(known.state, State::Alive | State::Suspect);
        there && !known.own && known.entry.as_ref().is_some_and(|entry| entry.ready)
    };
    let chosen = snapshot.members.iter().filter(|(id, known)| there(known) && snapshot.watched.contains(id));
    let checks = |(id, known): (&MemberId, &Known)| {
        let entry = known.entry.as_ref().filter(|_| public_address(known).is_some());
        let checks = entry.map(|entry| entry.checks.clone()).unwrap_or_default();
        checks.into_iter().map(|check| (*id, check)).collect::<Vec<_>>()
    };
    chosen.flat_map(checks).collect()
}
