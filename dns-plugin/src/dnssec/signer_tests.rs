//! Replies signed here, checked by another implementation of the signatures.

use super::*;
use crate::answer::Cache;
use crate::dnssec::{Algorithm, PublicKey, Role, SigningKey, Times};
use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED, ED25519, UnparsedPublicKey};
use hickory_server::proto::rr::rdata::{A, SOA};

const START: u64 = 1_800_000_000;

fn name(text: &str) -> Name {
    Name::from_ascii(text).unwrap()
}

fn at(secs: u64) -> Time {
    Time::from_secs(START + secs)
}

fn key(role: Role, times: Times, algorithm: Algorithm) -> ZoneKey {
    ZoneKey { key: Arc::new(SigningKey::generate(algorithm).unwrap()), role, times }
}

fn csk() -> ZoneKey {
    key(Role::Csk, Times::first(at(0), Role::Csk), Algorithm::EcdsaP256)
}

fn signer(keys: Vec<ZoneKey>, options: Options) -> Signer {
    Signer::new(at(0), &name("Example."), keys, options, Store::new(&options)).unwrap()
}

fn address(owner: &Name, last: u8) -> Record {
    Record::from_rdata(owner.clone(), 5, RData::A(A::new(192, 0, 2, last)))
}

fn soa() -> Record {
    let soa = SOA::new(name("example."), name("h.example."), 1, 1, 1, 1, 5);
    Record::from_rdata(name("example."), 5, RData::SOA(soa))
}

fn positive(owner: &Name, lasts: impl IntoIterator<Item = u8>) -> Reply {
    let answers = lasts.into_iter().map(|last| address(owner, last)).collect();
    Reply { authoritative: true, answers, cache: Cache::Choice, ..Reply::empty() }
}

fn negative(code: ResponseCode) -> Reply {
    Reply { code, authoritative: true, authority: vec![soa()], ..Reply::empty() }
}

fn asked(name: &Name, kind: RecordType) -> Asked<'_> {
    Asked::new(name, kind, [192, 0, 2, 1].into(), false)
}

fn kinds(records: &[Record]) -> Vec<u16> {
    records.iter().map(|record| record.record_type().into()).collect()
}

fn data(record: &Record) -> &[u8] {
    match &record.data {
        RData::Unknown { rdata, .. } => &rdata.anything,
        other => panic!("{other:?}"),
    }
}

/// Checks every RRset of a section against its RRSIG records, as RFC 4035, 5.3 has it; written apart
/// from what is checked, and from the text of the RFC.
#[track_caller]
fn verify(now: u64, section: &[Record], keys: &[PublicKey]) {
    let mut rest = section;
    while let [first, ..] = rest {
        let set: Vec<&Record> =
            rest.iter().take_while(|record| record.record_type() == first.record_type()).collect();
        rest = &rest[set.len()..];
        let signatures = rest.iter().take_while(|record| record.record_type() == RecordType::RRSIG).count();
        assert!(signatures > 0, "no signature of {first}");
        for rrsig in &rest[..signatures] {
            assert_eq!((&rrsig.name, rrsig.ttl), (&first.name, first.ttl));
            let rrsig = data(rrsig);
            let number = |from: usize, to: usize| {
                rrsig[from..to].iter().fold(0u64, |sum, octet| sum << 8 | u64::from(*octet))
            };
            assert_eq!(number(0, 2), u64::from(u16::from(first.record_type())));
            assert_eq!(number(3, 4), first.name.iter().count() as u64);
            assert_eq!(number(4, 8), u64::from(first.ttl));
            assert!((number(12, 16)..number(8, 12)).contains(&(START + now)), "valid now");
            assert_eq!(&rrsig[18..27], b"\x07example\0");
            let key = keys.iter().find(|key| u64::from(key.tag()) == number(16, 18)).expect("a known key");
            let mut message = rrsig[..27].to_vec();
            let mut sorted: Vec<Vec<u8>> = set.iter().map(|record| wire(record)).collect();
            sorted.sort();
            sorted.iter().for_each(|record| message.extend(record));
            match key.algorithm {
                Algorithm::EcdsaP256 => {
                    let point = [&[4], key.key.as_slice()].concat();
                    let key = UnparsedPublicKey::new(&ECDSA_P256_SHA256_FIXED, point);
                    key.verify(&message, &rrsig[27..]).expect("a good signature");
                }
                Algorithm::Ed25519 => {
                    let key = UnparsedPublicKey::new(&ED25519, &key.key);
                    key.verify(&message, &rrsig[27..]).expect("a good signature");
                }
            }
        }
        rest = &rest[signatures..];
    }
}

