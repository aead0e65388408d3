//! How a world moves: happenings in the order of time, inputs fed, outputs acted on.

use super::{Connection, Happening, HostIndex, World, address};
use crate::link::{LinkModel, Verdict};
use bytes::Bytes;
use godwit_core::key::MemberId;
use godwit_core::member::{Input, Output};
use godwit_core::record::{Key, Record};
use std::net::SocketAddr;
use std::time::Duration;

/// A connection on which nothing was heard for so long is dead (the overlay sets QUIC to this).
const IDLE_MAX: Duration = Duration::from_secs(3);

/// A handshake with admission takes two round trips.
const HANDSHAKE_ROUND_TRIPS: u32 = 2;

impl World {
    /// Lets the time pass.
    pub fn run_for(&mut self, duration: Duration) {
        let end = self.now + duration;
        while self.step(end) {}
    }

    /// Lets the time pass until `reached` (asked every 10 ms) holds; tells how long that took, or
    /// `None` when it did not hold within `limit`.
    pub fn run_until(&mut self, limit: Duration, reached: impl Fn(&World) -> bool) -> Option<Duration> {
        let start = self.now;
        while self.now < start + limit {
            if reached(self) {
                return Some(self.now - start);
            }
            self.run_for(Duration::from_millis(10));
        }
        reached(self).then(|| self.now - start)
    }

    /// Feeds an input to a host that runs, and acts on what comes out.
    pub(super) fn feed(&mut self, host: HostIndex, input: Input) {
        let now = self.time();
        let this = &mut self.hosts[host];
        let Some(member) = this.member.as_mut() else { return };
        if this.paused {
            this.waiting.push_back(input);
            return;
        }
        member.handle(now, input);
        let mut outputs = Vec::new();
        while let Some(output) = member.poll_output() {
            outputs.push(output);
        }
        for output in outputs {
            self.act(host, output);
        }
        self.arrange_wake(host);
    }

    pub(super) fn link(&mut self, from: HostIndex, to: HostIndex) -> &mut LinkModel {
        let profile = self.default_profile;
        self.links.entry((from, to)).or_insert_with(|| LinkModel::new(profile))
    }

    pub(super) fn schedule(&mut self, at: Duration, happening: Happening) {
        self.happenings += 1;
        self.queue.insert((at, self.happenings), happening);
    }

    /// Lets the next thing happen, or the end come.
    fn step(&mut self, end: Duration) -> bool {
        let Some(entry) = self.queue.first_entry() else {
            self.now = end;
            return false;
        };
        if entry.key().0 > end {
            self.now = end;
            return false;
        }
        let ((at, _), happening) = entry.remove_entry();
        self.now = self.now.max(at);
        self.happen(happening);
        true
    }

    fn happen(&mut self, happening: Happening) {
        match happening {
            Happening::Wake { host, start, at } => {
                let this = &self.hosts[host];
                if this.starts == start && this.wake_at == Some(at) {
                    self.hosts[host].wake_at = None;
                    self.feed(host, Input::Timer);
                }
            }
            Happening::Connect { from, start, to } => self.connect(from, start, to),
            Happening::Attempt { from, to, connection, number } => {
                self.attempt(from, to, connection, number);
            }
            Happening::Arrive { from, to, connection, number } => self.arrive(from, to, connection, number),
            Happening::Idle { side, peer, connection } => self.idle(side, peer, connection),
            Happening::Resume { host, start } => {
                if self.hosts[host].starts == start {
                    self.hosts[host].paused = false;
                    while let Some(input) = self.hosts[host].waiting.pop_front() {
                        self.feed(host, input);
                    }
                    self.feed(host, Input::Timer);
                }
            }
        }
    }

