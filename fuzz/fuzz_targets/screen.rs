//! Any packet: what is decided on its raw bytes holds, and what is said in EDNS options reads back.

#![no_main]

use godwit_dns_plugin::screen::{HEADER_LEN, Opt, Query, Screened, Silence, other_version, reject, screen};
use godwit_dns_plugin::{Manners, OPTIONS_LEN_MAX, Secrets, client, opt_head};
use libfuzzer_sys::fuzz_target;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::LazyLock;

const NOW: u32 = 1_800_000_000;
const SOURCES: [IpAddr; 2] =
    [IpAddr::V4(Ipv4Addr::new(192, 0, 2, 9)), IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 9))];
const OPT_LEN: usize = 11;

static MANNERS: LazyLock<Manners> = LazyLock::new(|| Manners::new(Secrets::new(&[[9; 16]]), b"ns1"));

fuzz_target!(|packet: &[u8]| match screen(packet) {
    Screened::Silent(Silence::Short) => assert!(packet.len() < HEADER_LEN),
    Screened::Silent(Silence::Response) => assert_ne!(packet[2] & 0x80, 0),
    Screened::Reject { code, edns } => {
        let reply = reject(packet, code, edns).expect("what is rejected has a header");
        assert_eq!(reply.len(), HEADER_LEN + if edns { OPT_LEN } else { 0 });
        assert!(reply.len() <= packet.len(), "garbage is never worth sending");
        check_reply(packet, &reply);
    }
    Screened::Pass(query) => {
        check_question(packet, &query);
        if let Some(reply) = other_version(packet, &query) {
            check_reply(packet, &reply);
        }
        if let Some(opt) = &query.edns {
            SOURCES.iter().for_each(|source| check_options(packet, &query, opt, *source));
        }
    }
});

/// A reply has its query's identifier, and would get no reply itself.
fn check_reply(packet: &[u8], reply: &[u8]) {
    assert_eq!(reply[..2], packet[..2]);
    assert_eq!(screen(reply), Screened::Silent(Silence::Response));
}

/// The question is where the query says it is.
fn check_question(packet: &[u8], query: &Query) {
    assert!((1..=255).contains(&query.name_len));
    let (name, rest) = packet[HEADER_LEN..].split_at(query.name_len);
    assert_eq!(name.last(), Some(&0));
    assert_eq!(rest[..2], query.kind.to_be_bytes());
    assert_eq!(rest[2..4], query.class.to_be_bytes());
}

/// The options of a reply are as long as was said, would be sound in a query, say the same client
/// subnet, and have a cookie that proves where the client is.
fn check_options(packet: &[u8], query: &Query, opt: &Opt, source: IpAddr) {
    let said = MANNERS.say(NOW, opt, source);
    let mut options = [0; OPTIONS_LEN_MAX];
    let len = MANNERS.options(opt, &said, 0, &mut options);
    assert_eq!(len, MANNERS.options_len(opt, &said));
    let mut again = packet[..HEADER_LEN + query.name_len + 4].to_vec();
    again[4..HEADER_LEN].copy_from_slice(&[0, 1, 0, 0, 0, 0, 0, 1]);
    again.extend(opt_head(0, 0, len));
    again.extend(&options[..len]);
    let Screened::Pass(Query { edns: Some(read), .. }) = screen(&again) else {
        panic!("our own options are not sound: {:?}", screen(&again));
    };
    assert_eq!(read.subnet, opt.subnet);
    assert_eq!(client(Some(&read), source), client(Some(opt), source));
    assert_eq!(read.identify, opt.identify);
    assert_eq!(read.cookie.is_some(), opt.cookie.is_some() && opt.version == 0);
    assert_eq!(MANNERS.say(NOW, &read, source).proven, read.cookie.is_some());
}
