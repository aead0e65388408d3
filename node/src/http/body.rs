//! Response bodies: bytes at hand, or parts of objects read as the client takes them.

use bytes::Bytes;
use futures::Stream;
use http_body_util::{BodyExt, Empty, Full, StreamBody, combinators::UnsyncBoxBody};
use hyper::body::Frame;
use std::io;

/// A response's body. An error in it ends the connection, so that the client sees that its bytes
/// are not complete.
pub(crate) type Body = UnsyncBoxBody<Bytes, io::Error>;

/// No bytes.
pub(crate) fn empty() -> Body {
    Empty::new().map_err(|never| match never {}).boxed_unsync()
}

/// These bytes.
pub(crate) fn full(bytes: impl Into<Bytes>) -> Body {
    Full::new(bytes.into()).map_err(|never| match never {}).boxed_unsync()
}

/// Bytes as they come. The stream is asked for the next portion only when the client has taken the
/// one before.
pub(crate) fn streamed<S>(bytes: S) -> Body
where
    S: Stream<Item = io::Result<Bytes>> + Send + 'static,
{
    use futures::TryStreamExt;
    StreamBody::new(bytes.map_ok(Frame::data)).boxed_unsync()
}
