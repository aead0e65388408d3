//! Services move across the network under live traffic, to home addresses that stay: downloads, uploads,
//! echoes, a thousand datagrams a second, and connections that idle.
//!
//! Everything is real but the network: home agents, tunnels, `godwit run`, `godwit move`. Uploads are taken
//! in by a node with a program of its own in it ([`member`]), since sites take none.
//!
//! Of each move counts what its client saw between the order and the next one.

mod client;
mod course;
mod member;
mod program;
mod stage;
mod stream;

pub(crate) use client::{ClientOptions, StreamOptions, download, echo, idle, upload};
pub(crate) use member::{MemberOptions, run as run_member};
pub(crate) use stream::{echo as return_datagrams, stream};

use crate::bed::Tool;
use crate::summary;
use anyhow::{Result, ensure};
use clap::{Args, ValueEnum};
use client::{Echoes, Idle};
use course::{Course, now_ms};
use stage::{Name, SITE, STREAM, Stage, UPLOADS};
use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::Duration;
use stream::Stream;

/// Options of the figure.
#[derive(Args)]
pub(crate) struct Options {
    /// Round-trip time between any two hosts, ms.
    #[arg(long, default_value_t = 60.0)]
    rtt: f64,
    /// Rate of each direction of the client's line, Mbit/s.
    #[arg(long, default_value_t = 60.0)]
    rate: f64,
    /// Moves of each service.
    #[arg(long, default_value_t = 20)]
    moves: usize,
    /// Octets of each download and upload.
    #[arg(long, default_value_t = 300_000_000)]
    bytes: u64,
    /// How uploading clients control congestion, by the kernel's name for it; most systems use `cubic`.
    #[arg(long, default_value = "cubic")]
    congestion: String,
    /// Connections that idle.
    #[arg(long, default_value_t = 1000)]
    idle: usize,
    /// Home agents.
    #[arg(long, default_value_t = 1)]
    home_agents: usize,
    /// Only these.
    #[arg(long, value_enum)]
    only: Vec<Part>,
    /// Only this version of IP.
    #[arg(long)]
    ip: Option<u8>,
    /// Leave the network's directory there, and say where it is.
    #[arg(long)]
    pcap: bool,
}

/// What is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Part {
    Download,
    Upload,
    Echo,
    Stream,
    Idle,
}

/// The first move waits until transfers run at their full rate.
const WARM: Duration = Duration::from_secs(4);
/// Echoes and datagrams have so long between two moves.
const PAUSE: Duration = Duration::from_millis(1500);

/// Moves everything while clients use it.
pub(crate) fn run(tool: &Tool, options: Options) -> Result<()> {
    let (rtt, agents) = (options.rtt.to_string(), options.home_agents.to_string());
    let mut up = vec!["--regions", "3", "--home-agents", &agents, "--rtt", &rtt];
    up.extend(options.pcap.then_some("--pcap"));
    let bed = tool.up(&up)?;
    println!(
        "{} ms between any two hosts, {} Mbit/s to and from the client, {} home agents; packets take {} ms more by way of one",
        options.rtt,
        options.rate,
        options.home_agents,
        options.rtt / 2.0
    );
    let runs = |part: Part| options.only.is_empty() || options.only.contains(&part);
    let len = if runs(Part::Download) { options.bytes } else { 1 };
    let mut stage = Stage::set(&bed, len, options.rate)?;
    type Measure = fn(&mut Stage<'_>, &Options, IpAddr) -> Result<()>;
    let of_the_daemon: [(Part, Name, Measure); 4] = [
        (Part::Download, SITE, download_moves),
        (Part::Echo, SITE, echo_moves),
        (Part::Idle, SITE, idle_moves),
        (Part::Stream, STREAM, stream_moves),
    ];
    let of_a_program: [(Part, Name, Measure); 1] = [(Part::Upload, UPLOADS, upload_moves)];
    let measure = |stage: &mut Stage<'_>, parts: &[(Part, Name, Measure)]| {
        for (_, name, measure) in parts.iter().filter(|(part, ..)| runs(*part)) {
            let chosen = |home: &IpAddr| options.ip.is_none_or(|ip| home.is_ipv4() == (ip == 4));
            for home in name.homes().into_iter().filter(chosen) {
                measure(stage, &options, home)?;
            }
        }
        anyhow::Ok(())
    };
    measure(&mut stage, &of_the_daemon)?;
    if runs(Part::Upload) {
        stage.take_uploads()?;
        measure(&mut stage, &of_a_program)?;
    }
    println!("fabric: {}", bed.fabric()?);
    Ok(())
}

