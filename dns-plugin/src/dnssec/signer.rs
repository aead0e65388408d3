//! From a reply to a signed reply.

use super::budget::{Asker, Budget, ColdLimits};
use super::cache::{Bounds, Signature, Signatures};
use super::canonical::{self, RrSet};
use super::denial::{self, NXNAME};
use super::key::KeyError;
use super::timeline::{Active, Gap, KeySet, Timeline, ZoneKey, raw};
use crate::answer::{Cache, Reply};
use godwit_core::time::Time;
use hickory_server::proto::op::ResponseCode;
use hickory_server::proto::rr::{Name, RData, Record, RecordType};
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// Signatures begin so long before they are made: for validators whose clocks are behind.
const BACKDATE: u64 = 3600;

/// How a zone is signed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Options {
    /// How long a signature is valid; up to an eighth less, so that not all end at once. It is
    /// replaced when a quarter is left. 7 days by default: an answer that leads somewhere wrong can
    /// be replayed for so long.
    pub validity: Duration,
    /// TTL of DNSKEY, CDS and CDNSKEY. 1 hour by default: rollovers wait for it.
    pub ttl: Duration,
    /// Signatures kept for names that exist, bytes. 64 MiB by default: some 180,000.
    pub cache_bytes: usize,
    /// Signatures kept for names that nobody set up, bytes. 8 MiB by default.
    pub spare_bytes: usize,
    /// Signatures made for names that nobody set up.
    pub cold: ColdLimits,
}

impl Default for Options {
    fn default() -> Options {
        Options {
            validity: Duration::from_secs(7 * 86_400),
            ttl: Duration::from_secs(3600),
            cache_bytes: 64 << 20,
            spare_bytes: 8 << 20,
            cold: ColdLimits::default(),
        }
    }
}

/// What a query says that matters to signing.
#[derive(Clone, Copy, Debug)]
pub struct Asked<'a> {
    /// QNAME in the case it was asked in.
    pub name: &'a Name,
    /// QTYPE.
    pub kind: RecordType,
    /// DO: signatures are wanted (RFC 3225).
    pub dnssec_ok: bool,
    /// CO: NXDOMAIN may be told as such in a compact denial (RFC 9824, 5.1).
    pub compact_ok: bool,
    /// Who asks.
    pub asker: Asker,
    /// Whether somebody set this name up. There are so many of these and no more; of others a
    /// wildcard makes any number, and so does whoever asks for names that do not exist.
    pub set_up: bool,
}

