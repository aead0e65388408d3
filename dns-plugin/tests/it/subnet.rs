//! Client subnets (RFC 7871).

use super::{Query, addresses, ask, inputs, reply, shared};
use hickory_server::net::xfer::Protocol;
use hickory_server::proto::rr::RecordType;

/// The client subnet option of a reply, octet by octet; `None` without one.
fn option(query: &Query) -> Option<Vec<u8>> {
    let reply = reply(&shared(&inputs()), &query.bytes(), Protocol::Udp).unwrap();
    // The OPT record is the last; its options are, too.
    let at = reply.windows(3).rposition(|window| window == [0, 0, 41])?;
    let options = &reply[at + 11..];
    match options {
        [0, 8, high, low, value @ ..] => {
            assert_eq!(value.len(), usize::from(u16::from_be_bytes([*high, *low])));
            Some(value.to_vec())
        }
        [] => None,
        other => panic!("{other:?}"),
    }
}

fn www() -> Query {
    Query::new("www.edge.example.org", RecordType::A)
}

#[test]
fn rfc7871_7_2_1_no_option_in_no_option_out() {
    assert_eq!(option(&www()), None);
    assert_eq!(option(&www().edns(1232, 0, &[])), None);
}

#[test]
fn rfc7871_7_2_1_family_source_and_address_come_back_with_the_scope() {
    let check = |asked: &[u8], scope: u8| {
        let mut expected = asked.to_vec();
        expected[3] = scope;
        assert_eq!(option(&www().subnet(asked)), Some(expected));
    };
    // A run of its own: the whole /24 is in Paris.
    check(&[0, 1, 24, 0, 203, 0, 113], 24);
    check(&[0, 1, 32, 0, 203, 0, 113, 9], 24);
    // Half a /24 is in Tokyo, so that the answer for its first address holds for that half only.
    check(&[0, 1, 24, 0, 198, 51, 100], 25);
    check(&[0, 1, 13, 0, 203, 0], 24);
    // Not in the database: by hash of the /24 or /48.
    check(&[0, 1, 24, 0, 192, 0, 2], 24);
    check(&[0, 1, 8, 0, 100], 24);
    check(&[0, 2, 56, 0, 0x3f, 0xff, 0, 0, 0, 0, 0], 48);
    check(&[0, 2, 56, 0, 0x20, 1, 0x0d, 0xb8, 0, 0, 0], 32);
}

#[test]
fn rfc7871_7_2_1_a_source_prefix_of_zero_has_scope_zero() {
    assert_eq!(option(&www().subnet(&[0, 1, 0, 0])), Some(vec![0, 1, 0, 0]));
    assert_eq!(option(&www().subnet(&[0, 2, 0, 0])), Some(vec![0, 2, 0, 0]));
    let message = ask(&www().subnet(&[0, 1, 0, 0]));
    assert_eq!(addresses(&message), addresses(&ask(&www())), "as if by the resolver's own address");
}

#[test]
fn rfc7871_7_2_1_what_is_the_same_for_everybody_has_scope_zero() {
    for (name, kind) in [
        ("edge.example.org", RecordType::NS),
        ("n-paris.node.edge.example.org", RecordType::A),
        ("nosuch.edge.example.org", RecordType::A),
        ("www.edge.example.org", RecordType::TXT),
        ("www.example.com", RecordType::A),
    ] {
        let query = Query::new(name, kind).subnet(&[0, 1, 24, 0, 203, 0, 113]);
        assert_eq!(option(&query), Some(vec![0, 1, 24, 0, 203, 0, 113]), "{name}");
    }
}

#[test]
fn rfc7871_7_1_2_malformed_options_are_a_format_error() {
    use godwit_dns_plugin::screen::{Screened, screen};
    let bad: [(&str, &[u8]); 12] = [
        ("empty", &[]),
        ("cut short", &[0, 1, 24]),
        ("too few octets", &[0, 1, 24, 0, 203, 0]),
        ("too many octets", &[0, 1, 24, 0, 203, 0, 113, 0]),
        ("bits beyond the prefix", &[0, 1, 20, 0, 203, 0, 113]),
        ("a scope in a query", &[0, 1, 24, 24, 203, 0, 113]),
        ("IPv4 prefix over 32", &[0, 1, 33, 0, 203, 0, 113, 1, 0]),
        ("IPv6 prefix over 128", &[0, 2, 129, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]),
        ("unknown family", &[0, 3, 24, 0, 203, 0, 113]),
        ("family zero", &[0, 0, 0, 0]),
        ("octets for a prefix of zero", &[0, 1, 0, 0, 0]),
        ("IPv6 bits beyond the prefix", &[0, 2, 44, 0, 0x20, 1, 0x0d, 0xb8, 0, 1]),
    ];
    for (what, value) in bad {
        let query = www().subnet(value).bytes();
        let Screened::Reject { code, edns } = screen(&query) else { panic!("{what} passes") };
        assert_eq!((u16::from(code), edns), (1, true), "{what}");
        if let Some(reply) = reply(&shared(&inputs()), &query, Protocol::Udp) {
            assert_eq!((reply[3] & 15, reply.len()), (1, 23), "{what}");
        }
    }
    let twice = [0, 8, 0, 7, 0, 1, 24, 0, 203, 0, 113].repeat(2);
    assert!(matches!(screen(&www().edns(1232, 0, &twice).bytes()), Screened::Reject { .. }), "two subnets");
}

#[test]
fn the_subnet_decides_and_not_the_resolver() {
    let tokyo = ask(&www().subnet(&[0, 1, 25, 0, 198, 51, 100, 0]));
    let paris = ask(&www().subnet(&[0, 1, 24, 0, 203, 0, 113]));
    assert_eq!(
        (addresses(&tokyo), addresses(&paris)),
        (vec!["198.18.0.2".into()], vec!["198.18.0.1".into()])
    );
}
