//! Any packet: the general and the fast path say the same, octet for octet.

#![no_main]

use godwit_core::time::Time;
use godwit_redirector::Config;
use godwit_redirector::paths::{Paths, REPLY_LEN_MAX};
use godwit_redirector::static_zone::StaticZone;
use libfuzzer_sys::fuzz_target;
use std::cell::RefCell;
use std::net::SocketAddr;
use std::path::Path;

thread_local!(static PATHS: RefCell<Paths> = RefCell::new(paths()));

fn paths() -> Paths {
    let fuzz = Path::new(env!("CARGO_MANIFEST_DIR"));
    let zone = StaticZone::open(&fuzz.join("zone.toml")).expect("the zone is sound");
    let config = Config { cookie_secret_file: Some(fuzz.join("cookie_secret")), ..zone.config().clone() };
    let (view, _keeper) = zone.into_view();
    Paths::new(view, &config).expect("the configuration is sound")
}

fuzz_target!(|packet: &[u8]| {
    let now = Time::from_secs(1_800_000_000);
    let sources =
        [SocketAddr::from(([192, 0, 2, 9], 5353)), "[2001:db8:1::9]:5353".parse().expect("an address")];
    PATHS.with_borrow_mut(|paths| {
        // Twice each: what the first has learned the second repeats.
        for source in [sources[0], sources[0], sources[1], sources[1]] {
            let mut out = [0; REPLY_LEN_MAX];
            let said = paths.fast(now, packet, source, &mut out);
            let general = paths.general(now, packet, source).unwrap_or_default();
            assert_eq!(out[..said.len], general[..], "{source}, by itself: {}", said.by_itself);
        }
    });
});
