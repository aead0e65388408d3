//! What holds for any octets: asked by the fuzzer, and of its corpus in every run of the tests. Not built
//! otherwise.
//!
//! The first octet says what the others are: a datagram from a stranger, what the kernel hands over, what
//! came through the tunnel one after another, or one packet that is changed on its way.

use super::Side;
use super::gather::{Gather, Opened};
use super::key::Keys;
use super::outward::complete;
use crate::offload::{HEADER_LEN as OFFLOAD_LEN, Offload, Train};
use godwit_core::packet::{self, Packet, TCP, UDP, checksum, ecn};
use godwit_core::tunnel::header::{HEADER_LEN, Kind, TAG_LEN};
use godwit_core::tunnel::{Cipher, Control, Header, KeyId, TunnelKey};
use godwit_core::wire;
use std::ops::Range;

const KEY: TunnelKey = TunnelKey { id: KeyId(0x0101_0101), to_node: [1; 32], from_node: [2; 32] };
/// As much as one call brings.
const LEN_MAX: usize = 65_535;

/// Panics if it does not hold.
pub fn holds(bytes: &[u8]) {
    let Some((first, rest)) = bytes.split_first() else { return };
    let rest = &rest[..rest.len().min(LEN_MAX)];
    match first % 4 {
        0 => strangers_open_nothing(rest),
        1 => a_train_is_its_packets(rest),
        2 => what_is_gathered_is_what_came(rest),
        _ => changes_leave_a_packet(rest),
    }
}

/// What nobody sealed is not opened, and what was sealed is opened once, as it was and not otherwise.
fn strangers_open_nothing(bytes: &[u8]) {
    let (ours, theirs) = (Keys::default(), Keys::default());
    for (keys, side) in [(&ours, Side::HomeAgent), (&theirs, Side::Node)] {
        keys.install(KEY, side, Cipher::Aes256Gcm, 1420).expect("an empty table takes a key");
    }
    let key = |keys: &Keys| keys.snapshot()[&KEY.id.0].clone();
    let (ours, theirs) = (key(&ours), key(&theirs));
    if let Ok(header) = Header::decode(bytes) {
        assert_eq!(header.encode(), bytes[..HEADER_LEN], "one form for each header");
        assert!(theirs.open(&header, &mut bytes.to_vec()).is_err(), "nobody has sealed it");
    }
    let _ = wire::decode::<Control>(bytes, 64);

    let (at, bit) = bytes
        .split_first_chunk()
        .map_or((0, 0), |([high, low, bit], _)| (usize::from(u16::from_be_bytes([*high, *low])), bit % 8));
    let mut datagram = [&[0; HEADER_LEN], bytes, &[0; TAG_LEN]].concat();
    let header = Header {
        kind: Kind::Packet,
        cipher: Cipher::Aes256Gcm,
        relayed: false,
        unsummed: false,
        before: None,
        key: KEY.id,
        counter: 0,
    };
    ours.seal(header, &mut datagram).expect("a new key seals");
    let mut changed = datagram.clone();
    let at = at % changed.len();
    changed[at] ^= 1 << bit;
    if let Ok(header) = Header::decode(&changed) {
        assert!(theirs.open(&header, &mut changed).is_err(), "one bit of octet {at} is another");
    }
    let header = Header::decode(&datagram).expect("it has a header");
    let again = &mut datagram.clone();
    assert_eq!(theirs.open(&header, &mut datagram).expect("it was sealed").0, bytes);
    assert!(theirs.open(&header, again).is_err(), "once");
}

/// What the kernel hands over as one is cut into packets that have all of it.
fn a_train_is_its_packets(bytes: &[u8]) {
    let Some((header, packet)) = bytes.split_first_chunk::<OFFLOAD_LEN>() else { return };
    let train = Train { packet, offload: Offload::decode(header) };
    let count = train.count();
    assert!(count >= 1);
    if train.is_malformed() || !Packet::parse(packet).is_ok_and(|parsed| parsed.end == packet.len()) {
        return;
    }
    let lens: Vec<usize> = (0..count).map(|number| train.len_of(number)).collect();
    let mut out = vec![0; packet.len()];
    let mut payload = Vec::new();
    let headers = match count {
        1 => 0,
        // All are alike but the last.
        _ => (lens.iter().sum::<usize>() - packet.len()) / (count - 1),
    };
    for (number, len) in lens.into_iter().enumerate() {
        assert_eq!(train.packet_into(number, &mut out), len);
        payload.extend_from_slice(&out[headers..len]);
        if let Some((start, at)) = train.offload.checksum() {
            complete(&mut out[..len], start, at);
        }
    }
    if count > 1 {
        assert_eq!(payload, packet[headers..], "all of it, once");
    }
}

