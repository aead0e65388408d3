//! The task that owns the machines: waits for one thing to happen, feeds it, does what comes out in
//! order, and puts a new table in place when bindings, grants or the map have changed.

use crate::announcing::Announcing;
use crate::choices::{ByHome, Choices};
use crate::config::Config;
use crate::keys::Keys;
use crate::left::{self, Life};
use crate::metrics::Metrics;
use crate::steering::Steering;
use crate::table::Table;
use crate::unreachable::Denied;
use crate::view::{BindingView, FlowView, HomeView, View};
use crate::world::{Heard, Peers, World};
use godwit_core::announce::{self, Announcer};
use godwit_core::binding::cache::{self, Cache, State};
use godwit_core::binding::{HomeAddress, Service};
use godwit_core::flow::FlowKey;
use godwit_core::flow::table::{Choice, FlowTable, FlowUpdate};
use godwit_core::key::MemberId;
use godwit_core::mobility::{FlowsBound, Message};
use godwit_core::time::Time;
use godwit_core::tunnel::TunnelKey;
use godwit_map::{Generation, Shared};
use godwit_net::estate::Estate;
use godwit_net::tunnel::{self, Engine, Side, cipher_for};
use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::sync::{mpsc, oneshot, watch};
use tokio_util::sync::CancellationToken;

/// How often it is looked whether there is another map: a poll of one pointer.
const MAP_PERIOD: Duration = Duration::from_millis(200);
/// How often flows are looked through for what is idle.
const SWEEP_PERIOD: Duration = Duration::from_secs(10);
/// How often ExaBGP is told everything again, and what failed is tried again.
const ANNOUNCE_PERIOD: Duration = Duration::from_secs(30);
/// At most so many events of the tunnel are taken before a table is built.
const EVENTS_AT_ONCE: usize = 256;

/// What others ask of the task.
pub(crate) enum Command {
    /// What is there.
    View(oneshot::Sender<View>),
    /// Which flows passed lately, at most so many.
    Flows(usize, oneshot::Sender<Vec<FlowView>>),
    /// Another process is about to follow: what the network says counts no more.
    CarryOn(oneshot::Sender<()>),
    /// It is there: end, and leave it everything.
    HandOver(oneshot::Sender<Option<Estate>>),
}

/// Everything that the task needs.
pub(crate) struct Driver {
    pub(crate) clock: fn() -> Time,
    pub(crate) cache: Cache,
    pub(crate) flows: FlowTable,
    pub(crate) announcer: Announcer,
    pub(crate) announcing: Arc<Mutex<Announcing>>,
    pub(crate) engine: Arc<Engine>,
    pub(crate) events: mpsc::Receiver<tunnel::Event>,
    pub(crate) denied: mpsc::Receiver<Denied>,
    pub(crate) steering: Arc<Steering>,
    pub(crate) world: watch::Receiver<Arc<World>>,
    pub(crate) generations: Shared,
    pub(crate) heard: mpsc::Receiver<Heard>,
    pub(crate) peers: Arc<dyn Peers>,
    pub(crate) commands: mpsc::Receiver<Command>,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) config: Config,
    pub(crate) keys: Keys,
    pub(crate) settled: bool,
    pub(crate) stop: CancellationToken,
}

/// What the running task keeps beside the machines.
struct Running {
    driver: Driver,
    known: Arc<World>,
    generation: Arc<Generation>,
    choices: Choices,
    /// The table is not what it should be any more.
    stale: bool,
    /// Another process is about to follow.
    carries_on: bool,
    /// It is there, and waits for this.
    heir: Option<oneshot::Sender<Option<Estate>>>,
    swept: Time,
    /// What monitors were told of updates.
    counted: cache::Counts,
    /// When others are told again what is announced.
    repeat_at: Time,
    /// What is to be announced, once the blocking part has time.
    announce: Option<BTreeSet<HomeAddress>>,
    announcing: Option<tokio::task::JoinHandle<std::io::Result<()>>>,
}

