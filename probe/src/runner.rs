//! Drives a [`Checker`]: waits, feeds, acts.
//!
//! One task owns the machine. Probes are made in tasks of their own, whose ends come back over a
//! channel; what was found is told as a [`Report`] after each change.

use crate::Fault;
use futures::future::BoxFuture;
use futures::stream::{FuturesUnordered, StreamExt};
use godwit_core::health::{Check, Checker, Failure, Input, Opinion, Output, Seen, Target, Verdict};
use godwit_core::key::MemberId;
use godwit_core::time::Time;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

/// With nothing to watch it looks at the clock this often.
const IDLE: Duration = Duration::from_secs(3600);

/// What a daemon does for its checker.
pub trait Vantage: Send + Sync + 'static {
    /// Makes a probe and tells how long the answer took. It need not keep the timeout: it is cut off
    /// a second after it.
    fn probe(&self, target: &Target, check: &Check) -> BoxFuture<'static, Result<Duration, Fault>>;

    /// A probe has ended: for metrics.
    fn ended(&self, target: &Target, check: &Check, outcome: &Result<Duration, Fault>);

    /// An opinion has changed: for the log.
    fn turned(&self, target: &Target, from: Opinion, to: Opinion, why: Option<Failure>);
}

/// What a vantage has found so far.
#[derive(Clone, Debug, Default)]
pub struct Report {
    /// What there is to tell others.
    pub verdicts: Vec<Verdict>,
    /// Everything that is watched, in order.
    pub watched: Vec<(Target, Check, Seen)>,
}

/// Everything that the task needs.
pub struct Runner<V> {
    /// What makes the probes.
    pub vantage: Arc<V>,
    /// The time, from a clock that never runs backwards.
    pub clock: fn() -> Time,
    /// Spreads probes; drawn anew at each start.
    pub seed: u64,
    /// What to watch.
    pub targets: watch::Receiver<Vec<(MemberId, Check)>>,
    /// Told after each probe that ended.
    pub report: watch::Sender<Arc<Report>>,
    /// Ends it.
    pub stop: CancellationToken,
}

type Ended = (Target, u64, Check, Result<Duration, Fault>);

impl<V: Vantage> Runner<V> {
    /// Runs until it is stopped.
    pub async fn run(mut self) {
        let mut checker = Checker::new(self.seed);
        let mut told = true;
        let mut flights: FuturesUnordered<BoxFuture<'static, Ended>> = FuturesUnordered::new();
        let targets = self.targets.borrow_and_update().clone();
        checker.handle((self.clock)(), Input::Targets(targets));
        loop {
            self.act(&mut checker, &flights);
            let wake = checker.next_deadline().map_or(IDLE, |deadline| deadline.since((self.clock)()));
            let input = tokio::select! {
                () = self.stop.cancelled() => return,
                changed = self.targets.changed(), if told => match changed {
                    Ok(()) => Input::Targets(self.targets.borrow_and_update().clone()),
                    // Nobody can change them any more: they stay.
                    Err(_) => {
                        told = false;
                        continue;
                    }
                },
                Some(ended) = flights.next(), if !flights.is_empty() => self.input(ended),
                () = tokio::time::sleep(wake) => Input::Timer,
            };
            checker.handle((self.clock)(), input);
            self.tell(&checker);
        }
    }

    fn act(&self, checker: &mut Checker, flights: &FuturesUnordered<BoxFuture<'static, Ended>>) {
        while let Some(output) = checker.poll_output() {
            match output {
                Output::Probe { target, attempt, check } => {
                    let limit = check.pace.timeout + Duration::from_secs(1);
                    // A task of its own, so that the probes move while this one waits for another.
                    let probe = tokio::spawn(self.vantage.probe(&target, &check));
                    let ended = async move {
                        let abort = probe.abort_handle();
                        let outcome = match tokio::time::timeout(limit, probe).await {
                            Ok(Ok(outcome)) => outcome,
                            Ok(Err(error)) => Err(Fault::Here(error.to_string())),
                            Err(_) => {
                                abort.abort();
                                Err(Fault::Target(Failure::Timeout))
                            }
                        };
                        (target, attempt, *check, outcome)
                    };
                    flights.push(Box::pin(ended));
                }
                Output::Turned { target, from, to, why } => self.vantage.turned(&target, from, to, why),
            }
        }
    }

    fn input(&self, ended: Ended) -> Input {
        let (target, attempt, check, outcome) = ended;
        self.vantage.ended(&target, &check, &outcome);
        match outcome {
            Ok(took) => Input::Done { target, attempt, outcome: Ok(took) },
            Err(Fault::Target(failure)) => Input::Done { target, attempt, outcome: Err(failure) },
            Err(Fault::Here(why)) => {
                tracing::debug!(member = target.member.short(), check = %target.check, why, "a probe was not made");
                Input::Void { target, attempt }
            }
        }
    }

    fn tell(&self, checker: &Checker) {
        let watched =
            checker.watched().map(|(target, check, seen)| (target.clone(), check.clone(), seen.clone()));
        let report = Report { verdicts: checker.verdicts(), watched: watched.collect() };
        self.report.send_replace(Arc::new(report));
    }
}
