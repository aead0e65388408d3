//! From a screened packet to a question, and from a decision to the octets of a reply.
//!
//! ```text
//! header │ question, as it came │ answers │ authority │ additional │ OPT
//! ```
//!
//! Names in a reply are compressed as hickory compresses them, and hickory writes whatever has names
//! of its own. Most replies have none: addresses of the name that was asked for, whose owner is a
//! pointer to the question. Those are written here, with the header, the question and OPT of all.

use crate::answer::Reply;
use crate::edns::OptRecord;
use crate::screen::{HEADER_LEN, Query};
use hickory_server::proto::op::{MessageType, Metadata, OpCode, Query as Question, emit_message_parts};
use hickory_server::proto::rr::{Name, RData, Record};
use hickory_server::proto::serialize::binary::{BinDecodable, BinDecoder, BinEncoder};
use std::net::IpAddr;

/// RFC 1035, 4.1.4: a pointer to the name after the header.
const QUESTION_POINTER: [u8; 2] = [0xc0, HEADER_LEN as u8];
/// hickory points to so many names in a message at most, the question's among them.
const POINTERS_MAX: usize = 119;
/// AA in the third octet of a header.
const AUTHORITATIVE: u8 = 0x04;
/// TC in the third octet of a header.
const TRUNCATED: u8 = 0x02;

/// A query that was screened, and how it came.
#[derive(Clone, Copy, Debug)]
pub struct Received<'a> {
    /// The packet.
    pub packet: &'a [u8],
    /// What the screen read in it.
    pub query: &'a Query,
    /// Whence it came.
    pub source: IpAddr,
    /// Whether by a transport on which a source may be forged and a reply must be short.
    pub over_udp: bool,
}

impl Received<'_> {
    /// QNAME, in the case it was asked in.
    pub(crate) fn name(&self) -> Option<Name> {
        let name = self.packet.get(HEADER_LEN..)?.get(..self.query.name_len)?;
        Name::read(&mut BinDecoder::new(name)).ok()
    }

    /// The question's octets.
    fn question(&self) -> Option<&[u8]> {
        self.packet.get(HEADER_LEN..)?.get(..self.query.name_len + 4)
    }
}

/// Writes the reply to a query for `name`; `None` when it cannot be written.
pub(crate) fn encode(
    received: &Received<'_>,
    name: &Name,
    reply: &Reply,
    truncated: bool,
    opt: Option<&OptRecord>,
) -> Option<Vec<u8>> {
    let mut bytes = Vec::with_capacity(512);
    match reply.authority.is_empty() && reply.additional.is_empty() && are_addresses_of(name, &reply.answers)
    {
        true => {
            bytes.extend([0; HEADER_LEN]);
            bytes.extend(received.question()?);
            reply.answers.iter().for_each(|record| address(record, &mut bytes));
            bytes[5] = 1;
            bytes[6..8].copy_from_slice(&(reply.answers.len() as u16).to_be_bytes());
        }
        false => sections(received, name, reply, &mut bytes)?,
    }
    let (flags, asked) = (bytes[2] & TRUNCATED, received.packet.first_chunk::<4>()?);
    let flags =
        flags | if truncated { TRUNCATED } else { 0 } | if reply.authoritative { AUTHORITATIVE } else { 0 };
    bytes[..2].copy_from_slice(&asked[..2]);
    // QR; RD and CD come back as they were (RFC 1035, 4.1.1; RFC 4035, 3.1.6).
    bytes[2] = 0x80 | flags | asked[2] & 0x01;
    bytes[3] = asked[3] & 0x10 | reply.code.low();
    if let Some(opt) = opt {
        append(&mut bytes, opt);
    }
    Some(bytes)
}

/// Whether these are few enough addresses of `name`.
fn are_addresses_of(name: &Name, records: &[Record]) -> bool {
    let is_one =
        |record: &Record| matches!(record.data, RData::A(_) | RData::AAAA(_)) && record.name.eq_case(name);
    records.len() < POINTERS_MAX && (records.is_empty() || !name.is_root()) && records.iter().all(is_one)
}

fn address(record: &Record, bytes: &mut Vec<u8>) {
    bytes.extend(QUESTION_POINTER);
    bytes.extend(u16::from(record.record_type()).to_be_bytes());
    bytes.extend(u16::from(record.dns_class).to_be_bytes());
    bytes.extend(record.ttl.to_be_bytes());
    match &record.data {
        RData::A(address) => {
            bytes.extend([0, 4]);
            bytes.extend(address.0.octets());
        }
        RData::AAAA(address) => {
            bytes.extend([0, 16]);
            bytes.extend(address.0.octets());
        }
        _ => {}
    }
}

/// All records by hickory, and the header that it would write.
fn sections(received: &Received<'_>, name: &Name, reply: &Reply, bytes: &mut Vec<u8>) -> Option<()> {
    let mut question = Question::query(name.clone(), received.query.kind.into());
    question.set_query_class(received.query.class.into());
    // hickory's own response writes the question as one piece, to which no name can point: most
    // replies would have its name twice.
    let written = emit_message_parts(
        &Metadata::new(0, MessageType::Response, OpCode::Query),
        &mut [&question].into_iter(),
        &mut reply.answers.iter(),
        &mut reply.authority.iter(),
        &mut reply.additional.iter(),
        None,
        None,
        &mut BinEncoder::new(bytes),
    );
    written.inspect_err(|error| tracing::debug!(%error, "reply not encoded")).ok()?;
    Some(())
}

/// OPT is the last record. A message has at most 65,535 octets: without room it goes truncated.
fn append(bytes: &mut Vec<u8>, opt: &OptRecord) {
    let [head, options] = opt.parts();
    if bytes.len() + head.len() + options.len() > usize::from(u16::MAX) {
        bytes[2] |= TRUNCATED;
        return;
    }
    bytes.extend(head);
    bytes.extend(options);
    let additional = u16::from_be_bytes([bytes[10], bytes[11]]).saturating_add(1);
    bytes[10..12].copy_from_slice(&additional.to_be_bytes());
}
