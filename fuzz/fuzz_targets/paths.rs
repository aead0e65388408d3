//! Any packet: the general and the fast path say the same, octet for octet, of a zone and of the same
//! zone signed.

#![no_main]

use godwit_core::time::Time;
use godwit_dns_plugin::dnssec::{self, Algorithm, Role, Signer, SigningKey, Store, Times, ZoneKey};
use godwit_dns_plugin::{Clock, SharedView, Zone};
use godwit_redirector::Config;
use godwit_redirector::paths::{Paths, REPLY_LEN_MAX};
use godwit_redirector::static_zone::StaticZone;
use libfuzzer_sys::fuzz_target;
use std::cell::RefCell;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;

const NOW: Time = Time::from_secs(1_800_000_000);

thread_local!(static PATHS: RefCell<[Paths; 2]> = RefCell::new([paths(|_| {}), paths(sign)]));

fn paths(prepare: fn(&SharedView)) -> Paths {
    let fuzz = Path::new(env!("CARGO_MANIFEST_DIR"));
    let zone = StaticZone::open(&fuzz.join("zone.toml")).expect("the zone is sound");
    let config = Config { cookie_secret_file: Some(fuzz.join("cookie_secret")), ..zone.config().clone() };
    let (view, _keeper) = zone.into_view();
    prepare(&view);
    let clock = Clock::Set(Arc::new(NOW.as_millis().into()));
    Paths::at(clock, view, &config).expect("the configuration is sound")
}

/// Signs by a key whose signatures are always the same: ECDSA's are not.
fn sign(view: &SharedView) {
    let key = Arc::new(SigningKey::generate(Algorithm::Ed25519).expect("there is randomness"));
    let key = ZoneKey { key, role: Role::Csk, times: Times::first(NOW, Role::Csk) };
    let (origin, options) = (view.load().zone.origin().clone(), dnssec::Options::default());
    let signer = Signer::new(NOW, &origin, vec![key], options, Store::new(&options)).expect("a key signs");
    view.update(|zone: &Zone| Some(zone.clone().with_signer(Some(Arc::new(signer)))));
}

fuzz_target!(|packet: &[u8]| {
    let sources =
        [SocketAddr::from(([192, 0, 2, 9], 5353)), "[2001:db8:1::9]:5353".parse().expect("an address")];
    PATHS.with_borrow_mut(|zones| {
        for paths in zones {
            // Twice each: what the first has learned the second repeats.
            for source in [sources[0], sources[0], sources[1], sources[1]] {
                let mut out = [0; REPLY_LEN_MAX];
                let said = paths.fast(NOW, packet, source, &mut out);
                let general = paths.general(NOW, packet, source).unwrap_or_default();
                assert_eq!(out[..said.len], general[..], "{source}, by itself: {}", said.by_itself);
            }
        }
    });
});
