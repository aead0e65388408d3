//! The own request handler: everything of the protocol around the answer.
//!
//! hickory's `Catalog` cannot return a client subnet's scope, echoes whatever payload size a client
//! claims, and answers malformed subnets. So this handler stands in its place: it screens the raw
//! bytes, answers from the current view, and writes the OPT record itself.

use crate::answer::{Answerer, Cache, Question, Reply};
use crate::clock::Clock;
use crate::dnssec::{Asked, Asker, SignError, Signer};
use crate::screen::{Opt, Screened, Subnet, screen};
use crate::size::{Bounds, fit};
use crate::view::{SharedView, View};
use hickory_server::net::runtime::Time;
use hickory_server::net::xfer::Protocol;
use hickory_server::proto::op::{Edns, Header, HeaderCounts, Metadata, ResponseCode};
use hickory_server::proto::rr::rdata::opt::{ClientSubnet, EdnsOption};
use hickory_server::proto::rr::{Name, Record};
use hickory_server::proto::serialize::binary::BinDecoder;
use hickory_server::server::{Request, RequestHandler, ResponseHandler, ResponseInfo};
use hickory_server::zone_handler::{MessageResponseBuilder, Queries};
use std::net::IpAddr;

/// The largest UDP reply, and what we tell to take: fits every path without fragments (DNS flag
/// day 2020).
pub(crate) const PAYLOAD_MAX: u16 = 1232;
/// RFC 1035, 4.2.1: without EDNS.
const PAYLOAD_PLAIN: u16 = 512;

/// CO among the EDNS flags after DO (RFC 9824, 5.1).
const FLAG_COMPACT_OK: u16 = 0x4000;

/// A hickory [`RequestHandler`] that answers from the current view.
#[derive(Clone)]
pub struct Handler {
    shared: SharedView,
    clock: Clock,
}

impl Handler {
    /// From what is current in `shared`.
    pub fn new(shared: SharedView) -> Handler {
        Handler { shared, clock: Clock::default() }
    }

    /// The same by another clock.
    pub fn with_clock(self, clock: Clock) -> Handler {
        Handler { clock, ..self }
    }

    /// Decides on a request: pure, and the same for every transport but for the length.
    fn decide(&self, request: &Request) -> Decision {
        let query = match screen(request.as_slice()) {
            Screened::Silent(_) => return Decision::Silent,
            Screened::Reject { code, edns } => return Decision::Reject { code, edns: edns.then(own_edns) },
            Screened::Pass(query) => query,
        };
        let Ok(info) = request.request_info() else {
            return Decision::Reject { code: ResponseCode::FormErr, edns: None };
        };
        let mut metadata = Metadata::response_from_request(&request.metadata);
        // RFC 6891, 6.1.3: another version is answered with ours.
        if query.edns.as_ref().is_some_and(|opt| opt.version != 0) {
            metadata.response_code = ResponseCode::BADVERS;
            return Decision::Reply { metadata, edns: Some(own_edns()), reply: Reply::empty() };
        }
        let subnet = query.edns.as_ref().and_then(|opt| opt.subnet);
        let original = info.query.original();
        let question = Question {
            name: original.name(),
            kind: original.query_type(),
            class: original.query_class(),
            client: client(subnet, request.src().ip()),
        };
        let view = self.shared.load();
        let over_udp = request.protocol() == Protocol::Udp;
        let asker = Asker { source: request.src().ip(), verified: !over_udp };
        let (mut reply, refused) = match view.zone.signer() {
            Some(signer) => self.signed(&view, signer, &question, query.edns.as_ref(), asker),
            None => (Answerer::new(&view).answer(&question), false),
        };
        let bounds = Bounds {
            query: request.as_slice().len(),
            question: 12 + original.name().len() + 4,
            edns: query.edns.is_some(),
            payload: usize::from(match &query.edns {
                Some(opt) => opt.payload.clamp(PAYLOAD_PLAIN, PAYLOAD_MAX),
                None => PAYLOAD_PLAIN,
            }),
        };
        let truncated =
            over_udp && (!fit(&mut reply, original.name(), view.zone.origin(), bounds) || refused);
        let mut edns = query.edns.as_ref().map(|opt| edns(opt, reply.scope));
        if view.zone.signer().is_some()
            && query.edns.as_ref().is_some_and(|opt| opt.dnssec_ok && opt.compact_ok)
            && let Some(edns) = &mut edns
        {
            // RFC 9824, 5.1: CO for a CO, whatever the answer.
            edns.flags_mut().z |= FLAG_COMPACT_OK;
        }
        metadata.authoritative = reply.authoritative;
        metadata.truncation = truncated;
        metadata.response_code = reply.code;
        Decision::Reply { metadata, edns, reply }
    }