fn download_moves(stage: &mut Stage<'_>, options: &Options, home: IpAddr) -> Result<()> {
    let client = stage.client("download", &["--to", &at(home, 80), "--host", stage.host()])?;
    transfer_moves(stage, options, home, SITE, client)
}

fn upload_moves(stage: &mut Stage<'_>, options: &Options, home: IpAddr) -> Result<()> {
    let octets = options.bytes.to_string();
    let to = at(home, stage::UPLOAD_PORT);
    let arguments = ["--to", &to, "--octets", &octets, "--congestion", &options.congestion];
    let client = stage.client("upload", &arguments)?;
    transfer_moves(stage, options, home, UPLOADS, client)
}

fn transfer_moves(
    stage: &mut Stage<'_>,
    options: &Options,
    home: IpAddr,
    name: Name,
    mut client: stage::Running,
) -> Result<()> {
    let resets = stage.resets()?;
    let began = now_ms();
    stage.find(name)?;
    std::thread::sleep(WARM);
    // Eight tenths of what it takes without moves.
    let seconds = options.bytes as f64 * 8e-6 / options.rate;
    let pace = Duration::from_secs_f64((0.8 * seconds - WARM.as_secs_f64()).max(0.0) / options.moves as f64);
    let mut moves = Vec::new();
    while moves.len() < options.moves && !client.ended()? {
        let at_ms = now_ms();
        moves.push((at_ms, stage.move_on(name)?));
        std::thread::sleep(pace.saturating_sub(Duration::from_secs_f64((now_ms() - at_ms) / 1e3)));
    }
    let course: Course = client.finish()?;
    let (_, last) = course.span()?;
    let (begun, ended) = match (moves.first(), moves.last()) {
        (Some((begun, _)), Some((ended, _))) => (*begun, *ended),
        _ => (last, last),
    };
    let ends = moves.iter().skip(1).map(|(at, _)| *at).chain([f64::INFINITY]);
    let silences: Vec<f64> = moves.iter().zip(ends).map(|((at, _), end)| course.silence(*at, end)).collect();
    let allowed = 2.0 * options.rtt + 50.0;
    let what = format!("{} {}", name.transfer(), version(home));
    println!("{}", summary::line(&format!("{what}: silence of each move"), "ms", &silences));
    println!("  {:.0?}", silences);
    println!(
        "  gaps told by `move`, ms: {:.0?}",
        moves.iter().map(|(_, told)| told.gap_ms).collect::<Vec<_>>()
    );
    let (before, after) = (course.rate(begun - 2000.0, begun)?, course.rate(ended + options.rtt, last)?);
    for (why, count) in kept(moves.iter().map(|(_, told)| told)) {
        println!("  stayed {count} times: {why}");
    }
    println!(
        "  {} of {} moved; {} of {} silences over {allowed:.0} ms; without moves {:.0} ms; {:.1} MB {}, {}, {} resets; \
         segments {:?}; Mbit/s before {before:.1}, during {:.1}, after {after:.1} ({:.2} of before)",
        moves.iter().filter(|(_, told)| told.connections == 1).count(),
        moves.len(),
        silences.iter().filter(|silence| **silence > allowed).count(),
        silences.len(),
        course.silence(began + 1000.0, begun),
        course.octets as f64 / 1e6,
        if course.intact && course.octets == options.bytes { "all right" } else { "NOT WHOLE" },
        course.error.as_deref().unwrap_or("no error"),
        stage.resets()? - resets,
        course.segments,
        course.rate(begun, ended).unwrap_or(f64::NAN),
        after / before,
    );
    ensure!(course.intact && course.error.is_none() && course.octets == options.bytes, "{what} broke");
    Ok(())
}

