//! Conditional requests (RFC 9110, 13): whether the client needs the representation, and which part.
//!
//! A file's entity tag is the name of its bytes, the hash: a strong validator in the full sense,
//! and the same on every node. Its date is what the publisher's file system said, which proves
//! little (builds that reset dates give every file the same one), so dates decide only where a
//! client sends nothing better, and never whether two parts of a file belong together.

use super::range::{self, Asked};
use godwit_core::content::ObjectId;
use http::{HeaderMap, HeaderName, Method, header};
use std::ops::Range;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// What a representation is known by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Validators {
    /// Names its bytes.
    pub(crate) object: ObjectId,
    /// When it was last modified, seconds since the Unix epoch.
    pub(crate) modified: u64,
    /// Its length, bytes.
    pub(crate) len: u64,
}

/// What is to be sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// 200: all of it.
    Whole,
    /// 206: these bytes.
    Part(Range<u64>),
    /// 304: the client has it.
    NotModified,
    /// 412: it is not what the client thinks.
    PreconditionFailed,
    /// 416: it has no such bytes.
    Unsatisfiable,
}

impl Validators {
    /// The entity tag as it is sent.
    pub(crate) fn entity_tag(&self) -> String {
        format!("\"{}\"", self.object)
    }

    /// When it was last modified; a date in the future is told as `now` (RFC 9110, 8.8.2.1).
    pub(crate) fn modified_at(&self, now: SystemTime) -> SystemTime {
        UNIX_EPOCH.checked_add(Duration::from_secs(self.modified)).map_or(now, |modified| modified.min(now))
    }
}

/// Evaluates the preconditions and the range of a GET or HEAD request, in the order of RFC 9110,
/// 13.2.2.
pub(crate) fn evaluate(
    method: &Method,
    headers: &HeaderMap,
    validators: Validators,
    now: SystemTime,
) -> Verdict {
    let modified = whole_seconds(validators.modified_at(now));
    if headers.contains_key(header::IF_MATCH) {
        if !any_tag(headers, header::IF_MATCH, validators.object, Comparison::Strong) {
            return Verdict::PreconditionFailed;
        }
    } else if date(headers, header::IF_UNMODIFIED_SINCE).is_some_and(|since| modified > since) {
        return Verdict::PreconditionFailed;
    }
    if headers.contains_key(header::IF_NONE_MATCH) {
        if any_tag(headers, header::IF_NONE_MATCH, validators.object, Comparison::Weak) {
            return Verdict::NotModified;
        }
    } else if date(headers, header::IF_MODIFIED_SINCE).is_some_and(|since| modified <= since) {
        return Verdict::NotModified;
    }
    // 14.2: only GET has ranges.
    if method != Method::GET || !in_range(headers, validators.object) {
        return Verdict::Whole;
    }
    let Some(value) = single(headers, header::RANGE) else { return Verdict::Whole };
    match range::asked(value, validators.len) {
        Asked::Whole => Verdict::Whole,
        Asked::Part(range) => Verdict::Part(range),
        Asked::Unsatisfiable => Verdict::Unsatisfiable,
    }
}

/// How entity tags are compared (RFC 9110, 8.8.3.2).
#[derive(Clone, Copy, PartialEq, Eq)]
enum Comparison {
    Strong,
    Weak,
}

/// Whether one of the tags in the field, which may stand on several lines, is the object's.
fn any_tag(headers: &HeaderMap, field: HeaderName, object: ObjectId, comparison: Comparison) -> bool {
    let name = object.to_string();
    headers.get_all(field).iter().filter_map(|value| value.to_str().ok()).any(|value| {
        value.trim() == "*"
            || tags(value).any(|(weak, tag)| tag == name && (comparison == Comparison::Weak || !weak))
    })
}

/// The entity tags of a list, each with whether it is weak; what follows a malformed one is ignored.
fn tags(mut list: &str) -> impl Iterator<Item = (bool, &str)> {
    std::iter::from_fn(move || {
        list = list.trim_start_matches([' ', '\t', ',']);
        let (weak, rest) = match list.strip_prefix("W/") {
            Some(rest) => (true, rest),
            None => (false, list),
        };
        let (tag, rest) = rest.strip_prefix('"')?.split_once('"')?;
        list = rest;
        Some((weak, tag))
    })
}

/// RFC 9110, 13.1.5: whether `Range` applies. A date is not strong enough (8.8.2.2: we do not know
/// that the file did not change twice in that second), so it asks for everything.
fn in_range(headers: &HeaderMap, object: ObjectId) -> bool {
    match single(headers, header::IF_RANGE) {
        None => !headers.contains_key(header::IF_RANGE),
        Some(value) => {
            let name = object.to_string();
            tags(value.trim()).eq([(false, name.as_str())])
        }
    }
}

/// A date; none when the field is missing, repeated or malformed (13.1.3, 13.1.4: ignore it).
fn date(headers: &HeaderMap, field: HeaderName) -> Option<SystemTime> {
    httpdate::parse_http_date(single(headers, field)?).ok()
}

fn single(headers: &HeaderMap, field: HeaderName) -> Option<&str> {
    let mut values = headers.get_all(field).iter();
    match (values.next(), values.next()) {
        (Some(value), None) => value.to_str().ok(),
        _ => None,
    }
}