/// A record in canonical form. All names here are in lower case but the owner's.
fn wire(record: &Record) -> Vec<u8> {
    let mut bytes = Vec::new();
    for label in record.name.to_lowercase().iter() {
        bytes.push(label.len() as u8);
        bytes.extend(label);
    }
    bytes.push(0);
    bytes.extend(u16::from(record.record_type()).to_be_bytes());
    bytes.extend([0, 1]);
    bytes.extend(record.ttl.to_be_bytes());
    let rdata = match &record.data {
        RData::A(a) => a.0.octets().to_vec(),
        RData::SOA(_) => {
            [b"\x07example\0\x01h\x07example\0".as_slice(), &[0, 0, 0, 1].repeat(4), &[0, 0, 0, 5]].concat()
        }
        _ => data(record).to_vec(),
    };
    bytes.extend((rdata.len() as u16).to_be_bytes());
    bytes.extend(rdata);
    bytes
}

#[test]
fn rfc4035_3_1_1_a_positive_answer_is_signed_once() {
    for algorithm in [Algorithm::EcdsaP256, Algorithm::Ed25519] {
        let csk = key(Role::Csk, Times::first(at(0), Role::Csk), algorithm);
        let keys = [csk.public()];
        let signer = signer(vec![csk], Options::default());
        let owner = name("WWW.example.");
        let mut reply = positive(&owner, [9, 1, 5]);
        let until =
            signer.sign(at(10), &asked(&owner, RecordType::A), |_| panic!("not asked"), &mut reply).unwrap();
        assert_eq!(kinds(&reply.answers), [1, 1, 1, 46]);
        verify(10, &reply.answers, &keys);
        let quarter = 7 * 86_400 / 4;
        assert!((at(3 * quarter / 4)..=at(10 + 3 * quarter)).contains(&until), "{until}");
        // In another order and case it is the same set.
        let lower = name("www.example.");
        let mut again = positive(&lower, [1, 5, 9]);
        signer.sign(at(20), &asked(&lower, RecordType::A), |_| Vec::new(), &mut again).unwrap();
        assert_eq!(again.answers[3].data, reply.answers[3].data);
        let counts = signer.store().counts();
        assert_eq!(counts.made.load(Ordering::Relaxed), 1);
        assert_eq!(counts.found.load(Ordering::Relaxed), 1);
    }
}

#[test]
fn without_do_nothing_is_added() {
    let signer = signer(vec![csk()], Options::default());
    let owner = name("www.example.");
    for reply in [positive(&owner, [1]), negative(ResponseCode::NXDomain)] {
        let mut same = reply.clone();
        let plain = Asked { dnssec_ok: false, compact_ok: true, ..asked(&owner, RecordType::A) };
        assert_eq!(signer.sign(at(0), &plain, |_| Vec::new(), &mut same).unwrap(), Time::NEVER);
        assert_eq!(same, reply);
    }
    let refused = Reply { code: ResponseCode::Refused, ..Reply::empty() };
    let mut same = refused.clone();
    signer.sign(at(0), &asked(&owner, RecordType::A), |_| Vec::new(), &mut same).unwrap();
    assert_eq!(same, refused);
}

#[test]
fn rfc9824_3_1_and_5_1_no_such_name() {
    let csk = csk();
    let keys = [csk.public()];
    let signer = signer(vec![csk], Options::default());
    let owner = name("nope.example.");
    for compact_ok in [false, true] {
        let mut reply = negative(ResponseCode::NXDomain);
        let asked = Asked { compact_ok, set_up: false, ..asked(&owner, RecordType::A) };
        signer.sign(at(0), &asked, |_| Vec::new(), &mut reply).unwrap();
        let code = if compact_ok { ResponseCode::NXDomain } else { ResponseCode::NoError };
        assert_eq!(reply.code, code);
        assert_eq!(kinds(&reply.authority), [6, 46, 47, 46]);
        verify(0, &reply.authority, &keys);
        let nsec = &reply.authority[2];
        assert_eq!((&nsec.name, nsec.ttl), (&owner, 5));
        assert!(data(nsec).starts_with(b"\x01\0\x04nope\x07example\0\0\x11"));
        assert!(data(nsec).ends_with(&[3, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0x80]));
    }
    assert_eq!(signer.store().counts().made.load(Ordering::Relaxed), 2, "SOA and NSEC");
}

