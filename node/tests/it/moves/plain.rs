//! What it costs that connections could move, while none does.

use super::http::{content, field, head};
use crate::network::{Network, Tree, start_with, until_held};
use futures::future::BoxFuture;
use godwit_core::content::Replicas;
use godwit_core::flow::FlowKey;
use godwit_core::key::MemberId;
use godwit_node::handoff::Packets;
use std::io::{BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::time::Instant;

const REQUESTS: usize = 3000;
const LARGE: usize = 48 << 20;
const ROUNDS: usize = 15;

/// Whether every connection can move.
struct All(bool);

impl Packets for All {
    fn serves(&self, _: &FlowKey) -> bool {
        self.0
    }
    fn takers(&self, _: &FlowKey) -> Vec<MemberId> {
        Vec::new()
    }
    fn hold(&self, _: &[FlowKey]) {}
    fn divert(&self, _: &[FlowKey]) -> BoxFuture<'static, ()> {
        Box::pin(std::future::ready(()))
    }
    fn release(&self, _: &[FlowKey]) {}
    fn drop_held(&self, _: &[FlowKey]) {}
    fn pass_on(&self, _: &[FlowKey], _: MemberId) {}
    fn given(&self, _: &[FlowKey], _: MemberId) {}
}

/// Requests a second on one connection, and megabytes a second of one large file.
fn rates(address: SocketAddr) -> [f64; 2] {
    let mut reader = BufReader::with_capacity(1 << 18, TcpStream::connect(address).unwrap());
    reader.get_ref().set_nodelay(true).unwrap();
    let mut body = vec![0; LARGE];
    let mut get = |path: &str| {
        write!(reader.get_mut(), "GET {path} HTTP/1.1\r\nHost: www.example.com\r\n\r\n").unwrap();
        let head = head(&mut reader);
        reader.read_exact(&mut body[..field(&head, "content-length").parse().unwrap()]).unwrap();
    };
    get("/");
    let begun = Instant::now();
    (0..REQUESTS).for_each(|_| get("/"));
    let small = REQUESTS as f64 / begun.elapsed().as_secs_f64();
    let begun = Instant::now();
    get("/big.bin");
    [small, LARGE as f64 * 1e-6 / begun.elapsed().as_secs_f64()]
}

/// Prints the ratios; see [`super::figures`].
#[test]
#[ignore = "measures; run it alone"]
fn ratio() {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let tree = Tree::new(&[("index.html", b"<h1>one</h1>"), ("big.bin", &content(LARGE))]);
    let members: Vec<_> = [None, Some(false), Some(true)]
        .into_iter()
        .map(|movable| {
            runtime.block_on(async {
                let network = Network::new();
                let mut config = crate::network::config();
                config.health.vantage = false;
                let member = start_with(&network.joined("one", None).await, config).await;
                if let Some(all) = movable {
                    let _ = member.move_connections(Arc::new(All(all)), Vec::new(), Box::new(|_, _| {}));
                }
                let version = network.sign("www", 1, Replicas::All, &tree);
                network.publish(&member.client(), &version, &tree).await.unwrap();
                until_held(&member, "www", 1, 1).await;
                (network, member)
            })
        })
        .collect();
    let mut ratios = [[(); 2]; 2].map(|kinds| kinds.map(|()| Vec::new()));
    let mut base = Vec::new();
    for _ in 0..ROUNDS {
        // In turn, so that what else the machine does falls on all alike.
        let [none, other, movable] =
            [0, 1, 2].map(|number: usize| rates(members[number].1.http_addresses()[0]));
        base.push(none);
        for kind in 0..2 {
            ratios[0][kind].push(other[kind] / none[kind]);
            ratios[1][kind].push(movable[kind] / none[kind]);
        }
    }
    let median = |mut values: Vec<f64>| {
        values.sort_by(f64::total_cmp);
        values[values.len() / 2]
    };
    let of = |kind: usize| median(base.iter().map(|rates| rates[kind]).collect());
    println!("without: {:.0} requests/s, {:.0} MB/s (medians of {ROUNDS})", of(0), of(1));
    for (name, [small, large]) in ["elsewhere", "movable"].into_iter().zip(ratios) {
        println!("{name}: {:.3} of the requests, {:.3} of the octets", median(small), median(large));
    }
    for (_network, member) in members {
        runtime.block_on(member.shutdown());
    }
}
