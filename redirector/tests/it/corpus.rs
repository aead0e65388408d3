//! Packets that were found to be interesting, through both paths.
//!
//! Each file of the corpus is one packet; a packet that once
//! broke something stays.

use godwit_core::time::Time;
use godwit_redirector::Config;
use godwit_redirector::paths::{Paths, REPLY_LEN_MAX};
use godwit_redirector::static_zone::StaticZone;
use std::path::Path;

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

#[test]
fn both_paths_say_the_same_of_the_corpus() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("zone.toml");
    std::fs::write(&file, ZONE).unwrap();
    let (view, _keeper) = StaticZone::open(&file).unwrap().into_view();
    let mut paths = Paths::new(view, &Config::default()).unwrap();
    let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("../fuzz/corpus/paths");
    let mut packets: Vec<_> = std::fs::read_dir(corpus).unwrap().map(|entry| entry.unwrap().path()).collect();
    packets.sort();
    assert!(packets.len() >= 20, "the corpus is there");
    let (source, now) = ("192.0.2.9:5353".parse().unwrap(), Time::from_secs(1_800_000_000));
    for path in packets {
        let packet = std::fs::read(&path).unwrap();
        let mut out = [0; REPLY_LEN_MAX];
        // Twice: what the first has learned the second repeats.
        for _ in 0..2 {
            let said = paths.fast(now, &packet, source, &mut out);
            let general = paths.general(now, &packet, source).unwrap_or_default();
            assert_eq!(out[..said.len], general[..], "{}", path.display());
        }
    }
}
