//! Service bindings: SVCB and HTTPS records (RFC 9460).
//!
//! What a person configures is checked once and kept as parameters in the order of the wire; what
//! the map chooses for a client, the address hints, is put in when an answer is made.

use super::config::Service;
use hickory_server::proto::rr::rdata::svcb::{IpHint, Mandatory, SvcParamKey, SvcParamValue};
use hickory_server::proto::rr::rdata::{A, AAAA, HTTPS, SVCB};
use hickory_server::proto::rr::{Name, RData, RecordType};
use std::net::{Ipv4Addr, Ipv6Addr};

/// A checked service binding.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Checked {
    /// AliasMode: RFC 9460, 2.4.2.
    pub(crate) alias: Option<Name>,
    /// Ascending by key, without hints.
    params: Vec<(SvcParamKey, SvcParamValue)>,
    pub(crate) hints: bool,
}

impl Checked {
    /// Checks what was configured; gives the key within it and what is wrong.
    pub(crate) fn new(service: &Service, origin: &Name) -> Result<Checked, (&'static str, String)> {
        if let Some(alias) = &service.alias {
            let name = target(alias, origin).map_err(|problem| ("alias", problem))?;
            return Ok(Checked { alias: Some(name), params: Vec::new(), hints: false });
        }
        let text = presentation(service)?;
        let parsed = RData::try_from_str(RecordType::HTTPS, &text).map_err(|error| {
            let key = if service.ech.is_some() { "ech" } else { "alpn" };
            (key, format!("it is no service binding: {error}"))
        })?;
        let RData::HTTPS(HTTPS(svcb)) = parsed else {
            return Err(("alpn", "it is no service binding".into()));
        };
        let mut params = svcb.svc_params;
        let mandatory = mandatory(&params, &service.mandatory)?;
        if !mandatory.is_empty() {
            params.push((SvcParamKey::Mandatory, SvcParamValue::Mandatory(Mandatory(mandatory))));
        }
        // RFC 9460, 2.2: ascending, each at most once.
        params.sort_by_key(|(key, _)| u16::from(*key));
        Ok(Checked { alias: None, params, hints: service.hints })
    }

    /// The record's data: with these hints, leading to `target` (the root stands for the owner).
    pub(crate) fn data(&self, kind: RecordType, target: Name, v4: &[Ipv4Addr], v6: &[Ipv6Addr]) -> RData {
        let svcb = match &self.alias {
            Some(alias) => SVCB::new(0, alias.clone(), Vec::new()),
            None => {
                let mut params = self.params.clone();
                if self.hints && !v4.is_empty() {
                    let hint = IpHint(v4.iter().copied().map(A).collect());
                    params.push((SvcParamKey::Ipv4Hint, SvcParamValue::Ipv4Hint(hint)));
                }
                if self.hints && !v6.is_empty() {
                    let hint = IpHint(v6.iter().copied().map(AAAA).collect());
                    params.push((SvcParamKey::Ipv6Hint, SvcParamValue::Ipv6Hint(hint)));
                }
                params.sort_by_key(|(key, _)| u16::from(*key));
                SVCB::new(1, target, params)
            }
        };
        match kind {
            RecordType::SVCB => RData::SVCB(svcb),
            _ => RData::HTTPS(HTTPS(svcb)),
        }
    }
}

/// RFC 9460, 8: keys of this record, ascending, none twice. Hints cannot be mandatory: a client may
/// be led to a replica that has no address of the family.
fn mandatory(
    params: &[(SvcParamKey, SvcParamValue)],
    names: &[String],
) -> Result<Vec<SvcParamKey>, (&'static str, String)> {
    let mut keys: Vec<SvcParamKey> = Vec::new();
    for name in names {
        let key: SvcParamKey =
            name.parse().map_err(|_| ("mandatory", format!("{name:?} is no parameter")))?;
        if matches!(key, SvcParamKey::Ipv4Hint | SvcParamKey::Ipv6Hint | SvcParamKey::Mandatory) {
            return Err(("mandatory", format!("{name} cannot be mandatory")));
        }
        if !params.iter().any(|(present, _)| *present == key) {
            return Err(("mandatory", format!("{name} is not set here")));
        }
        if keys.contains(&key) {
            return Err(("mandatory", format!("{name} is named twice")));
        }
        keys.push(key);
    }
    keys.sort_by_key(|key| u16::from(*key));
    Ok(keys)
}

