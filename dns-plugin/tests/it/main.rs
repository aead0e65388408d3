//! The plugin from outside: packets in, packets out, through a hickory request handler.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod answers;
mod catalog;
mod edns;
mod garbage;
mod peers;
mod powerdns_signs;
mod protocol;
mod records;
mod subnet;
mod validators;

use arc_swap::ArcSwap;
use godwit_core::certificate::{Role, Serial};
use godwit_core::content::VersionNumber;
use godwit_core::geo::Coordinates;
use godwit_core::key::SecretKey;
use godwit_dns_plugin::screen::{Screened, reject, screen};
use godwit_dns_plugin::{Handler, Options, Received, SharedView, Zone};
use godwit_map::{Generation, GeoDb, Health, Inputs, MemberInput, Shared, SiteInput};
use hickory_server::net::NetError;
use hickory_server::net::runtime::TokioTime;
use hickory_server::net::xfer::Protocol;
use hickory_server::proto::op::Message;
use hickory_server::proto::rr::{RData, Record, RecordType};
use hickory_server::proto::serialize::binary::BinEncoder;
use hickory_server::server::{Request, RequestHandler, ResponseHandler, ResponseInfo};
use hickory_server::zone_handler::MessageResponse;
use ipnet::IpNet;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::{Arc, Mutex};

/// Two nodes and two redirectors; `www` is on both nodes, `four` has only IPv4.
pub(crate) fn inputs() -> Inputs {
    let site = |name: &str| SiteInput::published(name.parse().unwrap(), VersionNumber(3));
    Inputs {
        members: vec![
            member(1, "n-paris", "paris", Role::Node, 48.857, 2.352),
            member(2, "n-tokyo", "tokyo", Role::Node, 35.690, 139.692),
            member(3, "r-paris", "paris", Role::Redirector, 48.857, 2.352),
            member(4, "r-tokyo", "tokyo", Role::Redirector, 35.690, 139.692),
        ],
        sites: vec![site("www"), site("blog")],
        ..Inputs::new("edge.example.org".parse().unwrap())
    }
}

fn member(n: u8, name: &str, region: &str, role: Role, lat: f64, lon: f64) -> MemberInput {
    MemberInput {
        id: SecretKey::from_seed(&[n; 32]).public(),
        serial: Serial(u64::from(n)),
        name: name.parse().unwrap(),
        region: region.parse().unwrap(),
        place: Some(Coordinates::new(lat, lon).unwrap()),
        roles: vec![role],
        state: Health::Alive,
        draining: false,
        ready: true,
        load_permille: 0,
        capacity: Default::default(),
        public_v4: Some(Ipv4Addr::new(198, 18, 0, n)),
        public_v6: Some(Ipv6Addr::new(0xfd67, 0, 0, 0, 0, 0, 0, u16::from(n))),
        http_port: Some(80),
        held: ["www", "blog"].map(|site| (site.parse().unwrap(), VersionNumber(3))).to_vec(),
        peer_rtts: Vec::new(),
        certified: true,
        checks: Vec::new(),
    }
}

/// 203.0.113.0/24 and 2001:db8::/32 are in Paris, 198.51.100.0/25 in Tokyo.
pub(crate) fn geo() -> GeoDb {
    let places =
        [("203.0.113.0/24", 48.9, 2.3), ("2001:db8::/32", 48.9, 2.3), ("198.51.100.0/25", 35.7, 139.7)];
    GeoDb::from_networks(
        places.map(|(net, lat, lon)| (net.parse::<IpNet>().unwrap(), Coordinates::new(lat, lon).unwrap())),
    )
}

pub(crate) fn shared(inputs: &Inputs) -> Shared {
    Arc::new(ArcSwap::from_pointee(Generation::compute(inputs, &geo(), None)))
}

/// The view with a zone that has nothing beside the map.
pub(crate) fn view(shared: Shared) -> SharedView {
    let zone = Zone::new(shared.load().zone(), Options::default());
    SharedView::new(shared, zone)
}

/// A query packet, piece by piece.
#[derive(Clone)]
pub(crate) struct Query {
    pub(crate) id: u16,
    /// The third and fourth octet of the header.
    pub(crate) flags: [u8; 2],
    pub(crate) name: String,
    pub(crate) kind: u16,
    pub(crate) class: u16,
    /// OPT records: payload size, TTL field, options.
    pub(crate) opts: Vec<(u16, u32, Vec<u8>)>,
}

impl Query {
    pub(crate) fn new(name: &str, kind: RecordType) -> Query {
        Query {
            id: 0x1234,
            flags: [1, 0],
            name: name.to_owned(),
            kind: kind.into(),
            class: 1,
            opts: Vec::new(),
        }
    }

