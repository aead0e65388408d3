//! Packets that follow each other in one flow become one train, which the kernel takes in one call.
//!
//! What the sender's kernel handed over as a train came through the tunnel in pieces, and lies there:
//!
//! ```text
//!  memory │ header │ IP, TCP, payload │ tag │ header │ IP, TCP, payload │ tag │ …
//!  parts             └───────────────┘                        └───────┘
//! ```
//!
//! Nothing is copied: the headers of the first are changed to those of the train, and the kernel
//! gathers the parts. The conditions are those of the kernel's own receive offload: all that is in the
//! headers must be the same but for lengths, sequence numbers, sums and PSH.

use crate::offload::Offload;
use godwit_core::packet::{Fragment, Packet, TCP, UDP, checksum};
use std::ops::Range;

/// As many segments as a train may have, so that the parts of one fit into one call.
const SEGMENTS_MAX: usize = 64;
/// What IP's length field can say.
const LEN_MAX: usize = 65_535;

const PSH: u8 = 0x08;
const ACK: u8 = 0x10;

/// A packet that was opened.
#[derive(Clone, Debug)]
pub(super) struct Opened {
    /// Where it lies.
    pub(super) place: Range<usize>,
    pub(super) packet: Packet,
    /// Its checksum covers the pseudo-header only.
    pub(super) unsummed: bool,
}

/// A train that grows, or a packet.
#[derive(Debug)]
pub(super) struct Gather {
    /// Whether there is anything.
    head: Option<Head>,
    /// Where its parts lie; the first begins with the headers.
    parts: Vec<Range<usize>>,
    /// Whether the kernel takes trains of UDP.
    udp: bool,
}

#[derive(Debug)]
struct Head {
    first: Opened,
    /// Octets of headers; 0 when nothing may follow.
    headers: usize,
    segment: usize,
    len: usize,
    /// The sequence number of what follows; TCP.
    sequence: u32,
    push: bool,
    closed: bool,
}

impl Gather {
    /// Nothing yet. `udp`: whether the kernel takes trains of UDP.
    pub(super) fn new(udp: bool) -> Gather {
        Gather { head: None, parts: Vec::with_capacity(SEGMENTS_MAX), udp }
    }

    /// Whether `next` follows what is there; then it is a part of it.
    pub(super) fn append(&mut self, memory: &[u8], next: &Opened) -> bool {
        let Some(head) = &mut self.head else { return false };
        if head.closed || head.headers == 0 || self.parts.len() >= SEGMENTS_MAX {
            return false;
        }
        let bytes = &memory[next.place.clone()];
        let Some((headers, payload)) = form(bytes, next, self.udp) else { return false };
        if headers != head.headers || payload > head.segment || head.len + payload > LEN_MAX {
            return false;
        }
        let first = &memory[head.first.place.clone()];
        if !alike(first, bytes, &head.first.packet, &next.packet) || !is_right(bytes, next) {
            return false;
        }
        if next.packet.protocol == TCP {
            let start = next.packet.payload;
            if sequence(&bytes[start..]) != head.sequence {
                return false;
            }
            // The kernel's own offload ends a train there too: the sender has paused.
            head.push |= bytes[start + 13] & PSH != 0;
            head.closed = head.push;
        }
        if self.parts.len() == 1 && !is_right(first, &head.first) {
            head.closed = true;
            return false;
        }
        head.sequence = head.sequence.wrapping_add(payload as u32);
        head.closed |= payload < head.segment;
        head.len += payload;
        self.parts.push(next.place.start + headers..next.place.end);
        true
    }

    /// Begins with a packet; what was there before was taken.
    pub(super) fn begin(&mut self, memory: &[u8], first: Opened) {
        let bytes = &memory[first.place.clone()];
        let start = first.packet.payload;
        let (headers, segment) = form(bytes, &first, self.udp).unwrap_or((0, 0));
        let tcp = first.packet.protocol == TCP && headers > 0;
        let push = tcp && bytes[start + 13] & PSH != 0;
        self.parts.clear();
        self.parts.push(first.place.clone());
        self.head = Some(Head {
            headers,
            segment,
            len: first.place.len(),
            sequence: if tcp { sequence(&bytes[start..]).wrapping_add(segment as u32) } else { 0 },
            push,
            closed: push,
            first,
        });
    }

