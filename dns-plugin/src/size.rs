//! How long a reply may be.
//!
//! Over UDP a reply goes to whoever the packet claims to be from, so it must not be worth forging
//! one: optional records (glue, replicas after the first) are left out beyond 3.2 times the query,
//! and a reply longer than the client or 1,232 octets allow goes empty with TC, to be asked for
//! again over TCP.

use crate::answer::Reply;
use hickory_server::proto::rr::{Name, RData, Record, RecordType};
use hickory_server::proto::serialize::binary::BinEncodable;

/// Optional records stay within so many tenths of the query's length: what three replicas' IPv4
/// addresses cost at the shortest common names, and what other authoritative servers do.
const AMPLIFICATION_TENTHS_MAX: usize = 32;
/// Length of an OPT record without options.
const OPT_LEN: usize = 11;
/// Length of a client subnet option at most.
const SUBNET_LEN_MAX: usize = 4 + 4 + 16;

/// Lengths that bound a reply over UDP, octets.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Bounds {
    /// Of the query.
    pub(crate) query: usize,
    /// Of the question section with the header.
    pub(crate) question: usize,
    /// Whether an OPT record goes with the reply.
    pub(crate) edns: bool,
    /// What the client takes.
    pub(crate) payload: usize,
}

/// Shortens `reply` until it fits; `false` when it cannot, and goes empty with TC.
pub(crate) fn fit(reply: &mut Reply, asked: &Name, origin: &Name, bounds: Bounds) -> bool {
    let fixed = bounds.question + if bounds.edns { OPT_LEN + SUBNET_LEN_MAX } else { 0 };
    let section = |records: &[Record]| records.iter().map(|record| len(record, asked, origin)).sum::<usize>();
    let total = |reply: &Reply| {
        fixed + section(&reply.answers) + section(&reply.authority) + section(&reply.additional)
    };
    let modest = bounds.query * AMPLIFICATION_TENTHS_MAX / 10;
    while total(reply) > modest.min(bounds.payload) && reply.additional.pop().is_some() {}
    // A signature is of all the addresses or of none.
    let signed = reply.answers.iter().any(|record| record.record_type() == RecordType::RRSIG);
    let optional = !signed
        && matches!(reply.answers.first().map(|record| &record.data), Some(RData::A(_) | RData::AAAA(_)));
    while optional && total(reply) > modest.min(bounds.payload) && reply.answers.len() > 1 {
        reply.answers.pop();
    }
    let longest = if reply.modest { modest.min(bounds.payload) } else { bounds.payload };
    if total(reply) <= longest {
        return true;
    }
    reply.answers.clear();
    reply.authority.clear();
    reply.additional.clear();
    false
}

/// How long a record is at most in a reply to a question in the zone: names end in a pointer to
/// the zone's name in the question.
fn len(record: &Record, asked: &Name, origin: &Name) -> usize {
    let name = |name: &Name| name.len().saturating_sub(origin.len()) + 2;
    let data = match &record.data {
        RData::A(_) => 4,
        RData::AAAA(_) => 16,
        RData::NS(ns) => name(&ns.0),
        RData::SOA(soa) => name(&soa.mname) + name(&soa.rname) + 20,
        RData::Unknown { rdata, .. } => rdata.anything.len(),
        RData::HINFO(hinfo) => 2 + hinfo.cpu.len() + hinfo.os.len(),
        // As it is without compression: never shorter than what is sent.
        other => other.to_bytes().map_or(usize::from(u16::MAX), |data| data.len()),
    };
    // The question's name and the zone are a pointer.
    let owner = if &record.name == asked || &record.name == origin { 2 } else { name(&record.name) };
    owner + 10 + data
}
