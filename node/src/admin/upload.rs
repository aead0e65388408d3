//! Taking objects from a publisher: framed, named by hash, stored in batches, durable at the end.
//! With the publisher's intent, each batch is announced as it becomes durable.
//!
//! ```text
//!  0       4            4 + len
//! +-------+------------+-------+---
//! |  len  |   bytes    |  len  | ...
//! +-------+------------+-------+---
//!  u32 little endian, at most 64 MiB
//! ```

use super::api::{Code, Error, Stored};
use super::arrivals::Telling;
use super::server::{Control, not_stored};
use bytes::{Buf, Bytes, BytesMut};
use godwit_core::content::OBJECT_LEN_MAX;
use http_body_util::BodyExt;
use hyper::body::Incoming;
use std::time::Duration;

/// Objects are stored when so many bytes have gathered: enough that one sync pays for many.
const BATCH_BYTES: usize = 4 * 1024 * 1024;

/// Or so many objects.
const BATCH_OBJECTS: usize = 1024;

/// A publisher that sends nothing for so long is given up.
const STALL_MAX: Duration = Duration::from_secs(30);

/// So much of an upload that is refused is taken and thrown away: who hung up on its sender at once would
/// take back its own answer, which is lost with what was not read. More is not worth an answer.
const REFUSED_MAX: usize = 4 * 1024 * 1024;

/// And for so long.
const REFUSED_WAIT: Duration = Duration::from_secs(2);

/// Takes what is left of an upload that is refused, so that its sender hears why.
async fn discard(body: &mut Incoming) {
    let read = async {
        let mut len = 0;
        while let Some(Ok(frame)) = body.frame().await {
            len += frame.data_ref().map_or(0, Bytes::len);
            if len > REFUSED_MAX {
                return;
            }
        }
    };
    // Who is slow may hear of a lost connection instead.
    let _ = tokio::time::timeout(REFUSED_WAIT, read).await;
}

/// Takes the objects in `body`, which a publisher with this intent sends.
pub(super) async fn take(
    control: &Control,
    intent: Option<&str>,
    mut body: Incoming,
) -> Result<Stored, Error> {
    let stored = store(control, intent, &mut body).await;
    if stored.is_err() {
        discard(&mut body).await;
    }
    stored
}

async fn store(control: &Control, intent: Option<&str>, body: &mut Incoming) -> Result<Stored, Error> {
    let telling = intent.map(|intent| Telling::begin(control, intent)).transpose()?;
    let busy = |_| Error::new(Code::Unavailable, "too many uploads at once");
    let _turn = control.uploads.acquire().await.map_err(|e| busy(e.to_string()))?;
    let mut stored = Stored::default();
    let mut buffer = BytesMut::new();
    let mut batch = Batch { telling, ..Batch::default() };
    loop {
        while let Some(object) = split(&mut buffer)? {
            stored.objects += 1;
            stored.bytes += object.len() as u64;
            batch.push(object);
            if batch.is_full() {
                // One batch is written while the next one comes in.
                batch.flush(control).await?;
            }
        }
        let frame = tokio::time::timeout(STALL_MAX, body.frame()).await;
        match frame.map_err(|_| Error::new(Code::Malformed, "nothing came for 30 seconds"))? {
            Some(Ok(frame)) => buffer.extend_from_slice(&frame.into_data().unwrap_or_default()),
            Some(Err(error)) => return Err(Error::new(Code::Malformed, error.to_string())),
            None if buffer.is_empty() => break,
            None => return Err(Error::new(Code::Malformed, "the upload ends within an object")),
        }
    }
    batch.flush(control).await?;
    batch.wait().await?;
    control.metrics.uploaded_objects.inc_by(stored.objects);
    Ok(stored)
}

/// The next whole object in `buffer`.
fn split(buffer: &mut BytesMut) -> Result<Option<Bytes>, Error> {
    let Some(head) = buffer.first_chunk::<4>() else { return Ok(None) };
    let len = u32::from_le_bytes(*head) as usize;
    if len as u64 > OBJECT_LEN_MAX {
        let problem = format!("an object of {len} bytes, where at most {OBJECT_LEN_MAX} are allowed");
        return Err(Error::new(Code::TooLarge, problem));
    }
    if buffer.len() < 4 + len {
        buffer.reserve(4 + len - buffer.len());
        return Ok(None);
    }
    buffer.advance(4);
    Ok(Some(buffer.split_to(len).freeze()))
}

#[derive(Default)]
struct Batch {
    objects: Vec<Bytes>,
    bytes: usize,
    telling: Option<Telling>,
    writing: Option<tokio::task::JoinHandle<Result<(), godwit_store::StoreError>>>,
}

impl Batch {
    fn push(&mut self, object: Bytes) {
        self.bytes += object.len();
        self.objects.push(object);
    }

    fn is_full(&self) -> bool {
        self.bytes >= BATCH_BYTES || self.objects.len() >= BATCH_OBJECTS
    }

    /// Begins to write what has gathered, when what was begun before is durable.
    async fn flush(&mut self, control: &Control) -> Result<(), Error> {
        self.wait().await?;
        let objects = std::mem::take(&mut self.objects);
        self.bytes = 0;
        if !objects.is_empty() {
            let (content, telling) = (control.content.clone(), self.telling.clone());
            self.writing = Some(tokio::spawn(async move {
                let durable = content.put(objects).await?;
                if let Some(telling) = telling {
                    telling.tell(&durable).await;
                }
                Ok(())
            }));
        }
        Ok(())
    }

    async fn wait(&mut self) -> Result<(), Error> {
        let Some(writing) = self.writing.take() else { return Ok(()) };
        let written = writing.await.map_err(|e| Error::new(Code::NotDurable, e.to_string()))?;
        written.map_err(|error| not_stored(&error))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn objects_are_split_where_their_lengths_say() {
        let mut buffer = BytesMut::from(&b"\x03\0\0\0abc\0\0\0\0\x02\0\0\0x"[..]);
        assert_eq!(split(&mut buffer).unwrap().unwrap(), "abc");
        assert_eq!(split(&mut buffer).unwrap().unwrap(), "");
        assert_eq!(split(&mut buffer).unwrap(), None);
        buffer.extend_from_slice(b"y\x01");
        assert_eq!(split(&mut buffer).unwrap().unwrap(), "xy");
        assert_eq!(split(&mut buffer).unwrap(), None);
    }

    #[test]
    fn absurd_lengths_are_refused_before_anything_is_allocated() {
        let mut buffer = BytesMut::from(&b"\xff\xff\xff\xff"[..]);
        assert_eq!(split(&mut buffer).unwrap_err().code, Code::TooLarge);
    }
}
