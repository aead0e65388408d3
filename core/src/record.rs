//! Records: the heads and the soft state that members hold in common.
//!
//! Every record is signed by whom it speaks for, has a [`Key`] (the register it belongs to) and a
//! [`Rank`] (its place in that register). A member keeps the highest-ranked valid record of each
//! key and nothing else; because the ranking is total and does not depend on who tells, members
//! that have heard the same records hold the same set, whatever the order in which they came.
//!
//! *Heads* are kept for ever and survive restarts. *Soft state* carries a lifetime and is
//! forgotten when it is not refreshed; its key keeps a floor, so that a forgotten record cannot
//! come back by way of someone who forgot later.

use crate::certificate::{AddressGrant, MemberCertificate, Order, Revocation, Serial};
use crate::content::{SiteVersion, VersionNumber};
use crate::health::{Check, Verdict};
use crate::key::{BadSignature, Domain, MemberId, PublicKey, SecretKey, Signature};
use crate::name::SiteName;
use crate::observation::ClientRtt;
use crate::time::Time;
use crate::wire;
use serde::{Deserialize, Serialize};
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

/// At most this many sites are told as held in one roster entry.
pub const HELD_MAX: usize = 512;
/// At most this many peers' RTTs stand in one roster entry.
pub const PEER_RTTS_MAX: usize = 256;
/// At most this many client prefixes stand in one [`Observations`]: about 11 KiB, or 22 KiB when all
/// are IPv6. Small places are told of last, so more of them profit from a longer list.
pub const OBSERVATIONS_MAX: usize = 1024;
/// Kinds of [`Statement`] are below this: what one member may make another hold is bounded.
pub const STATEMENT_KINDS_MAX: u16 = 16;
/// At most this many addresses stand in one roster entry.
pub const ADDRESSES_MAX: usize = 16;

/// The register that a record belongs to.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Key {
    /// Who redeemed the token with this serial.
    Member(Serial),
    /// Whether this serial was revoked.
    Revocation(Serial),
    /// The current version of a site.
    Site(SiteName),
    /// The newest order for a member.
    Order(Serial),
    /// What a member says of itself.
    Roster(MemberId),
    /// What one member (`by`) says of the health of another.
    Suspicion {
        /// Who says it.
        by: MemberId,
        /// Of whom.
        of: MemberId,
    },
    /// The client RTTs that a member has seen.
    Observations(MemberId),
    /// What a member says of some other kind.
    Statement {
        /// Who says it.
        by: MemberId,
        /// Of which kind; see [`Statement`].
        kind: u16,
    },
    /// What is granted to the name of a home address.
    Address(SiteName),
}

/// The place of a record in its register: the higher one wins.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Rank {
    /// Counts first: incarnation, version number or time.
    pub epoch: u64,
    /// Counts within the epoch.
    pub sequence: u64,
    /// Decides between records that claim the same place: the hash of the record.
    pub tie: [u8; 8],
}

/// One record.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Record {
    /// Head: a member.
    Member(Box<MemberCertificate>),
    /// Head: something taken back.
    Revocation(Revocation),
    /// Head: the current version of a site.
    Site(Box<SiteVersion>),
    /// Head: the newest order for a member.
    Order(Box<Order>),
    /// Soft state: a member's own entry.
    Roster(Box<Signed<RosterEntry>>),
    /// Soft state: doubt about a member.
    Suspicion(Signed<Suspicion>),
    /// Soft state: client RTTs.
    Observations(Box<Signed<Observations>>),
    /// Soft state of any other kind.
    Statement(Box<Signed<Statement>>),
    /// Head: the newest grant of a home address.
    Address(Box<AddressGrant>),
}

/// Soft state with the signature of the member it is from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Signed<T> {
    /// What is said.
    pub body: T,
    /// Who says it.
    pub by: MemberId,
    /// Of `body` as [`Domain::SoftState`].
    pub signature: Signature,
}

/// A kind of soft state. The kind is signed with the body, so that no kind passes for another.
pub trait SoftState: Serialize {
    /// The kind's number.
    const KIND: u8;
}

