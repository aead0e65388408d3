//! Cookies (RFC 7873, 9018), the name server's identifier (RFC 5001), and what goes with which reply.

use super::{Query, inputs, replied, shared, view};
use godwit_dns_plugin::{Handler, Manners, Secrets};
use hickory_server::net::xfer::Protocol;
use hickory_server::proto::rr::RecordType;

const NOW: u32 = 1_800_000_000;
const CLIENT: [u8; 8] = [1, 2, 3, 4, 5, 6, 7, 8];

fn ask_at(now: u32, from: &str, identifier: &str, query: &Query) -> Vec<u8> {
    let secrets = Secrets::new(&[[9; 16]]);
    let handler = Handler::new(view(shared(&inputs())));
    let handler = handler.with_manners(Manners::new(secrets, identifier.as_bytes()));
    let source = format!("{from}:5353").parse().unwrap();
    replied(now, &handler, &query.bytes(), source, Protocol::Udp).unwrap()
}

fn ask(query: &Query) -> Vec<u8> {
    ask_at(NOW, "192.0.2.9", "ns1", query)
}

/// The options of a reply, in order.
fn options(reply: &[u8]) -> Vec<(u16, Vec<u8>)> {
    let at = reply.windows(3).rposition(|window| window == [0, 0, 41]).unwrap();
    let mut rest = &reply[at + 11..];
    let mut options = Vec::new();
    while let [a, b, 0, len, after @ ..] = rest {
        let (value, next) = after.split_at((*len).into());
        options.push((u16::from_be_bytes([*a, *b]), value.to_vec()));
        rest = next;
    }
    options
}

fn www() -> Query {
    Query::new("www.edge.example.org", RecordType::A)
}

fn with_cookie(name: &str, cookie: &[u8]) -> Query {
    let option = [&[0, 10, 0, cookie.len() as u8], cookie].concat();
    Query::new(name, RecordType::A).edns(1232, 0, &option)
}

fn cookie(reply: &[u8]) -> Option<Vec<u8>> {
    options(reply).into_iter().find(|(code, _)| *code == 10).map(|(_, value)| value)
}

#[test]
fn rfc7873_5_2_3_a_client_cookie_gets_a_server_cookie_that_is_known_again() {
    let first = cookie(&ask(&with_cookie("www.edge.example.org", &CLIENT))).unwrap();
    assert_eq!((first.len(), &first[..8]), (24, &CLIENT[..]));
    assert_eq!(cookie(&ask(&with_cookie("www.edge.example.org", &first))), Some(first.clone()));
    let later = ask_at(NOW + 1900, "192.0.2.9", "", &with_cookie("www.edge.example.org", &first));
    assert_ne!(cookie(&later).unwrap(), first, "RFC 9018, 4.3: renewed after half an hour");
}

#[test]
fn rfc7873_5_2_4_a_wrong_server_cookie_is_answered_with_a_right_one() {
    let right = cookie(&ask(&with_cookie("www.edge.example.org", &CLIENT))).unwrap();
    let mut wrong = right.clone();
    wrong[23] ^= 1;
    let reply = ask(&with_cookie("www.edge.example.org", &wrong));
    assert_eq!((reply[3] & 15, cookie(&reply)), (0, Some(right)));
}

#[test]
fn rfc7873_5_2_2_a_malformed_cookie_is_a_malformed_query() {
    for len in [0, 1, 7, 9, 15, 41] {
        assert_eq!(ask(&with_cookie("www.edge.example.org", &vec![1; len]))[3] & 15, 1, "{len} octets");
    }
}

#[test]
fn rfc5001_2_1_the_identifier_goes_to_who_asks() {
    assert_eq!(options(&ask(&www().edns(1232, 0, &[0, 3, 0, 0]))), [(3, b"ns1".to_vec())]);
    assert_eq!(options(&ask(&www().edns(1232, 0, &[]))), []);
    assert_eq!(options(&ask_at(NOW, "192.0.2.9", "", &www().edns(1232, 0, &[0, 3, 0, 0]))), []);
}

#[test]
fn all_options_come_in_one_order() {
    let asked = [&[0, 3, 0, 0, 0, 10, 0, 8][..], &CLIENT, &[0, 8, 0, 7, 0, 1, 24, 0, 203, 0, 113]].concat();
    let codes: Vec<u16> = options(&ask(&www().edns(1232, 0, &asked))).iter().map(|(code, _)| *code).collect();
    assert_eq!(codes, [8, 10, 3]);
}

#[test]
fn a_refusal_is_no_longer_than_the_query_unless_the_client_has_shown_itself() {
    let option = [&[0, 3, 0, 0, 0, 10, 0, 8][..], &CLIENT].concat();
    let query = Query::new("www.example.net", RecordType::A).edns(1232, 0, &option);
    assert!(ask(&query).len() <= query.bytes().len());
    let right = cookie(&ask(&with_cookie("www.edge.example.org", &CLIENT))).unwrap();
    let reply = ask(&with_cookie("www.example.net", &right));
    assert_eq!((reply[3] & 15, cookie(&reply)), (5, Some(right)));
}

#[test]
fn rfc6891_6_1_3_another_version_is_told_ours() {
    let reply = ask(&www().edns(1232, 0x0001_0000, &[]));
    let at = reply.windows(3).rposition(|window| window == [0, 0, 41]).unwrap();
    assert_eq!((reply[3] & 15, &reply[at + 5..at + 7]), (0, &[1, 0][..]), "BADVERS is 16");
}

#[test]
fn what_is_said_to_clients_that_have_shown_themselves_is_not_cut() {
    // Thirteen name servers with glue are far more than 3.2 times the query.
    let proven = cookie(&ask(&with_cookie("www.edge.example.org", &CLIENT))).unwrap();
    let ns = |cookie: &[u8]| {
        let option = [&[0, 10, 0, cookie.len() as u8], cookie].concat();
        ask(&Query::new("edge.example.org", RecordType::NS).edns(1232, 0, &option))
    };
    let additional = |reply: &[u8]| u16::from_be_bytes([reply[10], reply[11]]);
    let (stranger, known) = (ns(&CLIENT), ns(&proven));
    assert!(additional(&known) >= additional(&stranger));
    assert_eq!(additional(&known), 5, "two name servers, two addresses each, OPT");
}
