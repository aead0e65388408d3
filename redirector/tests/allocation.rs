//! What the fast path answers by itself costs no allocation. Alone in its binary, because all threads
//! of a process are counted.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

use godwit_core::time::Time;
use godwit_redirector::Config;
use godwit_redirector::paths::{Paths, REPLY_LEN_MAX};
use godwit_redirector::static_zone::StaticZone;
use stats_alloc::{INSTRUMENTED_SYSTEM, Region, StatsAlloc};
use std::alloc::System;

#[global_allocator]
static ALLOCATOR: &StatsAlloc<System> = &INSTRUMENTED_SYSTEM;

const ZONE: &str = r#"
origin = "svc.example.org"
[[region]]
name = "eu"
addresses = ["192.0.2.1", "192.0.2.2", "2001:db8::1"]
[[region]]
name = "us"
addresses = ["198.51.100.1"]
[[service]]
name = "www"
[clients]
default = ["eu", "us"]
"#;

/// With a client subnet, a client cookie and the wish for an identifier.
fn query(name: &[u8], kind: u8) -> Vec<u8> {
    let options = [0, 8, 0, 7, 0, 1, 24, 0, 203, 0, 113, 0, 10, 0, 8, 1, 2, 3, 4, 5, 6, 7, 8, 0, 3, 0, 0];
    let mut packet = vec![0, 7, 1, 0, 0, 1, 0, 0, 0, 0, 0, 1];
    packet.extend(name);
    packet.extend([0, kind, 0, 1, 0, 0, 41, 4, 208, 0, 0, 0, 0, 0, options.len() as u8]);
    packet.extend(options);
    packet
}

#[test]
fn what_was_compiled_or_learned_is_answered_without_an_allocation() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("zone.toml");
    std::fs::write(&file, ZONE).unwrap();
    let (view, _keeper) = StaticZone::open(&file).unwrap().into_view();
    let config = Config { nsid: "ns1".to_owned(), ..Config::default() };
    let mut paths = Paths::new(view, &config).unwrap();
    let source = "192.0.2.9:5353".parse().unwrap();
    let now = Time::from_secs(1_800_000_000);
    let mut out = [0; REPLY_LEN_MAX];
    let queries = [
        query(b"\x03www\x03svc\x07example\x03org\0", 1),
        query(b"\x03WWW\x03svc\x07example\x03org\0", 28),
        query(b"\x03www\x03svc\x07example\x03org\0", 16),
        query(b"\x03svc\x07example\x03org\0", 6),
        query(b"\x03www\x07example\x03net\0", 1),
    ];
    // Once to learn.
    for query in &queries {
        paths.fast(now, query, source, &mut out);
    }
    let region = Region::new(ALLOCATOR);
    for query in queries.iter().cycle().take(10_000) {
        let said = paths.fast(now, query, source, &mut out);
        assert!(said.by_itself && said.len > 12);
    }
    let change = region.change();
    assert_eq!((change.allocations, change.reallocations, change.deallocations), (0, 0, 0));
}
