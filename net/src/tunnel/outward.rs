//! From the kernel into the tunnel.

use super::count::{Reason, add};
use super::device::BUFFER_LEN;
use super::engine::{Shared, Worker};
use super::key::Snapshot;
use super::send::Outbox;
use super::{Event, Kept, Outward, Passing, Side, Way};
use crate::offload::{Offload, Train};
use godwit_core::packet::{Packet, TCP, UDP, checksum, clamp_mss, ecn, too_big};
use godwit_core::tunnel::Header;
use godwit_core::tunnel::header::{Cipher, HEADER_LEN, Kind, TAG_LEN};
use std::io::IoSlice;

/// So many reads, then what they brought is sent: small packets wait for no more than these.
const READS_MAX: usize = 64;

/// Reads one queue of the device until the engine stops.
pub(super) fn run(shared: &Shared, worker: &Worker, queue: usize) {
    let mut buffer = vec![0; BUFFER_LEN];
    let mut outbox = Outbox::new(shared.batching);
    worker.run(shared.tun.queue(queue), &shared.stop, || {
        let keys = shared.keys.snapshot();
        let reads = if shared.batching { READS_MAX } else { 1 };
        let (mut count, mut gone) = (0, false);
        while count < reads && !gone {
            match shared.tun.receive(queue, &mut buffer) {
                Ok(Some((offload, bytes))) => {
                    add(&shared.counters.calls, 1);
                    outward(shared, &keys, &mut outbox, offload, bytes);
                    count += 1;
                }
                Ok(None) => break,
                // The interface is down or gone: nothing to read until the owner changes that.
                Err(_) => gone = true,
            }
        }
        outbox.flush(&shared.sockets, &shared.counters);
        (!gone).then_some(count)
    });
}

fn outward(shared: &Shared, keys: &Snapshot, outbox: &mut Outbox, offload: Offload, bytes: &mut [u8]) {
    let train = Train { packet: bytes, offload };
    let count = train.count();
    let packet = match Packet::parse(bytes) {
        Ok(packet) if packet.end == bytes.len() && !train.is_malformed() => packet,
        _ => return shared.counters.drop(Reason::Malformed, count),
    };
    if is_nested(keys, &packet, bytes) {
        return shared.counters.drop(Reason::Nested, count);
    }
    let passing = Passing { packet, bytes, count, relayed: false, before: None, offload };
    match shared.steer.outward(&passing) {
        Outward::Seal { key, to, before } => {
            if shared.side == Side::Node {
                clamp(keys, key, bytes, &packet, offload);
            }
            let way = Way { key, to, before, relayed: false };
            if let Some(sealed) =
                seal_all(shared, keys, outbox, &way, &packet, Train { packet: bytes, offload })
            {
                add(&shared.counters.sealed, count);
                add(&shared.counters.sealed_octets, sealed);
            }
        }
        Outward::Taken => add(&shared.counters.taken, count),
        Outward::Drop(reason) => shared.counters.drop(reason, count),
    }
}

/// Whether it is a packet of one of our own tunnels.
pub(super) fn is_nested(keys: &Snapshot, packet: &Packet, bytes: &[u8]) -> bool {
    let inside = |header: Header| keys.contains_key(&header.key.0);
    packet.protocol == UDP
        && bytes[..packet.end]
            .get(packet.payload + 8..)
            .is_some_and(|payload| Header::decode(payload).is_ok_and(inside))
}

/// Full segments of the other end of a new connection shall fit into the tunnel.
fn clamp(
    keys: &Snapshot,
    key: godwit_core::tunnel::KeyId,
    bytes: &mut [u8],
    packet: &Packet,
    offload: Offload,
) {
    if packet.protocol != TCP {
        return;
    }
    let Some(key) = keys.get(&key.0) else { return };
    let headers = if packet.source.is_ipv4() { 40 } else { 60 };
    let mss = key.narrowest().saturating_sub(headers);
    let place = packet.payload + 16..packet.payload + 18;
    let sum = bytes.get(place.clone()).map(|sum| [sum[0], sum[1]]);
    clamp_mss(bytes, packet, mss);
    // A sum over the pseudo-header covers no options.
    if let (Some(_), Some(sum)) = (offload.checksum(), sum) {
        bytes[place].copy_from_slice(&sum);
    }
}

