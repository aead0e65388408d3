//! What is decided on the raw bytes of a packet, before any parser sees it.
//!
//! ```text
//!                                     1  1  1  1  1  1
//!       0  1  2  3  4  5  6  7  8  9  0  1  2  3  4  5
//!     +--+--+--+--+--+--+--+--+--+--+--+--+--+--+--+--+
//!   0 |                      ID                       |
//!   2 |QR|   OPCODE  |AA|TC|RD|RA| Z|AD|CD|   RCODE   |
//!   4 |                    QDCOUNT                    |
//!   6 |                    ANCOUNT                    |
//!   8 |                    NSCOUNT                    |
//!  10 |                    ARCOUNT                    |
//!     +--+--+--+--+--+--+--+--+--+--+--+--+--+--+--+--+
//! ```
//!
//! A packet that is no query gets no answer: answering a response would let two servers be played
//! against each other for ever. A malformed query gets the shortest reply there is, its header with
//! FORMERR, so that garbage is never worth sending.

use crate::cookie::Cookie;
use crate::edns::{OPTION_COOKIE, OPTION_NSID, OPTION_SUBNET, opt_head};
use hickory_server::proto::op::ResponseCode;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// Length of a header, and of a reply that is only a header.
pub const HEADER_LEN: usize = 12;
/// RFC 6891, 6.1.1.
const TYPE_OPT: u16 = 41;

/// The outcome.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Screened {
    /// No reply.
    Silent(Silence),
    /// A reply without records.
    Reject {
        /// With this code.
        code: ResponseCode,
        /// Whether an OPT record goes with it: only when a sound one came.
        edns: bool,
    },
    /// A query to answer.
    Pass(Query),
}

/// Why there is no reply.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Silence {
    /// Shorter than a header: nothing to reply to.
    Short,
    /// It is a response (QR = 1).
    Response,
}

/// What a sound query says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Query {
    /// Length of the question's name in the packet, which begins after the header and is written
    /// whole; with the root's octet.
    pub name_len: usize,
    /// QTYPE.
    pub kind: u16,
    /// QCLASS.
    pub class: u16,
    /// Whether there are records beside the question and OPT: sound, but not heeded.
    pub extra: bool,
    /// Its OPT record.
    pub edns: Option<Opt>,
}

/// An OPT record (RFC 6891, 6.1.2).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Opt {
    /// The EDNS version. Of another than 0 nothing else is read.
    pub version: u8,
    /// The largest UDP payload that the sender takes.
    pub payload: u16,
    /// Whether the sender understands DNSSEC records.
    pub dnssec_ok: bool,
    /// Whether the sender understands NXDOMAIN in a compact denial (RFC 9824, 5.1).
    pub compact_ok: bool,
    /// The client subnet.
    pub subnet: Option<Subnet>,
    /// The cookie.
    pub cookie: Option<Cookie>,
    /// Whether the sender asks for the name server's identifier (RFC 5001).
    pub identify: bool,
}

/// A client subnet as it came (RFC 7871, 6); sound.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Subnet {
    /// The address, zero beyond the prefix.
    pub address: IpAddr,
    /// SOURCE PREFIX-LENGTH.
    pub source: u8,
}

/// Screens a packet.
pub fn screen(packet: &[u8]) -> Screened {
    let Some(header) = packet.first_chunk::<HEADER_LEN>() else { return Screened::Silent(Silence::Short) };
    if header[2] & 0x80 != 0 {
        return Screened::Silent(Silence::Response);
    }
    // RFC 1035, 4.1.1: only standard queries; NOTIFY, UPDATE and the rest are not for us.
    if header[2] & 0x78 != 0 {
        return Screened::Reject { code: ResponseCode::NotImp, edns: false };
    }
    match query(packet, header) {
        Some(Ok(query)) => Screened::Pass(query),
        Some(Err(Malformed)) => Screened::Reject { code: ResponseCode::FormErr, edns: true },
        None => Screened::Reject { code: ResponseCode::FormErr, edns: false },
    }
}

/// The shortest reply to a packet: its header with `code`, and an empty OPT record where EDNS is
/// spoken. `None` when not even the header is there.
pub fn reject(packet: &[u8], code: ResponseCode, edns: bool) -> Option<Vec<u8>> {
    let header = packet.first_chunk::<HEADER_LEN>()?;
    let mut reply = vec![0; HEADER_LEN];
    reply[..2].copy_from_slice(&header[..2]);
    // QR, and OPCODE and RD as they came; CD as it came.
    reply[2] = 0x80 | header[2] & 0x79;
    reply[3] = header[3] & 0x10 | code.low();
    if edns {
        reply.extend(opt_head(code.high(), 0, 0));
        reply[11] = 1;
    }
    Some(reply)
}

/// The reply to a query in another EDNS version than ours (RFC 6891, 6.1.3): whatever its options
/// say, they are not ours to read. `None` for any other query.
pub fn other_version(packet: &[u8], query: &Query) -> Option<Vec<u8>> {
    query.edns.as_ref().filter(|opt| opt.version != 0)?;
    let code = ResponseCode::BADVERS;
    let mut reply = reject(packet, code, false)?;
    reply.extend(packet.get(HEADER_LEN..HEADER_LEN + query.name_len + 4)?);
    reply.extend(opt_head(code.high(), 0, 0));
    (reply[5], reply[11]) = (1, 1);
    Some(reply)
}

