//! A running member: everything started in order, and stopped in order.
//!
//! Start: the data directory (locked, whose is it), the store, what earlier runs left, the sockets,
//! then the tasks. Whatever fails is told before anything was changed, but for the count of starts.
//! Stop: say that this member serves no more, let requests end, close connections so that peers
//! know at once, save the map, close the store.

use crate::admin::{self, Control};
use crate::agreement;
use crate::clock;
use crate::collect::Collector;
use crate::config::{BadValue, Config};
use crate::content::Content;
use crate::datadir::{DataDir, DataDirError, Identity, Lock};
use crate::driver::{Command, Driver};
use crate::fetch::{Fetcher, StoreHolder};
use crate::generation::Keeper;
use crate::health::{self, SiteProbes, Vantages};
use crate::held::Held;
use crate::http::{self, Asked, Door, Rtts, Server, Sites};
use crate::metrics::{Metrics, SharedRegistry};
use crate::receiving::Receiving;
use crate::recent::Recent;
use crate::records::Records;
use crate::repair;
use crate::replicate::Replicator;
use crate::resolvers::{Measuring, ResolverMetrics};
use crate::snapshot::Snapshot;
use godwit_core::admission::Admission;
use godwit_core::agreement::Setting;
use godwit_core::certificate::{Invalid, MemberCertificate, Role};
use godwit_core::challenge::Challenge;
use godwit_core::demand::Capacity;
use godwit_core::health::Judge;
use godwit_core::member::{Input, Member, OwnEntry, State, Timing};
use godwit_core::record::Record;
use godwit_overlay::{Limits, Overlay, Paths};
use godwit_probe::Prober;
use godwit_store::{OpenError, Options, Store, StoreError};
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::{Duration, Instant};
use tokio::net::{TcpListener, UnixListener};
use tokio::sync::{Notify, Semaphore, mpsc, watch};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// Commands waiting for the machine; it takes one in microseconds.
const COMMANDS_MAX: usize = 1024;

/// Join requests waiting for it.
const SPONSORS_MAX: usize = 16;

/// Uploads at once, each with some megabytes, and a whole object of up to 64 MiB, in memory.
const UPLOADS_MAX: usize = 8;

/// A member that stops serves on for so long after it has said so: time enough for the word to cross
/// an ocean, and for the others to answer by it.
const LEAVE: Duration = Duration::from_millis(500);

/// Requests under way may take so long to end when the daemon stops.
const STOP_MAX: Duration = Duration::from_secs(8);

/// How often load and client round-trip times are told to the machine.
const LOAD_PERIOD: Duration = Duration::from_secs(1);
const RTTS_PERIOD: Duration = Duration::from_secs(5);
/// Round-trip times that did not change are told again after this long: what was told holds for
/// five minutes.
const RTTS_REFRESH: Duration = Duration::from_secs(100);
const DEMAND_PERIOD: Duration = Duration::from_secs(5);

/// A member that was full says so until it is this far below, thousandths: the gap keeps clients
/// from being sent to and fro. It is kept here and not in the map, so that all maps know of it.
const FULL_UNTIL_PERMILLE: u16 = 850;

/// What a member is started with.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Its data directory; it must have joined.
    pub data_dir: PathBuf,
    /// Its configuration.
    pub config: Config,
    /// The machine's periods; other than the defaults only in tests.
    pub timing: Timing,
}

impl Settings {
    /// The member in `data_dir`, configured so.
    pub fn new(data_dir: impl Into<PathBuf>, config: Config) -> Settings {
        Settings { data_dir: data_dir.into(), config, timing: Timing::default() }
    }
}

