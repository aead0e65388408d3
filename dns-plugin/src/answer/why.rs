//! The reasons of a choice as TXT strings.
//!
//! They are for people with `dig` and for support tickets, so each is `name=value` pairs in a fixed
//! order. A client is named by its prefix only, /24 or /56: whoever asks may send any client subnet,
//! and the answer passes resolvers and logs.

use crate::view::View;
use godwit_core::name::SiteName;
use godwit_map::SiteRef;
use ipnet::IpNet;
use serde::Serialize;
use std::net::IpAddr;

/// The longest character string (RFC 1035, 3.3).
const STRING_LEN_MAX: usize = 255;
/// So many replicas are told of: as many as an answer has at most.
const REPLICAS_MAX: usize = 3;

/// The prefix by which a client is named: /24 or /56, as reply limits and logs do.
pub fn client_prefix(client: IpAddr) -> IpNet {
    let len = if client.is_ipv4() { 24 } else { 56 };
    IpNet::new(client, len).map_or(IpNet::from(client), |net| net.trunc())
}

/// The strings for `client` at `site`, each of at most 255 octets.
pub(crate) fn strings(view: &View, site: SiteRef, client: IpAddr) -> Vec<String> {
    let generation = &view.generation;
    let Some(name) = generation.site_at(site).map(|site| SiteName::clone(&site.site)) else {
        return Vec::new();
    };
    let Some(why) = generation.why(client, &name) else { return Vec::new() };
    let scope = generation.choose(site, client).scope;
    let mut strings = vec![
        format!(
            "site={name} generation={} serial={} tier={}",
            why.generation,
            view.serial(),
            word(&why.tier)
        ),
        format!("client={} scope=/{scope} known-by={}", client_prefix(client), word(&why.known.by)),
    ];
    let told = why.replicas.iter().filter(|replica| replica.told).take(REPLICAS_MAX);
    for (replica, place) in told.zip(1..) {
        let reason = match (place, why.kept) {
            (1, true) => "kept",
            (1, false) => "best",
            _ => "as-good",
        };
        let estimate =
            replica.rtt_estimate_us.map(|us| format!(" estimate={}.{}ms", us / 1000, us % 1000 / 100));
        let distance = replica.distance_km.map(|km| format!(" distance={km}km"));
        strings.push(format!(
            "replica={} region={} reason={reason}{} source={}{}",
            replica.name,
            replica.region,
            estimate.unwrap_or_default(),
            word(&replica.source),
            distance.unwrap_or_default(),
        ));
    }
    for string in &mut strings {
        // Names have at most 63 octets each: never needed, and a longer one could not be sent.
        string.truncate(STRING_LEN_MAX);
    }
    strings
}

/// A value by the word that its JSON form has.
pub(crate) fn word(value: &impl Serialize) -> String {
    match serde_json::to_value(value) {
        Ok(serde_json::Value::String(word)) => word,
        Ok(other) => other.to_string(),
        Err(_) => String::new(),
    }
}
