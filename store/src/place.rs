//! Where an object lies, as the index keeps it.

use crate::disk::FileId;
use crate::extent::Header;
use godwit_core::content::ObjectId;
use godwit_core::wire;
use serde::{Deserialize, Serialize};

/// The longest encoded place.
const PLACE_LEN_MAX: usize = 64;

/// Where an object lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Place {
    /// Its length.
    pub(crate) len: u64,
    pub(crate) spot: Spot,
}

/// The file, and where in it the extent begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Spot {
    Pack { number: u32, offset: u64 },
    Own,
}

impl Place {
    pub(crate) fn encode(&self) -> Vec<u8> {
        wire::encode(self)
    }

    pub(crate) fn decode(bytes: &[u8]) -> Option<Place> {
        wire::decode(bytes, PLACE_LEN_MAX).ok()
    }

    pub(crate) fn file(&self, id: ObjectId) -> FileId {
        match self.spot {
            Spot::Pack { number, .. } => FileId::Pack(number),
            Spot::Own => FileId::Own(id),
        }
    }

    pub(crate) fn offset(&self) -> u64 {
        match self.spot {
            Spot::Pack { offset, .. } => offset,
            Spot::Own => 0,
        }
    }

    /// The header that its extent has.
    pub(crate) fn header(&self, id: ObjectId) -> Header {
        Header { id, len: self.len, live: true }
    }

    /// Where the body begins in the file.
    pub(crate) fn body_offset(&self, id: ObjectId) -> u64 {
        self.offset() + self.header(id).body_offset()
    }
}
