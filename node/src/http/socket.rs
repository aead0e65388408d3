//! A client's connection: limits on waiting, and what it teaches about distance.
//!
//! hyper limits how long a request's header may take; it does not limit a client that reads its
//! response one byte an hour, nor one that keeps a connection and says nothing. Both end here: a
//! read that waits longer than the idle timeout, or a write that waits longer than the write
//! timeout, is an error, and the connection is closed.

use super::rtt::Rtts;
use super::watch::Watch;
use crate::config::HttpConfig;
use bytes::{Buf, Bytes};
use std::future::Future;
use std::io;
use std::net::IpAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::{Instant, Sleep};

/// A connection's round-trip time is looked at this often while it is used: the kernel smooths it
/// over about ten round trips, and looking costs a system call.
const RTT_PERIOD: Duration = Duration::from_secs(5);

/// A client's connection.
pub(super) struct ClientSocket {
    /// Always there but while it is being taken out.
    stream: Option<TcpStream>,
    /// Octets that are read before those of the stream.
    first: Bytes,
    /// Of a connection that can move.
    watch: Option<Arc<Watch>>,
    client: IpAddr,
    rtts: Arc<Rtts>,
    rtt_at: Instant,
    reading: Patience,
    writing: Patience,
}

impl ClientSocket {
    pub(super) fn new(
        stream: TcpStream,
        client: IpAddr,
        config: &HttpConfig,
        rtts: Arc<Rtts>,
    ) -> ClientSocket {
        ClientSocket {
            stream: Some(stream),
            first: Bytes::new(),
            watch: None,
            client,
            rtts,
            rtt_at: Instant::now(),
            reading: Patience::new(config.idle_timeout()),
            writing: Patience::new(config.write_timeout()),
        }
    }

    /// The same, of which these octets are read first.
    pub(super) fn beginning(mut self, first: Bytes) -> ClientSocket {
        self.first = first;
        self
    }

    /// The same, telling `watch` what is written.
    pub(super) fn watched(mut self, watch: Arc<Watch>) -> ClientSocket {
        self.watch = Some(watch);
        self
    }

    /// What is read before what comes from the stream.
    pub(super) fn first(&self) -> &[u8] {
        &self.first
    }

    /// The stream, and what was to be read before what comes from it.
    pub(super) fn into_stream(mut self) -> Option<(TcpStream, Bytes)> {
        let first = std::mem::take(&mut self.first);
        self.stream.take().map(|stream| (stream, first))
    }

    fn observe(&mut self) {
        self.rtt_at = Instant::now();
        if let Some(rtt) = self.stream.as_ref().and_then(godwit_net::tcp::rtt) {
            self.rtts.observe(self.client, rtt);
        }
    }

    fn written(&mut self, result: Poll<io::Result<usize>>, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        match result {
            Poll::Pending => self.writing.wait(cx),
            ready => {
                if let (Some(watch), Poll::Ready(Ok(len))) = (&self.watch, &ready) {
                    watch.wrote(*len);
                }
                self.writing.rest();
                // A client that only reads is not idle.
                self.reading.rest();
                if self.rtt_at.elapsed() > RTT_PERIOD {
                    self.observe();
                }
                ready
            }
        }
    }
}

impl Drop for ClientSocket {
    fn drop(&mut self) {
        // Most connections are shorter than the period: this is when they are looked at.
        self.observe();
    }
}

impl AsyncRead for ClientSocket {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.first.has_remaining() {
            let len = self.first.len().min(buf.remaining());
            buf.put_slice(&self.first.split_to(len));
            return Poll::Ready(Ok(()));
        }
        match on(&mut self.stream, |stream| stream.poll_read(cx, buf)) {
            Poll::Pending => self.reading.wait(cx),
            ready => {
                self.reading.rest();
                ready
            }
        }
    }
}

impl AsyncWrite for ClientSocket {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        if let Some(watch) = &self.watch {
            watch.writing(buf);
        }
        let result = on(&mut self.stream, |stream| stream.poll_write(cx, buf));
        self.written(result, cx)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        if let (Some(watch), Some(first)) = (&self.watch, bufs.first()) {
            watch.writing(first);
        }
        let result = on(&mut self.stream, |stream| stream.poll_write_vectored(cx, bufs));
        self.written(result, cx)
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        on(&mut self.stream, |stream| stream.poll_flush(cx))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        on(&mut self.stream, |stream| stream.poll_shutdown(cx))
    }
}

fn on<T>(
    stream: &mut Option<TcpStream>,
    act: impl FnOnce(Pin<&mut TcpStream>) -> Poll<io::Result<T>>,
) -> Poll<io::Result<T>> {
    match stream {
        Some(stream) => act(Pin::new(stream)),
        None => Poll::Ready(Err(io::ErrorKind::NotConnected.into())),
    }
}

/// How long one direction may wait. The timer is set when waiting begins and left alone when it
/// ends, so that a busy connection touches it once per timeout and not once per read.
struct Patience {
    limit: Duration,
    /// When something last moved.
    since: Instant,
    timer: Option<Pin<Box<Sleep>>>,
}

impl Patience {
    fn new(limit: Duration) -> Patience {
        Patience { limit, since: Instant::now(), timer: None }
    }

    fn rest(&mut self) {
        self.since = Instant::now();
    }

    fn wait<T>(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<T>> {
        let (since, limit) = (self.since, self.limit);
        let timer = self.timer.get_or_insert_with(|| Box::pin(tokio::time::sleep_until(since + limit)));
        while timer.as_mut().poll(cx).is_ready() {
            if since.elapsed() >= limit {
                return Poll::Ready(Err(io::ErrorKind::TimedOut.into()));
            }
            timer.as_mut().reset(since + limit);
        }
        Poll::Pending
    }
}
