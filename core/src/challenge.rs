//! Values that prove to a certificate authority that a name is held, as they spread.
//!
//! Whoever asks for a certificate (RFC 8555, 8.4) sets a value at `_acme-challenge.<name>`, and the
//! authority asks any of the zone's name servers for it: so every redirector has to know it within a
//! second or two, for an hour at most. That is soft state: a [`crate::record::Statement`] of
//! [`KIND`] by the member it was set at, a version byte and then the fields in postcard.
//!
//! What a member may do by it is bounded: it sets values at names that begin with
//! `_acme-challenge` and nothing else, at most [`VALUES_MAX`] of them, and only if its certificate
//! makes it a node or a redirector, which serve under the zone's names anyway.

use crate::wire;
use serde::{Deserialize, Serialize};
use std::time::Duration;

/// The kind of statement.
pub const KIND: u16 = 4;
/// At most so many values stand in one member's statement: certificates for eight names, each with
/// its wildcard and an attempt that failed. All of them take at most 17 KiB of a record's 32.
pub const VALUES_MAX: usize = 32;
/// The longest name, octets, as text without the dot at its end (RFC 1035, 2.3.4).
pub const NAME_LEN_MAX: usize = 253;
/// The longest value, octets: one character string (RFC 1035, 3.3). Real ones have 43.
pub const VALUE_LEN_MAX: usize = 255;
/// How long a value stands when nobody says otherwise: authorities look within minutes.
pub const LEASE_DEFAULT: Duration = Duration::from_secs(3600);
/// The longest that a value stands: what somebody forgot to clear is gone the next day.
pub const LEASE_MAX: Duration = Duration::from_secs(24 * 3600);

/// The label that such names begin with.
pub const LABEL: &str = "_acme-challenge";

/// The version of the form.
const VERSION: u8 = 1;

/// One value at one name.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Challenge {
    /// The whole name in lower case, without the dot at its end.
    pub name: String,
    /// The value.
    pub value: String,
}

impl Challenge {
    /// A checked value; the error says what is wrong with it.
    pub fn new(name: &str, value: &str) -> Result<Challenge, String> {
        let name = name.trim_end_matches('.').to_ascii_lowercase();
        let challenge = Challenge { name, value: value.to_owned() };
        if !challenge.name.strip_prefix(LABEL).is_some_and(|rest| rest.starts_with('.')) {
            return Err(format!("{} does not begin with {LABEL}", challenge.name));
        }
        if !challenge.holds() {
            return Err(format!(
                "a name has at most {NAME_LEN_MAX} characters, a value 1 to {VALUE_LEN_MAX}, of ASCII without spaces"
            ));
        }
        Ok(challenge)
    }

    fn holds(&self) -> bool {
        let plain = |text: &str| text.bytes().all(|byte| byte.is_ascii_graphic());
        self.name.strip_prefix(LABEL).is_some_and(|rest| rest.starts_with('.'))
            && self.name.len() <= NAME_LEN_MAX
            && (1..=VALUE_LEN_MAX).contains(&self.value.len())
            && plain(&self.name)
            && plain(&self.value)
            && !self.name.bytes().any(|byte| byte.is_ascii_uppercase())
    }
}

/// The form that is signed and sent, of sorted values.
pub fn encode(values: &[Challenge]) -> Vec<u8> {
    let mut bytes = vec![VERSION];
    bytes.extend(wire::encode(&values));
    bytes
}

/// Reads what [`encode`] of this or a later version wrote; `None` for anything else.
pub fn decode(bytes: &[u8]) -> Option<Vec<Challenge>> {
    let (version, fields) = bytes.split_first()?;
    let values: Vec<Challenge> = wire::decode_start(fields, wire::RECORD_LEN_MAX).ok()?;
    let holds = *version >= VERSION
        && values.len() <= VALUES_MAX
        && values.is_sorted_by(|a, b| a < b)
        && values.iter().all(Challenge::holds);
    holds.then_some(values)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(name: &str, value: &str, expected: Result<&str, &str>) {
        match (Challenge::new(name, value), expected) {
            (Ok(found), Ok(name)) => assert_eq!(found.name, name),
            (Err(problem), Err(words)) => assert!(problem.contains(words), "{problem}"),
            (found, expected) => panic!("{found:?}, not {expected:?}"),
        }
    }

    #[test]
    fn only_such_names_and_values_are_taken() {
        check("_acme-challenge.WWW.example.org.", "x", Ok("_acme-challenge.www.example.org"));
        check("www.example.org", "x", Err("does not begin"));
        check("_acme-challengewww.example.org", "x", Err("does not begin"));
        check("_acme-challenge.example.org", "", Err("1 to 255"));
        check("_acme-challenge.example.org", &"x".repeat(256), Err("1 to 255"));
        check("_acme-challenge.example.org", "a b", Err("without spaces"));
        check(&format!("_acme-challenge.{}", "x".repeat(250)), "x", Err("at most 253"));
    }

    #[test]
    fn what_is_read_is_what_was_written_and_in_bounds() {
        let value = |n: usize| Challenge::new("_acme-challenge.example.org", &format!("{n:03}")).unwrap();
        let values: Vec<Challenge> = (0..VALUES_MAX).map(value).collect();
        assert_eq!(decode(&encode(&values)), Some(values.clone()));
        assert!(encode(&values).len() <= wire::RECORD_LEN_MAX);
        let many: Vec<Challenge> = (0..=VALUES_MAX).map(value).collect();
        assert_eq!(decode(&encode(&many)), None);
        let unsorted = [value(2), value(1)];
        assert_eq!(decode(&encode(&unsorted)), None);
        let elsewhere = [Challenge { name: "www.example.org".into(), value: "x".into() }];
        assert_eq!(decode(&encode(&elsewhere)), None);
        assert_eq!(decode(&[]), None);
        assert_eq!(decode(&[1, 255, 255, 255]), None);
    }
}