/// The parameters in presentation form, each checked so that it cannot bring in another.
fn presentation(service: &Service) -> Result<String, (&'static str, String)> {
    let mut text = String::from("1 .");
    let plain = |c: char| c.is_ascii_alphanumeric() || "./-_".contains(c);
    for id in &service.alpn {
        if id.is_empty() || id.len() > 255 || !id.chars().all(plain) {
            return Err(("alpn", format!("{id:?} is no protocol: letters, digits and . / - _")));
        }
    }
    if !service.alpn.is_empty() {
        text += &format!(" alpn={}", service.alpn.join(","));
    }
    if service.no_default_alpn {
        // RFC 9460, 7.1.1: without a list there would be no protocol at all.
        if service.alpn.is_empty() {
            return Err(("no_default_alpn", "it needs a list alpn".into()));
        }
        text += " no-default-alpn";
    }
    if let Some(port) = service.port {
        text += &format!(" port={port}");
    }
    if let Some(ech) = &service.ech {
        if ech.is_empty() || !ech.chars().all(|c| c.is_ascii_alphanumeric() || "+/=".contains(c)) {
            return Err(("ech", "it is no base64".into()));
        }
        text += &format!(" ech=\"{ech}\"");
    }
    Ok(text)
}

/// RFC 9460, 2.5.1: `.` says that the service is not there.
fn target(text: &str, origin: &Name) -> Result<Name, String> {
    let name = Name::from_ascii(text).map_err(|error| format!("{text:?} is no name: {error}"))?;
    if name.is_fqdn() {
        return Ok(name);
    }
    name.append_domain(origin).map_err(|error| format!("{text:?} is no name in the zone: {error}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(service: Service, expected: Result<&str, &str>) {
        let origin = Name::from_ascii("edge.example.org.").unwrap();
        match (Checked::new(&service, &origin), expected) {
            (Ok(checked), Ok(expected)) => {
                let v4 = ["192.0.2.1".parse().unwrap()];
                let v6 = ["2001:db8::1".parse().unwrap()];
                let data = checked.data(RecordType::HTTPS, Name::root(), &v4, &v6);
                assert_eq!(data.to_string(), expected);
            }
            (Err((key, problem)), Err(expected)) => {
                let told = format!("{key}: {problem}");
                assert!(told.contains(expected), "{told}");
            }
            (found, expected) => panic!("{found:?}, not {expected:?}"),
        }
    }

    #[test]
    fn parameters_stand_in_the_order_of_the_wire() {
        let origin = Name::root();
        let service = Service {
            port: Some(8443),
            ech: Some("AEX+DQBB".into()),
            mandatory: vec!["port".into(), "alpn".into()],
            ..Service::default()
        };
        let checked = Checked::new(&service, &origin).unwrap();
        let v4 = ["192.0.2.1".parse().unwrap()];
        let RData::HTTPS(HTTPS(svcb)) = checked.data(RecordType::HTTPS, Name::root(), &v4, &[]) else {
            panic!("no HTTPS data");
        };
        let keys: Vec<u16> = svcb.svc_params.iter().map(|(key, _)| u16::from(*key)).collect();
        assert_eq!(keys, [0, 1, 3, 4, 5]);
        let Some((_, SvcParamValue::Mandatory(mandatory))) = svcb.svc_params.first() else { panic!() };
        assert_eq!(mandatory.0, [SvcParamKey::Alpn, SvcParamKey::Port]);
    }

    #[test]
    fn rfc9460_2_4_2_alias_mode_has_no_parameters() {
        let alias = Service { alias: Some("svc.example.net.".into()), ..Service::default() };
        check(alias, Ok("0 svc.example.net."));
    }

    #[test]
    fn what_cannot_work_is_refused() {
        let with = |change: fn(&mut Service)| {
            let mut service = Service::default();
            change(&mut service);
            service
        };
        check(with(|s| s.alpn = vec!["h2 port=1".into()]), Err("alpn: "));
        check(with(|s| s.ech = Some("not base64!".into())), Err("ech: "));
        check(with(|s| s.mandatory = vec!["port".into()]), Err("mandatory: port is not set"));
        check(with(|s| s.mandatory = vec!["ipv4hint".into()]), Err("cannot be mandatory"));
        check(with(|s| s.mandatory = vec!["alpn".into(), "alpn".into()]), Err("named twice"));
        check(
            with(|s| {
                s.alpn.clear();
                s.no_default_alpn = true;
            }),
            Err("no_default_alpn"),
        );
    }
}