/// Walks the whole packet: `None` when it is malformed, an error when only an option is.
fn query(packet: &[u8], header: &[u8; HEADER_LEN]) -> Option<Result<Query, Malformed>> {
    let count = |at: usize| u16::from_be_bytes([header[at], header[at + 1]]);
    // RFC 9619: a query has one question.
    if count(4) != 1 {
        return None;
    }
    let mut walk = Walk { packet, at: HEADER_LEN };
    walk.name(false)?;
    let name_len = walk.at - HEADER_LEN;
    let (kind, class) = (u16::from_be_bytes(walk.take()?), u16::from_be_bytes(walk.take()?));
    for _ in 0..u32::from(count(6)) + u32::from(count(8)) {
        // RFC 6891, 6.1.1: OPT stands in the additional section.
        (walk.record()?.kind != TYPE_OPT).then_some(())?;
    }
    let mut opt = None;
    for _ in 0..count(10) {
        let record = walk.record()?;
        if record.kind == TYPE_OPT {
            // RFC 6891, 6.1.1: one OPT at most, at the root.
            (opt.is_none() && record.at_root).then_some(())?;
            opt = Some(record);
        }
    }
    // Nothing may be left over.
    (walk.at == packet.len()).then_some(())?;
    let records = u32::from(count(6)) + u32::from(count(8)) + u32::from(count(10));
    let extra = records > u32::from(opt.is_some());
    let query = |edns| Some(Ok(Query { name_len, kind, class, extra, edns }));
    let Some(record) = opt else { return query(None) };
    let [_, version, flags, _] = record.ttl.to_be_bytes();
    let opt = Opt {
        version,
        payload: record.class,
        dnssec_ok: flags & 0x80 != 0,
        compact_ok: flags & 0x40 != 0,
        subnet: None,
        cookie: None,
        identify: false,
    };
    if version != 0 {
        return query(Some(opt));
    }
    match options(record.data, opt)? {
        Ok(opt) => query(Some(opt)),
        Err(Malformed) => Some(Err(Malformed)),
    }
}

struct Malformed;

/// Reads the options of an OPT record into `opt`: `None` when they are cut short. RFC 6891, 6.1.2:
/// those we do not know are ignored.
fn options(mut data: &[u8], mut opt: Opt) -> Option<Result<Opt, Malformed>> {
    while !data.is_empty() {
        let (head, rest) = data.split_first_chunk::<4>()?;
        let (code, len) = (u16::from_be_bytes([head[0], head[1]]), u16::from_be_bytes([head[2], head[3]]));
        let (value, rest) = rest.split_at_checked(usize::from(len))?;
        data = rest;
        match code {
            OPTION_SUBNET => match (opt.subnet, client_subnet(value)) {
                (None, read @ Some(_)) => opt.subnet = read,
                _ => return Some(Err(Malformed)),
            },
            // RFC 7873, 5.2: with several cookies only the first counts.
            OPTION_COOKIE if opt.cookie.is_none() => match Cookie::read(value) {
                read @ Some(_) => opt.cookie = read,
                None => return Some(Err(Malformed)),
            },
            OPTION_NSID => opt.identify = true,
            _ => {}
        }
    }
    Some(Ok(opt))
}

/// RFC 7871, 6 and 7.1.2: known family, scope 0, exactly the octets that the prefix needs, no bits
/// beyond it.
fn client_subnet(value: &[u8]) -> Option<Subnet> {
    let ([family_high, family_low, source, scope], octets) = value.split_first_chunk::<4>()?;
    let (width, mut address) = match (family_high, family_low) {
        (0, 1) => (32, [0; 16]),
        (0, 2) => (128, [0; 16]),
        _ => return None,
    };
    if *scope != 0 || *source > width || octets.len() != usize::from(*source).div_ceil(8) {
        return None;
    }
    address[..octets.len()].copy_from_slice(octets);
    let address: IpAddr = match width {
        32 => Ipv4Addr::from(*address.first_chunk::<4>()?).into(),
        _ => Ipv6Addr::from(address).into(),
    };
    let truncated = ipnet::IpNet::new(address, *source).ok()?.network();
    (truncated == address).then_some(Subnet { address, source: *source })
}

struct Walk<'a> {
    packet: &'a [u8],
    at: usize,
}

struct ResourceRecord<'a> {
    at_root: bool,
    kind: u16,
    class: u16,
    ttl: u32,
    data: &'a [u8],
}

impl<'a> Walk<'a> {
    fn take<const N: usize>(&mut self) -> Option<[u8; N]> {
        let bytes = self.packet.get(self.at..)?.first_chunk::<N>()?;
        self.at += N;
        Some(*bytes)
    }

    /// Passes over a name; in a question it may not be compressed, as there is nothing before it.
    fn name(&mut self, compressed: bool) -> Option<()> {
        let start = self.at;
        loop {
            let [len] = self.take()?;
            match len {
                0 => break,
                1..=63 => self.at += usize::from(len),
                192.. if compressed => {
                    let [low] = self.take()?;
                    let target = usize::from(len & 0x3f) << 8 | usize::from(low);
                    // RFC 1035, 4.1.4: to a prior occurrence.
                    return (HEADER_LEN..start).contains(&target).then_some(());
                }
                _ => return None,
            }
            // RFC 1035, 2.3.4: a name has at most 255 octets.
            if self.at > self.packet.len() || self.at - start > 254 {
                return None;
            }
        }
        Some(())
    }

    fn record(&mut self) -> Option<ResourceRecord<'a>> {
        let start = self.at;
        self.name(true)?;
        let at_root = self.packet.get(start) == Some(&0);
        let kind = u16::from_be_bytes(self.take()?);
        let class = u16::from_be_bytes(self.take()?);
        let ttl = u32::from_be_bytes(self.take()?);
        let len = usize::from(u16::from_be_bytes(self.take()?));
        let data = self.packet.get(self.at..)?.get(..len)?;
        self.at += len;
        Some(ResourceRecord { at_root, kind, class, ttl, data })
    }
}
