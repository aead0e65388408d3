//! Spans of time on the command line: `90s`, `15m`, `12h`, `30d`, `2w`, `1y`.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

/// A span of time with its unit, one second to a hundred years.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Span(pub(crate) Duration);

/// Units from small to large, seconds. A year is 365 days: nothing here is about calendars.
const UNITS: [(char, u64); 6] =
    [('s', 1), ('m', 60), ('h', 3600), ('d', 86_400), ('w', 604_800), ('y', 31_536_000)];

impl FromStr for Span {
    type Err = String;
    fn from_str(text: &str) -> Result<Span, String> {
        let wrong = || format!("{text:?} is not a span of time: write 90s, 15m, 12h, 30d, 2w or 1y");
        let unit = text.chars().last().ok_or_else(wrong)?;
        let (_, seconds) = UNITS.iter().find(|(name, _)| *name == unit).ok_or_else(wrong)?;
        let digits = &text[..text.len() - unit.len_utf8()];
        let count: u64 = digits.parse().map_err(|_| wrong())?;
        match count.checked_mul(*seconds) {
            Some(total) if (1..=100 * 31_536_000).contains(&total) => Ok(Span(Duration::from_secs(total))),
            _ => Err(format!("{text:?} is not between one second and a hundred years")),
        }
    }
}

impl fmt::Display for Span {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let seconds = self.0.as_secs();
        let unit = UNITS.iter().rev().find(|(_, unit)| seconds >= *unit && seconds.is_multiple_of(*unit));
        match unit {
            Some((name, unit)) => write!(f, "{}{name}", seconds / unit),
            None => write!(f, "{seconds}s"),
        }
    }
}

/// A span for people who look at a status: the largest unit, one decimal where that helps.
pub(crate) fn about(duration: Duration) -> String {
    let seconds = duration.as_secs();
    match UNITS.iter().rev().find(|(name, unit)| seconds >= *unit * 2 && *name != 'w') {
        Some((name, unit)) => format!("{}{name}", seconds / unit),
        None if seconds == 0 => format!("{}ms", duration.as_millis()),
        None => format!("{seconds}s"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spans_read_back() {
        for text in ["90s", "15m", "12h", "30d", "1w", "1y"] {
            assert_eq!(text.parse::<Span>().unwrap().to_string(), text);
        }
        assert_eq!("60s".parse::<Span>().unwrap().to_string(), "1m");
    }

    #[test]
    fn what_is_no_span_says_so() {
        for text in ["", "15", "m", "-1m", "1.5h", "0s", "101y", "99999999999999999999s", "1µ"] {
            assert!(text.parse::<Span>().is_err(), "{text}");
        }
    }
}
