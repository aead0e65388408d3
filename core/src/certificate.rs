//! Who may do what: grants, join tokens, member and publisher certificates, revocations, home
//! addresses.
//!
//! One offline *network authority* key signs. It is never needed while the network serves:
//!
//! 1. `godwit invite` makes a one-time key pair and a [`Grant`] for its public half: *whoever shows
//!    the secret half first becomes member N with these roles in this region*. Grant and secret half
//!    are the [`JoinToken`].
//! 2. `godwit join` makes the member's own key, signs it with the one-time key (a [`Redemption`])
//!    and shows that to any member, the *sponsor*.
//! 3. The sponsor checks that the token is in time and has not been redeemed by another key, and
//!    countersigns. Grant, redemption and sponsorship together are the [`MemberCertificate`].
//!
//! The certificate is a head: it spreads to all members, and where two redemptions of one token
//! meet, the earlier sponsorship wins everywhere and the other member is refused. So a token is
//! used once even if it leaks later, without the authority being online.
//!
//! A *founder* grant has no network to ask yet: its holder sponsors itself.

mod address;
mod grant;
mod member;
mod order;
mod publisher;
mod revocation;

pub use address::{AddressGrant, Home, PORTS_MAX, Ports, SERVERS_MAX, standing};
pub use grant::{Authority, BOOTSTRAP_MAX, Grant, Invitation, JoinToken, Role, TOKEN_LEN_MAX};
pub use member::{MemberCertificate, Redemption};
pub use order::{Duty, Order};
pub use publisher::{PublisherCertificate, Right};
pub use revocation::Revocation;

use crate::key::{BadSignature, MemberId, NetworkId};
use crate::time::Time;
use serde::{Deserialize, Serialize};
use std::fmt;
use std::time::Duration;

/// How far two members' clocks may differ before certificates are judged wrongly.
pub const CLOCK_SKEW_MAX: Duration = Duration::from_secs(60);

/// Number of a grant or publisher certificate, unique under one authority; revocations name it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Serial(pub u64);

impl fmt::Display for Serial {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}

/// Why a certificate, token or other signed right does not hold.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
pub enum Invalid {
    /// The authority's, token's or sponsor's signature does not match: made up or edited.
    #[error("the signature does not match: it was edited or comes from another authority")]
    Signature,
    /// It belongs to another network.
    #[error("it belongs to another network ({0:?})")]
    Network(NetworkId),
    /// It is not valid yet.
    #[error("it is not valid before {0} (Unix time)")]
    NotYet(Time),
    /// Its time has passed.
    #[error("it expired at {0} (Unix time)")]
    Expired(Time),
    /// The authority took it back.
    #[error("it was revoked")]
    Revoked,
    /// The token was redeemed by another key before.
    #[error("this join token was already used, by member key {0:?}")]
    Used(MemberId),
    /// The certificate names another key than the one the peer proved.
    #[error("it was issued to another key")]
    Key,
    /// Nobody known countersigned the redemption.
    #[error("its sponsor is not a member this one knows")]
    Sponsor,
    /// It does not allow what was done under it.
    #[error("it does not cover {0}")]
    Scope(String),
    /// The text or bytes do not have the form.
    #[error("malformed: {0}")]
    Malformed(String),
}

impl From<BadSignature> for Invalid {
    fn from(_: BadSignature) -> Invalid {
        Invalid::Signature
    }
}

/// A span of time in which something holds, both ends included.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Validity {
    /// First moment.
    pub not_before: Time,
    /// Last moment.
    pub not_after: Time,
}

impl Validity {
    /// Whether `now` lies inside, give or take [`CLOCK_SKEW_MAX`].
    pub fn check(&self, now: Time) -> Result<(), Invalid> {
        if now + CLOCK_SKEW_MAX < self.not_before {
            return Err(Invalid::NotYet(self.not_before));
        }
        if now > self.not_after + CLOCK_SKEW_MAX {
            return Err(Invalid::Expired(self.not_after));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn validity_allows_for_skewed_clocks() {
        let validity = Validity { not_before: Time::from_secs(100), not_after: Time::from_secs(200) };
        assert_eq!(validity.check(Time::from_secs(40)), Ok(()));
        assert!(matches!(validity.check(Time::from_secs(39)), Err(Invalid::NotYet(_))));
        assert_eq!(validity.check(Time::from_secs(260)), Ok(()));
        assert!(matches!(validity.check(Time::from_secs(261)), Err(Invalid::Expired(_))));
    }
}