/// Why a reply is not signed. The reply is as it was.
#[derive(Debug, thiserror::Error)]
pub enum SignError {
    /// Too many new signatures for names that nobody set up. Over UDP a truncated reply is right,
    /// else SERVFAIL.
    #[error("too many new names a second")]
    Refused,
    /// A record that cannot be encoded.
    #[error("a record cannot be encoded")]
    Encode(#[from] hickory_server::proto::ProtoError),
    /// The key did not sign.
    #[error("the key does not sign")]
    Key(#[from] KeyError),
}

/// What is counted, since the start.
#[derive(Debug, Default)]
pub struct Counts {
    /// Signatures made.
    pub made: AtomicU64,
    /// Signatures found in a cache.
    pub found: AtomicU64,
    /// Of those made, in place of one that would have ended soon.
    pub refreshed: AtomicU64,
    /// Replies not signed: too many new names a second.
    pub refused: AtomicU64,
    /// Replies not signed because signing failed.
    pub failed: AtomicU64,
}

/// What outlives a change of keys or options: signatures made, limits and counts.
#[derive(Debug)]
pub struct Store {
    set_up: Signatures,
    spare: Signatures,
    budget: Budget,
    counts: Counts,
    /// The first end of a signature given since it was asked for; seconds since 1970.
    soonest_end: AtomicU64,
}

impl Store {
    /// Empty, with the bounds of `options`.
    pub fn new(options: &Options) -> Arc<Store> {
        // An entry has 300 octets and more, so that bytes bound entries as well; the count bounds
        // the tables themselves.
        let bounds = |bytes| Bounds { entries: bytes / 256, bytes };
        Arc::new(Store {
            set_up: Signatures::new(bounds(options.cache_bytes)),
            spare: Signatures::new(bounds(options.spare_bytes)),
            budget: Budget::new(options.cold),
            counts: Counts::default(),
            soonest_end: AtomicU64::new(u64::MAX),
        })
    }

    /// What was counted.
    pub fn counts(&self) -> &Counts {
        &self.counts
    }

    /// When the first of the signatures given since the last call ends; `None` when none was given.
    pub fn take_soonest_end(&self) -> Option<Time> {
        let secs = self.soonest_end.swap(u64::MAX, Ordering::Relaxed);
        (secs < u64::MAX).then(|| Time::from_secs(secs))
    }

    /// Signatures held and their bytes: for names set up, and for others.
    pub fn held(&self) -> [(usize, usize); 2] {
        [self.set_up.held(), self.spare.held()]
    }
}

/// Signs the replies of a zone.
#[derive(Debug)]
pub struct Signer {
    zone: Name,
    /// In canonical wire form: the signer's name in RRSIG records.
    zone_wire: Vec<u8>,
    options: Options,
    keys: Vec<ZoneKey>,
    timeline: Timeline,
    store: Arc<Store>,
}

impl Signer {
    /// For the zone `zone`, whose keys these are from `now` on. Fails when at any time none of them
    /// would sign.
    pub fn new(
        now: Time,
        zone: &Name,
        keys: Vec<ZoneKey>,
        options: Options,
        store: Arc<Store>,
    ) -> Result<Signer, Gap> {
        let zone_wire = canonical::name(zone);
        let timeline = Timeline::new(now, &zone_wire, &keys)?;
        Ok(Signer { zone: zone.to_lowercase(), zone_wire, options, keys, timeline, store })
    }

    /// The keys, of whatever phase.
    pub fn keys(&self) -> &[ZoneKey] {
        &self.keys
    }

    /// What outlives this signer.
    pub fn store(&self) -> &Arc<Store> {
        &self.store
    }

    /// The reply to a question about the keys themselves; `None` when it is about something else.
    pub fn about_keys(&self, now: Time, name: &Name, kind: RecordType) -> Option<Reply> {
        if kind == NXNAME && self.zone.zone_of(name) {
            // RFC 9824, 3.5: nobody may ask for it.
            return Some(Reply { code: ResponseCode::FormErr, ..Reply::empty() });
        }
        let (keys, until) = self.timeline.at(now);
        let data = keys.records(kind)?;
        if *name != self.zone || data.is_empty() {
            return None;
        }
        let record = |data: &RData| Record::from_rdata(name.clone(), seconds(self.options.ttl), data.clone());
        let answers = data.iter().map(record).collect();
        Some(Reply { authoritative: true, answers, cache: Cache::Shared, until, ..Reply::empty() })
    }

    /// Adds signatures, and the proof when nothing is there. `types` tells the types at a name, or
    /// nothing for a name that does not exist. Gives until when the reply may be repeated without
    /// asking again; when it fails, the reply is as it was.
    pub fn sign(
        &self,
        now: Time,
        asked: &Asked<'_>,
        types: impl FnOnce(&Name) -> Vec<RecordType>,
        reply: &mut Reply,
    ) -> Result<Time, SignError> {
        let (keys, change) = self.timeline.at(now);
        let until = change.min(reply.until);
        if keys.zone.is_empty() {
            // The zone is unsigned, by order.
            return Ok(until);
        }
        if !reply.authoritative || !asked.dnssec_ok {
            // That there are no CDS records now, say, does not hold for ever.
            return Ok(if *asked.name == self.zone { until } else { reply.until });
        }
        let mut job = Job { signer: self, keys, now: now.as_secs(), millis: now, asked, until };
        let signed = job.reply(types, reply);
        let counts = &self.store.counts;
        match &signed {
            Ok(()) => {}
            Err(SignError::Refused) => _ = counts.refused.fetch_add(1, Ordering::Relaxed),
            Err(error) => {
                counts.failed.fetch_add(1, Ordering::Relaxed);
                tracing::error!(%error, name = %asked.name, "cannot sign");
            }
        }
        signed.map(|()| job.until)
    }
}

/// The signing of one reply.
struct Job<'a> {
    signer: &'a Signer,
    keys: &'a KeySet,
    /// Seconds since 1970.
    now: u64,
    millis: Time,
    asked: &'a Asked<'a>,
    until: Time,
}

impl Job<'_> {
    fn reply(
        &mut self,
        types: impl FnOnce(&Name) -> Vec<RecordType>,
        reply: &mut Reply,
    ) -> Result<(), SignError> {
        let soa = reply.authority.iter().find(|record| record.record_type() == RecordType::SOA);
        let mut code = reply.code;
        let denied = soa.map(|soa| {
            let name = end_of_chain(self.asked.name, &reply.answers);
            let nsec = match code {
                ResponseCode::NXDomain => denial::no_name(&name),
                _ => denial::types_only(&name, self.types(&name, types(&name))),
            };
            // RFC 9077, 3: as long as the negative answer itself.
            Record::from_rdata(name, soa.ttl, raw(RecordType::NSEC, nsec))
        });
        let exists = code == ResponseCode::NoError && reply.answers.is_empty();
        if code == ResponseCode::NXDomain && !self.asked.compact_ok {
            // RFC 9824, 3.1 and 5.1: to whoever does not say that NXDOMAIN is understood, the name
            // exists and has no types.
            code = ResponseCode::NoError;
        }
        match (denied, self.asked.kind) {
            (Some(nsec), RecordType::NSEC) if exists => {
                let signatures = self.signatures(std::slice::from_ref(&nsec))?;
                reply.answers = [vec![nsec], signatures].concat();
                reply.authority.clear();
            }
            // RFC 8482, 4.1: of all signatures at a name, one that is always there.
            (Some(nsec), RecordType::RRSIG) if exists => {
                reply.answers = self.signatures(&[nsec])?;
                reply.authority.clear();
            }
            (nsec, _) => {
                // All signatures are there before anything is changed.
                let proof =
                    nsec.as_ref().map(|nsec| self.signatures(std::slice::from_ref(nsec))).transpose()?;
                let answers = self.section(&reply.answers)?;
                let authority = self.section(&reply.authority)?;
                let additional = self.section(&reply.additional)?;
                insert(&mut reply.answers, answers);
                insert(&mut reply.authority, authority);
                insert(&mut reply.additional, additional);
                reply.authority.extend(nsec);
                reply.authority.extend(proof.into_iter().flatten());
            }
        }
        reply.code = code;
        Ok(())
    }

