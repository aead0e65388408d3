//! Site versions: the signed head of a site.

use super::ObjectId;
use crate::certificate::{Invalid, PublisherCertificate};
use crate::key::{Domain, NetworkId, SecretKey, Signature};
use crate::name::SiteName;
use crate::time::Time;
use crate::wire;
use serde::{Deserialize, Serialize};
use std::fmt;

/// Number of a version of a site: 1, 2, 3, …; a rollback is a new, higher number.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct VersionNumber(pub u64);

impl VersionNumber {
    /// The number after this one.
    pub fn next(self) -> VersionNumber {
        VersionNumber(self.0.saturating_add(1))
    }
}

impl fmt::Display for VersionNumber {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}

/// How many nodes keep a site.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Replicas {
    /// Every node.
    All,
    /// So many nodes, in distinct regions first.
    Count(u16),
}

/// How a site wants to be kept.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Policy {
    /// How many nodes keep it.
    pub replicas: Replicas,
}

/// A site that says nothing is kept by every node.
impl Default for Policy {
    fn default() -> Policy {
        Policy { replicas: Replicas::All }
    }
}

/// *This tree is version N of this site*, signed by a publisher.
///
/// Merge law: of two versions of a site the higher number wins; of two with one number, the one
/// with the higher hash. So every member comes to the same winner, whatever the order of arrival,
/// and a publisher whose version lost to another of its number can be told.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct SiteVersion {
    /// The site.
    pub site: SiteName,
    /// The number of this version.
    pub number: VersionNumber,
    /// The root block of its tree.
    pub root: ObjectId,
    /// How many files it has.
    pub files: u64,
    /// How many bytes its files have.
    pub bytes: u64,
    /// How it wants to be kept.
    pub policy: Policy,
    /// When it was signed, by the publisher's clock.
    pub published_at: Time,
    /// Why the publisher may.
    pub publisher: PublisherCertificate,
    /// The publisher's signature of all above.
    pub signature: Signature,
}

/// What a publisher signs.
#[derive(Clone, Debug, Serialize)]
pub struct Draft {
    /// The site.
    pub site: SiteName,
    /// The number of this version.
    pub number: VersionNumber,
    /// The root block of its tree.
    pub root: ObjectId,
    /// How many files it has.
    pub files: u64,
    /// How many bytes its files have.
    pub bytes: u64,
    /// How it wants to be kept.
    pub policy: Policy,
}

impl SiteVersion {
    /// Signs `draft` with the key of `publisher`.
    pub fn issue(now: Time, key: &SecretKey, publisher: PublisherCertificate, draft: Draft) -> SiteVersion {
        let signature = key.sign(Domain::SiteVersion, &wire::encode(&(&draft, now, &publisher)));
        let Draft { site, number, root, files, bytes, policy } = draft;
        SiteVersion { site, number, root, files, bytes, policy, published_at: now, publisher, signature }
    }

    /// Checks the publisher's certificate (signature, network, prefix) and signature. Whether the
    /// certificate was valid at the time and is not revoked is for the caller to judge.
    pub fn verify(&self, network: NetworkId) -> Result<(), Invalid> {
        self.publisher.verify(network)?;
        self.publisher.may_publish(&self.site)?;
        let draft = Draft {
            site: self.site.clone(),
            number: self.number,
            root: self.root,
            files: self.files,
            bytes: self.bytes,
            policy: self.policy.clone(),
        };
        let body = wire::encode(&(&draft, self.published_at, &self.publisher));
        Ok(self.publisher.publisher.verify(Domain::SiteVersion, &body, &self.signature)?)
    }

    /// The hash of the whole signed version: what tells two versions of one number apart.
    pub fn hash(&self) -> ObjectId {
        ObjectId::of(&wire::encode(self))
    }
}
