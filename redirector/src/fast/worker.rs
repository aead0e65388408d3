//! A thread for a socket: receive a batch, answer it, send it.
//!
//! Threads share the port by `SO_REUSEPORT`: the kernel gives each client's packets to one of them.
//! What they share beside that is read only (the compiled view) or touched with one atomic operation
//! (buckets of the rate limit); counters are added up for a batch before anybody else sees them.

use crate::asking::Sampler;
use crate::capture::Engine;
use crate::fast::compiler::Current;
use crate::fast::respond::{Moment, Outcome, Responder, Sent};
use crate::limit::{Limiter, Verdict};
use crate::metrics::{Drop, Limited, Tally, Transport};
use crate::udp::{Orders, truncate};
use godwit_net::udp::{Batch, tell_destination};
use hickory_server::proto::op::ResponseCode;
use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::os::fd::AsFd;
use std::sync::Arc;
use std::time::Duration;

/// So many packets at a time: enough that system calls cost little for each, and few enough that the
/// first does not wait long for the last (0.1 ms).
const BATCH: usize = 64;
/// Longer queries than this are no queries: the largest real ones, with every option, have a few
/// hundred octets.
const QUERY_LEN_MAX: usize = 4096;
/// The longest reply: what fits every path (DNS flag day 2020).
const REPLY_LEN_MAX: usize = 1232;
/// How long to wait for a packet before looking whether to stop.
const WAIT: Duration = Duration::from_millis(100);
/// A full receive buffer of 4 MiB holds no more datagrams: so many are answered after the end was
/// asked for.
const QUEUED_MAX: usize = 8192;
/// How long to wait after an error of the socket itself, so that a lasting one does not spin.
const ERROR_PAUSE: Duration = Duration::from_millis(50);

/// A worker.
pub(crate) struct Worker {
    socket: UdpSocket,
    batch: Batch,
    engine: Engine,
    current: Current,
    responder: Responder,
    limiter: Arc<Limiter>,
    tally: Tally,
    sampler: Sampler,
}

impl Worker {
    /// On a socket that is bound.
    pub(crate) fn new(
        socket: UdpSocket,
        engine: Engine,
        current: Current,
        responder: Responder,
        limiter: Arc<Limiter>,
    ) -> io::Result<Worker> {
        let address = socket.local_addr()?;
        let unspecified = address.ip().is_unspecified();
        if unspecified {
            tell_destination(socket.as_fd(), address.is_ipv6())?;
        }
        socket.set_read_timeout(Some(WAIT))?;
        let batch = Batch::new(BATCH, QUERY_LEN_MAX, REPLY_LEN_MAX, unspecified);
        let tally = Tally::new(engine.metrics.clone());
        let sampler = Sampler::new(engine.asking.clone());
        Ok(Worker { socket, batch, engine, current, responder, limiter, tally, sampler })
    }

    /// Answers until told to stop, and what is queued then.
    pub(crate) fn run(mut self, orders: &Orders) {
        while orders.go_on() {
            match self.batch.receive(self.socket.as_fd()) {
                Ok(received) => self.serve(received),
                Err(error) => self.wait_after(&error),
            }
        }
        if orders.leave() {
            self.shut();
        }
        for _ in 0..QUEUED_MAX.div_ceil(BATCH) {
            match self.batch.receive(self.socket.as_fd()) {
                Ok(received) => self.serve(received),
                Err(_) => return,
            }
        }
    }

    /// Lets nothing more into the queue: a socket that is connected hears its peer alone, which here is
    /// itself. The kernel gives what comes now to another socket of the port, or refuses it; in a
    /// queue that is closed it would be lost without a word.
    fn shut(&self) {
        let own = self.socket.local_addr().map(|address| match (address.ip().is_unspecified(), address) {
            (true, SocketAddr::V4(_)) => (Ipv4Addr::LOCALHOST, address.port()).into(),
            (true, SocketAddr::V6(_)) => (Ipv6Addr::LOCALHOST, address.port()).into(),
            (false, _) => address,
        });
        if let Err(error) = own.and_then(|own| self.socket.connect(own)) {
            tracing::debug!(%error, "a socket that is closed may lose what comes meanwhile");
        }
    }

    fn serve(&mut self, received: usize) {
        self.responder.renew(&self.current.load());
        let now = Moment { time: self.engine.handler().clock().now() };
        let tick = self.limiter.now();
        self.sampler.follow();
        for slot in 0..received {
            let Some((packet, source, out)) = self.batch.query(slot) else { continue };
            // Port 0 cannot be replied to.
            if source.port() == 0 {
                continue;
            }
            let outcome = self.responder.respond(now, packet, source, out);
            let (len, verdict) = match outcome {
                Outcome::Silent(silence) => {
                    self.engine.metrics.dropped(silence.into());
                    continue;
                }
                Outcome::Failed => {
                    self.engine.metrics.dropped(Drop::Failed);
                    continue;
                }
                Outcome::Rejected(sent) => {
                    self.tally.answered(&sent);
                    (sent.len, self.limiter.check_error(tick, source.ip()))
                }
                Outcome::Answered(sent) => {
                    self.tally.answered(&sent);
                    if sent.code == ResponseCode::NoError {
                        self.sampler.answered(packet, source);
                    }
                    if self.engine.decisions.is_due() {
                        self.engine.offer(packet, source, Transport::Udp);
                    }
                    (sent.len, judge(&self.limiter, tick, source, &sent))
                }
                Outcome::Counted { len } => (len, self.limiter.check(tick, source.ip())),
            };
            let len = match verdict {
                _ if len == 0 => continue,
                Verdict::Send => len,
                Verdict::Slip => {
                    self.engine.metrics.limited(Limited::Slipped);
                    truncate(&mut out[..len])
                }
                Verdict::Withhold => {
                    self.engine.metrics.limited(Limited::Dropped);
                    continue;
                }
            };
            self.batch.reply(slot, len);
        }
        // Who sees a reply sees it counted.
        self.tally.publish();
        for _ in 0..self.batch.send(self.socket.as_fd()) {
            self.engine.metrics.dropped(Drop::Send);
        }
    }

    fn wait_after(&mut self, error: &io::Error) {
        use io::ErrorKind::{
            ConnectionRefused, ConnectionReset, HostUnreachable, Interrupted, NetworkUnreachable, WouldBlock,
        };
        match error.kind() {
            WouldBlock => {
                // Nothing came. An old view is not kept only because nobody asks; and a socket that is
                // shared with another process may have been made one that does not wait.
                self.responder.renew(&self.current.load());
                if let Err(error) = self.socket.set_nonblocking(false) {
                    tracing::warn!(%error, "cannot wait for packets");
                    std::thread::sleep(ERROR_PAUSE);
                }
            }
            // An ICMP error for an earlier reply: nothing to do with this socket's health.
            Interrupted | ConnectionRefused | ConnectionReset | HostUnreachable | NetworkUnreachable => {}
            _ => {
                tracing::warn!(%error, "cannot receive");
                std::thread::sleep(ERROR_PAUSE);
            }
        }
    }
}

/// RFC 7873, 5.2.3: who has shown where it is is nobody's victim.
fn judge(limiter: &Limiter, tick: u64, source: SocketAddr, sent: &Sent) -> Verdict {
    if sent.proven { Verdict::Send } else { limiter.check(tick, source.ip()) }
}
