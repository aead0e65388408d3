//! Objects that come to a member while a publish goes on, told to those that will keep them.
//!
//! A publish gives one member all objects of a version and only then its head, since a head must not
//! name what nobody holds. On long links that is twice the time: first the objects come to one
//! member, then they go to the others. So a publisher may sign its *intent* beforehand. The member
//! tells the nodes that will keep the site which objects have become durable there, and they fetch
//! these while the next ones come.
//!
//! ```text
//!  publisher              member                       node that will keep the site
//!     | intent, objects ---> | durable
//!     |                      | intent, names of these ---> | fetches them, if it lacks them
//!     | version -----------> | head ---------------------> | walks the tree, finds nearly all here
//! ```
//!
//! Nothing rests on it. An arrivals may be lost, come late or not at all, and name what never
//! becomes part of a version: it makes no version current, complete or served. Whoever fetched
//! something in vain collects it like everything else to which nothing refers. What keeps members
//! from filling each other's disks is the publisher's signature: an intent says how many objects are
//! to come, and nobody fetches more of them under it (how long each is, is the member's word until it
//! comes); and it counts for [`INTENT_MAX`] only.

use crate::certificate::{CLOCK_SKEW_MAX, Invalid, PublisherCertificate};
use crate::content::{ObjectId, Policy, VersionNumber};
use crate::key::{Domain, NetworkId, SecretKey, Signature};
use crate::name::SiteName;
use crate::time::Time;
use crate::wire;
use serde::{Deserialize, Serialize};
use std::time::Duration;

/// An intent counts for so long: most publishes are over by then, and one that is not goes on as if
/// it had announced nothing.
pub const INTENT_MAX: Duration = Duration::from_secs(3600);

/// Objects in one arrivals: what a member makes durable at a time. Some 40 KiB.
pub const ARRIVALS_MAX: usize = 1024;

/// The longest encoded intent, bytes: more than any certificate and name of a site need.
pub const INTENT_LEN_MAX: usize = 4096;

/// *I am about to publish this site, and send so much for it*, signed by a publisher.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Intent {
    /// The site.
    pub site: SiteName,
    /// The number that the version is to have.
    pub number: VersionNumber,
    /// How it wants to be kept.
    pub policy: Policy,
    /// How many objects are sent.
    pub objects: u64,
    /// How many bytes these have.
    pub bytes: u64,
    /// When it was signed, by the publisher's clock.
    pub signed_at: Time,
    /// Why the publisher may.
    pub publisher: PublisherCertificate,
    /// The publisher's signature of all above.
    pub signature: Signature,
}

/// What a publisher is about to send.
#[derive(Clone, Debug, Serialize)]
pub struct Plan {
    /// The site.
    pub site: SiteName,
    /// The number that the version is to have.
    pub number: VersionNumber,
    /// How it wants to be kept.
    pub policy: Policy,
    /// How many objects are sent.
    pub objects: u64,
    /// How many bytes these have.
    pub bytes: u64,
}

impl Intent {
    /// Signs `plan` with the key of `publisher`.
    pub fn issue(now: Time, key: &SecretKey, publisher: PublisherCertificate, plan: Plan) -> Intent {
        let signature = key.sign(Domain::Intent, &wire::encode(&(&plan, now, &publisher)));
        let Plan { site, number, policy, objects, bytes } = plan;
        Intent { site, number, policy, objects, bytes, signed_at: now, publisher, signature }
    }

    /// Checks the publisher's certificate (signature, network, prefix, time), the signature and the
    /// age. Whether the certificate was revoked is for the caller to judge.
    pub fn verify(&self, now: Time, network: NetworkId) -> Result<(), Invalid> {
        if self.signed_at > now + CLOCK_SKEW_MAX {
            return Err(Invalid::NotYet(self.signed_at));
        }
        if now > self.signed_at + INTENT_MAX + CLOCK_SKEW_MAX {
            return Err(Invalid::Expired(self.signed_at + INTENT_MAX));
        }
        self.publisher.validity.check(now)?;
        self.publisher.verify(network)?;
        self.publisher.may_publish(&self.site)?;
        let plan = Plan {
            site: self.site.clone(),
            number: self.number,
            policy: self.policy.clone(),
            objects: self.objects,
            bytes: self.bytes,
        };
        let body = wire::encode(&(&plan, self.signed_at, &self.publisher));
        Ok(self.publisher.publisher.verify(Domain::Intent, &body, &self.signature)?)
    }
}

/// An object that has become durable at a member.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Coming {
    /// The object.
    pub id: ObjectId,
    /// Its length, bytes, as the member says.
    pub len: u64,
}

/// *These objects are durable here, under this intent.*
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Arrivals {
    /// The publisher's intent.
    pub intent: Intent,
    /// At most [`ARRIVALS_MAX`].
    pub objects: Vec<Coming>,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::certificate::{Right, Serial, Validity};
    use crate::key::SecretKey;

    fn intent(now: Time) -> (NetworkId, Intent) {
        let (authority, key) = (SecretKey::from_seed(&[1; 32]), SecretKey::from_seed(&[2; 32]));
        let validity = Validity { not_before: Time::from_secs(0), not_after: Time::from_secs(1_000_000) };
        let certificate = PublisherCertificate::issue(
            &authority,
            Serial(1),
            key.public(),
            "docs".into(),
            vec![Right::Publish],
            validity,
        );
        let plan = Plan {
            site: "docs-new".parse().unwrap(),
            number: VersionNumber(3),
            policy: Policy::default(),
            objects: 10,
            bytes: 1000,
        };
        (authority.public(), Intent::issue(now, &key, certificate, plan))
    }

    #[test]
    fn an_intent_holds_for_an_hour_and_for_what_it_says() {
        let now = Time::from_secs(500_000);
        let (network, signed) = intent(now);
        assert_eq!(signed.verify(now, network), Ok(()));
        assert!(wire::encode(&signed).len() < INTENT_LEN_MAX / 4);
        let late = now + INTENT_MAX + CLOCK_SKEW_MAX + Duration::from_secs(1);
        assert!(matches!(signed.verify(late, network), Err(Invalid::Expired(_))));
        let early = Time::from_secs(400_000);
        assert!(matches!(signed.verify(early, network), Err(Invalid::NotYet(_))));
        for edit in [
            (|intent| intent.bytes += 1) as fn(&mut Intent),
            |intent| intent.objects += 1,
            |intent| intent.number = intent.number.next(),
            |intent| intent.site = "docs-old".parse().unwrap(),
        ] {
            let mut edited = signed.clone();
            edit(&mut edited);
            assert_eq!(edited.verify(now, network), Err(Invalid::Signature));
        }
        let mut beyond = signed.clone();
        beyond.site = "www".parse().unwrap();
        assert!(matches!(beyond.verify(now, network), Err(Invalid::Scope(_))));
        let foreign = SecretKey::from_seed(&[9; 32]).public();
        assert!(matches!(signed.verify(now, foreign), Err(Invalid::Network(_))));
    }
}
