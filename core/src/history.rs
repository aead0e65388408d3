//! What a member remembers of the round-trip times of one client prefix, and what it tells of them.
//!
//! Times vary in three ways. Connections of one moment differ: queues and radios make some longer.
//! Moments differ: an hour of congestion lengthens all. And once in a while the path changes for
//! good. So samples are gathered by *periods* of ten minutes; a period speaks with the median
//! of its last samples, and the median of the periods is told, with how much they differ
//! ([`Noise`]). One bad hour of three does not show in it.
//!
//! A path that has changed shows sooner: when the last three periods are all longer, or all shorter,
//! than every one before them, what was before is forgotten.
//!
//! A history is [`PERIODS_MAX`] periods of [`PERIOD_SAMPLES_MAX`] samples: 400 octets at most.

use crate::observation::{Age, ClientRtt, Noise, SAMPLES_MAX};
use ipnet::IpNet;
use std::time::Duration;

/// How long a period is: as an epoch of exploring clients, which measure for that long.
pub const PERIOD: Duration = Duration::from_secs(600);
/// So many periods in which there were samples are remembered: more than two and a half hours.
pub const PERIODS_MAX: usize = 16;
/// Of each the last samples, so many.
pub const PERIOD_SAMPLES_MAX: usize = 4;
/// After so long without a sample those before it say nothing about now.
const PAUSE_MAX: Duration = Duration::from_secs(2 * 3600);
/// A path has changed when so many periods…
const SHIFT: usize = 3;
/// …are all beyond the ones before, at least so many: by chance once in 84 times, either way.
const SHIFT_BEFORE: usize = 6;
/// Samples of one period count as this many at most.
const TOGETHER_MAX: usize = 2;
/// From so many periods on there is a deviation to tell.
const NOISE_MIN: usize = 3;

/// The times of one prefix. `now` is time since any fixed start, the same for all calls.
#[derive(Clone, Debug, Default)]
pub struct History {
    /// Oldest first.
    periods: Vec<Period>,
    /// When the last sample was.
    at: Duration,
}

#[derive(Clone, Debug)]
struct Period {
    number: u64,
    /// µs; the oldest is overwritten first.
    samples: [u32; PERIOD_SAMPLES_MAX],
    /// How many there were.
    count: u32,
}

impl History {
    /// Takes a sample, µs.
    pub fn take(&mut self, now: Duration, rtt_us: u32) {
        if now.saturating_sub(self.at) > PAUSE_MAX {
            self.periods.clear();
        }
        self.at = now.max(self.at);
        let number = now.as_secs() / PERIOD.as_secs();
        if self.periods.last().is_none_or(|last| last.number < number) {
            self.forget();
            self.periods.push(Period { number, samples: [0; PERIOD_SAMPLES_MAX], count: 0 });
        }
        if let Some(last) = self.periods.last_mut() {
            last.samples[last.count as usize % PERIOD_SAMPLES_MAX] = rtt_us;
            last.count = last.count.saturating_add(1);
        }
    }

    /// How long ago the last sample was; `None` when it is to be forgotten.
    pub fn age(&self, now: Duration) -> Option<Age> {
        Age::of(now.saturating_sub(self.at))
    }

    /// When the last sample was.
    pub fn at(&self) -> Duration {
        self.at
    }

    /// What is told of `prefix`; `None` when there is nothing.
    pub fn told(&self, now: Duration, prefix: IpNet) -> Option<ClientRtt> {
        let times: Vec<u32> = self.periods.iter().map(Period::time).collect();
        let rtt_us = median(times.clone())?;
        let counted = |period: &Period| (period.count as usize).min(TOGETHER_MAX);
        let samples = self.periods.iter().map(counted).sum::<usize>().min(usize::from(SAMPLES_MAX)) as u8;
        Some(ClientRtt { prefix, rtt_us, samples, age: self.age(now)?, noise: noise(times, rtt_us) })
    }

