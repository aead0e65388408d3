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

/// Lengths that bound a reply over UDP, octets.
#[derive(Clone, Copy, Debug)]
pub struct Bounds {
    /// Of the query.
    pub query: usize,
    /// What every reply to it has: header, question, OPT with its options.
    pub fixed: usize,
    /// What the client takes.
    pub payload: usize,
    /// Whether the client has shown that it is where it claims to be: then nobody is harmed by a
    /// long reply.
    pub proven: bool,
}

/// How long the records of a reply are, at most.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shape {
    /// All of them.
    pub len: usize,
    /// Whether some are left out of a reply, or all of them, when it would be long beside the query.
    pub optional: bool,
}

impl Bounds {
    /// How long a reply with optional records may be.
    pub fn modest(&self) -> usize {
        let modest = if self.proven { usize::MAX } else { self.query * AMPLIFICATION_TENTHS_MAX / 10 };
        modest.min(self.payload)
    }

    /// Whether a reply of this shape goes out whole.
    pub fn admit(&self, shape: Shape) -> bool {
        self.fixed + shape.len <= if shape.optional { self.modest() } else { self.payload }
    }
}

/// The shape of a reply to a question for `asked` in the zone `origin`.
pub(crate) fn shape(reply: &Reply, asked: &Name, origin: &Name) -> Shape {
    let sections = [&reply.answers, &reply.authority, &reply.additional];
    let len = sections.into_iter().flatten().map(|record| len(record, asked, origin)).sum();
    Shape { len, optional: reply.modest || !reply.additional.is_empty() || has_alternatives(reply) }
}

/// Whether answers after the first are alternatives to it.
fn has_alternatives(reply: &Reply) -> bool {
    let first = reply.answers.first().map(|record| &record.data);
    // A signature is of all the addresses or of none.
    let signed = || reply.answers.iter().any(|record| record.record_type() == RecordType::RRSIG);
    reply.answers.len() > 1 && matches!(first, Some(RData::A(_) | RData::AAAA(_))) && !signed()
}

/// Shortens `reply` until it fits; `false` when it cannot, and goes empty with TC.
pub(crate) fn fit(reply: &mut Reply, asked: &Name, origin: &Name, bounds: &Bounds) -> bool {
    let total = |reply: &Reply| bounds.fixed + shape(reply, asked, origin).len;
    while total(reply) > bounds.modest() && reply.additional.pop().is_some() {}
    while has_alternatives(reply) && total(reply) > bounds.modest() {
        reply.answers.pop();
    }
    let longest = if reply.modest { bounds.modest() } else { bounds.payload };
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
