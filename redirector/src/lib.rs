//! Authoritative DNS for the zone: sockets and limits around the plugin.
//!
//! ```no_run
//! # async fn run(map: godwit_map::Shared) -> Result<(), godwit_redirector::StartError> {
//! use godwit_redirector::{Config, Redirector, SharedView, Zone};
//!
//! let mut registry = prometheus_client::registry::Registry::default();
//! let config = Config { listen: vec!["192.0.2.53:53".parse().unwrap()], ..Config::default() };
//! let zone = Zone::new(map.load().zone(), config.options());
//! let running = Redirector::start(config, SharedView::new(map, zone), &mut registry).await?;
//! println!("answering on {:?}", running.addresses());
//! running.shutdown().await;
//! # Ok(())
//! # }
//! ```
//!
//! The generation in the map's pointer and the zone in the [`SharedView`] may be swapped at any time;
//! each query is answered from one view, and no query waits for another.
//!
//! How it is built:
//!
//! - [`sockets`]: per listen address one TCP listener (bound first and alone, so that a port in use
//!   is found) and one UDP socket per worker, sharing the port by `SO_REUSEPORT`.
//! - [`listeners`]: which addresses are listened on, and how that changes without a loss.
//! - [`udp`], [`fast`]: a thread for each UDP socket receives, answers and sends by the batch. What it
//!   has not encoded before it has [`capture`], the general path, make.
//! - [`asking`]: which resolvers ask without a client subnet, where somebody wants to know.
//! - [`tcp`]: listens for connections; [`stream`] converses on them, [`tls`], [`doh`] and [`doq`] with
//!   encryption. [`connections`] caps them per source before overall; the newest always gets in, at
//!   the cost of who made no progress for longest.
//! - [`handover`]: sockets that a service manager or the process before this one had open, and how they
//!   go on to the next.
//! - [`transfer`], [`tsig`], [`notify`]: the zone's static part for other name servers.
//! - [`limit`]: replies per source prefix are limited; every second one beyond the limit goes out
//!   truncated, so that a real client behind a forged flood can still come by TCP.
//!
//! # Trade-offs
//!
//! UDP threads are not tasks of the runtime: under a flood they take all of their processors, and
//! connections and the rest of the process share what the kernel gives them beside that.

#![cfg_attr(test, allow(clippy::unwrap_used, reason = "a test may panic"))]

mod asking;
mod capture;
mod config;
mod connections;
mod decisions;
mod doh;
mod doq;
mod edns;
mod fast;
mod handover;
mod limit;
mod listeners;
mod manners;
mod metrics;
mod monitor;
mod notify;
pub mod paths;
mod signing;
mod sockets;
pub mod static_zone;
mod stream;
mod tcp;
mod tls;
mod transfer;
mod tsig;
mod udp;

pub use asking::Asking;
pub use config::{Config, Limits, SecondaryConfig, TlsConfig, TransferConfig};
pub use decisions::DecisionsConfig;
pub use godwit_dns_plugin::{SharedView, Zone};
pub use godwit_net::estate::Estate;
pub use handover::{Inherited, Leave, LetGo, Succession, Successors};
pub use manners::CookieError;
pub use monitor::Monitor;
pub use signing::{DnssecConfig, Signing, SigningError};
pub use sockets::{Purpose, StartError};
pub use tls::TlsError;
pub use transfer::TransferError;
pub use tsig::KeyError;

use connections::Connections;
use godwit_dns_plugin::{Handler, Manners};
use handover::Waiting;
use listeners::{Listeners, Speakers};
use metrics::Metrics;
use prometheus_client::registry::Registry;
use sockets::Before;
use std::io;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use stream::{Idle, Service};
use tls::Certificates;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio_util::task::TaskTracker;
use transfer::{Peers, Transfers};
use udp::Compiler;

/// How long connections get to end when the redirector stops.
const SHUTDOWN_GRACE: Duration = Duration::from_secs(2);

/// The redirector.
pub struct Redirector;

impl Redirector {
    /// Answers until [`Running::shutdown`], on sockets that were open already ([`Inherited::find`]) or
    /// on every address of `config`. Its metrics go into `registry`. When any address fails, none is
    /// kept.
    pub async fn start(
        config: Config,
        shared: SharedView,
        registry: &mut Registry,
    ) -> Result<Running, StartError> {
        let inherited = Inherited::find(config.handover.as_deref()).await;
        let inherited = inherited.map_err(|error| handover_failure(&config, error))?;
        Redirector::start_on(inherited, config, shared, registry).await
    }

