//! DNS messages on a byte stream (RFC 7766, over TLS RFC 7858): two octets of length before each.
//!
//! A client may send many queries without waiting. All that have come whole are answered at once, in
//! the order they came: an answer never waits for anything, so there is nothing that a later one
//! could overtake, and RFC 7766, 6.2.1.1 leaves the order to us. What a connection can hold is
//! bounded on both sides:
//!
//! - Nothing is read while replies are not taken, so a client that does not read fills its own
//!   window, [`OUTPUT_MAX`] octets here, and no more; when it does not take them in time it is
//!   hung up on.
//! - A silent connection holds no buffer at all. One with half a query holds that half; the
//!   connection has one deadline for the whole query, so that an octet now and then does not keep it.
//!
//! When the redirector stops, a connection is served on until it is quiet for [`DRAIN_QUIET`], so
//! that what was sent before is answered; clients that asked how long they may stay are told to
//! leave (RFC 7828, 3.4).

use crate::capture::Engine;
use crate::connections::Place;
use crate::edns;
use crate::listeners::Stopped;
use crate::metrics::{Drop, Transport};
use crate::transfer::{Asked, Transfers};
use std::future::poll_fn;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::task::ready;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt, ReadBuf};
use tokio::time::{Instant, timeout, timeout_at};

/// A longer query is none: the largest real ones, with every option, have a few hundred octets.
/// Whoever announces one is hung up on.
pub(crate) const QUERY_LEN_MAX: usize = 4096;
/// Octets read at a time: some forty queries.
const READ_LEN: usize = 2048;
/// Replies beyond this are sent before the next query is answered, octets.
const OUTPUT_MAX: usize = 16 * 1024;
/// When the redirector stops, a connection without a query for so long is closed: two round trips
/// half around the world are less.
const DRAIN_QUIET: Duration = Duration::from_millis(500);

/// What serves connections of every kind.
#[derive(Clone)]
pub(crate) struct Service {
    pub(crate) engine: Engine,
    pub(crate) transfers: Arc<Transfers>,
    pub(crate) idle: Idle,
}

/// How long a connection may be silent or take for one query; can be changed while it runs.
#[derive(Clone, Default)]
pub(crate) struct Idle(Arc<AtomicU32>);

impl Idle {
    pub(crate) fn set(&self, idle: Duration) {
        self.0.store(u32::try_from(idle.as_millis()).unwrap_or(u32::MAX), Ordering::Relaxed);
    }

    pub(crate) fn get(&self) -> Duration {
        Duration::from_millis(self.0.load(Ordering::Relaxed).into())
    }
}

impl Service {
    /// The reply to a query on a connection, with what the transport has to say in it.
    pub(crate) async fn reply(
        &self,
        query: &[u8],
        source: SocketAddr,
        transport: Transport,
        idle: Duration,
    ) -> Option<Vec<u8>> {
        let asked = edns::asked(query);
        let mut reply = self.engine.reply(query, source, transport).await?;
        // RFC 7828, 3.2.1 and RFC 9250, 5.5.2: only where the connection is one of ours to keep.
        if asked.keepalive && matches!(transport, Transport::Tcp | Transport::Tls) {
            edns::tell_keepalive(&mut reply, idle);
        }
        // RFC 8467, 4: padding is for who cannot read the rest.
        if asked.padding && !matches!(transport, Transport::Udp | Transport::Tcp) {
            edns::pad(&mut reply);
        }
        Some(reply)
    }
}

/// One connection's stream and what goes with it.
pub(crate) struct Conversation<S> {
    pub(crate) stream: S,
    pub(crate) source: SocketAddr,
    pub(crate) transport: Transport,
    pub(crate) service: Service,
    pub(crate) place: Place,
}

impl<S: AsyncRead + AsyncWrite + Unpin> Conversation<S> {
    /// Answers until the client leaves, breaks the rules, or is asked to leave.
    pub(crate) async fn run(mut self, mut stopped: Stopped) {
        let reason = match self.serve(&mut stopped).await {
            Err(End::Idle) => Drop::Idle,
            Err(End::Unread) => Drop::Unread,
            Err(End::Garbage) => Drop::Garbage,
            Err(End::Closed) | Ok(()) => {
                // Says that this was all (a TLS stream has a word for it).
                let _ = timeout(self.service.idle.get(), self.stream.shutdown()).await;
                return;
            }
        };
        self.service.engine.metrics.dropped(reason);
    }

