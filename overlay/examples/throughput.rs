//! How fast verified objects move between two members on loopback, over QUIC and over TCP.
//!
//! ```sh
//! cargo run --release -p godwit-overlay --example throughput -- [OBJECTS] [BYTES PER OBJECT] [STREAMS]
//! ```
//!
//! Both members run in this process, so the figure is what one machine does for both ends.

use async_trait::async_trait;
use bytes::Bytes;
use godwit_core::admission::Admission;
use godwit_core::certificate::{Authority, Invitation, Role, Serial, Validity};
use godwit_core::content::object::{Named, ObjectId, Verifier, name};
use godwit_core::key::SecretKey;
use godwit_core::time::Time;
use godwit_overlay::transfer::{Held, Holder, Sink, Want, fetch};
use godwit_overlay::{Config, Event, Overlay, Paths};
use std::collections::BTreeMap;
use std::error::Error;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Instant;
use tokio::sync::mpsc;

struct Memory(BTreeMap<ObjectId, (Named, Bytes)>);

impl Holder for Memory {
    fn open(&self, id: &ObjectId) -> Option<Held> {
        let (named, bytes) = self.0.get(id)?.clone();
        let read = move |offset: u64, len| Ok(bytes.slice(offset as usize..offset as usize + len));
        Some(Held { len: named.len, groups: named.groups, read: Box::new(read) })
    }
}

struct Nowhere;

#[async_trait]
impl Sink for Nowhere {
    async fn begin(&mut self, _: &Verifier) -> io::Result<()> {
        Ok(())
    }
    async fn groups(&mut self, _: &ObjectId, _: usize, _: Bytes) -> io::Result<()> {
        Ok(())
    }
    async fn done(&mut self, _: &ObjectId) -> io::Result<()> {
        Ok(())
    }
    async fn missing(&mut self, _: &ObjectId) -> io::Result<()> {
        Err(io::ErrorKind::NotFound.into())
    }
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = std::env::args().skip(1).map(|argument| argument.parse::<usize>());
    let objects = arguments.next().unwrap_or(Ok(2000))?;
    let len = arguments.next().unwrap_or(Ok(50_000))?;
    let streams = arguments.next().unwrap_or(Ok(1))?.max(1);
    for paths in [Paths::Quic, Paths::Tcp] {
        let memory = Memory((0..objects).map(|i| object(i, len)).collect());
        let wants: Vec<Want> = memory.0.keys().copied().map(Want::whole).collect();
        let (holder, _holder_events) = member(1, paths, Some(Arc::new(memory))).await?;
        let (fetcher, mut events) = member(2, paths, None).await?;
        fetcher.dial(key(1).public(), holder.addresses().to_vec());
        while !matches!(events.recv().await.ok_or("it stopped")?, Event::PeerUp { .. }) {}
        let start = Instant::now();
        let fetches = wants.chunks(objects.div_ceil(streams)).map(|wants| {
            let (fetcher, wants) = (fetcher.clone(), wants.to_vec());
            tokio::spawn(async move {
                let stream = fetcher.open(key(1).public()).await.map_err(|e| e.to_string())?;
                fetch(stream, wants, &mut Nowhere).await.map_err(|e| e.to_string())
            })
        });
        let mut bytes = 0;
        for fetched in futures::future::join_all(fetches).await {
            bytes += fetched??.bytes;
        }
        let took = start.elapsed();
        let rate = bytes as f64 / took.as_secs_f64() / 1e6;
        println!(
            "{paths:?}: {objects} objects, {bytes} bytes, {streams} streams: {took:.2?}, {rate:.0} MB/s"
        );
        holder.shutdown().await;
        fetcher.shutdown().await;
    }
    Ok(())
}

fn object(number: usize, len: usize) -> (ObjectId, (Named, Bytes)) {
    let pattern: Vec<u8> = number.to_le_bytes().into_iter().chain(0..=250).collect();
    let mut bytes = pattern.repeat(len / pattern.len() + 1);
    bytes.truncate(len);
    let named = name(&bytes);
    (named.id, (named, bytes.into()))
}

fn key(n: u8) -> SecretKey {
    SecretKey::from_seed(&[n; 32])
}

async fn member(
    n: u8,
    paths: Paths,
    holder: Option<Arc<dyn Holder>>,
) -> Result<(Overlay, mpsc::Receiver<Event>), Box<dyn Error>> {
    let (now, later) = (Time::from_secs(1), Time::from_secs(1000));
    let authority = Authority { key: key(0), zone: "example.org".parse()? };
    let invitation = Invitation {
        serial: Serial(n.into()),
        name: format!("member-{n}").parse()?,
        region: "here".parse()?,
        place: None,
        roles: vec![Role::Node],
        validity: Validity { not_before: now, not_after: later },
        redeem_by: later,
        founder: true,
        bootstrap: Vec::new(),
    };
    let token = authority.invite(invitation, &[100 + n; 32]);
    let certificate = token.redeem(now, key(n).public()).sponsor(now, &key(n));
    let mut config = Config::new(key(n), certificate, 1, Arc::new(|| Time::from_secs(10)));
    config.listen = vec![SocketAddr::from(([127, 0, 0, 1], 0))];
    config.admission = Admission { network: Some(key(0).public()), ..Admission::default() };
    config.paths = paths;
    config.holder = holder;
    Ok(godwit_overlay::start(config).await?)
}
