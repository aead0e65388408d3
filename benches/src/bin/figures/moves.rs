//! A service moves across the network under live traffic: a download over one TCP connection, and a
//! thousand datagrams a second, to home addresses that stay.

use crate::bed::{Bed, Host, Tool, Watcher, json};
use anyhow::{Context, Result, bail, ensure};
use clap::Args;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream, UdpSocket};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// Home addresses of the testbed: of a site, and of a program that returns datagrams.
const SITE: (&str, Ipv4Addr) = ("cdn", Ipv4Addr::new(198, 18, 255, 1));
const STREAM: (&str, Ipv4Addr) = ("stream", Ipv4Addr::new(198, 18, 255, 2));
/// Where that program listens on each node.
const ECHO_PORT: u16 = 7700;
const PATIENCE: Duration = Duration::from_secs(30);

/// Options of the figure.
#[derive(Args)]
pub(crate) struct Options {
    /// Round-trip time between regions, ms.
    #[arg(long, default_value_t = 60.0)]
    rtt: f64,
    /// Rate of each direction between two hosts, Mbit/s.
    #[arg(long, default_value_t = 40.0)]
    rate: f64,
    /// Moves of each service.
    #[arg(long, default_value_t = 3)]
    moves: usize,
    /// Home agents.
    #[arg(long, default_value_t = 1)]
    home_agents: usize,
}

/// What a client saw of its download.
#[derive(Debug, Serialize, Deserialize)]
struct Download {
    octets: u64,
    intact: bool,
    /// Why it ended early.
    error: Option<String>,
    seconds: f64,
    /// The longest time without an octet, ms.
    silence_ms: f64,
}

/// What a client saw of its stream.
#[derive(Debug, Serialize, Deserialize)]
struct Stream {
    sent: u64,
    received: u64,
    /// The longest run of lost datagrams, one each millisecond.
    longest_loss: u64,
    /// The longest time without an answer, ms.
    silence_ms: f64,
}

/// Moves both services while a client uses both.
pub(crate) fn run(tool: &Tool, options: Options) -> Result<()> {
    let (rtt, rate) = (options.rtt.to_string(), options.rate.to_string());
    let agents = options.home_agents.to_string();
    let bed = tool.up(&["--regions", "3", "--home-agents", &agents, "--rtt", &rtt, "--rate", &rate])?;
    let (nodes, clients) = (bed.hosts("node"), bed.hosts("client"));
    let client = clients.first().context("no client")?;
    // Long enough for all moves, and some more.
    let seconds = 4 * (options.moves + 1);
    let len = (options.rate * 1e6 / 8.0) as usize * seconds;
    let _echoes = prepare(&bed, &nodes, len)?;
    let host = format!("www.{}", bed.zone());
    wait_for_site(&bed, client, &host)?;

    let inside = |arguments: &[&str]| start(bed.figures_in(&client.name, arguments));
    let download = inside(&["download", "--address", &SITE.1.to_string(), "--host", &host])?;
    let stream = inside(&["stream", "--address", &STREAM.1.to_string(), "--seconds", &seconds.to_string()])?;
    let mut at = BTreeMap::new();
    let first = nodes.iter().position(|node| node.region == client.region).unwrap_or(0);
    for number in 0..options.moves {
        std::thread::sleep(Duration::from_secs(3));
        for name in [SITE.0, STREAM.0] {
            let from = at.get(name).copied().unwrap_or(first);
            let to = (from + 1) % nodes.len();
            let told = move_on(&bed, name, &nodes[from], &nodes[to])?;
            println!(
                "move {}: {name} from {} to {}: {told}",
                number + 1,
                nodes[from].region,
                nodes[to].region
            );
            at.insert(name, to);
        }
    }
    let download: Download = finish(download)?;
    let stream: Stream = finish(stream)?;
    println!(
        "download: {:.1} MB in {:.1} s, longest silence {:.0} ms, {}, {}",
        download.octets as f64 / 1e6,
        download.seconds,
        download.silence_ms,
        if download.intact && download.octets == len as u64 { "all octets right" } else { "NOT WHOLE" },
        download.error.as_deref().unwrap_or("no reset"),
    );
    println!(
        "stream: {} sent, {} lost, at most {} in a row, longest silence {:.0} ms",
        stream.sent,
        stream.sent - stream.received,
        stream.longest_loss,
        stream.silence_ms,
    );
    println!("fabric: {}", bed.fabric()?);
    ensure!(
        download.intact && download.error.is_none() && download.octets == len as u64,
        "the download broke"
    );
    Ok(())
}