/// Packets as they lie after they were opened, of any content: `[flags][length][octets] …`.
fn laid(mut bytes: &[u8]) -> (Vec<u8>, Vec<Opened>) {
    let (mut memory, mut all) = (Vec::new(), Vec::new());
    while let Some(([flags, high, low], rest)) = bytes.split_first_chunk() {
        let (inside, rest) = rest.split_at(usize::from(u16::from_be_bytes([*high, *low])).min(rest.len()));
        bytes = rest;
        memory.extend([0xee; HEADER_LEN + TAG_LEN]);
        let place = memory.len()..memory.len() + inside.len();
        memory.extend_from_slice(inside);
        let Ok(packet) = Packet::parse(inside) else { continue };
        let unsummed = flags & 1 != 0;
        if packet.end == inside.len() && (!unsummed || super::inward::can_be_unsummed(&packet)) {
            all.push(Opened { place, packet, unsummed });
        }
    }
    (memory, all)
}

/// What is given to the kernel as one is cut by it into what came, and sums that were wrong stay wrong.
fn what_is_gathered_is_what_came(bytes: &[u8]) {
    let (mut memory, all) = laid(bytes);
    let came: Vec<(Vec<u8>, bool)> =
        all.iter().map(|one| (memory[one.place.clone()].to_vec(), one.unsummed)).collect();
    let (mut gather, mut trains) = (Gather::new(true), Vec::new());
    for next in all {
        if !gather.append(&memory, &next) {
            trains.extend(take(&mut gather, &mut memory));
            gather.begin(&memory, next);
        }
    }
    trains.extend(take(&mut gather, &mut memory));
    let mut came = came.iter();
    for (packet, offload) in trains {
        let train = Train { packet: &packet, offload };
        let count = train.count();
        for number in 0..count {
            let (before, unsummed) = came.next().expect("no more than came");
            let mut after = vec![0; train.len_of(number)];
            train.packet_into(number, &mut after);
            if count == 1 {
                assert_eq!(after, *before);
                continue;
            }
            let (start, at) = offload.checksum().expect("a train's sums are left to do");
            if !unsummed {
                complete(&mut after, start, at);
                assert!(is_right(before) && is_right(&after), "no sum is made right");
            }
            assert_eq!(plain(&after, at), plain(before, at), "packet {number} of {count}");
        }
    }
    assert!(came.next().is_none(), "no less than came");
}

fn take(gather: &mut Gather, memory: &mut [u8]) -> Option<(Vec<u8>, Offload)> {
    let (parts, offload) = gather.take(memory)?;
    let parts: Vec<Range<usize>> = parts.to_vec();
    Some((parts.iter().flat_map(|part| &memory[part.clone()]).copied().collect(), offload))
}

fn is_right(bytes: &[u8]) -> bool {
    let Ok(packet) = Packet::parse(bytes) else { return false };
    let upper = &bytes[packet.payload..];
    let sum = checksum::pseudo_header(packet.source, packet.destination, packet.protocol, upper.len());
    checksum::finish(checksum::add(sum, upper)) == 0
}

/// Without what a kernel may choose for each packet: identification, and sums.
fn plain(bytes: &[u8], sum: usize) -> Vec<u8> {
    let mut bytes = bytes.to_vec();
    if bytes[0] >> 4 == 4 {
        bytes[4..6].fill(0);
        bytes[10..12].fill(0);
    }
    bytes[sum..sum + 2].fill(0);
    bytes
}

/// A packet that is changed on its way is one between the same two afterwards, and so are errors about it.
fn changes_leave_a_packet(bytes: &[u8]) {
    let Some((class, bytes)) = bytes.split_first() else { return };
    let mut bytes = bytes.to_vec();
    let Ok(packet) = Packet::parse(&bytes) else { return };
    let ends = |bytes: &[u8]| {
        let packet = Packet::parse(bytes).expect("it was one, and is");
        (packet.source, packet.destination, packet.protocol, packet.end)
    };
    let before = ends(&bytes);
    if packet::decrement_hops(&mut bytes).is_ok() {
        assert_eq!(ends(&bytes), before);
    }
    if ecn::leave_tunnel(&mut bytes, *class).is_ok() {
        assert_eq!(ends(&bytes), before);
    }
    if packet.protocol == TCP {
        packet::clamp_mss(&mut bytes, &packet, 1360);
        assert_eq!(ends(&bytes), before);
    }
    let _ = packet.protocol == UDP && super::outward::is_nested(&Keys::default().snapshot(), &packet, &bytes);
    if let Some(error) = packet::too_big(&bytes, &packet, 1280, packet.destination) {
        assert_eq!(Packet::parse(&error).expect("an error is a packet").destination, packet.source);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_holds_for_the_corpus() {
        let corpus = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../fuzz/corpus/tunnel");
        let files: Vec<_> = std::fs::read_dir(corpus).unwrap().map(|file| file.unwrap().path()).collect();
        assert!(files.len() >= 20, "the corpus is there");
        files.iter().for_each(|file| holds(&std::fs::read(file).unwrap()));
    }
}
