//! A client's connection: limits on waiting, and what it teaches about distance.
//!
//! hyper limits how long a request's header may take; it does not limit a client that reads its
//! response one byte an hour, nor one that keeps a connection and says nothing. Both end here: a
//! read that waits longer than the idle timeout, or a write that waits longer than the write
//! timeout, is an error, and the connection is closed.

use super::rtt::Rtts;
use crate::config::HttpConfig;
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
    stream: TcpStream,
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
            stream,
            client,
            rtts,
            rtt_at: Instant::now(),
            reading: Patience::new(config.idle_timeout()),
            writing: Patience::new(config.write_timeout()),
        }
    }

    fn observe(&mut self) {
        self.rtt_at = Instant::now();
        if let Some(rtt) = godwit_net::tcp::rtt(&self.stream) {
            self.rtts.observe(self.client, rtt);
        }
    }

    fn written(&mut self, result: Poll<io::Result<usize>>, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        match result {
            Poll::Pending => self.writing.wait(cx),
            ready => {
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
        match Pin::new(&mut self.stream).poll_read(cx, buf) {
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
        let result = Pin::new(&mut self.stream).poll_write(cx, buf);
        self.written(result, cx)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let result = Pin::new(&mut self.stream).poll_write_vectored(cx, bufs);
        self.written(result, cx)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
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