/// Publishes, grants both addresses, and serves them on all nodes.
fn prepare(bed: &Bed<'_>, nodes: &[Host], len: usize) -> Result<Vec<Watcher>> {
    let content = bed.scratch().join("moves-tree");
    std::fs::create_dir_all(&content)?;
    std::fs::write(content.join("index.html"), "<h1>moves</h1>")?;
    std::fs::write(content.join("large"), (0..len as u64).map(octet).collect::<Vec<u8>>())?;
    let node = nodes.first().context("no node")?;
    json(bed.publish(node, &content, "www").args(["--wait", "all"]))?;
    for (name, address) in [SITE, STREAM] {
        let address = address.to_string();
        let mut add = bed.godwit_in(&node.name);
        add.args(["address", "add", name, "--address", &address, "--json", "--authority"]);
        json(add.arg(bed.authority()).arg("--data-dir").arg(&node.data_dir))?;
    }
    let mut echoes = Vec::new();
    for node in nodes {
        let mut echo = bed.figures_in(&node.name, &["echo"]);
        echoes.push(Watcher(echo.stdin(Stdio::null()).spawn()?));
        serve(bed, node, SITE.0)?;
        serve(bed, node, STREAM.0)?;
    }
    Ok(echoes)
}

fn serve(bed: &Bed<'_>, node: &Host, name: &str) -> Result<()> {
    let mut serve = bed.godwit_in(&node.name);
    serve.args(["serve", name, "--json", "--data-dir"]).arg(&node.data_dir);
    if name == STREAM.0 {
        serve.args(["--to", &format!("127.0.0.1:{ECHO_PORT}")]);
    }
    // A node that has not heard of the grant yet is asked again.
    let until = Instant::now() + PATIENCE;
    loop {
        match json(&mut serve) {
            Err(error) if Instant::now() > until => return Err(error),
            Err(_) => std::thread::sleep(Duration::from_millis(200)),
            Ok(_) => return Ok(()),
        }
    }
}

fn wait_for_site(bed: &Bed<'_>, client: &Host, host: &str) -> Result<()> {
    let address = SITE.1.to_string();
    let status =
        bed.figures_in(&client.name, &["first-answer", "--address", &address, "--host", host]).status()?;
    ensure!(status.success(), "nothing answers at the home address");
    Ok(())
}

/// Moves a service; answers what was told of it.
fn move_on(bed: &Bed<'_>, name: &str, from: &Host, to: &Host) -> Result<Value> {
    let mut moving = bed.godwit_in(&from.name);
    moving.args(["move", name, "--to", &to.name, "--json", "--data-dir"]).arg(&from.data_dir);
    let output = moving.stdin(Stdio::null()).output()?;
    let told = serde_json::from_slice(&output.stdout)
        .with_context(|| format!("move: {}", String::from_utf8_lossy(&output.stderr)))?;
    // It may come back.
    serve(bed, from, name)?;
    Ok(told)
}

fn start(mut command: Command) -> Result<Child> {
    Ok(command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn()?)
}

fn finish<T: for<'a> Deserialize<'a>>(child: Child) -> Result<T> {
    let output = child.wait_with_output()?;
    serde_json::from_slice(&output.stdout).context("a client printed no JSON object")
}

/// What the large file has there: no two of its thousands are alike.
fn octet(at: u64) -> u8 {
    (at.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 56) as u8
}

/// Options of the download inside a host.
#[derive(Args)]
pub(crate) struct DownloadOptions {
    /// The home address.
    #[arg(long)]
    address: Ipv4Addr,
    /// The site's whole name.
    #[arg(long)]
    host: String,
}

