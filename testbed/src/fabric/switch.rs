//! The fabric without its ports and clock: packets go in with a time, and come out when due.

use super::anycast::Anycast;
use super::{Announcement, LATENESS_MAX, Lateness, LinkChange, Move, Report};
use crate::address::{HostTable, destination, is_home, source};
use godwit_net::offload::{Offload, Train};
use godwit_sim::link::{LinkModel, Profile, Verdict};
use rand::SeedableRng;
use rand::rngs::SmallRng;
use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::ops::Range;
use std::time::Duration;

/// How many packets may be under way: 1 Gbit/s over 300 ms is 25,000 full ones, and a few such paths
/// at once must fit. At most 256 MiB, taken only when needed.
const UNDER_WAY_MAX: usize = 131_072;

/// Packets of one train that are due within this of the first are handed over together, when the
/// last is due: 1 Gbit/s takes 120 µs for ten full ones. So a train costs what a packet costs, and
/// no packet is later by more than this.
const TOGETHER: Duration = Duration::from_micros(250);

/// A slot's memory is kept for the next packet up to this, bytes; a train's is given back.
const KEPT: usize = 2048;

/// A packet that is due, or several of one train: the host it goes to, and the bytes.
#[derive(Debug)]
pub struct Departure<'a> {
    /// When it was due.
    pub due: Duration,
    /// The host it goes to.
    pub to: u16,
    /// What is handed over.
    pub train: Train<'a>,
}

/// Decides the fate of packets and keeps those that are under way.
pub struct Switch {
    hosts: usize,
    table: HostTable,
    links: Vec<LinkModel>,
    anycast: Anycast,
    /// Hosts that may only send from addresses that are theirs (BCP 38).
    filtered: Vec<bool>,
    rng: SmallRng,
    /// Packets under way, the next due first; equal times in the order of arrival, so that a link
    /// never reorders.
    queue: BinaryHeap<Reverse<(Duration, u64, u32)>>,
    order: u64,
    slab: Vec<Slot>,
    free: Vec<u32>,
    /// Packets in the queue: a train counts as what it is on the wire.
    under_way: usize,
    lateness: Lateness,
    counts: Report,
}

/// A packet's memory, reused: after the first second nothing is allocated, but for trains.
#[derive(Default)]
struct Slot {
    to: u16,
    packets: usize,
    offload: Offload,
    bytes: Vec<u8>,
}

/// Packets of one train that travel together.
struct Run {
    numbers: Range<usize>,
    first_due: Duration,
    due: Duration,
}

