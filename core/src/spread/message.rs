//! What members say to each other.
//!
//! Every message stands for itself: none refers to an earlier one, so that a lost one costs time
//! and nothing else, and a peer cannot make another keep state for it.

use crate::record::{Key, Rank, Record};
use crate::upload::Arrivals;
use crate::wire::{self, DecodeError, MESSAGE_LEN_MAX};
use bytes::Bytes;
use serde::{Deserialize, Serialize};

/// A message between members.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Message {
    /// *Are you there?*
    Ping {
        /// Tells pings apart.
        nonce: u64,
    },
    /// *I am.*
    Pong {
        /// Of the ping.
        nonce: u64,
    },
    /// *You may not know these yet.*
    Push {
        /// Records with their ages.
        records: Vec<Carried>,
        /// Whether there would have been more to say: reconcile again.
        more: bool,
    },
    /// *This is the sum of all that I hold.* Begins a reconciliation; silence means *I too*.
    Summary {
        /// The sum.
        sum: u128,
    },
    /// *I hold something else; these are the sums of my buckets.*
    Buckets {
        /// One sum for each of [`super::set::BUCKETS`].
        sums: Vec<u128>,
    },
    /// *In these buckets I hold exactly this.* Answered by what the other has above it, and by
    /// [`Message::Want`] for what it has not.
    Listing {
        /// Which buckets.
        buckets: Vec<u8>,
        /// What is in them.
        items: Vec<(Key, Rank)>,
    },
    /// *Please send me these.*
    Want {
        /// Which.
        keys: Vec<Key>,
    },
    /// *These objects have come to me; you may fetch them already.*
    Coming(Box<Arrivals>),
}

/// A record on its way.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Carried {
    /// The record.
    pub(crate) record: Record,
    /// How long ago it was first heard by anybody, milliseconds, not counting the time on wires.
    pub(crate) age_ms: u32,
}

impl Message {
    pub(crate) fn encode(&self) -> Bytes {
        wire::encode(self).into()
    }

    pub(crate) fn decode(bytes: &[u8]) -> Result<Message, DecodeError> {
        wire::decode(bytes, MESSAGE_LEN_MAX)
    }
}
