//! PowerDNS's remote backend: a line of JSON in, a line of JSON out.
//!
//! An existing PowerDNS asks us for records and does everything else (sockets, signing, transfers):
//!
//! ```text
//! -> {"method":"lookup","parameters":{"qname":"www.svc.example.org.","qtype":"ANY",
//!      "real-remote":"203.0.113.0/24", …}}
//! <- {"result":[{"qtype":"A","qname":"www.svc.example.org.","content":"192.0.2.1","ttl":5,
//!      "scopeMask":17,"domain_id":1,"auth":1}, …]}
//! ```
//!
//! `real-remote` is the client subnet where there is one (`edns-subnet-processing=yes`), and
//! `scopeMask` is the scope that PowerDNS tells the resolver, and what keeps it from caching an
//! answer for others. PowerDNS mostly asks for ANY and picks: so a lookup of ANY gives every type
//! that the name has for this client. A name that exists without records of its own is a record
//! without a type, which is how PowerDNS marks empty non-terminals.
//!
//! PowerDNS signs when it is set to (`remote-dnssec=yes`) and the zone has keys: it asks for them, and
//! makes DNSKEY records, signatures and proofs itself, as it does for zones in a database. We have no
//! order of names to tell of (a wildcard makes any number), so it denies by NSEC3 records that cover
//! nothing but the name asked for (`NSEC3NARROW`; RFC 7129, appendix B).
//!
//! What comes in may be anything: what is no request is answered with `false`, which PowerDNS takes
//! for *not here*. Nothing is remembered between lines.

mod content;

use crate::answer::{Answerer, Question};
use crate::dnssec::{Phase, ZoneKey};
use crate::view::View;
use content::content;
use godwit_core::time::Time;
use hickory_server::proto::rr::{DNSClass, Name, Record, RecordType};
use serde::Deserialize;
use serde_json::{Value, json};
use std::net::{IpAddr, Ipv4Addr};

/// A longer request is none, octets: a lookup has names and addresses only.
pub const REQUEST_LEN_MAX: usize = 64 * 1024;

/// The number that our one zone has for PowerDNS.
const DOMAIN_ID: i64 = 1;

/// A request.
#[derive(Deserialize)]
struct Request {
    method: String,
    #[serde(default)]
    parameters: Parameters,
}

/// The parameters that matter, of all methods.
#[derive(Default, Deserialize)]
#[serde(default)]
struct Parameters {
    qname: Option<String>,
    qtype: Option<String>,
    name: Option<String>,
    zonename: Option<String>,
    kind: Option<String>,
    remote: Option<String>,
    #[serde(rename = "real-remote")]
    real_remote: Option<String>,
}

/// The reply to a request line at `now`, without the line's end.
pub fn reply(now: Time, view: &View, line: &str) -> String {
    let result = match serde_json::from_str::<Request>(line) {
        Ok(request) if line.len() <= REQUEST_LEN_MAX => result(now, view, &request),
        _ => Value::Bool(false),
    };
    json!({ "result": result }).to_string()
}

fn result(now: Time, view: &View, request: &Request) -> Value {
    let Request { method, parameters } = request;
    let is_ours = |name: &Option<String>| {
        let name = name.as_deref().and_then(|name| Name::from_ascii(name).ok());
        name.is_some_and(|mut name| {
            name.set_fqdn(true);
            name == *view.zone.origin()
        })
    };
    match method.as_str() {
        "initialize" => Value::Bool(true),
        "lookup" => lookup(view, parameters),
        // What a secondary may hold is not the zone: who transfers it would have no services.
        "list" => Value::Bool(false),
        "getAllDomains" => json!([domain(view)]),
        "getDomainInfo" if is_ours(&parameters.name) => domain(view),
        "getAllDomainMetadata" if is_ours(&parameters.name) => metadata(now, keys(view)),
        "getDomainMetadata" if is_ours(&parameters.name) => {
            let kind = parameters.kind.as_deref().unwrap_or_default();
            metadata(now, keys(view)).get(kind).cloned().unwrap_or(json!([]))
        }
        "getDomainKeys" if is_ours(&parameters.name) => {
            keys(view).iter().enumerate().filter_map(|(at, key)| key_row(now, at, key)).collect()
        }
        "getUpdatedMasters" | "getUnfreshSlaveInfos" => json!([]),
        _ => Value::Bool(false),
    }
}

fn domain(view: &View) -> Value {
    json!({
        "id": DOMAIN_ID,
        "zone": view.zone.origin().to_ascii(),
        "kind": "native",
        "serial": view.serial(),
        "notified_serial": view.serial(),
        "last_check": 0,
        "masters": [],
    })
}

fn keys(view: &View) -> &[ZoneKey] {
    view.zone.signer().map(|signer| signer.keys()).unwrap_or_default()
}