fn echo_moves(stage: &mut Stage<'_>, options: &Options, home: IpAddr) -> Result<()> {
    let seconds = (PAUSE.as_secs_f64() * 1.6 * (options.moves + 2) as f64).to_string();
    let arguments = ["--to", &at(home, 80), "--host", stage.host(), "--seconds", &seconds];
    let client = stage.client("echo", &arguments)?;
    stage.find(SITE)?;
    let moves = paced(stage, SITE, options.moves)?;
    let echoes: Echoes = client.finish()?;
    let ends = moves.iter().skip(1).map(|(at, _)| *at).chain([f64::INFINITY]);
    let worst = |(at, end): (f64, f64)| {
        let near = echoes.all.iter().filter(|echo| echo.at_ms + echo.ms >= at && echo.at_ms < end);
        near.map(|echo| echo.ms).fold(0.0, f64::max)
    };
    let worst: Vec<f64> = moves.iter().map(|(at, _)| *at).zip(ends).map(worst).collect();
    let mut usual: Vec<f64> = echoes.all.iter().map(|echo| echo.ms).collect();
    usual.sort_by(f64::total_cmp);
    println!("{}", summary::line(&format!("echo {}: worst of each move", version(home)), "ms", &worst));
    println!(
        "  {} of {} moved; the detour takes {:.0} ms, allowed are {:.0}; {} echoes, median {:.1} ms; {}",
        moves.iter().filter(|(_, told)| told.connections == 1).count(),
        moves.len(),
        2.0 * options.rtt,
        2.0 * options.rtt + 15.0,
        usual.len(),
        usual.get(usual.len() / 2).copied().unwrap_or(f64::NAN),
        echoes.error.as_deref().unwrap_or("no error"),
    );
    ensure!(echoes.error.is_none(), "an echo broke");
    Ok(())
}

fn stream_moves(stage: &mut Stage<'_>, options: &Options, home: IpAddr) -> Result<()> {
    let seconds = (PAUSE.as_secs_f64() * 1.6 * (options.moves + 2) as f64).ceil().to_string();
    let port = stream::ECHO_PORT.to_string();
    let client =
        stage.client("stream", &["--address", &home.to_string(), "--port", &port, "--seconds", &seconds])?;
    let moves = paced(stage, STREAM, options.moves)?;
    let seen: Stream = client.finish()?;
    let ends = moves.iter().skip(1).map(|(at, _)| *at).chain([f64::INFINITY]);
    let gap = |(at, end): (f64, f64)| {
        let within = seen.silences.iter().filter(|silence| (at..end).contains(&silence.until_ms));
        within.map(|silence| silence.ms).fold(0.0, f64::max)
    };
    let gaps: Vec<f64> = moves.iter().map(|(at, _)| *at).zip(ends).map(gap).collect();
    println!("{}", summary::line(&format!("stream {}: gap of each move", version(home)), "ms", &gaps));
    println!(
        "  allowed are {:.0} ms; {} sent, {} lost, at most {} in a row",
        options.rtt + 50.0,
        seen.sent,
        seen.sent - seen.received,
        seen.longest_loss
    );
    Ok(())
}

fn idle_moves(stage: &mut Stage<'_>, options: &Options, home: IpAddr) -> Result<()> {
    let count = options.idle.to_string();
    let arguments = ["--to", &at(home, 80), "--host", stage.host(), "--connections", &count];
    let mut client = stage.client("idle", &arguments)?;
    client.wait_for_line()?;
    stage.find(SITE)?;
    let resets = stage.resets()?;
    let told = stage.move_on(SITE)?;
    client.say_line()?;
    let idle: Idle = client.finish()?;
    println!(
        "idle {}: {} of {count} connections moved in {:.0} ms (allowed 1000), {} drained; {} answer, {} resets",
        version(home),
        told.connections,
        told.gap_ms,
        told.drained,
        idle.alive,
        stage.resets()? - resets,
    );
    Ok(())
}

/// Moves a service so often, in a pace; when, and what was told.
fn paced(stage: &mut Stage<'_>, name: Name, count: usize) -> Result<Vec<(f64, stage::Told)>> {
    let mut moves = Vec::new();
    for _ in 0..count {
        std::thread::sleep(PAUSE);
        let at_ms = now_ms();
        moves.push((at_ms, stage.move_on(name)?));
    }
    Ok(moves)
}

/// What did not move, and why.
fn kept<'a>(told: impl Iterator<Item = &'a stage::Told>) -> BTreeMap<String, usize> {
    let mut all = BTreeMap::new();
    for (why, count) in told.flat_map(|told| &told.kept) {
        *all.entry(why.clone()).or_default() += count;
    }
    all
}

fn at(home: IpAddr, port: u16) -> String {
    std::net::SocketAddr::new(home, port).to_string()
}

fn version(home: IpAddr) -> &'static str {
    if home.is_ipv4() { "IPv4" } else { "IPv6" }
}