    fn act(&mut self, host: HostIndex, output: Output) {
        match output {
            Output::Persist(record) => {
                self.hosts[host].disk.insert(record.key(), *record);
            }
            Output::Forget(key) => {
                self.hosts[host].disk.remove(&key);
            }
            Output::Submitted { key, result } => self.hosts[host].submitted.push((key, result)),
            Output::Send { to, bytes } => self.send(host, to, bytes),
            Output::Dial { addresses, .. } | Output::DialBootstrap { addresses } => {
                self.dial(host, &addresses);
            }
            Output::Rehomed => {
                let peers: Vec<MemberId> = self.member(host).view().connected().collect();
                peers.into_iter().for_each(|peer| self.disconnect(host, peer));
            }
            Output::Disconnect { peer } => self.disconnect(host, peer),
            Output::AdmissionChanged(admission) => self.hosts[host].admission = *admission,
            Output::Changed(_) | Output::Arrived { .. } => {}
            Output::Note(event) => {
                let now = self.now;
                self.events.push((now, host, event));
            }
        }
    }

    fn arrange_wake(&mut self, host: HostIndex) {
        let this = &mut self.hosts[host];
        let Some(deadline) = this.member.as_ref().and_then(|member| member.next_deadline()) else { return };
        if this.wake_at.is_some_and(|at| at <= deadline) {
            return;
        }
        this.wake_at = Some(deadline);
        let start = this.starts;
        let at = deadline.since(super::START).max(self.now);
        self.schedule(at, Happening::Wake { host, start, at: deadline });
    }

    fn rtt(&mut self, a: HostIndex, b: HostIndex) -> Duration {
        let there = *self.link(a, b).profile();
        let back = *self.link(b, a).profile();
        there.delay + there.jitter / 2 + back.delay + back.jitter / 2
    }

    fn dial(&mut self, from: HostIndex, addresses: &[SocketAddr]) {
        let start = self.hosts[from].starts;
        for to in 0..self.hosts.len() {
            if to != from && addresses.contains(&address(to)) {
                let at = self.now + self.rtt(from, to) * HANDSHAKE_ROUND_TRIPS;
                self.schedule(at, Happening::Connect { from, start, to });
            }
        }
    }

    fn connect(&mut self, from: HostIndex, start: u64, to: HostIndex) {
        if self.hosts[from].starts != start || self.hosts[from].member.is_none() {
            return;
        }
        let (dialler, listener) = (self.id(from), self.id(to));
        let cut = self.link(from, to).profile().cut || self.link(to, from).profile().cut;
        if cut || self.hosts[to].member.is_none() || self.hosts[to].paused {
            // A real dialler finds out later; the machine's own backoff rules either way.
            self.feed(from, Input::DialFailed { peer: listener });
            return;
        }
        let now = self.time();
        for (judge, peer, refused) in [(to, dialler, from), (from, listener, to)] {
            let (admission, shown) = (&self.hosts[judge].admission, &self.hosts[refused].config.certificate);
            if admission.admit(now, peer, shown).is_err() {
                if let Some(revocation) = admission.revocation(shown).cloned() {
                    let key = Key::Revocation(revocation.serial);
                    self.feed(refused, Input::Submit(Box::new(Record::Revocation(revocation))));
                    self.hosts[refused].submitted.retain(|(submitted, _)| *submitted != key);
                }
                self.feed(from, Input::DialFailed { peer: listener });
                return;
            }
        }
        let (key, [low, high]) = ends(from, to);
        if let Some(old) = self.connections.get(&key) {
            if old.up == [true, true] {
                // Both believe in the one they have.
                return;
            }
            for (side, host, peer) in [(0, low, high), (1, high, low)] {
                if self.connections.get(&key).is_some_and(|connection| connection.up[side]) {
                    let peer = self.id(peer);
                    self.connections.get_mut(&key).expect("it is there").up[side] = false;
                    self.feed(host, Input::PeerDown { peer });
                }
            }
        }
        self.happenings += 1;
        let connection = Connection {
            number: self.happenings,
            up: [true, true],
            directions: Default::default(),
            heard: [self.now; 2],
        };
        let number = connection.number;
        self.connections.insert(key, connection);
        for (side, peer) in [(low, high), (high, low)] {
            self.schedule(self.now + IDLE_MAX, Happening::Idle { side, peer, connection: number });
        }
        self.feed(from, Input::PeerUp { peer: listener });
        self.feed(to, Input::PeerUp { peer: dialler });
    }

