//! Record data in presentation form, as in a zone file.

use hickory_server::proto::rr::rdata::{CNAME, HTTPS, NS, NULL, PTR};
use hickory_server::proto::rr::{Name, RData, RecordType};
use hickory_server::proto::serialize::binary::BinEncodable;

/// The longest data of one record, octets: a set of ten still goes through TCP many times over, and
/// no real record comes near (the longest are keys and certificates of 1 to 2 kB).
pub(crate) const LEN_MAX: usize = 4096;

/// A record type by its name, or `TYPEn` (RFC 3597, 5).
pub(crate) fn kind(text: &str) -> Result<RecordType, String> {
    let upper = text.to_ascii_uppercase();
    if let Some(number) = upper.strip_prefix("TYPE") {
        let number: u16 = number.parse().map_err(|_| format!("{text:?} is no record type"))?;
        return Ok(RecordType::from(number));
    }
    upper.parse().map_err(|_| format!("{text:?} is no record type"))
}

/// The data of a record of this type; relative names are completed with `origin`.
pub(crate) fn parse(kind: RecordType, text: &str, origin: &Name) -> Result<RData, String> {
    // A line of its own could smuggle in a second record.
    if text.contains(['\n', '\r', '\0']) {
        return Err("it has to be one line".into());
    }
    let data = match text.trim_start().strip_prefix("\\#") {
        Some(rest) => generic(kind, rest)?,
        None => {
            let parsed = RData::try_from_str(kind, text);
            complete(parsed.map_err(|error| format!("it is no {kind} data: {error}"))?, origin)?
        }
    };
    if data.record_type() != kind {
        return Err(format!("it is {}, not {kind} data", data.record_type()));
    }
    match data.to_bytes() {
        Ok(bytes) if bytes.len() > LEN_MAX => Err(format!("it has more than {LEN_MAX} octets")),
        Ok(_) => Ok(data),
        Err(error) => Err(format!("it cannot be sent: {error}")),
    }
}

/// RFC 3597, 5: length and hexadecimal octets, which may have spaces between them.
fn generic(kind: RecordType, text: &str) -> Result<RData, String> {
    let mut words = text.split_ascii_whitespace();
    let len: usize = words.next().and_then(|len| len.parse().ok()).ok_or("\\# wants a length after it")?;
    let digits: String = words.collect();
    let bytes = (0..digits.len())
        .step_by(2)
        .map(|at| digits.get(at..at + 2).and_then(|pair| u8::from_str_radix(pair, 16).ok()))
        .collect::<Option<Vec<u8>>>()
        .ok_or("after \\# and the length come hexadecimal octets")?;
    if bytes.len() != len {
        return Err(format!("\\# announces {len} octets, and there are {}", bytes.len()));
    }
    // A type that is known is read as what it is, so that it is checked and shown as such.
    match kind {
        RecordType::Unknown(_) => Ok(RData::Unknown { code: kind, rdata: NULL::with(bytes) }),
        known => read(known, &bytes).ok_or_else(|| format!("these octets are no {known} data")),
    }
}

fn read(kind: RecordType, bytes: &[u8]) -> Option<RData> {
    use hickory_server::proto::rr::Record;
    use hickory_server::proto::serialize::binary::{BinDecodable, BinDecoder};
    // Read as a whole record at the root: owner, type, class, TTL, length, data.
    let mut record = vec![0];
    record.extend(u16::from(kind).to_be_bytes());
    record.extend([0, 1, 0, 0, 0, 0]);
    record.extend(u16::try_from(bytes.len()).ok()?.to_be_bytes());
    record.extend(bytes);
    let mut decoder = BinDecoder::new(&record);
    let read = Record::read(&mut decoder).ok()?;
    (decoder.is_empty() && read.data.record_type() == kind).then_some(read.data)
}

/// Completes relative names with the zone's.
fn complete(data: RData, origin: &Name) -> Result<RData, String> {
    let whole = |name: Name| -> Result<Name, String> {
        if name.is_fqdn() {
            return Ok(name);
        }
        let text = name.to_string();
        name.append_domain(origin).map_err(|error| format!("{text} in the zone is no name: {error}"))
    };
    Ok(match data {
        RData::CNAME(CNAME(name)) => RData::CNAME(CNAME(whole(name)?)),
        RData::NS(NS(name)) => RData::NS(NS(whole(name)?)),
        RData::PTR(PTR(name)) => RData::PTR(PTR(whole(name)?)),
        RData::MX(mut mx) => {
            mx.exchange = whole(mx.exchange)?;
            RData::MX(mx)
        }
        RData::SRV(mut srv) => {
            srv.target = whole(srv.target)?;
            RData::SRV(srv)
        }
        RData::NAPTR(mut naptr) => {
            naptr.replacement = whole(naptr.replacement)?;
            RData::NAPTR(naptr)
        }
        RData::SVCB(mut svcb) => {
            svcb.target_name = whole(svcb.target_name)?;
            svcb.svc_params.sort_by_key(|(key, _)| u16::from(*key));
            RData::SVCB(svcb)
        }
        RData::HTTPS(HTTPS(mut svcb)) => {
            svcb.target_name = whole(svcb.target_name)?;
            svcb.svc_params.sort_by_key(|(key, _)| u16::from(*key));
            RData::HTTPS(HTTPS(svcb))
        }
        other => other,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(kind: &str, text: &str, expected: Result<&str, &str>) {
        let origin = Name::from_ascii("edge.example.org.").unwrap();
        let found = super::kind(kind).and_then(|kind| parse(kind, text, &origin));
        match (found, expected) {
            (Ok(data), Ok(expected)) => assert_eq!(data.to_string(), expected, "{kind} {text}"),
            (Err(problem), Err(expected)) => assert!(problem.contains(expected), "{kind} {text}: {problem}"),
            (found, expected) => panic!("{kind} {text}: {found:?}, not {expected:?}"),
        }
    }

    #[test]
    fn data_is_read_as_in_a_zone_file() {
        check("MX", "10 mail", Ok("10 mail.edge.example.org."));
        check("mx", "10 mail.example.net.", Ok("10 mail.example.net."));
        check("SRV", "0 5 5060 sip", Ok("0 5 5060 sip.edge.example.org."));
        check("CNAME", "www", Ok("www.edge.example.org."));
        check("CAA", "0 issue \"letsencrypt.org\"", Ok("0 issue \"letsencrypt.org\""));
        check("A", "192.0.2.7", Ok("192.0.2.7"));
        check("TYPE1", "192.0.2.7", Ok("192.0.2.7"));
    }

    #[test]
    fn rfc3597_5_any_type_as_octets() {
        check("A", "\\# 4 c0000207", Ok("192.0.2.7"));
        check("A", "\\# 3 c00002", Err("no A data"));
        let origin = Name::root();
        let data = parse(RecordType::Unknown(65280), "\\# 3 ab cd ef", &origin).unwrap();
        assert_eq!(data.to_bytes().unwrap(), [0xab, 0xcd, 0xef]);
        check("TYPE65280", "\\# 4 abcdef", Err("announces 4 octets"));
        check("TYPE65280", "\\# 1 é", Err("hexadecimal"));
    }

    #[test]
    fn bad_data_is_told() {
        check("A", "not an address", Err("no A data"));
        check("TXT", "a\nb", Err("one line"));
        check("MX", "mail", Err("no MX data"));
        check("WHAT", "", Err("no record type"));
        check("TXT", &format!("\"{}\"", "x".repeat(300)), Err("cannot be sent"));
    }
}
