//! Any packet: nothing panics, and both paths say the same, octet for octet.

#![no_main]

use godwit_core::time::Time;
use godwit_redirector::Config;
use godwit_redirector::paths::{Paths, REPLY_LEN_MAX};
use godwit_redirector::static_zone::StaticZone;
use libfuzzer_sys::fuzz_target;
use std::cell::RefCell;

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

thread_local!(static PATHS: RefCell<Paths> = RefCell::new(paths()));

fn paths() -> Paths {
    let folder = tempfile::tempdir().expect("a folder for a file");
    let file = folder.path().join("zone.toml");
    std::fs::write(&file, ZONE).expect("a file can be written");
    let (view, _keeper) = StaticZone::open(&file).expect("the zone is sound").into_view();
    Paths::new(view, &Config::default()).expect("nothing of the configuration is wrong")
}

fuzz_target!(|packet: &[u8]| {
    let (source, now) = ("192.0.2.9:5353".parse().expect("an address"), Time::from_secs(1_800_000_000));
    PATHS.with_borrow_mut(|paths| {
        let mut out = [0; REPLY_LEN_MAX];
        let said = paths.fast(now, packet, source, &mut out);
        let general = paths.general(now, packet, source).unwrap_or_default();
        assert_eq!(out[..said.len], general[..]);
    });
});
