//! Follows the zone's files while it is served, and does what is asked of it.
//!
//! The state file is looked at four times a second, because a drain is urgent; the zone's file and
//! its lists are read again when asked for ([`Prepared`], [`Control::put`]). Compiling happens on a
//! thread of its own, and what is compiled is swapped in whole: no query waits, and none sees half of
//! it. A file that is wrong changes nothing. What the checks find is taken like a state that somebody
//! has set.

use super::Prepared;
use super::challenges::{self, Challenges};
use super::checks::{self, Checks};
use super::health::{self, HealthMetrics, Held};
use super::plan::Plan;
use super::problem::Problem;
use super::state::State;
use godwit_core::challenge::Challenge;
use godwit_core::health::Verdict;
use godwit_dns_plugin::SharedView;
use godwit_map::{Generation, GeoDb, Shared};
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{mpsc, oneshot};

/// How often it is looked whether the state file is another one.
const LOOK_PERIOD: Duration = Duration::from_millis(250);

/// Requests that wait: operators are few.
const COMMANDS_MAX: usize = 16;

/// Keeps the view of a static zone up to date.
pub struct Keeper {
    plan: Plan,
    geo: GeoDb,
    generations: Shared,
    view: SharedView,
    challenges: Challenges,
    asked: (mpsc::Sender<Command>, mpsc::Receiver<Command>),
    seen: Option<Fingerprint>,
    checks: Option<Checks>,
    /// What the checks had found when the present generation was made, by member.
    found: Vec<Verdict>,
    /// And what holds by that.
    held: Held,
    metrics: HealthMetrics,
    number: Gauge,
}

/// What a [`Keeper`] can be asked for.
enum Command {
    Put(Box<Prepared>, Reply<()>),
    SetState(String, State, Reply<()>),
    Challenge(Challenge, Duration, Reply<()>),
    Look(oneshot::Sender<Standing>),
}

type Reply<T> = oneshot::Sender<Result<T, String>>;

/// Asks a [`Keeper`] that runs. Cheap to clone.
#[derive(Clone)]
pub struct Control(mpsc::Sender<Command>);

/// What a [`Keeper`] knows beside the map.
#[derive(Clone, Debug, Default)]
pub struct Standing {
    /// What the checks find now, by member of the map's.
    pub verdicts: Vec<Verdict>,
    /// Names and values for certificate authorities.
    pub challenges: Vec<(String, String)>,
}

impl Control {
    /// Serves what was read from now on. It is in force when this returns; an error leaves everything
    /// as it was. New addresses are checked first, for at most five seconds.
    pub async fn put(&self, prepared: Prepared) -> Result<(), String> {
        self.ask(|reply| Command::Put(Box::new(prepared), reply)).await
    }

    /// Leads clients away from a region or an address, or back. It is on the disk and in force when this
    /// returns.
    pub async fn set_state(&self, name: &str, state: State) -> Result<(), String> {
        self.ask(|reply| Command::SetState(name.to_owned(), state, reply)).await
    }

    /// Sets a value for a certificate authority, or clears it with a lease of zero. It is on the disk and
    /// answered when this returns.
    pub async fn challenge(&self, challenge: Challenge, lease: Duration) -> Result<(), String> {
        self.ask(|reply| Command::Challenge(challenge, lease, reply)).await
    }

    /// What is known now.
    pub async fn look(&self) -> Result<Standing, String> {
        let (reply, answer) = oneshot::channel();
        self.0.send(Command::Look(reply)).await.map_err(|_| stopping())?;
        answer.await.map_err(|_| stopping())
    }

    async fn ask(&self, command: impl FnOnce(Reply<()>) -> Command) -> Result<(), String> {
        let (reply, answer) = oneshot::channel();
        self.0.send(command(reply)).await.map_err(|_| stopping())?;
        answer.await.map_err(|_| stopping())?
    }
}

