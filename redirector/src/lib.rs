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
//! - [`udp`]: each worker receives, screens, answers and sends in one task; nothing is spawned per
//!   packet. What is between receiving and sending is one function from bytes to bytes, the seam
//!   where a batched fast path goes later.
//! - [`tcp`]: connections are capped per source before they are capped overall, and idle ones end.
//! - [`limit`]: replies per source prefix are limited; every second one beyond the limit goes out
//!   truncated, so that a real client behind a forged flood can still come by TCP.
//!
//! # Trade-offs
//!
//! A socket on an unspecified address (`0.0.0.0`) answers from whatever address the kernel picks;
//! on a host with several addresses, list them one by one.

#![cfg_attr(test, allow(clippy::unwrap_used, reason = "a test may panic"))]

mod capture;
mod config;
mod limit;
mod metrics;
mod sockets;
mod tcp;
mod udp;

pub use config::{Config, Limits};
pub use godwit_dns_plugin::{SharedView, Zone};
pub use sockets::StartError;

use godwit_dns_plugin::Handler;
use metrics::Metrics;
use prometheus_client::registry::Registry;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;
use tokio::task::JoinSet;

/// How long connections get to end when the redirector stops.
const SHUTDOWN_GRACE: Duration = Duration::from_secs(2);

/// The redirector.
pub struct Redirector;

impl Redirector {
    /// Listens on every address of `config` and answers until [`Running::shutdown`]. Its metrics
    /// go into `registry`. When any address fails, none is kept.
    pub async fn start(
        config: Config,
        shared: SharedView,
        registry: &mut Registry,
    ) -> Result<Running, StartError> {
        let sockets = sockets::listen(&config)?;
        let metrics = Arc::new(Metrics::register(registry));
        let engine = capture::Engine::new(Handler::new(shared), metrics.clone());
        let (stop, stopped) = watch::channel(());
        let mut tasks = JoinSet::new();
        let limiter = Arc::new(limit::Limiter::new(&config.limits));
        let connections = Arc::new(tcp::Connections::new(&config.limits));
        let mut addresses = Vec::new();
        for listening in sockets {
            addresses.push(listening.address);
            for socket in listening.udp {
                let worker = udp::Worker { socket, engine: engine.clone(), limiter: limiter.clone() };
                tasks.spawn(worker.run(stopped.clone()));
            }
            let acceptor = tcp::Acceptor {
                listener: listening.tcp,
                engine: engine.clone(),
                connections: connections.clone(),
                idle: config.limits.tcp_idle(),
            };
            tasks.spawn(acceptor.run(stopped.clone()));
        }
        tracing::info!(?addresses, "redirector listens");
        Ok(Running { addresses, stop, tasks })
    }
}

/// A redirector that answers. Dropping it stops it at once.
pub struct Running {
    addresses: Vec<SocketAddr>,
    stop: watch::Sender<()>,
    tasks: JoinSet<()>,
}

impl Running {
    /// Where it answers, over UDP and TCP; with the real port where port 0 was asked for.
    pub fn addresses(&self) -> &[SocketAddr] {
        &self.addresses
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
