//! What a reply costs: the fast path, the general path, and hickory by itself with the least that a
//! handler can do (`bare.rs`).
//!
//! ```text
//! cargo run --release -p godwit-redirector --example paths -- ZONE.toml QUERIES.bin
//! cargo run --release -p godwit-redirector --example paths -- ZONE.toml 127.0.0.1:5320
//! ```
//!
//! QUERIES.bin has queries, each after its length in two octets (dnsperf's binary form). Each path
//! answers all of them in turn, without sockets, several rounds; the best round counts, in time of the
//! processor. With an address instead, hickory's server answers there with the bare handler, to be
//! compared with a redirector that has `fast_path = false`.

mod bare;

use bare::Bare;
use godwit_core::time::Time;
use godwit_redirector::paths::{Paths, REPLY_LEN_MAX};
use godwit_redirector::static_zone::StaticZone;
use hickory_server::net::NetError;
use hickory_server::net::runtime::TokioTime;
use hickory_server::net::xfer::Protocol;
use hickory_server::proto::rr::Record;
use hickory_server::proto::serialize::binary::BinEncoder;
use hickory_server::server::{Request, RequestHandler, ResponseHandler, ResponseInfo};
use hickory_server::zone_handler::MessageResponse;
use std::error::Error;
use std::net::SocketAddr;
use std::time::SystemTime;

const ROUNDS: usize = 5;

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn Error>> {
    let usage = "usage: paths ZONE.toml QUERIES.bin|ADDRESS";
    let mut arguments = std::env::args().skip(1);
    let zone = StaticZone::open(arguments.next().ok_or(usage)?.as_ref())?;
    let config = zone.config().clone();
    let (shared, _keeper) = zone.into_view();
    let bare = Bare::new(shared.load_full());
    let what = arguments.next().ok_or(usage)?;
    if let Ok(address) = what.parse() {
        return serve(bare, address).await;
    }
    let queries = queries(&std::fs::read(what)?);
    let mut paths = Paths::new(shared.clone(), &config)?;
    let source: SocketAddr = "192.0.2.9:5353".parse()?;
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH)?;
    let now = Time::from_secs(since.as_secs());
    let mut out = [0; REPLY_LEN_MAX];
    let (mut best, mut by_itself) = ([f64::MAX; 3], 0);
    for _ in 0..ROUNDS {
        let per_query =
            |started: u64| Ok::<_, Box<dyn Error>>((spent()? - started) as f64 / queries.len() as f64);
        let started = spent()?;
        by_itself = queries.iter().filter(|query| paths.fast(now, query, source, &mut out).by_itself).count();
        best[0] = best[0].min(per_query(started)?);
        let started = spent()?;
        let replies: usize = queries.iter().filter_map(|query| paths.general(now, query, source)).count();
        best[1] = best[1].min(per_query(started)?);
        let started = spent()?;
        for query in &queries {
            let request = Request::from_bytes(query.clone(), source, Protocol::Udp)?;
            bare.handle_request::<_, TokioTime>(&request, Encode).await;
        }
        best[2] = best[2].min(per_query(started)?);
        assert_eq!(replies, queries.len(), "every query has a reply");
    }
    let [fast, general, hickory] = best;
    println!("{} queries, {by_itself} answered by the fast path by itself", queries.len());
    println!("fast path     {fast:8.0} ns");
    println!("general path  {general:8.0} ns, {:.2} of hickory by itself", general / hickory);
    println!("bare hickory  {hickory:8.0} ns");
    Ok(())
}

async fn serve(bare: Bare, address: SocketAddr) -> Result<(), Box<dyn Error>> {
    let mut server = hickory_server::server::Server::new(bare);
    server.register_socket(tokio::net::UdpSocket::bind(address).await?);
    server.block_until_done().await?;
    Ok(())
}

/// Nanoseconds that this thread has run (proc(5), schedstat): other work on the machine does not
/// count.
fn spent() -> Result<u64, Box<dyn Error>> {
    let text = std::fs::read_to_string("/proc/thread-self/schedstat")?;
    Ok(text.split_whitespace().next().ok_or("no such figure")?.parse()?)
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