/// Downloads the large file and tells how it went.
pub(crate) fn download(options: DownloadOptions) -> Result<()> {
    let mut stream = TcpStream::connect((options.address, 80))?;
    stream.set_read_timeout(Some(PATIENCE))?;
    write!(stream, "GET /large HTTP/1.1\r\nHost: {}\r\nConnection: close\r\n\r\n", options.host)?;
    let (mut head, mut buffer) = (Vec::new(), vec![0; 64 << 10]);
    while !head.windows(4).any(|end| end == b"\r\n\r\n") {
        let len = stream.read(&mut buffer[..1])?;
        ensure!(len > 0 && head.len() < 8192, "no head of a response");
        head.push(buffer[0]);
    }
    if !head.starts_with(b"HTTP/1.1 200") {
        bail!("{}", String::from_utf8_lossy(&head));
    }
    let (began, mut last) = (Instant::now(), Instant::now());
    let mut seen = Download { octets: 0, intact: true, error: None, seconds: 0.0, silence_ms: 0.0 };
    loop {
        let len = match stream.read(&mut buffer) {
            Ok(0) => break,
            Ok(len) => len,
            Err(error) => {
                seen.error = Some(error.to_string());
                break;
            }
        };
        seen.silence_ms = seen.silence_ms.max(last.elapsed().as_secs_f64() * 1e3);
        last = Instant::now();
        seen.intact &= buffer[..len].iter().zip(seen.octets..).all(|(is, at)| *is == octet(at));
        seen.octets += len as u64;
    }
    seen.seconds = began.elapsed().as_secs_f64();
    println!("{}", serde_json::to_string(&seen)?);
    Ok(())
}

/// Options of the stream inside a host.
#[derive(Args)]
pub(crate) struct StreamOptions {
    /// The home address.
    #[arg(long)]
    address: Ipv4Addr,
    /// How long.
    #[arg(long)]
    seconds: u64,
}

/// Sends a thousand datagrams a second and tells which came back.
pub(crate) fn stream(options: StreamOptions) -> Result<()> {
    let socket = UdpSocket::bind("0.0.0.0:0")?;
    socket.connect(SocketAddr::from((options.address, ECHO_PORT)))?;
    let count = options.seconds * 1000;
    let mut came = vec![false; count as usize];
    let mut silence = Duration::ZERO;
    std::thread::scope(|scope| -> Result<()> {
        let receiver = scope.spawn(|| -> Result<()> {
            // What comes late comes within a second.
            socket.set_read_timeout(Some(Duration::from_secs(1)))?;
            let (mut buffer, mut last) = ([0; 64], None::<Instant>);
            while let Ok(len) = socket.recv(&mut buffer) {
                let number = buffer[..len].first_chunk().map_or(u64::MAX, |bytes| u64::from_be_bytes(*bytes));
                if let Some(one) = came.get_mut(number as usize) {
                    *one = true;
                }
                silence = silence.max(last.map_or(Duration::ZERO, |last| last.elapsed()));
                last = Some(Instant::now());
            }
            Ok(())
        });
        let began = Instant::now();
        for number in 0..count {
            let due = began + Duration::from_millis(number);
            std::thread::sleep(due.saturating_duration_since(Instant::now()));
            // A refusal is a loss like others.
            let _ = socket.send(&number.to_be_bytes());
        }
        receiver.join().map_err(|_| anyhow::anyhow!("the receiver panicked"))?
    })?;
    let lost = came.split(|came| *came).map(<[bool]>::len).max().unwrap_or(0);
    let received = came.iter().filter(|came| **came).count() as u64;
    let silence_ms = silence.as_secs_f64() * 1e3;
    let seen = Stream { sent: count, received, longest_loss: lost as u64, silence_ms };
    println!("{}", serde_json::to_string(&seen)?);
    Ok(())
}

/// Returns datagrams to where they came from, until it is killed.
pub(crate) fn echo() -> Result<()> {
    let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, ECHO_PORT))?;
    let mut buffer = [0; 2048];
    loop {
        let (len, from) = socket.recv_from(&mut buffer)?;
        let _ = socket.send_to(&buffer[..len], from);
    }
}
