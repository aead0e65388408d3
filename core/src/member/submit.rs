//! Heads from outside: what was persisted before, and what a person submits.

use super::{Event, Member, Output, SubmitError, Use};
use crate::certificate::{self, AddressGrant, CLOCK_SKEW_MAX, Invalid, PublisherCertificate};
use crate::name::SiteName;
use crate::record::{Key, Record};
use crate::spread::{Fault, Rejection};
use crate::time::Time;
use crate::wire::{self, RECORD_LEN_MAX};

impl Member {
    /// Takes what earlier runs have persisted, and the own certificate.
    pub(super) fn load(&mut self, now: Time, mut persisted: Vec<Record>) {
        // Revocations and members first, since all else rests on them. A member before its sponsor
        // is kept back like one from a peer.
        persisted.sort_by_key(|record| (!matches!(record, Record::Revocation(_)), record.key()));
        for record in persisted {
            match record {
                Record::Member(_)
                | Record::Revocation(_)
                | Record::Site(_)
                | Record::Order(_)
                | Record::Address(_) => {
                    let _ = self.spread.offer_own(now, record);
                }
                Record::Roster(entry) if entry.verify().is_ok() => {
                    self.connections.moved(now, entry.by, entry.body.peer_addresses);
                }
                Record::Roster(_) | Record::Suspicion(_) | Record::Observations(_) | Record::Statement(_) => {
                }
            }
        }
        self.take_effects(now);
        // It is durable already.
        self.outputs.retain(|output| !matches!(output, Output::Persist(_)));
        let own = Record::Member(Box::new(self.config.certificate.clone()));
        if self.spread.offer_own(now, own).is_err() {
            let winner = match self.spread.set().get(&Key::Member(self.config.certificate.grant().serial)) {
                Some(held) => match &held.record {
                    Record::Member(certificate) => certificate.member(),
                    _ => self.id,
                },
                None => self.id,
            };
            if winner != self.id {
                self.note(Event::DoubleRedemption { loser: self.id, winner });
            }
        }
    }

    pub(super) fn submit(&mut self, now: Time, record: Record) {
        let key = record.key();
        let result = self.try_submit(now, record);
        // What it changed, first of all that it is durable, comes before the answer.
        self.take_effects(now);
        self.outputs.push_back(Output::Submitted { key, result });
    }

    fn try_submit(&mut self, now: Time, record: Record) -> Result<(), SubmitError> {
        let len = wire::encode(&record).len();
        if len > RECORD_LEN_MAX {
            return Err(SubmitError::TooLarge { len, max: RECORD_LEN_MAX });
        }
        let held = self.spread.set().get(&record.key()).map(|held| &held.record);
        if held == Some(&record) {
            return Ok(());
        }
        match (&record, held) {
            (Record::Site(version), held) => {
                self.check_signer(now, &version.publisher, version.published_at)?;
                self.check_free(&version.site)?;
                if let Some(Record::Site(current)) = held {
                    if version.number < current.number {
                        return Err(SubmitError::LowerVersion { current: current.number });
                    }
                    // First come, first served at one member; the rank only decides between members.
                    if version.number == current.number {
                        return Err(SubmitError::Conflict { number: current.number });
                    }
                }
            }
            (Record::Order(order), _) => self.check_signer(now, &order.operator, order.ordered_at)?,
            (Record::Address(grant), _) => self.check_home(grant)?,
            (Record::Member(_) | Record::Revocation(_), _) => {}
            (
                Record::Roster(_) | Record::Suspicion(_) | Record::Observations(_) | Record::Statement(_),
                _,
            ) => {
                return Err(SubmitError::NotAHead);
            }
        }
        let submitted = match &record {
            Record::Site(version) => Some((version.site.clone(), version.number)),
            _ => None,
        };
        self.spread.offer_own(now, record).map_err(|rejection| match rejection {
            Rejection::Standing(_) | Rejection::Stale => SubmitError::Outdated,
            Rejection::TooLong(len) => SubmitError::TooLarge { len, max: RECORD_LEN_MAX },
            Rejection::Full => SubmitError::Full,
            Rejection::Fault(Fault::Unknown) => SubmitError::NotAllowed(Invalid::Sponsor),
            Rejection::Fault(Fault::Bounds) => {
                SubmitError::NotAllowed(Invalid::Malformed("a value out of its bounds".into()))
            }
            Rejection::Fault(Fault::Invalid(invalid)) => SubmitError::NotAllowed(invalid),
        })?;
        self.submitted.extend(submitted);
        Ok(())
    }

    /// Whether no home address has this name. Where one was granted and a site published at the same
    /// time elsewhere, the home address has it: the authority's word counts for more.
    fn check_free(&self, site: &SiteName) -> Result<(), SubmitError> {
        match self.spread.set().get(&Key::Address(site.clone())).map(|held| &held.record) {
            Some(Record::Address(grant)) if grant.home.is_some() => {
                Err(SubmitError::NameTaken { name: site.clone(), what: Use::HomeAddress })
            }
            _ => Ok(()),
        }
    }

    /// Whether neither name nor addresses of a new grant are in use.
    fn check_home(&self, grant: &AddressGrant) -> Result<(), SubmitError> {
        let Some(home) = &grant.home else { return Ok(()) };
        if self.spread.set().get(&Key::Site(grant.name.clone())).is_some() {
            return Err(SubmitError::NameTaken { name: grant.name.clone(), what: Use::Site });
        }
        for (name, other) in certificate::standing(self.view().address_grants()) {
            let common = home.addresses().find(|address| other.addresses().any(|theirs| theirs == *address));
            if let Some(address) = common.filter(|_| *name != grant.name) {
                return Err(SubmitError::AddressTaken { address, name: name.clone() });
            }
        }
        Ok(())
    }

    /// Asks more of a new submission than of a record that spreads: the certificate must hold now,
    /// and the signer's clock may not run ahead (an order from the future would keep all others
    /// out until then).
    fn check_signer(
        &self,
        now: Time,
        certificate: &PublisherCertificate,
        signed_at: Time,
    ) -> Result<(), SubmitError> {
        certificate.validity.check(now).map_err(SubmitError::NotAllowed)?;
        if signed_at > now + CLOCK_SKEW_MAX {
            return Err(SubmitError::NotAllowed(Invalid::NotYet(signed_at)));
        }
        match self.spread.set().get(&Key::Revocation(certificate.serial)) {
            Some(_) => Err(SubmitError::NotAllowed(Invalid::Revoked)),
            None => Ok(()),
        }
    }
}