impl SoftState for RosterEntry {
    const KIND: u8 = 1;
}

impl SoftState for Suspicion {
    const KIND: u8 = 2;
}

impl SoftState for Observations {
    const KIND: u8 = 3;
}

impl SoftState for Statement {
    const KIND: u8 = 4;
}

impl<T: SoftState> Signed<T> {
    /// Signs `body` with the member's key.
    pub fn new(key: &SecretKey, body: T) -> Signed<T> {
        let signature = key.sign(Domain::SoftState, &Self::message(&body));
        Signed { body, by: key.public(), signature }
    }

    /// Checks the signature.
    pub fn verify(&self) -> Result<(), BadSignature> {
        self.by.verify(Domain::SoftState, &Self::message(&self.body), &self.signature)
    }

    fn message(body: &T) -> Vec<u8> {
        wire::encode(&(T::KIND, body))
    }
}

/// What a member says of itself.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RosterEntry {
    /// Which grant makes it a member.
    pub serial: Serial,
    /// Counts the member's starts: persisted, and grows with each.
    pub incarnation: u64,
    /// Grows with each entry within an incarnation.
    pub sequence: u64,
    /// How long the entry holds after it was heard, at most 5 minutes.
    pub lifetime: Duration,
    /// When it was signed, by the member's clock; for people, not for deciding.
    pub signed_at: Time,
    /// Where peers reach it, at most [`ADDRESSES_MAX`].
    pub peer_addresses: Vec<SocketAddr>,
    /// Where clients reach it over IPv4, if they do.
    pub public_v4: Option<Ipv4Addr>,
    /// Where clients reach it over IPv6, if they do.
    pub public_v6: Option<Ipv6Addr>,
    /// Where it serves HTTP, if it does.
    pub http_port: Option<u16>,
    /// Whether it can serve: started, its disk writable, not shutting down.
    pub ready: bool,
    /// How busy it is, thousandths of its capacity.
    pub load_permille: u16,
    /// The version of each site that it holds whole and durable, sorted, at most [`HELD_MAX`].
    pub held: Vec<(SiteName, VersionNumber)>,
    /// Round-trip time to peers, microseconds, sorted by peer, at most [`PEER_RTTS_MAX`].
    pub peer_rtts: Vec<(MemberId, u32)>,
    /// The software's version.
    pub software: String,
    /// How its services are to be checked, sorted by name, at most
    /// [`crate::health::CHECKS_MAX`].
    pub checks: Vec<Check>,
    /// What it finds of others' services, sorted by target and check, at most
    /// [`crate::health::VERDICTS_MAX`].
    pub verdicts: Vec<Verdict>,
}

/// One member's doubt about another.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Suspicion {
    /// Who is doubted.
    pub of: MemberId,
    /// The incarnation and sequence of the newest entry that `by` had of it.
    pub incarnation: u64,
    /// Whether `by` cannot reach it (`true`) or reaches it again.
    pub unreachable: bool,
    /// Grows with each change of mind; starts from the wall clock in milliseconds.
    pub sequence: u64,
    /// How long it holds after it was heard.
    pub lifetime: Duration,
}

/// Round-trip times to clients as a member has measured them on the connections it served.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Observations {
    /// The member's incarnation.
    pub incarnation: u64,
    /// Grows with each.
    pub sequence: u64,
    /// How long it holds after it was heard.
    pub lifetime: Duration,
    /// Sorted by prefix, each once, at most [`OBSERVATIONS_MAX`].
    pub rtts: Vec<ClientRtt>,
}

/// Soft state whose contents only those look into who know its kind. All others hold it and hand it
/// on, so that a new kind needs no new wire form and spreads through members that are older than it.
///
/// | kind | what | where |
/// |---|---|---|
/// | 1 | what clients ask of a member, and its capacity | [`crate::demand`] |
/// | 4 | values for certificate authorities | [`crate::challenge`] |
/// | 5 | resolvers that a redirector wants measured | [`crate::resolver`] |
/// | 6 | how far a node found resolvers to be | [`crate::resolver`] |
/// | 7 | digests of the settings that a redirector decides by | [`crate::agreement`] |
/// | 8 | the home addresses that a home agent announces | [`crate::announce`] |
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Statement {
    /// The kind, below [`STATEMENT_KINDS_MAX`].
    pub kind: u16,
    /// The member's incarnation.
    pub incarnation: u64,
    /// Grows with each of the kind.
    pub sequence: u64,
    /// How long it holds after it was heard.
    pub lifetime: Duration,
    /// What is said, in the form of its kind.
    pub body: Vec<u8>,
}

