//! The least that a request handler of hickory's can do for the same zone: decode, find the name, choose by the same
//! map, encode. No screen, no cookies, no limits, no other records than addresses and the SOA.

use godwit_dns_plugin::{Answerer, View};
use godwit_map::SiteRef;
use hickory_server::net::runtime::Time as Clock;
use hickory_server::proto::op::{Edns, Metadata, ResponseCode};
use hickory_server::proto::rr::rdata::opt::{ClientSubnet, EdnsCode, EdnsOption};
use hickory_server::proto::rr::rdata::{A, AAAA, SOA};
use hickory_server::proto::rr::{LowerName, Name, RData, Record, RecordType};
use hickory_server::proto::serialize::binary::{BinDecodable, BinDecoder};
use hickory_server::server::{Request, RequestHandler, ResponseHandler, ResponseInfo};
use hickory_server::zone_handler::MessageResponseBuilder;
use std::collections::HashMap;
use std::sync::Arc;

/// What the map and the zone have, as a handler would keep it.
pub(crate) struct Bare {
    view: Arc<View>,
    names: HashMap<LowerName, SiteRef>,
    origin: LowerName,
    soa: Record,
}

/// What is told to one client.
struct Told {
    code: ResponseCode,
    answers: Vec<Record>,
    authority: Vec<Record>,
    scope: u8,
}

impl Bare {
    pub(crate) fn new(view: Arc<View>) -> Bare {
        let mut names = HashMap::new();
        Answerer::new(&view).names(&mut |name, site| {
            let name = Name::read(&mut BinDecoder::new(name)).ok();
            names.extend(name.zip(site).map(|(name, site)| (LowerName::from(name), site)));
        });
        let zone = view.zone.origin().clone();
        let contact = zone.prepend_label("hostmaster").expect("the zone's name is short");
        let ttl = view.zone.options().ttl.as_secs() as u32;
        let soa = SOA::new(zone.clone(), contact, view.serial(), 3600, 600, 604_800, ttl);
        let soa = Record::from_rdata(zone.clone(), ttl, RData::SOA(soa));
        Bare { view, names, origin: zone.into(), soa }
    }

    fn told(&self, name: &LowerName, kind: RecordType, client: std::net::IpAddr) -> Told {
        let negative = |code| Told { code, answers: Vec::new(), authority: vec![self.soa.clone()], scope: 0 };
        if !self.origin.zone_of(name) {
            return Told { authority: Vec::new(), ..negative(ResponseCode::Refused) };
        }
        let Some(site) = self.names.get(name) else { return negative(ResponseCode::NXDomain) };
        let generation = &self.view.generation;
        let choice = generation.choose(*site, client);
        let told = generation.told(*site, choice);
        let ttl = self.view.zone.options().ttl.as_secs() as u32;
        let record = |data| Record::from_rdata(Name::from(name), ttl, data);
        let answers: Vec<Record> = match kind {
            RecordType::A => told.v4().map(|(_, address)| record(RData::A(A(address)))).collect(),
            RecordType::AAAA => told.v6().map(|(_, address)| record(RData::AAAA(AAAA(address)))).collect(),
            _ => return negative(ResponseCode::NoError),
        };
        if answers.is_empty() {
            return Told { scope: choice.scope, ..negative(ResponseCode::NoError) };
        }
        Told { code: ResponseCode::NoError, answers, authority: Vec::new(), scope: choice.scope }
    }
}

#[async_trait::async_trait]
impl RequestHandler for Bare {
    async fn handle_request<R: ResponseHandler, T: Clock>(
        &self,
        request: &Request,
        mut out: R,
    ) -> ResponseInfo {
        let info = request.request_info().expect("the queries have one question each");
        let subnet = request.edns.as_ref().and_then(|edns| match edns.option(EdnsCode::Subnet) {
            Some(EdnsOption::Subnet(subnet)) => Some(*subnet),
            _ => None,
        });
        let client = subnet.map_or(request.src().ip(), |subnet: ClientSubnet| subnet.addr());
        let Told { code, answers, authority, scope } =
            self.told(info.query.name(), info.query.query_type(), client);
        let edns = request.edns.as_ref().map(|_| {
            let mut edns = Edns::new();
            edns.set_max_payload(1232);
            if let Some(subnet) = subnet {
                let told = ClientSubnet::new(subnet.addr(), subnet.source_prefix(), scope);
                edns.options_mut().insert(EdnsOption::Subnet(told));
            }
            edns
        });
        let mut metadata = Metadata::response_from_request(&request.metadata);
        metadata.authoritative = true;
        metadata.response_code = code;
        let none: [Record; 0] = [];
        let builder = MessageResponseBuilder::new(&request.queries, edns.as_ref());
        out.send_response(builder.build(metadata, &answers, &authority, &none, &none))
            .await
            .expect("replies can be encoded and sent")
    }
}
