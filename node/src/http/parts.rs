//! The bytes of a file, portion by portion, as the client takes them.

use super::sending::Sending;
use super::sites::Served;
use crate::content::{Absent, Content, Origin};
use crate::metrics::HttpMetrics;
use bytes::Bytes;
use godwit_core::content::object::OBJECT_LEN_MAX;
use godwit_core::content::tree::List;
use std::ops::Range;
use std::sync::Arc;

/// Bodies up to this are read at once and sent whole; larger ones are read as the client takes them.
const WHOLE_MAX: u64 = 64 * 1024;

/// Bytes read from the disk at a time, and so the memory of one response.
const PORTION: u64 = 256 * 1024;

/// What is still to be sent of a file.
pub(super) struct Parts {
    pub(super) content: Arc<Content>,
    pub(super) metrics: Arc<HttpMetrics>,
    pub(super) origin: Origin,
    /// The file's objects; each but the last has [`OBJECT_LEN_MAX`] bytes.
    pub(super) sending: Arc<Sending>,
    pub(super) file_len: u64,
    pub(super) range: Range<u64>,
    /// Keeps the version's objects from being collected while they are sent.
    pub(super) _served: Option<Arc<Served>>,
}

impl Parts {
    /// The next bytes; none at the end. Given up, it has taken none.
    pub(super) async fn next(&mut self) -> Result<Option<Bytes>, Absent> {
        if self.range.is_empty() {
            return Ok(None);
        }
        let index = (self.range.start / OBJECT_LEN_MAX) as usize;
        let Some((id, ahead)) = self.sending.object(index) else { return Ok(None) };
        let object = match ahead {
            Some(object) => object,
            None => self.content.open(&self.origin, id).await?,
        };
        let offset = index as u64 * OBJECT_LEN_MAX;
        if object.len() != List::object_len(self.file_len, index) {
            return Err(Absent::Malformed(id, "it is not as long as the directory says".into()));
        }
        let left = self.range.end - self.range.start;
        let portion = if left <= WHOLE_MAX { left } else { PORTION };
        let start = self.range.start - offset;
        let end = (start + portion).min(self.range.end - offset).min(object.len());
        let bytes = object.read(start..end).await?;
        self.range.start += bytes.len() as u64;
        self.metrics.sent(bytes.len());
        Ok(Some(bytes))
    }
}
