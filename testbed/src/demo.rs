//! `godwit testbed demo`: the whole story in under a minute.
//!
//! Regions come up; a site is published; a client in each region is led to the closest node; the
//! node that serves one region is killed and comes back; a second version is published while
//! clients fetch; services move across continents under a download and a stream of datagrams. Every figure is measured inside the clients' hosts by [`crate::probe`].

mod client;
mod crash;
mod moves;
mod publish;
mod report;
pub mod site;
mod table;

use crate::options::{PortKind, UpOptions};
use crate::state::{RunDir, State};
use crate::up::{self, Life};
use client::Clients;
use godwit_net::process::EndSignals;
use report::Report;
use std::io::Write;
use std::time::Instant;

/// The demo adds this many regions that have clients and no node, unless told how many: with a node
/// in every region, choosing is too easy.
const CLIENT_REGIONS: usize = 2;

/// The demo has this many home agents unless told how many, where hosts may open TUN devices.
const HOME_AGENTS: usize = 2;

/// The site's name before the zone.
const SITE: &str = "www";

/// Plays the demo; `true` when every promise held.
pub(crate) fn run(options: &UpOptions, dir: &RunDir, json: bool) -> anyhow::Result<bool> {
    let mut options = options.clone();
    if options.client_regions == 0 {
        options.client_regions = CLIENT_REGIONS.min(crate::REGION_COUNT_MAX - options.regions);
    }
    if options.home_agents == 0 && options.ports != PortKind::Loopback && may_open_tun() {
        options.home_agents = HOME_AGENTS.min(options.regions);
    }
    let teller = Teller { started: Instant::now(), json };
    teller.step(&format!("Bringing up {} regions on this machine.", options.regions));
    let signals = EndSignals::take_over()?;
    let (state, mut launcher) = up::start(&options, dir, Life::Attached, &signals)?;
    let up_seconds = teller.seconds();
    teller.listen(signals)?;
    let result = play(&teller, &state, up_seconds);
    let down = up::down(dir);
    let _ = launcher.wait();
    let report = result?;
    down?;
    teller.finish(&report)?;
    Ok(report.holds())
}

fn play(teller: &Teller, state: &State, up_seconds: f64) -> anyhow::Result<Report> {
    let members = state.hosts.iter().filter(|host| host.pid.is_some()).count();
    teller.say(&format!("{members} members answer after {up_seconds:.1} s: {}.", table::members(state)));
    if state.mode != PortKind::Loopback {
        teller.say("What they say to each other takes as long as between their cities.");
    }
    for warning in &state.warnings {
        teller.say(&format!("Note: {warning}."));
    }
    let clients = Clients::new(state, SITE);

    teller.step("Publishing a site of 40 files, until every node has it on disk.");
    let first = publish::publish(state, SITE, 1)?;
    teller.say(&format!(
        "Version 1, {:.1} MB, is durable everywhere after {:.1} s.",
        first.megabytes, first.seconds
    ));

    teller.step("A client in each region asks for the name and fetches the page.");
    let looks = clients.look_all()?;
    teller.say(&table::looks(&looks));

    let crash = crash::play(teller, state, &clients, &looks)?;

    teller.step("Publishing version 2 while all clients fetch, over and over.");
    let second = publish::while_clients_fetch(state, &clients, SITE)?;
    teller.say(&table::visits(&second));

    let moves = moves::play(teller, state, &clients)?;
    match &moves {
        Some(moves) => teller.say(&table::moves(moves)),
        None => teller.step("Nothing moves: that takes two nodes, namespaces and TUN devices."),
    }

    let fabric = crate::control::state(&RunDir::new(Some(&state.dir))?)?.fabric;
    Ok(Report::new(state, up_seconds, first, looks, crash, second, moves, fabric, teller.seconds()))
}

/// Whether home agents can be had: each needs a TUN device.
fn may_open_tun() -> bool {
    std::fs::OpenOptions::new().read(true).write(true).open("/dev/net/tun").is_ok()
}

/// Tells the story as it happens: to standard output, or beside it when that is for JSON.
pub(crate) struct Teller {
    started: Instant,
    json: bool,
}

impl Teller {
    /// Ends the demo when a signal says so. The testbed is attached and goes with it.
    fn listen(&self, signals: EndSignals) -> anyhow::Result<()> {
        std::thread::Builder::new().name("signals".into()).spawn(move || {
            if signals.wait().is_ok() {
                eprintln!("interrupted; nothing is left");
                std::process::exit(1);
            }
        })?;
        Ok(())
    }

    fn seconds(&self) -> f64 {
        self.started.elapsed().as_secs_f64()
    }

    fn step(&self, text: &str) {
        self.say(&format!("\n[{:>4.1} s] {text}", self.seconds()));
    }

    fn say(&self, text: &str) {
        // A closed pipe ends nothing: the demo still has to be taken down.
        let _ = if self.json {
            writeln!(std::io::stderr(), "{text}")
        } else {
            writeln!(std::io::stdout(), "{text}")
        };
    }

    fn finish(&self, report: &Report) -> anyhow::Result<()> {
        if self.json {
            let _ = writeln!(std::io::stdout(), "{}", serde_json::to_string_pretty(report)?);
        } else {
            self.say(&table::summary(report));
        }
        Ok(())
    }
}