impl Driver {
    /// Runs until `stop`; withdraws what was announced.
    pub(crate) async fn run(self) {
        let known = self.world.borrow().clone();
        let generation = self.generations.load_full();
        let mut running = Running {
            driver: self,
            known,
            generation,
            choices: Choices::default(),
            stale: true,
            carries_on: false,
            heir: None,
            swept: Time::default(),
            counted: cache::Counts::default(),
            repeat_at: Time::default(),
            announce: None,
            announcing: None,
        };
        running.world_changed();
        running.after();
        while running.turn().await {}
        match running.heir.take() {
            Some(heir) => drop(heir.send(running.bequeath().await)),
            None => running.leave().await,
        }
    }
}

impl Running {
    /// Waits for one thing and does what follows from it; false at the end.
    async fn turn(&mut self) -> bool {
        let now = (self.driver.clock)();
        let deadlines = [self.driver.cache.next_deadline(), self.driver.announcer.next_deadline()];
        let wait = deadlines.into_iter().flatten().min().map(|due| due.since(now)).unwrap_or(SWEEP_PERIOD);
        // Never idle for longer than it takes to look at the map.
        let timer = tokio::time::sleep(wait.min(MAP_PERIOD));
        let driver = &mut self.driver;
        let busy = self.announcing.is_some();
        tokio::select! {
            biased;
            () = driver.stop.cancelled() => return false,
            Some(event) = driver.events.recv() => self.tunnel_events(event),
            Some(heard) = driver.heard.recv() => self.heard(heard),
            Ok(()) = driver.world.changed(), if !self.carries_on => self.world_changed(),
            Some(denied) = driver.denied.recv() => self.deny(&denied),
            Some(command) = driver.commands.recv() => self.command(command),
            done = async { self.announcing.as_mut().expect("only while busy").await }, if busy => {
                self.announced(done);
            }
            () = timer => {}
        }
        self.after();
        self.heir.is_none()
    }

    /// What follows every turn.
    fn after(&mut self) {
        let now = (self.driver.clock)();
        if self.driver.cache.next_deadline().is_some_and(|due| due <= now) {
            self.feed(cache::Input::Timer);
        }
        let generation = self.driver.generations.load_full();
        if !self.carries_on && !Arc::ptr_eq(&generation, &self.generation) {
            self.generation = generation;
            self.stale = true;
        }
        if std::mem::take(&mut self.stale) {
            self.rebuild(now);
        }
        self.settle(now);
        if self.driver.announcer.next_deadline().is_some_and(|due| due <= now) {
            self.announce(announce::Input::Timer);
        }
        self.sweep(now);
        let counts = self.driver.cache.counts();
        if counts != self.counted {
            self.counted = counts;
            self.driver.metrics.updates(&counts);
        }
        self.start_announcing(now);
    }

    fn feed(&mut self, input: cache::Input) {
        let driver = &mut self.driver;
        driver.cache.handle((driver.clock)(), input);
        while let Some(output) = driver.cache.poll_output() {
            match output {
                cache::Output::Install { anchor, key } => {
                    driver.keys.installed(anchor, key.id);
                    self.stale = true;
                    install(driver, key);
                }
                cache::Output::Retire(key) => {
                    driver.keys.retired(key);
                    self.stale = true;
                    driver.engine.retire(key);
                }
                cache::Output::Acknowledge { to, acknowledgement } => {
                    driver.peers.tell(to, &Message::Acknowledgement(acknowledgement));
                }
                cache::Output::Send { key, to, control } => driver.engine.send(key, to, control),
                cache::Output::Changed => self.stale = true,
            }
        }
    }

    fn tunnel_events(&mut self, first: tunnel::Event) {
        let mut next = Some(first);
        let mut left = EVENTS_AT_ONCE;
        while let Some(event) = next {
            match event {
                tunnel::Event::Heard { key, from, control } => {
                    self.stale |= self.driver.keys.heard(key);
                    self.feed(cache::Input::Heard { key, from, control });
                }
                tunnel::Event::Worn(key) => self.feed(cache::Input::Worn(key)),
                // Nodes keep segments below it; here each packet is judged by itself.
                tunnel::Event::Width => {}
            }
            left -= 1;
            next = if left > 0 { self.driver.events.try_recv().ok() } else { None };
        }
    }