fn stopping() -> String {
    "the redirector is stopping".to_owned()
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
        let challenges = Challenges::read(plan.state_file(), challenges::now());
        let mut keeper = Keeper {
            plan,
            geo,
            generations,
            view,
            challenges,
            asked: mpsc::channel(COMMANDS_MAX),
            // Whatever the state file was when the first generation was made, it is looked at again.
            seen: None,
            checks: None,
            found: Vec::new(),
            held: Held::new(),
            metrics: HealthMetrics::default(),
            number: Gauge::default(),
        };
        keeper.answer_challenges();
        keeper
    }

    /// Tells monitors of checks and of the map.
    pub fn register(&self, registry: &mut Registry) {
        self.metrics.register(registry);
        registry.register("generation", "Number of the present map", self.number.clone());
    }

    /// How to ask it.
    pub fn control(&self) -> Control {
        Control(self.asked.0.clone())
    }

    /// Begins to check addresses and waits until all were asked once, or for five seconds: so that
    /// the first answer is not one that names a dead address. To be called before anything is
    /// answered; without checks it returns at once.
    pub async fn first_round(&mut self) {
        let mut checks = self.plan.check_plan().start(&self.metrics);
        checks.first_round(self.plan.check_plan()).await;
        self.checks = Some(checks);
        self.take_states();
    }

    /// Follows the files and what the checks find for ever; ends when dropped.
    pub async fn run(mut self) {
        if self.checks.is_none() {
            self.checks = Some(self.plan.check_plan().start(&self.metrics));
        }
        let mut look = tokio::time::interval(LOOK_PERIOD);
        look.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                Some(command) = self.asked.1.recv() => self = self.act(command).await,
                () = changed(&mut self.checks, &self.plan, &self.found) => {
                    self = self.at_work(|keeper| keeper.take_states()).await.0;
                }
                _ = look.tick() => {
                    if self.challenges.expire(challenges::now()) {
                        self.answer_challenges();
                    }
                    if self.is_state_new() {
                        self = self.at_work(|keeper| keeper.take_states()).await.0;
                    }
                }
            }
        }
    }

    async fn act(mut self, command: Command) -> Keeper {
        // Whoever asked may have gone.
        match command {
            Command::Put(prepared, reply) => {
                if let Some(checks) = &mut self.checks {
                    checks.first_round(prepared.plan.check_plan()).await;
                }
                let (keeper, done) = self.at_work(|keeper| keeper.put(*prepared)).await;
                let _ = reply.send(done.map_err(|problem| problem.to_string()));
                keeper
            }
            Command::SetState(name, state, reply) => {
                let set = move |keeper: &mut Keeper| {
                    keeper.plan.set_state(&name, state)?;
                    keeper.try_take_states()
                };
                let (keeper, done) = self.at_work(set).await;
                let _ = reply.send(done.map_err(|problem| problem.to_string()));
                keeper
            }
            Command::Challenge(challenge, lease, reply) => {
                let set = move |keeper: &mut Keeper| {
                    keeper.challenges.set(challenges::now(), challenge, lease)?;
                    keeper.answer_challenges();
                    Ok(())
                };
                let (keeper, done) = self.at_work(set).await;
                let _ = reply.send(done);
                keeper
            }
            Command::Look(reply) => {
                let held = self.challenges.held().iter();
                let challenges = held.map(|held| (held.name.clone(), held.value.clone())).collect();
                let checks = self.checks.as_ref();
                let verdicts = checks.map(|checks| checks.verdicts(self.plan.check_plan()));
                let _ = reply.send(Standing { verdicts: verdicts.unwrap_or_default(), challenges });
                self
            }
        }
    }

    /// Works on a thread that may wait.
    async fn at_work<T: Send + 'static>(
        mut self,
        work: impl FnOnce(&mut Keeper) -> T + Send + 'static,
    ) -> (Keeper, T) {
        let done = tokio::task::spawn_blocking(move || {
            let done = work(&mut self);
            godwit_net::memory::give_back();
            (self, done)
        });
        match done.await {
            Ok(done) => done,
            Err(error) => match error.try_into_panic() {
                Ok(panic) => std::panic::resume_unwind(panic),
                // The runtime ends, and drops who waits here, too.
                Err(_) => std::future::pending().await,
            },
        }
    }

    fn is_state_new(&self) -> bool {
        self.plan.state_file().is_some_and(|path| Fingerprint::of(path) != self.seen)
    }

    fn take_states(&mut self) {
        if let Err(problem) = self.try_take_states() {
            tracing::error!(%problem, "states stay as they were");
        }
    }

    fn try_take_states(&mut self) -> Result<(), Problem> {
        let checks = self.checks.as_ref();
        self.found = checks.map(|checks| checks.verdicts(self.plan.check_plan())).unwrap_or_default();
        self.seen = self.plan.state_file().and_then(Fingerprint::of);
        let generation = self.compute()?;
        self.tell(&generation);
        self.generations.store(Arc::new(generation));
        Ok(())
    }

    fn compute(&self) -> Result<Generation, Problem> {
        let states = self.plan.states()?;
        let previous = self.generations.load_full();
        let mut inputs = states.apply(self.plan.inputs());
        checks::apply(&mut inputs, self.plan.checks(), self.plan.check_plan(), &self.found);
        inputs.number = previous.number() + 1;
        tracing::info!(generation = inputs.number, states = ?states.0, "a new generation of the map");
        Ok(Generation::compute(&inputs, &self.geo, Some(&previous)))
    }

    fn tell(&mut self, generation: &Generation) {
        let held = health::held(generation.inputs());
        self.metrics.holds(&held, &self.held);
        self.held = held;
        self.number.set(generation.number() as i64);
    }

    fn put(&mut self, prepared: Prepared) -> Result<(), Problem> {
        let Prepared { plan, geo, zone } = prepared;
        let zone = zone.succeeding(&self.view.load().zone);
        let (before, geo) = (std::mem::replace(&mut self.plan, plan), std::mem::replace(&mut self.geo, geo));
        self.seen = self.plan.state_file().and_then(Fingerprint::of);
        let checks = self.checks.as_ref();
        let found = checks.map(|checks| checks.verdicts(self.plan.check_plan())).unwrap_or_default();
        let found = std::mem::replace(&mut self.found, found);
        let followed = match self.compute() {
            Ok(generation) => {
                self.tell(&generation);
                self.view.set(Arc::new(generation), zone);
                if before.state_file() != self.plan.state_file() {
                    self.challenges = Challenges::read(self.plan.state_file(), challenges::now());
                    self.answer_challenges();
                }
                tracing::info!("the zone was read again");
                Ok(before)
            }
            Err(problem) => {
                (self.geo, self.found) = (geo, found);
                Err((std::mem::replace(&mut self.plan, before), problem))
            }
        };
        let other = match &followed {
            Ok(plan) | Err((plan, _)) => plan,
        };
        if let Some(checks) = &self.checks {
            checks.follow(self.plan.check_plan(), other.check_plan());
        }
        followed.map(drop).map_err(|(_, problem)| problem)
    }

    fn answer_challenges(&mut self) {
        let held = self.challenges.held();
        self.view.update(|zone| {
            let pairs = held.iter().map(|held| (held.name.as_str(), held.value.as_str()));
            Some(zone.with_challenges(pairs))
        });
    }
}

/// Waits until the checks find something else than `found`; for ever without checks.
async fn changed(checks: &mut Option<Checks>, plan: &Plan, found: &[Verdict]) {
    match checks {
        Some(checks) => checks.changed(plan.check_plan(), found).await,
        None => std::future::pending().await,
    }
}
