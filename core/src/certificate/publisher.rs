//! Who may publish sites and give orders.

use super::{Invalid, Serial, Validity};
use crate::key::{Domain, NetworkId, PublicKey, SecretKey, Signature};
use crate::name::SiteName;
use crate::wire;
use serde::{Deserialize, Serialize};

/// What the holder of a publisher certificate may do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Right {
    /// Sign versions of the sites it covers.
    Publish,
    /// Give orders to members: drain, undrain.
    Operate,
}

/// The authority's statement that a key may publish sites, operate members, or both.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct PublisherCertificate {
    /// The network it is for.
    pub network: NetworkId,
    /// Unique number; revocations name it.
    pub serial: Serial,
    /// The key.
    pub publisher: PublicKey,
    /// It covers the sites whose name starts with this; empty covers all.
    pub site_prefix: String,
    /// What the key may do, in order, without repetition.
    pub rights: Vec<Right>,
    /// When it holds.
    pub validity: Validity,
    /// The authority's signature of all above.
    pub signature: Signature,
}

#[derive(Serialize)]
struct PublisherBody<'a> {
    network: NetworkId,
    serial: Serial,
    publisher: PublicKey,
    site_prefix: &'a str,
    rights: &'a [Right],
    validity: Validity,
}

impl PublisherCertificate {
    /// Issues a certificate; `authority` is the network authority's key.
    pub fn issue(
        authority: &SecretKey,
        serial: Serial,
        publisher: PublicKey,
        site_prefix: String,
        rights: Vec<Right>,
        validity: Validity,
    ) -> PublisherCertificate {
        let network = authority.public();
        let body = PublisherBody {
            network,
            serial,
            publisher,
            site_prefix: &site_prefix,
            rights: &rights,
            validity,
        };
        let signature = authority.sign(Domain::Publisher, &wire::encode(&body));
        PublisherCertificate { network, serial, publisher, site_prefix, rights, validity, signature }
    }

    /// Checks network and signature.
    pub fn verify(&self, network: NetworkId) -> Result<(), Invalid> {
        if self.network != network {
            return Err(Invalid::Network(self.network));
        }
        let body = PublisherBody {
            network: self.network,
            serial: self.serial,
            publisher: self.publisher,
            site_prefix: &self.site_prefix,
            rights: &self.rights,
            validity: self.validity,
        };
        Ok(network.verify(Domain::Publisher, &wire::encode(&body), &self.signature)?)
    }

    /// Whether it allows publishing `site`.
    pub fn may_publish(&self, site: &SiteName) -> Result<(), Invalid> {
        if !self.rights.contains(&Right::Publish) || !site.as_str().starts_with(&self.site_prefix) {
            return Err(Invalid::Scope(format!("publishing {site}")));
        }
        Ok(())
    }

    /// Whether it allows giving orders to members.
    pub fn may_operate(&self) -> Result<(), Invalid> {
        if !self.rights.contains(&Right::Operate) {
            return Err(Invalid::Scope("operating members".into()));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::super::grant::tests::authority;
    use super::super::{Duty, Order};
    use super::*;
    use crate::time::Time;

    #[test]
    fn publisher_certificate_covers_its_prefix_only() {
        let authority = authority().key;
        let key = SecretKey::from_seed(&[6; 32]);
        let validity = Validity { not_before: Time::from_secs(0), not_after: Time::from_secs(10) };
        let certificate = PublisherCertificate::issue(
            &authority,
            Serial(9),
            key.public(),
            "docs".into(),
            vec![Right::Publish],
            validity,
        );
        assert_eq!(certificate.verify(authority.public()), Ok(()));
        assert_eq!(certificate.may_publish(&"docs-old".parse().unwrap()), Ok(()));
        assert!(matches!(certificate.may_publish(&"www".parse().unwrap()), Err(Invalid::Scope(_))));
        assert!(matches!(certificate.may_operate(), Err(Invalid::Scope(_))));
        let order = Order::issue(Time::from_secs(1), &key, certificate, Serial(4), Duty::Drain);
        assert!(matches!(order.verify(authority.public()), Err(Invalid::Scope(_))));
    }
}
