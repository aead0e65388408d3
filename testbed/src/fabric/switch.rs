//! The fabric without its ports and clock: packets go in with a time, and come out when due.

use super::{LATENESS_MAX, Lateness, LinkChange, Report};
use crate::address::{HostTable, destination};
use godwit_sim::link::{LinkModel, Profile, Verdict};
use rand::SeedableRng;
use rand::rngs::SmallRng;
use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::time::Duration;

/// How many packets may be under way: 1 Gbit/s over 300 ms is 25,000 full ones, and a few such paths
/// at once must fit. At most 256 MiB, taken only when needed.
const UNDER_WAY_MAX: usize = 131_072;

/// A packet that is due: the host it goes to, and the bytes.
#[derive(Debug)]
pub struct Departure<'a> {
    /// When it was due.
    pub due: Duration,
    /// The host it goes to.
    pub to: u16,
    /// The packet.
    pub packet: &'a [u8],
}

/// Decides the fate of packets and keeps those that are under way.
pub struct Switch {
    hosts: usize,
    table: HostTable,
    links: Vec<LinkModel>,
    rng: SmallRng,
    /// Packets under way, the next due first; equal times in the order of arrival, so that a link
    /// never reorders.
    queue: BinaryHeap<Reverse<(Duration, u64, u32)>>,
    order: u64,
    slab: Vec<Slot>,
    free: Vec<u32>,
    lateness: Lateness,
    counts: Report,
}

/// A packet's memory, reused: after the first second nothing is allocated.
#[derive(Default)]
struct Slot {
    to: u16,
    bytes: Vec<u8>,
}

impl Switch {
    /// A switch between `hosts` hosts, whose addresses `table` knows. All links start cut.
    pub fn new(hosts: usize, table: HostTable, seed: u64) -> Switch {
        let cut = LinkModel::new(Profile { cut: true, ..Profile::default() });
        Switch {
            hosts,
            table,
            links: vec![cut; hosts * hosts],
            rng: SmallRng::seed_from_u64(seed),
            queue: BinaryHeap::new(),
            order: 0,
            slab: Vec::new(),
            free: Vec::new(),
            lateness: Lateness::new(),
            counts: Report::default(),
        }
    }

    /// Changes a link. Packets under way keep their time.
    pub fn change(&mut self, change: LinkChange) {
        let at = usize::from(change.from) * self.hosts + usize::from(change.to);
        if let Some(link) = self.links.get_mut(at) {
            link.set_profile(change.profile);
        }
    }

    /// Takes a packet that host `from` sent at `now`.
    pub fn accept(&mut self, now: Duration, from: u16, packet: &[u8]) {
        let Some(to) = destination(packet).and_then(|address| self.table.find(address)) else {
            self.counts.nowhere += 1;
            return;
        };
        let link = &mut self.links[usize::from(from) * self.hosts + usize::from(to)];
        let Verdict::Deliver(due) = link.admit(now, packet.len(), &mut self.rng) else { return };
        let slot = match self.free.pop() {
            Some(slot) => slot,
            None if self.slab.len() < UNDER_WAY_MAX => {
                self.slab.push(Slot::default());
                self.slab.len() as u32 - 1
            }
            None => {
                self.counts.overflow += 1;
                return;
            }
        };
        let memory = &mut self.slab[slot as usize];
        memory.to = to;
        memory.bytes.clear();
        memory.bytes.extend_from_slice(packet);
        self.queue.push(Reverse((due, self.order, slot)));
        self.order += 1;
    }

    /// How many packets are on their way.
    pub fn under_way(&self) -> u64 {
        self.queue.len() as u64
    }

    /// When the next packet is due.
    pub fn next_due(&self) -> Option<Duration> {
        self.queue.peek().map(|Reverse((due, ..))| *due)
    }

