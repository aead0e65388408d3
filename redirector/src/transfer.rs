//! The static part of the zone for secondaries: AXFR (RFC 5936), IXFR (RFC 1995), over TCP or TLS.
//!
//! Only for who is listed under `redirector.transfer` by address *and* signs with the key named
//! there; everybody else is refused. What goes out is what is the same for every client: SOA, name
//! servers and their addresses, members' names, home addresses. A site's answer depends on who asks and is not in
//! it, so a secondary keeps the delegation and the members reachable, and does not lead clients.
//!
//! All messages of a transfer come from one snapshot, begin and end with the same SOA, and are signed
//! each. IXFR is answered with the whole zone (RFC 1995, 4) or, when the secondary has it already,
//! with the SOA alone.

use crate::config::TransferConfig;
use crate::metrics::{Metrics, TransferOutcome};
use crate::tsig::{Key, KeyError, Keyring, Opened, Signer};
use arc_swap::ArcSwap;
use godwit_dns_plugin::{Answerer, Question, SharedView, View};
use hickory_server::proto::op::{Message, MessageType, OpCode, Query, ResponseCode};
use hickory_server::proto::rr::{DNSClass, Name, RData, Record, RecordType};
use std::collections::VecDeque;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

/// Records are put into messages of about this size, octets: RFC 5936, 3.4 wants fewer and larger
/// ones, and names beyond 16 KiB cannot be pointed to.
const MESSAGE_LEN: usize = 16 * 1024;
const TYPE_IXFR: u16 = 251;
const TYPE_AXFR: u16 = 252;

