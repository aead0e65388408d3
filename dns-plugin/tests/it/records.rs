//! What the configuration adds to the zone: records, aliases, wildcards, service bindings, reasons.

use super::{Query, addresses, ask_zone, inputs, shared};
use godwit_core::name::ZoneName;
use godwit_dns_plugin::zone::config::ZoneConfig;
use godwit_dns_plugin::{Answerer, Cache, Options, Question, Reply, SharedView, Subject, Zone, ZoneError};
use hickory_server::net::xfer::Protocol;
use hickory_server::proto::op::{Message, ResponseCode};
use hickory_server::proto::rr::{DNSClass, Name, RData, Record, RecordType};

const ORIGIN: &str = "edge.example.org";

const CONFIG: &str = r#"
apex = "www"
https = { ech = "AEX+DQBB" }
alias = [
    { name = "static", site = "blog" },
    { name = "*.apps", site = "www" },
    { name = "later", site = "unpublished" },
]
binding = [
    { name = "_dns.resolver", site = "static", service = { alpn = ["dot"], port = 853 } },
]
record = [
    { name = "@", type = "MX", ttl = 3600, data = "10 mail" },
    { name = "@", type = "CAA", data = "0 issue \"ca.example.net\"" },
    { name = "mail", type = "A", data = "192.0.2.25" },
    { name = "www", type = "TXT", data = "\"v=spf1 -all\"" },
    { name = "to-www", type = "CNAME", data = "www" },
    { name = "to-nowhere", type = "CNAME", data = "gone" },
    { name = "away", type = "CNAME", data = "example.net." },
    { name = "_sip._tcp.deep", type = "SRV", data = "0 5 5060 mail" },
    { name = "*.wild", type = "TXT", data = "wild" },
    { name = "there.wild", type = "A", data = "192.0.2.26" },
]
[sites.blog]
https = { alias = "svc.example.net." }
"#;

fn zone(text: &str) -> Result<Zone, ZoneError> {
    let config: ZoneConfig = toml::from_str(text).unwrap();
    let name: ZoneName = ORIGIN.parse().unwrap();
    Zone::configured(&name, Options::default(), &config, 1000)
}

fn view(text: &str) -> SharedView {
    SharedView::new(shared(&inputs()), zone(text).unwrap())
}

fn name(relative: &str) -> Name {
    match relative {
        "@" => Name::from_ascii(format!("{ORIGIN}.")).unwrap(),
        _ => Name::from_ascii(format!("{relative}.{ORIGIN}.")).unwrap(),
    }
}

fn answer(shared: &SharedView, relative: &str, kind: RecordType, client: &str) -> Reply {
    let name = name(relative);
    let question = Question { name: &name, kind, class: DNSClass::IN, client: client.parse().unwrap() };
    Answerer::new(&shared.load()).answer(&question)
}

/// Asks from Paris; gives code and data as they are shown.
fn check(relative: &str, kind: RecordType, code: ResponseCode, expected: &[&str]) -> Reply {
    let reply = answer(&view(CONFIG), relative, kind, "203.0.113.9");
    let found: Vec<String> = reply.answers.iter().map(|record| record.data.to_string()).collect();
    assert_eq!((reply.code, found.as_slice()), (code, &expected.map_owned()[..]), "{relative} {kind}");
    // RFC 2308, 2: a negative answer has the SOA.
    let positive = reply.answers.iter().any(|record| record.record_type() == kind);
    let away = reply.answers.last().is_some_and(|record| record.record_type() == RecordType::CNAME)
        && relative == "away";
    let hinfo = kind == RecordType::ANY;
    assert_eq!(reply.authority.len(), usize::from(!positive && !away && !hinfo), "{relative} {kind}");
    reply
}

trait MapOwned {
    fn map_owned(&self) -> Vec<String>;
}

impl MapOwned for &[&str] {
    fn map_owned(&self) -> Vec<String> {
        self.iter().map(|text| (*text).to_owned()).collect()
    }
}

const OK: ResponseCode = ResponseCode::NoError;
const NX: ResponseCode = ResponseCode::NXDomain;

#[test]
fn custom_records_stand_at_their_names() {
    use RecordType::{A, AAAA, CAA, MX, SRV, TXT};
    let mx = check("@", MX, OK, &["10 mail.edge.example.org."]);
    assert_eq!((mx.answers[0].ttl, mx.cache, mx.scope), (3600, Cache::Shared, 0));
    assert_eq!(check("@", CAA, OK, &["0 issue \"ca.example.net\""]).answers[0].ttl, 60);
    check("mail", A, OK, &["192.0.2.25"]);
    check("mail", AAAA, OK, &[]);
    // Beside a site's own records.
    check("www", TXT, OK, &["v=spf1 -all"]);
    check("www", A, OK, &["198.18.0.1"]);
    check("_sip._tcp.deep", SRV, OK, &["0 5 5060 mail.edge.example.org."]);
    // RFC 8020: names above names exist.
    check("_tcp.deep", TXT, OK, &[]);
    check("deep", A, OK, &[]);
    check("deeper", A, NX, &[]);
}