fn whole_seconds(time: SystemTime) -> SystemTime {
    UNIX_EPOCH + Duration::from_secs(time.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Sun, 06 Nov 1994 08:49:37 GMT, the date that RFC 9110 uses.
    const MODIFIED: u64 = 784_111_777;
    const SAME: &str = "Sun, 06 Nov 1994 08:49:37 GMT";
    const BEFORE: &str = "Sun, 06 Nov 1994 08:49:36 GMT";
    const AFTER: &str = "Sunday, 06-Nov-94 08:49:38 GMT";

    fn validators() -> Validators {
        Validators { object: ObjectId::of(b"hello"), modified: MODIFIED, len: 100 }
    }

    fn tag() -> String {
        validators().entity_tag()
    }

    fn check(method: Method, fields: &[(HeaderName, &str)], expected: Verdict) {
        let mut headers = HeaderMap::new();
        for (name, value) in fields {
            headers.append(name.clone(), value.parse().unwrap());
        }
        let now = UNIX_EPOCH + Duration::from_secs(2_000_000_000);
        assert_eq!(evaluate(&method, &headers, validators(), now), expected, "{method} {fields:?}");
    }

    #[test]
    fn rfc9110_13_1_1_if_match_compares_strongly() {
        let weak = format!("W/{}", tag());
        check(Method::GET, &[(header::IF_MATCH, "*")], Verdict::Whole);
        check(Method::GET, &[(header::IF_MATCH, &tag())], Verdict::Whole);
        check(Method::GET, &[(header::IF_MATCH, &format!("\"a,b\", {}", tag()))], Verdict::Whole);
        check(Method::GET, &[(header::IF_MATCH, &weak)], Verdict::PreconditionFailed);
        check(Method::HEAD, &[(header::IF_MATCH, "\"other\"")], Verdict::PreconditionFailed);
    }

    #[test]
    fn rfc9110_13_1_2_if_none_match_compares_weakly() {
        let weak = format!("\"x\", W/{}", tag());
        check(Method::GET, &[(header::IF_NONE_MATCH, "*")], Verdict::NotModified);
        check(Method::HEAD, &[(header::IF_NONE_MATCH, &tag())], Verdict::NotModified);
        check(Method::GET, &[(header::IF_NONE_MATCH, &weak)], Verdict::NotModified);
        check(
            Method::GET,
            &[(header::IF_NONE_MATCH, "\"x\""), (header::IF_NONE_MATCH, &tag())],
            Verdict::NotModified,
        );
        check(Method::GET, &[(header::IF_NONE_MATCH, "\"x\"")], Verdict::Whole);
        check(Method::GET, &[(header::IF_NONE_MATCH, "x")], Verdict::Whole);
    }

    #[test]
    fn rfc9110_13_1_3_if_modified_since() {
        check(Method::GET, &[(header::IF_MODIFIED_SINCE, SAME)], Verdict::NotModified);
        check(Method::HEAD, &[(header::IF_MODIFIED_SINCE, AFTER)], Verdict::NotModified);
        check(Method::GET, &[(header::IF_MODIFIED_SINCE, BEFORE)], Verdict::Whole);
        check(Method::GET, &[(header::IF_MODIFIED_SINCE, "yesterday")], Verdict::Whole);
        // It is ignored beside If-None-Match.
        check(
            Method::GET,
            &[(header::IF_MODIFIED_SINCE, AFTER), (header::IF_NONE_MATCH, "\"x\"")],
            Verdict::Whole,
        );
    }

    #[test]
    fn rfc9110_13_1_4_if_unmodified_since() {
        check(Method::GET, &[(header::IF_UNMODIFIED_SINCE, SAME)], Verdict::Whole);
        check(Method::GET, &[(header::IF_UNMODIFIED_SINCE, BEFORE)], Verdict::PreconditionFailed);
        check(
            Method::GET,
            &[(header::IF_UNMODIFIED_SINCE, BEFORE), (header::IF_MATCH, &tag())],
            Verdict::Whole,
        );
    }

    #[test]
    fn rfc9110_13_1_5_if_range() {
        let if_range = |condition: &str, expected| {
            check(Method::GET, &[(header::RANGE, "bytes=10-19"), (header::IF_RANGE, condition)], expected);
        };
        if_range(&tag(), Verdict::Part(10..20));
        if_range("\"x\"", Verdict::Whole);
        if_range(&format!("W/{}", tag()), Verdict::Whole);
        if_range(SAME, Verdict::Whole);
    }

    #[test]
    fn rfc9110_14_2_range_is_for_get_and_after_preconditions() {
        let range = (header::RANGE, "bytes=-10");
        check(Method::GET, std::slice::from_ref(&range), Verdict::Part(90..100));
        check(Method::HEAD, std::slice::from_ref(&range), Verdict::Whole);
        check(Method::GET, &[range, (header::IF_NONE_MATCH, &tag())], Verdict::NotModified);
        check(Method::GET, &[(header::RANGE, "bytes=100-")], Verdict::Unsatisfiable);
        check(Method::GET, &[(header::RANGE, "bytes=0-1"), (header::RANGE, "bytes=5-6")], Verdict::Whole);
    }

    #[test]
    fn rfc9110_8_8_2_1_last_modified_is_not_in_the_future() {
        let now = UNIX_EPOCH + Duration::from_secs(100);
        assert_eq!(validators().modified_at(now), now);
        let absurd = Validators { modified: u64::MAX, ..validators() };
        assert_eq!(absurd.modified_at(now), now);
    }
}
