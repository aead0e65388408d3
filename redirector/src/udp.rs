//! A UDP worker: one socket, one task.
//!
//! Receiving, deciding and sending are three steps on plain bytes; a batched fast path replaces
//! this loop and falls back to [`Engine::reply`] for what is unusual.

use crate::capture::Engine;
use crate::limit::{Limiter, Verdict};
use crate::metrics::{Drop, Limited, Transport};
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::UdpSocket;
use tokio::sync::watch;

/// Longer queries than this are no queries: the largest real ones, with every option, have a few
/// hundred octets.
const QUERY_LEN_MAX: usize = 4096;
/// How long to wait after an error of the socket itself, so that a lasting one does not spin.
const ERROR_PAUSE: Duration = Duration::from_millis(50);

/// A UDP worker.
pub(crate) struct Worker {
    pub(crate) socket: UdpSocket,
    pub(crate) engine: Engine,
    pub(crate) limiter: Arc<Limiter>,
}

impl Worker {
    /// Answers until told to stop.
    pub(crate) async fn run(self, mut stopped: watch::Receiver<()>) {
        let mut buffer = vec![0; QUERY_LEN_MAX];
        loop {
            let received = tokio::select! {
                received = self.socket.recv_from(&mut buffer) => received,
                _ = stopped.changed() => return,
            };
            match received {
                Ok((len, source)) => self.serve(&buffer[..len], source).await,
                // An ICMP error for an earlier reply: nothing to do with this socket's health.
                Err(error) if is_peers_fault(&error) => {}
                Err(error) => {
                    tracing::warn!(%error, "cannot receive");
                    tokio::time::sleep(ERROR_PAUSE).await;
                }
            }
        }
    }

    async fn serve(&self, packet: &[u8], source: SocketAddr) {
        // Port 0 cannot be replied to.
        if source.port() == 0 {
            return;
        }
        let Some(mut reply) = self.engine.reply(packet, source, Transport::Udp).await else { return };
        match self.limiter.check(source.ip()) {
            Verdict::Send => {}
            Verdict::Slip => {
                self.engine.metrics.limited(Limited::Slipped);
                truncate(&mut reply);
            }
            Verdict::Withhold => return self.engine.metrics.limited(Limited::Dropped),
        }
        // Waiting for room would let one slow path hold up all others: what does not fit is lost,
        // as on any UDP path.
        if self.socket.try_send_to(&reply, source).is_err() {
            self.engine.metrics.dropped(Drop::Send);
        }
    }
}

fn is_peers_fault(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionRefused, ConnectionReset, HostUnreachable, NetworkUnreachable};
    matches!(error.kind(), ConnectionRefused | ConnectionReset | HostUnreachable | NetworkUnreachable)
}

/// Leaves header and question, and sets TC: *ask again over TCP*.
pub(crate) fn truncate(reply: &mut Vec<u8>) {
    let mut end = 12;
    let questions = reply.get(4..6).map_or(0, |count| u16::from_be_bytes([count[0], count[1]]));
    if questions == 1 {
        while let Some(len @ 1..=63) = reply.get(end) {
            end += usize::from(*len) + 1;
        }
        end += 1 + 4;
    }
    if end > reply.len() {
        return;
    }
    reply.truncate(end);
    reply[2] |= 0x02;
    reply[6..12].fill(0);
}