    async fn serve(&mut self, stopped: &mut Stopped) -> Result<(), End> {
        let mut input = Vec::new();
        let mut stops = false;
        let mut deadline = Instant::now() + self.service.idle.get();
        loop {
            if self.answer(&mut input, stops).await? {
                self.place.touch();
                deadline = Instant::now() + self.service.idle.get();
            }
            if stops {
                match timeout(DRAIN_QUIET, read(&mut self.stream, &mut input)).await {
                    Ok(read) => read?,
                    Err(_) => return Ok(()),
                }
                continue;
            }
            tokio::select! {
                read = timeout_at(deadline, read(&mut self.stream, &mut input)) => read.map_err(|_| End::Idle)??,
                _ = stopped.changed() => stops = true,
            }
        }
    }

    /// Answers the whole queries in `input` and leaves the rest; whether there were any.
    async fn answer(&mut self, input: &mut Vec<u8>, stops: bool) -> Result<bool, End> {
        let idle = if stops { Duration::ZERO } else { self.service.idle.get() };
        let (mut at, mut output) = (0, Vec::new());
        let mut end = Ok(());
        loop {
            let query = match first_query(&input[at..]) {
                Ok(Some(query)) => query,
                Ok(None) => break,
                Err(error) => {
                    end = Err(error);
                    break;
                }
            };
            at += 2 + query.len();
            if let Some(transfer) = self.service.transfers.asked(query, self.source) {
                self.write(&mut output).await?;
                self.transfer(transfer).await?;
                continue;
            }
            // What is no query has no business on a connection either.
            let reply = self.service.reply(query, self.source, self.transport, idle).await;
            let Some((len, reply)) = reply.and_then(|reply| Some((u16::try_from(reply.len()).ok()?, reply)))
            else {
                end = Err(End::Garbage);
                break;
            };
            output.extend(len.to_be_bytes());
            output.extend(reply);
            if output.len() >= OUTPUT_MAX {
                self.write(&mut output).await?;
            }
        }
        self.write(&mut output).await?;
        end?;
        match at == input.len() {
            true => *input = Vec::new(),
            false => drop(input.drain(..at)),
        }
        Ok(at > 0)
    }

    async fn transfer(&mut self, mut transfer: Asked) -> Result<(), End> {
        while let Some(message) = transfer.next_message() {
            let len = u16::try_from(message.len()).map_err(|_| End::Garbage)?;
            let mut output = len.to_be_bytes().to_vec();
            output.extend(message);
            self.write(&mut output).await?;
            self.place.touch();
        }
        Ok(())
    }

    async fn write(&mut self, output: &mut Vec<u8>) -> Result<(), End> {
        if output.is_empty() {
            return Ok(());
        }
        let written = async {
            self.stream.write_all(output).await?;
            // A TLS stream may keep back what did not fit.
            self.stream.flush().await
        };
        timeout(self.service.idle.get(), written).await.map_err(|_| End::Unread)??;
        output.clear();
        Ok(())
    }
}

/// The first query in `input` once it is whole.
fn first_query(input: &[u8]) -> Result<Option<&[u8]>, End> {
    let Some((len, rest)) = input.split_first_chunk::<2>() else { return Ok(None) };
    match usize::from(u16::from_be_bytes(*len)) {
        len if len > QUERY_LEN_MAX => Err(End::Garbage),
        len => Ok(rest.get(..len)),
    }
}

/// Reads what there is, once there is something. The buffer is on the stack and only while octets
/// are there: a connection that waits holds none.
async fn read<S: AsyncRead + Unpin>(stream: &mut S, input: &mut Vec<u8>) -> Result<(), End> {
    let len = poll_fn(|context| {
        let mut chunk = [0; READ_LEN];
        let mut buffer = ReadBuf::new(&mut chunk);
        ready!(Pin::new(&mut *stream).poll_read(context, &mut buffer))?;
        input.extend_from_slice(buffer.filled());
        std::task::Poll::Ready(io::Result::Ok(buffer.filled().len()))
    })
    .await?;
    if len == 0 { Err(End::Closed) } else { Ok(()) }
}

/// Why a connection ends.
enum End {
    /// No whole query in time.
    Idle,
    /// Replies were not taken in time.
    Unread,
    Garbage,
    /// The peer closed it or it broke.
    Closed,
}

impl From<io::Error> for End {
    fn from(_: io::Error) -> End {
        End::Closed
    }
}
