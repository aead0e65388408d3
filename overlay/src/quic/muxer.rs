//! A QUIC connection as libp2p's stream multiplexer: bidirectional streams are its substreams.

use futures::future::BoxFuture;
use futures::{AsyncRead, AsyncWrite, FutureExt, ready};
use libp2p::core::muxing::{StreamMuxer, StreamMuxerEvent};
use quinn::{Connection, ConnectionError, RecvStream, SendStream, VarInt};
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

/// The only code with which connections and streams are closed: reasons are no stranger's business.
const CODE: VarInt = VarInt::from_u32(0);

type Opening = BoxFuture<'static, Result<(SendStream, RecvStream), ConnectionError>>;

/// A connection. Dropping it closes it, whoever else holds a handle.
pub(crate) struct Muxer {
    connection: Connection,
    accepting: Option<Opening>,
    opening: Option<Opening>,
    closing: Option<BoxFuture<'static, ConnectionError>>,
}

impl Muxer {
    pub(crate) fn new(connection: Connection) -> Muxer {
        Muxer { connection, accepting: None, opening: None, closing: None }
    }
}

impl Drop for Muxer {
    fn drop(&mut self) {
        self.connection.close(CODE, &[]);
    }
}

impl StreamMuxer for Muxer {
    type Substream = Substream;
    type Error = ConnectionError;

    fn poll_inbound(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Result<Substream, ConnectionError>> {
        let connection = self.connection.clone();
        let accepting =
            self.accepting.get_or_insert_with(|| async move { connection.accept_bi().await }.boxed());
        let result = ready!(accepting.poll_unpin(cx));
        self.accepting = None;
        Poll::Ready(result.map(Substream::new))
    }

    fn poll_outbound(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Result<Substream, ConnectionError>> {
        let connection = self.connection.clone();
        let opening = self.opening.get_or_insert_with(|| async move { connection.open_bi().await }.boxed());
        let result = ready!(opening.poll_unpin(cx));
        self.opening = None;
        Poll::Ready(result.map(Substream::new))
    }

    fn poll(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Result<StreamMuxerEvent, ConnectionError>> {
        // quinn drives itself, and a peer that moves needs no action: streams go on.
        Poll::Pending
    }

    fn poll_close(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<(), ConnectionError>> {
        let connection = self.connection.clone();
        let closing = self.closing.get_or_insert_with(|| {
            connection.close(CODE, &[]);
            async move { connection.closed().await }.boxed()
        });
        match ready!(closing.poll_unpin(cx)) {
            ConnectionError::LocallyClosed => Poll::Ready(Ok(())),
            error => Poll::Ready(Err(error)),
        }
    }
}

/// A bidirectional stream. Dropping it before it was closed resets it, so that the peer never takes
/// a stream that broke off for one that ended.
pub(crate) struct Substream {
    send: SendStream,
    receive: RecvStream,
    closed: bool,
}

impl Substream {
    fn new((send, receive): (SendStream, RecvStream)) -> Substream {
        Substream { send, receive, closed: false }
    }
}

impl Drop for Substream {
    fn drop(&mut self) {
        if !self.closed {
            self.send.reset(CODE).ok(); // an error says that it is closed
        }
    }
}

impl AsyncRead for Substream {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut [u8]) -> Poll<io::Result<usize>> {
        AsyncRead::poll_read(Pin::new(&mut self.receive), cx, buf)
    }
}

impl AsyncWrite for Substream {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        AsyncWrite::poll_write(Pin::new(&mut self.send), cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        AsyncWrite::poll_flush(Pin::new(&mut self.send), cx)
    }

    fn poll_close(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.closed {
            return Poll::Ready(Ok(()));
        }
        ready!(AsyncWrite::poll_close(Pin::new(&mut self.send), cx))?;
        self.closed = true;
        Poll::Ready(Ok(()))
    }
}
