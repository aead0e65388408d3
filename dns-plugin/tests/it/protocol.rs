//! The protocol around the answer, clause by clause.

use super::{Query, ask, ask_in, inputs, reply, shared};
use godwit_core::certificate::{Role, Serial};
use hickory_server::net::xfer::Protocol;
use hickory_server::proto::op::{Message, ResponseCode};
use hickory_server::proto::rr::{RData, RecordType};

const WWW: &str = "www.edge.example.org";

fn www() -> Query {
    Query::new(WWW, RecordType::A)
}

fn code(query: &Query) -> ResponseCode {
    ask(query).metadata.response_code
}

#[test]
fn rfc1035_4_1_1_id_and_rd_come_back_aa_is_set_ra_is_not() {
    let message = ask(&www());
    assert_eq!((message.metadata.id, message.queries.len()), (0x1234, 1));
    let m = message.metadata;
    assert!(m.recursion_desired && m.authoritative && !m.recursion_available && !m.truncation);
    assert!(!ask(&Query { flags: [0, 0], ..www() }).metadata.recursion_desired);
}

#[test]
fn draft_vixie_dnsext_dns0x20_the_case_of_the_name_comes_back() {
    let name = "wWw.eDGe.exAMPle.ORg";
    let query = Query::new(name, RecordType::A).bytes();
    let reply = reply(&shared(&inputs()), &query, Protocol::Udp).unwrap();
    assert_eq!(
        reply[12..12 + name.len() + 6],
        query[12..12 + name.len() + 6],
        "the question, octet by octet"
    );
    let message = Message::from_vec(&reply).unwrap();
    assert_eq!(message.answers[0].name.to_string(), format!("{name}."));
    let negative = ask(&Query::new("x.eDGe.exAMPle.ORg", RecordType::A));
    assert_eq!(negative.authorities[0].name.to_string(), "eDGe.exAMPle.ORg.");
}

#[test]
fn names_out_of_the_zone_are_refused_without_records() {
    for name in ["example.org", "www.example.org", "edge.example.com", "", "wwwedge.example.org"] {
        let message = ask(&Query::new(name, RecordType::A));
        assert_eq!(message.metadata.response_code, ResponseCode::Refused, "{name}");
        assert!(!message.metadata.authoritative && message.authorities.is_empty());
    }
}

#[test]
fn rfc1035_3_2_4_classes_other_than_internet_are_refused() {
    assert_eq!(code(&Query { class: 3, ..www() }), ResponseCode::Refused);
    assert_eq!(code(&Query { class: 255, ..www() }), ResponseCode::NoError);
}

#[test]
fn rfc1035_4_1_1_other_opcodes_are_not_implemented() {
    for opcode in [1u8, 2, 4, 5, 6, 15] {
        let bytes = Query { flags: [opcode << 3 | 1, 0], ..www() }.bytes();
        // hickory's own parser may refuse what an opcode makes of the sections: then nothing.
        let Some(reply) = reply(&shared(&inputs()), &bytes, Protocol::Udp) else { continue };
        assert_eq!(reply[3] & 15, 4, "opcode {opcode}");
        assert_eq!(reply.len(), 12);
    }
}

#[test]
fn a_response_is_never_answered() {
    let bytes = Query { flags: [0x81, 0], ..www() }.bytes();
    assert_eq!(reply(&shared(&inputs()), &bytes, Protocol::Udp), None);
}

#[test]
fn rfc9619_one_question_and_no_other_number() {
    for count in [0u8, 2, 255] {
        let mut bytes = www().bytes();
        let question = bytes[12..].to_vec();
        bytes[5] = count;
        bytes.truncate(12);
        (0..count).for_each(|_| bytes.extend(&question));
        let reply = reply(&shared(&inputs()), &bytes, Protocol::Udp).unwrap();
        assert_eq!((reply.len(), reply[3] & 15), (12, 1), "{count} questions");
    }
}

#[test]
fn rfc5936_2_2_1_transfers_are_refused() {
    assert_eq!(code(&Query::new("edge.example.org", RecordType::AXFR)), ResponseCode::Refused);
    assert_eq!(code(&Query::new("edge.example.org", RecordType::IXFR)), ResponseCode::Refused);
}

#[test]
fn rfc6895_3_1_types_about_messages_are_not_asked_for() {
    assert_eq!(code(&Query { kind: 41, ..www() }), ResponseCode::FormErr);
    assert_eq!(code(&Query { kind: 250, ..www() }), ResponseCode::NotImp);
    assert_eq!(code(&Query { kind: 65_280, ..www() }), ResponseCode::NoError, "unknown type: no data");
}

#[test]
fn rfc6891_6_1_1_an_opt_for_an_opt_and_none_for_none() {
    assert_eq!(ask(&www()).edns, None);
    let edns = ask(&www().edns(4096, 0, &[])).edns.unwrap();
    assert_eq!((edns.max_payload(), edns.version(), edns.flags().dnssec_ok), (1232, 0, false));
    assert!(edns.options().as_ref().is_empty());
}

#[test]
fn rfc3225_3_the_do_bit_is_copied() {
    assert!(ask(&www().edns(1232, 0x8000, &[])).edns.unwrap().flags().dnssec_ok);
}

