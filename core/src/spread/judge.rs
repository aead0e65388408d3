//! Whether a record holds.
//!
//! Two halves. The *intrinsic* half looks at the record alone: bounds, signatures, network. It is
//! the dear one (up to three signatures) and is asked once, before a record enters the set. The
//! *contextual* half looks at what else is in the set: the sponsor, revocations, the standing of
//! the member that soft state is from. It is cheap and is asked again when the context changes.
//!
//! For heads the contextual half never looks at the clock, only at times that were signed. So it is
//! a function of the set of heads, and members that heard the same heads keep the same ones,
//! whatever their clocks say.
//!
//! A thief of a publisher's key can date a version back to before the revocation of its
//! certificate; no register without trusted time can tell. What the thief cannot do is to replace a
//! version that the owner, under a new certificate, publishes with a higher number.

use super::directory::{Directory, Membership};
use super::set::{LIFETIME_MAX, RecordSet};
use crate::certificate::{Invalid, MemberCertificate, PublisherCertificate, Serial};
use crate::health::{CHECKS_MAX, VERDICTS_MAX};
use crate::key::{MemberId, NetworkId};
use crate::record::{
    ADDRESSES_MAX, HELD_MAX, Key, OBSERVATIONS_MAX, PEER_RTTS_MAX, Record, STATEMENT_KINDS_MAX,
};
use crate::stats::Refused;
use crate::time::Time;
use std::time::Duration;

/// The longest text by which a member names its software.
const SOFTWARE_LEN_MAX: usize = 64;

/// Why a record does not hold.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Fault {
    /// Too long, unsorted, or absurd.
    Bounds,
    /// It rests on a member that is not known: it may hold later.
    Unknown,
    /// Signature, network, time, scope or revocation.
    Invalid(Invalid),
}

impl From<Invalid> for Fault {
    fn from(invalid: Invalid) -> Fault {
        Fault::Invalid(invalid)
    }
}

impl Fault {
    pub(crate) fn refused(&self) -> Refused {
        match self {
            Fault::Bounds => Refused::Bounds,
            Fault::Unknown => Refused::UnknownMember,
            Fault::Invalid(invalid) => match invalid {
                Invalid::Signature | Invalid::Key | Invalid::Malformed(_) | Invalid::Sponsor => {
                    Refused::Signature
                }
                Invalid::Network(_) => Refused::Network,
                Invalid::NotYet(_) | Invalid::Expired(_) => Refused::Expired,
                Invalid::Revoked | Invalid::Used(_) => Refused::Revoked,
                Invalid::Scope(_) => Refused::Scope,
            },
        }
    }
}

/// What can be said of the record alone.
pub(crate) fn intrinsic(network: NetworkId, record: &Record) -> Result<(), Fault> {
    match record {
        Record::Member(certificate) => {
            let grant = certificate.grant();
            ensure(grant.roles.len() <= 8 && sorted(grant.roles.iter()))?;
            certificate.verify(network)?;
        }
        Record::Revocation(revocation) => revocation.verify(network)?,
        Record::Site(version) => {
            ensure(version.number.0 > 0)?;
            version.verify(network)?;
        }
        Record::Order(order) => order.verify(network)?,
        Record::Roster(entry) => {
            let body = &entry.body;
            ensure(
                lifetime_holds(body.lifetime)
                    && body.peer_addresses.len() <= ADDRESSES_MAX
                    && body.held.len() <= HELD_MAX
                    && sorted(body.held.iter().map(|(site, _)| site))
                    && body.peer_rtts.len() <= PEER_RTTS_MAX
                    && sorted(body.peer_rtts.iter().map(|(peer, _)| peer))
                    && body.software.len() <= SOFTWARE_LEN_MAX
                    && body.checks.len() <= CHECKS_MAX
                    && sorted(body.checks.iter().map(|check| &check.name))
                    && body.checks.iter().all(|check| check.validate().is_ok())
                    && body.verdicts.len() <= VERDICTS_MAX
                    && sorted(body.verdicts.iter().map(|verdict| (&verdict.target, &verdict.check)))
                    // Nobody vouches for itself.
                    && body.verdicts.iter().all(|verdict| verdict.target != entry.by),
            )?;
            entry.verify().map_err(Invalid::from)?;
        }
        Record::Suspicion(suspicion) => {
            ensure(lifetime_holds(suspicion.body.lifetime) && suspicion.body.of != suspicion.by)?;
            suspicion.verify().map_err(Invalid::from)?;
        }
        Record::Observations(observations) => {
            let body = &observations.body;
            ensure(
                lifetime_holds(body.lifetime)
                    && body.rtts.len() <= OBSERVATIONS_MAX
                    && sorted(body.rtts.iter().map(|rtt| &rtt.prefix)),
            )?;
            observations.verify().map_err(Invalid::from)?;
        }
        Record::Statement(statement) => {
            let body = &statement.body;
            ensure(lifetime_holds(body.lifetime) && body.kind < STATEMENT_KINDS_MAX)?;
            statement.verify().map_err(Invalid::from)?;
        }
        Record::Address(grant) => grant.verify(network)?,
    }
    Ok(())
}

