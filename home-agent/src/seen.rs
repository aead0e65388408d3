//! A bounded view of the flows that pass: for people, not for deciding.
//!
//! Home agents keep no state of flows, so this is a board with a fixed number of places: a flow stands
//! at the place of its hash, and of two at one place the one that stands there stays as long as packets
//! of it come. A thread that finds a place in use by another passes it by.

use godwit_core::flow::FlowKey;
use godwit_core::key::MemberId;
use godwit_core::packet::Packet;
use std::hash::{BuildHasher, RandomState};
use std::sync::Mutex;
use std::time::{Duration, Instant};

/// So many places: some 600 kB.
const PLACES: usize = 4096;
/// A flow without packets for so long gives its place away.
const IDLE: Duration = Duration::from_secs(10);

/// A flow as it was seen.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Sight {
    pub(crate) flow: FlowKey,
    pub(crate) owner: MemberId,
    pub(crate) since: Instant,
    pub(crate) last: Instant,
    pub(crate) packets: u64,
    pub(crate) octets: u64,
}

/// The board.
#[derive(Debug)]
pub(crate) struct Seen {
    places: Vec<Mutex<Option<Sight>>>,
    hasher: RandomState,
}

impl Seen {
    pub(crate) fn new() -> Seen {
        Seen { places: (0..PLACES).map(|_| Mutex::new(None)).collect(), hasher: RandomState::new() }
    }

    /// Packets of a flow went to `owner`.
    pub(crate) fn note(&self, packet: &Packet, owner: MemberId, count: usize, octets: usize) {
        let flow = packet.flow();
        let place = &self.places[self.hasher.hash_one(flow) as usize % PLACES];
        let Ok(mut place) = place.try_lock() else { return };
        let now = Instant::now();
        let (count, octets) = (count as u64, octets as u64);
        match &mut *place {
            Some(sight) if sight.flow == flow => {
                sight.owner = owner;
                sight.last = now;
                sight.packets += count;
                sight.octets += octets;
            }
            Some(sight) if now.duration_since(sight.last) < IDLE => {}
            empty => *empty = Some(Sight { flow, owner, since: now, last: now, packets: count, octets }),
        }
    }

    /// Those that packets came of lately, in order.
    pub(crate) fn list(&self) -> Vec<Sight> {
        let now = Instant::now();
        let sight = |place: &Mutex<Option<Sight>>| *place.lock().unwrap_or_else(|poison| poison.into_inner());
        let mut sights: Vec<Sight> = self.places.iter().filter_map(sight).collect();
        sights.retain(|sight| now.duration_since(sight.last) < IDLE);
        sights.sort_by_key(|sight| sight.flow);
        sights
    }
}
