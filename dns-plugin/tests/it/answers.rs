//! What each name is answered with.

use super::{Query, addresses, ask, ask_in, inputs, shared};
use godwit_map::Health;
use hickory_server::net::xfer::Protocol;
use hickory_server::proto::op::{Message, ResponseCode};
use hickory_server::proto::rr::{RData, RecordType};

fn check(name: &str, kind: RecordType, code: ResponseCode, answers: &[&str]) -> Message {
    let message = ask(&Query::new(name, kind));
    assert_eq!(message.metadata.response_code, code, "{name} {kind}");
    assert!(message.metadata.authoritative, "{name} {kind}");
    let found: Vec<String> = message.answers.iter().map(|record| record.data.to_string()).collect();
    assert_eq!(found, answers, "{name} {kind}");
    // RFC 2308, 2: a negative answer has the SOA, a positive one does not need it.
    let soa = message.authorities.iter().filter(|record| matches!(record.data, RData::SOA(_))).count();
    assert_eq!(soa, usize::from(answers.is_empty()), "{name} {kind}");
    message
}

const SOA: &str = "edge.example.org. hostmaster.edge.example.org. 17 3600 600 604800 5";

#[test]
fn members_and_regions_have_addresses() {
    use RecordType::{A, AAAA, TXT};
    let ok = ResponseCode::NoError;
    check("n-paris.node.edge.example.org", A, ok, &["198.18.0.1"]);
    check("n-paris.node.edge.example.org", AAAA, ok, &["fd67::1"]);
    check("r-tokyo.node.edge.example.org", A, ok, &["198.18.0.4"]);
    check("paris.region.edge.example.org", A, ok, &["198.18.0.1"]);
    check("tokyo.region.edge.example.org", AAAA, ok, &["fd67::2"]);
    check("n-paris.node.edge.example.org", TXT, ok, &[]);
}

#[test]
fn the_apex_has_soa_and_name_servers_with_glue() {
    let ok = ResponseCode::NoError;
    check("edge.example.org", RecordType::SOA, ok, &[SOA]);
    check("edge.example.org", RecordType::A, ok, &[]);
    let servers = ["r-paris.node.edge.example.org.", "r-tokyo.node.edge.example.org."];
    let udp = check("edge.example.org", RecordType::NS, ok, &servers);
    // Over UDP as much glue as does not make a forged query worth sending.
    assert!(udp.additionals.len() < 4);
    let tcp = ask_in(&shared(&inputs()), &Query::new("edge.example.org", RecordType::NS), Protocol::Tcp);
    let glue: Vec<String> = tcp.additionals.iter().map(|record| record.to_string()).collect();
    assert_eq!(
        glue,
        [
            "r-paris.node.edge.example.org. 60 IN A 198.18.0.3",
            "r-tokyo.node.edge.example.org. 60 IN A 198.18.0.4",
            "r-paris.node.edge.example.org. 60 IN AAAA fd67::3",
            "r-tokyo.node.edge.example.org. 60 IN AAAA fd67::4",
        ]
    );
}

#[test]
fn rfc2308_2_1_a_name_that_is_not_there_is_nxdomain_with_soa() {
    let no = ResponseCode::NXDomain;
    for name in ["nosuch", "a.www", "nosuch.node", "nosuch.region", "a.n-paris.node", "ns", "x.y.z", "*"] {
        check(&format!("{name}.edge.example.org"), RecordType::A, no, &[]);
    }
}

#[test]
fn rfc8020_2_an_empty_non_terminal_is_no_nxdomain() {
    for name in ["node.edge.example.org", "region.edge.example.org"] {
        for kind in [RecordType::A, RecordType::NS, RecordType::ANY] {
            check(name, kind, ResponseCode::NoError, &[]);
        }
    }
}

#[test]
fn rfc2308_5_negative_answers_are_kept_as_long_as_the_soa_says() {
    let message = ask(&Query::new("nosuch.edge.example.org", RecordType::A));
    let RData::SOA(soa) = &message.authorities[0].data else { panic!("{message}") };
    assert_eq!((message.authorities[0].ttl, soa.minimum), (5, 5));
}

#[test]
fn rfc8482_4_2_any_is_answered_with_hinfo() {
    check("www.edge.example.org", RecordType::ANY, ResponseCode::NoError, &["RFC8482 "]);
    check("edge.example.org", RecordType::ANY, ResponseCode::NoError, &["RFC8482 "]);
}

#[test]
fn a_site_is_answered_with_the_nearest_replica_and_a_short_ttl() {
    let check = |subnet: &[u8], kind, expected: &str| {
        let message = ask(&Query::new("www.edge.example.org", kind).subnet(subnet));
        assert_eq!(addresses(&message), [expected]);
        assert_eq!(message.answers[0].ttl, 5);
    };
    check(&[0, 1, 24, 0, 203, 0, 113], RecordType::A, "198.18.0.1");
    check(&[0, 1, 24, 0, 198, 51, 100], RecordType::A, "198.18.0.2");
    check(&[0, 1, 24, 0, 203, 0, 113], RecordType::AAAA, "fd67::1");
    check(&[0, 2, 32, 0, 0x20, 1, 0x0d, 0xb8], RecordType::A, "198.18.0.1");
}

#[test]
fn a_generation_swapped_in_is_answered_from_at_once() {
    let mut inputs = inputs();
    let shared = shared(&inputs);
    let query = Query::new("www.edge.example.org", RecordType::A).subnet(&[0, 1, 24, 0, 203, 0, 113]);
    assert_eq!(addresses(&ask_in(&shared, &query, Protocol::Udp)), ["198.18.0.1"]);
    inputs.members[0].state = Health::Unreachable;
    shared.store(super::shared(&inputs).load_full());
    assert_eq!(addresses(&ask_in(&shared, &query, Protocol::Udp)), ["198.18.0.2"]);
}

#[test]
fn without_any_node_another_server_is_asked() {
    let mut inputs = inputs();
    inputs.members.retain(|member| member.name.as_str().starts_with('r'));
    let message = ask_in(&shared(&inputs), &Query::new("www.edge.example.org", RecordType::A), Protocol::Udp);
    assert_eq!(message.metadata.response_code, ResponseCode::ServFail);
}

#[test]
fn a_family_nobody_has_is_nodata() {
    let mut inputs = inputs();
    inputs.members.iter_mut().for_each(|member| member.public_v6 = None);
    let message =
        ask_in(&shared(&inputs), &Query::new("www.edge.example.org", RecordType::AAAA), Protocol::Udp);
    assert_eq!(message.metadata.response_code, ResponseCode::NoError);
    assert!(message.answers.is_empty() && message.authorities.len() == 1);
}
