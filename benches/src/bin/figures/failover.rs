//! Seconds from kill -9 of a node until no answer names it any more.
//!
//! Each round picks the node that a client's region is led to, kills its process, and reads what
//! watchers inside the client's host saw meanwhile: one asks the nearest redirector for the name,
//! one fetches the site as a client would. Then the node is started again and must be back in the
//! answers before the next round.

use crate::bed::{Bed, Host, Tool, Watcher};
use crate::dns::{self, Seen};
use crate::http::Fetched;
use crate::{summary, tree};
use anyhow::{Context, Result, bail};
use clap::Args;
use std::process::Stdio;
use std::time::{Duration, Instant};

/// Options of the figure.
#[derive(Args)]
pub(crate) struct Options {
    /// How many regions.
    #[arg(long, default_value_t = 6)]
    regions: usize,
    /// How many kills.
    #[arg(long, default_value_t = 20)]
    rounds: usize,
}

/// The site that the rounds publish.
const SITE: &str = "www";
/// How long the watchers look after a kill.
const WATCH_SECONDS: f64 = 9.0;

/// Kills, watches, starts again; prints the figures.
pub(crate) fn run(tool: &Tool, options: Options) -> Result<()> {
    let bed = tool.up(&["--regions", &options.regions.to_string()])?;
    let nodes = bed.hosts("node");
    let clients = bed.hosts("client");
    let content = bed.scratch().join("figures-tree");
    tree::write(&content, 20, 200_000, 0, 1)?;
    std::fs::write(content.join("index.html"), "<h1>figures</h1>")?;
    let publish = crate::bed::json(bed.publish(&nodes[0], &content, SITE).args(["--wait", "all"]))?;
    println!("published: {publish}");

    let (mut out_of_answers, mut client_outage, mut empty, mut late) = (Vec::new(), Vec::new(), 0, 0);
    for round in 0..options.rounds {
        let client = &clients[round % clients.len()];
        let outcome = one_round(&bed, client, &nodes)?;
        println!(
            "round {round}: {} killed for {}: out of answers after {:.2} s, clients failed for {:.2} s, {} empty answers, {} unanswered",
            outcome.victim,
            client.region,
            outcome.out_after,
            outcome.outage,
            outcome.empty,
            outcome.unanswered
        );
        out_of_answers.push(outcome.out_after);
        client_outage.push(outcome.outage);
        empty += outcome.empty;
        late += outcome.unanswered;
    }
    println!("{}", summary::line("out of answers after kill -9", "s", &out_of_answers));
    println!("{}", summary::line("clients failing", "s", &client_outage));
    println!("empty answers: {empty}, unanswered questions: {late}");
    Ok(())
}

struct Outcome {
    victim: String,
    out_after: f64,
    outage: f64,
    empty: usize,
    unanswered: usize,
}

fn one_round(bed: &Bed<'_>, client: &Host, nodes: &[Host]) -> Result<Outcome> {
    let name = format!("{SITE}.{}", bed.zone());
    // The nearest redirector stands first in the client's resolv.conf.
    let resolv = bed.testbed(&["exec", &client.name, "--", "cat", "/etc/resolv.conf"]).output()?;
    let resolv = String::from_utf8_lossy(&resolv.stdout).into_owned();
    let server = resolv
        .lines()
        .find_map(|line| line.strip_prefix("nameserver "))
        .map(str::trim)
        .map(str::to_owned)
        .or_else(|| bed.redirectors().into_iter().next())
        .context("the testbed has no redirector")?;
    let seconds = WATCH_SECONDS.to_string();
    let mut names = bed.figures_in(
        &client.name,
        &["watch-name", "--server", &server, "--name", &name, "--seconds", &seconds],
    );
    let names = Watcher(names.stdout(Stdio::piped()).spawn()?);
    let mut fetches = bed.figures_in(
        &client.name,
        &["watch-site", "--server", &server, "--host", &name, "--seconds", &seconds],
    );
    let fetches = Watcher(fetches.stdout(Stdio::piped()).spawn()?);
    std::thread::sleep(Duration::from_millis(1500));

    // Who serves this client is what `why` says first; the watchers' own answers confirm it below.
    let first = first_answer(bed, client, &server, &name)?;
    let victim =
        nodes.iter().find(|node| node.addr4 == first).with_context(|| format!("no node has {first}"))?;
    let killed_at = dns::unix_ms();
    bed.verb(&["kill", &victim.name])?;

    let limit = Duration::from_secs_f64(WATCH_SECONDS + 10.0);
    let seen: Vec<Seen> = lines(&names.finish(limit)?);
    let fetched: Vec<Fetched> = lines(&fetches.finish(limit)?);
    let victim_address = victim.addr4.parse()?;
    let last_named = seen
        .iter()
        .filter(|seen| seen.addresses.as_ref().is_some_and(|a| a.contains(&victim_address)))
        .map(|seen| seen.at_ms)
        .max()
        .unwrap_or(killed_at);
    let empty = seen.iter().filter(|seen| seen.addresses.as_ref().is_some_and(Vec::is_empty)).count();
    let unanswered = seen.iter().filter(|seen| seen.addresses.is_none()).count();
    let bad: Vec<&Fetched> =
        fetched.iter().filter(|fetch| !fetch.good && fetch.at_ms + fetch.took_ms >= killed_at).collect();
    let outage = match (bad.first(), bad.last()) {
        (Some(first), Some(last)) => (last.at_ms + last.took_ms - first.at_ms) as f64 / 1000.0,
        _ => 0.0,
    };
    bed.verb(&["start", &victim.name])?;
    wait_for(bed, client, &server, &name, &victim.addr4)?;
    Ok(Outcome {
        victim: victim.name.clone(),
        out_after: last_named.saturating_sub(killed_at) as f64 / 1000.0,
        outage,
        empty,
        unanswered,
    })
}

fn lines<T: serde::de::DeserializeOwned>(text: &str) -> Vec<T> {
    text.lines().filter_map(|line| serde_json::from_str(line).ok()).collect()
}

fn first_answer(bed: &Bed<'_>, client: &Host, server: &str, name: &str) -> Result<String> {
    let mut ask = bed
        .figures_in(&client.name, &["watch-name", "--server", server, "--name", name, "--seconds", "0.01"]);
    let output = ask.output()?;
    let seen: Vec<Seen> = lines(&String::from_utf8_lossy(&output.stdout));
    let first = seen.first().and_then(|seen| seen.addresses.as_ref()?.first().copied());
    Ok(first.context("the name did not resolve")?.to_string())
}

fn wait_for(bed: &Bed<'_>, client: &Host, server: &str, name: &str, address: &str) -> Result<()> {
    let until = Instant::now() + Duration::from_secs(30);
    while first_answer(bed, client, server, name).ok().as_deref() != Some(address) {
        if Instant::now() > until {
            bail!("{address} did not come back into the answers within 30 s");
        }
        std::thread::sleep(Duration::from_millis(200));
    }
    Ok(())
}
