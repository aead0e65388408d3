//! Admission: what two members exchange before anything else is spoken.
//!
//! Inside the transport, after the peer has proved its key and before any protocol sees it, the
//! dialler says [`Hello`], the listener judges it with [`Admission`] and answers with its own
//! [`Hello`] or a [`Refusal`]; the dialler judges that and confirms or refuses. A stranger hears a
//! refusal and nothing else: the listener shows its certificate only to members.
//!
//! A member that was revoked is shown the authority's own statement instead of a mere refusal. Its
//! connections are cut by the very news that it would have had to hear over them, so nobody else
//! tells it; and it need not believe who refuses it, since it can verify the statement.

use crate::certificate::{Invalid, MemberCertificate, Redemption, Revocation, Serial};
use crate::key::{MemberId, NetworkId, SecretKey};
use crate::time::Time;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// The longest hello or answer, bytes.
pub const HELLO_LEN_MAX: usize = 8 * 1024;

/// What a dialler says first and a listener answers with.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Hello {
    /// *I am this member.*
    Member {
        /// Why.
        certificate: Box<MemberCertificate>,
        /// Grows with each start and each change of address of the sender: connections of a lower
        /// epoch from the same peer are dead.
        epoch: u64,
    },
    /// *I redeem this token: please sponsor me.* Only a dialler says this.
    Join {
        /// The token tied to the dialler's key.
        redemption: Box<Redemption>,
    },
}

/// What a listener answers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Answer {
    /// To a member: here is my own hello.
    Welcome(Box<Hello>),
    /// To a joiner: you are a member; come again with this certificate.
    Sponsored(Box<MemberCertificate>),
    /// To either: no.
    Refused(Refusal),
    /// To a former member: no, and this is why.
    Revoked(Box<Revocation>),
}

/// What a dialler says last, having judged the listener.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Confirmation {
    /// The listener is a member.
    Admitted,
    /// It is not.
    Refused(Refusal),
    /// It is none any more, and this is why.
    Revoked(Box<Revocation>),
}

/// Why a peer is refused, as it is told. It tells a stranger no more than what is wrong with what
/// the stranger itself showed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
pub enum Refusal {
    /// The hello could not be read.
    #[error("the hello could not be read")]
    Malformed,
    /// Signed by another authority, edited, or for another key.
    #[error("the certificate or token is not valid in this network")]
    Invalid,
    /// Another network.
    #[error("the certificate or token belongs to another network")]
    Network,
    /// Its time has passed, or has not come.
    #[error("the certificate or token has expired")]
    Expired,
    /// Taken back.
    #[error("it was revoked")]
    Revoked,
    /// The token was redeemed before by another key.
    #[error("this join token was already used")]
    Used,
    /// The sponsor is not known here (yet).
    #[error("the sponsor of the certificate is not known here yet")]
    Sponsor,
    /// A connection of a later start of the same member lives.
    #[error("a connection of a later start of this member exists")]
    Stale,
    /// It cannot sponsor now.
    #[error("this member cannot sponsor now")]
    Unavailable,
}

impl From<&Invalid> for Refusal {
    fn from(invalid: &Invalid) -> Refusal {
        match invalid {
            Invalid::Signature | Invalid::Key | Invalid::Scope(_) => Refusal::Invalid,
            Invalid::Network(_) => Refusal::Network,
            Invalid::NotYet(_) | Invalid::Expired(_) => Refusal::Expired,
            Invalid::Revoked => Refusal::Revoked,
            Invalid::Used(_) => Refusal::Used,
            Invalid::Sponsor => Refusal::Sponsor,
            Invalid::Malformed(_) => Refusal::Malformed,
        }
    }
}

/// What a member knows that decides whom it admits. A snapshot: the shell replaces it as heads come.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Admission {
    /// The network; `None` never admits anybody.
    pub network: Option<NetworkId>,
    /// Who redeemed each token.
    pub members: BTreeMap<Serial, MemberId>,
    /// What was taken back, and by which statement.
    pub revoked: BTreeMap<Serial, Revocation>,
    /// Whether the member does not even know its own sponsor's certificate: a joiner that has only
    /// its own cannot know who sponsored its first peer, and takes the authority's signature for
    /// enough. It ends with the first exchange of records.
    pub fresh: bool,
}

impl Admission {
    /// Judges a certificate shown by `peer`, who has proved its key.
    pub fn admit(&self, now: Time, peer: MemberId, certificate: &MemberCertificate) -> Result<(), Invalid> {
        certificate.verify(self.network.ok_or(Invalid::Sponsor)?)?;
        if certificate.member() != peer {
            return Err(Invalid::Key);
        }
        self.check_serial(certificate.grant().serial, peer)?;
        certificate.grant().validity.check(now)?;
        let known = self.fresh
            || self.members.contains_key(&certificate.grant().serial)
            || self.members.values().any(|member| *member == certificate.sponsor)
            || certificate.sponsor == peer;
        known.then_some(()).ok_or(Invalid::Sponsor)
    }

    /// Judges again a certificate that was admitted before. Its signatures are not looked at anew:
    /// they do not change, and this is asked of every peer with every change. That its sponsor is
    /// not known (any more) is no reason to part.
    pub fn admits_still(
        &self,
        now: Time,
        peer: MemberId,
        certificate: &MemberCertificate,
    ) -> Result<(), Invalid> {
        if self.network != Some(certificate.grant().network) {
            return Err(Invalid::Network(certificate.grant().network));
        }
        self.check_serial(certificate.grant().serial, peer)?;
        certificate.grant().validity.check(now)
    }

    /// The authority's statement that takes this certificate back, if there is one.
    pub fn revocation(&self, certificate: &MemberCertificate) -> Option<&Revocation> {
        self.revoked.get(&certificate.grant().serial)
    }

    /// Judges a redemption shown by `peer` and countersigns it as `sponsor`.
    pub fn sponsor(
        &self,
        now: Time,
        peer: MemberId,
        redemption: Redemption,
        sponsor: &SecretKey,
    ) -> Result<MemberCertificate, Invalid> {
        redemption.verify(self.network.ok_or(Invalid::Sponsor)?)?;
        if redemption.member != peer {
            return Err(Invalid::Key);
        }
        self.check_serial(redemption.grant.serial, peer)?;
        redemption.grant.validity.check(now)?;
        if now > redemption.grant.redeem_by {
            return Err(Invalid::Expired(redemption.grant.redeem_by));
        }
        Ok(redemption.sponsor(now, sponsor))
    }

    fn check_serial(&self, serial: Serial, peer: MemberId) -> Result<(), Invalid> {
        if self.revoked.contains_key(&serial) {
            return Err(Invalid::Revoked);
        }
        match self.members.get(&serial) {
            Some(member) if *member != peer => Err(Invalid::Used(*member)),
            _ => Ok(()),
        }
    }
}
