//! Asking for a name, as a stub resolver would, and writing down each answer with its time.

use anyhow::{Context, Result};
use clap::Args;
use serde::{Deserialize, Serialize};
use std::io::Write;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// Options of the watcher.
#[derive(Args)]
pub(crate) struct WatchOptions {
    /// Whom to ask.
    #[arg(long)]
    server: IpAddr,
    /// For what.
    #[arg(long)]
    name: String,
    /// How long, seconds.
    #[arg(long)]
    seconds: f64,
    /// Time between questions, milliseconds.
    #[arg(long, default_value_t = 50)]
    every_ms: u64,
}

/// One answer, as the watcher prints it.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Seen {
    /// When, milliseconds since the Unix epoch.
    pub(crate) at_ms: u64,
    /// The addresses in it; `None` when no answer came in time.
    pub(crate) addresses: Option<Vec<Ipv4Addr>>,
}

pub(crate) fn unix_ms() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_millis() as u64
}

/// Asks until the time is over and prints one JSON line per question.
pub(crate) fn watch(options: WatchOptions) -> Result<()> {
    let until = Instant::now() + Duration::from_secs_f64(options.seconds);
    let mut out = std::io::stdout().lock();
    while Instant::now() < until {
        let next = Instant::now() + Duration::from_millis(options.every_ms);
        let at_ms = unix_ms();
        let addresses = ask(options.server, &options.name, Duration::from_millis(1000)).ok();
        writeln!(out, "{}", serde_json::to_string(&Seen { at_ms, addresses })?)?;
        out.flush()?;
        std::thread::sleep(next.saturating_duration_since(Instant::now()));
    }
    Ok(())
}

/// One A question over UDP.
pub(crate) fn ask(server: IpAddr, name: &str, patience: Duration) -> Result<Vec<Ipv4Addr>> {
    let socket = UdpSocket::bind(if server.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" })?;
    socket.connect(SocketAddr::new(server, 53))?;
    socket.set_read_timeout(Some(patience))?;
    let id = (unix_ms() as u16) ^ 0x5a5a;
    let mut query = Vec::from(id.to_be_bytes());
    query.extend([0, 0, 0, 1, 0, 0, 0, 0, 0, 0]);
    for label in name.trim_end_matches('.').split('.') {
        query.push(label.len() as u8);
        query.extend(label.as_bytes());
    }
    query.extend([0, 0, 1, 0, 1]);
    socket.send(&query)?;
    let mut reply = [0; 1500];
    let len = socket.recv(&mut reply)?;
    addresses(&reply[..len], query.len()).context("the answer is malformed")
}

/// The A records of an answer whose question section ends at `start`.
fn addresses(reply: &[u8], start: usize) -> Option<Vec<Ipv4Addr>> {
    let count = u16::from_be_bytes([*reply.get(6)?, *reply.get(7)?]);
    let mut at = start;
    let mut found = Vec::new();
    for _ in 0..count {
        loop {
            match *reply.get(at)? {
                0 => break at += 1,
                pointer if pointer >= 0xc0 => break at += 2,
                len => at += 1 + usize::from(len),
            }
        }
        let kind = u16::from_be_bytes([*reply.get(at)?, *reply.get(at + 1)?]);
        let len = usize::from(u16::from_be_bytes([*reply.get(at + 8)?, *reply.get(at + 9)?]));
        let data = reply.get(at + 10..at + 10 + len)?;
        if let (1, Ok(octets)) = (kind, <[u8; 4]>::try_from(data)) {
            found.push(Ipv4Addr::from(octets));
        }
        at += 10 + len;
    }
    Some(found)
}
