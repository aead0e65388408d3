//! The own request handler: everything of the protocol around the answer.
//!
//! hickory's `Catalog` cannot return a client subnet's scope, echoes whatever payload size a client
//! claims, and answers malformed subnets. So this handler stands in its place: it screens the raw
//! bytes, answers from the current view, and writes the OPT record itself.

use crate::answer::{Answerer, Cache, Question, Reply, exists};
use crate::clock::Clock;
use crate::dnssec::{Asked, Asker, SignError, Signer};
use crate::edns::{self, Manners, Said};
use crate::message::{self, Received};
use crate::screen::{Opt, Screened, screen};
use crate::size::{self, Shape, fit};
use crate::view::{SharedView, View};
use godwit_core::time::Time as Instant;
use godwit_map::SiteRef;
use hickory_server::net::runtime::Time;
use hickory_server::net::xfer::Protocol;
use hickory_server::proto::op::{Header, HeaderCounts, Metadata, ResponseCode};
use hickory_server::proto::rr::{DNSClass, Name, Record};
use hickory_server::proto::serialize::binary::BinDecoder;
use hickory_server::server::{Request, RequestHandler, ResponseHandler, ResponseInfo};
use hickory_server::zone_handler::{MessageResponseBuilder, Queries};
use std::net::IpAddr;

/// The largest UDP reply, and what we tell to take: fits every path without fragments (DNS flag
/// day 2020).
pub(crate) const PAYLOAD_MAX: u16 = 1232;
/// RFC 1035, 4.2.1: without EDNS.
pub(crate) const PAYLOAD_PLAIN: u16 = 512;

/// A hickory [`RequestHandler`] that answers from the current view.
#[derive(Clone)]
pub struct Handler {
    shared: SharedView,
    clock: Clock,
    manners: Manners,
}

/// A reply, encoded, and what is to be known to repeat it to others.
#[derive(Clone, Debug, PartialEq)]
pub struct Replied {
    /// The message.
    pub bytes: Vec<u8>,
    /// Response code.
    pub code: ResponseCode,
    /// On what its records depend.
    pub cache: Cache,
    /// The site whose choice in the map decided; `None` where none did.
    pub decided: Option<SiteRef>,
    /// Until when it may be repeated.
    pub until: Instant,
    /// How long its records are; `None` when some were left out.
    pub shape: Option<Shape>,
}

impl Handler {
    /// From what is current in `shared`; without cookies and identifier.
    pub fn new(shared: SharedView) -> Handler {
        Handler { shared, clock: Clock::default(), manners: Manners::default() }
    }

    /// The same by another clock.
    pub fn with_clock(self, clock: Clock) -> Handler {
        Handler { clock, ..self }
    }

    /// With cookies and identifier.
    pub fn with_manners(self, manners: Manners) -> Handler {
        Handler { manners, ..self }
    }

    /// What is answered from.
    pub fn shared(&self) -> &SharedView {
        &self.shared
    }

    /// What is said of ourselves.
    pub fn manners(&self) -> &Manners {
        &self.manners
    }

    /// The clock.
    pub fn clock(&self) -> &Clock {
        &self.clock
    }

    /// Replies to a query at `now` (seconds since 1970) from `view`; `None` when no reply can be
    /// encoded.
    pub fn respond(&self, now: u32, view: &View, received: &Received<'_>) -> Option<Replied> {
        let name = received.name()?;
        let Decided { reply, said, truncated, shape } =
            self.decide(now, view, received, &name, Compression::Full);
        let opt = received.query.edns.as_ref();
        let opt = opt.map(|opt| self.manners.opt_record(view, opt, said.as_ref(), &reply));
        let bytes = message::encode(received, &name, &reply, truncated, opt.as_ref())?;
        let Reply { code, cache, decided, until, .. } = reply;
        Some(Replied { bytes, code, cache, decided, until, shape })
    }

    /// Decides on a query: pure, and the same for every transport but for the length.
    fn decide(
        &self,
        now: u32,
        view: &View,
        received: &Received<'_>,
        name: &Name,
        compression: Compression,
    ) -> Decided {
        let Received { packet, query, source, over_udp } = *received;
        // RFC 6891, 6.1.3: another version is answered with ours.
        if query.edns.as_ref().is_some_and(|opt| opt.version != 0) {
            let reply = Reply { code: ResponseCode::BADVERS, ..Reply::empty() };
            return Decided { reply, said: None, truncated: false, shape: None };
        }
        let question = Question {
            name,
            kind: query.kind.into(),
            class: query.class.into(),
            client: client(query.edns.as_ref(), source),
        };
        let said = query.edns.as_ref().map(|opt| self.manners.say(now, opt, source));
        let verified = !over_udp || said.is_some_and(|said| said.proven);
        let asker = Asker { source, verified };
        let (mut reply, refused) = match view.zone.signer() {
            Some(signer) => self.signed(view, signer, &question, query.edns.as_ref(), asker),
            None => (Answerer::new(view).answer(&question), false),
        };
        let said = said.map(|said| if reply.authoritative { said } else { said.briefly() });
        let origin = view.zone.origin();
        let mut shape = Some(size::shape(&reply, name, origin)).filter(|_| !refused);
        let mut truncated = over_udp && refused;
        if over_udp {
            let mut bounds = self.manners.bounds(packet.len(), query, said.as_ref());
            if let Compression::WithoutQuestion = compression {
                bounds.fixed += query.name_len;
            }
            if shape.is_none_or(|shape| !bounds.admit(shape)) {
                truncated |= !fit(&mut reply, name, origin, &bounds);
                shape = None;
            }
        }
        Decided { reply, said, truncated, shape }
    }