    /// What is there, with headers that are right for it: where it lies, what is left to do, and how
    /// many packets it is made of. Nothing is there afterwards.
    pub(super) fn take(&mut self, memory: &mut [u8]) -> Option<(&[Range<usize>], Offload)> {
        let head = self.head.take()?;
        let Opened { place, packet, unsummed } = head.first;
        if self.parts.len() == 1 {
            let offload = match unsummed {
                true => Offload::unsummed(packet.payload, packet.protocol),
                false => Offload::default(),
            };
            return Some((&self.parts, offload));
        }
        let bytes = &mut memory[place];
        finish(bytes, &packet, head.len, head.push);
        let v6 = packet.source.is_ipv6();
        let offload = match packet.protocol {
            TCP => Offload::tcp_train(v6, packet.payload, head.headers, head.segment),
            _ => Offload::udp_train(packet.payload, head.segment),
        };
        Some((&self.parts, offload))
    }

    /// How many packets are there, and their octets.
    pub(super) fn len(&self) -> (usize, usize) {
        match &self.head {
            Some(head) => (self.parts.len(), head.len + (self.parts.len() - 1) * head.headers),
            None => (0, 0),
        }
    }
}

/// The octets of headers and of payload, if it can be a part of a train.
fn form(bytes: &[u8], opened: &Opened, udp: bool) -> Option<(usize, usize)> {
    let packet = &opened.packet;
    let plain = match bytes[0] >> 4 {
        4 => packet.payload == 20,
        _ => packet.payload == 40,
    };
    if !plain || packet.fragment != Fragment::Whole {
        return None;
    }
    let upper = &bytes[packet.payload..];
    let headers = match packet.protocol {
        TCP if upper.len() >= 20 && upper[13] & !PSH == ACK => usize::from(upper[12] >> 4) * 4,
        // Without a checksum there is nothing to set right, and a length that is not the packet's would be.
        UDP if udp
            && upper.len() >= 8
            && upper[4..6] == (upper.len() as u16).to_be_bytes()
            && (opened.unsummed || upper[6..8] != [0, 0]) =>
        {
            8
        }
        _ => return None,
    };
    let least = if packet.protocol == TCP { 20 } else { 8 };
    (headers >= least && upper.len() > headers).then(|| (packet.payload + headers, upper.len() - headers))
}

/// Whether the headers say the same but for what differs within a train.
fn alike(a: &[u8], b: &[u8], pa: &Packet, pb: &Packet) -> bool {
    let start = pa.payload;
    if start != pb.payload || pa.protocol != pb.protocol || a[0] != b[0] {
        return false;
    }
    let ip = if a[0] >> 4 == 4 {
        // All but total length, identification and checksum.
        a[1] == b[1] && a[6..10] == b[6..10] && a[12..20] == b[12..20]
    } else {
        // All but the payload's length.
        a[1..4] == b[1..4] && a[6..40] == b[6..40]
    };
    let (ta, tb) = (&a[start..], &b[start..]);
    let upper = if pa.protocol == TCP {
        let headers = usize::from(ta[12] >> 4) * 4;
        // Ports; acknowledgement and data offset; window; urgent pointer and options.
        ta[..4] == tb[..4]
            && ta[8..13] == tb[8..13]
            && ta[14..16] == tb[14..16]
            && tb.len() > headers
            && ta[18..headers] == tb[18..headers]
    } else {
        ta[..4] == tb[..4]
    };
    ip && upper
}

/// Whether the checksum is right, or the seal has guarded what it would: the train gets another one.
fn is_right(bytes: &[u8], opened: &Opened) -> bool {
    let packet = &opened.packet;
    if opened.unsummed {
        return true;
    }
    let upper = &bytes[packet.payload..];
    let sum = checksum::pseudo_header(packet.source, packet.destination, packet.protocol, upper.len());
    checksum::finish(checksum::add(sum, upper)) == 0
}