#[test]
fn rfc9824_3_2_no_such_type() {
    let csk = csk();
    let keys = [csk.public()];
    let signer = signer(vec![csk], Options::default());
    let owner = name("www.example.");
    for kind in [RecordType::TXT, RecordType::MX] {
        let mut reply = negative(ResponseCode::NoError);
        signer.sign(at(0), &asked(&owner, kind), |_| vec![RecordType::A], &mut reply).unwrap();
        verify(0, &reply.authority, &keys);
        assert_eq!(data(&reply.authority[2]), b"\x01\0\x03www\x07example\0\0\x06\x40\0\0\0\0\x03");
    }
    assert_eq!(signer.store().counts().made.load(Ordering::Relaxed), 2, "one proof for all types");
    // What this client gets none of is not claimed to be there.
    let mut reply = negative(ResponseCode::NoError);
    signer.sign(at(0), &asked(&owner, RecordType::A), |_| vec![RecordType::A], &mut reply).unwrap();
    assert_eq!(data(&reply.authority[2]), b"\x01\0\x03www\x07example\0\0\x06\0\0\0\0\0\x03");
    // At the apex the types of the keys are added: DNSKEY, CDS, CDNSKEY.
    let apex = name("example.");
    let mut reply = negative(ResponseCode::NoError);
    signer
        .sign(at(0), &asked(&apex, RecordType::DS), |_| vec![RecordType::NS, RecordType::SOA], &mut reply)
        .unwrap();
    verify(0, &reply.authority, &keys);
    assert_eq!(data(&reply.authority[2]), b"\x01\0\x07example\0\0\x08\x22\0\0\0\0\x03\x80\x18");
}

#[test]
fn nsec_and_rrsig_can_be_asked_for() {
    let csk = csk();
    let keys = [csk.public()];
    let signer = signer(vec![csk], Options::default());
    let owner = name("www.example.");
    let mut reply = negative(ResponseCode::NoError);
    signer.sign(at(0), &asked(&owner, RecordType::NSEC), |_| vec![RecordType::A], &mut reply).unwrap();
    assert_eq!((kinds(&reply.answers), reply.authority.len()), (vec![47, 46], 0));
    verify(0, &reply.answers, &keys);
    let mut reply = negative(ResponseCode::NoError);
    signer.sign(at(0), &asked(&owner, RecordType::RRSIG), |_| vec![RecordType::A], &mut reply).unwrap();
    assert_eq!((kinds(&reply.answers), reply.authority.len()), (vec![46], 0));
    let reply = signer.about_keys(at(0), &owner, NXNAME).unwrap();
    assert_eq!(reply.code, ResponseCode::FormErr, "RFC 9824, 3.5");
    assert!(signer.about_keys(at(0), &name("elsewhere."), NXNAME).is_none());
}

#[test]
fn rfc7344_keys_are_told_at_the_apex_and_signed_by_the_ksk() {
    let ksk = key(Role::Ksk, Times::first(at(0), Role::Ksk), Algorithm::EcdsaP256);
    let zsk = key(Role::Zsk, Times::first(at(0), Role::Zsk), Algorithm::EcdsaP256);
    let (entry, zone) = ([ksk.public()], [zsk.public()]);
    let signer = signer(vec![ksk, zsk], Options::default());
    let apex = name("eXample.");
    for (kind, count) in [(RecordType::DNSKEY, 2), (RecordType::CDS, 1), (RecordType::CDNSKEY, 1)] {
        let mut reply = signer.about_keys(at(0), &apex, kind).unwrap();
        assert_eq!(reply.answers.len(), count);
        signer.sign(at(0), &asked(&apex, kind), |_| Vec::new(), &mut reply).unwrap();
        verify(0, &reply.answers, &entry);
        assert_eq!(reply.answers[0].ttl, 3600);
    }
    assert!(signer.about_keys(at(0), &name("www.example."), RecordType::DNSKEY).is_none());
    let owner = name("www.example.");
    let mut reply = positive(&owner, [1]);
    signer.sign(at(0), &asked(&owner, RecordType::A), |_| Vec::new(), &mut reply).unwrap();
    verify(0, &reply.answers, &zone);
}

