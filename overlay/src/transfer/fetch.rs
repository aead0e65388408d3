//! The fetcher's end: asks, verifies, hands on.

use super::wire::{self, HELD, NOT_HELD};
use super::{PORTION_LEN, STALL_MAX, Sink, WANTS_MAX, Want};
use bytes::{Buf, Bytes, BytesMut};
use godwit_core::content::object::{
    GROUP_LEN, GroupHash, Mismatch, OBJECT_LEN_MAX, Verifier, group_count, group_range,
};
use std::io;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::time::timeout;

/// What a fetch brought.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Fetched {
    /// Objects that came whole (from the group asked for).
    pub objects: u64,
    /// Objects that the holder has not got or could not read.
    pub missing: u64,
    /// Verified bytes.
    pub bytes: u64,
}

/// A fetch ended early. What the sink got until then is right and may be kept; the rest can be
/// asked of another holder, or of this one if the error is not [`FetchError::Mismatch`].
#[derive(Debug, thiserror::Error)]
pub enum FetchError {
    /// The holder sent bytes that are not the object's: it is broken or lies.
    #[error("the holder sent wrong bytes")]
    Mismatch(#[from] Mismatch),
    /// The holder does not follow the protocol.
    #[error("the holder's answer is malformed: {0}")]
    Malformed(&'static str),
    /// Nothing came for [`STALL_MAX`].
    #[error("the holder stalled")]
    Stalled,
    /// The stream broke or ended early.
    #[error("the stream broke")]
    Stream(#[source] io::Error),
    /// The sink did not take what came.
    #[error("what was fetched could not be kept")]
    Sink(#[source] io::Error),
}

/// Fetches `wants`, in this order, over a stream just opened to a holder.
pub async fn fetch<S>(stream: S, wants: Vec<Want>, sink: &mut dyn Sink) -> Result<Fetched, FetchError>
where
    S: AsyncRead + AsyncWrite,
{
    let (reader, writer) = tokio::io::split(stream);
    let scratch = vec![0; SCRATCH_LEN].into_boxed_slice();
    let mut answers = Answers { reader, scratch, buffer: BytesMut::new(), fetched: Fetched::default() };
    // Asking and reading at once: neither waits for the other, however many wants there are.
    let ((), ()) = tokio::try_join!(ask(writer, &wants), answers.read_all(&wants, sink))?;
    Ok(answers.fetched)
}

async fn ask<W: AsyncWrite + Unpin>(mut writer: W, wants: &[Want]) -> Result<(), FetchError> {
    let mut frame = BytesMut::new();
    for wants in wants.chunks(WANTS_MAX) {
        wire::encode_wants(wants, &mut frame);
        // No stall limit: the holder reads the next frame only when it has answered the last, and
        // the answers have their own limit.
        writer.write_all_buf(&mut frame).await.map_err(FetchError::Stream)?;
        writer.flush().await.map_err(FetchError::Stream)?;
    }
    writer.shutdown().await.map_err(FetchError::Stream)
}

/// Bytes taken from the stream at a time, at most: what a QUIC stream has ready is a few packets.
const SCRATCH_LEN: usize = 32 * 1024;

struct Answers<R> {
    reader: R,
    /// Where the stream writes to. Reading straight into `buffer` would clear all of its spare room
    /// before each read, which costs more than copying what came.
    scratch: Box<[u8]>,
    buffer: BytesMut,
    fetched: Fetched,
}

impl<R: AsyncRead + Unpin> Answers<R> {
    async fn read_all(&mut self, wants: &[Want], sink: &mut dyn Sink) -> Result<(), FetchError> {
        for want in wants {
            self.fill(1).await?;
            match self.buffer.get_u8() {
                HELD => self.read_object(want, sink).await?,
                NOT_HELD => self.miss(want, sink).await?,
                _ => return Err(FetchError::Malformed("neither held nor not held")),
            }
        }
        Ok(())
    }

    async fn read_object(&mut self, want: &Want, sink: &mut dyn Sink) -> Result<(), FetchError> {
        let verifier = self.read_groups(want).await?;
        sink.begin(&verifier).await.map_err(FetchError::Sink)?;
        let len = verifier.object_len();
        let mut offset = group_range(len, want.from_group as usize).start;
        if len == 0 && want.from_group == 0 {
            verifier.verify(0, &[])?; // nothing comes, but the name must be that of nothing
        }
        while offset < len {
            let Some(bytes) = self.read_portion(len - offset).await? else {
                return self.miss(want, sink).await;
            };
            let first = (offset / GROUP_LEN as u64) as usize;
            for (i, group) in bytes.chunks(GROUP_LEN).enumerate() {
                verifier.verify(first + i, group)?;
            }
            offset += bytes.len() as u64;
            self.fetched.bytes += bytes.len() as u64;
            sink.groups(&want.id, first, bytes).await.map_err(FetchError::Sink)?;
        }
        self.fetched.objects += 1;
        sink.done(&want.id).await.map_err(FetchError::Sink)
    }

    async fn miss(&mut self, want: &Want, sink: &mut dyn Sink) -> Result<(), FetchError> {
        self.fetched.missing += 1;
        sink.missing(&want.id).await.map_err(FetchError::Sink)
    }

    async fn read_groups(&mut self, want: &Want) -> Result<Verifier, FetchError> {
        self.fill(8).await?;
        let len = self.buffer.get_u64_le();
        if len > OBJECT_LEN_MAX {
            return Err(Mismatch::Length(len).into());
        }
        let count = group_count(len);
        self.fill(count * 32).await?;
        let mut groups = Vec::with_capacity(count);
        for _ in 0..count {
            let mut hash = [0; 32];
            self.buffer.copy_to_slice(&mut hash);
            groups.push(GroupHash::from_bytes(hash));
        }
        Ok(Verifier::new(want.id, len, groups)?)
    }

    async fn read_portion(&mut self, left: u64) -> Result<Option<Bytes>, FetchError> {
        self.fill(4).await?;
        let n = self.buffer.get_u32_le() as usize;
        if n == 0 {
            return Ok(None);
        }
        if !wire::portion_fits(n, left) {
            return Err(FetchError::Malformed("a portion is too long or not whole groups"));
        }
        self.fill(n).await?;
        Ok(Some(self.buffer.split_to(n).freeze()))
    }

    /// Reads until at least `n` bytes are buffered; `n` is bounded by the callers.
    async fn fill(&mut self, n: usize) -> Result<(), FetchError> {
        while self.buffer.len() < n {
            let lacking = n - self.buffer.len();
            let read = timeout(STALL_MAX, self.reader.read(&mut self.scratch)).await;
            let came = match read.map_err(|_| FetchError::Stalled)?.map_err(FetchError::Stream)? {
                0 => return Err(FetchError::Stream(io::ErrorKind::UnexpectedEof.into())),
                came => came,
            };
            if self.buffer.capacity() - self.buffer.len() < lacking.max(came) {
                self.buffer.reserve(lacking.max(PORTION_LEN));
            }
            self.buffer.extend_from_slice(&self.scratch[..came]);
        }
        Ok(())
    }
}