#[test]
fn rfc6891_6_1_2_unknown_options_and_flags_are_ignored() {
    let message = ask(&www().edns(1232, 0x7fff, &[0xfd, 0xe9, 0, 3, 1, 2, 3, 0, 12, 0, 0]));
    assert_eq!(message.metadata.response_code, ResponseCode::NoError);
    assert!(message.edns.unwrap().options().as_ref().is_empty());
}

#[test]
fn rfc6891_6_1_1_two_opts_are_a_format_error() {
    let bytes = www().edns(1232, 0, &[]).edns(1232, 0, &[]).bytes();
    // hickory's parser refuses it before the handler: its server answers FORMERR.
    assert_eq!(reply(&shared(&inputs()), &bytes, Protocol::Udp), None);
    let screened = godwit_dns_plugin::screen::screen(&bytes);
    let reject = godwit_dns_plugin::screen::Screened::Reject { code: ResponseCode::FormErr, edns: false };
    assert_eq!(screened, reject);
}

#[test]
fn rfc6891_6_1_3_other_versions_are_badvers() {
    let message = ask(&www().edns(1232, 1 << 16, &[]));
    // 16 is BADVERS here and BADSIG in a signed message; the parser cannot know which.
    assert_eq!(u16::from(message.metadata.response_code), u16::from(ResponseCode::BADVERS));
    assert_eq!(message.edns.unwrap().version(), 0);
    assert!(message.answers.is_empty() && message.queries.len() == 1);
}

#[test]
fn rfc6891_6_1_2_an_option_cut_short_is_a_format_error() {
    for options in [&[0u8, 3, 0, 5, 1][..], &[0, 3, 0], &[0]] {
        let bytes = www().edns(1232, 0, options).bytes();
        let screened = godwit_dns_plugin::screen::screen(&bytes);
        let reject = godwit_dns_plugin::screen::Screened::Reject { code: ResponseCode::FormErr, edns: false };
        assert_eq!(screened, reject, "{options:?}");
    }
}

#[test]
fn what_is_left_over_after_the_message_is_a_format_error() {
    let mut bytes = www().bytes();
    bytes.push(0);
    let reply = reply(&shared(&inputs()), &bytes, Protocol::Udp).unwrap();
    assert_eq!((reply.len(), reply[3] & 15), (12, 1));
}

/// A zone with so many name servers that their names do not fit.
fn crowded() -> godwit_map::Inputs {
    let mut inputs = inputs();
    let template = inputs.members[2].clone();
    for n in 10..23u8 {
        let mut member = template.clone();
        member.id = godwit_core::key::SecretKey::from_seed(&[n; 32]).public();
        member.serial = Serial(u64::from(n));
        member.name = format!("{n}-{}", "a".repeat(59)).parse().unwrap();
        member.roles = vec![Role::Redirector];
        inputs.members.push(member);
    }
    inputs
}

#[test]
fn rfc2181_9_what_does_not_fit_goes_empty_with_tc() {
    let shared = shared(&crowded());
    let query = Query::new("edge.example.org", RecordType::NS);
    for (query, limit) in [(query.clone(), 512), (query.clone().edns(65_535, 0, &[]), 1232)] {
        let packet = query.bytes();
        let reply = reply(&shared, &packet, Protocol::Udp).unwrap();
        assert!(reply.len() <= limit);
        let message = Message::from_vec(&reply).unwrap();
        if limit == 512 {
            assert!(message.metadata.truncation && message.answers.is_empty());
            assert!(reply.len() <= packet.len());
        }
        let tcp = ask_in(&shared, &query, Protocol::Tcp);
        assert_eq!(tcp.answers.len(), 13);
        assert_eq!(tcp.additionals.len(), 26, "all the glue");
    }
}

#[test]
fn a_forged_query_gains_at_most_3_2_times_its_length() {
    let mut inputs = inputs();
    let mut shared_now = shared(&inputs);
    // Three replicas that are as good as each other.
    for n in 5..7u8 {
        let mut node = inputs.members[0].clone();
        node.id = godwit_core::key::SecretKey::from_seed(&[n; 32]).public();
        node.serial = Serial(u64::from(n));
        node.name = format!("n{n}").parse().unwrap();
        inputs.members.push(node);
        shared_now = shared(&inputs);
    }
    let names = ["", "www.", "nosuch.", "node.", "n-paris.node.", "paris.region.", "a.b.c."];
    let kinds =
        [RecordType::A, RecordType::AAAA, RecordType::NS, RecordType::SOA, RecordType::ANY, RecordType::TXT];
    for (name, kind) in names.iter().flat_map(|name| kinds.map(|kind| (name, kind))) {
        let plain = Query::new(&format!("{name}edge.example.org"), kind);
        for query in [
            plain.clone(),
            plain.clone().edns(65_535, 0x8000, &[]),
            plain.subnet(&[0, 1, 24, 0, 203, 0, 113]),
        ] {
            let packet = query.bytes();
            let reply = reply(&shared_now, &packet, Protocol::Udp).unwrap();
            assert!(
                reply.len() * 10 <= packet.len() * 32,
                "{name} {kind}: {} for {}",
                reply.len(),
                packet.len()
            );
        }
    }
}

#[test]
fn glue_is_compressed_against_the_question() {
    let tcp = ask_in(&shared(&inputs()), &Query::new("EDGE.example.org", RecordType::NS), Protocol::Tcp);
    let RData::NS(first) = &tcp.answers[0].data else { panic!() };
    assert_eq!(first.0.to_string(), "r-paris.node.EDGE.example.org.");
}