/// What else must be in the set, or must not be. `own` is never doubted by itself.
pub(crate) fn contextual(
    now: Time,
    own: MemberId,
    set: &RecordSet,
    directory: &Directory,
    record: &Record,
) -> Result<(), Fault> {
    match record {
        Record::Member(certificate) if certificate.member() == own => Ok(()),
        Record::Member(certificate) => sponsored(set, directory, certificate),
        // The authority's own word rests on nothing else.
        Record::Revocation(_) | Record::Address(_) => Ok(()),
        Record::Site(version) => empowered(set, &version.publisher, version.published_at),
        Record::Order(order) => empowered(set, &order.operator, order.ordered_at),
        Record::Roster(entry) => {
            member(now, set, directory, entry.by)?;
            let serial = entry.body.serial;
            match set.get(&Key::Member(serial)).map(|held| &held.record) {
                Some(Record::Member(certificate)) if certificate.member() == entry.by => Ok(()),
                Some(_) => Err(Invalid::Key.into()),
                None => Err(Fault::Unknown),
            }
        }
        Record::Suspicion(suspicion) => {
            member(now, set, directory, suspicion.by)?;
            match directory.membership(now, set, suspicion.body.of) {
                Membership::Unknown => Err(Fault::Unknown),
                Membership::Valid | Membership::Revoked | Membership::NotNow(_) => Ok(()),
            }
        }
        Record::Observations(observations) => member(now, set, directory, observations.by),
        Record::Statement(statement) => member(now, set, directory, statement.by),
    }
}

/// Whether the sponsor was a member when it sponsored. A founder sponsors itself.
fn sponsored(set: &RecordSet, directory: &Directory, certificate: &MemberCertificate) -> Result<(), Fault> {
    if certificate.sponsor == certificate.member() {
        return Ok(());
    }
    let mut fault = Fault::Unknown;
    for sponsor in directory.certificates(set, certificate.sponsor) {
        let revoked = revoked_before(set, sponsor.grant().serial, certificate.sponsored_at);
        match sponsor.grant().validity.check(certificate.sponsored_at) {
            Ok(()) if !revoked => return Ok(()),
            Ok(()) => fault = Invalid::Revoked.into(),
            Err(invalid) => fault = invalid.into(),
        }
    }
    Err(fault)
}

/// Whether what was signed under `certificate` at `at` holds.
fn empowered(set: &RecordSet, certificate: &PublisherCertificate, at: Time) -> Result<(), Fault> {
    certificate.validity.check(at)?;
    if revoked_before(set, certificate.serial, at) {
        return Err(Invalid::Revoked.into());
    }
    Ok(())
}

fn revoked_before(set: &RecordSet, serial: Serial, at: Time) -> bool {
    match set.get(&Key::Revocation(serial)).map(|held| &held.record) {
        Some(Record::Revocation(revocation)) => at > revocation.revoked_at,
        _ => false,
    }
}

fn member(now: Time, set: &RecordSet, directory: &Directory, member: MemberId) -> Result<(), Fault> {
    match directory.membership(now, set, member) {
        Membership::Valid => Ok(()),
        Membership::Unknown => Err(Fault::Unknown),
        Membership::Revoked => Err(Invalid::Revoked.into()),
        Membership::NotNow(invalid) => Err(invalid.into()),
    }
}

fn lifetime_holds(lifetime: Duration) -> bool {
    !lifetime.is_zero() && lifetime <= LIFETIME_MAX
}

fn sorted<T: Ord>(items: impl Iterator<Item = T>) -> bool {
    items.is_sorted_by(|a, b| a < b)
}

fn ensure(holds: bool) -> Result<(), Fault> {
    if holds { Ok(()) } else { Err(Fault::Bounds) }
}
