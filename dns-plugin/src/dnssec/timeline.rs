//! Which keys do what from when to when.
//!
//! All times are known when the keys are read, so the whole future is computed then: a list of
//! stretches, each with the keys that sign and the records that tell of them. A query looks up its
//! stretch; nothing is switched, by nobody, and no query can see half of a change.

use super::key::{PublicKey, SigningKey};
use super::lifecycle::{Phase, Role, Times};
use godwit_core::time::Time;
use hickory_server::proto::rr::rdata::NULL;
use hickory_server::proto::rr::{RData, RecordType};
use std::sync::Arc;

/// A key with what it is for, and when.
#[derive(Clone, Debug)]
pub struct ZoneKey {
    /// The key.
    pub key: Arc<SigningKey>,
    /// What it signs.
    pub role: Role,
    /// When.
    pub times: Times,
}

impl ZoneKey {
    /// As its DNSKEY record shows it.
    pub fn public(&self) -> PublicKey {
        self.key.public(self.role.flags())
    }
}

/// Why keys cannot sign a zone.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("from {} on no {missing} would be active, and the zone would be bogus for everybody who validates", super::date::Date(*.at))]
pub struct Gap {
    /// From when.
    pub at: Time,
    /// What is missing: `ksk or csk`, `zsk or csk`.
    pub missing: &'static str,
}

/// A key that signs, ready for use.
#[derive(Clone, Debug)]
pub(super) struct Active {
    pub(super) key: Arc<SigningKey>,
    pub(super) tag: u16,
    pub(super) fingerprint: [u8; 8],
}

/// The keys of a stretch of time.
#[derive(Clone, Debug)]
pub(super) struct KeySet {
    pub(super) from: Time,
    /// Sign DNSKEY, CDS and CDNSKEY.
    pub(super) entry: Vec<Active>,
    /// Sign everything else.
    pub(super) zone: Vec<Active>,
    pub(super) dnskey: Vec<RData>,
    pub(super) cds: Vec<RData>,
    pub(super) cdnskey: Vec<RData>,
}

impl KeySet {
    /// The records of type `kind` that tell of the keys; `None` for other types.
    pub(super) fn records(&self, kind: RecordType) -> Option<&[RData]> {
        match kind {
            RecordType::DNSKEY => Some(&self.dnskey),
            RecordType::CDS => Some(&self.cds),
            RecordType::CDNSKEY => Some(&self.cdnskey),
            _ => None,
        }
    }
}

/// All stretches from a time on.
#[derive(Clone, Debug)]
pub(super) struct Timeline {
    stretches: Vec<KeySet>,
}

impl Timeline {
    /// From `now` on, for the zone `zone` in canonical wire form. Fails when at any time nobody would
    /// sign, unless that is what was ordered: the last keys end after the parent was asked to take the
    /// DS records away.
    pub(super) fn new(now: Time, zone: &[u8], keys: &[ZoneKey]) -> Result<Timeline, Gap> {
        let mut changes: Vec<Time> =
            keys.iter().flat_map(|key| key.times.changes()).filter(|at| *at > now).collect();
        changes.push(now);
        changes.sort_unstable();
        changes.dedup();
        let stretches = changes.into_iter().map(|at| stretch(at, zone, keys)).collect::<Result<_, _>>()?;
        Ok(Timeline { stretches })
    }

    /// The keys at `now`, and until when it is these. A time before the first is taken for it.
    pub(super) fn at(&self, now: Time) -> (&KeySet, Time) {
        let after = self.stretches.partition_point(|stretch| stretch.from <= now).max(1);
        let until = self.stretches.get(after).map_or(Time::NEVER, |next| next.from);
        (&self.stretches[after - 1], until)
    }
}

fn stretch(at: Time, zone: &[u8], keys: &[ZoneKey]) -> Result<KeySet, Gap> {
    let phase = |key: &&ZoneKey| key.times.phase(at);
    let shown = |key: &&ZoneKey| matches!(phase(key), Phase::Published | Phase::Active | Phase::Retired);
    let active = |wanted: fn(Role) -> bool| -> Vec<Active> {
        let signs = keys.iter().filter(|key| wanted(key.role) && phase(key) == Phase::Active);
        let ready = |key: &ZoneKey| {
            let public = key.public();
            Active { key: key.key.clone(), tag: public.tag(), fingerprint: public.fingerprint() }
        };
        signs.map(ready).collect()
    };
    let (cds, cdnskey) = told_to_the_parent(at, zone, keys);
    let set = KeySet {
        from: at,
        entry: active(Role::is_entry),
        zone: active(Role::signs_zone),
        dnskey: keys.iter().filter(shown).map(|key| raw(RecordType::DNSKEY, key.public().dnskey())).collect(),
        cds,
        cdnskey,
    };
    if set.dnskey.is_empty() && ended_on_purpose(keys) {
        return Ok(set);
    }
    if set.entry.is_empty() {
        return Err(Gap { at, missing: "ksk or csk" });
    }
    if set.zone.is_empty() {
        return Err(Gap { at, missing: "zsk or csk" });
    }
    Ok(set)
}

/// Whether the keys that end last end because the zone is to be unsigned.
fn ended_on_purpose(keys: &[ZoneKey]) -> bool {
    let last = keys.iter().map(|key| key.times.removed).max().flatten();
    keys.iter().any(|key| key.times.removed == last && key.times.ds_delete.is_some())
}

