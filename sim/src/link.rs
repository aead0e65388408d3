//! One direction of a path between two hosts: delay, jitter, loss, rate and a finite queue.
//!
//! A link is the path a packet takes through a wide-area network, folded into one box:
//!
//! ```text
//!            queue (bytes)      rate            loss      delay + jitter
//!  packet ──▶ [ drop-tail ] ──▶ serialiser ──▶ coin ──▶ ───────────────▶ delivery
//! ```
//!
//! [`LinkModel::admit`] decides the whole fate of a packet the moment it is handed over: dropped
//! (and why), or delivered at a time. Nothing is stored per packet; the queue is the time until
//! which the serialiser is busy. So the model costs the same for a simulated member as for the
//! testbed's fabric that switches real packets, and both see the same network.
//!
//! The randomness comes in with the call, so one seed makes one run.

use rand::Rng;
use serde::{Deserialize, Serialize};
use std::time::Duration;

/// What a link is like. All of it can be changed while the link carries packets.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Profile {
    /// One-way propagation delay; default none.
    pub delay: Duration,
    /// At most this much is added to the delay of each packet, evenly distributed; default none.
    pub jitter: Duration,
    /// The share of packets lost on the way, 0 to 1, each independently; default none.
    pub loss: f64,
    /// Bits per second; `None` (default) does not limit.
    pub rate_bps: Option<u64>,
    /// How much may wait for the serialiser, bytes; only counts when there is a rate. The default,
    /// 1 MiB, is 84 ms at 100 Mbit/s: a usual router buffer.
    pub queue_len_max: u64,
    /// Whether packets may overtake each other when jitter says so; default no, as on most paths.
    pub reorder: bool,
    /// Whether the link is cut: it drops everything.
    pub cut: bool,
}

impl Default for Profile {
    fn default() -> Profile {
        Profile {
            delay: Duration::ZERO,
            jitter: Duration::ZERO,
            loss: 0.0,
            rate_bps: None,
            queue_len_max: 1024 * 1024,
            reorder: false,
            cut: false,
        }
    }
}

impl Profile {
    /// A link with this one-way delay and nothing else wrong with it.
    pub fn with_delay(delay: Duration) -> Profile {
        Profile { delay, ..Profile::default() }
    }
}

/// What becomes of a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It arrives at this time, on the clock that [`LinkModel::admit`] was called with.
    Deliver(Duration),
    /// It does not arrive.
    Drop(DropReason),
}

/// Why a packet does not arrive.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum DropReason {
    /// The link is cut.
    Cut,
    /// Too much waits already.
    QueueFull,
    /// Lost on the way.
    Loss,
}

/// What a link has done so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Counters {
    /// Packets delivered.
    pub delivered: u64,
    /// Bytes delivered.
    pub delivered_bytes: u64,
    /// Packets dropped because the link was cut.
    pub cut: u64,
    /// Packets dropped because the queue was full.
    pub queue_full: u64,
    /// Packets lost on the way.
    pub lost: u64,
}

/// One direction of a path, with its state.
#[derive(Clone, Debug, Default)]
pub struct LinkModel {
    profile: Profile,
    /// Until when the serialiser is busy with what was admitted.
    busy_until: Duration,
    /// The latest delivery so far: without reordering, nothing is delivered before it.
    last_delivery: Duration,
    counters: Counters,
}

impl LinkModel {
    /// A link that is like `profile`.
    pub fn new(profile: Profile) -> LinkModel {
        LinkModel { profile, ..LinkModel::default() }
    }

    /// What the link is like.
    pub fn profile(&self) -> &Profile {
        &self.profile
    }

    /// Changes what the link is like. Packets under way keep the fate they have.
    pub fn set_profile(&mut self, profile: Profile) {
        self.profile = profile;
    }

    /// Cuts or heals the link.
    pub fn set_cut(&mut self, cut: bool) {
        self.profile.cut = cut;
    }

    /// What the link has done so far.
    pub fn counters(&self) -> Counters {
        self.counters
    }