impl Switch {
    /// A switch between `hosts` hosts, whose addresses `table` knows. All links start cut.
    pub fn new(hosts: usize, table: HostTable, seed: u64) -> Switch {
        let cut = LinkModel::new(Profile { cut: true, ..Profile::default() });
        Switch {
            hosts,
            table,
            links: vec![cut; hosts * hosts],
            anycast: Anycast::new(seed),
            filtered: vec![false; hosts],
            rng: SmallRng::seed_from_u64(seed),
            queue: BinaryHeap::new(),
            order: 0,
            slab: Vec::new(),
            free: Vec::new(),
            under_way: 0,
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
        self.anycast.forget_choices();
    }

    /// A host begins or ends to announce an address.
    pub fn announce(&mut self, change: Announcement) {
        self.anycast.change(change);
    }

    /// The routers around a host have lost it: all that it announces is withdrawn.
    pub fn withdraw_all(&mut self, host: u16) {
        self.anycast.withdraw_all(host);
    }

    /// From now on the network lets out of a host only what comes from an address of that host, or all.
    pub fn filter(&mut self, host: u16, filter: bool) {
        if let Some(filtered) = self.filtered.get_mut(usize::from(host)) {
            *filtered = filter;
        }
    }

    /// A host has another address; packets to the one before go nowhere. Its links stay as they are.
    pub fn rehome(&mut self, change: Move) {
        let Move { host, side, from, to } = change;
        self.table.remove(side, from.0, from.1);
        self.table.insert(side, to.0, to.1, host);
    }

    /// The host that a packet of `from` goes to.
    fn find(&mut self, from: u16, packet: &[u8]) -> Option<u16> {
        let address = destination(packet)?;
        if !is_home(address) {
            return self.table.find(address);
        }
        let (links, hosts) = (&self.links, self.hosts);
        self.anycast.find(from, address, |to| {
            let path = links.get(usize::from(from) * hosts + usize::from(to))?.profile();
            (!path.cut).then_some(path.delay)
        })
    }

    fn lets_out(&self, from: u16, packet: &[u8]) -> bool {
        let own = |address| self.table.find(address) == Some(from) || self.anycast.announces(from, address);
        !self.filtered.get(usize::from(from)).copied().unwrap_or(false) || source(packet).is_some_and(own)
    }

    /// Takes what host `from` sent at `now`. The link decides about each packet of a train by
    /// itself; those that arrive together, one after the other, go on as a train.
    pub fn accept(&mut self, now: Duration, from: u16, train: Train<'_>) {
        if !self.lets_out(from, train.packet) {
            self.counts.filtered += train.count() as u64;
            return;
        }
        let Some(to) = self.find(from, train.packet) else {
            self.counts.nowhere += 1;
            return;
        };
        let link = usize::from(from) * self.hosts + usize::from(to);
        let mut together: Option<Run> = None;
        for number in 0..train.count() {
            let verdict = self.links[link].admit(now, train.len_of(number), &mut self.rng);
            let Verdict::Deliver(due) = verdict else {
                together.take().into_iter().for_each(|run| self.queue(to, train, run));
                continue;
            };
            match &mut together {
                Some(run) if run.first_due + TOGETHER >= due && run.due <= due => {
                    run.numbers.end = number + 1;
                    run.due = due;
                }
                _ => {
                    let run = Run { numbers: number..number + 1, first_due: due, due };
                    together.replace(run).into_iter().for_each(|run| self.queue(to, train, run));
                }
            }
        }
        together.into_iter().for_each(|run| self.queue(to, train, run));
    }

    fn queue(&mut self, to: u16, train: Train<'_>, run: Run) {
        let packets = run.numbers.len();
        if self.under_way + packets > UNDER_WAY_MAX {
            self.counts.overflow += packets as u64;
            return;
        }
        let slot = self.free.pop().unwrap_or_else(|| {
            self.slab.push(Slot::default());
            self.slab.len() as u32 - 1
        });
        let memory = &mut self.slab[slot as usize];
        (memory.to, memory.packets) = (to, packets);
        memory.offload = train.cut(run.numbers, &mut memory.bytes);
        self.under_way += packets;
        self.queue.push(Reverse((run.due, self.order, slot)));
        self.order += 1;
    }

    /// How many packets are on their way.
    pub fn under_way(&self) -> u64 {
        self.under_way as u64
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
        let memory = &mut self.slab[slot as usize];
        self.lateness.record(now.saturating_sub(due));
        let train = Train { packet: &memory.bytes, offload: memory.offload };
        if send(Departure { due, to: memory.to, train }) {
            let lens = (0..memory.packets).map(|number| train.len_of(number) as u64);
            self.counts.delivered_bytes += lens.sum::<u64>();
            self.counts.delivered += memory.packets as u64;
        } else {
            self.counts.overflow += memory.packets as u64;
        }
        self.under_way -= memory.packets;
        if memory.bytes.capacity() > KEPT {
            memory.bytes = Vec::new();
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
            out.push((departure.due, departure.to, departure.train.packet[99]));
            true
        }) {}
        out
    }