    /// The types in the proof for a name that exists.
    fn types(&self, name: &Name, mut kinds: Vec<RecordType>) -> Vec<RecordType> {
        if *name == self.signer.zone {
            let own = [RecordType::DNSKEY, RecordType::CDS, RecordType::CDNSKEY];
            kinds.extend(
                own.into_iter()
                    .filter(|kind| self.keys.records(*kind).is_some_and(|records| !records.is_empty())),
            );
        }
        // What there is none of for this client is not there for this client.
        kinds.retain(|kind| *kind != self.asked.kind);
        kinds
    }

    /// The signatures of a section's RRsets, each with where it goes: after the last record of its set.
    fn section(&mut self, records: &[Record]) -> Result<Vec<(usize, Record)>, SignError> {
        let mut signatures = Vec::new();
        let mut end = 0;
        for set in records.chunk_by(|a, b| a.record_type() == b.record_type() && a.name == b.name) {
            end += set.len();
            signatures.extend(self.signatures(set)?.into_iter().map(|rrsig| (end, rrsig)));
        }
        Ok(signatures)
    }

    /// The RRSIG records of an RRset.
    fn signatures(&mut self, records: &[Record]) -> Result<Vec<Record>, SignError> {
        let Some(first) = records.first() else { return Ok(Vec::new()) };
        let keys = self.keys;
        let about_keys = keys.records(first.record_type()).is_some();
        let signers: &[Active] = if about_keys { &keys.entry } else { &keys.zone };
        let mut set = RrSet::new(records)?;
        // What belongs to the zone, and not to the name asked for, is bounded as well.
        let set_up = self.asked.set_up || first.name == self.signer.zone || first.name != *self.asked.name;
        let mut rrsigs = Vec::with_capacity(signers.len());
        for signer in signers {
            set.set_signer(signer.fingerprint);
            let signature = self.signature(&set, signer, set_up)?;
            self.signer.store.soonest_end.fetch_min(signature.expiration, Ordering::Relaxed);
            self.until = self.until.min(Time::from_secs(signature.refresh.max(self.now + 1)));
            let data = raw(RecordType::RRSIG, signature.data.to_vec());
            rrsigs.push(Record::from_rdata(first.name.clone(), first.ttl, data));
        }
        Ok(rrsigs)
    }

