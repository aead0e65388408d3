//! A service moves three times while a client downloads from it, and another sends a thousand
//! datagrams a second: the addresses that they use stay.

use super::Teller;
use super::client::{Clients, Running, Seen, godwit};
use super::publish;
use super::site;
use crate::address;
use crate::control::{Request, ask};
use crate::options::{Degrade, Fault};
use crate::probe::{Download, Silence, Stream, Task, now_ms};
use crate::state::{HostState, RunDir, State};
use crate::topology::Role;
use anyhow::{Context, bail};
use serde::Serialize;
use serde_json::Value;
use std::net::IpAddr;
use std::time::{Duration, Instant};

/// The site with the long file.
const SITE: &str = "film";
/// The home address where sites are, and the one of the program that sends datagrams back.
const PLACES: [(&str, u8); 2] = [("stay", 1), ("pulse", 2)];
/// Where that program listens on each node.
const ECHO_PORT: u16 = 7700;
/// So often each moves.
const MOVES: usize = 3;
/// Between two moves.
const PAUSE: Duration = Duration::from_millis(2000);
/// The downloading client's line, Mbit/s: the file takes as long as all moves.
const LINE_MBIT: f64 = 20.0;
/// Longer than this and home addresses do not come.
const HOMES_WAIT_MAX: Duration = Duration::from_secs(40);

/// What came of it.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Moves {
    /// Each move of the downloaded site.
    pub(crate) site: Vec<Move>,
    /// Each move of the program that sends datagrams back.
    pub(crate) stream: Vec<Move>,
    /// What the client that downloads saw.
    pub(crate) download: Seen<Download>,
    /// What the other client saw.
    pub(crate) echoes: Seen<Stream>,
}

/// One move, as its client saw it.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Move {
    /// From which region.
    pub(crate) from: String,
    /// To which region.
    pub(crate) to: String,
    /// Round-trip times between the client and both, ms.
    pub(crate) rtt_ms: (f64, f64),
    /// What `godwit move` told: connections, or flows, that are the other node's now.
    pub(crate) moved: u64,
    /// The client's longest silence until the next move, ms.
    pub(crate) silence_ms: f64,
    /// Datagrams that the client lost until the next move.
    pub(crate) lost: usize,
}

/// Plays it; nothing without home agents.
pub(super) fn play(teller: &Teller, state: &State, clients: &Clients<'_>) -> anyhow::Result<Option<Moves>> {
    let nodes: Vec<&HostState> = state.hosts.iter().filter(|host| host.role == Role::Node).collect();
    if !state.hosts.iter().any(|host| host.role == Role::HomeAgent) || nodes.len() < 2 {
        return Ok(None);
    }
    let nodes = &nodes[..nodes.len().min(MOVES + 1)];
    let [first, second] = [0, 1].map(|at| nodes[at].region.clone());
    teller.step(&format!(
        "Serving two home addresses on {} nodes; the client in {first} will download from one, the client in \
         {second} send 1,000 datagrams a second to the other.",
        nodes.len()
    ));
    let _echoes = prepare(state, clients, nodes)?;
    let homes = PLACES.map(|(_, number)| IpAddr::V4(address::of_home(number).0));
    wait_for_homes(state, clients, &first, homes[0])?;
    let dir = RunDir::new(Some(&state.dir))?;
    let client = state.find(&first)?.name.clone();
    let how = Degrade { rate_mbit: Some(LINE_MBIT), ..Degrade::default() };
    ask(&dir, &Request::Fault(Fault::Degrade { a: client.clone(), b: None, how }))?;

    teller.step("Moving both, three times, while they are used.");
    let host = host(state);
    let task = Task::Download { address: homes[0], host, len: site::LONG_LEN };
    let download = clients.start_in(&first, task)?;
    let seconds = (PAUSE * (MOVES as u32 + 1)).as_secs_f64();
    let stream = clients.start_in(&second, Task::Stream { address: homes[1], port: ECHO_PORT, seconds })?;
    let mut told = [Vec::new(), Vec::new()];
    for number in 0..MOVES {
        std::thread::sleep(PAUSE);
        for (service, (name, _)) in PLACES.iter().enumerate() {
            // Each begins at its client's own node.
            let from = nodes[(number + service) % nodes.len()];
            let to = nodes[(number + service + 1) % nodes.len()];
            let at_ms = now_ms();
            let moved = move_on(name, from, to)?;
            told[service].push((at_ms, from.region.clone(), to.region.clone(), moved));
        }
    }
    let (download, echoes): (Seen<Download>, Seen<Stream>) = (download.finish()?, stream.finish()?);
    ask(&dir, &Request::Fault(Fault::Heal { a: Some(client), b: None }))?;
    let [site, datagrams] = told;
    let site = moves(state, &first, site, &download.what.silences, &[]);
    let stream = moves(state, &second, datagrams, &echoes.what.silences, &echoes.what.lost_at_ms);
    Ok(Some(Moves { site, stream, download, echoes }))
}