/// What is wrong with the settings of transfers.
#[derive(Debug, thiserror::Error)]
pub enum TransferError {
    /// A key file cannot be read.
    #[error("cannot read {0}")]
    Read(PathBuf, #[source] std::io::Error),
    /// It is no key.
    #[error("{0} holds no key")]
    Key(PathBuf, #[source] KeyError),
    /// A secondary names a key that no file holds.
    #[error("the secondary {0} is to sign with the key {1:?}, which is in no file of `keys`")]
    NoSuchKey(IpAddr, String),
}

/// Another server that may have the zone.
pub(crate) struct Secondary {
    pub(crate) address: SocketAddr,
    pub(crate) notify: bool,
    pub(crate) key: Arc<Key>,
}

/// Who may have the zone, and how they prove it.
#[derive(Default)]
pub(crate) struct Peers {
    keys: Keyring,
    pub(crate) secondaries: Vec<Arc<Secondary>>,
}

impl Peers {
    pub(crate) fn read(config: &TransferConfig) -> Result<Peers, TransferError> {
        let read = |path: &PathBuf| {
            let text =
                std::fs::read_to_string(path).map_err(|error| TransferError::Read(path.clone(), error))?;
            Key::parse(&text).map_err(|error| TransferError::Key(path.clone(), error))
        };
        let keys = Keyring::new(config.keys.iter().map(read).collect::<Result<_, _>>()?);
        let secondary = |secondary: &crate::config::SecondaryConfig| {
            let key = keys.named(&secondary.key).cloned();
            let key =
                key.ok_or_else(|| TransferError::NoSuchKey(secondary.address, secondary.key.clone()))?;
            let address = SocketAddr::new(secondary.address, secondary.port);
            Ok(Arc::new(Secondary { address, notify: secondary.notify, key }))
        };
        let secondaries = config.secondaries.iter().map(secondary).collect::<Result<_, _>>()?;
        Ok(Peers { keys, secondaries })
    }

    fn allows(&self, source: IpAddr, key: &Key) -> bool {
        let source = source.to_canonical();
        self.secondaries.iter().any(|secondary| {
            secondary.address.ip().to_canonical() == source && std::ptr::eq(&*secondary.key, key)
        })
    }
}

/// Answers requests for the zone.
pub(crate) struct Transfers {
    pub(crate) peers: ArcSwap<Peers>,
    shared: SharedView,
    pub(crate) metrics: Arc<Metrics>,
}

/// An answer to a request for the zone: messages, to be sent in order.
pub(crate) struct Asked {
    messages: VecDeque<Vec<Record>>,
    head: Message,
    signer: Signer,
}

impl Transfers {
    pub(crate) fn new(peers: Peers, shared: SharedView, metrics: Arc<Metrics>) -> Transfers {
        Transfers { peers: ArcSwap::from_pointee(peers), shared, metrics }
    }

    /// Opens a packet that may be signed.
    pub(crate) fn open(&self, packet: &[u8]) -> Opened {
        self.peers.load().keys.open(now(), packet)
    }

    /// Whether a packet asks for a transfer with a good signature. All others get their (negative)
    /// answer where other queries get theirs.
    pub(crate) fn asked(&self, packet: &[u8], source: SocketAddr) -> Option<Asked> {
        if !matches!(question_type(packet)?, TYPE_AXFR | TYPE_IXFR) {
            return None;
        }
        let peers = self.peers.load();
        let Opened::Signed { query, signer } = peers.keys.open(now(), packet) else { return None };
        let query = Message::from_vec(&query).ok()?;
        let question = query.queries.first()?.clone();
        let (code, records) = match peers.allows(source.ip(), signer.key()) {
            false => (ResponseCode::Refused, Vec::new()),
            true => self.records(&query, &question),
        };
        let outcome = match code {
            ResponseCode::NoError if records.len() == 1 => TransferOutcome::UpToDate,
            ResponseCode::NoError => TransferOutcome::Sent,
            _ => TransferOutcome::Refused,
        };
        self.metrics.transfer(outcome);
        tracing::info!(secondary = %source.ip(), code = %code, records = records.len(), "zone transfer");
        Some(Asked::new(&query, question, code, records, signer))
    }

    fn records(&self, query: &Message, question: &Query) -> (ResponseCode, Vec<Record>) {
        let view = self.shared.load_full();
        // RFC 5936, 2.2.1: only for the zone's own name.
        if question.name() != view.zone.origin() || question.query_class() != DNSClass::IN {
            return (ResponseCode::NotAuth, Vec::new());
        }
        let mut records = zone(&view);
        let known = query.authorities.iter().find_map(|record| match &record.data {
            RData::SOA(soa) => Some(soa.serial),
            _ => None,
        });
        match (question.query_type(), known) {
            _ if records.is_empty() => return (ResponseCode::ServFail, Vec::new()),
            (RecordType::IXFR, None) => return (ResponseCode::FormErr, Vec::new()),
            // RFC 1995, 2: who has the newest already is told so.
            (RecordType::IXFR, Some(known)) if !is_newer(view.serial(), known) => records.truncate(1),
            _ => {}
        }
        (ResponseCode::NoError, records)
    }

    /// The zone's SOA as it is now.
    pub(crate) fn soa(&self) -> Option<Record> {
        let view = self.shared.load();
        ask(&view, view.zone.origin(), RecordType::SOA).pop()
    }

    /// The zone's serial as it is now.
    pub(crate) fn serial(&self) -> u32 {
        self.shared.load().serial()
    }
}

/// The static part of a zone: SOA first and last (RFC 5936, 2.2).
fn zone(view: &View) -> Vec<Record> {
    let origin = view.zone.origin();
    let mut records = ask(view, origin, RecordType::SOA);
    let soa = records.first().cloned();
    records.extend(ask(view, origin, RecordType::NS));
    if let Ok(node) = origin.prepend_label("node") {
        for member in view.generation.members() {
            let Ok(name) = node.prepend_label(member.name.as_str()) else { continue };
            records.extend(ask(view, &name, RecordType::A));
            records.extend(ask(view, &name, RecordType::AAAA));
        }
    }
    for home in view.generation.homes() {
        let Ok(name) = origin.prepend_label(home.name.as_str()) else { continue };
        records.extend(ask(view, &name, RecordType::A));
        records.extend(ask(view, &name, RecordType::AAAA));
    }
    records.extend(view.zone.static_records());
    records.extend(soa);
    records
}

fn ask(view: &View, name: &Name, kind: RecordType) -> Vec<Record> {
    // None of these depends on the client.
    let client = Ipv4Addr::UNSPECIFIED.into();
    Answerer::new(view).answer(&Question { name, kind, class: DNSClass::IN, client }).answers
}

impl Asked {
    fn new(
        query: &Message,
        question: Query,
        code: ResponseCode,
        records: Vec<Record>,
        signer: Signer,
    ) -> Asked {
        let mut head = Message::new(query.metadata.id, MessageType::Response, OpCode::Query);
        head.metadata.response_code = code;
        head.metadata.authoritative = code == ResponseCode::NoError;
        // RFC 5936, 2.2.1: the question goes with the first message.
        head.add_query(question);
        let (mut messages, mut last, mut len) = (VecDeque::new(), Vec::new(), 0);
        for record in records {
            len += record.name.len() + 10 + data_len(&record);
            last.push(record);
            if len >= MESSAGE_LEN {
                messages.push_back(std::mem::take(&mut last));
                len = 0;
            }
        }
        if !last.is_empty() || messages.is_empty() {
            messages.push_back(last);
        }
        Asked { messages, head, signer }
    }

    /// The next message, signed.
    pub(crate) fn next_message(&mut self) -> Option<Vec<u8>> {
        let records = self.messages.pop_front()?;
        let mut message = self.head.clone();
        self.head.queries.clear();
        message.add_answers(records);
        let mut bytes = message.to_vec().ok()?;
        self.signer.sign(now(), &mut bytes);
        Some(bytes)
    }
}

/// Octets of a record's data, or a little more.
fn data_len(record: &Record) -> usize {
    match &record.data {
        RData::A(_) => 4,
        RData::AAAA(_) => 16,
        RData::NS(ns) => ns.0.len(),
        other => other.to_string().len() + 64,
    }
}

/// RFC 1982, 3.2: whether `serial` is newer than `known`.
fn is_newer(serial: u32, known: u32) -> bool {
    serial != known && serial.wrapping_sub(known) < 1 << 31
}

fn question_type(packet: &[u8]) -> Option<u16> {
    let end = crate::edns::skip_name(packet, 12)?;
    Some(u16::from_be_bytes([*packet.get(end)?, *packet.get(end + 1)?]))
}

/// Seconds since 1970.
pub(crate) fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn serials_turn_around() {
        assert!(is_newer(2, 1) && !is_newer(1, 1) && !is_newer(1, 2));
        assert!(is_newer(1, u32::MAX) && !is_newer(u32::MAX, 1));
    }
}
