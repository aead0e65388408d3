//! What runs inside a client's host: transfers, echoes, a stream of datagrams. Each prints JSON.

use super::course::{Noting, are_octets, now_ms, octets};
use anyhow::{Context, Result, bail, ensure};
use clap::Args;
use serde::{Deserialize, Serialize};
use std::io::{BufRead, BufReader, ErrorKind, Read, Write};
use std::net::{IpAddr, Shutdown, SocketAddr, TcpStream};
use std::time::{Duration, Instant};

/// Nothing is waited for longer: then it has broken.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);
/// An upload looks so often what was acknowledged.
const LOOK_PAUSE: Duration = Duration::from_millis(1);
/// Between two echoes.
const ECHO_PAUSE: Duration = Duration::from_millis(2);
/// Octets of one write.
const PART: u64 = 64 << 10;

/// What a client is to do.
#[derive(Args)]
pub(crate) struct ClientOptions {
    /// The home address, with a port.
    #[arg(long)]
    to: SocketAddr,
    /// The site's whole name.
    #[arg(long, default_value = "")]
    host: String,
    /// How congestion is controlled of what the client sends.
    #[arg(long)]
    congestion: Option<String>,
    /// Octets of an upload.
    #[arg(long, default_value_t = 0)]
    octets: u64,
    /// How long echoes go on, seconds.
    #[arg(long, default_value_t = 0.0)]
    seconds: f64,
    /// Connections that idle.
    #[arg(long, default_value_t = 0)]
    connections: usize,
}

/// One question and its answer.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub(crate) struct Echo {
    /// When it was asked, ms since 1970.
    pub(crate) at_ms: f64,
    /// After how long the answer was there, ms.
    pub(crate) ms: f64,
}

/// What a client saw of its echoes.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(crate) struct Echoes {
    pub(crate) all: Vec<Echo>,
    /// Why they ended early.
    pub(crate) error: Option<String>,
}

/// What a client saw of connections that idled.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(crate) struct Idle {
    /// So many answered in the end.
    pub(crate) alive: usize,
}

/// Downloads the large file and tells how it went.
pub(crate) fn download(options: &ClientOptions) -> Result<()> {
    let mut stream = connect(options.to)?;
    write!(stream, "GET /large HTTP/1.1\r\nHost: {}\r\nConnection: close\r\n\r\n", options.host)?;
    let mut reader = BufReader::with_capacity(64 << 10, stream);
    read_head(&mut reader)?;
    let mut noting = Noting::new();
    let mut at = 0;
    loop {
        match reader.fill_buf() {
            Ok([]) => break,
            Ok(bytes) => {
                noting.course.intact &= are_octets(bytes, at);
                at += bytes.len() as u64;
                let len = bytes.len();
                noting.at(at);
                reader.consume(len);
            }
            Err(error) => {
                noting.course.error = Some(error.to_string());
                break;
            }
        }
    }
    noting.course.segments = godwit_net::tcp::segments(reader.get_ref()).unwrap_or_default();
    println!("{}", serde_json::to_string(&noting.course)?);
    Ok(())
}

/// Uploads, and tells how acknowledgements came: what is written only says that there was room.
pub(crate) fn upload(options: &ClientOptions) -> Result<()> {
    let mut stream = connect(options.to)?;
    if let Some(by) = &options.congestion {
        godwit_net::tcp::control_congestion(&stream, by)?;
    }
    stream.set_nonblocking(true)?;
    let mut noting = Noting::new();
    let (mut written, mut part) = (0, Vec::new());
    let mut moved = Instant::now();
    while noting.course.octets < options.octets {
        if part.is_empty() {
            part = octets(written, options.octets.min(written + PART));
        }
        match stream.write(&part) {
            Ok(len) => {
                written += len as u64;
                drop(part.drain(..len));
            }
            Err(error) if error.kind() == ErrorKind::WouldBlock => {}
            Err(error) => {
                noting.course.error = Some(error.to_string());
                break;
            }
        }
        let acknowledged = written - u64::from(godwit_net::tcp::unacknowledged(&stream)?);
        if acknowledged > noting.course.octets {
            moved = Instant::now();
        }
        noting.at(acknowledged);
        ensure!(moved.elapsed() < PATIENCE, "nothing was acknowledged for {PATIENCE:?}");
        if !part.is_empty() || written == options.octets {
            std::thread::sleep(LOOK_PAUSE);
        }
    }
    noting.course.segments = godwit_net::tcp::segments(&stream).unwrap_or_default();
    if noting.course.error.is_none() {
        stream.set_nonblocking(false)?;
        stream.shutdown(Shutdown::Write)?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        noting.course.intact = answer == format!("{} true", options.octets);
    }
    println!("{}", serde_json::to_string(&noting.course)?);
    Ok(())
}