/// Why a member was not started.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// A value in the configuration cannot work.
    #[error(transparent)]
    Config(#[from] BadValue),
    /// The data directory cannot be used.
    #[error(transparent)]
    DataDir(#[from] DataDirError),
    /// The certificate does not hold now.
    #[error("this member's certificate cannot be used")]
    Certificate(#[source] Invalid),
    /// The store cannot be opened.
    #[error("the store cannot be opened")]
    Open(#[from] OpenError),
    /// What the store keeps cannot be read.
    #[error("the store cannot be read")]
    Store(#[from] StoreError),
    /// No connections with members can be made.
    #[error("connections with members cannot be made")]
    Overlay(#[from] godwit_overlay::StartError),
    /// An address cannot be listened on: in use, of another host, or a port for the privileged.
    #[error("cannot listen on {address} ({purpose}){}", hint(.source))]
    Listen {
        /// Where.
        address: String,
        /// For what.
        purpose: &'static str,
        /// Why not.
        source: io::Error,
    },
}

fn hint(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::AddrInUse => ": another program listens there; stop it or configure another port",
        io::ErrorKind::PermissionDenied => ": ports below 1024 need CAP_NET_BIND_SERVICE or root",
        io::ErrorKind::AddrNotAvailable => ": it is no address of this host",
        _ => "",
    }
}

/// A running member. Dropping it without [`Runtime::shutdown`] ends its tasks as a crash would, only
/// politer: what was acknowledged is durable either way.
pub struct Runtime {
    identity: Identity,
    dir: DataDir,
    overlay: Overlay,
    http: Vec<SocketAddr>,
    control: Arc<Control>,
    monitored: Mutex<Monitored>,
    generation: godwit_map::Shared,
    registry: SharedRegistry,
    commands: mpsc::Sender<Command>,
    reload: Arc<Notify>,
    answering: watch::Sender<Option<Vec<Setting>>>,
    resolvers: Arc<ResolverMetrics>,
    host: Arc<OnceLock<Arc<dyn admin::Host>>>,
    snapshots: watch::Receiver<Arc<Snapshot>>,
    stops: Stops,
    clients: TaskTracker,
    tasks: TaskTracker,
    store: Store,
    _lock: Lock,
}

/// Where monitors are answered.
struct Monitored {
    /// As configured.
    asked: Option<SocketAddr>,
    /// With the real port.
    address: Option<SocketAddr>,
    stop: CancellationToken,
}

/// What ends first and what ends last.
struct Stops {
    /// Serving clients and operators.
    serving: CancellationToken,
    /// Everything else.
    all: CancellationToken,
}

impl Drop for Stops {
    fn drop(&mut self) {
        self.serving.cancel();
        self.all.cancel();
    }
}

impl Runtime {
    /// Starts the member. When this returns it listens, and answers from what it knew before.
    pub async fn start(settings: Settings) -> Result<Runtime, StartError> {
        let Settings { data_dir, config, timing } = settings;
        config.check()?;
        let dir = DataDir::new(data_dir);
        let identity = dir.identity()?;
        let lock = dir.lock()?;
        let grant = identity.certificate.grant().clone();
        grant.validity.check(clock::now()).map_err(StartError::Certificate)?;
        let metrics = Arc::new(Metrics::new());
        let store = open_store(&dir, &config, &identity).await?;

        // Sockets before the count of starts: a port in use shall leave nothing behind.
        let http_sockets = match identity.certificate.has_role(Role::Node) {
            true => bind_all(&config.http.listen, "http")?,
            false => Vec::new(),
        };
        let metrics_socket = match config.admin.metrics_listen {
            Some(address) => Some(bind(address, "metrics")?),
            None => None,
        };
        let incarnation = dir.next_incarnation()?;

        let records = Records::new(store.clone());
        let persisted = blocking({
            let records = Records::new(store.clone());
            move || records.load()
        })
        .await?;
        let admission = first_admission(&identity.certificate, &persisted);
        let (sponsor, sponsors) = mpsc::channel(SPONSORS_MAX);
        let (overlay, events) = godwit_overlay::start(godwit_overlay::Config {
            key: identity.key.clone(),
            certificate: identity.certificate.clone(),
            epoch: incarnation,
            listen: config.overlay.listen.clone(),
            admission: admission.clone(),
            sponsor: Some(sponsor),
            holder: Some(Arc::new(StoreHolder { store: store.clone() })),
            clock: Arc::new(clock::now),
            limits: Limits::default(),
            paths: Paths::default(),
        })
        .await?;

        let http_addresses = addresses_of(&http_sockets)?;
        let checks = config.health.checks(!http_addresses.is_empty())?;
        let own = OwnEntry { checks, ..own_entry(&config, overlay.addresses(), &http_addresses) };
        tracing::info!(
            peer = ?overlay.addresses(), http = ?http_addresses, v4 = ?own.public_v4, v6 = ?own.public_v6,
            advertised = ?own.peer_addresses, "listening"
        );
        let member = Member::new(
            clock::now(),
            godwit_core::member::Config {
                network: grant.network,
                zone: grant.zone.clone(),
                key: identity.key.clone(),
                certificate: identity.certificate.clone(),
                incarnation,
                seed: rand::random(),
                own,
                timing,
            },
            persisted,
        );

        let stops = Stops { serving: CancellationToken::new(), all: CancellationToken::new() };
        let (clients, tasks) = (TaskTracker::new(), TaskTracker::new());
        let (commands, orders) = mpsc::channel(COMMANDS_MAX);
        let (snapshots, snapshot) =
            watch::channel(Arc::new(Snapshot::of(clock::now(), &member, &mut Judge::default()).0));
        let recent = Arc::new(Recent::new(u64::from(config.store.cache_disk_mib) << 20));
        let fetcher = Arc::new(Fetcher {
            store: store.clone(),
            overlay: overlay.clone(),
            metrics: metrics.clone(),
            recent: recent.clone(),
            receiving: Arc::new(Receiving::default()),
            partial: Mutex::default(),
        });
        let content = Arc::new(Content::new(
            store.clone(),
            fetcher.clone(),
            snapshot.clone(),
            metrics.clone(),
            recent.clone(),
        ));
        let sites = Arc::new(Sites::default());
        let held = Arc::new(
            blocking({
                let (store, commands, sites) = (store.clone(), commands.clone(), sites.clone());
                move || Held::load(store, commands, sites, config.store.keep_versions)
            })
            .await?,
        );
        let keeper = blocking({
            let (zone, dir, map) = (grant.zone.clone(), dir.clone(), config.map.clone());
            let (metrics, closed) = (metrics.clone(), config.closed());
            move || Ok::<_, StoreError>(Keeper::load(zone, dir, map, closed, metrics))
        })
        .await?;
        let generation = keeper.shared();
        let database = keeper.database();

        let driver = Driver {
            member,
            key: identity.key.clone(),
            overlay: overlay.clone(),
            events,
            commands: orders,
            sponsors,
            records,
            snapshots,
            metrics: metrics.clone(),
            admission,
            stop: stops.all.clone(),
            tasks: tasks.clone(),
        };
        tasks.spawn(driver.run());
        let reload = Arc::new(Notify::new());
        tasks.spawn(keeper.run(snapshot.clone(), reload.clone(), stops.all.clone()));
        let (answering, told) = watch::channel(None);
        let settings = agreement::settings(&config);
        tasks.spawn(agreement::tell(settings, told, database, commands.clone(), stops.all.clone()));
        tasks.spawn(agreement::watch(snapshot.clone(), metrics.differing.clone(), stops.all.clone()));
        if config.map.probe_resolvers && !http_addresses.is_empty() {
            let measuring = Measuring {
                zone: grant.zone.clone(),
                config: config.map.clone(),
                snapshots: snapshot.clone(),
                commands: commands.clone(),
                metrics: metrics.resolvers.clone(),
                stop: stops.all.clone(),
            };
            tasks.spawn(measuring.run());
        }
        if config.health.vantage {
            let prober = Prober::new();
            let zone = grant.zone.clone();
            let sites = SiteProbes::new(zone, prober.clone(), content.clone(), snapshot.clone());
            let (sites, metrics) = (Arc::new(sites), metrics.health.clone());
            let vantages = Vantages { prober, sites, snapshots: snapshot.clone(), metrics };
            tasks.spawn(health::watch(vantages, commands.clone(), stops.all.clone()));
        }
        let damaged = Arc::new(Notify::new());
        tasks.spawn(repair::repair(
            store.clone(),
            content.clone(),
            fetcher.clone(),
            snapshot.clone(),
            damaged.clone(),
            stops.all.clone(),
        ));
        tasks.spawn(repair::scrub(store.clone(), stops.all.clone()));
        let (collect, collecting) = mpsc::channel(1);
        let replicator = Replicator {
            own: identity.key.public(),
            store: store.clone(),
            fetcher,
            held: held.clone(),
            sites: sites.clone(),
            snapshots: snapshot.clone(),
            recent: recent.clone(),
            collecting,
            damaged,
            stop: stops.all.clone(),
        };
        replicator.serve_now();
        held.tell_all().await;
        tasks.spawn(replicator.run());
        let collector = Arc::new(Collector {
            own: identity.key.public(),
            store: store.clone(),
            held: held.clone(),
            sites: sites.clone(),
            content: content.clone(),
            recent,
            snapshots: snapshot.clone(),
            replication: collect,
            metrics: metrics.clone(),
            after: Duration::from_secs(config.store.collect_after_secs.into()),
            cache_bytes: u64::from(config.store.cache_disk_mib) << 20,
            turn: tokio::sync::Mutex::new(()),
            stop: stops.all.clone(),
        });
        let period = Duration::from_secs(config.store.collect_period_secs.into());
        tasks.spawn(collector.clone().run(period));

        let server = Server::new(
            grant.zone.clone(),
            &grant.name,
            &config.http,
            sites,
            content.clone(),
            metrics.http.clone(),
        );
        let (rtts, asked) = (Arc::new(Rtts::default()), Arc::new(Asked::default()));
        let door = Arc::new(Door::new(
            Arc::new(server),
            config.http.clone(),
            rtts.clone(),
            asked.clone(),
            metrics.http.clone(),
        ));
        for socket in http_sockets {
            tasks.spawn(http::accept(socket, door.clone(), stops.serving.clone(), clients.clone()));
        }
        let clients_of = Clients { door, rtts, asked, capacity: config.node.capacity() };
        // What a redirector without the role *node* is asked for over HTTP is nobody's demand.
        if !http_addresses.is_empty() {
            tasks.spawn(tell_clients(clients_of, commands.clone(), stops.all.clone()));
        }

        let host = Arc::new(OnceLock::new());
        let control = Arc::new(Control {
            network: grant.network,
            zone: grant.zone.clone(),
            own: identity.key.public(),
            incarnation,
            started: Instant::now(),
            snapshots: snapshot.clone(),
            commands: commands.clone(),
            content,
            held,
            collector,
            generation: generation.clone(),
            metrics: metrics.clone(),
            uploads: Semaphore::new(UPLOADS_MAX),
            stop: stops.serving.clone(),
            host: host.clone(),
        });
        let admin = bind_admin(&dir)?;
        tasks.spawn(admin::serve_unix(admin, control.clone(), clients.clone()));
        let monitored = Monitored {
            asked: config.admin.metrics_listen,
            address: match &metrics_socket {
                Some(socket) => addresses_of(std::slice::from_ref(socket))?.first().copied(),
                None => None,
            },
            stop: stops.serving.child_token(),
        };
        if let Some(socket) = metrics_socket {
            let stop = monitored.stop.clone();
            tasks.spawn(admin::serve_tcp(socket, control.clone(), stop, clients.clone()));
        }

        let mut bootstrap = dir.bootstrap()?;
        bootstrap.extend(&config.overlay.bootstrap);
        bootstrap.retain(|address| !overlay.addresses().contains(address));
        // The machine has just been started and its queue is empty.
        let _ = commands.send(Command::Input(Input::Bootstrap(bootstrap))).await;
        let _ = commands.send(Command::Input(Input::Ready(true))).await;
        Ok(Runtime {
            identity,
            dir,
            overlay,
            http: http_addresses,
            control,
            monitored: Mutex::new(monitored),
            generation,
            registry: metrics.registry(),
            commands,
            reload,
            answering,
            resolvers: metrics.resolvers.clone(),
            host,
            snapshots: snapshot,
            stops,
            clients,
            tasks,
            store,
            _lock: lock,
        })
    }

    /// Who the member is.
    pub fn certificate(&self) -> &MemberCertificate {
        &self.identity.certificate
    }

    /// The present generation of the map, for whoever answers from it.
    pub fn generation(&self) -> godwit_map::Shared {
        self.generation.clone()
    }

    /// Where metrics are registered.
    pub fn registry(&self) -> SharedRegistry {
        self.registry.clone()
    }

    /// Where it listens for members, ports filled in.
    pub fn peer_addresses(&self) -> &[SocketAddr] {
        self.overlay.addresses()
    }

    /// Where it listens for clients, ports filled in; none for members that are no nodes.
    pub fn http_addresses(&self) -> &[SocketAddr] {
        &self.http
    }

    /// Where it answers monitors over TCP, if it was asked to.
    pub fn metrics_address(&self) -> Option<SocketAddr> {
        self.monitored().address
    }

    /// Answers monitors there from now on, and nowhere else. When it cannot be listened on, nothing
    /// changes.
    pub fn listen_metrics(&self, asked: Option<SocketAddr>) -> Result<(), StartError> {
        let mut monitored = self.monitored();
        if monitored.asked == asked {
            return Ok(());
        }
        let stop = self.stops.serving.child_token();
        let mut address = None;
        if let Some(asked) = asked {
            let socket = bind(asked, "metrics")?;
            address = addresses_of(std::slice::from_ref(&socket))?.first().copied();
            let serve = admin::serve_tcp(socket, self.control.clone(), stop.clone(), self.clients.clone());
            self.tasks.spawn(serve);
        }
        std::mem::replace(&mut *monitored, Monitored { asked, address, stop }).stop.cancel();
        tracing::info!(?address, "metrics");
        Ok(())
    }

    fn monitored(&self) -> std::sync::MutexGuard<'_, Monitored> {
        self.monitored.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A client of its control endpoint.
    pub fn client(&self) -> admin::Client {
        admin::Client::new(self.dir.admin_socket())
    }

    /// Who answers at the control endpoint what the runtime does not know. Only the first call counts.
    pub fn set_host(&self, host: Arc<dyn admin::Host>) {
        let _ = self.host.set(host);
    }

    /// The values for certificate authorities that the network knows of, as they change.
    pub fn challenges(&self) -> Challenges {
        Challenges { snapshots: self.snapshots.clone(), known: None }
    }

    /// Waits until this member learns that it was revoked; for ever if it was not. What it says
    /// counts for nobody then, so it had better say nothing.
    pub fn revoked(&self) -> impl Future<Output = ()> + use<> {
        let mut snapshots = self.snapshots.clone();
        async move {
            let revoked = |snapshot: &Arc<Snapshot>| {
                snapshot.members.values().any(|known| known.own && known.state == State::Revoked)
            };
            if snapshots.wait_for(revoked).await.is_err() {
                std::future::pending::<()>().await;
            }
        }
    }

    /// This member answers names, by these settings beside those of its map: the others are told, so
    /// that redirectors that differ are found. Called again when they change.
    pub fn answers_by(&self, settings: Vec<Setting>) {
        self.answering.send_replace(Some(settings));
    }

    /// Asks the nodes to measure the resolvers in `lists`, as they change, until nobody tells any more.
    /// Only a member that is a redirector by its certificate is heard.
    pub fn ask_for_resolvers(&self, mut lists: watch::Receiver<Vec<IpAddr>>) {
        let (commands, stop) = (self.commands.clone(), self.stops.all.clone());
        let asked = self.resolvers.asked.clone();
        self.tasks.spawn(async move {
            loop {
                tokio::select! {
                    () = stop.cancelled() => return,
                    changed = lists.changed() => if changed.is_err() { return },
                }
                let list = lists.borrow_and_update().clone();
                asked.set(list.len() as i64);
                if commands.send(Command::Input(Input::Resolvers(list))).await.is_err() {
                    return;
                }
            }
        });
    }

    /// Reads the GeoIP database again; a broken one leaves the one in use.
    pub fn reload(&self) {
        self.reload.notify_one();
    }

    /// Stops: requests under way end first, for at most some seconds.
    pub async fn shutdown(self) {
        let _ = self.commands.send(Command::Input(Input::Ready(false))).await;
        // The others hear of it while clients that they still send are served.
        if !self.overlay.peers().is_empty() {
            tokio::time::sleep(LEAVE).await;
        }
        self.stops.serving.cancel();
        self.clients.close();
        if tokio::time::timeout(STOP_MAX, self.clients.wait()).await.is_err() {
            tracing::info!(connections = self.clients.len(), "some clients did not end in time");
        }
        self.stops.all.cancel();
        self.overlay.shutdown().await;
        self.tasks.close();
        if tokio::time::timeout(STOP_MAX, self.tasks.wait()).await.is_err() {
            tracing::warn!(tasks = self.tasks.len(), "some tasks did not end in time");
        }
        if let Err(error) = self.store.sync().await {
            tracing::warn!(%error, "the store could not be synced");
        }
        // A socket left behind is removed at the next start as well.
        let _ = std::fs::remove_file(self.dir.admin_socket());
        tracing::info!("stopped");
    }
}

/// The values for certificate authorities, as they change.
pub struct Challenges {
    snapshots: watch::Receiver<Arc<Snapshot>>,
    known: Option<Vec<Challenge>>,
}

impl Challenges {
    /// Waits until they are others than those given last, and gives them, sorted. `None` when the
    /// member stops. May be dropped while it waits.
    pub async fn next(&mut self) -> Option<Vec<Challenge>> {
        loop {
            let mut current: Vec<Challenge> =
                self.snapshots.borrow_and_update().challenges.values().flatten().cloned().collect();
            current.sort_unstable();
            current.dedup();
            if self.known.as_ref() != Some(&current) {
                self.known = Some(current.clone());
                return Some(current);
            }
            self.snapshots.changed().await.ok()?;
        }
    }
}

async fn open_store(dir: &DataDir, config: &Config, identity: &Identity) -> Result<Store, StartError> {
    let mut options = Options::new(identity.key.public());
    options.cache_bytes = u64::from(config.store.cache_mib) << 20;
    let path = dir.store();
    let opened = tokio::task::spawn_blocking(move || Store::open(&path, options)).await;
    let (store, report) = opened
        .map_err(|error| StoreError::Io { what: "opening the store".into(), why: error.to_string() })??;
    if let Some(rebuilt) = &report.rebuilt {
        tracing::warn!(why = rebuilt.why, set_aside = ?rebuilt.set_aside, "the store's index was rebuilt");
    }
    tracing::info!(objects = report.objects, lost = report.lost.len(), "the store is open");
    Ok(store)
}

async fn blocking<T: Send + 'static, E: Into<StartError> + Send + 'static>(
    work: impl FnOnce() -> Result<T, E> + Send + 'static,
) -> Result<T, StartError> {
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => result.map_err(Into::into),
        Err(error) => match error.try_into_panic() {
            Ok(panic) => std::panic::resume_unwind(panic),
            // The runtime ends, and drops who waits here, too.
            Err(_) => std::future::pending().await,
        },
    }
}

/// Whom to admit until the machine has said so: its own word comes within the first turn.
fn first_admission(own: &MemberCertificate, persisted: &[Record]) -> Admission {
    let mut admission = Admission { network: Some(own.grant().network), ..Admission::default() };
    admission.members.insert(own.grant().serial, own.member());
    for record in persisted {
        match record {
            Record::Member(certificate) => {
                admission.members.insert(certificate.grant().serial, certificate.member());
            }
            Record::Revocation(revocation) => {
                admission.revoked.insert(revocation.serial);
            }
            _ => {}
        }
    }
    admission
}

/// What the member says of itself: as configured, or as far as its sockets tell.
fn own_entry(config: &Config, peer: &[SocketAddr], http: &[SocketAddr]) -> OwnEntry {
    let listened = || http.iter().chain(peer).map(SocketAddr::ip).filter(|ip| !ip.is_unspecified());
    let v4 = |ip: IpAddr| if let IpAddr::V4(v4) = ip { Some(v4) } else { None };
    let v6 = |ip: IpAddr| if let IpAddr::V6(v6) = ip { Some(v6) } else { None };
    let wildcard = |is_v4: bool| {
        http.iter().chain(peer).any(|address| address.ip().is_unspecified() && address.is_ipv4() == is_v4)
    };
    let public_v4 = config
        .node
        .public_v4
        .or_else(|| listened().find_map(v4))
        .or_else(|| source_v4().filter(|_| wildcard(true)));
    let public_v6 = config
        .node
        .public_v6
        .or_else(|| listened().find_map(v6))
        .or_else(|| source_v6().filter(|_| wildcard(false)));
    let reached = |address: &SocketAddr| {
        let ip = match address.ip() {
            IpAddr::V4(ip) if ip.is_unspecified() => public_v4.map(IpAddr::V4),
            IpAddr::V6(ip) if ip.is_unspecified() => public_v6.map(IpAddr::V6),
            ip => Some(ip),
        };
        ip.map(|ip| SocketAddr::new(ip, address.port()))
    };
    let peer_addresses = match config.overlay.advertise.is_empty() {
        true => peer.iter().filter_map(reached).collect(),
        false => config.overlay.advertise.clone(),
    };
    OwnEntry {
        peer_addresses,
        public_v4,
        public_v6,
        http_port: config.node.http_port.or_else(|| http.first().map(SocketAddr::port)),
        software: env!("CARGO_PKG_VERSION").to_owned(),
        checks: Vec::new(),
    }
}

/// The address from which this host reaches the world; asking the kernel sends nothing.
fn source_v4() -> Option<Ipv4Addr> {
    // 192.0.2.0/24 and 2001:db8::/32 are for documentation: routed like the rest of the world.
    match source("0.0.0.0:0", "192.0.2.1:9")? {
        IpAddr::V4(ip) if !ip.is_loopback() => Some(ip),
        _ => None,
    }
}

fn source_v6() -> Option<Ipv6Addr> {
    match source("[::]:0", "[2001:db8::1]:9")? {
        IpAddr::V6(ip) if !ip.is_loopback() && !ip.is_unicast_link_local() => Some(ip),
        _ => None,
    }
}

fn source(from: &str, to: &str) -> Option<IpAddr> {
    let socket = UdpSocket::bind(from).ok()?;
    socket.connect(to).ok()?;
    Some(socket.local_addr().ok()?.ip())
}

fn bind_all(addresses: &[SocketAddr], purpose: &'static str) -> Result<Vec<TcpListener>, StartError> {
    let mut sockets = Vec::new();
    for address in addresses {
        match bind(*address, purpose) {
            Ok(socket) => sockets.push(socket),
            // A host without IPv6 still has the other wildcard.
            Err(StartError::Listen { source, .. })
                if address.ip() == IpAddr::V6(Ipv6Addr::UNSPECIFIED)
                    && !sockets.is_empty()
                    && source.kind() != io::ErrorKind::AddrInUse =>
            {
                tracing::info!(%address, error = %source, "not listening on this address");
            }
            Err(error) => return Err(error),
        }
    }
    Ok(sockets)
}

fn bind(address: SocketAddr, purpose: &'static str) -> Result<TcpListener, StartError> {
    let failed = |source| StartError::Listen { address: address.to_string(), purpose, source };
    http::listen(address).map_err(failed)
}

fn addresses_of(sockets: &[TcpListener]) -> Result<Vec<SocketAddr>, StartError> {
    let failed =
        |source| StartError::Listen { address: "an open socket".into(), purpose: "its address", source };
    sockets.iter().map(|socket| socket.local_addr().map_err(failed)).collect()
}

/// The control socket. One left by a crash is in the way, and nobody's: the directory is locked.
fn bind_admin(dir: &DataDir) -> Result<UnixListener, StartError> {
    use std::os::unix::fs::PermissionsExt;
    let path = dir.admin_socket();
    let _ = std::fs::remove_file(&path);
    let listen = || -> io::Result<UnixListener> {
        let socket = UnixListener::bind(&path)?;
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600))?;
        Ok(socket)
    };
    listen().map_err(|source| StartError::Listen {
        address: path.display().to_string(),
        purpose: "control socket",
        source,
    })
}

/// What serving clients teaches.
struct Clients {
    door: Arc<Door>,
    rtts: Arc<Rtts>,
    asked: Arc<Asked>,
    capacity: Capacity,
}

/// Tells the machine how busy this member is, how far its clients are and what they ask for.
async fn tell_clients(clients: Clients, commands: mpsc::Sender<Command>, stop: CancellationToken) {
    let Clients { door, rtts, asked, capacity } = clients;
    let mut load_at = tokio::time::interval(LOAD_PERIOD);
    let mut rtts_at = tokio::time::interval(RTTS_PERIOD);
    let mut demand_at = tokio::time::interval(DEMAND_PERIOD);
    let mut told = (0, Vec::new());
    let mut rtts_told = tokio::time::Instant::now();
    loop {
        let input = tokio::select! {
            () = stop.cancelled() => return,
            _ = load_at.tick() => {
                let load = load_to_tell(door.load_permille(), told.0);
                // Small changes are not worth a record to everybody.
                if load.abs_diff(told.0) < 50 { continue }
                told.0 = load;
                Input::Load(load)
            }
            _ = rtts_at.tick() => {
                let recent = rtts.told();
                if recent == told.1 && rtts_told.elapsed() < RTTS_REFRESH { continue }
                rtts_told = tokio::time::Instant::now();
                told.1.clone_from(&recent);
                Input::ClientRtts(recent)
            }
            _ = demand_at.tick() => Input::Demand(Box::new(asked.demand(capacity))),
        };
        if commands.send(Command::Input(input)).await.is_err() {
            return;
        }
    }
}

fn load_to_tell(load: u16, told: u16) -> u16 {
    if told >= 1000 && load >= FULL_UNTIL_PERMILLE { load.max(1000) } else { load }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_was_full_says_so_until_well_below() {
        assert_eq!(load_to_tell(999, 0), 999);
        assert_eq!(load_to_tell(1000, 999), 1000);
        assert_eq!(load_to_tell(850, 1000), 1000);
        assert_eq!(load_to_tell(849, 1000), 849);
        assert_eq!(load_to_tell(900, 849), 900);
    }
}