#[test]
fn apex_aliases_and_wildcards_answer_as_their_site() {
    use RecordType::{A, AAAA, TXT};
    check("@", A, OK, &["198.18.0.1"]);
    check("static", A, OK, &["198.18.0.1"]);
    check("x.apps", AAAA, OK, &["fd67::1"]);
    check("y.x.apps", A, OK, &["198.18.0.1"]);
    // RFC 4592, 2.2.2: the wildcard's own name, and its parent, exist.
    check("*.apps", A, OK, &["198.18.0.1"]);
    check("apps", A, OK, &[]);
    check("later", A, OK, &[]);
    check("x.later", A, NX, &[]);
    let tokyo = answer(&view(CONFIG), "x.apps", A, "198.51.100.7");
    assert_eq!(tokyo.answers[0].data.to_string(), "198.18.0.2");
    assert_eq!((tokyo.scope, tokyo.cache), (25, Cache::Choice));
    assert_eq!(tokyo.answers[0].name, name("x.apps"));
    check("x.apps", TXT, OK, &[]);
}

#[test]
fn rfc4592_2_2_1_only_the_closest_encloser_has_a_wildcard() {
    use RecordType::{A, TXT};
    check("a.wild", TXT, OK, &["wild"]);
    check("b.a.wild", TXT, OK, &["wild"]);
    check("a.wild", A, OK, &[]);
    check("there.wild", TXT, OK, &[]);
    // `there` exists, so the wildcard beside it does not answer below it.
    check("x.there.wild", TXT, NX, &[]);
}

#[test]
fn rfc1034_4_3_2_a_cname_is_followed_within_the_zone() {
    use RecordType::{A, CNAME, HTTPS};
    let followed = check("to-www", A, OK, &["www.edge.example.org.", "198.18.0.1"]);
    assert_eq!(
        (followed.cache, followed.scope),
        (Cache::Choice, answer(&view(CONFIG), "www", A, "203.0.113.9").scope)
    );
    check("to-www", CNAME, OK, &["www.edge.example.org."]);
    check("to-nowhere", A, NX, &["gone.edge.example.org."]);
    check("away", HTTPS, OK, &["example.net."]);
    let shared = view(CONFIG);
    let view = shared.load();
    let answerer = Answerer::new(&view);
    let www = view.generation.site_ref("www").unwrap();
    assert_eq!(answerer.subject(&name("to-www"), A), Some(Subject::Choice(www)));
    assert_eq!(answerer.subject(&name("to-www"), CNAME), Some(Subject::Nobody));
    assert_eq!(answerer.subject(&name("to-nowhere"), A), Some(Subject::Nobody));
    assert_eq!(answerer.subject(&name("nothing"), A), None);
}

#[test]
fn rfc9460_https_has_the_clients_addresses_as_hints() {
    use RecordType::{A, AAAA, HTTPS, SVCB};
    for (client, v4) in [("203.0.113.9", "198.18.0.1"), ("198.51.100.7", "198.18.0.2")] {
        let https = answer(&view(CONFIG), "www", HTTPS, client);
        let shown = https.answers[0].data.to_string();
        assert!(shown.starts_with("1 . "), "{shown}");
        assert!(shown.contains(v4) && shown.contains("ech=") && shown.contains("alpn="), "{shown}");
        let plain = answer(&view(CONFIG), "www", A, client);
        assert_eq!((https.scope, https.cache), (plain.scope, plain.cache));
        assert_eq!(https.additional[0].data, plain.answers[0].data);
        assert_eq!(https.additional.iter().filter(|record| record.record_type() == AAAA).count(), 1);
    }
    check("blog", HTTPS, OK, &["0 svc.example.net."]);
    check("static", HTTPS, OK, &["0 svc.example.net."]);
    // A binding at another name leads to the alias and takes its site's addresses.
    let binding = answer(&view(CONFIG), "_dns.resolver", SVCB, "198.51.100.7");
    let shown = binding.answers[0].data.to_string();
    assert!(shown.starts_with("1 static.edge.example.org. "), "{shown}");
    assert!(shown.contains("port=853") && shown.contains("198.18.0.2"), "{shown}");
    assert_eq!(binding.additional[0].name, name("static"));
    // Without configuration there are none.
    let none = answer(&view(""), "www", HTTPS, "203.0.113.9");
    assert_eq!((none.code, none.answers.len(), none.cache), (OK, 0, Cache::Shared));
}

