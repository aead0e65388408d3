//! From the tunnel to the kernel.

use super::count::{Reason, add};
use super::device::PARTS_MAX;
use super::engine::{Shared, Worker};
use super::gather::{Gather, Opened};
use super::key::Snapshot;
use super::outward::{is_nested, seal_all};
use super::receive::{Arrival, Inbox};
use super::send::Outbox;
use super::{Event, Inward, Passing, Way};
use crate::offload::{Offload, Train};
use godwit_core::packet::{Packet, TCP, UDP, decrement_hops, ecn};
use godwit_core::tunnel::header::{HEADER_LEN, Kind};
use godwit_core::tunnel::width::Word;
use godwit_core::tunnel::{Control, Header};
use godwit_core::wire;
use std::io::IoSlice;
use std::ops::Range;
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

/// An owner is told so often that packets come under a key.
const TELL_EVERY: Duration = Duration::from_millis(250);
/// The longest encoded [`Control`].
const CONTROL_LEN_MAX: usize = 64;

/// Reads one socket until the engine stops.
pub(super) fn run(shared: &Shared, worker: &Worker, number: usize) {
    let mut inbox = Inbox::new(shared.batching);
    let mut state = State {
        shared,
        queue: number,
        now: Instant::now(),
        keys: shared.keys.snapshot(),
        outbox: Outbox::new(shared.batching),
        gather: Gather::new(shared.tun.takes_udp_trains()),
    };
    let socket = shared.sockets.get(number);
    worker.run(socket.as_fd(), &shared.stop, || {
        // An error of the path (a port that is closed there) is about something sent before.
        let count = inbox.receive(socket.as_fd()).unwrap_or(0);
        if count > 0 {
            add(&shared.counters.calls, 1);
            (state.now, state.keys) = (Instant::now(), shared.keys.snapshot());
        }
        for piece in 0..count {
            if let Some(arrival) = inbox.arrival(piece) {
                state.piece(inbox.memory(), &arrival);
            }
        }
        state.flush(inbox.memory());
        state.outbox.flush(&shared.sockets, &shared.counters);
        Some(count)
    });
}

struct State<'a> {
    shared: &'a Shared,
    queue: usize,
    now: Instant,
    keys: Snapshot,
    outbox: Outbox,
    gather: Gather,
}

