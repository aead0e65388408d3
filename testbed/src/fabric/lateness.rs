//! A histogram of small durations: 8 buckets for each doubling, so a quantile is right to 12 %.

use std::time::Duration;

const STEPS: u64 = 8;
/// Enough for any u64 of nanoseconds.
const BUCKETS: usize = 64 * STEPS as usize;

/// How late packets were handed over.
#[derive(Clone, Debug)]
pub struct Lateness {
    buckets: Vec<u64>,
    count: u64,
    max: u64,
}

impl Lateness {
    /// Nothing recorded yet.
    pub fn new() -> Lateness {
        Lateness { buckets: vec![0; BUCKETS], count: 0, max: 0 }
    }

    /// Records one packet.
    pub fn record(&mut self, late: Duration) {
        let nanos = late.as_nanos().min(u128::from(u64::MAX)) as u64;
        self.buckets[bucket(nanos)] += 1;
        self.count += 1;
        self.max = self.max.max(nanos);
    }

    /// The duration that a share `q` (0 to 1) of packets did not exceed.
    pub fn quantile(&self, q: f64) -> Duration {
        let wanted = (self.count as f64 * q).ceil().max(1.0) as u64;
        let mut seen = 0;
        let found = self.buckets.iter().position(|count| {
            seen += count;
            seen >= wanted
        });
        Duration::from_nanos(found.map_or(0, |bucket| upper_bound(bucket).min(self.max)))
    }

    /// The worst.
    pub fn max(&self) -> Duration {
        Duration::from_nanos(self.max)
    }
}

impl Default for Lateness {
    fn default() -> Lateness {
        Lateness::new()
    }
}

fn bucket(nanos: u64) -> usize {
    if nanos < STEPS {
        return nanos as usize;
    }
    let octave = u64::from(nanos.ilog2());
    let step = (nanos >> (octave - STEPS.ilog2() as u64)) - STEPS;
    ((octave - u64::from(STEPS.ilog2()) + 1) * STEPS + step) as usize
}

fn upper_bound(bucket: usize) -> u64 {
    let bucket = bucket as u64;
    if bucket < STEPS {
        return bucket;
    }
    let (octave, step) = (bucket / STEPS - 1, bucket % STEPS);
    ((STEPS + step + 1) << octave) - 1
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buckets_hold_what_their_bounds_say() {
        for nanos in (0..100_000u64).chain([1 << 40, u64::MAX >> 4]) {
            let bucket = bucket(nanos);
            assert!(nanos <= upper_bound(bucket), "{nanos}");
            assert!(bucket == 0 || nanos > upper_bound(bucket - 1), "{nanos}");
        }
    }

    #[test]
    fn quantiles() {
        let mut lateness = Lateness::new();
        assert_eq!(lateness.quantile(0.99), Duration::ZERO);
        for micros in 1..=1000 {
            lateness.record(Duration::from_micros(micros));
        }
        let p50 = lateness.quantile(0.5).as_micros();
        assert!((500..=570).contains(&p50), "{p50}");
        assert_eq!(lateness.quantile(1.0), Duration::from_millis(1));
        assert_eq!(lateness.max(), Duration::from_millis(1));
    }
}
