//! A running member: everything started in order, and stopped in order.
//!
//! Start: the data directory (locked, whose is it), the store, what earlier runs left, the sockets,
//! then the tasks. Whatever fails is told before anything was changed, but for the count of starts.
//! Stop: say that this member serves no more, let requests end, close connections so that peers
//! know at once, save the map, close the store.

mod challenges;
mod error;
mod follow;
mod hands;
mod listen;
mod own;
mod start;
mod tell;

pub use challenges::Challenges;
pub use error::StartError;
pub use listen::Sockets;

use crate::admin::{self, Control};
use crate::config::Config;
use crate::datadir::{DataDir, Identity, Lock};
use crate::driver::Command;
use crate::generation::Reload;
use crate::handoff::{Handoffs, Packets, Program, Told};
use crate::homes::{Announces, Homes};
use crate::http::Door;
use crate::metrics::SharedRegistry;
use crate::mobility::Mobility;
use crate::moves::{Moves, Tell};
use crate::resolvers::ResolverMetrics;
use crate::snapshot::Snapshot;
use godwit_core::agreement::Setting;
use godwit_core::certificate::MemberCertificate;
use godwit_core::member::{Input, State, Timing};
use godwit_net::estate::Estate;
use godwit_overlay::Overlay;
use godwit_store::Store;
use hands::Hands;
use listen::{Listeners, addresses_of, bind};
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;
use tokio::net::TcpListener;
use tokio::sync::{mpsc, oneshot, watch};
use tokio_util::sync::{CancellationToken, DropGuard};
use tokio_util::task::TaskTracker;

/// A member that stops serves on for so long after it has said so: time enough for the word to cross
/// an ocean, and for the others to answer by it.
const LEAVE: Duration = Duration::from_millis(500);

/// Requests that came before the store goes to a successor are answered within this.
const ANSWER_MAX: Duration = Duration::from_secs(2);

/// Responses under way may take so long to end when a successor serves already.
const FINISH_MAX: Duration = Duration::from_secs(30);

/// Between two looks whether they have.
const FINISH_LOOK: Duration = Duration::from_millis(200);

/// Home agents hear within this that packets are to go elsewhere.
const FAREWELL: Duration = Duration::from_millis(400);

/// Requests under way may take so long to end when the daemon stops.
const STOP_MAX: Duration = Duration::from_secs(8);

/// What a member is started with.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Its data directory; it must have joined.
    pub data_dir: PathBuf,
    /// Its configuration.
    pub config: Config,
    /// The machine's periods; other than the defaults only in tests.
    pub timing: Timing,
    /// Programs of the caller's whose connections at home addresses move, beside those of the HTTP server:
    /// none as a rule. Their connections are known by [`Mobility::connections`].
    pub programs: Vec<Arc<dyn Program>>,
}

impl Settings {
    /// The member in `data_dir`, configured so.
    pub fn new(data_dir: impl Into<PathBuf>, config: Config) -> Settings {
        Settings { data_dir: data_dir.into(), config, timing: Timing::default(), programs: Vec::new() }
    }
}

/// A running member. Dropping it without [`Runtime::shutdown`] ends its tasks as a crash would, only
/// politer: what was acknowledged is durable either way.
pub struct Runtime {
    identity: Identity,
    dir: DataDir,
    overlay: Overlay,
    http: Vec<SocketAddr>,
    public: Vec<IpAddr>,
    control: Arc<Control>,
    monitored: Mutex<Monitored>,
    generation: godwit_map::Shared,
    registry: SharedRegistry,
    commands: mpsc::Sender<Command>,
    reloads: mpsc::Sender<Reload>,
    answering: watch::Sender<Option<Vec<Setting>>>,
    resolvers: Arc<ResolverMetrics>,
    host: Arc<OnceLock<Arc<dyn admin::Host>>>,
    snapshots: watch::Receiver<Arc<Snapshot>>,
    stops: Stops,
    listeners: Listeners,
    door: Arc<Door>,
    clients: TaskTracker,
    tasks: TaskTracker,
    /// Those that carry packets of home addresses.
    carriers: TaskTracker,
    moves: Mutex<Option<Moves>>,
    mobility: Option<Mobility>,
    store: Store,
    _lock: Lock,
}

