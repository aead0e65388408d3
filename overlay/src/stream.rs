//! A byte stream to or from a peer.

use godwit_core::key::MemberId;
use std::fmt;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::OwnedSemaphorePermit;
use tokio_util::compat::{Compat, FuturesAsyncReadCompatExt};

/// A byte stream to or from a peer, with back-pressure in both directions. Dropping it unfinished
/// resets it; `shutdown` ends this side's bytes.
pub struct Stream {
    peer: MemberId,
    inner: Compat<libp2p::Stream>,
    /// Counts an inbound stream against its connection's bound for as long as it lives.
    _permit: Option<OwnedSemaphorePermit>,
}

impl Stream {
    pub(crate) fn new(peer: MemberId, inner: libp2p::Stream, permit: Option<OwnedSemaphorePermit>) -> Stream {
        Stream { peer, inner: inner.compat(), _permit: permit }
    }

    /// Who is at the other end.
    pub fn peer(&self) -> MemberId {
        self.peer
    }
}

impl fmt::Debug for Stream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Stream(with {:?})", self.peer)
    }
}

impl AsyncRead for Stream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_read(cx, buf)
    }
}

impl AsyncWrite for Stream {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.inner).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_shutdown(cx)
    }
}
