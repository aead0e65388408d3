//! Data in presentation form, as PowerDNS reads it.

use data_encoding::BASE64;
use hickory_server::proto::rr::RData;
use hickory_server::proto::rr::rdata::svcb::{SVCB, SvcParamKey, SvcParamValue};
use hickory_server::proto::rr::rdata::{HTTPS, TXT};

/// A record's data.
pub(super) fn content(data: &RData) -> String {
    match data {
        RData::TXT(TXT { txt_data, .. }) => {
            let strings: Vec<String> = txt_data.iter().map(|text| quoted(text)).collect();
            strings.join(" ")
        }
        // The library ends lists with a comma, for which PowerDNS refuses all records of the name.
        RData::SVCB(svcb) | RData::HTTPS(HTTPS(svcb)) => service(svcb),
        other => other.to_string(),
    }
}

/// RFC 9460, 2.1.
fn service(svcb: &SVCB) -> String {
    let mut text = format!("{} {}", svcb.svc_priority, svcb.target_name.to_ascii());
    for (key, value) in &svcb.svc_params {
        text.push(' ');
        text += &key_name(*key);
        if let Some(value) = parameter(value) {
            text += &format!("={value}");
        }
    }
    text
}

fn key_name(key: SvcParamKey) -> String {
    match key {
        SvcParamKey::Unknown(number) => format!("key{number}"),
        known => known.to_string(),
    }
}

/// `None` for a parameter that has no value.
fn parameter(value: &SvcParamValue) -> Option<String> {
    let list = |items: Vec<String>| items.join(",");
    Some(match value {
        SvcParamValue::Mandatory(keys) => list(keys.0.iter().copied().map(key_name).collect()),
        // RFC 9460, A.1: a comma within an item is escaped.
        SvcParamValue::Alpn(alpn) => {
            let items = alpn.0.iter().map(|id| id.replace('\\', "\\\\").replace(',', "\\,"));
            quoted(list(items.collect()).as_bytes())
        }
        SvcParamValue::NoDefaultAlpn => return None,
        SvcParamValue::Port(port) => port.to_string(),
        SvcParamValue::Ipv4Hint(hints) => list(hints.0.iter().map(ToString::to_string).collect()),
        SvcParamValue::Ipv6Hint(hints) => list(hints.0.iter().map(ToString::to_string).collect()),
        SvcParamValue::EchConfigList(ech) => format!("\"{}\"", BASE64.encode(&ech.0)),
        SvcParamValue::Unknown(unknown) => quoted(&unknown.0),
    })
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

#[cfg(test)]
mod tests {
    use super::*;
    use hickory_server::proto::rr::Name;
    use hickory_server::proto::rr::rdata::A;
    use hickory_server::proto::rr::rdata::svcb::{Alpn, EchConfigList, IpHint, Mandatory};

    #[test]
    fn character_strings_are_quoted() {
        assert_eq!(quoted(b"a \"b\" \\ \x07"), r#""a \"b\" \\ \007""#);
    }

    #[test]
    fn rfc9460_2_1_services_have_lists_without_an_end() {
        let params = vec![
            (SvcParamKey::Mandatory, SvcParamValue::Mandatory(Mandatory(vec![SvcParamKey::Alpn]))),
            (SvcParamKey::Alpn, SvcParamValue::Alpn(Alpn(vec!["h3".into(), "h2".into()]))),
            (SvcParamKey::NoDefaultAlpn, SvcParamValue::NoDefaultAlpn),
            (SvcParamKey::Port, SvcParamValue::Port(8443)),
            (
                SvcParamKey::Ipv4Hint,
                SvcParamValue::Ipv4Hint(IpHint(vec![A::new(192, 0, 2, 1), A::new(192, 0, 2, 2)])),
            ),
            (SvcParamKey::EchConfigList, SvcParamValue::EchConfigList(EchConfigList(vec![1, 2, 3]))),
        ];
        assert_eq!(
            service(&SVCB::new(1, Name::root(), params)),
            r#"1 . mandatory=alpn alpn="h3,h2" no-default-alpn port=8443 ipv4hint=192.0.2.1,192.0.2.2 ech="AQID""#
        );
    }
}