    #[test]
    fn delay_is_exact_and_order_is_kept() {
        let mut switch = switch(Profile::with_delay(ms(40)));
        for mark in 0..10 {
            switch.accept(ms(5), 0, Train::single(&packet(1, mark)));
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
        switch.accept(ms(0), 0, Train::single(&packet(1, 1)));
        switch.accept(ms(0), 0, Train::single(&packet(2, 2)));
        assert_eq!(departures(&mut switch, ms(100)), [(ms(10), 2, 2), (ms(40), 1, 1)]);
    }

    #[test]
    fn cut_links_and_unknown_addresses_drop() {
        let mut switch = switch(Profile::default());
        switch.accept(ms(0), 1, Train::single(&packet(0, 1)));
        switch.accept(ms(0), 0, Train::single(&packet(9, 1)));
        switch.accept(ms(0), 0, Train::single(&[]));
        let report = switch.report();
        assert_eq!((report.cut, report.nowhere, report.under_way), (1, 2, 0));
    }

    #[test]
    fn packets_to_a_home_address_reach_who_announces_it() {
        let mut switch = switch(Profile::with_delay(ms(10)));
        let home = crate::address::of_home(1).0;
        let mut to_home = packet(1, 7);
        to_home[16..20].copy_from_slice(&home.octets());
        switch.accept(ms(0), 0, Train::single(&to_home));
        assert_eq!(switch.report().nowhere, 1, "nobody does");
        switch.announce(Announcement { address: home.into(), host: 2, announced: true });
        switch.accept(ms(0), 0, Train::single(&to_home));
        assert_eq!(departures(&mut switch, ms(10)), [(ms(10), 2, 7)]);
        switch.withdraw_all(2);
        switch.accept(ms(20), 0, Train::single(&to_home));
        assert_eq!(switch.report().nowhere, 2);
    }

    #[test]
    fn a_filter_lets_out_what_is_the_hosts_own() {
        let mut switch = switch(Profile::default());
        let (own, home) = (of_host(Side::Member, 0, 1).0, crate::address::of_home(1).0);
        let mut from_home = packet(1, 1);
        from_home[12..16].copy_from_slice(&home.octets());
        let mut from_own = packet(1, 2);
        from_own[12..16].copy_from_slice(&own.octets());
        let pass = |switch: &mut Switch, packet: &[u8]| {
            switch.accept(ms(0), 0, Train::single(packet));
            departures(switch, ms(0)).len()
        };
        assert_eq!(pass(&mut switch, &from_home), 1, "nothing is filtered unless asked for");
        switch.filter(0, true);
        assert_eq!((pass(&mut switch, &from_home), pass(&mut switch, &from_own)), (0, 1));
        assert_eq!(switch.report().filtered, 1);
        switch.announce(Announcement { address: home.into(), host: 0, announced: true });
        assert_eq!(pass(&mut switch, &from_home), 1, "it is the host's now");
    }

    #[test]
    fn a_host_that_moved_has_its_new_address_only() {
        let mut switch = switch(Profile::default());
        let change = Move { host: 1, side: Side::Member, from: (1, 1), to: (9, 3) };
        switch.rehome(change);
        switch.accept(ms(0), 0, Train::single(&packet(1, 1)));
        let mut there = packet(9, 2);
        there[16..20].copy_from_slice(&of_host(Side::Member, 9, 3).0.octets());
        switch.accept(ms(0), 0, Train::single(&there));
        assert_eq!(departures(&mut switch, ms(0)), [(ms(0), 1, 2)]);
        assert_eq!(switch.report().nowhere, 1);
    }

    #[test]
    fn loss_has_its_share_and_lateness_is_told() {
        let mut switch = switch(Profile { loss: 0.1, ..Profile::with_delay(ms(10)) });
        for at in 0..10_000 {
            switch.accept(ms(at), 0, Train::single(&packet(1, 0)));
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
            switch.accept(ms(0), 0, Train::single(&packet(1, 0)));
        }
        assert_eq!(switch.report().overflow, 5);
        while switch.depart(ms(1), |_| false) {}
        assert_eq!(switch.report().overflow, 5 + UNDER_WAY_MAX as u64);
        switch.accept(ms(2), 0, Train::single(&packet(1, 0)));
        assert_eq!((switch.slab.len(), switch.report().under_way), (UNDER_WAY_MAX, 1));
    }
}
