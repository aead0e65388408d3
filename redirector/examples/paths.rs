//! What a reply costs without sockets: the fast path, the general path, and hickory by itself with the
//! least that a handler can do.
//!
//! ```text
//! cargo run --release -p godwit-redirector --example paths -- ZONE.toml QUERIES.bin
//! ```
//!
//! QUERIES.bin has queries, each after its length in two octets (dnsperf's binary form). Each path
//! answers all of them in turn, several rounds; the best round counts.

use godwit_core::time::Time;
use godwit_dns_plugin::View;
use godwit_redirector::paths::{Paths, REPLY_LEN_MAX};
use godwit_redirector::static_zone::StaticZone;
use hickory_server::net::NetError;
use hickory_server::net::runtime::{Time as Clock, TokioTime};
use hickory_server::net::xfer::Protocol;
use hickory_server::proto::op::{Edns, Metadata};
use hickory_server::proto::rr::rdata::A;
use hickory_server::proto::rr::rdata::opt::{ClientSubnet, EdnsCode, EdnsOption};
use hickory_server::proto::rr::{RData, Record};
use hickory_server::proto::serialize::binary::BinEncoder;
use hickory_server::server::{Request, RequestHandler, ResponseHandler, ResponseInfo};
use hickory_server::zone_handler::{MessageResponse, MessageResponseBuilder};
use std::error::Error;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Instant, SystemTime};

const ROUNDS: usize = 5;

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn Error>> {
    let usage = "usage: paths ZONE.toml QUERIES.bin";
    let mut arguments = std::env::args().skip(1);
    let zone = StaticZone::open(arguments.next().ok_or(usage)?.as_ref())?;
    let queries = queries(&std::fs::read(arguments.next().ok_or(usage)?)?);
    let config = zone.config().clone();
    let (shared, _keeper) = zone.into_view();
    let mut paths = Paths::new(shared.clone(), &config)?;
    let bare = Bare { view: shared.load_full() };
    let source: SocketAddr = "192.0.2.9:5353".parse()?;
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH)?;
    let now = Time::from_secs(since.as_secs());
    let mut out = [0; REPLY_LEN_MAX];
    let (mut best, mut by_itself) = ([f64::MAX; 3], 0);
    for _ in 0..ROUNDS {
        let per_query = |started: Instant| started.elapsed().as_nanos() as f64 / queries.len() as f64;
        let started = Instant::now();
        by_itself = queries.iter().filter(|query| paths.fast(now, query, source, &mut out).by_itself).count();
        best[0] = best[0].min(per_query(started));
        let started = Instant::now();
        let replies: usize = queries.iter().filter_map(|query| paths.general(now, query, source)).count();
        best[1] = best[1].min(per_query(started));
        let started = Instant::now();
        for query in &queries {
            let request = Request::from_bytes(query.clone(), source, Protocol::Udp)?;
            bare.handle_request::<_, TokioTime>(&request, Encode).await;
        }
        best[2] = best[2].min(per_query(started));
        assert_eq!(replies, queries.len(), "every query has a reply");
    }
    let [fast, general, hickory] = best;
    println!("{} queries, {by_itself} answered by the fast path by itself", queries.len());
    println!("fast path     {fast:8.0} ns");
    println!("general path  {general:8.0} ns, {:.2} of hickory by itself", general / hickory);
    println!("bare hickory  {hickory:8.0} ns");
    Ok(())
}

fn queries(mut file: &[u8]) -> Vec<Vec<u8>> {
    let mut queries = Vec::new();
    while let Some((len, rest)) = file.split_first_chunk() {
        let Some((query, rest)) = rest.split_at_checked(u16::from_be_bytes(*len).into()) else { break };
        queries.push(query.to_vec());
        file = rest;
    }
    queries
}

/// The least that a handler can do: A records of the map's choice, with the scope.
struct Bare {
    view: Arc<View>,
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
        let name = info.query.original().name();
        let generation = &self.view.generation;
        let site = generation.site_ref("www").expect("the zone has the service www");
        let choice = generation.choose(site, client);
        let told = generation.told(site, choice);
        let answers: Vec<Record> = told
            .v4()
            .map(|(_, address)| Record::from_rdata(name.clone(), 60, RData::A(A(address))))
            .collect();
        let edns = request.edns.as_ref().map(|_| {
            let mut edns = Edns::new();
            edns.set_max_payload(1232);
            if let Some(subnet) = subnet {
                let told = ClientSubnet::new(subnet.addr(), subnet.source_prefix(), choice.scope);
                edns.options_mut().insert(EdnsOption::Subnet(told));
            }
            edns
        });
        let mut metadata = Metadata::response_from_request(&request.metadata);
        metadata.authoritative = true;
        let none: [Record; 0] = [];
        let builder = MessageResponseBuilder::new(&request.queries, edns.as_ref());
        out.send_response(builder.build(metadata, &answers, &none, &none, &none))
            .await
            .expect("replies can be encoded")
    }
}

/// Encodes and forgets.
#[derive(Clone)]
struct Encode;

#[async_trait::async_trait]
impl ResponseHandler for Encode {
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
        let info = response.destructive_emit(&mut BinEncoder::new(&mut bytes))?;
        std::hint::black_box(&bytes);
        Ok(info)
    }
}
