//! What goes into the machine and what comes out.

use super::fetch::{BatchId, Wanted};
use crate::content::{ObjectId, VersionNumber};
use crate::key::MemberId;
use crate::name::SiteName;
use crate::upload::Arrivals;
use bytes::Bytes;
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;

/// What happens to the machine.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Input {
    /// This version of the site is to be held here. A version that was wanted before is given up.
    Want {
        /// The site.
        site: SiteName,
        /// The version's number.
        number: VersionNumber,
        /// The root block of its tree.
        root: ObjectId,
    },
    /// The site is not to be held here (any more). Nothing is deleted by this.
    Unwant {
        /// The site.
        site: SiteName,
    },
    /// Who holds the wanted version of the site, the nearest first; replaces what was said before.
    Holders {
        /// The site.
        site: SiteName,
        /// The holders.
        holders: Vec<MemberId>,
    },
    /// Somebody here needs this object now: it is fetched before all others.
    Demand {
        /// The object, which the store does not have.
        id: ObjectId,
        /// Its length, as far as it is known; otherwise 0.
        len: u64,
        /// Who may have it, the nearest first.
        holders: Vec<MemberId>,
    },
    /// Nobody waits for the demanded object any more.
    Undemand {
        /// The object.
        id: ObjectId,
    },
    /// A member can be fetched from.
    PeerUp {
        /// The member.
        peer: MemberId,
    },
    /// A member cannot be fetched from any more.
    PeerDown {
        /// The member.
        peer: MemberId,
    },
    /// A member has objects of a version that is being published and is to be kept here. The
    /// publisher's intent was verified.
    Arrived {
        /// Who.
        from: MemberId,
        /// What.
        arrivals: Box<Arrivals>,
    },
    /// The store's answers to [`Output::Look`].
    Looked {
        /// One for each object asked about, in any order and any portions.
        found: Vec<Found>,
    },
    /// Objects are in the store now, durable: out of a batch, or come another way.
    Stored {
        /// The batch they came with.
        batch: Option<BatchId>,
        /// The objects.
        ids: Vec<ObjectId>,
    },
    /// Bytes of a batch have come, though no object may be whole yet.
    Progress {
        /// The batch.
        batch: BatchId,
    },
    /// A batch is over. What was neither stored nor missing is fetched again.
    Ended {
        /// The batch.
        batch: BatchId,
        /// Objects that the holder does not have.
        missing: Vec<ObjectId>,
        /// Why it broke off, if it did.
        failed: Option<String>,
    },
    /// The store lost objects: what was complete may not be, and is checked again.
    Lost,
    /// Objects are about to be deleted from the store, but none under these blocks, and none that
    /// the versions wanted now refer to: no other block is known to be whole any longer.
    Retain {
        /// The blocks that stay whole.
        blocks: BTreeSet<ObjectId>,
    },
    /// The time of [`Replication::next_deadline`](super::Replication::next_deadline) has come.
    Timer,
}

/// What the store says of one object.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Found {
    /// The object.
    pub id: ObjectId,
    /// Its length if it is there.
    pub len: Option<u64>,
    /// Its bytes, if they were asked for and are not more than allowed.
    pub bytes: Option<Bytes>,
}

/// A question to the store about one object.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Look {
    /// The object.
    pub id: ObjectId,
    /// Answer with its bytes if it has at most so many.
    pub bytes_max: Option<u64>,
}

/// What the machine wants done.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Output {
    /// Look these up in the store and answer with [`Input::Looked`].
    Look(Vec<Look>),
    /// Fetch these from `holder` into the store, in this order; then [`Input::Stored`] as they are
    /// durable, [`Input::Progress`] as bytes come, and [`Input::Ended`] once.
    Fetch {
        /// Names the batch.
        batch: BatchId,
        /// From whom.
        holder: MemberId,
        /// The objects.
        objects: Vec<Wanted>,
        /// Somebody waits for it.
        urgent: bool,
    },
    /// Nobody needs this batch any more: break it off. No [`Input::Ended`] is needed.
    Cancel {
        /// The batch.
        batch: BatchId,
    },
    /// Every object of the version is in the store, durable.
    Complete {
        /// The site.
        site: SiteName,
        /// The version.
        number: VersionNumber,
    },
    /// A version that was complete is being checked again: do not claim it until it is complete.
    Doubtful {
        /// The site.
        site: SiteName,
        /// The version.
        number: VersionNumber,
    },
    /// A demanded object is in the store, or nobody has it.
    Demanded {
        /// The object.
        id: ObjectId,
        /// Whether it is in the store.
        found: bool,
    },
    /// Something to log and count.
    Note(Event),
}

/// Something to log and count.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Event {
    /// The version's tree is wrong, and will not be tried again: its publisher made it so.
    Refused {
        /// The site.
        site: SiteName,
        /// The version.
        number: VersionNumber,
        /// What is wrong.
        why: String,
    },
    /// A holder failed to deliver and is left alone for a while.
    HolderFailed {
        /// The holder.
        holder: MemberId,
        /// What happened.
        why: String,
        /// How often in a row.
        times: u32,
    },
    /// No holder of the site has this object at present.
    NobodyHas {
        /// The object.
        id: ObjectId,
    },
}

/// How far a site is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Progress {
    /// The version.
    pub number: VersionNumber,
    /// Objects found to be in the store, so far.
    pub here: u64,
    /// Objects fetched, so far.
    pub fetched: u64,
    /// Objects known to be missing.
    pub missing: u64,
    /// Whether all is there.
    pub complete: bool,
}