    /// Decides what becomes of a packet of `len` bytes handed over at `now`. `now` counts from any
    /// fixed moment and must not run backwards by more than the caller can bear to see reordered.
    pub fn admit(&mut self, now: Duration, len: usize, rng: &mut impl Rng) -> Verdict {
        if self.profile.cut {
            self.counters.cut += 1;
            return Verdict::Drop(DropReason::Cut);
        }
        let Some(sent) = self.serialise(now, len as u64) else {
            self.counters.queue_full += 1;
            return Verdict::Drop(DropReason::QueueFull);
        };
        // One draw for each question, asked or not: a change of one property does not shift what
        // the others draw, which keeps two runs of a seed comparable.
        let (coin, wobble) = (rng.random::<f64>(), rng.random::<f64>());
        if coin < self.profile.loss {
            self.counters.lost += 1;
            return Verdict::Drop(DropReason::Loss);
        }
        let travel = self.profile.delay.saturating_add(self.profile.jitter.mul_f64(wobble));
        let mut at = sent.saturating_add(travel);
        if !self.profile.reorder {
            at = at.max(self.last_delivery);
        }
        self.last_delivery = self.last_delivery.max(at);
        self.counters.delivered += 1;
        self.counters.delivered_bytes += len as u64;
        Verdict::Deliver(at)
    }

    /// When the last bit of the packet has left; `None` when the queue has no room for it.
    fn serialise(&mut self, now: Duration, len: u64) -> Option<Duration> {
        let Some(rate) = self.profile.rate_bps else { return Some(now) };
        let rate = u128::from(rate.max(1));
        let backlog = self.busy_until.saturating_sub(now);
        let waiting = backlog.as_nanos() * rate / 8_000_000_000;
        // An empty queue takes any packet, so that a small queue never blocks for ever.
        if waiting > 0 && waiting + u128::from(len) > u128::from(self.profile.queue_len_max) {
            return None;
        }
        let nanos = (u128::from(len) * 8_000_000_000 / rate).min(u128::from(u64::MAX)) as u64;
        self.busy_until = self.busy_until.max(now) + Duration::from_nanos(nanos);
        Some(self.busy_until)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::SeedableRng;
    use rand_chacha::ChaCha8Rng;

    fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    fn run(profile: Profile, packets: u32, gap: Duration, len: usize) -> (LinkModel, Vec<Verdict>) {
        let (mut link, mut rng) = (LinkModel::new(profile), ChaCha8Rng::seed_from_u64(1));
        let verdicts = (0..packets).map(|n| link.admit(gap * n, len, &mut rng)).collect();
        (link, verdicts)
    }

    #[test]
    fn delay_alone_moves_every_packet_by_the_same() {
        let (_, verdicts) = run(Profile::with_delay(ms(40)), 3, ms(10), 1500);
        assert_eq!(verdicts, [ms(40), ms(50), ms(60)].map(Verdict::Deliver));
    }

    #[test]
    fn rate_spaces_packets_and_a_full_queue_drops() {
        // 1,250 bytes at 1 Mbit/s take 10 ms; four of them wait, the rest does not fit.
        let profile = Profile { rate_bps: Some(1_000_000), queue_len_max: 5_000, ..Profile::default() };
        let (link, verdicts) = run(profile, 6, Duration::ZERO, 1250);
        assert_eq!(verdicts[..4], [ms(10), ms(20), ms(30), ms(40)].map(Verdict::Deliver));
        assert_eq!(verdicts[4..], [Verdict::Drop(DropReason::QueueFull); 2]);
        assert_eq!(link.counters().queue_full, 2);
    }

    #[test]
    fn a_packet_larger_than_the_queue_passes_an_idle_link() {
        let profile = Profile { rate_bps: Some(8_000), queue_len_max: 10, ..Profile::default() };
        assert_eq!(run(profile, 1, ms(0), 1000).1, [Verdict::Deliver(ms(1000))]);
    }

    #[test]
    fn loss_takes_its_share() {
        let (link, _) = run(Profile { loss: 0.01, ..Profile::default() }, 100_000, ms(1), 100);
        assert!((800..1200).contains(&link.counters().lost), "{:?}", link.counters());
    }

    #[test]
    fn jitter_reorders_only_when_asked() {
        let in_order = |verdicts: Vec<Verdict>| {
            verdicts.is_sorted_by_key(|verdict| match verdict {
                Verdict::Deliver(at) => *at,
                Verdict::Drop(_) => Duration::ZERO,
            })
        };
        let profile = Profile { jitter: ms(50), ..Profile::with_delay(ms(20)) };
        assert!(in_order(run(profile, 100, ms(1), 100).1));
        assert!(!in_order(run(Profile { reorder: true, ..profile }, 100, ms(1), 100).1));
    }

    #[test]
    fn a_cut_link_drops_and_a_healed_one_carries() {
        let (mut link, mut rng) = (LinkModel::default(), ChaCha8Rng::seed_from_u64(1));
        link.set_cut(true);
        assert_eq!(link.admit(ms(1), 10, &mut rng), Verdict::Drop(DropReason::Cut));
        link.set_cut(false);
        assert_eq!(link.admit(ms(2), 10, &mut rng), Verdict::Deliver(ms(2)));
    }
}
