//! The fast path for UDP: threads that answer from octets encoded before.
//!
//! The general path decides every octet of a reply; this one repeats. What it can make by itself is
//! compiled from a view ([`compiled`]) or was made by the general path before ([`learned`]); everything
//! else it hands to the general path, in the same thread, from the same view. A test compares both
//! over a large random set of queries, octet for octet.
//!
//! | question | answered by |
//! |---|---|
//! | A, AAAA at a name of the map, unsigned | compiled records of the map's choice |
//! | a name that does not exist, unsigned | compiled SOA |
//! | a name out of the zone; another EDNS version; malformed | header and question, or less |
//! | anything else that may be kept ([`Cache`]), the second time | learned block |
//! | more than a question and OPT; other classes; types about messages | general path |
//!
//! - [`worker`]: a thread for each socket receives a batch, answers it, sends it: no task, no lock, no
//!   allocation for what was compiled or learned.
//! - [`compiler`]: a thread that compiles each new view and swaps it in.
//! - [`respond`]: one packet, one reply.

pub(crate) mod compiled;
pub(crate) mod compiler;
pub(crate) mod learned;
pub(crate) mod names;
pub(crate) mod respond;
pub(crate) mod worker;

#[cfg(test)]
mod differential;

#[cfg(doc)]
use godwit_dns_plugin::Cache;