/// The CDS and the CDNSKEY records: to which keys the parent is asked to point.
fn told_to_the_parent(at: Time, zone: &[u8], keys: &[ZoneKey]) -> (Vec<RData>, Vec<RData>) {
    if keys.iter().any(|key| key.times.wants_no_ds(at)) {
        // RFC 8078, 4: algorithm 0, and nothing beside it. The digest and the key are one octet each,
        // which is what presentation forms can tell (erratum 5049).
        let cds = raw(RecordType::CDS, vec![0, 0, 0, 0, 0]);
        return (vec![cds], vec![raw(RecordType::CDNSKEY, vec![0, 0, 3, 0, 0])]);
    }
    let asked =
        || keys.iter().filter(|key| key.role.is_entry() && key.times.wants_ds(at)).map(ZoneKey::public);
    let cds = asked().map(|key| raw(RecordType::CDS, key.ds(zone))).collect();
    (cds, asked().map(|key| raw(RecordType::CDNSKEY, key.dnskey())).collect())
}

/// A record of a type that the library has no form for here.
pub(super) fn raw(kind: RecordType, data: Vec<u8>) -> RData {
    RData::Unknown { code: kind, rdata: NULL::with(data) }
}

#[cfg(test)]
mod tests {
    use super::super::key::Algorithm;
    use super::*;

    fn key(role: Role, times: Times) -> ZoneKey {
        ZoneKey { key: Arc::new(SigningKey::generate(Algorithm::EcdsaP256).unwrap()), role, times }
    }

    #[test]
    fn the_future_is_known() {
        let at = Time::from_secs;
        let mut old = key(Role::Csk, Times::first(at(1), Role::Csk));
        old.times.retired = Some(at(300));
        old.times.removed = Some(at(400));
        let new = key(Role::Csk, Times { ds_from: Some(at(250)), ..Times::first(at(200), Role::Csk) });
        let line = Timeline::new(at(100), b"\0", &[old.clone(), new]).unwrap();
        let counts = |now| {
            let (set, until) = line.at(at(now));
            (set.zone.len(), set.dnskey.len(), set.cds.len(), until.as_secs())
        };
        assert_eq!(counts(50), (1, 1, 1, 200));
        assert_eq!(counts(199), (1, 1, 1, 200));
        assert_eq!(counts(200), (2, 2, 1, 250));
        assert_eq!(counts(250), (2, 2, 2, 300));
        assert_eq!(counts(300), (1, 2, 1, 400));
        assert_eq!(counts(400), (1, 1, 1, Time::NEVER.as_secs()));
        let gap = Timeline::new(at(100), b"\0", &[old]).unwrap_err();
        assert_eq!(gap, Gap { at: at(300), missing: "ksk or csk" });
        assert!(gap.to_string().contains("1970-01-01T00:05:00Z"), "{gap}");
    }

    #[test]
    fn rfc8078_4_delete_is_alone_and_the_end_is_no_gap() {
        let at = Time::from_secs;
        let data = |records: &[RData]| -> Vec<Vec<u8>> {
            let octets = |data: &RData| match data {
                RData::Unknown { rdata, .. } => rdata.anything.to_vec(),
                other => panic!("{other:?}"),
            };
            records.iter().map(octets).collect()
        };
        let mut last = key(Role::Csk, Times::first(at(1), Role::Csk));
        last.times.ds_delete = Some(at(200));
        (last.times.retired, last.times.removed) = (Some(at(300)), Some(at(300)));
        let line = Timeline::new(at(100), b"\0", std::slice::from_ref(&last)).unwrap();
        assert_eq!(data(&line.at(at(199)).0.cdnskey), [last.public().dnskey()]);
        assert_eq!(data(&line.at(at(200)).0.cds), [[0, 0, 0, 0, 0]]);
        assert_eq!(data(&line.at(at(200)).0.cdnskey), [[0, 0, 3, 0, 0]]);
        let end = line.at(at(300)).0;
        assert!(end.dnskey.is_empty() && end.zone.is_empty() && end.cds.is_empty() && end.cdnskey.is_empty());
        // One that ends later without that order ends by mistake.
        let mut later = key(Role::Csk, Times::first(at(1), Role::Csk));
        (later.times.retired, later.times.removed) = (Some(at(400)), Some(at(400)));
        assert_eq!(Timeline::new(at(100), b"\0", &[last, later]).unwrap_err().at, at(400));
    }

    #[test]
    fn a_split_zone_needs_both_keys() {
        let at = Time::from_secs;
        let ksk = key(Role::Ksk, Times::first(at(1), Role::Ksk));
        let zsk = key(Role::Zsk, Times::first(at(1), Role::Zsk));
        assert_eq!(
            Timeline::new(at(1), b"\0", std::slice::from_ref(&ksk)).unwrap_err().missing,
            "zsk or csk"
        );
        let line = Timeline::new(at(1), b"\0", &[ksk.clone(), zsk.clone()]).unwrap();
        let (set, _) = line.at(at(2));
        assert_eq!(set.entry.iter().map(|key| key.tag).collect::<Vec<_>>(), [ksk.public().tag()]);
        assert_eq!(set.zone.iter().map(|key| key.tag).collect::<Vec<_>>(), [zsk.public().tag()]);
        assert_eq!((set.dnskey.len(), set.cds.len(), set.cdnskey.len()), (2, 1, 1));
    }
}
