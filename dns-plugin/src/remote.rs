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
//! What comes in may be anything: what is no request is answered with `false`, which PowerDNS takes
//! for *not here*. Nothing is remembered between lines.

use crate::answer::{Answerer, Question};
use crate::view::View;
use hickory_server::proto::rr::rdata::TXT;
use hickory_server::proto::rr::{DNSClass, Name, RData, Record, RecordType};
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
    remote: Option<String>,
    #[serde(rename = "real-remote")]
    real_remote: Option<String>,
}

/// The reply to a request line, without the line's end.
pub fn reply(view: &View, line: &str) -> String {
    let result = match serde_json::from_str::<Request>(line) {
        Ok(request) if line.len() <= REQUEST_LEN_MAX => result(view, &request),
        _ => Value::Bool(false),
    };
    json!({ "result": result }).to_string()
}

fn result(view: &View, request: &Request) -> Value {
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
        "getAllDomainMetadata" if is_ours(&parameters.name) => json!({}),
        "getDomainMetadata" | "getDomainKeys" if is_ours(&parameters.name) => json!([]),
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

/// Data in presentation form, as PowerDNS reads it.
fn content(data: &RData) -> String {
    match data {
        RData::TXT(TXT { txt_data, .. }) => {
            let strings: Vec<String> = txt_data.iter().map(|text| quoted(text)).collect();
            strings.join(" ")
        }
        other => other.to_string(),
    }
}

/// A character string (RFC 1035, 5.1): what is not plain ASCII goes by its number.
fn quoted(text: &[u8]) -> String {
    let mut quoted = String::from("\"");
    for byte in text {
        match byte {
            b'"' | b'\\' => quoted.extend(['\\', char::from(*byte)]),
            b' '..=b'~' => quoted.push(char::from(*byte)),
            other => quoted += &format!("\\{other:03}"),
        }
    }
    quoted + "\""
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
    fn character_strings_are_quoted() {
        assert_eq!(quoted(b"a \"b\" \\ \x07"), r#""a \"b\" \\ \007""#);
    }

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