impl Record {
    /// The register it belongs to.
    pub fn key(&self) -> Key {
        match self {
            Record::Member(certificate) => Key::Member(certificate.grant().serial),
            Record::Revocation(revocation) => Key::Revocation(revocation.serial),
            Record::Site(version) => Key::Site(version.site.clone()),
            Record::Order(order) => Key::Order(order.member),
            Record::Roster(entry) => Key::Roster(entry.by),
            Record::Suspicion(suspicion) => Key::Suspicion { by: suspicion.by, of: suspicion.body.of },
            Record::Observations(observations) => Key::Observations(observations.by),
            Record::Statement(statement) => Key::Statement { by: statement.by, kind: statement.body.kind },
            Record::Address(grant) => Key::Address(grant.name.clone()),
        }
    }

    /// Its place there.
    pub fn rank(&self) -> Rank {
        self.rank_of(&wire::encode(self))
    }

    /// Its place there, for a caller that has its canonical bytes at hand.
    pub fn rank_of(&self, encoded: &[u8]) -> Rank {
        let (epoch, sequence) = match self {
            // The earlier sponsorship wins.
            Record::Member(certificate) => (u64::MAX - certificate.sponsored_at.as_millis(), 0),
            // One revocation is as good as another: the earliest is kept.
            Record::Revocation(revocation) => (u64::MAX - revocation.revoked_at.as_millis(), 0),
            Record::Site(version) => (version.number.0, 0),
            Record::Order(order) => (order.ordered_at.as_millis(), 0),
            Record::Roster(entry) => (entry.body.incarnation, entry.body.sequence),
            Record::Suspicion(suspicion) => (suspicion.body.sequence, 0),
            Record::Observations(observations) => (observations.body.incarnation, observations.body.sequence),
            Record::Statement(statement) => (statement.body.incarnation, statement.body.sequence),
            Record::Address(grant) => (grant.sequence, 0),
        };
        let hash = blake3::hash(encoded);
        let mut tie = [0; 8];
        tie.copy_from_slice(&hash.as_bytes()[..8]);
        Rank { epoch, sequence, tie }
    }

    /// How long it holds after it was heard; `None` for heads, which hold for ever.
    pub fn lifetime(&self) -> Option<Duration> {
        match self {
            Record::Member(_)
            | Record::Revocation(_)
            | Record::Site(_)
            | Record::Order(_)
            | Record::Address(_) => None,
            Record::Roster(entry) => Some(entry.body.lifetime),
            Record::Suspicion(suspicion) => Some(suspicion.body.lifetime),
            Record::Observations(observations) => Some(observations.body.lifetime),
            Record::Statement(statement) => Some(statement.body.lifetime),
        }
    }

    /// The member that soft state is from; `None` for heads.
    pub fn by(&self) -> Option<MemberId> {
        match self {
            Record::Member(_)
            | Record::Revocation(_)
            | Record::Site(_)
            | Record::Order(_)
            | Record::Address(_) => None,
            Record::Roster(entry) => Some(entry.by),
            Record::Suspicion(suspicion) => Some(suspicion.by),
            Record::Observations(observations) => Some(observations.by),
            Record::Statement(statement) => Some(statement.by),
        }
    }

    /// The publisher or operator key that signed a head under a certificate with this serial.
    pub fn signer(&self) -> Option<(PublicKey, Serial)> {
        match self {
            Record::Site(version) => Some((version.publisher.publisher, version.publisher.serial)),
            Record::Order(order) => Some((order.operator.publisher, order.operator.serial)),
            _ => None,
        }
    }
}
