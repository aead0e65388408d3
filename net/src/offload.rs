//! What a host leaves to its interface: the checksum of a packet, and cutting a train of UDP
//! datagrams or TCP segments into packets.
//!
//! A program that sends many datagrams to one address hands them to the kernel as one (`UDP_SEGMENT`),
//! and a network card cuts them. A port may carry such a train uncut, with the `virtio_net_hdr` of
//! `linux/virtio_net.h` that says how it is to be cut, and the receiving kernel takes it whole
//! (`UDP_GRO`): a tenth of the cost of ten packets. Parts of a train can be cut out here, so that
//! whoever carries it may treat each datagram by itself. TCP does the same with segments.

use godwit_core::packet::{TCP, UDP};
use std::ops::Range;

/// Bytes of the header on a TUN device with `IFF_VNET_HDR`.
pub(crate) const HEADER_LEN: usize = 10;

/// The longest train: what IP's length field can say.
pub const TRAIN_LEN_MAX: usize = 65_535;

const UDP_HEADER_LEN: usize = 8;
const TCP_HEADER_LEN: usize = 20;
/// `VIRTIO_NET_HDR_F_NEEDS_CSUM`: what stands for the checksum is the sum over the pseudo-header.
const NEEDS_CHECKSUM: u8 = 1;
/// `VIRTIO_NET_HDR_GSO_TCPV4`, `_TCPV6`: each piece gets the headers with its own sequence number.
const GSO_TCP_V4: u8 = 1;
const GSO_TCP_V6: u8 = 4;
/// `VIRTIO_NET_HDR_GSO_UDP_L4`: the payload is cut, and each piece gets the headers.
const GSO_UDP_L4: u8 = 5;
/// `VIRTIO_NET_HDR_GSO_ECN`: the first segment alone says that the window was reduced.
const GSO_ECN: u8 = 0x80;

/// What a train carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Load {
    Tcp,
    Udp,
}

/// `struct virtio_net_hdr`. The default is a packet with nothing left to do.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Offload {
    flags: u8,
    gso_type: u8,
    header_len: u16,
    segment_len: u16,
    checksum_start: u16,
    checksum_offset: u16,
}

impl Offload {
    /// A packet whose checksum of TCP or UDP, which begin at `start`, is left to the receiver.
    pub(crate) fn unsummed(start: usize, protocol: u8) -> Offload {
        let checksum_offset = if protocol == TCP { 16 } else { 6 };
        Offload { flags: NEEDS_CHECKSUM, checksum_start: start as u16, checksum_offset, ..Offload::default() }
    }

    /// A train of TCP segments with this much payload each, but the last.
    pub(crate) fn tcp_train(v6: bool, start: usize, header_len: usize, segment_len: usize) -> Offload {
        Offload {
            gso_type: if v6 { GSO_TCP_V6 } else { GSO_TCP_V4 },
            header_len: header_len as u16,
            segment_len: segment_len as u16,
            ..Offload::unsummed(start, TCP)
        }
    }

    /// A train of UDP datagrams with this much payload each, but the last.
    pub(crate) fn udp_train(start: usize, segment_len: usize) -> Offload {
        Offload {
            gso_type: GSO_UDP_L4,
            header_len: (start + UDP_HEADER_LEN) as u16,
            segment_len: segment_len as u16,
            ..Offload::unsummed(start, UDP)
        }
    }

    /// Where the part begins that the checksum covers, and where it is to be put, if that is left to do.
    pub(crate) fn checksum(&self) -> Option<(usize, usize)> {
        let start = usize::from(self.checksum_start);
        (self.flags & NEEDS_CHECKSUM != 0).then_some((start, start + usize::from(self.checksum_offset)))
    }

    pub(crate) fn decode(header: &[u8; HEADER_LEN]) -> Offload {
        let [flags, gso_type, fields @ ..] = *header;
        let field = |at: usize| u16::from_ne_bytes([fields[at], fields[at + 1]]);
        Offload {
            flags,
            gso_type,
            header_len: field(0),
            segment_len: field(2),
            checksum_start: field(4),
            checksum_offset: field(6),
        }
    }