/// Asks for a small file again and again on one connection, and tells how long each answer took.
pub(crate) fn echo(options: &ClientOptions) -> Result<()> {
    let mut reader = BufReader::new(connect(options.to)?);
    let until = Instant::now() + Duration::from_secs_f64(options.seconds);
    let mut echoes = Echoes::default();
    while Instant::now() < until {
        let (begun, at_ms) = (Instant::now(), now_ms());
        if let Err(error) = ask(&mut reader, &options.host) {
            echoes.error = Some(error.to_string());
            break;
        }
        echoes.all.push(Echo { at_ms, ms: begun.elapsed().as_secs_f64() * 1e3 });
        std::thread::sleep(ECHO_PAUSE);
    }
    println!("{}", serde_json::to_string(&echoes)?);
    Ok(())
}

/// Opens connections, says so, waits for a line, and asks on each.
pub(crate) fn idle(options: &ClientOptions) -> Result<()> {
    let connections = (0..options.connections).map(|_| {
        let mut reader = BufReader::with_capacity(512, connect(options.to)?);
        ask(&mut reader, &options.host)?;
        Ok(reader)
    });
    let mut connections: Vec<BufReader<TcpStream>> = connections.collect::<Result<_>>()?;
    println!("ready");
    std::io::stdin().read_line(&mut String::new())?;
    // All at once: one after the other they would take a round trip each.
    let host = &options.host;
    let asked = connections.iter_mut().map(|reader| write_request(reader.get_mut(), host));
    let asked: Vec<bool> = asked.map(|asked| asked.is_ok()).collect();
    let answered = connections.iter_mut().map(|reader| read_answer(reader).is_ok());
    let alive = asked.into_iter().zip(answered).filter(|(asked, answered)| *asked && *answered).count();
    println!("{}", serde_json::to_string(&Idle { alive })?);
    Ok(())
}

fn connect(to: SocketAddr) -> Result<TcpStream> {
    let stream = TcpStream::connect_timeout(&to, PATIENCE)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    stream.set_nodelay(true)?;
    Ok(stream)
}

fn ask(reader: &mut BufReader<TcpStream>, host: &str) -> Result<()> {
    write_request(reader.get_mut(), host)?;
    read_answer(reader)
}

fn write_request(stream: &mut TcpStream, host: &str) -> Result<()> {
    Ok(stream.write_all(format!("GET / HTTP/1.1\r\nHost: {host}\r\n\r\n").as_bytes())?)
}

fn read_answer(reader: &mut BufReader<TcpStream>) -> Result<()> {
    let len = read_head(reader)?.context("a response without a length")?;
    Ok(reader.read_exact(&mut vec![0; len])?)
}

/// Reads a head that says 200; the length that it tells.
fn read_head(reader: &mut impl BufRead) -> Result<Option<usize>> {
    let (mut line, mut len) = (String::new(), None);
    reader.read_line(&mut line)?;
    if !line.starts_with("HTTP/1.1 200") {
        bail!("{line:?}");
    }
    while !line.trim_end().is_empty() {
        line.clear();
        ensure!(reader.read_line(&mut line)? > 0, "the connection ended in a head");
        if let Some(value) = line.to_ascii_lowercase().strip_prefix("content-length: ") {
            len = value.trim_end().parse().ok();
        }
    }
    Ok(len)
}

/// Options of the stream inside a host.
#[derive(Args)]
pub(crate) struct StreamOptions {
    /// The home address.
    #[arg(long)]
    pub(crate) address: IpAddr,
    /// Where the program listens.
    #[arg(long)]
    pub(crate) port: u16,
    /// How long.
    #[arg(long)]
    pub(crate) seconds: u64,
}