    fn heard(&mut self, heard: Heard) {
        match heard {
            Heard::Malformed { from } => {
                self.driver.metrics.malformed.inc();
                tracing::debug!(from = from.short(), "a member said what is no message");
            }
            Heard::Message { from, message } => match *message {
                Message::Update(update) => self.feed(cache::Input::Update { from, update }),
                Message::Flows(update) => self.flows(from, &update),
                // Said to nodes.
                Message::Acknowledgement(_)
                | Message::FlowsBound(_)
                | Message::Handoff(_)
                | Message::RelayWanted
                | Message::Relay(_)
                | Message::StandingWanted(_)
                | Message::Standing(..) => drop(self.driver.metrics.misdirected.inc()),
            },
        }
    }

    fn flows(&mut self, from: MemberId, update: &FlowUpdate) {
        // What is chosen by now counts.
        let now = (self.driver.clock)();
        if std::mem::take(&mut self.stale) {
            self.rebuild(now);
        }
        let table = self.driver.steering.table.load_full();
        let judge = Judge { now, table: &table, choices: &self.choices };
        let result = self.driver.flows.update(now, from, update, &judge);
        if result.is_ok() {
            let owners = update.flows.iter().map(|flow| (*flow, self.driver.flows.owner(now, flow)));
            let owners: Vec<(FlowKey, Option<MemberId>)> = owners.collect();
            self.driver.steering.moved.change(owners);
        }
        self.driver.metrics.flows_bound(update.flows.len(), &result);
        let bound = FlowsBound { order: update.order, result };
        self.driver.peers.tell(from, &Message::FlowsBound(bound));
    }

    fn world_changed(&mut self) {
        self.known = self.driver.world.borrow_and_update().clone();
        self.stale = true;
        self.feed(cache::Input::Allowed(self.known.allowed.clone()));
        self.announce(announce::Input::Granted(self.known.homes()));
        self.announce(announce::Input::Elsewhere(self.known.elsewhere.clone()));
    }

    /// Puts a new table in place.
    fn rebuild(&mut self, now: Time) {
        let mut table = Table::new(&self.known, &self.driver.cache, &self.driver.keys);
        self.choices.set(now, table.choices(&self.generation));
        table.now = self.choices.now();
        table.before = self.choices.before();
        table.fresh = self.choices.is_fresh(now);
        let (served, reachable) = (table.served(), table.reachable());
        self.driver.steering.table.store(Arc::new(table));
        self.driver.flows.retain_owners(&reachable);
        if self.driver.flows.len() != self.driver.steering.moved.len() {
            self.copy_flows();
        }
        self.driver.metrics.bindings(self.driver.cache.bindings());
        self.announce(announce::Input::Well(served));
    }

    /// Lets go of flows that the machine has let go of.
    fn copy_flows(&mut self) {
        let bound: BTreeSet<FlowKey> = self.driver.flows.iter().map(|(flow, _)| *flow).collect();
        self.driver.steering.moved.retain(|flow| bound.contains(flow));
    }

    /// All nodes that are there have registered: there is nothing to wait for.
    fn settle(&mut self, now: Time) {
        if self.driver.settled {
            return;
        }
        let table = self.driver.steering.table.load();
        let reachable = table.reachable();
        let all = !self.known.present.is_empty() && self.known.present.is_subset(&reachable);
        if all || now >= self.driver.cache.settled_at() {
            self.driver.settled = true;
            self.driver.metrics.settled.set(1);
            tracing::info!(nodes = reachable.len(), "the nodes are known: home addresses may be announced");
            self.announce(announce::Input::Settled);
        }
    }