#[test]
fn types_are_those_that_are_answered() {
    let shared = view(CONFIG);
    let view = shared.load();
    let answerer = Answerer::new(&view);
    for relative in [
        "@",
        "www",
        "blog",
        "mail",
        "to-www",
        "deep",
        "x.apps",
        "_dns.resolver",
        "why.www",
        "n-paris.node",
        "a.wild",
        "paris.region",
        "node",
    ] {
        let types = answerer.types_at(&name(relative)).unwrap();
        for kind in (1..128).chain(257..258).map(RecordType::from).filter(|kind| *kind != RecordType::OPT) {
            let reply = answer(&shared, relative, kind, "203.0.113.9");
            let own = |record: &&Record| record.record_type() == kind && record.name == name(relative);
            let has = reply.answers.iter().any(|record| own(&record));
            assert_eq!(types.contains(&kind), has, "{relative} {kind}");
        }
    }
    assert_eq!(answerer.types_at(&name("gone")), None);
}

#[test]
fn reasons_are_told_on_request_and_name_no_client() {
    let shared = view(CONFIG);
    let reply = answer(&shared, "why.www", RecordType::TXT, "203.0.113.77");
    let RData::TXT(txt) = &reply.answers[0].data else { panic!("no TXT") };
    let text = txt
        .txt_data
        .iter()
        .map(|string| String::from_utf8_lossy(string).into_owned())
        .collect::<Vec<_>>()
        .join("\n");
    for part in [
        "site=www",
        "generation=",
        "client=203.0.113.0/24",
        "scope=/24",
        "replica=n-paris",
        "source=",
        "tier=healthy",
    ] {
        assert!(text.contains(part), "{part}: {text}");
    }
    assert!(!text.contains("203.0.113.77"), "{text}");
    assert_eq!((reply.cache, reply.answers[0].ttl), (Cache::Never, 0));
    let v6 = answer(&shared, "why.static", RecordType::TXT, "2001:db8:1:2ff::9");
    assert!(v6.answers[0].data.to_string().contains("client=2001:db8:1:200::/56"));
    assert_eq!(answer(&shared, "why", RecordType::TXT, "203.0.113.9").answers.len(), 1, "the apex");
    assert_eq!(answer(&shared, "why.gone", RecordType::TXT, "203.0.113.9").code, NX);
    let off = view("why = false");
    assert_eq!(answer(&off, "why.www", RecordType::TXT, "203.0.113.9").code, NX);
}

#[test]
fn reasons_are_not_worth_forging_a_query_for() {
    let shared = view(CONFIG);
    let query = Query::new("why.www.edge.example.org", RecordType::TXT).edns(1232, 0, &[]);
    let udp = ask_zone(&shared, &query, Protocol::Udp);
    assert!(udp.metadata.truncation && udp.answers.is_empty());
    let tcp = ask_zone(&shared, &query, Protocol::Tcp);
    assert_eq!((tcp.metadata.truncation, tcp.answers.len()), (false, 1));
}

#[test]
fn a_challenge_has_all_its_values_and_hides_nothing() {
    let plain = view(CONFIG);
    let values = [
        ("_acme-challenge.www.edge.example.org", "first"),
        ("_acme-challenge.WWW.edge.example.org.", "second"),
        ("_acme-challenge.shop-example-net.edge.example.org", "third"),
        ("www.edge.example.org", "not here"),
        ("_acme-challenge.example.net", "nor here"),
    ];
    plain.update(|zone| Some(zone.with_challenges(values)));
    let txt = |relative: &str| -> Vec<String> {
        let reply = answer(&plain, relative, RecordType::TXT, "203.0.113.9");
        reply.answers.iter().map(|record| record.data.to_string()).collect()
    };
    assert_eq!(txt("_acme-challenge.www"), ["first", "second"]);
    assert_eq!(txt("_acme-challenge.shop-example-net"), ["third"]);
    assert_eq!(txt("www"), ["v=spf1 -all"]);
    assert_eq!(answer(&plain, "shop-example-net", RecordType::A, "203.0.113.9").code, OK);
    assert_eq!(addresses_of(&plain, "www"), ["198.18.0.1"]);
    // A reload of the configuration does not lose them.
    plain.update(|before| Some(zone("").unwrap().succeeding(before)));
    assert_eq!(txt("_acme-challenge.www"), ["first", "second"]);
    plain.update(|zone| Some(zone.with_challenges([])));
    assert_eq!(answer(&plain, "_acme-challenge.www", RecordType::TXT, "203.0.113.9").code, NX);
}

