//! What makes a key a member: redemption of a token, and sponsorship by a member.

use super::{CLOCK_SKEW_MAX, Grant, Invalid, Role, Serial};
use crate::key::{Domain, MemberId, NetworkId, SecretKey, Signature};
use crate::time::Time;
use crate::wire;
use serde::{Deserialize, Serialize};

/// What makes a key a member: the grant, its redemption and the sponsorship.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct MemberCertificate {
    /// The redeemed token.
    pub redemption: Redemption,
    /// The member who checked it; the member itself for a founder.
    pub sponsor: MemberId,
    /// When, by the sponsor's clock. Of two redemptions of a token the earlier one counts.
    pub sponsored_at: Time,
    /// The sponsor's signature of serial, member and time.
    pub sponsor_signature: Signature,
}

impl MemberCertificate {
    /// The key that is the member.
    pub fn member(&self) -> MemberId {
        self.redemption.member
    }

    /// What the authority granted.
    pub fn grant(&self) -> &Grant {
        &self.redemption.grant
    }

    /// Whether the member holds `role`.
    pub fn has_role(&self, role: Role) -> bool {
        self.grant().roles.contains(&role)
    }

    /// Checks all three signatures, the network, that the token was redeemed in time, and that a
    /// self-sponsored certificate is a founder's. Whether it holds *now* ([`super::Validity::check`]),
    /// whether the sponsor is a member, revocation and double redemption are for the caller, who
    /// knows the clock and the heads.
    pub fn verify(&self, network: NetworkId) -> Result<(), Invalid> {
        self.redemption.verify(network)?;
        let body = SponsorshipBody {
            serial: self.grant().serial,
            member: self.member(),
            sponsored_at: self.sponsored_at,
        };
        self.sponsor.verify(Domain::Sponsorship, &wire::encode(&body), &self.sponsor_signature)?;
        if self.sponsor == self.member() && !self.grant().founder {
            return Err(Invalid::Sponsor);
        }
        if self.sponsored_at > self.grant().redeem_by + CLOCK_SKEW_MAX {
            return Err(Invalid::Expired(self.grant().redeem_by));
        }
        Ok(())
    }
}

/// A join token tied to a member key, not yet countersigned.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Redemption {
    /// The promise.
    pub grant: Grant,
    /// The authority's signature of it.
    pub grant_signature: Signature,
    /// The key that becomes the member.
    pub member: MemberId,
    /// When the member says it redeemed the token.
    pub redeemed_at: Time,
    /// The token's signature of member and time.
    pub token_signature: Signature,
}

impl Redemption {
    /// Checks both signatures and the network; times and revocation are for the caller to judge.
    pub fn verify(&self, network: NetworkId) -> Result<(), Invalid> {
        if self.grant.network != network {
            return Err(Invalid::Network(self.grant.network));
        }
        network.verify(Domain::Grant, &wire::encode(&self.grant), &self.grant_signature)?;
        let body =
            RedemptionBody { serial: self.grant.serial, member: self.member, redeemed_at: self.redeemed_at };
        self.grant.token_key.verify(Domain::Redemption, &wire::encode(&body), &self.token_signature)?;
        Ok(())
    }

    /// Countersigns. The sponsor has checked that the token is in time and unused.
    pub fn sponsor(self, now: Time, sponsor: &SecretKey) -> MemberCertificate {
        let body = SponsorshipBody { serial: self.grant.serial, member: self.member, sponsored_at: now };
        let sponsor_signature = sponsor.sign(Domain::Sponsorship, &wire::encode(&body));
        MemberCertificate {
            redemption: self,
            sponsor: sponsor.public(),
            sponsored_at: now,
            sponsor_signature,
        }
    }
}

#[derive(Serialize)]
pub(super) struct RedemptionBody {
    pub(super) serial: Serial,
    pub(super) member: MemberId,
    pub(super) redeemed_at: Time,
}

#[derive(Serialize)]
struct SponsorshipBody {
    serial: Serial,
    member: MemberId,
    sponsored_at: Time,
}

#[cfg(test)]
mod tests {
    use super::super::grant::tests::{authority, invitation};
    use super::*;

    #[test]
    fn certificate_holds_only_for_its_member_network_and_sponsor() {
        let (authority, sponsor) = (authority(), SecretKey::from_seed(&[3; 32]));
        let network = authority.key.public();
        let member = SecretKey::from_seed(&[4; 32]).public();
        let redemption = authority.invite(invitation(), &[2; 32]).redeem(Time::from_secs(500), member);
        let certificate = redemption.clone().sponsor(Time::from_secs(501), &sponsor);
        assert_eq!(certificate.verify(network), Ok(()));
        assert_eq!(certificate.verify(member), Err(Invalid::Network(network)));

        let mut stolen = certificate.clone();
        stolen.redemption.member = SecretKey::from_seed(&[5; 32]).public();
        assert_eq!(stolen.verify(network), Err(Invalid::Signature));

        let mut promoted = certificate.clone();
        promoted.redemption.grant.roles = vec![Role::HomeAgent];
        assert_eq!(promoted.verify(network), Err(Invalid::Signature));

        let late = redemption.clone().sponsor(Time::from_secs(1061), &sponsor);
        assert_eq!(late.verify(network), Err(Invalid::Expired(Time::from_secs(1000))));

        let own = SecretKey::from_seed(&[4; 32]);
        assert_eq!(redemption.sponsor(Time::from_secs(501), &own).verify(network), Err(Invalid::Sponsor));
    }
}
