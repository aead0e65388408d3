//! The holder's end: reads requests, answers from a [`Holder`].

use super::wire::{self, HELD, NOT_HELD, WANT_LEN};
use super::{Held, Holder, PORTION_LEN, PORTIONS_AHEAD, STALL_MAX, Want};
use bytes::{BufMut, Bytes, BytesMut};
use godwit_core::content::object::{GROUP_LEN, OBJECT_LEN_MAX, group_count, group_range};
use std::future::Future;
use std::io;
use std::sync::Arc;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::sync::mpsc;
use tokio::time::timeout;

/// Portions from here on go to the stream as they are; smaller ones are gathered by copying, so
/// that ten thousand small objects do not become ten thousand small writes.
const GATHER_BELOW: usize = 64 * 1024;

/// What was served over a stream until the fetcher ended it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Served {
    /// Objects that were asked for.
    pub wants: u64,
    /// Bytes written, framing included.
    pub bytes: u64,
}

/// A stream could not be served to its end. Nothing is left behind.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// The request does not have the form.
    #[error("the request is malformed")]
    Malformed,
    /// The fetcher took or sent nothing for [`STALL_MAX`].
    #[error("the fetcher stalled")]
    Stalled,
    /// The stream broke.
    #[error("the stream broke")]
    Stream(#[source] io::Error),
}

/// Answers the requests of one stream until its other end has no more.
pub async fn serve<S>(mut stream: S, holder: Arc<dyn Holder>) -> Result<Served, ServeError>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let mut served = Served::default();
    while let Some(wants) = read_wants(&mut stream).await? {
        served.wants += wants.len() as u64;
        served.bytes += answer(&mut stream, holder.clone(), wants).await?;
    }
    within(stream.shutdown()).await?;
    Ok(served)
}

async fn read_wants<S: AsyncRead + Unpin>(stream: &mut S) -> Result<Option<Vec<Want>>, ServeError> {
    let mut head = [0; 4];
    if within(stream.read(&mut head[..1])).await? == 0 {
        return Ok(None);
    }
    within(stream.read_exact(&mut head[1..])).await?;
    let count = wire::decode_count(head).ok_or(ServeError::Malformed)?;
    let mut body = vec![0; count * WANT_LEN];
    within(stream.read_exact(&mut body)).await?;
    Ok(Some(wire::decode_wants(&body)))
}

async fn answer<S: AsyncWrite + Unpin>(
    stream: &mut S,
    holder: Arc<dyn Holder>,
    wants: Vec<Want>,
) -> Result<u64, ServeError> {
    let (portions, mut ready) = mpsc::channel::<Bytes>(PORTIONS_AHEAD);
    // Ends by itself when `ready` is dropped.
    tokio::task::spawn_blocking(move || read_objects(&*holder, &wants, Gather::new(portions)));
    let mut written = 0;
    while let Some(portion) = ready.recv().await {
        written += portion.len() as u64;
        let mut rest = &portion[..];
        while !rest.is_empty() {
            let n = within(stream.write(rest)).await?;
            if n == 0 {
                return Err(ServeError::Stream(io::ErrorKind::WriteZero.into()));
            }
            rest = &rest[n..];
        }
    }
    within(stream.flush()).await?;
    Ok(written)
}

async fn within<T>(io: impl Future<Output = io::Result<T>>) -> Result<T, ServeError> {
    timeout(STALL_MAX, io).await.map_err(|_| ServeError::Stalled)?.map_err(ServeError::Stream)
}

/// Runs on a blocking thread. `None` when nobody waits for the portions any more.
fn read_objects(holder: &dyn Holder, wants: &[Want], mut gather: Gather) -> Option<()> {
    for want in wants {
        match holder.open(&want.id).filter(is_sound) {
            Some(held) => read_object(&held, want, &mut gather)?,
            None => gather.buffer.put_u8(NOT_HELD),
        }
        gather.send_if_full()?;
    }
    gather.send()
}

fn is_sound(held: &Held) -> bool {
    held.len <= OBJECT_LEN_MAX && held.groups.len() == group_count(held.len)
}

fn read_object(held: &Held, want: &Want, gather: &mut Gather) -> Option<()> {
    gather.buffer.put_u8(HELD);
    gather.buffer.put_u64_le(held.len);
    for group in &held.groups {
        gather.buffer.put_slice(group.as_bytes());
    }
    let mut offset = group_range(held.len, want.from_group as usize).start;
    while offset < held.len {
        let n = (held.len - offset).min(PORTION_LEN as u64) as usize;
        match (held.read)(offset, n) {
            Ok(bytes) if bytes.len() == n => gather.put_portion(bytes)?,
            Ok(_) | Err(_) => {
                gather.buffer.put_u32_le(0);
                return Some(());
            }
        }
        offset += n as u64;
    }
    Some(())
}

/// Gathers small pieces into one buffer and passes on large ones as they are.
struct Gather {
    buffer: BytesMut,
    portions: mpsc::Sender<Bytes>,
}

impl Gather {
    fn new(portions: mpsc::Sender<Bytes>) -> Gather {
        Gather { buffer: BytesMut::with_capacity(PORTION_LEN + GROUP_LEN), portions }
    }

    fn put_portion(&mut self, bytes: Bytes) -> Option<()> {
        self.buffer.put_u32_le(bytes.len() as u32);
        if bytes.len() < GATHER_BELOW {
            self.buffer.put_slice(&bytes);
            return self.send_if_full();
        }
        self.send()?;
        self.portions.blocking_send(bytes).ok()
    }

    fn send_if_full(&mut self) -> Option<()> {
        if self.buffer.len() >= PORTION_LEN { self.send() } else { Some(()) }
    }

    fn send(&mut self) -> Option<()> {
        if self.buffer.is_empty() {
            return Some(());
        }
        let full = std::mem::replace(&mut self.buffer, BytesMut::with_capacity(PORTION_LEN + GROUP_LEN));
        self.portions.blocking_send(full.freeze()).ok()
    }
}