/// Seals all packets of a train and puts them into the outbox; answers how many octets, or tells the
/// sender why not and counts it.
pub(super) fn seal_all(
    shared: &Shared,
    keys: &Snapshot,
    outbox: &mut Outbox,
    way: &Way,
    packet: &Packet,
    train: Train<'_>,
) -> Option<usize> {
    let count = train.count();
    let Some(key) = keys.get(&way.key.0) else {
        shared.counters.drop(Reason::NoKey, count);
        return None;
    };
    let mtu = key.mtu();
    if train.len_of(0) > usize::from(mtu) {
        shared.counters.drop(Reason::TooBig, count);
        tell_too_big(shared, train, mtu);
        return None;
    }
    // Of TCP and UDP the other end can tell its kernel that the sum is still to be made.
    let unsummed = train
        .offload
        .checksum()
        .is_some_and(|(start, _)| matches!(packet.protocol, TCP | UDP) && start == packet.payload);
    let header = Header {
        kind: Kind::Packet,
        cipher: Cipher::Aes256Gcm,
        relayed: way.relayed,
        unsummed,
        before: way.before,
        key: key.id,
        counter: 0,
    };
    let class = ecn::traffic_class(train.packet);
    let mut octets = 0;
    for number in 0..count {
        let inside = train.len_of(number);
        let len = HEADER_LEN + inside + TAG_LEN;
        if outbox.is_full_for(len) {
            outbox.flush(&shared.sockets, &shared.counters);
        }
        let room = outbox.room(len);
        let bytes = &mut room[HEADER_LEN..][..inside];
        train.packet_into(number, bytes);
        if let Some((start, at)) = train.offload.checksum().filter(|_| !unsummed) {
            complete(bytes, start, at);
        }
        match key.seal(header, room) {
            Ok(worn) => {
                outbox.push(way.to, class, len, key);
                octets += inside;
                if worn {
                    shared.tell(Event::Worn(key.id));
                }
            }
            Err(reason) => shared.counters.drop(reason, 1),
        }
    }
    Some(octets)
}

/// Makes the checksum that the kernel left to us.
pub(super) fn complete(bytes: &mut [u8], start: usize, at: usize) {
    if start >= bytes.len() || at + 2 > bytes.len() {
        return;
    }
    let sum = match checksum::finish(checksum::add(0, &bytes[start..])) {
        // To UDP nought means that there is none (RFC 768).
        0 => 0xffff,
        sum => sum,
    };
    bytes[at..at + 2].copy_from_slice(&sum.to_be_bytes());
}

/// Tells the sender what fits, through the kernel. The error comes from where the packet went: an address
/// of this host's own the kernel would not take from a device.
fn tell_too_big(shared: &Shared, train: Train<'_>, mtu: u16) {
    if !shared.may_send_error() {
        return;
    }
    let mut first = vec![0; train.len_of(0)];
    train.packet_into(0, &mut first);
    let Ok(packet) = Packet::parse(&first) else { return };
    let Some(error) = too_big(&first, &packet, mtu, packet.destination) else { return };
    if shared.tun.send(0, Offload::default(), &mut [IoSlice::new(&error)]).is_ok() {
        add(&shared.counters.errors_sent, 1);
    }
}

/// Seals packets that an owner kept.
pub(super) fn seal_kept(shared: &Shared, outbox: &mut Outbox, way: &Way, kept: &[Kept]) {
    let keys = shared.keys.snapshot();
    for kept in kept {
        let train = Train { packet: &kept.bytes, offload: kept.offload };
        let Ok(packet) = Packet::parse(&kept.bytes) else {
            shared.counters.drop(Reason::Malformed, train.count());
            continue;
        };
        if seal_all(shared, &keys, outbox, way, &packet, train).is_some() {
            let counter = if way.relayed { &shared.counters.relayed } else { &shared.counters.sealed };
            add(counter, train.count());
        }
    }
    outbox.flush(&shared.sockets, &shared.counters);
}
