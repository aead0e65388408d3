//! Packets that were found to be interesting, through both paths.
//!
//! Each file of the corpus is one packet; a packet that once broke something stays. The fuzzer
//! (`fuzz/README.md`) starts from the same packets and asks the same zone.

use godwit_core::time::Time;
use godwit_redirector::Config;
use godwit_redirector::paths::{Paths, REPLY_LEN_MAX};
use godwit_redirector::static_zone::StaticZone;
use std::path::Path;

#[test]
fn both_paths_say_the_same_of_the_corpus() {
    let fuzz = Path::new(env!("CARGO_MANIFEST_DIR")).join("../fuzz");
    let zone = StaticZone::open(&fuzz.join("zone.toml")).unwrap();
    let config = Config { cookie_secret_file: Some(fuzz.join("cookie_secret")), ..zone.config().clone() };
    let (view, _keeper) = zone.into_view();
    let mut paths = Paths::new(view, &config).unwrap();
    let mut packets: Vec<_> =
        std::fs::read_dir(fuzz.join("corpus/paths")).unwrap().map(|entry| entry.unwrap().path()).collect();
    packets.sort();
    assert!(packets.len() >= 20, "the corpus is there");
    let now = Time::from_secs(1_800_000_000);
    let sources = ["192.0.2.9:5353", "[2001:db8:1::9]:5353"].map(|source| source.parse().unwrap());
    for path in packets {
        let packet = std::fs::read(&path).unwrap();
        let mut out = [0; REPLY_LEN_MAX];
        // Twice: what the first has learned the second repeats.
        for source in [sources[0], sources[0], sources[1], sources[1]] {
            let said = paths.fast(now, &packet, source, &mut out);
            let general = paths.general(now, &packet, source).unwrap_or_default();
            assert_eq!(out[..said.len], general[..], "{} from {source}", path.display());
        }
    }
}
