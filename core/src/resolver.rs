//! Resolvers whose clients nobody names, and how far they are from the nodes.
//!
//! A query without a client subnet (RFC 7871) is answered by the address of the resolver that sent
//! it. Clients of it may be served and measured all day under prefixes of their own: what decides
//! for the resolver is what is known of *its* prefix, and nobody there fetches anything. So it is
//! measured itself, where operators want that:
//!
//! 1. Redirectors count who asks without a client subnet ([`Askers`]) and tell the members the
//!    heaviest, [`ASKED_MAX`] at most. That is a statement of [`ASKED_KIND`]; only members that are
//!    redirectors by their certificate are heard.
//! 2. Each node whose operator has agreed measures those that it may ([`Rules`]), a few at a time
//!    and seldom ([`Prober`]), and tells what it found: a statement of [`FOUND_KIND`], at most
//!    [`FOUND_MAX`] prefixes; only nodes are heard.
//!
//! Both are soft state with a lifetime. So all redirectors hold the same findings whoever asked for
//! them, and decide alike. What a finding counts for is the map's business.
//!
//! *What bounds the harm of a forged source address*: a stranger that nobody asked for is measured
//! only when it is among the heaviest askers for a while, and then with one packet of each node in
//! [`Pace::again`]. An attacker spends far more packets to get it there.

mod askers;
mod pace;
mod prober;
mod rules;

pub use askers::{ASKERS_MAX, Askers};
pub use pace::Pace;
pub use prober::{Input, Method, Outcome, Probe, Prober};
pub use rules::{Rules, is_public, prefix_of};

use crate::observation::ClientRtt;
use crate::wire;
use std::net::IpAddr;

/// The kind of statement by which redirectors ask for resolvers to be measured.
pub const ASKED_KIND: u16 = 5;
/// The kind of statement by which nodes tell what they found.
pub const FOUND_KIND: u16 = 6;
/// At most so many resolvers are asked for by one redirector: 1 to 5 KiB of a record's 32. The few
/// hundred largest resolvers of a zone send most of its queries.
pub const ASKED_MAX: usize = 256;
/// At most so many prefixes are measured and told by one node, whoever asked: two redirectors with
/// nothing in common, and 6 to 12 KiB. At a probe a second each has its turn within nine minutes.
pub const FOUND_MAX: usize = 512;

/// The version of both forms.
const VERSION: u8 = 1;

/// The form in which resolvers are asked for, the heaviest first; what is beyond [`ASKED_MAX`] is
/// left out.
pub fn encode_asked(resolvers: &[IpAddr]) -> Vec<u8> {
    encode(&resolvers[..resolvers.len().min(ASKED_MAX)])
}

/// Reads what [`encode_asked`] of this or a later version wrote; `None` for anything else.
pub fn decode_asked(bytes: &[u8]) -> Option<Vec<IpAddr>> {
    decode::<Vec<IpAddr>>(bytes).filter(|resolvers| resolvers.len() <= ASKED_MAX)
}

/// The form in which findings are told, sorted by prefix; what is beyond [`FOUND_MAX`] is left out.
pub fn encode_found(found: &[ClientRtt]) -> Vec<u8> {
    encode(&found[..found.len().min(FOUND_MAX)])
}

/// Reads what [`encode_found`] of this or a later version wrote: sorted by prefix, each once; `None`
/// for anything else.
pub fn decode_found(bytes: &[u8]) -> Option<Vec<ClientRtt>> {
    let found: Vec<ClientRtt> = decode(bytes)?;
    let sorted = found.is_sorted_by(|a, b| a.prefix < b.prefix);
    (sorted && found.len() <= FOUND_MAX).then_some(found)
}

/// The resolvers to be measured when these lists are asked for: of each list the heaviest first, in
/// turn, until there are [`FOUND_MAX`] prefixes; one address of each. Sorted by address.
pub fn wanted<'a>(lists: impl IntoIterator<Item = &'a [IpAddr]>) -> Vec<IpAddr> {
    let lists: Vec<&[IpAddr]> = lists.into_iter().collect();
    let longest = lists.iter().map(|list| list.len()).max().unwrap_or(0);
    let in_turn = (0..longest).flat_map(|at| lists.iter().filter_map(move |list| list.get(at)));
    let mut prefixes = std::collections::BTreeMap::new();
    for address in in_turn {
        if prefixes.len() < FOUND_MAX || prefixes.contains_key(&prefix_of(*address)) {
            // Whoever names the prefix first: lists come in the order of their members.
            prefixes.entry(prefix_of(*address)).or_insert(address.to_canonical());
        }
    }
    let mut wanted: Vec<IpAddr> = prefixes.into_values().collect();
    wanted.sort_unstable();
    wanted
}

fn encode<T: serde::Serialize + ?Sized>(list: &T) -> Vec<u8> {
    let mut bytes = vec![VERSION];
    bytes.extend(wire::encode(&list));
    bytes
}

fn decode<T: serde::de::DeserializeOwned>(bytes: &[u8]) -> Option<T> {
    let (version, fields) = bytes.split_first()?;
    if *version < VERSION {
        return None;
    }
    wire::decode_start(fields, wire::RECORD_LEN_MAX).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn v6(n: u32) -> IpAddr {
        IpAddr::from([0x2a00, n as u16, (n >> 16) as u16, 0, 0, 0, 0, 0x53])
    }

    #[test]
    fn what_is_read_is_what_was_written_and_in_bounds() {
        let resolvers: Vec<IpAddr> = (0..300).map(v6).collect();
        let bytes = encode_asked(&resolvers);
        assert_eq!(decode_asked(&bytes).unwrap(), resolvers[..ASKED_MAX]);
        let mut found: Vec<ClientRtt> =
            (0..600).map(|n| ClientRtt::new(prefix_of(v6(n)), u32::MAX)).collect();
        found.sort_unstable();
        let told = encode_found(&found);
        assert_eq!(decode_found(&told).unwrap(), found[..FOUND_MAX]);
        for bytes in [&bytes, &told] {
            assert!(bytes.len() < wire::RECORD_LEN_MAX - 256, "{}", bytes.len());
        }
    }

    #[test]
    fn what_is_malformed_or_too_long_is_refused() {
        assert_eq!(decode_asked(&[]), None);
        assert_eq!(decode_asked(&[0, 0]), None);
        assert_eq!(decode_found(&[1, 255, 255, 255]), None);
        let many: Vec<IpAddr> = (0..=ASKED_MAX as u32).map(v6).collect();
        assert_eq!(decode_asked(&encode(&many)), None);
        let twice = [ClientRtt::new(prefix_of(v6(1)), 1), ClientRtt::new(prefix_of(v6(1)), 2)];
        assert_eq!(decode_found(&encode_found(&twice)), None);
    }

    #[test]
    fn each_list_has_its_turn_and_each_prefix_one_address() {
        let first: Vec<IpAddr> = (0..600).map(v6).collect();
        let second: Vec<IpAddr> =
            ["192.0.2.9", "192.0.2.1", "::ffff:198.51.100.1"].map(|text| text.parse().unwrap()).to_vec();
        let wanted = wanted([&first[..], &second]);
        assert_eq!(wanted.len(), FOUND_MAX);
        assert!(wanted.is_sorted());
        let v4: Vec<String> = wanted.iter().filter(|ip| ip.is_ipv4()).map(IpAddr::to_string).collect();
        assert_eq!(v4, ["192.0.2.9", "198.51.100.1"]);
    }
}
