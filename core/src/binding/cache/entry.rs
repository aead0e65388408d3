//! What the binding cache keeps of each care-of address, and of each member that speaks.

use super::io::State;
use crate::binding::path::Path;
use crate::binding::{Capabilities, CareOf, HomeAddress, Service};
use crate::time::Time;
use crate::tunnel::{Cookie, KeyId};
use serde::{Deserialize, Serialize};
use std::net::SocketAddr;
use std::time::Duration;

/// So many updates of one binding may come at once: after a stream stood still, what was said meanwhile…
const UPDATES_BURST: u32 = 4;
/// …and then one in this time: three a second (MAX_UPDATE_RATE; RFC 6275, 12).
const UPDATES_PAUSE: Duration = Duration::from_millis(333);

#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Entry {
    pub(super) asked: Vec<HomeAddress>,
    pub(super) homes: Vec<HomeAddress>,
    pub(super) care_of: CareOf,
    pub(super) capabilities: Capabilities,
    pub(super) priority: u8,
    pub(super) service: Service,
    pub(super) epoch: u32,
    pub(super) expires: Time,
    pub(super) key: KeyId,
    pub(super) key_since: Time,
    /// The key before, and until when it is accepted.
    pub(super) before: Option<(KeyId, Time)>,
    pub(super) place: Option<Place>,
    pub(super) proof: Option<Proof>,
    pub(super) followed: Option<Time>,
    pub(super) wake: Time,
}

/// A care-of address that is in use, or was until its path was lost.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Place {
    pub(super) address: SocketAddr,
    pub(super) path: Path,
    /// Whether this binding's own cookie came back from it; until then another binding's did.
    pub(super) proved: bool,
}

/// A care-of address that has not.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Proof {
    /// Not known before the node's first packet when it does not know it either.
    pub(super) address: Option<SocketAddr>,
    pub(super) cookie: Cookie,
    pub(super) tries: u8,
}

impl Entry {
    pub(super) fn state(&self) -> State {
        match &self.place {
            None => State::Unproved,
            Some(place) if place.path.is_up() => State::Up,
            Some(_) => State::Lost,
        }
    }

    /// Whether packets go there now.
    pub(super) fn uses(&self, address: SocketAddr) -> bool {
        self.place.as_ref().is_some_and(|place| place.address == address && place.path.is_up())
    }

    /// What [`Output::Changed`] is about.
    pub(super) fn face(&self) -> impl PartialEq + use<> {
        let address = self.place.as_ref().map(|place| place.address);
        (
            self.homes.clone(),
            address,
            self.state() == State::Up,
            self.service == Service::Open,
            self.priority,
            self.capabilities.mtu,
            self.capabilities.direct_return,
        )
    }

    pub(super) fn due(&self) -> Time {
        let before = self.before.map_or(Time::NEVER, |(_, until)| until);
        let path = self.place.as_ref().map_or(Time::NEVER, |place| place.path.due());
        self.expires.min(before).min(path)
    }
}

/// How many updates of a binding may still come.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Allowance {
    /// When all of them are there again.
    pub(super) full_at: Time,
}

impl Allowance {
    pub(super) fn take(&mut self, now: Time) -> bool {
        let burst = UPDATES_PAUSE * UPDATES_BURST;
        let after = self.full_at.max(now) + UPDATES_PAUSE;
        let granted = after <= now + burst;
        if granted {
            self.full_at = after;
        }
        granted
    }
}
