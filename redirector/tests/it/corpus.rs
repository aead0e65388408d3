//! Packets that were found to be interesting, through both paths.
//!
//! Each file of the corpus is one packet; a packet that once broke something stays. The fuzzer
//! (`fuzz/README.md`) starts from the same packets and asks the same zone, as it is and signed.

use godwit_core::time::Time;
use godwit_dns_plugin::dnssec::{self, Algorithm, Role, Signer, SigningKey, Store, Times, ZoneKey};
use godwit_dns_plugin::{Clock, SharedView, Zone};
use godwit_redirector::Config;
use godwit_redirector::paths::{Paths, REPLY_LEN_MAX};
use godwit_redirector::static_zone::StaticZone;
use hickory_proto::op::Message;
use hickory_proto::rr::RecordType;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

const NOW: Time = Time::from_secs(1_800_000_000);

#[test]
fn both_paths_say_the_same_of_the_corpus() {
    check(|_| {});
}

#[test]
fn both_paths_say_the_same_of_the_corpus_in_a_signed_zone() {
    check(sign);
}

#[test]
fn a_clock_that_is_set_back_brings_no_signatures_of_the_future() {
    let fuzz = Path::new(env!("CARGO_MANIFEST_DIR")).join("../fuzz");
    let zone = StaticZone::open(&fuzz.join("zone.toml")).unwrap();
    let config = zone.config().clone();
    let (view, _keeper) = zone.into_view();
    sign(&view);
    let millis = Arc::new(AtomicU64::new(0));
    let mut paths = Paths::at(Clock::Set(millis.clone()), view, &config).unwrap();
    let packet = std::fs::read(fuzz.join("corpus/paths/dnssec_ok")).unwrap();
    let source = "192.0.2.9:5353".parse().unwrap();
    let mut said = Vec::new();
    for days in [0, 30, 0] {
        let now = NOW + Duration::from_secs(days * 86_400);
        millis.store(now.as_millis(), Ordering::Relaxed);
        let mut out = [0; REPLY_LEN_MAX];
        // Learned, and repeated.
        for _ in 0..2 {
            let fast = paths.fast(now, &packet, source, &mut out);
            let general = paths.general(now, &packet, source).unwrap();
            assert_eq!(out[..fast.len], general[..], "day {days}");
            said.push(general);
        }
    }
    assert_ne!(said[0], said[2], "signed anew");
    assert_eq!(said[0], said[4], "and again as at first");
}

/// Signs by a key whose signatures are always the same: ECDSA's are not.
fn sign(view: &SharedView) {
    let key = Arc::new(SigningKey::generate(Algorithm::Ed25519).unwrap());
    let key = ZoneKey { key, role: Role::Csk, times: Times::first(NOW, Role::Csk) };
    let (origin, options) = (view.load().zone.origin().clone(), dnssec::Options::default());
    let signer = Signer::new(NOW, &origin, vec![key], options, Store::new(&options)).unwrap();
    view.update(|zone: &Zone| Some(zone.clone().with_signer(Some(Arc::new(signer)))));
}

fn check(prepare: fn(&SharedView)) {
    let fuzz = Path::new(env!("CARGO_MANIFEST_DIR")).join("../fuzz");
    let zone = StaticZone::open(&fuzz.join("zone.toml")).unwrap();
    let config = Config { cookie_secret_file: Some(fuzz.join("cookie_secret")), ..zone.config().clone() };
    let (view, _keeper) = zone.into_view();
    prepare(&view);
    let signed = view.load().zone.signer().is_some();
    let clock = Clock::Set(Arc::new(NOW.as_millis().into()));
    let mut paths = Paths::at(clock, view, &config).unwrap();
    let mut packets: Vec<_> =
        std::fs::read_dir(fuzz.join("corpus/paths")).unwrap().map(|entry| entry.unwrap().path()).collect();
    packets.sort();
    assert!(packets.len() >= 20, "the corpus is there");
    let sources = ["192.0.2.9:5353", "[2001:db8:1::9]:5353"].map(|source| source.parse().unwrap());
    let mut signatures = 0;
    for path in packets {
        let packet = std::fs::read(&path).unwrap();
        let mut out = [0; REPLY_LEN_MAX];
        // Twice: what the first has learned the second repeats.
        for source in [sources[0], sources[0], sources[1], sources[1]] {
            let said = paths.fast(NOW, &packet, source, &mut out);
            let general = paths.general(NOW, &packet, source).unwrap_or_default();
            assert_eq!(out[..said.len], general[..], "{} from {source}", path.display());
            let answers = Message::from_vec(&general).map(|message| message.answers).unwrap_or_default();
            signatures += answers.iter().filter(|record| record.record_type() == RecordType::RRSIG).count();
        }
    }
    assert_eq!(signatures > 0, signed);
}
