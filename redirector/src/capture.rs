//! From packet to reply: bytes in, bytes out.
//!
//! The plugin speaks hickory's [`RequestHandler`]; here a packet becomes its request, and the
//! response it sends is caught as bytes. Nothing in between waits.

use crate::metrics::{Drop, Metrics, Outcome, Transport};
use crate::transfer::{Transfers, now};
use crate::tsig::Opened;
use crate::udp::truncate;
use godwit_dns_plugin::Handler;
use godwit_dns_plugin::screen::{Screened, Silence, reject, screen};
use hickory_server::net::NetError;
use hickory_server::net::runtime::TokioTime;
use hickory_server::net::xfer::Protocol;
use hickory_server::proto::op::ResponseCode;
use hickory_server::proto::rr::Record;
use hickory_server::proto::serialize::binary::BinEncoder;
use hickory_server::server::{Request, RequestHandler, ResponseHandler, ResponseInfo};
use hickory_server::zone_handler::MessageResponse;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};

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
}

impl Engine {
    /// Queries signed with a key of `transfers` get signed replies.
    pub(crate) fn new(handler: Handler, transfers: Arc<Transfers>, metrics: Arc<Metrics>) -> Engine {
        Engine { handler, transfers, metrics }
    }

    /// The reply to a packet, if it deserves one.
    pub(crate) async fn reply(
        &self,
        packet: &[u8],
        source: SocketAddr,
        transport: Transport,
    ) -> Option<Vec<u8>> {
        match screen(packet) {
            Screened::Silent(silence) => {
                self.metrics.dropped(match silence {
                    Silence::Short => Drop::Short,
                    Silence::Response => Drop::Response,
                });
                None
            }
            Screened::Reject { code, edns } => self.reject(packet, code, edns, transport),
            Screened::Pass(_) => match self.transfers.open(packet) {
                Opened::Plain => self.answer(packet, source, transport).await,
                Opened::Signed { query, mut signer } => {
                    let mut reply = self.answer(&query, source, transport).await?;
                    if transport == Transport::Udp && reply.len() + SIGNATURE_LEN_MAX > PAYLOAD_PLAIN {
                        truncate(&mut reply);
                    }
                    signer.sign(now(), &mut reply);
                    Some(reply)
                }
                Opened::Rejected(reply) => {
                    self.metrics.answered(Outcome { transport, kind: None, code: ResponseCode::NotAuth });
                    Some(reply)
                }
            },
        }
    }

    async fn answer(&self, packet: &[u8], source: SocketAddr, transport: Transport) -> Option<Vec<u8>> {
        // What the handler does depends on whether there is a length to keep to.
        let protocol = match transport {
            Transport::Udp => Protocol::Udp,
            Transport::Tcp | Transport::Tls | Transport::Https | Transport::Quic => Protocol::Tcp,
        };
        let Ok(request) = Request::from_bytes(packet.to_vec(), source, protocol) else {
            return self.reject(packet, ResponseCode::FormErr, false, transport);
        };
        let caught = Caught::default();
        let info = self.handler.handle_request::<_, TokioTime>(&request, caught.clone()).await;
        let reply = caught.take()?;
        let kind = request.queries.queries().first().map(|query| query.query_type());
        self.metrics.answered(Outcome { transport, kind, code: info.response_code });
        Some(reply)
    }

    fn reject(&self, packet: &[u8], code: ResponseCode, edns: bool, transport: Transport) -> Option<Vec<u8>> {
        self.metrics.answered(Outcome { transport, kind: None, code });
        reject(packet, code, edns)
    }
}

/// Catches the one response to a request.
#[derive(Clone, Default)]
struct Caught(Arc<Mutex<Option<Vec<u8>>>>);

impl Caught {
    fn take(&self) -> Option<Vec<u8>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}

#[async_trait::async_trait]
impl ResponseHandler for Caught {
    async fn send_response<'a>(
        &mut self,
        response: MessageResponse<
            '_,
            'a,
            impl Iterator<Item = &'a Record> + Send + 'a,
            impl Iterator<Item = &'a Record> + Send + 'a,
            impl Iterator<Item = &'a Record> + Send + 'a,
            impl Iterator<Item = &'a Record> + Send + 'a,
        >,
    ) -> Result<ResponseInfo, NetError> {
        let mut bytes = Vec::with_capacity(512);
        // The handler has made it fit already.
        let info = response.destructive_emit(&mut BinEncoder::new(&mut bytes))?;
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(bytes);
        Ok(info)
    }
}