fn addresses_of(shared: &SharedView, relative: &str) -> Vec<String> {
    let message: Message = ask_zone(
        shared,
        &Query::new(&format!("{relative}.{ORIGIN}"), RecordType::A).subnet(&[0, 1, 24, 0, 203, 0, 113]),
        Protocol::Udp,
    );
    addresses(&message)
}

#[test]
fn the_serial_grows_with_the_configuration() {
    let serial = |text: &str| view(text).load().serial();
    assert_eq!(serial("").wrapping_add(1000), serial("apex = \"www\""));
    assert_eq!(serial("").wrapping_add(7), serial("serial = 7"));
}

#[test]
fn static_records_are_what_a_secondary_may_hold() {
    let records = zone(CONFIG).unwrap().static_records();
    assert_eq!(records.len(), 10);
    assert!(records.iter().any(|record| record.name == name("*.wild")));
}

/// Checks that a configuration is refused at this key with these words.
fn refused(text: &str, key: &str, words: &str) {
    let error = zone(text).expect_err(text);
    assert_eq!(error.key, key, "{text}: {error}");
    assert!(error.problem.contains(words), "{text}: {error}");
}

#[test]
fn what_cannot_be_served_is_told_with_its_key() {
    let records = |list: &str| format!("record = [{list}]");
    let cname = r#"{ name = "a", type = "CNAME", data = "b" }"#;
    let a = r#"{ name = "a", type = "A", data = "192.0.2.1" }"#;
    refused(&records(&format!("{cname}, {a}")), "zone.record[1]", "beside a CNAME");
    refused(&records(&format!("{a}, {cname}")), "zone.record[1]", "beside a CNAME");
    refused(&records(&format!("{a}, {a}")), "zone.record[1]", "the same record");
    refused(&records(r#"{ name = "@", type = "CNAME", data = "b" }"#), "zone.record[0]", "zone.apex");
    refused(&records(r#"{ name = "a", type = "A", data = "nonsense" }"#), "zone.record[0].data", "no A data");
    refused(&records(r#"{ name = "a", type = "NS", data = "ns" }"#), "zone.record[0].type", "delegated");
    refused(&records(r#"{ name = "a", type = "SOA", data = "" }"#), "zone.record[0].type", "SOA");
    refused(&records(r#"{ name = "a", type = "NSEC", data = "" }"#), "zone.record[0].type", "DNSSEC");
    refused(&records(r#"{ name = "a", type = "WHAT", data = "" }"#), "zone.record[0].type", "no record type");
    refused(
        &records(r#"{ name = "a.example.net.", type = "TXT", data = "x" }"#),
        "zone.record[0].name",
        "not in the zone",
    );
    refused(&records(r#"{ name = "x.node", type = "TXT", data = "x" }"#), "zone.record[0].name", "members");
    refused(&records(r#"{ name = "a*.b", type = "TXT", data = "x" }"#), "zone.record[0].name", "no name");
    refused(&records(r#"{ name = "a.*.b", type = "TXT", data = "x" }"#), "zone.record[0].name", "asterisk");
    refused(
        &records(&format!(r#"{a}, {{ name = "a", type = "A", ttl = 9, data = "192.0.2.2" }}"#)),
        "zone.record[1].ttl",
        "a set has one",
    );
    let circle = r#"{ name = "b", type = "CNAME", data = "a" }"#;
    refused(&records(&format!("{cname}, {circle}")), "zone.record[0]", "circle");
    refused(
        &format!("alias = [{{ name = \"a\", site = \"www\" }}]\n{}", records(a)),
        "zone.record[0]",
        "come from the site",
    );
    refused("alias = [{ name = \"@\", site = \"www\" }]", "zone.alias[0].name", "zone.apex");
    refused("alias = [{ name = \"a\", site = \"Not a site\" }]", "zone.alias[0].site", "no site");
    refused("apex = \"-\"", "zone.apex", "no site");
    refused("https = { ech = \"?\" }", "zone.https.ech", "base64");
    refused("[sites.www]\nhttps = { mandatory = [\"port\"] }", "zone.sites.www.https.mandatory", "not set");
    refused(
        "binding = [{ name = \"_x\", site = \"www\", type = \"A\" }]",
        "zone.binding[0].type",
        "not SVCB",
    );
}

#[test]
fn a_name_that_would_hide_a_site_is_told() {
    let zone = zone("record = [{ name = \"www\", type = \"A\", data = \"192.0.2.1\" }, { name = \"mail\", type = \"A\", data = \"192.0.2.2\" }]").unwrap();
    let error = zone.clash(["blog", "www"]).unwrap();
    assert_eq!(error.key, "zone.record[0]");
    assert_eq!(zone.clash(["blog"]), None);
}