/// Publishes, grants both addresses, and serves them on all nodes.
fn prepare<'a>(
    state: &'a State,
    clients: &Clients<'a>,
    nodes: &[&HostState],
) -> anyhow::Result<Vec<Running>> {
    let files = state.dir.join("demo-film");
    site::write_long(&files)?;
    publish::publish_files(state, SITE, &files)?;
    let data_dir = |host: &HostState| host.data_dir.clone().context("a node without a data directory");
    for (name, number) in PLACES {
        let (v4, _) = address::of_home(number);
        let mut add = godwit(&["address", "add", name, "--address", &v4.to_string(), "--json"])?;
        add.arg("--authority").arg(&state.authority).arg("--data-dir").arg(data_dir(nodes[0])?);
        json(add)?;
    }
    let mut echoes = Vec::new();
    for node in nodes {
        echoes.push(clients.start(node, Task::Echo { port: ECHO_PORT })?);
        for (name, _) in PLACES {
            serve(name, node)?;
        }
    }
    Ok(echoes)
}

/// Serves a name at a node. One that has not heard of the grant yet is asked again.
fn serve(name: &str, node: &HostState) -> anyhow::Result<()> {
    let until = Instant::now() + HOMES_WAIT_MAX;
    loop {
        let mut serve = godwit(&["serve", name, "--json"])?;
        if name == PLACES[1].0 {
            serve.args(["--to", &format!("127.0.0.1:{ECHO_PORT}")]);
        }
        serve.arg("--data-dir").arg(node.data_dir.as_ref().context("a node without a data directory")?);
        match json(serve) {
            Ok(_) => return Ok(()),
            Err(error) if Instant::now() > until => return Err(error),
            Err(_) => std::thread::sleep(Duration::from_millis(100)),
        }
    }
}

fn wait_for_homes(state: &State, clients: &Clients<'_>, region: &str, home: IpAddr) -> anyhow::Result<()> {
    let until = Instant::now() + HOMES_WAIT_MAX;
    loop {
        let task = Task::Reach { address: home, host: host(state) };
        match clients.start_in(region, task)?.finish::<u16>() {
            Ok(seen) if seen.what == 200 => return Ok(()),
            Ok(seen) if Instant::now() > until => bail!("the home address answers with {}", seen.what),
            Err(error) if Instant::now() > until => return Err(error.context("nothing at a home address")),
            _ => std::thread::sleep(Duration::from_millis(200)),
        }
    }
}

fn host(state: &State) -> String {
    format!("{SITE}.{}", state.zone)
}

/// Moves a name; answers how many connections and flows went along.
fn move_on(name: &str, from: &HostState, to: &HostState) -> anyhow::Result<u64> {
    let mut moving = godwit(&["move", name, "--to", &to.name, "--json"])?;
    moving.arg("--data-dir").arg(from.data_dir.as_ref().context("a node without a data directory")?);
    let told = json(moving)?;
    // It may come back.
    serve(name, from)?;
    let count = |field: &str| told[field].as_u64().unwrap_or(0);
    Ok(count("connections_moved") + count("udp_flows_moved"))
}

fn json(mut command: std::process::Command) -> anyhow::Result<Value> {
    let output = command.output().context("cannot run godwit")?;
    if !output.status.success() {
        bail!("{}", String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(serde_json::from_slice(&output.stdout)?)
}

/// What a client saw of each move, from its beginning to that of the next.
fn moves(
    state: &State,
    client: &str,
    told: Vec<(u64, String, String, u64)>,
    silences: &[Silence],
    lost_at_ms: &[u64],
) -> Vec<Move> {
    let ends: Vec<u64> = told.iter().skip(1).map(|(at, ..)| *at).chain([u64::MAX]).collect();
    let rtt = |region: &str| state.rtt_ms(client, region).unwrap_or(f64::NAN);
    let seen = |((at, from, to, moved), end): ((u64, String, String, u64), u64)| {
        let silences = silences.iter().filter(|silence| (at..end).contains(&silence.until_ms));
        Move {
            rtt_ms: (rtt(&from), rtt(&to)),
            silence_ms: silences.map(|silence| silence.ms).fold(0.0, f64::max),
            lost: lost_at_ms.iter().filter(|lost| (at..end).contains(lost)).count(),
            from,
            to,
            moved,
        }
    };
    told.into_iter().zip(ends).map(seen).collect()
}