    /// The same with the sockets in `inherited`. Where they are another process's, it stops answering
    /// once this one does.
    pub async fn start_on(
        inherited: Inherited,
        config: Config,
        shared: SharedView,
        registry: &mut Registry,
    ) -> Result<Running, StartError> {
        // What can be wrong in files is found before anything listens.
        let certificates = config.tls.is_on().then(|| Certificates::read(&config.tls)).transpose()?;
        let peers = Peers::read(&config.transfer)?;
        let manners = config.manners()?;
        let Inherited { open, held, beside, predecessor, leaves } = inherited;
        let bound = sockets::listen(&config, Before { open, held })?;
        let metrics = Arc::new(Metrics::register(registry));
        let transfers = Arc::new(Transfers::new(peers, shared.clone(), metrics.clone()));
        let (stop, stopped) = watch::channel(());
        let (decisions, looker) =
            decisions::Decisions::start(&config.decisions, shared.clone(), registry, stopped.clone())
                .map_err(StartError::Decisions)?;
        let handler = Handler::new(shared).with_manners(manners.clone());
        let engine =
            capture::Engine::new(handler, transfers.clone(), metrics.clone()).with_decisions(decisions);
        let asking = engine.asking.clone();
        let limits = &config.limits;
        let connections = |max| Connections::new(max, limits.tcp_connections_per_prefix_max, metrics.clone());
        let idle = Idle::default();
        idle.set(limits.tcp_idle());
        let service = Service { engine: engine.clone(), transfers: transfers.clone(), idle };
        let speakers = Speakers {
            compiler: Compiler::start(&engine).map_err(|error| StartError::Runtime("views", error))?,
            engine,
            service,
            limiter: Arc::new(limit::Limiter::new(&config.limits)),
            plain: connections(limits.tcp_connections_max),
            encrypted: connections(limits.tls_connections_max),
            certificates,
            doh_path: config.tls.doh_path.as_str().into(),
            fast_path: config.fast_path,
            quic: TaskTracker::new(),
        };
        let mut listeners = Listeners::new(speakers, stopped.clone());
        listeners.pass_on(beside);
        let (events, successions) = mpsc::channel(1);
        let waiting = |path: &Path| Waiting::listen(path, (listeners.descriptors(), leaves), events);
        let waiting = config.handover.as_deref().map(waiting).transpose();
        let waiting = waiting.map_err(|error| handover_failure(&config, error))?;
        let mut tasks = JoinSet::new();
        tasks.spawn(looker);
        // QUIC's packets belong to connections: read by the wrong process they would be lost.
        let (quic, others) = bound.into_iter().partition(|bound| bound.purpose == Purpose::Doq);
        listeners.start(others, &mut tasks)?;
        if let Some(predecessor) = predecessor {
            predecessor.relieve_and_tell().await;
        }
        listeners.start(quic, &mut tasks)?;
        tasks.spawn(notify::run(transfers.clone(), stopped.clone()));
        let stop = Arc::new(stop);
        if let Some(waiting) = waiting {
            tasks.spawn(be_succeeded(waiting, stop.clone(), stopped, listeners.speakers.quic.clone()));
        }
        let addresses = Addresses::of(&listeners);
        tracing::info!(?addresses, "redirector listens");
        Ok(Running { addresses, stop, tasks, transfers, manners, listeners, successions, asking })
    }
}

fn handover_failure(config: &Config, error: io::Error) -> StartError {
    StartError::Handover(config.handover.clone().unwrap_or_default(), error)
}

/// Waits for a successor, or for the end. When one is ready nothing more is read here.
async fn be_succeeded(
    waiting: Waiting,
    stop: Arc<watch::Sender<()>>,
    mut stopped: watch::Receiver<()>,
    quic: TaskTracker,
) {
    let farewell = tokio::select! {
        farewell = waiting.succeeded() => farewell,
        _ = stopped.changed() => return,
    };
    // Whoever holds no receiver any more has stopped already.
    let _ = stop.send(());
    // QUIC's connections end with a word each.
    quic.close();
    let _ = tokio::time::timeout(SHUTDOWN_GRACE, quic.wait()).await;
    farewell.say();
    let _ = waiting.events.send(Succession::Done).await;
}