#[test]
fn signatures_are_replaced_before_they_end_and_when_keys_change() {
    let mut old = csk();
    old.times.retired = Some(at(86_400 * 20));
    old.times.removed = old.times.retired;
    let new = key(Role::Csk, Times::first(at(86_400 * 10), Role::Csk), Algorithm::EcdsaP256);
    let keys = [old.public(), new.public()];
    let signer = signer(vec![old, new], Options::default());
    let owner = name("www.example.");
    let mut count = Vec::new();
    let mut until = Time::NEVER;
    for hour in 0..24 * 30 {
        let secs = hour * 3600;
        let mut reply = positive(&owner, [1]);
        until = signer.sign(at(secs), &asked(&owner, RecordType::A), |_| Vec::new(), &mut reply).unwrap();
        verify(secs, &reply.answers, &keys);
        assert!(until > at(secs));
        if secs < 86_400 * 20 {
            assert!(until <= at(86_400 * 20), "a block must not outlive the keys");
        }
        count.push(reply.answers.len() - 1);
    }
    assert!(until < at(86_400 * 37));
    let apex = name("example.");
    for (day, known) in [(5, at(86_400 * 10)), (15, at(86_400 * 20)), (25, Time::NEVER)] {
        let about = signer.about_keys(at(86_400 * day), &apex, RecordType::DNSKEY).unwrap();
        assert_eq!(about.until, known, "unsigned as well, it is true until keys change");
    }
    assert_eq!((count[0], count[24 * 10 - 1]), (1, 1));
    assert_eq!((count[24 * 10], count[24 * 20 - 1]), (2, 2), "both sign");
    assert_eq!((count[24 * 20], count[24 * 30 - 1]), (1, 1));
    let made = signer.store().counts().made.load(Ordering::Relaxed);
    // Two keys for twenty days each; a signature lasts 4.4 to 5.3 days.
    assert!((8..=10).contains(&made), "{made}");
}

#[test]
fn a_flood_of_names_is_refused_and_what_is_known_goes_on() {
    let cold = ColdLimits { per_second: 20, per_prefix_per_second: 10 };
    let options = Options { cold, ..Options::default() };
    let signer = signer(vec![csk()], options);
    let mut refused = 0;
    for n in 0..100 {
        let owner = name(&format!("n{n}.example."));
        let asked = Asked { set_up: false, ..asked(&owner, RecordType::A) };
        let mut reply = negative(ResponseCode::NXDomain);
        match signer.sign(at(0), &asked, |_| Vec::new(), &mut reply) {
            Ok(_) => assert_eq!(reply.authority.len(), 4),
            Err(SignError::Refused) => {
                refused += 1;
                assert_eq!(reply, negative(ResponseCode::NXDomain), "left as it was");
            }
            Err(other) => panic!("{other}"),
        }
    }
    assert_eq!(refused, 80);
    let known = name("n0.example.");
    let again = Asked { set_up: false, ..asked(&known, RecordType::A) };
    assert!(signer.sign(at(0), &again, |_| Vec::new(), &mut negative(ResponseCode::NXDomain)).is_ok());
    for n in 0..100 {
        let owner = name(&format!("site{n}.example."));
        signer
            .sign(at(0), &asked(&owner, RecordType::A), |_| Vec::new(), &mut positive(&owner, [1]))
            .unwrap();
    }
    let [(set_up, _), (spare, _)] = signer.store().held();
    assert_eq!((set_up, spare), (101, 20), "100 sites and the SOA; 20 denials");
}

#[test]
fn denial_is_at_the_end_of_an_alias() {
    use hickory_server::proto::rr::rdata::CNAME;
    let csk = csk();
    let keys = [csk.public()];
    let signer = signer(vec![csk], Options::default());
    let (owner, target) = (name("alias.example."), name("gone.example."));
    let alias = Record::from_rdata(owner.clone(), 5, RData::CNAME(CNAME(target.clone())));
    let mut reply = Reply { answers: vec![alias], ..negative(ResponseCode::NXDomain) };
    signer.sign(at(0), &asked(&owner, RecordType::A), |_| Vec::new(), &mut reply).unwrap();
    verify(0, &reply.authority, &keys);
    assert_eq!(reply.authority[2].name, target);
    assert_eq!(kinds(&reply.answers), [5, 46]);
}
