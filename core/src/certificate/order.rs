//! What an operator orders a member to do.

use super::{Invalid, PublisherCertificate, Serial};
use crate::key::{Domain, NetworkId, SecretKey, Signature};
use crate::time::Time;
use crate::wire;
use serde::{Deserialize, Serialize};

/// An operator's order to a member. The newest order for a member holds until the next.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Order {
    /// The member it is for, by the serial of its grant.
    pub member: Serial,
    /// What is ordered.
    pub duty: Duty,
    /// When, by the operator's clock; the later of two orders wins.
    pub ordered_at: Time,
    /// Why the operator may.
    pub operator: PublisherCertificate,
    /// The operator's signature of all above.
    pub signature: Signature,
}

/// Whether a member is to be given clients.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Duty {
    /// Clients are led to it.
    Serve,
    /// No new client is led to it; it goes on serving those it has.
    Drain,
}

impl Order {
    /// Signs an order with the operator's key.
    pub fn issue(
        now: Time,
        key: &SecretKey,
        operator: PublisherCertificate,
        member: Serial,
        duty: Duty,
    ) -> Order {
        let signature = key.sign(Domain::Order, &wire::encode(&(member, duty, now, &operator)));
        Order { member, duty, ordered_at: now, operator, signature }
    }

    /// Checks the operator's certificate (signature, network, right) and signature.
    pub fn verify(&self, network: NetworkId) -> Result<(), Invalid> {
        self.operator.verify(network)?;
        self.operator.may_operate()?;
        let body = wire::encode(&(self.member, self.duty, self.ordered_at, &self.operator));
        Ok(self.operator.publisher.verify(Domain::Order, &body, &self.signature)?)
    }
}