impl State<'_> {
    fn piece(&mut self, memory: &mut [u8], arrival: &Arrival) {
        let mut start = arrival.place.start;
        if arrival.place.is_empty() {
            self.shared.counters.drop(Reason::Header, 1);
        }
        while start < arrival.place.end {
            let end = (start + arrival.segment).min(arrival.place.end);
            if let Err(reason) = self.datagram(memory, start..end, arrival) {
                self.shared.counters.drop(reason, 1);
            }
            start = end;
        }
    }

    fn datagram(&mut self, memory: &mut [u8], place: Range<usize>, arrival: &Arrival) -> Result<(), Reason> {
        let datagram = &mut memory[place.clone()];
        let header = Header::decode(datagram).map_err(|_| Reason::Header)?;
        let key = self.keys.get(&header.key.0).ok_or(Reason::Stranger)?;
        let (inside, mut inbound) = key.open(&header, datagram)?;
        let control = match header.kind {
            Kind::Control => {
                Some(wire::decode::<Control>(inside, CONTROL_LEN_MAX).map_err(|_| Reason::Malformed)?)
            }
            Kind::Packet => None,
            Kind::Width => {
                let word = Word::read(inside).ok_or(Reason::Malformed)?;
                drop(inbound);
                self.shared.widths.heard(key);
                if self.shared.widths.word(self.shared, &mut self.outbox, key, word) {
                    self.shared.tell(Event::Width);
                }
                return Ok(());
            }
        };
        let known = inbound
            .heard
            .is_some_and(|(from, told)| from == arrival.from && self.now.duration_since(told) < TELL_EVERY);
        if control.is_some() || !known {
            inbound.heard = Some((arrival.from, self.now));
            self.shared.tell(Event::Heard { key: header.key, from: arrival.from, control });
            self.shared.widths.heard(key);
        }
        drop(inbound);
        if header.kind == Kind::Control {
            return Ok(());
        }
        let len = inside.len();
        let place = place.start + HEADER_LEN..place.start + HEADER_LEN + len;
        self.inside(memory, place, &header, arrival)
    }

    fn inside(
        &mut self,
        memory: &mut [u8],
        place: Range<usize>,
        header: &Header,
        arrival: &Arrival,
    ) -> Result<(), Reason> {
        let bytes = &mut memory[place.clone()];
        let packet = Packet::parse(bytes).map_err(|_| Reason::Malformed)?;
        if packet.end != bytes.len() || header.unsummed && !can_be_unsummed(&packet) {
            return Err(Reason::Malformed);
        }
        if is_nested(&self.keys, &packet, bytes) {
            return Err(Reason::Nested);
        }
        ecn::leave_tunnel(bytes, arrival.class).map_err(|_| Reason::Congested)?;
        let offload = match header.unsummed {
            true => Offload::unsummed(packet.payload, packet.protocol),
            false => Offload::default(),
        };
        let passing =
            Passing { packet, bytes, count: 1, relayed: header.relayed, before: header.before, offload };
        match self.shared.steer.inward(header.key, arrival.from, &passing) {
            Inward::Deliver => self.deliver(memory, Opened { place, packet, unsummed: header.unsummed }),
            Inward::Relay { key, to, before } => {
                let way = Way { key, to, before, relayed: true };
                if header.relayed && (header.before.is_none() || before.is_some()) {
                    return Err(Reason::Loop);
                }
                self.relay(memory, place, &packet, offload, &way)?;
            }
            Inward::Taken => add(&self.shared.counters.taken, 1),
            Inward::Drop(reason) => return Err(reason),
        }
        Ok(())
    }

    fn deliver(&mut self, memory: &mut [u8], opened: Opened) {
        if self.shared.batching && self.gather.append(memory, &opened) {
            return;
        }
        self.flush(memory);
        self.gather.begin(memory, opened);
    }

    /// Gives the kernel what was gathered.
    fn flush(&mut self, memory: &mut [u8]) {
        let (packets, octets) = self.gather.len();
        let Some((parts, offload)) = self.gather.take(memory) else { return };
        let mut slices = [IoSlice::new(&[]); PARTS_MAX - 1];
        for (slice, part) in slices.iter_mut().zip(parts) {
            *slice = IoSlice::new(&memory[part.clone()]);
        }
        let counters = &self.shared.counters;
        add(&counters.calls, 1);
        match self.shared.tun.send(self.queue, offload, &mut slices[..parts.len()]) {
            Ok(()) => {
                add(&counters.delivered, packets);
                add(&counters.delivered_octets, octets);
            }
            Err(_) => counters.drop(Reason::Undelivered, packets),
        }
    }

    /// Passes a packet on to where its flow went; no router sees it, so the hop is counted here.
    fn relay(
        &mut self,
        memory: &mut [u8],
        place: Range<usize>,
        packet: &Packet,
        offload: Offload,
        way: &Way,
    ) -> Result<(), Reason> {
        let bytes = &mut memory[place];
        decrement_hops(bytes).map_err(|_| Reason::Loop)?;
        let train = Train { packet: bytes, offload };
        if seal_all(self.shared, &self.keys, &mut self.outbox, way, packet, train).is_some() {
            add(&self.shared.counters.relayed, 1);
        }
        Ok(())
    }
}

/// Whether there is a checksum that the kernel can make.
pub(super) fn can_be_unsummed(packet: &Packet) -> bool {
    let least = match packet.protocol {
        TCP => 20,
        UDP => 8,
        _ => return false,
    };
    packet.end - packet.payload >= least
}