    pub(crate) fn encode(self) -> [u8; HEADER_LEN] {
        let mut header = [self.flags, self.gso_type, 0, 0, 0, 0, 0, 0, 0, 0];
        let fields = [self.header_len, self.segment_len, self.checksum_start, self.checksum_offset];
        for (to, field) in header[2..].chunks_exact_mut(2).zip(fields) {
            to.copy_from_slice(&field.to_ne_bytes());
        }
        header
    }
}

/// A packet, or a train of UDP datagrams or TCP segments with one set of headers.
#[derive(Clone, Copy, Debug)]
pub struct Train<'a> {
    /// IP header onwards.
    pub packet: &'a [u8],
    /// What is left to do.
    pub offload: Offload,
}

impl<'a> Train<'a> {
    /// A packet with nothing left to do.
    pub fn single(packet: &'a [u8]) -> Train<'a> {
        Train { packet, offload: Offload::default() }
    }

    /// Whether it says of itself that it is a train, but its form is not understood.
    pub(crate) fn is_malformed(&self) -> bool {
        self.offload.gso_type & !GSO_ECN != 0 && self.headers().is_none()
    }

    /// How many packets it is on the wire, 1 at least.
    pub fn count(&self) -> usize {
        match self.headers() {
            Some(headers) => self.payload_len(headers).div_ceil(usize::from(self.offload.segment_len)),
            None => 1,
        }
    }

    /// The length on the wire of packet `number`, bytes.
    pub fn len_of(&self, number: usize) -> usize {
        let Some(headers) = self.headers() else { return self.packet.len() };
        let payload = self.payload(&(number..number + 1), headers);
        headers + payload.len()
    }

    /// Puts packets `numbers` into `out`, which is cleared first: one packet, or a shorter train.
    pub fn cut(&self, numbers: Range<usize>, out: &mut Vec<u8>) -> Offload {
        out.clear();
        let headers = match self.headers() {
            Some(headers) if numbers.len() < self.count() => headers,
            _ => {
                out.extend_from_slice(self.packet);
                return self.offload;
            }
        };
        out.resize(headers + self.payload(&numbers, headers).len(), 0);
        self.cut_into(&numbers, headers, out);
        match numbers.len() {
            1 => Offload { gso_type: 0, header_len: 0, segment_len: 0, ..self.offload },
            _ => self.offload,
        }
    }

    /// Puts packet `number` into the first octets of `out`, which has room for it; answers its length.
    /// What its offload says of the checksum holds for it too.
    pub(crate) fn packet_into(&self, number: usize, out: &mut [u8]) -> usize {
        let len = self.len_of(number);
        match self.headers() {
            Some(headers) if self.count() > 1 => {
                self.cut_into(&(number..number + 1), headers, &mut out[..len]);
            }
            _ => out[..len].copy_from_slice(self.packet),
        }
        len
    }

    fn cut_into(&self, numbers: &Range<usize>, headers: usize, out: &mut [u8]) {
        out[..headers].copy_from_slice(&self.packet[..headers]);
        out[headers..].copy_from_slice(&self.packet[self.payload(numbers, headers)]);
        let start = usize::from(self.offload.checksum_start);
        let id = numbers.start as u16;
        if self.load() == Some(Load::Tcp) {
            let ends = numbers.end >= self.count();
            set_sequence(&mut out[start..], numbers.start * usize::from(self.offload.segment_len), ends);
        }
        set_lengths(out, start, headers, id);
    }

    /// The length of its headers, if it is a train whose form is understood.
    fn headers(&self) -> Option<usize> {
        let start = usize::from(self.offload.checksum_start);
        let ip = match self.packet.first()? >> 4 {
            4 => 20,
            6 => 40,
            _ => return None,
        };
        let headers = match self.load()? {
            Load::Udp => start + UDP_HEADER_LEN,
            Load::Tcp => {
                let len = usize::from(self.packet.get(start + 12)? >> 4) * 4;
                (len >= TCP_HEADER_LEN).then_some(start + len)?
            }
        };
        let is_train = self.offload.segment_len > 0 && start >= ip;
        (is_train && headers < self.packet.len()).then_some(headers)
    }

    fn load(&self) -> Option<Load> {
        let v4 = self.packet.first()? >> 4 == 4;
        match self.offload.gso_type & !GSO_ECN {
            GSO_UDP_L4 => Some(Load::Udp),
            GSO_TCP_V4 if v4 && *self.packet.get(9)? == TCP => Some(Load::Tcp),
            GSO_TCP_V6 if !v4 => Some(Load::Tcp),
            _ => None,
        }
    }

    fn payload_len(&self, headers: usize) -> usize {
        self.packet.len() - headers
    }

    /// Where the payload of packets `numbers` lies.
    fn payload(&self, numbers: &Range<usize>, headers: usize) -> Range<usize> {
        let place =
            |number: usize| (headers + number * usize::from(self.offload.segment_len)).min(self.packet.len());
        place(numbers.start)..place(numbers.end)
    }
}

/// Makes `tcp` the segment that begins `offset` octets into the train; FIN and PSH are the last one's,
/// CWR is the first one's (RFC 3168, 6.1.2).
fn set_sequence(tcp: &mut [u8], offset: usize, last: bool) {
    const FIN: u8 = 0x01;
    const PSH: u8 = 0x08;
    const CWR: u8 = 0x80;
    let sequence = u32::from_be_bytes([tcp[4], tcp[5], tcp[6], tcp[7]]).wrapping_add(offset as u32);
    tcp[4..8].copy_from_slice(&sequence.to_be_bytes());
    if !last {
        tcp[13] &= !(FIN | PSH);
    }
    if offset > 0 {
        tcp[13] &= !CWR;
    }
}

/// Makes the lengths and sums in the headers those of `packet`, and its IPv4 identification `id` more
/// than it was. The checksum of what begins at `start` is left to the receiving kernel; what stands in
/// its place is the sum over the pseudo-header, with the length.
fn set_lengths(packet: &mut [u8], start: usize, headers: usize, id: u16) {
    // At most TRAIN_LEN_MAX, as it is a part of a packet.
    let len = packet.len() as u16;
    let old = match packet[0] >> 4 {
        4 => get(packet, 2).wrapping_sub(start as u16),
        _ => get(packet, 4).wrapping_sub(start as u16 - 40),
    };
    if packet[0] >> 4 == 4 {
        put(packet, 2, len);
        put(packet, 4, get(packet, 4).wrapping_add(id));
        put(packet, 10, 0);
        let header_len = usize::from(packet[0] & 15) * 4;
        let sum = !sum_of(&packet[..header_len.min(start)]);
        put(packet, 10, sum);
    } else {
        put(packet, 4, len - 40);
    }
    let new = len - start as u16;
    let at = if headers - start == UDP_HEADER_LEN {
        put(packet, start + 4, new);
        start + 6
    } else {
        start + 16
    };
    let pseudo = fold(u32::from(get(packet, at)) + u32::from(!old) + u32::from(new));
    put(packet, at, pseudo);
}

fn get(packet: &[u8], at: usize) -> u16 {
    u16::from_be_bytes([packet[at], packet[at + 1]])
}

fn put(packet: &mut [u8], at: usize, value: u16) {
    packet[at..at + 2].copy_from_slice(&value.to_be_bytes());
}

/// RFC 1071's sum of 16-bit words.
fn sum_of(bytes: &[u8]) -> u16 {
    fold(bytes.chunks_exact(2).map(|word| u32::from(u16::from_be_bytes([word[0], word[1]]))).sum())
}

fn fold(mut sum: u32) -> u16 {
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    sum as u16
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What a kernel handed over for 3,000 octets in datagrams of 1,400, the payload numbered.
    fn v4() -> (Vec<u8>, Offload) {
        let mut packet = vec![0x45, 0, 0, 0, 0x75, 0x74, 0x40, 0, 64, 17, 0, 0, 10, 250, 0, 1, 10, 250, 0, 2];
        packet.extend([0x85, 0x96, 0, 9, 0, 0, 0, 0]);
        packet.extend((0..3000u32).map(|number| (number / 1400) as u8));
        finish(packet, 20, &[10, 250, 0, 1, 10, 250, 0, 2])
    }

    fn v6() -> (Vec<u8>, Offload) {
        let mut packet = vec![0x60, 0, 0, 0, 0, 0, 17, 64];
        packet.extend([0xfd; 32]);
        packet.extend([0x85, 0x96, 0, 9, 0, 0, 0, 0]);
        packet.extend((0..3000u32).map(|number| (number / 1400) as u8));
        finish(packet, 40, &[0xfd; 32])
    }

    fn finish(mut packet: Vec<u8>, udp: usize, addresses: &[u8]) -> (Vec<u8>, Offload) {
        let pseudo = pseudo_sum(addresses, (packet.len() - udp) as u16);
        let (len, udp_len) = (packet.len() as u16, (packet.len() - udp) as u16);
        if udp == 20 {
            put(&mut packet, 2, len);
            let sum = !sum_of(&packet[..20]);
            put(&mut packet, 10, sum);
        } else {
            put(&mut packet, 4, len - 40);
        }
        put(&mut packet, udp + 4, udp_len);
        put(&mut packet, udp + 6, pseudo);
        let offload = Offload {
            flags: 1,
            gso_type: GSO_UDP_L4,
            header_len: udp as u16 + 8,
            segment_len: 1400,
            checksum_start: udp as u16,
            checksum_offset: 6,
        };
        (packet, offload)
    }

    fn pseudo_sum(addresses: &[u8], udp_len: u16) -> u16 {
        fold(u32::from(sum_of(addresses)) + 17 + u32::from(udp_len))
    }

    #[test]
    fn a_train_is_as_many_packets_as_datagrams() {
        for ((packet, offload), headers) in [(v4(), 28), (v6(), 48)] {
            let train = Train { packet: &packet, offload };
            assert_eq!(train.count(), 3);
            let lens: Vec<usize> = (0..3).map(|number| train.len_of(number)).collect();
            assert_eq!(lens, [headers + 1400, headers + 1400, headers + 200]);
        }
        assert_eq!((Train::single(&v4().0).count(), Train::single(&[]).count()), (1, 1));
    }

    #[test]
    fn parts_have_headers_of_their_own() {
        for ((packet, offload), udp, addresses) in
            [(v4(), 20, &[10, 250, 0, 1, 10, 250, 0, 2][..]), (v6(), 40, &[0xfd; 32][..])]
        {
            let train = Train { packet: &packet, offload };
            let mut part = Vec::new();
            for (numbers, payload, segment) in [(1..2, 1400, 0), (1..3, 1600, 1400), (2..3, 200, 0)] {
                let first = numbers.start as u8;
                let offload = train.cut(numbers, &mut part);
                assert_eq!(part.len(), udp + 8 + payload);
                assert_eq!((offload.segment_len, offload.gso_type > 0), (segment, segment > 0));
                assert_eq!(part[udp + 8], first, "the payload is its own");
                assert_eq!(get(&part, udp + 4) as usize, 8 + payload);
                assert_eq!(get(&part, udp + 6), pseudo_sum(addresses, 8 + payload as u16));
                match udp {
                    20 => {
                        assert_eq!(get(&part, 2) as usize, part.len());
                        assert_eq!(sum_of(&part[..20]), 0xffff, "a right IPv4 header sums to this");
                    }
                    _ => assert_eq!(get(&part, 4) as usize, part.len() - 40),
                }
            }
            assert_eq!(train.cut(0..3, &mut part), offload, "all of it is left as it is");
            assert_eq!(part, packet);
        }
    }

    #[test]
    fn headers_read_back() {
        let (_, offload) = v4();
        assert_eq!(Offload::decode(&offload.encode()), offload);
    }

    #[test]
    fn what_is_malformed_is_one_packet() {
        let (packet, offload) = v4();
        for offload in [
            Offload { segment_len: 0, ..offload },
            Offload { checksum_start: 5, ..offload },
            Offload { checksum_start: 60_000, ..offload },
            Offload { gso_type: 1, ..offload },
        ] {
            let train = Train { packet: &packet, offload };
            assert_eq!((train.count(), train.len_of(0)), (1, packet.len()));
        }
    }
}