/// Where a redirector answers; with the real port where port 0 was asked for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Addresses {
    /// Over UDP and TCP.
    pub dns: Vec<SocketAddr>,
    /// DNS over TLS.
    pub dot: Vec<SocketAddr>,
    /// DNS over HTTPS.
    pub doh: Vec<SocketAddr>,
    /// DNS over QUIC.
    pub doq: Vec<SocketAddr>,
}

impl Addresses {
    fn of(listeners: &Listeners) -> Addresses {
        let [dns, dot, doh, doq] = Purpose::ALL.map(|purpose| listeners.addresses(purpose));
        Addresses { dns, dot, doh, doq }
    }
}

/// A redirector that answers. Dropping it stops it at once.
pub struct Running {
    addresses: Addresses,
    stop: Arc<watch::Sender<()>>,
    tasks: JoinSet<()>,
    transfers: Arc<Transfers>,
    manners: Manners,
    listeners: Listeners,
    successions: mpsc::Receiver<Succession>,
    asking: Asking,
}

/// Why a changed configuration is not taken; nothing of it is.
#[derive(Debug, thiserror::Error)]
pub enum ReloadError {
    /// There is no certificate for encrypted DNS; the old one is shown on.
    #[error("the certificate stays as it was")]
    Tls(#[from] TlsError),
    /// Settings of zone transfers are wrong.
    #[error("secondaries stay as they were")]
    Transfer(#[from] TransferError),
    /// The file of cookie secrets is wrong.
    #[error("cookie secrets stay as they were")]
    Cookies(#[from] CookieError),
    /// An address cannot be listened on; those before it are listened on still.
    #[error("the addresses listened on stay as they were")]
    Listen(#[source] StartError),
}

impl Running {
    /// Where it answers, over UDP and TCP.
    pub fn addresses(&self) -> &[SocketAddr] {
        &self.addresses.dns
    }

    /// Where it answers, by transport.
    pub fn all_addresses(&self) -> &Addresses {
        &self.addresses
    }

    /// Which resolvers ask: counted from when somebody runs it.
    pub fn asking(&self) -> Asking {
        self.asking.clone()
    }

    /// Takes over what can change without a restart: the addresses listened on, the files of
    /// certificate and keys (read again even when their names stay), secondaries, cookie secrets, and
    /// limits. No query is lost, and connections to an address that is given up end once they are quiet.
    /// Within a Tokio runtime.
    pub fn reload(&mut self, config: &Config) -> Result<(), ReloadError> {
        // Everything is read and bound before anything changes.
        let peers = Peers::read(&config.transfer)?;
        let secrets = config.cookie_secrets()?;
        let key = config.tls.is_on().then(|| tls::certified_key(&config.tls)).transpose()?;
        let before = self.listeners.speakers.certificates.clone();
        if let (None, Some(key)) = (&before, &key) {
            self.listeners.speakers.certificates = Some(Certificates::new(key.clone()));
        }
        if let Err(error) = self.listeners.change(config, &mut self.tasks) {
            self.listeners.speakers.certificates = before;
            return Err(ReloadError::Listen(error));
        }
        if let (Some(certificates), Some(key)) = (before, key) {
            certificates.set(key);
        }
        self.addresses = Addresses::of(&self.listeners);
        self.transfers.peers.store(Arc::new(peers));
        if let Some(secrets) = secrets {
            self.manners.change_secrets(secrets);
        }
        let (speakers, limits) = (&self.listeners.speakers, &config.limits);
        speakers.limiter.change(limits);
        speakers.plain.limit(limits.tcp_connections_max, limits.tcp_connections_per_prefix_max);
        speakers.encrypted.limit(limits.tls_connections_max, limits.tcp_connections_per_prefix_max);
        speakers.service.idle.set(limits.tcp_idle());
        Ok(())
    }

    /// What a successor wants next; never, without `handover` in the configuration.
    pub async fn succession(&mut self) -> Succession {
        match self.successions.recv().await {
            Some(succession) => succession,
            None => std::future::pending().await,
        }
    }

    /// Stops listening, lets open connections finish the query at hand, and returns.
    pub async fn shutdown(mut self) {
        // Whoever holds no receiver any more has stopped already.
        let _ = self.stop.send(());
        let all = async { while self.tasks.join_next().await.is_some() {} };
        if tokio::time::timeout(SHUTDOWN_GRACE, all).await.is_err() {
            self.tasks.abort_all();
        }
        tracing::info!("redirector stopped");
    }
}