    /// Makes room for a period, and forgets what was before the path changed.
    fn forget(&mut self) {
        let times: Vec<u32> = self.periods.iter().map(Period::time).collect();
        let before = times.len().saturating_sub(SHIFT);
        let (old, new) = times.split_at(before);
        let range = |times: &[u32]| Some((*times.iter().min()?, *times.iter().max()?));
        if let (Some((least, most)), Some((new_least, new_most))) = (range(old), range(new))
            && before >= SHIFT_BEFORE
            && (new_least > most || new_most < least)
        {
            self.periods.drain(..before);
        } else if self.periods.len() >= PERIODS_MAX {
            self.periods.remove(0);
        }
    }
}

impl Period {
    fn time(&self) -> u32 {
        let known = &self.samples[..(self.count as usize).min(PERIOD_SAMPLES_MAX)];
        median(known.to_vec()).unwrap_or(0)
    }
}

/// What half of them are below; of two in the middle the mean.
fn median(mut times: Vec<u32>) -> Option<u32> {
    times.sort_unstable();
    let (low, high) = (times.get(times.len().checked_sub(1)? / 2)?, times.get(times.len() / 2)?);
    Some(low.midpoint(*high))
}

/// The median deviation, as one deviation of a normal distribution.
fn noise(times: Vec<u32>, middle: u32) -> Noise {
    if times.len() < NOISE_MIN {
        return Noise::default();
    }
    let away = median(times.into_iter().map(|time| time.abs_diff(middle)).collect()).unwrap_or(0);
    let permille = u64::from(away) * 1483 / u64::from(middle.max(1));
    Noise::of(u32::try_from(permille).unwrap_or(u32::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What is told after periods with these samples (ms) each: ms, samples, thousandths of noise.
    fn told(periods: &[&[u32]]) -> (u32, u8, Option<u32>) {
        let mut history = History::default();
        let mut now = Duration::ZERO;
        for samples in periods {
            samples.iter().for_each(|ms| history.take(now, ms * 1000));
            now += PERIOD;
        }
        let told = history.told(now, "192.0.2.0/24".parse().unwrap()).unwrap();
        (told.rtt_us / 1000, told.samples, told.noise.permille())
    }

    #[test]
    fn neither_slow_connections_nor_a_congested_hour_show() {
        assert_eq!(told(&[&[90, 20, 21]]), (21, 2, None));
        assert_eq!(told(&[&[20, 22]]), (21, 2, None), "of two the mean");
        assert_eq!(told(&[&[20], &[21], &[19]]), (20, 3, Some(60)));
        let hour: Vec<&[u32]> =
            [&[20u32][..]; 5].into_iter().chain([&[90u32][..]; 4]).chain([&[20u32][..]; 2]).collect();
        // Four periods of ninety are a change, seven of twenty around them are not forgotten for it…
        assert_eq!(told(&[&hour[..4], &hour[5..9], &hour[9..]].concat()).0, 20);
        assert_eq!(told(&[&[20][..]; 16]), (20, 8, Some(0)));
    }

    #[test]
    fn a_path_that_changed_shows_after_half_an_hour() {
        let change = |to: &'static [u32]| -> Vec<u32> {
            (1..6).map(|n| told(&[&[&[50u32, 51][..]; 12][..], &vec![to; n]].concat()).0).collect()
        };
        assert_eq!(change(&[90]), [50, 50, 50, 90, 90]);
        assert_eq!(change(&[20]), [50, 50, 50, 20, 20]);
    }

    #[test]
    fn it_is_bounded_and_a_pause_ends_it() {
        let mut history = History::default();
        for n in 0..10_000 {
            history.take(Duration::from_secs(n * 60), 1000 + (n % 7) as u32);
            assert!(history.periods.len() <= PERIODS_MAX);
        }
        let now = Duration::from_secs(10_000 * 60) + PAUSE_MAX;
        assert_eq!(history.age(now), Some(Age::PartOfDay));
        history.take(now, 5000);
        assert_eq!(history.told(now, "192.0.2.0/24".parse().unwrap()).unwrap().rtt_us, 5000);
        assert_eq!(history.age(now + Duration::from_secs(25 * 3600)), None);
    }
}