    fn sweep(&mut self, now: Time) {
        if now.since(self.swept) < SWEEP_PERIOD {
            return;
        }
        self.swept = now;
        for flow in self.driver.steering.moved.take_used() {
            self.driver.flows.owner(now, &flow);
        }
        self.driver.flows.sweep(now);
        if self.driver.flows.len() != self.driver.steering.moved.len() {
            self.copy_flows();
        }
        self.driver.metrics.moved_flows.set(self.driver.flows.len() as i64);
        // Flows of UDP have their second chance for as long as a change is fresh.
        self.stale |= self.driver.steering.table.load().fresh && !self.choices.is_fresh(now);
    }

    fn deny(&mut self, denied: &Denied) {
        if let Some(error) = denied.error() {
            self.driver.engine.inject(&[error]);
        }
    }

    fn announce(&mut self, input: announce::Input) {
        let driver = &mut self.driver;
        driver.announcer.handle((driver.clock)(), input);
        while let Some(output) = driver.announcer.poll_output() {
            match output {
                announce::Output::Announce(home) => tracing::info!(%home, "announced"),
                announce::Output::Withdraw(home) => tracing::warn!(%home, "withdrawn"),
                announce::Output::Tell(announced) => {
                    driver.metrics.announced.set(announced.len() as i64);
                    driver.peers.announced(announced);
                }
            }
            self.announce = Some(driver.announcer.announced().collect());
        }
    }

    /// Routes and other daemons may take a while: that is done beside, one step at a time. From time to
    /// time all is said again: what failed, and what a daemon that was started anew has forgotten.
    fn start_announcing(&mut self, now: Time) {
        if self.announcing.is_some() || self.announce.is_none() && now < self.repeat_at {
            return;
        }
        self.repeat_at = now + ANNOUNCE_PERIOD;
        let repeats = self.announce.is_none();
        let announced = || self.driver.announcer.announced().collect();
        let wanted = self.announce.take().unwrap_or_else(announced);
        let announcing = self.driver.announcing.clone();
        self.announcing = Some(tokio::task::spawn_blocking(move || {
            let mut announcing = announcing.lock().unwrap_or_else(PoisonError::into_inner);
            announcing.announce(&wanted)?;
            if repeats { announcing.repeat() } else { Ok(()) }
        }));
    }

    fn announced(&mut self, done: Result<std::io::Result<()>, tokio::task::JoinError>) {
        self.announcing = None;
        let failed = match done {
            Ok(Ok(())) => None,
            Ok(Err(error)) => Some(error.to_string()),
            Err(error) => Some(error.to_string()),
        };
        self.driver.metrics.announce_failed.set(i64::from(failed.is_some()));
        if let Some(error) = failed {
            tracing::error!(error, "home addresses could not be announced; it is tried again");
        }
    }

    fn command(&mut self, command: Command) {
        // Whoever asked may have gone.
        match command {
            Command::View(reply) => drop(reply.send(self.view())),
            Command::Flows(max, reply) => drop(reply.send(self.flow_views(max))),
            Command::CarryOn(reply) => {
                self.carries_on = true;
                let _ = reply.send(());
            }
            Command::HandOver(reply) => self.heir = Some(reply),
        }
    }

