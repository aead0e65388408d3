//! Which certificates each member key has, and whether one of them makes it a member now.
//!
//! A key may redeem several tokens in the course of time (its membership is renewed); the record
//! set is keyed by serial, so this is the index the other way round.

use super::set::RecordSet;
use crate::certificate::{Invalid, MemberCertificate, Serial};
use crate::key::MemberId;
use crate::record::{Key, Record};
use crate::time::Time;
use std::collections::{BTreeMap, BTreeSet};

/// Whether a key is a member.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Membership {
    /// It is.
    Valid,
    /// No certificate of it is known.
    Unknown,
    /// All its certificates were taken back.
    Revoked,
    /// It was or will be.
    NotNow(Invalid),
}

#[derive(Debug, Default)]
pub(crate) struct Directory {
    serials: BTreeMap<MemberId, BTreeSet<Serial>>,
}

impl Directory {
    /// Takes note that the set got a record of this member, in place of `previous` if given.
    pub(crate) fn add(&mut self, certificate: &MemberCertificate) {
        self.serials.entry(certificate.member()).or_default().insert(certificate.grant().serial);
    }

    /// Takes note that the set lost this certificate.
    pub(crate) fn remove(&mut self, certificate: &MemberCertificate) {
        if let Some(serials) = self.serials.get_mut(&certificate.member()) {
            serials.remove(&certificate.grant().serial);
            if serials.is_empty() {
                self.serials.remove(&certificate.member());
            }
        }
    }

    /// All keys with a certificate, in order.
    pub(crate) fn members(&self) -> impl Iterator<Item = MemberId> {
        self.serials.keys().copied()
    }

    /// How many keys have a certificate.
    pub(crate) fn len(&self) -> usize {
        self.serials.len()
    }

    /// The certificates of a key, those with the highest serial first.
    pub(crate) fn certificates<'a>(
        &'a self,
        set: &'a RecordSet,
        member: MemberId,
    ) -> impl Iterator<Item = &'a MemberCertificate> {
        let serials = self.serials.get(&member).into_iter().flatten().rev();
        serials.filter_map(|serial| match set.get(&Key::Member(*serial)).map(|held| &held.record) {
            Some(Record::Member(certificate)) => Some(&**certificate),
            _ => None,
        })
    }

    /// Whether the key is a member, and the certificate that says so (or comes closest).
    pub(crate) fn standing<'a>(
        &'a self,
        now: Time,
        set: &'a RecordSet,
        member: MemberId,
    ) -> (Membership, Option<&'a MemberCertificate>) {
        let (mut membership, mut closest) = (Membership::Unknown, None);
        for certificate in self.certificates(set, member) {
            if set.get(&Key::Revocation(certificate.grant().serial)).is_some() {
                if closest.is_none() {
                    (membership, closest) = (Membership::Revoked, Some(certificate));
                }
                continue;
            }
            match certificate.grant().validity.check(now) {
                Ok(()) => return (Membership::Valid, Some(certificate)),
                Err(invalid) if !matches!(membership, Membership::NotNow(_)) => {
                    (membership, closest) = (Membership::NotNow(invalid), Some(certificate));
                }
                Err(_) => {}
            }
        }
        (membership, closest)
    }

    /// Whether the key is a member.
    pub(crate) fn membership(&self, now: Time, set: &RecordSet, member: MemberId) -> Membership {
        self.standing(now, set, member).0
    }
}
