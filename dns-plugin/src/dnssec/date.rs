//! Times for people and files: `2026-11-21T12:00:00Z`, as RFC 3339 has it, in UTC and whole seconds.

use godwit_core::time::Time;
use std::fmt;
use std::str::FromStr;

const DAY: u64 = 86_400;

/// A time that prints and parses as a date.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Date(pub Time);

/// Not of the form `2026-11-21T12:00:00Z`.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is no time of the form 2026-11-21T12:00:00Z")]
pub struct BadDate(String);

impl fmt::Display for Date {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let secs = self.0.as_secs();
        let (year, month, day) = civil(secs / DAY);
        let (hour, minute, second) = (secs % DAY / 3600, secs % 3600 / 60, secs % 60);
        write!(f, "{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}Z")
    }
}

impl FromStr for Date {
    type Err = BadDate;
    fn from_str(text: &str) -> Result<Date, BadDate> {
        let bad = || BadDate(text.to_owned());
        let bytes = text.as_bytes();
        let form = b"....-..-..T..:..:..Z";
        if bytes.len() != form.len()
            || !form.iter().zip(bytes).all(|(form, is)| match form {
                b'.' => is.is_ascii_digit(),
                other => is == other,
            })
        {
            return Err(bad());
        }
        let part = |from: usize, to: usize| text[from..to].parse::<u64>().map_err(|_| bad());
        let (year, month, day) = (part(0, 4)?, part(5, 7)?, part(8, 10)?);
        let (hour, minute, second) = (part(11, 13)?, part(14, 16)?, part(17, 19)?);
        let days = (year >= 1970).then(|| days(year, month, day)).ok_or_else(bad)?;
        // A date that does not exist, the 30th of February, would come back as another.
        if civil(days) != (year, month, day) || hour > 23 || minute > 59 || second > 59 {
            return Err(bad());
        }
        Ok(Date(Time::from_secs(days * DAY + hour * 3600 + minute * 60 + second)))
    }
}

/// Year, month and day of a day since 1970, in the Gregorian calendar. Years are counted from March,
/// so that the leap day is a year's last; 400 years are 146,097 days.
fn civil(days: u64) -> (u64, u64, u64) {
    let days = days + 719_468;
    let (era, day_of_era) = (days / 146_097, days % 146_097);
    let year = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year + year / 4 - year / 100);
    let month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month + 2) / 5 + 1;
    let month = if month < 10 { month + 3 } else { month - 9 };
    (era * 400 + year + u64::from(month <= 2), month, day)
}

/// The reverse; any number for a date that does not exist.
fn days(year: u64, month: u64, day: u64) -> u64 {
    let year = year - u64::from(month <= 2);
    let (era, of_era) = (year / 400, year % 400);
    let day_of_year = (153 * ((month + 9) % 12) + 2) / 5 + day.saturating_sub(1);
    (era * 146_097 + of_era * 365 + of_era / 4 - of_era / 100 + day_of_year).saturating_sub(719_468)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_go_both_ways() {
        for (secs, text) in [
            (0, "1970-01-01T00:00:00Z"),
            (951_782_399, "2000-02-28T23:59:59Z"),
            (951_782_400, "2000-02-29T00:00:00Z"),
            (1_795_262_400, "2026-11-21T12:00:00Z"),
            (4_107_542_400, "2100-03-01T00:00:00Z"),
        ] {
            assert_eq!(Date(Time::from_secs(secs)).to_string(), text);
            assert_eq!(text.parse(), Ok(Date(Time::from_secs(secs))));
        }
        for secs in (0..200 * 365 * DAY).step_by(999_983) {
            let date = Date(Time::from_secs(secs));
            assert_eq!(date.to_string().parse(), Ok(date));
        }
        for bad in [
            "",
            "2026-02-30T00:00:00Z",
            "2026-13-01T00:00:00Z",
            "2026-11-21 12:00:00",
            "1969-12-31T00:00:00Z",
            "2026-00-10T00:00:00Z",
        ] {
            assert!(bad.parse::<Date>().is_err(), "{bad}");
        }
    }
}