fn sequence(tcp: &[u8]) -> u32 {
    u32::from_be_bytes([tcp[4], tcp[5], tcp[6], tcp[7]])
}

/// Makes the headers of the first packet those of a train of `len` octets.
fn finish(bytes: &mut [u8], packet: &Packet, len: usize, push: bool) {
    let start = packet.payload;
    if packet.source.is_ipv4() {
        bytes[2..4].copy_from_slice(&(len as u16).to_be_bytes());
        bytes[10..12].fill(0);
        let sum = checksum::finish(checksum::add(0, &bytes[..start]));
        bytes[10..12].copy_from_slice(&sum.to_be_bytes());
    } else {
        bytes[4..6].copy_from_slice(&((len - 40) as u16).to_be_bytes());
    }
    let upper = len - start;
    let pseudo = checksum::pseudo_header(packet.source, packet.destination, packet.protocol, upper);
    let pseudo = (!checksum::finish(pseudo)).to_be_bytes();
    if packet.protocol == TCP {
        if push {
            bytes[start + 13] |= PSH;
        }
        bytes[start + 16..start + 18].copy_from_slice(&pseudo);
    } else {
        bytes[start + 4..start + 6].copy_from_slice(&(upper as u16).to_be_bytes());
        bytes[start + 6..start + 8].copy_from_slice(&pseudo);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::offload::Train;

    const FIN: u8 = 0x01;

    /// A train as a kernel hands it over: `len` octets of payload in segments of `segment`.
    fn train(v6: bool, protocol: u8, len: usize, segment: usize) -> (Vec<u8>, Offload) {
        let start = if v6 { 40 } else { 20 };
        let mut upper = vec![0x9c, 0x40, 0, 80];
        if protocol == TCP {
            upper.extend([0xff, 0xff, 0xf0, 0, 0, 0, 0, 9, 0x80, ACK | PSH, 1, 0, 0, 0, 0, 0]);
            // Timestamps, as most connections have them (RFC 7323).
            upper.extend([1, 1, 8, 10, 0, 0, 0, 5, 0, 0, 0, 6]);
        } else {
            upper.extend([0; 4]);
        }
        let headers = start + upper.len();
        upper.extend((0..len).map(|at| (at / segment + at) as u8));
        let mut bytes = match v6 {
            false => [&[0x45, 0, 0, 0, 0, 7, 0x40, 0, 64, protocol, 0, 0], &[10, 0, 0, 1, 10, 0, 0, 2][..]]
                .concat(),
            true => [&[0x60, 0, 0, 0, 0, 0, protocol, 64], &[0xfd; 32][..]].concat(),
        };
        bytes.extend(upper);
        let opened = opened(0..bytes.len(), &mut bytes, true);
        finish(&mut bytes, &opened.packet, headers + len, protocol == TCP);
        let offload = match protocol {
            TCP => Offload::tcp_train(v6, start, headers, segment),
            _ => Offload::udp_train(start, segment),
        };
        (bytes, offload)
    }

    /// What lies at `place`, with the length that it has.
    fn opened(place: Range<usize>, memory: &mut [u8], unsummed: bool) -> Opened {
        let bytes = &mut memory[place.clone()];
        let at = if bytes[0] >> 4 == 4 { 2 } else { 4 };
        if bytes[at..at + 2] == [0, 0] {
            let len = if at == 2 { bytes.len() } else { bytes.len() - 40 };
            bytes[at..at + 2].copy_from_slice(&(len as u16).to_be_bytes());
        }
        Opened { packet: Packet::parse(bytes).unwrap(), place, unsummed }
    }

    /// The packets of a train as they lie after they were opened, with something between them.
    fn laid(train: Train<'_>) -> (Vec<u8>, Vec<Range<usize>>) {
        let (mut memory, mut places) = (Vec::new(), Vec::new());
        for number in 0..train.count() {
            memory.extend([0xee; 32]);
            let start = memory.len();
            memory.resize(start + train.len_of(number), 0);
            train.packet_into(number, &mut memory[start..]);
            places.push(start..memory.len());
        }
        (memory, places)
    }

    /// Gathers; answers the trains that came of it.
    fn gather(memory: &mut [u8], places: &[Range<usize>], unsummed: bool) -> Vec<(Vec<u8>, Offload)> {
        let (mut gather, mut trains) = (Gather::new(true), Vec::new());
        let mut take = |gather: &mut Gather, memory: &mut [u8]| {
            if let Some((parts, offload)) = gather.take(memory) {
                let parts: Vec<&[u8]> = parts.iter().map(|part| &memory[part.clone()]).collect();
                trains.push((parts.concat(), offload));
            }
        };
        for place in places {
            let next = opened(place.clone(), memory, unsummed);
            if !gather.append(memory, &next) {
                take(&mut gather, memory);
                gather.begin(memory, next);
            }
        }
        take(&mut gather, memory);
        trains
    }

    #[test]
    fn what_was_cut_is_put_together_as_it_was() {
        for (v6, protocol) in [(false, TCP), (true, TCP), (false, UDP), (true, UDP)] {
            for (len, segment) in [(1000, 1000), (3000, 1000), (3001, 1000), (60_000, 1380), (120, 100)] {
                let (bytes, offload) = train(v6, protocol, len, segment);
                let (mut memory, places) = laid(Train { packet: &bytes, offload });
                assert_eq!(places.len(), len.div_ceil(segment));
                let trains = gather(&mut memory, &places, true);
                assert_eq!(trains.len(), 1);
                assert!(trains[0].0 == bytes, "{v6} {protocol} {len}");
                if len > segment {
                    assert_eq!(trains[0].1, offload);
                }
            }
        }
    }

    #[test]
    fn packets_with_sums_are_put_together_only_if_they_are_right() {
        let (bytes, offload) = train(false, TCP, 3000, 1000);
        let (mut memory, places) = laid(Train { packet: &bytes, offload });
        for place in &places {
            let packet = &mut memory[place.clone()];
            let sum = checksum::finish(checksum::add(0, &packet[20..]));
            packet[36..38].copy_from_slice(&sum.to_be_bytes());
        }
        assert_eq!(gather(&mut memory.clone(), &places, false).len(), 1);
        for place in &places {
            let mut memory = memory.clone();
            memory[place.end - 1] ^= 1;
            let trains = gather(&mut memory, &places, false);
            assert!(trains.len() > 1, "a wrong sum must not become a right one");
            let wrong = trains.iter().find(|(bytes, _)| bytes.ends_with(&memory[place.clone()]));
            assert_eq!(wrong.map(|(_, offload)| *offload), Some(Offload::default()));
        }
    }

    #[test]
    fn what_differs_stays_apart() {
        type Change = (&'static str, fn(&mut [u8]));
        let changes: [Change; 9] = [
            ("class", |packet| packet[1] = 2),
            ("hops", |packet| packet[8] = 9),
            ("source", |packet| packet[15] = 9),
            ("port", |packet| packet[21] = 9),
            ("a gap", |packet| packet[26] ^= 0x40),
            ("acknowledgement", |packet| packet[31] = 8),
            ("FIN", |packet| packet[33] |= FIN),
            ("window", |packet| packet[35] = 8),
            ("timestamp", |packet| packet[47] = 8),
        ];
        let (bytes, offload) = train(false, TCP, 3000, 1000);
        let (memory, places) = laid(Train { packet: &bytes, offload });
        for (name, change) in changes {
            let mut memory = memory.clone();
            change(&mut memory[places[1].clone()]);
            let trains = gather(&mut memory, &places, true);
            assert_eq!(trains.len(), 3, "{name}");
        }
        // Longer than the first, or out of order.
        let order = [places[2].clone(), places[1].clone(), places[0].clone()];
        assert_eq!(gather(&mut memory.clone(), &order, true).len(), 3);
    }
}
