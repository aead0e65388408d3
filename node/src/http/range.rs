//! `Range` (RFC 9110, 14): which bytes of a representation are asked for.
//!
//! One range is served, as offsets or as a suffix. A request for several is answered with the
//! whole representation, which 14.2 allows and which no client of static files has missed yet;
//! multipart answers have been a way to make servers work hard for little.

use std::ops::Range;

/// What a `Range` field asks of a representation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Asked {
    /// Everything: the field is malformed, of another unit, or asks for several ranges.
    Whole,
    /// These bytes, not empty.
    Part(Range<u64>),
    /// Bytes that are not there.
    Unsatisfiable,
}

/// Reads the value of a `Range` field against a representation of `len` bytes.
pub(crate) fn asked(value: &str, len: u64) -> Asked {
    let Some((unit, set)) = value.split_once('=') else { return Asked::Whole };
    if !unit.trim().eq_ignore_ascii_case("bytes") || set.contains(',') {
        return Asked::Whole;
    }
    let Some((first, last)) = set.trim().split_once('-') else { return Asked::Whole };
    match (position(first), position(last)) {
        (Ok(Some(first)), Ok(last)) => {
            if last.is_some_and(|last| last < first) {
                return Asked::Whole;
            }
            if first >= len {
                return Asked::Unsatisfiable;
            }
            Asked::Part(first..last.map_or(len, |last| last.saturating_add(1).min(len)))
        }
        (Ok(None), Ok(Some(0))) => Asked::Unsatisfiable,
        // A suffix of nothing cannot be written as Content-Range.
        (Ok(None), Ok(Some(_))) if len == 0 => Asked::Whole,
        (Ok(None), Ok(Some(suffix))) => Asked::Part(len.saturating_sub(suffix)..len),
        _ => Asked::Whole,
    }
}

/// A position: none when nothing is written, saturated when it is beyond any file.
fn position(text: &str) -> Result<Option<u64>, ()> {
    let text = text.trim();
    if text.is_empty() {
        return Ok(None);
    }
    if !text.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err(());
    }
    Ok(Some(text.parse().unwrap_or(u64::MAX)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(value: &str, len: u64, expected: Asked) {
        assert_eq!(asked(value, len), expected, "{value:?} of {len}");
    }

    #[test]
    fn rfc9110_14_1_2_int_ranges() {
        check("bytes=0-499", 10_000, Asked::Part(0..500));
        check("bytes=500-999", 10_000, Asked::Part(500..1000));
        check("bytes=9500-", 10_000, Asked::Part(9500..10_000));
        check("bytes=0-0", 10_000, Asked::Part(0..1));
        check("bytes=9999-20000", 10_000, Asked::Part(9999..10_000));
        check("BYTES=1-2", 10, Asked::Part(1..3));
        check("bytes=0-99999999999999999999999", 10, Asked::Part(0..10));
    }

    #[test]
    fn rfc9110_14_1_2_suffix_ranges() {
        check("bytes=-500", 10_000, Asked::Part(9500..10_000));
        check("bytes=-500", 100, Asked::Part(0..100));
        check("bytes=-0", 100, Asked::Unsatisfiable);
        check("bytes=-5", 0, Asked::Whole);
    }

    #[test]
    fn rfc9110_14_2_unsatisfiable_is_told_and_malformed_is_ignored() {
        check("bytes=10000-", 10_000, Asked::Unsatisfiable);
        check("bytes=99999999999999999999-", 10_000, Asked::Unsatisfiable);
        check("bytes=0-", 0, Asked::Unsatisfiable);
        for ignored in [
            "bytes=5-4",
            "bytes=-",
            "bytes=a-b",
            "bytes=1",
            "lines=0-4",
            "bytes",
            "",
            "bytes=+1-2",
            "bytes=--1",
        ] {
            check(ignored, 100, Asked::Whole);
        }
    }

    #[test]
    fn rfc9110_14_2_several_ranges_may_be_answered_whole() {
        check("bytes=0-1,5-6", 100, Asked::Whole);
    }
}
