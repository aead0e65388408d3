//! Taking a grant or publisher certificate back.

use super::{Invalid, Serial};
use crate::key::{Domain, NetworkId, SecretKey, Signature};
use crate::time::Time;
use crate::wire;
use serde::{Deserialize, Serialize};

/// The authority takes back a grant or publisher certificate. It cannot be undone.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Revocation {
    /// The network it is for.
    pub network: NetworkId,
    /// What is taken back.
    pub serial: Serial,
    /// When, by the authority's clock.
    pub revoked_at: Time,
    /// The authority's signature of all above.
    pub signature: Signature,
}

impl Revocation {
    /// Revokes `serial`; `authority` is the network authority's key.
    pub fn issue(now: Time, authority: &SecretKey, serial: Serial) -> Revocation {
        let network = authority.public();
        let signature = authority.sign(Domain::Revocation, &wire::encode(&(network, serial, now)));
        Revocation { network, serial, revoked_at: now, signature }
    }

    /// Checks network and signature.
    pub fn verify(&self, network: NetworkId) -> Result<(), Invalid> {
        if self.network != network {
            return Err(Invalid::Network(self.network));
        }
        let body = wire::encode(&(self.network, self.serial, self.revoked_at));
        Ok(network.verify(Domain::Revocation, &body, &self.signature)?)
    }
}
