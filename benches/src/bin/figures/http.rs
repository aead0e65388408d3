//! Fetching from a site as a simple client would: resolve, connect, one request, read to the end.

use crate::dns;
use anyhow::{Context, Result, bail};
use clap::Args;
use serde::{Deserialize, Serialize};
use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpStream};
use std::path::PathBuf;
use std::time::{Duration, Instant};

/// Options of the watcher.
#[derive(Args)]
pub(crate) struct WatchOptions {
    /// Whom to ask for the name.
    #[arg(long)]
    server: IpAddr,
    /// The site's whole name.
    #[arg(long)]
    host: String,
    /// What to fetch.
    #[arg(long, default_value = "/")]
    path: String,
    /// How long, seconds.
    #[arg(long)]
    seconds: f64,
    /// Time between fetches, milliseconds.
    #[arg(long, default_value_t = 100)]
    every_ms: u64,
}

/// One fetch, as the watcher prints it.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Fetched {
    /// When it began, milliseconds since the Unix epoch.
    pub(crate) at_ms: u64,
    /// Whether a whole answer with status 200 came.
    pub(crate) good: bool,
    /// What went wrong, if anything.
    pub(crate) why: Option<String>,
    /// How long it took, milliseconds.
    pub(crate) took_ms: u64,
}

/// Fetches until the time is over and prints one JSON line per fetch.
pub(crate) fn watch(options: WatchOptions) -> Result<()> {
    let until = Instant::now() + Duration::from_secs_f64(options.seconds);
    let mut out = std::io::stdout().lock();
    while Instant::now() < until {
        let started = Instant::now();
        let at_ms = dns::unix_ms();
        let result = resolve_and_get(options.server, &options.host, &options.path);
        let (good, why) = match result {
            Ok((200, _)) => (true, None),
            Ok((status, _)) => (false, Some(format!("status {status}"))),
            Err(error) => (false, Some(format!("{error:#}"))),
        };
        let fetched = Fetched { at_ms, good, why, took_ms: started.elapsed().as_millis() as u64 };
        writeln!(out, "{}", serde_json::to_string(&fetched)?)?;
        out.flush()?;
        std::thread::sleep(
            (started + Duration::from_millis(options.every_ms)).saturating_duration_since(Instant::now()),
        );
    }
    Ok(())
}

fn resolve_and_get(server: IpAddr, host: &str, path: &str) -> Result<(u16, Vec<u8>)> {
    let addresses = dns::ask(server, host, Duration::from_secs(1)).context("resolving")?;
    let address = addresses.first().context("an empty answer")?;
    get(*address, host, path)
}

/// One GET over a new connection; status and body.
pub(crate) fn get(address: Ipv4Addr, host: &str, path: &str) -> Result<(u16, Vec<u8>)> {
    let patience = Duration::from_secs(2);
    let mut stream =
        TcpStream::connect_timeout(&SocketAddr::from((address, 80)), patience).context("connecting")?;
    stream.set_read_timeout(Some(patience))?;
    write!(stream, "GET {path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n")?;
    let mut reply = Vec::new();
    stream.read_to_end(&mut reply).context("reading")?;
    let split = reply.windows(4).position(|window| window == b"\r\n\r\n").context("no end of the header")?;
    let header = String::from_utf8_lossy(&reply[..split]).into_owned();
    let status = header.split(' ').nth(1).and_then(|status| status.parse().ok()).context("no status")?;
    let body = reply.split_off(split + 4);
    let length = header
        .lines()
        .find_map(|line| {
            line.to_ascii_lowercase().strip_prefix("content-length:").map(|v| v.trim().to_owned())
        })
        .and_then(|value| value.parse::<usize>().ok());
    if length.is_some_and(|length| length != body.len()) {
        bail!("{} bytes of {} came", body.len(), length.unwrap_or_default());
    }
    Ok((status, body))
}

/// Options of a fetch from a node named by its address.
#[derive(Args)]
pub(crate) struct FetchOptions {
    /// The node.
    #[arg(long)]
    node: Ipv4Addr,
    /// The site's whole name.
    #[arg(long)]
    host: String,
}

/// Fetches the index once.
pub(crate) fn fetch_from(options: FetchOptions) -> Result<()> {
    match get(options.node, &options.host, "/")? {
        (200, _) => Ok(()),
        (status, _) => bail!("status {status}"),
    }
}

/// Options of the checker.
#[derive(Args)]
pub(crate) struct VerifyOptions {
    /// The node to ask.
    #[arg(long)]
    address: Ipv4Addr,
    /// The site's whole name.
    #[arg(long)]
    host: String,
    /// The directory that was published.
    #[arg(long)]
    tree: PathBuf,
}

/// Fetches every file of the published directory and compares the bytes; prints what differs.
pub(crate) fn verify(options: VerifyOptions) -> Result<()> {
    let mut wrong = 0;
    let mut right = 0;
    for entry in std::fs::read_dir(&options.tree)? {
        let entry = entry?;
        let name = entry.file_name().to_string_lossy().into_owned();
        let expected = std::fs::read(entry.path())?;
        match get(options.address, &options.host, &format!("/{name}")) {
            Ok((200, body)) if body == expected => right += 1,
            Ok((status, body)) => {
                wrong += 1;
                println!("{name}: status {status}, {} bytes, expected {}", body.len(), expected.len());
            }
            Err(error) => {
                wrong += 1;
                println!("{name}: {error:#}");
            }
        }
    }
    println!("right {right} wrong {wrong}");
    if wrong > 0 {
        bail!("{wrong} files are missing or wrong");
    }
    Ok(())
}
