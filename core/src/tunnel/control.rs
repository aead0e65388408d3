//! What goes through a tunnel beside packets, sealed as they are.

use super::key::{Secret, hash};
use crate::binding::{Anchor, HomeAddress};
use serde::{Deserialize, Serialize};

/// What is sent to a care-of address to see whether its owner receives there.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Cookie(pub [u8; 16]);

impl Cookie {
    /// The cookie of the proof with this number of `anchor`. Nobody can guess it who does not know
    /// the secret.
    pub(crate) fn derive(secret: &Secret, anchor: &Anchor, number: u32) -> Cookie {
        let mut cookie = [0; 16];
        hash(secret, "cookie", anchor, number).finalize_xof().fill(&mut cookie);
        Cookie(cookie)
    }
}

/// What goes through a tunnel beside packets, sealed as they are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Control {
    /// A node's first words under a new key: they show the home agent where it is.
    Hello,
    /// Send this back from where you got it.
    Cookie(Cookie),
    /// Here it is.
    Echo(Cookie),
    /// Are you there?
    Probe(u32),
    /// Yes.
    Alive(u32),
    /// A node says this from a home address and *outside* of the tunnel, though sealed as ever: did it
    /// come?
    Direct(u32),
    /// It did: packets from this address leave the node's network.
    Seen {
        /// Where it came from.
        home: HomeAddress,
        /// Its number.
        number: u32,
    },
}