    fn disconnect(&mut self, host: HostIndex, peer: MemberId) {
        let Some(peer) = self.by_id.get(&peer).copied() else { return };
        let (key, ends) = ends(host, peer);
        let Some(connection) = self.connections.remove(&key) else { return };
        for (side, end) in ends.into_iter().enumerate() {
            if connection.up[side] {
                let other = self.id(ends[1 - side]);
                self.feed(end, Input::PeerDown { peer: other });
            }
        }
    }

    fn send(&mut self, from: HostIndex, to: MemberId, bytes: Bytes) {
        let Some(to) = self.by_id.get(&to).copied() else { return };
        let (key, [low, _]) = ends(from, to);
        let Some(connection) = self.connections.get_mut(&key) else { return };
        let number = connection.directions[usize::from(from != low)].push(bytes);
        let connection = connection.number;
        self.attempt(from, to, connection, number);
    }

    fn attempt(&mut self, from: HostIndex, to: HostIndex, connection: u64, number: u64) {
        let rtt = self.rtt(from, to);
        let (key, [low, _]) = ends(from, to);
        let side = usize::from(from != low);
        let Some(found) = self.connections.get_mut(&key).filter(|found| found.number == connection) else {
            return;
        };
        if !found.up[side] {
            return;
        }
        let Some((len, probe)) = found.directions[side].attempt(number, rtt) else { return };
        let now = self.now;
        let World { links, rng, default_profile, .. } = self;
        let link = links.entry((from, to)).or_insert_with(|| LinkModel::new(*default_profile));
        let verdict = link.admit(now, len, rng);
        match verdict {
            Verdict::Deliver(at) => self.schedule(at, Happening::Arrive { from, to, connection, number }),
            Verdict::Drop(_) => {
                self.schedule(now + probe, Happening::Attempt { from, to, connection, number });
            }
        }
    }

    fn arrive(&mut self, from: HostIndex, to: HostIndex, connection: u64, number: u64) {
        let (key, [low, _]) = ends(from, to);
        let (side, other) = (usize::from(from != low), usize::from(from == low));
        let alive = self.hosts[to].member.is_some();
        let now = self.now;
        let Some(found) = self.connections.get_mut(&key).filter(|found| found.number == connection) else {
            return;
        };
        if !found.up[other] || !alive {
            return;
        }
        found.heard[other] = now;
        let peer = self.id(from);
        let (key, _) = ends(from, to);
        let Some(found) = self.connections.get_mut(&key) else { return };
        for bytes in found.directions[side].arrive(number) {
            self.trace.update(&(now.as_nanos() as u64).to_le_bytes());
            self.trace.update(&[from as u8, (from >> 8) as u8, to as u8, (to >> 8) as u8]);
            self.trace.update(&bytes);
            self.feed(to, Input::Message { from: peer, bytes });
        }
    }

    /// One side looks whether it has heard anything lately. A quiet but sound connection is kept:
    /// the transport's own keep-alives are not simulated.
    fn idle(&mut self, side: HostIndex, peer: HostIndex, connection: u64) {
        let (key, [low, _]) = ends(side, peer);
        let end = usize::from(side != low);
        let sound = self.hosts[peer].member.is_some()
            && !self.link(side, peer).profile().cut
            && !self.link(peer, side).profile().cut
            && self.connections.get(&key).is_some_and(|found| found.up[1 - end]);
        let now = self.now;
        let Some(found) = self.connections.get_mut(&key).filter(|found| found.number == connection) else {
            return;
        };
        if !found.up[end] {
            return;
        }
        let quiet = now - found.heard[end];
        if sound || quiet < IDLE_MAX {
            let next = if sound { IDLE_MAX / 3 } else { IDLE_MAX - quiet };
            self.schedule(now + next, Happening::Idle { side, peer, connection });
            return;
        }
        found.up[end] = false;
        let peer = self.id(peer);
        self.feed(side, Input::PeerDown { peer });
    }
}

/// The key of the connection between two hosts, and its ends.
fn ends(a: HostIndex, b: HostIndex) -> ((HostIndex, HostIndex), [HostIndex; 2]) {
    let (low, high) = (a.min(b), a.max(b));
    ((low, high), [low, high])
}