    /// Hands the next packet that is due at `now` to `send`, which answers whether the host took
    /// it. `false` when none is due.
    pub fn depart(&mut self, now: Duration, send: impl FnOnce(Departure<'_>) -> bool) -> bool {
        if self.next_due().is_none_or(|due| due > now) {
            return false;
        }
        let Some(Reverse((due, _, slot))) = self.queue.pop() else { return false };
        let memory = &self.slab[slot as usize];
        self.lateness.record(now.saturating_sub(due));
        if send(Departure { due, to: memory.to, packet: &memory.bytes }) {
            self.counts.delivered += 1;
            self.counts.delivered_bytes += memory.bytes.len() as u64;
        } else {
            self.counts.overflow += 1;
        }
        self.free.push(slot);
        true
    }

    /// What happened so far.
    pub fn report(&self) -> Report {
        let micros = |duration: Duration| duration.as_micros() as u64;
        let p99 = self.lateness.quantile(0.99);
        let mut report = Report {
            under_way: self.under_way(),
            late_p50_us: micros(self.lateness.quantile(0.5)),
            late_p99_us: micros(p99),
            late_max_us: micros(self.lateness.max()),
            valid: p99 <= LATENESS_MAX,
            ..self.counts.clone()
        };
        for link in &self.links {
            let counters = link.counters();
            report.lost += counters.lost;
            report.cut += counters.cut;
            report.queue_full += counters.queue_full;
        }
        report
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::address::{Side, of_host};

    fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    fn packet(to: u8, mark: u8) -> Vec<u8> {
        let mut packet = vec![0; 100];
        packet[0] = 0x45;
        packet[16..20].copy_from_slice(&of_host(Side::Member, to, 1).0.octets());
        packet[99] = mark;
        packet
    }

    fn switch(profile: Profile) -> Switch {
        let mut table = HostTable::new();
        for host in 0..3 {
            table.insert(Side::Member, host as u8, 1, host);
        }
        let mut switch = Switch::new(3, table, 1);
        for (from, to) in [(0, 1), (0, 2)] {
            switch.change(LinkChange { from, to, profile });
        }
        switch
    }

    /// Everything that leaves until `now`, as (due, to, mark).
    fn departures(switch: &mut Switch, now: Duration) -> Vec<(Duration, u16, u8)> {
        let mut out = Vec::new();
        while switch.depart(now, |departure| {
            out.push((departure.due, departure.to, departure.packet[99]));
            true
        }) {}
        out
    }

    #[test]
    fn delay_is_exact_and_order_is_kept() {
        let mut switch = switch(Profile::with_delay(ms(40)));
        for mark in 0..10 {
            switch.accept(ms(5), 0, &packet(1, mark));
        }
        assert_eq!(switch.next_due(), Some(ms(45)));
        assert_eq!(departures(&mut switch, ms(44)), []);
        let expected: Vec<_> = (0..10).map(|mark| (ms(45), 1, mark)).collect();
        assert_eq!(departures(&mut switch, ms(45)), expected);
        assert_eq!(switch.report().delivered, 10);
    }

    #[test]
    fn each_pair_has_its_own_delay() {
        let mut switch = switch(Profile::with_delay(ms(40)));
        switch.change(LinkChange { from: 0, to: 2, profile: Profile::with_delay(ms(10)) });
        switch.accept(ms(0), 0, &packet(1, 1));
        switch.accept(ms(0), 0, &packet(2, 2));
        assert_eq!(departures(&mut switch, ms(100)), [(ms(10), 2, 2), (ms(40), 1, 1)]);
    }

    #[test]
    fn cut_links_and_unknown_addresses_drop() {
        let mut switch = switch(Profile::default());
        switch.accept(ms(0), 1, &packet(0, 1));
        switch.accept(ms(0), 0, &packet(9, 1));
        switch.accept(ms(0), 0, &[]);
        let report = switch.report();
        assert_eq!((report.cut, report.nowhere, report.under_way), (1, 2, 0));
    }

    #[test]
    fn loss_has_its_share_and_lateness_is_told() {
        let mut switch = switch(Profile { loss: 0.1, ..Profile::with_delay(ms(10)) });
        for at in 0..10_000 {
            switch.accept(ms(at), 0, &packet(1, 0));
        }
        let arrived = departures(&mut switch, ms(10_010)).len() as u64;
        let report = switch.report();
        assert_eq!(arrived + report.lost, 10_000);
        assert!((900..1100).contains(&report.lost), "{report:?}");
        assert!(!report.valid, "packets were taken up to 10 s late: {report:?}");
    }

    #[test]
    fn a_host_that_takes_nothing_is_counted_and_memory_is_bounded() {
        let mut switch = switch(Profile::with_delay(ms(1)));
        for _ in 0..UNDER_WAY_MAX + 5 {
            switch.accept(ms(0), 0, &packet(1, 0));
        }
        assert_eq!(switch.report().overflow, 5);
        while switch.depart(ms(1), |_| false) {}
        assert_eq!(switch.report().overflow, 5 + UNDER_WAY_MAX as u64);
        switch.accept(ms(2), 0, &packet(1, 0));
        assert_eq!((switch.slab.len(), switch.report().under_way), (UNDER_WAY_MAX, 1));
    }
}