/// How PowerDNS is to sign; nothing for a zone without keys.
fn metadata(now: Time, keys: &[ZoneKey]) -> Value {
    let live = || keys.iter().filter(|key| seen(now, key));
    if live().next().is_none() {
        return json!({});
    }
    // PowerDNS asks the parent for all of its entry keys or for none: for none while only one of two
    // shall be asked for.
    let wanted = live().filter(|key| key.role.is_entry()).all(|key| key.times.wants_ds(now));
    let (cds, cdnskey) = match () {
        () if live().any(|key| key.times.wants_no_ds(now)) => (json!(["0"]), json!(["0"])),
        () if wanted => (json!(["2"]), json!(["1"])),
        () => (json!([]), json!([])),
    };
    json!({
        "NSEC3PARAM": ["1 0 0 -"], // RFC 9276, 3.1: neither iterations nor salt
        "NSEC3NARROW": ["1"],
        "PUBLISH-CDS": cds,
        "PUBLISH-CDNSKEY": cdnskey,
    })
}

fn seen(now: Time, key: &ZoneKey) -> bool {
    matches!(key.times.phase(now), Phase::Published | Phase::Active | Phase::Retired)
}

/// A key, as PowerDNS takes it; nothing for one that is not among the DNSKEY records.
fn key_row(now: Time, at: usize, key: &ZoneKey) -> Option<Value> {
    if !seen(now, key) {
        return None;
    }
    let content = key.key.to_private_key_text().ok()?;
    Some(json!({
        "id": at + 1,
        "flags": key.role.flags(),
        "active": key.times.phase(now) == Phase::Active,
        "published": true,
        "content": *content,
    }))
}

fn lookup(view: &View, parameters: &Parameters) -> Value {
    let Some(name) = parameters.qname.as_deref().and_then(|name| Name::from_ascii(name).ok()) else {
        return Value::Bool(false);
    };
    let mut name = name;
    name.set_fqdn(true);
    let answerer = Answerer::new(view);
    let Some(types) = answerer.types_at(&name) else { return Value::Bool(false) };
    if types.is_empty() {
        return json!([{ "qtype": "", "qname": name.to_ascii(), "content": "", "ttl": 0, "domain_id": DOMAIN_ID }]);
    }
    let client = client(parameters);
    let asked: Option<RecordType> = match parameters.qtype.as_deref() {
        None | Some("ANY") => None,
        Some(kind) => match kind.parse() {
            Ok(kind) => Some(kind),
            Err(_) => return json!([]),
        },
    };
    let wanted = types.into_iter().filter(|kind| asked.is_none_or(|asked| asked == *kind));
    let records: Vec<Value> = wanted
        .flat_map(|kind| {
            let question = Question { name: &name, kind, class: DNSClass::IN, client };
            let reply = answerer.answer(&question);
            let of_kind = |record: &Record| record.record_type() == kind && record.name == name;
            let records: Vec<Record> = reply.answers.into_iter().filter(of_kind).collect();
            records.into_iter().map(move |record| row(&record, reply.scope))
        })
        .collect();
    Value::Array(records)
}

fn row(record: &Record, scope: u8) -> Value {
    json!({
        "qtype": record.record_type().to_string(),
        "qname": record.name.to_ascii(),
        "content": content(&record.data),
        "ttl": record.ttl,
        "scopeMask": scope,
        "domain_id": DOMAIN_ID,
        "auth": 1,
    })
}

/// Whom the answer is for: the client subnet, or the resolver.
fn client(parameters: &Parameters) -> IpAddr {
    let address = |text: &str| text.split('/').next()?.parse::<IpAddr>().ok();
    let subnet = parameters.real_remote.as_deref().filter(|subnet| !subnet.ends_with("/0"));
    let of = |text: Option<&str>| text.and_then(address);
    let client = of(subnet).or_else(|| of(parameters.remote.as_deref()));
    client.map_or(Ipv4Addr::UNSPECIFIED.into(), |client| client.to_canonical())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_client_is_the_subnet_or_else_the_resolver() {
        let of = |real: &str, remote: &str| {
            let some = |text: &str| (!text.is_empty()).then(|| text.to_owned());
            client(&Parameters { real_remote: some(real), remote: some(remote), ..Parameters::default() })
        };
        assert_eq!(of("203.0.113.0/24", "192.0.2.1"), IpAddr::from([203, 0, 113, 0]));
        assert_eq!(of("0.0.0.0/0", "192.0.2.1"), IpAddr::from([192, 0, 2, 1]));
        assert_eq!(of("", "::ffff:192.0.2.1"), IpAddr::from([192, 0, 2, 1]));
        assert_eq!(of("nonsense", ""), IpAddr::from([0, 0, 0, 0]));
    }
}
