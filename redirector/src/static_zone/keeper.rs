//! Follows the zone's files while it is served.
//!
//! The state file is looked at four times a second, because a drain is urgent; the zone's file and
//! its lists are read again when asked for (SIGHUP). Compiling happens on a thread of its own, and
//! what is compiled is swapped in whole: no query waits, and none sees half of it. A file that is
//! wrong changes nothing. What the checks find is taken like a state that somebody has set.

use super::checks::{self, Checks};
use super::plan::Plan;
use super::problem::Problem;
use crate::Config;
use godwit_core::health::Verdict;
use godwit_dns_plugin::SharedView;
use godwit_map::{Generation, GeoDb, Shared};
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{Notify, watch};

/// How often it is looked whether the state file is another one.
const LOOK_PERIOD: Duration = Duration::from_millis(250);

/// Keeps the view of a static zone up to date.
pub struct Keeper {
    plan: Plan,
    geo: GeoDb,
    generations: Shared,
    view: SharedView,
    reload: Reload,
    settings: watch::Sender<Config>,
    seen: Option<Fingerprint>,
    checks: Option<Checks>,
    /// What the checks had found when the present generation was made.
    found: Vec<Verdict>,
    /// Whether a file that was read again wants other checks.
    checks_anew: bool,
}

/// Asks a [`Keeper`] to read everything again. Cheap to clone.
#[derive(Clone, Default)]
pub struct Reload(Arc<Notify>);

impl Reload {
    /// Reads the zone's file and everything it names again, soon.
    pub fn now(&self) {
        self.0.notify_one();
    }
}

/// Tells one file from another without reading it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Fingerprint {
    inode: u64,
    len: u64,
    modified: (i64, i64),
}

impl Fingerprint {
    fn of(path: &Path) -> Option<Fingerprint> {
        let metadata = std::fs::metadata(path).ok()?;
        let modified = (metadata.mtime(), metadata.mtime_nsec());
        Some(Fingerprint { inode: metadata.ino(), len: metadata.len(), modified })
    }
}

impl Keeper {
    pub(crate) fn new(plan: Plan, geo: GeoDb, generations: Shared, view: SharedView) -> Keeper {
        // Whatever the state file was when the first generation was made, it is looked at again.
        let (reload, found) = (Reload::default(), Vec::new());
        let settings = watch::Sender::new(plan.redirector.clone());
        let (seen, checks, checks_anew) = (None, None, false);
        Keeper { plan, geo, generations, view, reload, settings, seen, checks, found, checks_anew }
    }

    /// How to ask it for a reload.
    pub fn reload(&self) -> Reload {
        self.reload.clone()
    }

    /// The redirector's settings: changes with each reload that brought others, for
    /// [`Running::reload`](crate::Running::reload).
    pub fn settings(&self) -> watch::Receiver<Config> {
        self.settings.subscribe()
    }

    /// Begins to check addresses and waits until all were asked once, or for five seconds: so that
    /// the first answer is not one that names a dead address. To be called before anything is
    /// answered; without checks it returns at once.
    pub async fn first_round(&mut self) {
        self.start_checks();
        if let Some(checks) = &mut self.checks {
            checks.first_round().await;
            self.take_states();
        }
    }

    fn start_checks(&mut self) {
        self.checks = self.plan.check_plan().start();
    }

    /// Follows the files and what the checks find for ever; ends when dropped.
    pub async fn run(mut self) {
        if self.checks.is_none() {
            self.start_checks();
        }
        let mut look = tokio::time::interval(LOOK_PERIOD);
        look.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let reload = self.reload.clone();
        loop {
            let step: fn(&mut Keeper) = tokio::select! {
                () = reload.0.notified() => Keeper::read_again,
                () = changed(&mut self.checks, &self.found) => Keeper::take_states,
                _ = look.tick() => {
                    if !self.is_state_new() {
                        continue;
                    }
                    Keeper::take_states
                }
            };
            let done = tokio::task::spawn_blocking(move || {
                step(&mut self);
                godwit_net::memory::give_back();
                self
            });
            self = match done.await {
                Ok(keeper) => keeper,
                Err(error) => std::panic::resume_unwind(error.into_panic()),
            };
            if std::mem::take(&mut self.checks_anew) {
                self.start_checks();
            }
        }
    }

    fn is_state_new(&self) -> bool {
        self.plan.state_file().is_some_and(|path| Fingerprint::of(path) != self.seen)
    }

    fn take_states(&mut self) {
        self.found = self.checks.as_ref().map(Checks::verdicts).unwrap_or_default();
        self.seen = self.plan.state_file().and_then(Fingerprint::of);
        match self.compute() {
            Ok(generation) => self.generations.store(Arc::new(generation)),
            Err(problem) => tracing::error!(%problem, "states stay as they were"),
        }
    }

    fn compute(&self) -> Result<Generation, Problem> {
        let states = self.plan.states()?;
        let previous = self.generations.load_full();
        let mut inputs = states.apply(self.plan.inputs());
        checks::apply(&mut inputs, self.plan.checks(), &self.found);
        inputs.number = previous.number() + 1;
        tracing::info!(generation = inputs.number, states = ?states.0, "a new generation of the map");
        Ok(Generation::compute(&inputs, &self.geo, Some(&previous)))
    }

    fn read_again(&mut self) {
        if let Err(problem) = self.try_read_again() {
            tracing::error!(%problem, "the zone stays as it was");
        }
    }

    fn try_read_again(&mut self) -> Result<(), Problem> {
        let mut plan = Plan::read(self.plan.path())?;
        let geo = plan.take_geo()?;
        let zone = plan.take_zone()?.succeeding(&self.view.load().zone);
        let (plan, geo) = (std::mem::replace(&mut self.plan, plan), std::mem::replace(&mut self.geo, geo));
        self.seen = self.plan.state_file().and_then(Fingerprint::of);
        match self.compute() {
            Ok(generation) => {
                self.view.set(Arc::new(generation), zone);
                // Told even when it is the same: files that it names may hold something else now.
                self.settings.send_replace(self.plan.redirector.clone());
                self.checks_anew = self.plan.check_plan() != plan.check_plan();
                Ok(())
            }
            Err(problem) => {
                (self.plan, self.geo) = (plan, geo);
                Err(problem)
            }
        }
    }
}

/// Waits until the checks find something else than `found`; for ever without checks.
async fn changed(checks: &mut Option<Checks>, found: &[Verdict]) {
    match checks {
        Some(checks) => checks.changed(found).await,
        None => std::future::pending().await,
    }
}