/// Where monitors are answered.
struct Monitored {
    /// As configured.
    asked: Option<SocketAddr>,
    /// With the real port.
    address: Option<SocketAddr>,
    socket: Option<Arc<TcpListener>>,
    stop: CancellationToken,
}

/// What ends first and what ends last.
#[derive(Default)]
struct Stops {
    /// Serving clients and operators.
    serving: CancellationToken,
    /// Everything else.
    all: CancellationToken,
    /// Carrying packets of home addresses.
    carrying: CancellationToken,
}

impl Drop for Stops {
    fn drop(&mut self) {
        self.serving.cancel();
        self.all.cancel();
        self.carrying.cancel();
    }
}

impl Runtime {
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

    /// Where clients, or else others, reach this host, as far as it knows; IPv4 first.
    pub fn public_addresses(&self) -> Vec<IpAddr> {
        self.public.clone()
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
        let (mut address, mut listening) = (None, None);
        if let Some(asked) = asked {
            let socket = Arc::new(bind(asked, "metrics")?);
            address = addresses_of(std::slice::from_ref(&socket))?.first().copied();
            listening = Some(socket.clone());
            let serve = admin::serve_tcp(socket, self.control.clone(), stop.clone(), self.clients.clone());
            self.tasks.spawn(serve);
        }
        std::mem::replace(&mut *monitored, Monitored { asked, address, socket: listening, stop })
            .stop
            .cancel();
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

    /// Lets HTTP connections at home addresses move: to and from nodes that hear what `tell` says. Programs
    /// of the caller's take part as well; `None` when this was called before.
    pub fn move_connections<P: Packets>(
        &self,
        packets: Arc<P>,
        programs: Vec<Arc<dyn Program>>,
        tell: Told,
    ) -> Option<Handoffs> {
        let hands = Hands {
            door: self.door.clone(),
            clients: self.clients.clone(),
            tasks: self.tasks.clone(),
            serving: self.stops.serving.clone(),
            all: self.stops.all.clone(),
        };
        hands.move_connections(packets, programs, tell)
    }

    /// The values for certificate authorities that the network knows of, as they change.
    pub fn challenges(&self) -> Challenges {
        Challenges { snapshots: self.snapshots.clone(), known: None }
    }

    /// Home addresses at this node; `None` where it is a home agent too, or no node.
    pub fn mobility(&self) -> Option<&Mobility> {
        self.mobility.as_ref()
    }

    /// What members say about home addresses, for a home agent; only the first call gets it.
    pub fn moves(&self) -> Option<Moves> {
        self.moves.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    /// Says something about home addresses to other members.
    pub fn tell(&self) -> Tell {
        Tell(self.overlay.clone())
    }

    /// What the network says of home addresses, as it changes.
    pub fn homes(&self) -> Homes {
        Homes { snapshots: self.snapshots.clone(), known: None }
    }

    /// Tells the other home agents what this one announces. Only a member that is one by its
    /// certificate is heard.
    pub fn announces(&self) -> Announces {
        Announces(self.commands.clone())
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

    /// Reads the GeoIP database again; a broken one leaves the one in use, and then this tells why.
    pub async fn reload(&self) -> Option<String> {
        let (reply, told) = oneshot::channel();
        // Nobody keeps a map any more when the daemon stops.
        self.reloads.send(reply).await.ok()?;
        told.await.ok()?
    }

    /// More descriptors of the sockets that it listens on, for a successor.
    pub fn sockets(&self) -> io::Result<Sockets> {
        let metrics = self.monitored().socket.clone();
        Listeners { metrics, ..self.listeners.clone() }.duplicate()
    }

    /// Stops: requests under way end first, for at most some seconds.
    pub async fn shutdown(mut self) {
        self.leave().await;
        self.close_sockets();
        if tokio::time::timeout(STOP_MAX, self.clients.wait()).await.is_err() {
            tracing::info!(connections = self.clients.len(), "some clients did not end in time");
        }
        let admin_socket = self.dir.admin_socket();
        self.close().await;
        // A socket left behind is removed at the next start as well.
        let _ = std::fs::remove_file(admin_socket);
        tracing::info!("stopped");
    }

    /// Lets go of the directory for a successor that has the [sockets](Runtime::sockets): clients that
    /// come from now on wait in them until it serves. Every request that came before is answered, and
    /// responses that are being sent go on as long as what is returned is waited for.
    pub async fn hand_over(mut self) -> Leaving {
        self.door.last_requests();
        self.leave().await;
        let mobility = self.mobility.take().filter(Mobility::is_open);
        let carrying = match mobility {
            Some(mobility) => {
                mobility.carry_on().await;
                // They outlive this member's other parts.
                self.carriers = TaskTracker::new();
                Some(Carrying { mobility, _end: std::mem::take(&mut self.stops.carrying).drop_guard() })
            }
            None => None,
        };
        self.close_sockets();
        self.door.let_go(ANSWER_MAX).await;
        let leaving = Leaving { clients: self.clients.clone(), carrying };
        self.close().await;
        tracing::info!(connections = leaving.clients.len(), "handed over");
        leaving
    }

    /// Accepts nothing more: whoever has more descriptors of the sockets does.
    fn close_sockets(&mut self) {
        self.listeners = Listeners::default();
        self.monitored().socket = None;
        self.stops.serving.cancel();
        self.clients.close();
    }

    /// Says that it serves no more, and serves on until that is known.
    async fn leave(&self) {
        let _ = self.commands.send(Command::Input(Input::Ready(false))).await;
        // The others hear of it while clients that they still send are served.
        if !self.overlay.peers().is_empty() {
            tokio::time::sleep(LEAVE).await;
        }
    }

    async fn close(self) {
        if let Some(mobility) = self.mobility.as_ref().filter(|part| part.is_open()) {
            mobility.leave().await;
            // The second word to a home agent within a third of a second waits for it.
            tokio::time::sleep(FAREWELL).await;
        }
        self.stops.all.cancel();
        self.stops.carrying.cancel();
        self.overlay.shutdown().await;
        self.tasks.close();
        self.carriers.close();
        if tokio::time::timeout(STOP_MAX, self.carriers.wait()).await.is_err() {
            tracing::warn!("home addresses are not let go in time");
        }
        if tokio::time::timeout(STOP_MAX, self.tasks.wait()).await.is_err() {
            tracing::warn!(tasks = self.tasks.len(), "some tasks did not end in time");
        }
        if let Err(error) = self.store.sync().await {
            tracing::warn!(%error, "the store could not be synced");
        }
        let store = self.store.clone();
        // A panic in it was told already, and the process ends.
        let _ = tokio::task::spawn_blocking(move || store.close()).await;
    }
}

/// Clients that a member still serves after it has [handed over](Runtime::hand_over), and the packets of home
/// addresses that it carries until its successor does.
#[derive(Debug)]
pub struct Leaving {
    clients: TaskTracker,
    carrying: Option<Carrying>,
}

/// Carries packets until it is dropped.
#[derive(Debug)]
struct Carrying {
    mobility: Mobility,
    _end: DropGuard,
}

impl Leaving {
    /// The successor serves: what it carries on from here. Connections that were accepted here go on here.
    pub async fn estate(&self) -> Option<Estate> {
        self.carrying.as_ref()?.mobility.bequeath().await
    }

    /// Waits until all clients have what they asked for, at most half a minute.
    pub async fn finish(self) {
        let all = async {
            self.clients.wait().await;
            if let Some(carrying) = &self.carrying {
                while carrying.mobility.forwarding().await > 0 {
                    tokio::time::sleep(FINISH_LOOK).await;
                }
            }
        };
        if tokio::time::timeout(FINISH_MAX, all).await.is_err() {
            tracing::info!(connections = self.clients.len(), "some clients did not end in time");
        }
    }
}