    /// The reply in a signed zone, and whether it says to come again over TCP.
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
        let about_keys = match question.class {
            DNSClass::IN | DNSClass::ANY => signer.about_keys(now, question.name, question.kind),
            _ => None,
        };
        let mut reply = about_keys.unwrap_or_else(|| answerer.answer(question));
        let asked = Asked {
            name: question.name,
            kind: question.kind,
            dnssec_ok: opt.is_some_and(|opt| opt.dnssec_ok),
            compact_ok: opt.is_some_and(|opt| opt.compact_ok),
            asker,
            set_up: reply.cache != Cache::Never && exists(view, question.name),
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
        // Over UDP: come again over TCP. To whoever did, or has a cookie, there is nothing else to
        // say than that it did not work; another name server may do better.
        let come_again = refused && !asker.verified;
        let code = if come_again { ResponseCode::NoError } else { ResponseCode::ServFail };
        (Reply { code, ..Reply::empty() }, come_again)
    }
}

/// To what names in a reply can point.
enum Compression {
    Full,
    /// Not to the question: so hickory's own response is written, and the first record has the name
    /// of the question again.
    WithoutQuestion,
}

/// A reply and what is said beside it.
struct Decided {
    reply: Reply,
    /// What is said in its OPT record; `None` where it has none, or one without options.
    said: Option<Said>,
    /// Whether it says to come again over TCP.
    truncated: bool,
    shape: Option<Shape>,
}

/// RFC 9824, 5.1: in a signed zone CO for a CO, whatever the answer.
pub fn compact(view: &View, opt: &Opt) -> bool {
    view.zone.signer().is_some() && opt.dnssec_ok && opt.compact_ok
}

/// For whom the answer is: RFC 7871, 7.2.1. A source prefix of zero says *not for my address*, so
/// that the resolver's own stands in.
pub fn client(opt: Option<&Opt>, source: IpAddr) -> IpAddr {
    match opt.and_then(|opt| opt.subnet) {
        Some(subnet) if subnet.source > 0 => subnet.address,
        _ => source.to_canonical(),
    }
}

#[async_trait::async_trait]
impl RequestHandler for Handler {
    async fn handle_request<R: ResponseHandler, T: Time>(
        &self,
        request: &Request,
        mut out: R,
    ) -> ResponseInfo {
        let none: [Record; 0] = [];
        let now = T::current_time() as u32;
        let query = match (screen(request.as_slice()), request.request_info()) {
            (Screened::Silent(_), _) => return nothing_sent(request),
            (Screened::Pass(query), Ok(info)) => Ok((query, info)),
            (Screened::Pass(_), Err(_)) => Err((ResponseCode::FormErr, false)),
            (Screened::Reject { code, edns }, _) => Err((code, edns)),
        };
        let sent = match query {
            Err((code, edns)) => {
                let Ok(queries) = Queries::read(&mut BinDecoder::new(&[]), 0) else {
                    return nothing_sent(request);
                };
                let edns = edns.then(edns::own);
                let builder = MessageResponseBuilder::new(&queries, edns.as_ref());
                out.send_response(builder.error_msg(&request.metadata, code)).await
            }
            Ok((query, info)) => {
                let received = Received {
                    packet: request.as_slice(),
                    query: &query,
                    source: request.src().ip(),
                    over_udp: request.protocol() == Protocol::Udp,
                };
                let (view, name) = (self.shared.load(), info.query.original().name());
                let Decided { reply, said, truncated, .. } =
                    self.decide(now, &view, &received, name, Compression::WithoutQuestion);
                let mut metadata = Metadata::response_from_request(&request.metadata);
                metadata.authoritative = reply.authoritative;
                metadata.truncation = truncated;
                metadata.response_code = reply.code;
                let edns =
                    query.edns.as_ref().map(|opt| self.manners.edns(&view, opt, said.as_ref(), &reply));
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