    fn view(&self) -> View {
        let now = (self.driver.clock)();
        let table = self.driver.steering.table.load();
        let announced: BTreeSet<HomeAddress> = self.driver.announcer.announced().collect();
        let home = |(name, address): (&godwit_core::name::SiteName, HomeAddress)| HomeView {
            name: name.to_string(),
            address: address.0,
            announced: announced.contains(&address),
            nodes: table
                .homes
                .get(&address.0)
                .map(|served| served.ways.keys().map(|node| self.known.name(node)).collect())
                .unwrap_or_default(),
        };
        let granted = self.known.granted.iter();
        let binding = |binding: cache::Binding<'_>| BindingView {
            node: self.known.name(&binding.anchor.member),
            id: binding.anchor.id.0,
            homes: binding.homes.iter().map(|home| home.0).collect(),
            care_of: binding.care_of,
            state: state_name(binding.state),
            draining: binding.service == Service::Draining,
            priority: binding.priority,
            mtu: binding.capabilities.mtu,
            direct_return: binding.capabilities.direct_return,
            expires_in_ms: binding.expires.since(now).as_millis().try_into().unwrap_or(u64::MAX),
        };
        View {
            settled: self.driver.settled,
            homes: granted
                .flat_map(|(name, home)| home.addresses().map(move |address| (name, address)))
                .map(home)
                .collect(),
            bindings: self.driver.cache.bindings().map(binding).collect(),
            moved_flows: self.driver.flows.len(),
        }
    }

    fn flow_views(&self, max: usize) -> Vec<FlowView> {
        let bound: BTreeSet<FlowKey> = self.driver.flows.iter().map(|(flow, _)| *flow).collect();
        let millis = |duration: Duration| duration.as_millis().try_into().unwrap_or(u64::MAX);
        let view = |sight: crate::seen::Sight| FlowView {
            protocol: sight.flow.protocol,
            client: sight.flow.correspondent,
            home: sight.flow.home,
            node: self.known.name(&sight.owner),
            bound: bound.contains(&sight.flow),
            packets: sight.packets,
            octets: sight.octets,
            age_ms: millis(sight.since.elapsed()),
            idle_ms: millis(sight.last.elapsed()),
        };
        self.driver.steering.seen.list().into_iter().take(max).map(view).collect()
    }

    /// Leaves everything to another process; what is announced stays announced.
    async fn bequeath(mut self) -> Option<Estate> {
        if let Some(busy) = self.announcing.take() {
            self.announced(busy.await);
        }
        let Driver { clock, cache, flows, announcer, announcing, engine, config, keys, settled, .. } =
            self.driver;
        let tunnel = match engine.leave() {
            Ok(tunnel) => tunnel,
            Err(error) => {
                tracing::error!(%error, "the tunnel cannot be left to another process");
                return None;
            }
        };
        let told = announcing.lock().unwrap_or_else(PoisonError::into_inner).leave();
        tracing::info!(
            bindings = cache.bindings().count(),
            "home addresses are another process's from now on"
        );
        let life = Life { cache, flows, announcer, keys, told, settled };
        Some(left::leave(clock(), &config, tunnel, life))
    }

    /// Withdraws everything before the tunnel ends, so that routers know first.
    async fn leave(mut self) {
        self.announce(announce::Input::Leave);
        if let Some(busy) = self.announcing.take() {
            let _ = busy.await;
        }
        self.start_announcing((self.driver.clock)());
        if let Some(last) = self.announcing.take() {
            self.announced(last.await);
        }
    }
}

fn install(driver: &Driver, key: TunnelKey) {
    let mut bindings = driver.cache.bindings();
    let can = bindings.find(|binding| binding.key == key.id).map(|binding| binding.capabilities);
    let (aes, mtu) = can.map_or((false, driver.config.mtu), |can| (can.aes, can.mtu.min(driver.config.mtu)));
    let id = key.id;
    if let Err(error) = driver.engine.install(key, Side::HomeAgent, cipher_for(aes), mtu) {
        // The next refresh brings another.
        tracing::warn!(key = id.0, %error, "a tunnel key could not be installed");
    }
}

pub(crate) fn state_name(state: State) -> &'static str {
    match state {
        State::Unproved => "unproved",
        State::Up => "up",
        State::Lost => "lost",
    }
}

/// What the home agent knows beside its flow bindings.
struct Judge<'a> {
    now: Time,
    table: &'a Table,
    choices: &'a Choices,
}

impl Choice for Judge<'_> {
    fn chose(&self, flow: &FlowKey, node: &MemberId) -> bool {
        self.choices.chose(self.now, flow.home_address(), flow.correspondent.ip(), node)
    }

    fn chooses(&self, flow: &FlowKey, node: &MemberId) -> bool {
        let now: &ByHome = &self.table.now;
        let choice = now.get(&flow.home_address());
        let owner = choice.and_then(|choice| choice.owner(flow.home_address(), flow.correspondent.ip()));
        owner.as_ref() == Some(node)
    }

    fn usable(&self, flow: &FlowKey, node: &MemberId) -> bool {
        self.table.homes.get(&flow.home.ip()).is_some_and(|served| served.ways.contains_key(node))
    }
}
