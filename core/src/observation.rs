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
///
/// On the wire samples and noise share an octet, four bits each. Who knows no noise takes any above
/// 8 for 8 samples; who told none is heard as not knowing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(from = "Wire", into = "Wire")]
pub struct ClientRtt {
    /// IPv4 /24 or IPv6 /48.
    pub prefix: IpNet,
    /// Round-trip time, µs: see [`crate::history`].
    pub rtt_us: u32,
    /// On how many connections it was measured, 1 to [`SAMPLES_MAX`]; of those within ten minutes two
    /// count at most, as they share their moment.
    pub samples: u8,
    /// How long ago the last of them was.
    pub age: Age,
    /// How much one moment differs from another.
    pub noise: Noise,
}

/// How much the round-trip times of one path differ from moment to moment, relative to their median,
/// one deviation. In classes, each a third above the one before.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Noise(u8);

impl Noise {
    /// The highest of each class but the last, thousandths. Below the first nothing varies that matters.
    const PERMILLE: [u32; 15] = [0, 10, 20, 30, 45, 60, 80, 110, 150, 200, 270, 360, 480, 640, 850];

    /// The class of a deviation, thousandths of the median.
    pub fn of(permille: u32) -> Noise {
        let class = Noise::PERMILLE.iter().skip(1).position(|most| permille <= *most);
        Noise(class.map_or(Noise::PERMILLE.len(), |below| below + 1) as u8)
    }

    /// Thousandths of the median: the lowest of the class; `None` where it is not known.
    pub fn permille(self) -> Option<u32> {
        Noise::PERMILLE.get(usize::from(self.0).checked_sub(1)?).copied()
    }
}

/// See [`ClientRtt`].
#[derive(Serialize, Deserialize)]
struct Wire {
    prefix: IpNet,
    rtt_us: u32,
    evidence: u8,
    age: Age,
}

impl From<Wire> for ClientRtt {
    fn from(Wire { prefix, rtt_us, evidence, age }: Wire) -> ClientRtt {
        ClientRtt { prefix, rtt_us, samples: evidence & 15, age, noise: Noise(evidence >> 4) }
    }
}

impl From<ClientRtt> for Wire {
    fn from(ClientRtt { prefix, rtt_us, samples, age, noise }: ClientRtt) -> Wire {
        Wire { prefix, rtt_us, evidence: samples.min(SAMPLES_MAX) | noise.0 << 4, age }
    }
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
        ClientRtt { prefix, rtt_us, samples: 1, age: Age::Recent, noise: Noise::default() }
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

    #[test]
    fn samples_and_noise_share_an_octet() {
        let rtt = ClientRtt::new("192.0.2.0/24".parse().unwrap(), 12_000);
        for (permille, class) in [(0, 1), (10, 1), (11, 2), (200, 9), (849, 14), (5000, 15)] {
            let told = ClientRtt { samples: 5, noise: Noise::of(permille), ..rtt };
            assert_eq!(told.noise, Noise(class), "{permille}");
            assert!(told.noise.permille().is_some_and(|least| least <= permille));
            assert_eq!(crate::wire::decode::<ClientRtt>(&crate::wire::encode(&told), 64).unwrap(), told);
        }
        assert_eq!(rtt.noise.permille(), None);
        // What an older member tells: one octet of samples alone.
        assert_eq!(
            ClientRtt::from(Wire { prefix: rtt.prefix, rtt_us: 12_000, evidence: 1, age: Age::Recent }),
            rtt
        );
    }
}
