//! From packet to reply: bytes in, bytes out.
//!
//! The general path: whatever transport a query came by, and whatever it asks. Nothing in it waits.

use crate::asking::Asking;
use crate::decisions::{Decisions, Sample};
use crate::metrics::{Decision, Drop, Metrics, Outcome, Transport};
use crate::transfer::{self, Transfers};
use crate::tsig::Opened;
use crate::udp::truncate;
use godwit_dns_plugin::screen::{HEADER_LEN, Query, Screened, Silence, other_version, reject, screen};
use godwit_dns_plugin::{Handler, Received, Replied, View, client};
use hickory_server::proto::op::{Message, ResponseCode};
use hickory_server::proto::rr::Name;
use hickory_server::proto::serialize::binary::{BinDecodable, BinDecoder};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

/// RFC 1035, 4.2.1: what every client takes. Who signs is another server, and has TCP for the rest.
const PAYLOAD_PLAIN: usize = 512;
/// Octets of a signature with a key name of usual length.
const SIGNATURE_LEN_MAX: usize = 160;

/// Answers packets.
#[derive(Clone)]
pub(crate) struct Engine {
    handler: Handler,
    transfers: Arc<Transfers>,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) decisions: Decisions,
    /// Who asks, where that is wanted.
    pub(crate) asking: Asking,
}

impl Engine {
    /// Queries signed with a key of `transfers` get signed replies.
    pub(crate) fn new(handler: Handler, transfers: Arc<Transfers>, metrics: Arc<Metrics>) -> Engine {
        Engine { handler, transfers, metrics, decisions: Decisions::none(), asking: Asking::default() }
    }

    /// The same, with a sample of its decisions looked at.
    pub(crate) fn with_decisions(self, decisions: Decisions) -> Engine {
        Engine { decisions, ..self }
    }

    /// What answers queries.
    pub(crate) fn handler(&self) -> &Handler {
        &self.handler
    }

    /// The reply to a packet, if it deserves one.
    pub(crate) async fn reply(
        &self,
        packet: &[u8],
        source: SocketAddr,
        transport: Transport,
    ) -> Option<Vec<u8>> {
        let view = self.handler.shared().load();
        self.reply_from(now(), &view, packet, source, transport)
    }

    /// The reply from a certain view at `now`, seconds since 1970.
    pub(crate) fn reply_from(
        &self,
        now: u32,
        view: &View,
        packet: &[u8],
        source: SocketAddr,
        transport: Transport,
    ) -> Option<Vec<u8>> {
        let query = match screen(packet) {
            Screened::Silent(silence) => {
                self.metrics.dropped(silence.into());
                return None;
            }
            Screened::Reject { code, edns } => return self.reject(packet, code, edns, transport),
            Screened::Pass(query) => query,
        };
        let answer = |packet: &[u8], query: &Query| {
            if let Some(reply) = other_version(packet, query) {
                let (kind, code) = (Some(query.kind.into()), ResponseCode::BADVERS);
                self.metrics.answered(Outcome { transport, kind, code });
                return Some(reply);
            }
            let Some(replied) = self.respond(now, view, packet, query, source, transport) else {
                return self.reject(packet, ResponseCode::FormErr, false, transport);
            };
            let kind = Some(query.kind.into());
            self.metrics.answered(Outcome { transport, kind, code: replied.code });
            if let Some(site) = replied.decided {
                let client = client(query.edns.as_ref(), source.ip());
                self.metrics.decided(Decision::of(&view.generation, site, client));
            }
            if self.decisions.is_due() {
                self.offer(packet, source, transport);
            }
            Some(replied.bytes)
        };
        if !query.extra {
            return answer(packet, &query);
        }
        match self.transfers.open(packet) {
            Opened::Plain => answer(packet, &query),
            Opened::Signed { query: packet, mut signer } => {
                let mut reply = match screen(&packet) {
                    Screened::Pass(query) => answer(&packet, &query)?,
                    _ => self.reject(&packet, ResponseCode::FormErr, false, transport)?,
                };
                if transport == Transport::Udp && reply.len() + SIGNATURE_LEN_MAX > PAYLOAD_PLAIN {
                    let len = truncate(&mut reply);
                    reply.truncate(len);
                }
                signer.sign(transfer::now(), &mut reply);
                Some(reply)
            }
            Opened::Rejected(reply) => {
                self.metrics.answered(Outcome { transport, kind: None, code: ResponseCode::NotAuth });
                Some(reply)
            }
        }
    }

    /// The reply to a query that is not signed, not counted; `None` when hickory cannot read it.
    pub(crate) fn respond(
        &self,
        now: u32,
        view: &View,
        packet: &[u8],
        query: &Query,
        source: SocketAddr,
        transport: Transport,
    ) -> Option<Replied> {
        // Records that are not heeded have to be sound all the same.
        if query.extra {
            Message::from_vec(packet).ok()?;
        }
        let over_udp = transport == Transport::Udp;
        self.handler.respond(now, view, &Received { packet, query, source: source.ip(), over_udp })
    }

    /// Has a query that was answered looked at: why it was answered so.
    pub(crate) fn offer(&self, packet: &[u8], source: SocketAddr, transport: Transport) {
        let Screened::Pass(query) = screen(packet) else { return };
        let Some(name) = packet.get(HEADER_LEN..) else { return };
        let Ok(name) = Name::read(&mut BinDecoder::new(name)) else { return };
        let subnet = query.edns.as_ref().and_then(|opt| opt.subnet).is_some_and(|subnet| subnet.source > 0);
        self.decisions.offer(Sample {
            name,
            kind: query.kind.into(),
            by: client(query.edns.as_ref(), source.ip()),
            subnet,
            transport,
        });
    }

    fn reject(&self, packet: &[u8], code: ResponseCode, edns: bool, transport: Transport) -> Option<Vec<u8>> {
        self.metrics.answered(Outcome { transport, kind: None, code });
        reject(packet, code, edns)
    }
}

impl From<Silence> for Drop {
    fn from(silence: Silence) -> Drop {
        match silence {
            Silence::Short => Drop::Short,
            Silence::Response => Drop::Response,
        }
    }
}

/// Seconds since 1970, modulo 2^32: as cookies count.
pub(crate) fn now() -> u32 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |time| time.as_secs() as u32)
}
