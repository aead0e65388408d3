//! The offline keys of a simulated network: they invite, certify and revoke.

use godwit_core::certificate::{
    AddressGrant, Authority, Duty, Home, Invitation, JoinToken, Order, PublisherCertificate, Revocation,
    Right, Role, Serial, Validity,
};
use godwit_core::content::version::Draft;
use godwit_core::content::{ObjectId, Policy, SiteVersion, VersionNumber};
use godwit_core::key::{NetworkId, SecretKey};
use godwit_core::name::{SiteName, ZoneName};
use godwit_core::record::Record;
use godwit_core::time::Time;
use std::time::Duration;

/// The keys of a network, and what they have signed so far.
pub struct Keys {
    authority: Authority,
    publisher: SecretKey,
    publisher_certificate: PublisherCertificate,
    validity: Validity,
    next_serial: u64,
    /// What the next members are invited as.
    pub roles: Vec<Role>,
}

/// The serial of the publisher's certificate.
pub const PUBLISHER_SERIAL: Serial = Serial(1);

impl Keys {
    /// The keys of a network that begins at `now`; `seed` tells networks apart.
    pub fn new(now: Time, seed: u8) -> Keys {
        let zone: ZoneName = "sim.example".parse().expect("a constant zone");
        let authority = Authority { key: SecretKey::from_seed(&[seed; 32]), zone };
        let publisher = SecretKey::from_seed(&[seed.wrapping_add(1); 32]);
        let validity = Validity { not_before: now, not_after: now + Duration::from_secs(365 * 86_400) };
        let publisher_certificate = certify(&authority.key, &publisher, PUBLISHER_SERIAL, "", validity);
        Keys {
            authority,
            publisher,
            publisher_certificate,
            validity,
            next_serial: 100,
            roles: vec![Role::Node],
        }
    }

    /// The network.
    pub fn network(&self) -> NetworkId {
        self.authority.key.public()
    }

    /// Its zone.
    pub fn zone(&self) -> ZoneName {
        self.authority.zone.clone()
    }

    /// Makes a token for the next member.
    pub fn invite(&mut self, now: Time, founder: bool) -> JoinToken {
        let serial = self.next_serial;
        self.next_serial += 1;
        let invitation = Invitation {
            serial: Serial(serial),
            name: format!("member-{serial}").parse().expect("digits make a name"),
            region: format!("region-{}", serial % 6).parse().expect("digits make a name"),
            place: None,
            roles: self.roles.clone(),
            validity: self.validity,
            redeem_by: now + Duration::from_secs(900),
            founder,
            bootstrap: Vec::new(),
        };
        let mut seed = [0; 32];
        seed[..8].copy_from_slice(&serial.to_le_bytes());
        self.authority.invite(invitation, &seed)
    }

    /// Takes back a grant or publisher certificate.
    pub fn revoke(&self, now: Time, serial: Serial) -> Record {
        Record::Revocation(Revocation::issue(now, &self.authority.key, serial))
    }

    /// Grants a home address, or with `None` takes the name back.
    pub fn grant_address(&self, now: Time, name: &str, sequence: u64, home: Option<Home>) -> Record {
        let name = name.parse().expect("the caller brings a name");
        Record::Address(Box::new(AddressGrant::issue(now, &self.authority.key, name, sequence, home)))
    }

    /// Signs a version of a site; `content` tells two of one number apart.
    pub fn publish(&self, now: Time, site: &str, number: u64, content: &str) -> Record {
        self.publish_as(now, &self.publisher_certificate, site, number, content)
    }

    /// Signs a version under a certificate of its own, that covers `prefix` only.
    pub fn publish_with_prefix(&self, now: Time, prefix: &str, site: &str, number: u64) -> Record {
        let certificate = certify(&self.authority.key, &self.publisher, Serial(2), prefix, self.validity);
        self.publish_as(now, &certificate, site, number, "")
    }

    /// Orders a member to drain or to serve.
    pub fn order(&self, now: Time, member: Serial, duty: Duty) -> Record {
        Record::Order(Box::new(Order::issue(
            now,
            &self.publisher,
            self.publisher_certificate.clone(),
            member,
            duty,
        )))
    }

    fn publish_as(
        &self,
        now: Time,
        certificate: &PublisherCertificate,
        site: &str,
        number: u64,
        content: &str,
    ) -> Record {
        let site: SiteName = site.parse().expect("the caller brings a site name");
        let draft = Draft {
            site,
            number: VersionNumber(number),
            root: ObjectId::of(content.as_bytes()),
            files: 1,
            bytes: content.len() as u64,
            policy: Policy::default(),
        };
        Record::Site(Box::new(SiteVersion::issue(now, &self.publisher, certificate.clone(), draft)))
    }
}

fn certify(
    authority: &SecretKey,
    publisher: &SecretKey,
    serial: Serial,
    prefix: &str,
    validity: Validity,
) -> PublisherCertificate {
    let rights = vec![Right::Publish, Right::Operate];
    PublisherCertificate::issue(authority, serial, publisher.public(), prefix.into(), rights, validity)
}
