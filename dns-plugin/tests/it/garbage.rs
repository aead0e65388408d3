//! Whatever comes in: no panic, and nothing longer out than allowed.

use super::{Query, inputs, reply, shared};
use godwit_dns_plugin::screen::{Screened, reject, screen};
use hickory_server::net::xfer::Protocol;
use hickory_server::proto::rr::RecordType;
use proptest::prelude::*;

fn sound() -> impl Strategy<Value = Vec<u8>> {
    let names = prop::sample::select(vec![
        "www.edge.example.org",
        "edge.example.org",
        "nosuch.edge.example.org",
        "x.y",
    ]);
    let kinds = prop::sample::select(vec![RecordType::A, RecordType::AAAA, RecordType::NS, RecordType::ANY]);
    let subnet = prop::collection::vec(any::<u8>(), 0..24);
    (names, kinds, prop::option::of(subnet)).prop_map(|(name, kind, subnet)| match subnet {
        Some(subnet) => Query::new(name, kind).subnet(&subnet).bytes(),
        None => Query::new(name, kind).bytes(),
    })
}

/// A sound query with some octets changed, cut or added.
fn damaged() -> impl Strategy<Value = Vec<u8>> {
    let changes = prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..8);
    let tail = prop::collection::vec(any::<u8>(), 0..16);
    (sound(), changes, any::<prop::sample::Index>(), any::<bool>(), tail).prop_map(
        |(mut bytes, changes, at, cut, tail)| {
            for (at, value) in changes {
                let at = at.index(bytes.len());
                bytes[at] = value;
            }
            if cut {
                bytes.truncate(at.index(bytes.len()));
            }
            bytes.extend(tail);
            bytes
        },
    )
}

fn check(packet: &[u8]) -> Result<(), TestCaseError> {
    let shared = shared(&inputs());
    if let Some(reply) = reply(&shared, packet, Protocol::Udp) {
        let limit = if packet.windows(3).any(|window| window == [0, 0, 41]) { 1232 } else { 512 };
        prop_assert!(reply.len() <= limit, "{} octets", reply.len());
        prop_assert_eq!(&reply[..2], &packet[..2], "the id comes back");
        prop_assert_eq!(reply[2] & 0x80, 0x80, "a reply is a response");
        prop_assert_eq!(packet[2] & 0x80, 0, "responses are not replied to");
    }
    match screen(packet) {
        Screened::Silent(_) => prop_assert!(packet.len() < 12 || packet[2] & 0x80 != 0),
        Screened::Reject { code, edns } => {
            let reply = reject(packet, code, edns).unwrap();
            let len = if edns { 23 } else { 12 };
            prop_assert_eq!(reply.len(), len);
            prop_assert!(reply.len() <= packet.len());
        }
        Screened::Pass(_) => prop_assert_eq!(&packet[4..6], &[0, 1]),
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]
    #[test]
    fn noise(packet in prop::collection::vec(any::<u8>(), 0..600)) {
        check(&packet)?;
    }

    #[test]
    fn damaged_queries(packet in damaged()) {
        check(&packet)?;
    }
}
