//! PowerDNS signs our zone with our keys, and delv validates what it says.

use super::validators::{CONFIG, QUESTIONS, at, delv_agrees_at, key, run, settled, there};
use super::{inputs, peers, shared};
use godwit_dns_plugin::dnssec::{self, Algorithm, Role, Signer, Store, Times, ZoneKey};
use godwit_dns_plugin::zone::config::ZoneConfig;
use godwit_dns_plugin::{Options, SharedView, Zone};
use std::sync::Arc;

const ZONE: &str = "edge.example.org";

fn signed(keys: &[ZoneKey]) -> SharedView {
    let config: ZoneConfig = toml::from_str(CONFIG).unwrap();
    let zone = Zone::configured(&ZONE.parse().unwrap(), Options::default(), &config, 1).unwrap();
    let (origin, options) = (zone.origin().clone(), dnssec::Options::default());
    let signer = Signer::new(at(0), &origin, keys.to_vec(), options, Store::new(&options)).unwrap();
    SharedView::new(shared(&inputs()), zone.with_signer(Some(Arc::new(signer))))
}

#[test]
fn powerdns_signs_with_our_keys() {
    if !there("delv", "bind9-dnsutils") || !there("dig", "bind9-dnsutils") {
        return;
    }
    let month = -30 * 86_400;
    let schemes = [
        vec![settled(Role::Csk)],
        vec![settled(Role::Ksk), settled(Role::Zsk)],
        vec![key(Role::Csk, Algorithm::Ed25519, Times::first(at(month), Role::Csk))],
    ];
    for keys in schemes {
        let Some(server) = peers::powerdns(signed(&keys), "remote-dnssec=yes\n") else { return };
        delv_agrees_at(server.port, &QUESTIONS, &[&keys[0]]);
        let port = server.port.to_string();
        let cds = run("dig", &["@127.0.0.1", "-p", &port, "+short", ZONE, "CDS"]);
        assert!(cds.starts_with(&keys[0].public().tag().to_string()) && cds.lines().count() == 1, "{cds}");
    }
}

#[test]
fn powerdns_signs_through_a_rollover_and_asks_to_delete() {
    if !there("delv", "bind9-dnsutils") || !there("dig", "bind9-dnsutils") {
        return;
    }
    let new = |from: i64, ds_from: i64| {
        let times = Times { ds_from: Some(at(ds_from)), ..Times::first(at(from), Role::Csk) };
        key(Role::Csk, Algorithm::EcdsaP256, times)
    };
    let mut keys = vec![settled(Role::Csk), new(-60, 3600)];
    let some = &QUESTIONS[..6];
    let Some(server) = peers::powerdns(signed(&keys), "remote-dnssec=yes\n") else { return };
    // Both sign, and nobody is asked for while only one shall be.
    delv_agrees_at(server.port, some, &[&keys[0]]);
    delv_agrees_at(server.port, some, &[&keys[1]]);
    let cds = |port: u16| run("dig", &["@127.0.0.1", "-p", &port.to_string(), "+short", ZONE, "CDS"]);
    assert_eq!(cds(server.port), "");
    drop(server);
    keys.truncate(1);
    keys[0].times.ds_delete = Some(at(-1));
    let Some(server) = peers::powerdns(signed(&keys), "remote-dnssec=yes\n") else { return };
    delv_agrees_at(server.port, some, &[&keys[0]]);
    assert_eq!(cds(server.port).trim(), "0 0 0 00", "RFC 8078, 4");
}
