//! Makes probes: one question to one address, and what came of it.
//!
//! ```no_run
//! # async fn example() -> Result<(), Box<dyn std::error::Error>> {
//! use godwit_probe::Prober;
//! use std::time::Duration;
//!
//! let prober = Prober::new();
//! let took = prober.tcp("192.0.2.7:25".parse()?, Duration::from_secs(1)).await?;
//! println!("connected after {took:?}");
//! # Ok(()) }
//! ```
//!
//! A hand: it decides nothing. What is asked, how often, and what follows is for
//! [`godwit_core::health::Checker`]; [`Runner`] drives that machine with whatever makes its probes.
//!
//! - [`config`]: how checks are written in configurations.
//! - [`http`]: one HTTP/1.1 request on a connection of its own, over TLS where asked. Redirects are
//!   answers. At most [`http::BODY_READ_MAX`] bytes of a body and 32 KiB of header are read, and
//!   [`PROBES_MAX`] probes are made at once.
//! - [`resolver`]: how far a resolver is, without asking it anything.
//! - [`tls`]: against the host's roots, one authority, or nothing.
//! - [`Fault`] keeps apart what says something about the target and what lies here: a vantage
//!   without IPv6, or out of descriptors, blames nobody.
//!
//! # Trade-offs
//!
//! Each probe makes a connection of its own, as a new client would: a handshake more than on a kept
//! one, and a service that takes no connections any more is found.

#![cfg_attr(test, allow(clippy::unwrap_used, reason = "a test may panic"))]

pub mod config;
pub mod http;
pub mod resolver;
mod runner;
pub mod tls;

pub use runner::{Report, Runner, Vantage};

use godwit_core::health::Failure;
use std::io::{self, ErrorKind};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::net::TcpStream;
use tokio::sync::Semaphore;

/// So many probes are made at once by one prober; others wait, and that does not count against
/// their target.
pub const PROBES_MAX: usize = 64;

/// How a probe failed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Fault {
    /// The target did not do what it should.
    #[error("{0}")]
    Target(Failure),
    /// The probe could not be made here; nothing is known about the target. Trying later may help.
    #[error("the probe could not be made: {0}")]
    Here(String),
}

impl From<Failure> for Fault {
    fn from(failure: Failure) -> Fault {
        Fault::Target(failure)
    }
}

/// Makes probes. Cheap to clone.
#[derive(Clone)]
pub struct Prober {
    slots: Arc<Semaphore>,
    trust: Arc<tls::Trust>,
}

impl Default for Prober {
    fn default() -> Prober {
        Prober::new()
    }
}

impl Prober {
    /// One that finds its roots where Linux distributions keep them, when they are first needed.
    pub fn new() -> Prober {
        Prober { slots: Arc::new(Semaphore::new(PROBES_MAX)), trust: Arc::new(tls::Trust::default()) }
    }

    /// Connects and closes; tells how long it took to connect.
    pub async fn tcp(&self, address: SocketAddr, timeout: Duration) -> Result<Duration, Fault> {
        let _slot = self.slot().await?;
        let started = Instant::now();
        within(timeout, connect(address)).await?;
        Ok(started.elapsed())
    }

    /// Makes one HTTP request; tells what came, and how long all of it took.
    pub async fn http(
        &self,
        address: SocketAddr,
        request: &http::Request,
        timeout: Duration,
    ) -> Result<http::Answer, Fault> {
        let _slot = self.slot().await?;
        within(timeout, http::exchange(&self.trust, address, request)).await
    }

    async fn slot(&self) -> Result<tokio::sync::SemaphorePermit<'_>, Fault> {
        self.slots.acquire().await.map_err(|_| Fault::Here("stopping".into()))
    }
}

async fn within<T>(timeout: Duration, work: impl Future<Output = Result<T, Fault>>) -> Result<T, Fault> {
    match tokio::time::timeout(timeout, work).await {
        Ok(result) => result,
        Err(_) => Err(Failure::Timeout.into()),
    }
}

async fn connect(address: SocketAddr) -> Result<TcpStream, Fault> {
    let stream = TcpStream::connect(address).await.map_err(|error| fault(&error))?;
    // A request is one small write; waiting for more would only make it late.
    let _ = stream.set_nodelay(true);
    Ok(stream)
}

/// What an error of a socket says about the target, if anything.
fn fault(error: &io::Error) -> Fault {
    match error.kind() {
        ErrorKind::ConnectionRefused => Failure::Refused.into(),
        ErrorKind::HostUnreachable => Failure::NoRoute.into(),
        ErrorKind::TimedOut => Failure::Timeout.into(),
        ErrorKind::ConnectionReset
        | ErrorKind::ConnectionAborted
        | ErrorKind::BrokenPipe
        | ErrorKind::UnexpectedEof => Failure::Closed.into(),
        // No route of this kind at all, no descriptors, no permission: it lies here.
        _ => Fault::Here(error.to_string()),
    }
}
