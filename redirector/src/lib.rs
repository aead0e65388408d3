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
pub use handover::{Inherited, LetGo, Succession};
pub use manners::CookieError;
pub use monitor::Monitor;
pub use signing::{DnssecConfig, Signing, SigningError};
pub use sockets::StartError;
pub use tls::TlsError;
pub use transfer::TransferError;
pub use tsig::KeyError;

use connections::Connections;
use godwit_dns_plugin::{Handler, Manners};
use handover::{Predecessor, Waiting};
use metrics::Metrics;
use prometheus_client::registry::Registry;
use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use stream::{Idle, Service};
use tcp::Speaks;
use tls::Certificates;
use tokio::net::TcpListener;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use transfer::{Peers, Transfers};
use udp::Threads;

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
        let sockets = sockets::listen(&config, inherited.open)?;
        let (events, successions) = mpsc::channel(1);
        let waiting = |path: &Path| Waiting::listen(path, sockets.duplicate()?, events);
        // Before anybody can be told that this one is ready to be followed.
        let waiting = config.handover.as_deref().map(waiting).transpose();
        let waiting = waiting.map_err(|error| handover_failure(&config, error))?;
        let metrics = Arc::new(Metrics::register(registry));
        let transfers = Arc::new(Transfers::new(peers, shared.clone(), metrics.clone()));
        let (stop, stopped) = watch::channel(());
        let (decisions, looker) =
            decisions::Decisions::start(&config.decisions, shared.clone(), registry, stopped.clone())
                .map_err(StartError::Decisions)?;
        let handler = Handler::new(shared).with_manners(manners.clone());
        let engine =
            capture::Engine::new(handler, transfers.clone(), metrics.clone()).with_decisions(decisions);
        let stop = Arc::new(stop);
        let mut tasks = JoinSet::new();
        tasks.spawn(looker);
        let asking = engine.asking.clone();
        let service = Service { engine: engine.clone(), transfers: transfers.clone(), idle: Idle::default() };
        let limits = &config.limits;
        let connections = |max| Connections::new(max, limits.tcp_connections_per_prefix_max, metrics.clone());
        let plain = connections(limits.tcp_connections_max);
        let encrypted = connections(limits.tls_connections_max);
        service.idle.set(limits.tcp_idle());
        let accept = |listener: std::net::TcpListener, connections: &Arc<Connections>, speaks| {
            let listener = TcpListener::from_std(listener);
            let listener = listener.map_err(|error| StartError::Runtime("TCP", error))?;
            let (service, connections) = (service.clone(), connections.clone());
            Ok::<_, StartError>(tcp::Acceptor { listener, service, connections, speaks }.run(stopped.clone()))
        };
        let (mut addresses, mut udp) = (Addresses::default(), Vec::new());
        for listening in sockets.dns {
            addresses.dns.push(listening.address);
            udp.extend(listening.udp);
            tasks.spawn(accept(listening.tcp, &plain, Speaks::Dns)?);
        }
        let limiter = Arc::new(limit::Limiter::new(&config.limits));
        let threads = Threads::start(udp, &engine, &limiter, config.fast_path);
        tasks.spawn(threads.map_err(|error| StartError::Runtime("UDP", error))?.run(stopped.clone()));
        // Whoever holds one of them still reads QUIC.
        let (reading, read) = mpsc::channel::<Infallible>(1);
        if let Some(certificates) = &certificates {
            for listener in sockets.dot {
                addresses.dot.extend(listener.local_addr());
                tasks.spawn(accept(listener, &encrypted, Speaks::Tls(certificates.dot()?))?);
            }
            let path: Arc<str> = config.tls.doh_path.as_str().into();
            for listener in sockets.doh {
                addresses.doh.extend(listener.local_addr());
                let speaks = Speaks::Https(certificates.https()?, path.clone());
                tasks.spawn(accept(listener, &encrypted, speaks)?);
            }
            if let Some(predecessor) = inherited.predecessor {
                relieve(predecessor).await;
            }
            for socket in sockets.doq {
                addresses.doq.extend(socket.local_addr());
                let (service, connections) = (service.clone(), encrypted.clone());
                let listener = doq::Listener::new(socket, certificates, service, connections)?;
                let (stopped, reading) = (stopped.clone(), reading.clone());
                tasks.spawn(async move {
                    listener.run(stopped).await;
                    drop(reading);
                });
            }
        } else if let Some(predecessor) = inherited.predecessor {
            relieve(predecessor).await;
        }
        tasks.spawn(notify::run(transfers.clone(), stopped.clone()));
        if let Some(waiting) = waiting {
            tasks.spawn(be_succeeded(waiting, stop.clone(), stopped, read));
        }
        tracing::info!(?addresses, "redirector listens");
        let idle = service.idle;
        Ok(Running {
            addresses,
            stop,
            tasks,
            transfers,
            certificates,
            manners,
            limiter,
            plain,
            encrypted,
            idle,
            successions,
            asking,
        })
    }
}

fn handover_failure(config: &Config, error: io::Error) -> StartError {
    StartError::Handover(config.handover.clone().unwrap_or_default(), error)
}

async fn relieve(predecessor: Predecessor) {
    match predecessor.relieve().await {
        Ok(()) => tracing::info!("took over from another process"),
        // It reads on, or has ended; this one reads in either case.
        Err(error) => tracing::warn!(%error, "the other process did not say good-bye"),
    }
}

/// Waits for a successor, or for the end. When one is ready nothing more is read here.
async fn be_succeeded(
    waiting: Waiting,
    stop: Arc<watch::Sender<()>>,
    mut stopped: watch::Receiver<()>,
    mut reading: mpsc::Receiver<Infallible>,
) {
    let farewell = tokio::select! {
        farewell = waiting.succeeded() => farewell,
        _ = stopped.changed() => return,
    };
    // Whoever holds no receiver any more has stopped already.
    let _ = stop.send(());
    // QUIC's connections end with a word each; that is when nobody holds a sender.
    let _ = tokio::time::timeout(SHUTDOWN_GRACE, reading.recv()).await;
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

/// A redirector that answers. Dropping it stops it at once.
pub struct Running {
    addresses: Addresses,
    stop: Arc<watch::Sender<()>>,
    tasks: JoinSet<()>,
    transfers: Arc<Transfers>,
    certificates: Option<Arc<Certificates>>,
    manners: Manners,
    limiter: Arc<limit::Limiter>,
    plain: Arc<Connections>,
    encrypted: Arc<Connections>,
    idle: Idle,
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

    /// Takes over what can change without a restart: the files of certificate and keys (read again
    /// even when their names stay), secondaries, cookie secrets, and limits. No connection and no query is
    /// lost.
    pub fn reload(&self, config: &Config) -> Result<(), ReloadError> {
        // Everything is read before anything changes.
        let peers = Peers::read(&config.transfer)?;
        let secrets = config.cookie_secrets()?;
        if let Some(certificates) = &self.certificates {
            certificates.reload(&config.tls)?;
        }
        self.transfers.peers.store(Arc::new(peers));
        if let Some(secrets) = secrets {
            self.manners.change_secrets(secrets);
        }
        self.limiter.change(&config.limits);
        let limits = &config.limits;
        self.plain.limit(limits.tcp_connections_max, limits.tcp_connections_per_prefix_max);
        self.encrypted.limit(limits.tls_connections_max, limits.tcp_connections_per_prefix_max);
        self.idle.set(limits.tcp_idle());
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
