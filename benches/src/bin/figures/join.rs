//! Seconds from `godwit join` on a new host until that host has served its first request.

use crate::bed::{Tool, Watcher, json};
use crate::{http, summary, tree};
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
    /// How many joins.
    #[arg(long, default_value_t = 5)]
    rounds: usize,
}

/// Client hosts become nodes, one after the other.
pub(crate) fn run(tool: &Tool, options: Options) -> Result<()> {
    let bed = tool.up(&["--regions", &options.regions.to_string()])?;
    let node = bed.hosts("node").into_iter().next().context("no node")?;
    let content = bed.scratch().join("figures-tree");
    tree::write(&content, 20, 200_000, 0, 1)?;
    std::fs::write(content.join("index.html"), "<h1>figures</h1>")?;
    json(bed.publish(&node, &content, "www").args(["--wait", "all"]))?;
    let mut seconds = Vec::new();
    for (round, host) in bed.hosts("client").iter().enumerate().take(options.rounds) {
        let name = format!("joined-{round}");
        let invited = json(
            bed.godwit_in(&host.name)
                .args([
                    "invite",
                    "--name",
                    &name,
                    "--region",
                    &host.region,
                    "--role",
                    "node",
                    "--json",
                    "--authority",
                ])
                .arg(bed.authority()),
        )?;
        let token = invited["token"].as_str().context("no token")?.to_owned();
        let data_dir = bed.scratch().join(&name);
        let started = Instant::now();
        let joined = bed
            .godwit_in(&host.name)
            .args(["join", &token, "--address", &host.addr4, "--data-dir"])
            .arg(&data_dir)
            .output()?;
        if !joined.status.success() {
            bail!("join: {}", String::from_utf8_lossy(&joined.stderr));
        }
        let after_join = started.elapsed();
        let config = bed.scratch().join(format!("{name}.toml"));
        std::fs::write(&config, "")?;
        let _run = Watcher(
            bed.godwit_in(&host.name)
                .args(["run", "--config"])
                .arg(&config)
                .arg("--data-dir")
                .arg(&data_dir)
                .stdout(Stdio::null())
                .stderr(Stdio::null())
                .spawn()?,
        );
        let site = format!("www.{}", bed.zone());
        let asked = bed
            .figures_in(&host.name, &["first-answer", "--address", &host.addr4, "--host", &site])
            .output()?;
        if !asked.status.success() {
            bail!("no answer: {}", String::from_utf8_lossy(&asked.stderr));
        }
        let all = started.elapsed();
        println!(
            "{}: join {:.2} s, first served request after {:.2} s",
            host.region,
            after_join.as_secs_f64(),
            all.as_secs_f64()
        );
        seconds.push(all.as_secs_f64());
    }
    println!("{}", summary::line("join to first served request", "s", &seconds));
    Ok(())
}

/// Options of the part that runs inside the host.
#[derive(Args)]
pub(crate) struct FirstOptions {
    /// The node to ask.
    #[arg(long)]
    address: std::net::Ipv4Addr,
    /// The site's whole name.
    #[arg(long)]
    host: String,
}

/// Asks until a whole answer with status 200 comes.
pub(crate) fn first_answer(options: FirstOptions) -> Result<()> {
    let until = Instant::now() + Duration::from_secs(30);
    loop {
        if let Ok((200, _)) = http::get(options.address, &options.host, "/") {
            return Ok(());
        }
        if Instant::now() > until {
            bail!("no answer with status 200 within 30 s");
        }
        std::thread::sleep(Duration::from_millis(10));
    }
}
