//! Keys in a directory, read by a redirector that runs.

use super::{Bench, PATIENCE, config, inputs, shared};
use godwit_dns_plugin::dnssec::{Algorithm, Directory, Role, SigningKey, StoredKey, Times, ZoneKey};
use godwit_dns_plugin::{Clock, SharedView, Zone};
use godwit_redirector::{DnssecConfig, Limits, Redirector, Signing, SigningError};
use hickory_proto::op::{Edns, Message, MessageType, OpCode, Query};
use hickory_proto::rr::{Name, RecordType};
use prometheus_client::registry::Registry;
use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

const WWW: &str = "www.edge.example.org.";

fn zone() -> godwit_core::name::ZoneName {
    "edge.example.org".parse().unwrap()
}

fn add(directory: &Directory) -> StoredKey {
    let key = Arc::new(SigningKey::generate(Algorithm::EcdsaP256).unwrap());
    let times = Times::first(Clock::Host.now(), Role::Csk);
    let _lock = directory.lock().unwrap();
    directory.add(&zone(), ZoneKey { key, role: Role::Csk, times }).unwrap()
}

async fn start(keys: &Path) -> (Bench, SharedView, Result<Option<Signing>, SigningError>) {
    let shared = shared(&inputs(3));
    let mut registry = Registry::with_prefix("godwit");
    let zone = Zone::new(&zone(), config(Limits::default()).options());
    let view = SharedView::new(shared.clone(), zone);
    let dnssec = DnssecConfig { keys: Some(keys.to_owned()), ..DnssecConfig::default() };
    let signing = Signing::start(&dnssec, &view, &mut registry);
    let running = Redirector::start(config(Limits::default()), view.clone(), &mut registry).await.unwrap();
    (Bench { shared, registry, running }, view, signing)
}

/// How many records of a type a question with DO is answered with.
async fn count(bench: &Bench, name: &str, kind: RecordType, wanted: RecordType) -> usize {
    let mut message = Message::new(7, MessageType::Query, OpCode::Query);
    message.add_query(Query::query(Name::from_ascii(name).unwrap(), kind));
    let mut edns = Edns::new();
    edns.set_max_payload(1232).set_dnssec_ok(true);
    message.set_edns(edns);
    let reply = Message::from_vec(&bench.udp(&message.to_vec().unwrap()).await).unwrap();
    assert!(!reply.metadata.truncation);
    reply.answers.iter().filter(|record| record.record_type() == wanted).count()
}

/// Waits until `www` is answered with so many signatures: workers take up a new view a moment later.
async fn settled(bench: &Bench, signatures: usize) {
    let begin = Instant::now();
    while count(bench, WWW, RecordType::A, RecordType::RRSIG).await != signatures {
        assert!(begin.elapsed() < 2 * PATIENCE, "not answered with {signatures} signatures");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

fn metric(bench: &Bench, line: &str) -> bool {
    bench.metrics().lines().any(|text| text.starts_with(line))
}

#[tokio::test(flavor = "multi_thread")]
async fn keys_are_followed_and_wrong_ones_are_not() {
    let temporary = tempfile::tempdir().unwrap();
    let directory = Directory::new(temporary.path());
    let first = add(&directory);
    let (bench, view, signing) = start(temporary.path()).await;
    let signing = signing.unwrap().expect("keys are configured");
    assert_eq!(count(&bench, WWW, RecordType::A, RecordType::RRSIG).await, 1);
    let age = format!(
        "godwit_dns_key_age_seconds{{tag=\"{}\",role=\"csk\",phase=\"active\"}}",
        first.key.public().tag()
    );
    // Read once: the soonest end is told since it was last read.
    let metrics = bench.metrics();
    for line in [
        "godwit_dns_signatures_made_total 1",
        "godwit_dns_signatures_soonest_end_seconds ",
        "godwit_dns_keys_last_read_successful 1",
        &age,
    ] {
        assert!(metrics.lines().any(|text| text.starts_with(line)), "{line}: {metrics}");
    }

    // The zone's contents are read again: it stays signed.
    view.set_zone(Zone::new(&zone(), config(Limits::default()).options()));
    assert_eq!(count(&bench, WWW, RecordType::A, RecordType::RRSIG).await, 1);

    let second = add(&directory);
    signing.reload().unwrap();
    settled(&bench, 2).await;
    assert_eq!(count(&bench, "edge.example.org.", RecordType::DNSKEY, RecordType::DNSKEY).await, 2);

    let state = temporary.path().join(format!("{}.toml", second.stem));
    let text = fs::read_to_string(&state).unwrap();
    fs::write(&state, "role = 7").unwrap();
    assert!(matches!(signing.reload(), Err(SigningError::Directory(_))));
    assert!(metric(&bench, "godwit_dns_keys_last_read_successful 0"), "{}", bench.metrics());
    assert_eq!(count(&bench, WWW, RecordType::A, RecordType::RRSIG).await, 2, "as before");

    // Mended: it is found without being told.
    fs::write(&state, text.replace("role = \"csk\"", "role = \"ksk\"")).unwrap();
    settled(&bench, 1).await;
    assert!(metric(&bench, "godwit_dns_keys_last_read_successful 1"), "{}", bench.metrics());
    drop(signing);
    bench.running.shutdown().await;
}

#[tokio::test]
async fn a_zone_without_usable_keys_does_not_start() {
    let temporary = tempfile::tempdir().unwrap();
    let (bench, view, signing) = start(temporary.path()).await;
    let Err(error) = signing else { panic!("there is no key") };
    assert!(error.to_string().contains("godwit dnssec generate"), "{error}");
    assert!(view.load().zone.signer().is_none());
    bench.running.shutdown().await;

    let directory = Directory::new(temporary.path());
    let mut only = add(&directory);
    only.key.times.retired = Some(Clock::Host.now());
    directory.update(&zone(), &only).unwrap();
    let (bench, _, signing) = start(temporary.path()).await;
    assert!(matches!(signing, Err(SigningError::Gap(_))));
    bench.running.shutdown().await;
    let (bench, _, signing) = start(&temporary.path().join("missing")).await;
    assert!(matches!(signing, Err(SigningError::Directory(_))));
    bench.running.shutdown().await;
}