    pub(crate) fn edns(mut self, payload: u16, ttl: u32, options: &[u8]) -> Query {
        self.opts.push((payload, ttl, options.to_vec()));
        self
    }

    /// With a client subnet option made of these octets.
    pub(crate) fn subnet(self, value: &[u8]) -> Query {
        let option = [&[0, 8, 0, value.len() as u8], value].concat();
        self.edns(1232, 0, &option)
    }

    pub(crate) fn bytes(&self) -> Vec<u8> {
        let mut bytes =
            [&self.id.to_be_bytes()[..], &self.flags, &[0, 1, 0, 0, 0, 0, 0, self.opts.len() as u8]].concat();
        for label in self.name.split('.').filter(|label| !label.is_empty()) {
            bytes.push(label.len() as u8);
            bytes.extend(label.as_bytes());
        }
        bytes.push(0);
        bytes.extend(self.kind.to_be_bytes());
        bytes.extend(self.class.to_be_bytes());
        for (payload, ttl, options) in &self.opts {
            bytes.extend([0, 0, 41]);
            bytes.extend(payload.to_be_bytes());
            bytes.extend(ttl.to_be_bytes());
            bytes.extend((options.len() as u16).to_be_bytes());
            bytes.extend(options);
        }
        bytes
    }
}

/// Catches the response to a request.
#[derive(Clone, Default)]
struct Caught(Arc<Mutex<Option<Vec<u8>>>>);

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
        let mut bytes = Vec::new();
        let info = response.destructive_emit(&mut BinEncoder::new(&mut bytes))?;
        *self.0.lock().unwrap() = Some(bytes);
        Ok(info)
    }
}

/// What the handler replies to a packet; `None` when it is silent or the packet is no message.
pub(crate) fn reply(shared: &Shared, packet: &[u8], protocol: Protocol) -> Option<Vec<u8>> {
    reply_of(view(shared.clone()), packet, protocol)
}

fn reply_of(view: SharedView, packet: &[u8], protocol: Protocol) -> Option<Vec<u8>> {
    let source = "192.0.2.9:5353".parse().unwrap();
    let request = Request::from_bytes(packet.to_vec(), source, protocol).ok()?;
    let handler = Handler::new(view);
    let replied = replied(0, &handler, packet, source, protocol);
    check_hickorys_own(&handler, &request, replied.as_deref());
    replied
}

/// What a daemon with this handler sends for a packet.
pub(crate) fn replied(
    now: u32,
    handler: &Handler,
    packet: &[u8],
    source: SocketAddr,
    protocol: Protocol,
) -> Option<Vec<u8>> {
    match screen(packet) {
        Screened::Silent(_) => None,
        Screened::Reject { code, edns } => reject(packet, code, edns),
        Screened::Pass(query) => {
            let over_udp = protocol == Protocol::Udp;
            let received = Received { packet, query: &query, source: source.ip(), over_udp };
            handler.respond(now, &handler.shared().load(), &received).map(|replied| replied.bytes)
        }
    }
}

/// What a stock server sends for the handler says the same, if perhaps in more octets.
fn check_hickorys_own(handler: &Handler, request: &Request, replied: Option<&[u8]>) {
    let caught = Caught::default();
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    runtime.block_on(handler.handle_request::<_, TokioTime>(request, caught.clone()));
    let sent = caught.0.lock().unwrap().take();
    assert_eq!(sent.is_some(), replied.is_some());
    let (Some(sent), Some(replied)) = (sent, replied) else { return };
    if request.protocol() == Protocol::Tcp {
        assert_eq!(Message::from_vec(&sent).unwrap(), Message::from_vec(replied).unwrap());
    }
}

pub(crate) fn ask(query: &Query) -> Message {
    ask_in(&shared(&inputs()), query, Protocol::Udp)
}

pub(crate) fn ask_in(shared: &Shared, query: &Query, protocol: Protocol) -> Message {
    ask_zone(&view(shared.clone()), query, protocol)
}

pub(crate) fn ask_zone(view: &SharedView, query: &Query, protocol: Protocol) -> Message {
    let reply = reply_of(view.clone(), &query.bytes(), protocol).expect("a reply");
    Message::from_vec(&reply).unwrap()
}

/// The addresses of an answer section.
pub(crate) fn addresses(message: &Message) -> Vec<String> {
    message
        .answers
        .iter()
        .filter_map(|record| match &record.data {
            RData::A(address) => Some(address.0.to_string()),
            RData::AAAA(address) => Some(address.0.to_string()),
            _ => None,
        })
        .collect()
}
