//! Round-trip times to clients, as members tell them to each other.
//!
//! A member tells what it measured on the connections it served: one value for each client prefix,
//! with how many samples it rests on and how old the last of them is. Both count in the map: a
//! value of one sample gives way to those of its neighbourhood, an old one to a new one. Ages are
//! told in classes and counts are cut, so that a table that did not change stays the same bytes
//! and costs its readers no new map.

use ipnet::IpNet;
use serde::{Deserialize, Serialize};
use std::time::Duration;

/// More samples than this are told as this many: they say no more.
pub const SAMPLES_MAX: u8 = 8;

/// How far a client prefix was from the member that tells it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct ClientRtt {
    /// IPv4 /24 or IPv6 /48.
    pub prefix: IpNet,
    /// Round-trip time, µs: a low quantile of what was measured.
    pub rtt_us: u32,
    /// On how many connections it was measured, 1 to [`SAMPLES_MAX`].
    pub samples: u8,
    /// How long ago the last of them was.
    pub age: Age,
}

/// How long ago something was measured. What is older than a day is not told and counts for
/// nothing: routes and congestion follow the day, and what holds for longer is measured again.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Age {
    /// At most a quarter of an hour.
    #[default]
    Recent,
    /// At most two hours.
    Hours,
    /// At most eight hours.
    PartOfDay,
    /// At most a day.
    Day,
}

impl Age {
    /// All classes, from the youngest, with the age that each reaches to.
    pub const ALL: [(Age, Duration); 4] = [
        (Age::Recent, Duration::from_secs(15 * 60)),
        (Age::Hours, Duration::from_secs(2 * 3600)),
        (Age::PartOfDay, Duration::from_secs(8 * 3600)),
        (Age::Day, Duration::from_secs(24 * 3600)),
    ];

    /// The class of what is `age` old; `None` when it is to be forgotten.
    pub fn of(age: Duration) -> Option<Age> {
        Age::ALL.into_iter().find(|(_, until)| age <= *until).map(|(class, _)| class)
    }

    /// What a sample of this age weighs beside a recent one, eighths: half as much with each class.
    pub const fn weight(self) -> u32 {
        8 >> self as u32
    }
}

impl ClientRtt {
    /// One recent sample.
    pub fn new(prefix: IpNet, rtt_us: u32) -> ClientRtt {
        ClientRtt { prefix, rtt_us, samples: 1, age: Age::Recent }
    }

    /// What it weighs: its samples, the old ones less; at least 1, at most 64.
    pub fn weight(&self) -> u32 {
        u32::from(self.samples.clamp(1, SAMPLES_MAX)) * self.age.weight()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn weight_falls_with_age_until_it_is_forgotten() {
        let hours = |hours: u64| Age::of(Duration::from_secs(hours * 3600));
        assert_eq!(Age::of(Duration::ZERO), Some(Age::Recent));
        assert_eq!(
            [hours(2), hours(8), hours(24)].map(Option::unwrap),
            [Age::Hours, Age::PartOfDay, Age::Day]
        );
        assert_eq!(hours(25), None);
        assert_eq!(Age::ALL.map(|(age, _)| age.weight()), [8, 4, 2, 1]);
        let told = ClientRtt { samples: 0, ..ClientRtt::new("192.0.2.0/24".parse().unwrap(), 1) };
        assert_eq!(told.weight(), 8, "a claim of no samples counts as one");
        assert_eq!(ClientRtt { samples: 255, age: Age::Day, ..told }.weight(), 8);
    }
}