    fn signature(&self, set: &RrSet, key: &Active, set_up: bool) -> Result<Signature, SignError> {
        let Store { budget, counts, .. } = &*self.signer.store;
        let cache = if set_up { &self.signer.store.set_up } else { &self.signer.store.spare };
        let hash = cache.hash(set.key());
        let valid = |found: &Signature| (found.inception..found.expiration).contains(&self.now);
        let found = cache.find(hash, set.key()).filter(valid);
        if let Some(found) = &found
            && self.now < found.refresh
        {
            counts.found.fetch_add(1, Ordering::Relaxed);
            return Ok(found.clone());
        }
        if !set_up && !budget.take(self.millis, self.asked.asker) {
            // One that ends soon is as good as any until then.
            return found.ok_or(SignError::Refused);
        }
        counts.made.fetch_add(1, Ordering::Relaxed);
        counts.refreshed.fetch_add(found.is_some().into(), Ordering::Relaxed);
        let signature = self.make(hash, set, key)?;
        cache.keep(hash, set.key(), signature.clone());
        Ok(signature)
    }

    /// Makes a signature (RFC 4034, 3.1).
    ///
    /// ```text
    ///  0      2           3        4       8            12          16    18
    ///  +------+-----------+--------+-------+------------+-----------+-----+--------+-----------
    ///  | type | algorithm | labels | TTL   | expiration | inception | tag | signer | signature
    ///  +------+-----------+--------+-------+------------+-----------+-----+--------+-----------
    /// ```
    fn make(&self, hash: u64, set: &RrSet, key: &Active) -> Result<Signature, SignError> {
        let validity = self.signer.options.validity.as_secs().max(8);
        let inception = self.now.saturating_sub(BACKDATE + (hash >> 32) % BACKDATE);
        let expiration = self.now + validity - hash % (validity / 8).max(1);
        let (kind, ttl) = set.kind_and_ttl();
        let mut data = Vec::with_capacity(18 + self.signer.zone_wire.len() + super::key::SIGNATURE_LEN);
        data.extend(kind);
        data.extend([key.key.algorithm().number(), set.labels()]);
        data.extend(ttl);
        // RFC 4034, 3.1.5: modulo 2^32.
        data.extend((expiration as u32).to_be_bytes());
        data.extend((inception as u32).to_be_bytes());
        data.extend(key.tag.to_be_bytes());
        data.extend(&self.signer.zone_wire);
        let signature = key.key.sign(&set.signed_bytes(&data))?;
        data.extend(signature);
        Ok(Signature { data: data.into(), inception, refresh: expiration - validity / 4, expiration })
    }
}

/// Puts signatures into their section.
fn insert(section: &mut Vec<Record>, signatures: Vec<(usize, Record)>) {
    // From the end, so that the places before stay.
    for (place, rrsig) in signatures.into_iter().rev() {
        section.insert(place, rrsig);
    }
}

/// Where the aliases in `answers` lead from `name`: the name that is denied.
fn end_of_chain(name: &Name, answers: &[Record]) -> Name {
    let mut end = name;
    // Each alias is followed once at most.
    for _ in 0..answers.len() {
        let alias = answers.iter().find_map(|record| match &record.data {
            RData::CNAME(target) if record.name == *end => Some(&target.0),
            _ => None,
        });
        match alias {
            Some(target) => end = target,
            None => break,
        }
    }
    end.clone()
}

fn seconds(ttl: Duration) -> u32 {
    u32::try_from(ttl.as_secs()).unwrap_or(u32::MAX).min(i32::MAX as u32)
}

impl<'a> Asked<'a> {
    /// A question over a connection or with a cookie (`verified`) or neither, for a name set up.
    pub fn new(name: &'a Name, kind: RecordType, source: IpAddr, verified: bool) -> Asked<'a> {
        let asker = Asker { source, verified };
        Asked { name, kind, dnssec_ok: true, compact_ok: false, asker, set_up: true }
    }
}

#[cfg(test)]
#[path = "signer_tests.rs"]
mod tests;