    /// The reply in a signed zone, and whether signing was refused.
    fn signed(
        &self,
        view: &View,
        signer: &Signer,
        question: &Question<'_>,
        opt: Option<&Opt>,
        asker: Asker,
    ) -> (Reply, bool) {
        let now = self.clock.now();
        let answerer = Answerer::new(view);
        let mut reply =
            signer.about_keys(now, question.name, question.kind).unwrap_or_else(|| answerer.answer(question));
        let asked = Asked {
            name: question.name,
            kind: question.kind,
            dnssec_ok: opt.is_some_and(|opt| opt.dnssec_ok),
            compact_ok: opt.is_some_and(|opt| opt.compact_ok),
            asker,
            set_up: reply.cache != Cache::Never,
        };
        let types = |name: &Name| answerer.types_at(name).unwrap_or_default();
        let refused = match signer.sign(now, &asked, types, &mut reply) {
            Ok(until) => {
                reply.until = until;
                return (reply, false);
            }
            Err(SignError::Refused) => true,
            Err(_) => false,
        };
        // Over UDP: come again over TCP. Over a connection there is nothing else to say than that
        // it did not work; another name server may do better.
        let code = match refused && !asker.verified {
            true => ResponseCode::NoError,
            false => ResponseCode::ServFail,
        };
        (Reply { code, ..Reply::empty() }, refused)
    }
}

enum Decision {
    Silent,
    Reject { code: ResponseCode, edns: Option<Edns> },
    Reply { metadata: Metadata, edns: Option<Edns>, reply: Reply },
}

/// For whom the answer is: RFC 7871, 7.2.1. A source prefix of zero says *not for my address*, so
/// that the resolver's own stands in.
fn client(subnet: Option<Subnet>, source: IpAddr) -> IpAddr {
    match subnet {
        Some(subnet) if subnet.source > 0 => subnet.address,
        _ => source.to_canonical(),
    }
}

fn own_edns() -> Edns {
    let mut edns = Edns::new();
    edns.set_max_payload(PAYLOAD_MAX).set_version(0);
    edns
}

/// RFC 6891, 6.1.1: an OPT for an OPT. RFC 3225, 3: DO is copied. RFC 7871, 7.2.1: a client subnet
/// comes back as it was, with the scope.
fn edns(opt: &Opt, scope: u8) -> Edns {
    let mut edns = own_edns();
    edns.set_dnssec_ok(opt.dnssec_ok);
    if let Some(Subnet { address, source }) = opt.subnet {
        // RFC 7871, 7.2.1: for a source prefix of zero the scope is zero too.
        let scope = if source == 0 { 0 } else { scope };
        edns.options_mut().insert(EdnsOption::Subnet(ClientSubnet::new(address, source, scope)));
    }
    edns
}

#[async_trait::async_trait]
impl RequestHandler for Handler {
    async fn handle_request<R: ResponseHandler, T: Time>(
        &self,
        request: &Request,
        mut out: R,
    ) -> ResponseInfo {
        let none: [Record; 0] = [];
        let sent = match self.decide(request) {
            Decision::Silent => return nothing_sent(request),
            Decision::Reject { code, edns } => {
                let Ok(queries) = Queries::read(&mut BinDecoder::new(&[]), 0) else {
                    return nothing_sent(request);
                };
                let builder = MessageResponseBuilder::new(&queries, edns.as_ref());
                out.send_response(builder.error_msg(&request.metadata, code)).await
            }
            Decision::Reply { metadata, edns, reply } => {
                let builder = MessageResponseBuilder::new(&request.queries, edns.as_ref());
                let response =
                    builder.build(metadata, &reply.answers, &reply.authority, &none, &reply.additional);
                out.send_response(response).await
            }
        };
        sent.unwrap_or_else(|error| {
            tracing::debug!(%error, "reply not sent");
            nothing_sent(request)
        })
    }
}

fn nothing_sent(request: &Request) -> ResponseInfo {
    Header { metadata: Metadata::response_from_request(&request.metadata), counts: HeaderCounts::default() }
        .into()
}
