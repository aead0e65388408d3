//! RTT to the node that the names lead to, less RTT to the best node, from every client host; the
//! same for the node that geography alone would choose.

use crate::bed::{Bed, Host, Tool, json};
use crate::{dns, summary, tree};
use anyhow::{Context, Result};
use clap::Args;
use serde::{Deserialize, Serialize};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpStream};
use std::time::{Duration, Instant};

/// Options of the figure.
#[derive(Args)]
pub(crate) struct Options {
    /// How many regions with a node.
    #[arg(long, default_value_t = 8)]
    regions: usize,
    /// How many further regions with clients only.
    #[arg(long, default_value_t = 24)]
    client_regions: usize,
    /// The measured matrix.
    #[arg(long)]
    matrix: Option<String>,
    /// Share of wrong GeoIP entries, percent.
    #[arg(long, default_value_t = 0)]
    geoip_wrong: u32,
    /// Seed of the topology.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Rounds of fetches from every client before the second look, so that nodes have seen them.
    #[arg(long, default_value_t = 3)]
    fetches: usize,
}

/// Options of the part that runs inside a client host.
#[derive(Args)]
pub(crate) struct ProbeOptions {
    /// Whom to ask for the name.
    #[arg(long)]
    server: IpAddr,
    /// The site's whole name.
    #[arg(long)]
    name: String,
    /// All nodes.
    #[arg(long, value_delimiter = ',')]
    nodes: Vec<Ipv4Addr>,
}

#[derive(Debug, Serialize, Deserialize)]
struct Probed {
    chosen: Ipv4Addr,
    rtt_ms: Vec<(Ipv4Addr, f64)>,
}

/// Resolves the name and measures the connect time to every node.
pub(crate) fn probe(options: ProbeOptions) -> Result<()> {
    let chosen = *dns::ask(options.server, &options.name, Duration::from_secs(2))?
        .first()
        .context("an empty answer")?;
    let mut rtt_ms = Vec::new();
    for node in options.nodes {
        let best = (0..3).filter_map(|_| connect_ms(node).ok()).min_by(f64::total_cmp);
        rtt_ms.push((node, best.context("a node does not answer")?));
    }
    println!("{}", serde_json::to_string(&Probed { chosen, rtt_ms })?);
    Ok(())
}

fn connect_ms(node: Ipv4Addr) -> Result<f64> {
    let started = Instant::now();
    TcpStream::connect_timeout(&SocketAddr::from((node, 80)), Duration::from_secs(3))?;
    Ok(started.elapsed().as_secs_f64() * 1000.0)
}

/// Probes from every client host, cold and after some fetches.
pub(crate) fn run(tool: &Tool, options: Options) -> Result<()> {
    let text = |value: usize| value.to_string();
    let (regions, clients, wrong, seed) = (
        text(options.regions),
        text(options.client_regions),
        options.geoip_wrong.to_string(),
        options.seed.to_string(),
    );
    let mut arguments =
        vec!["--regions", &regions, "--client-regions", &clients, "--geoip-wrong", &wrong, "--seed", &seed];
    if let Some(matrix) = &options.matrix {
        arguments.extend(["--matrix", matrix]);
    }
    let bed = tool.up(&arguments)?;
    let nodes = bed.hosts("node");
    let content = bed.scratch().join("figures-tree");
    tree::write(&content, 5, 50_000, 0, 1)?;
    std::fs::write(content.join("index.html"), "<h1>figures</h1>")?;
    json(bed.publish(&nodes[0], &content, "www").args(["--wait", "all"]))?;
    look(&bed, "cold")?;
    let name = format!("www.{}", bed.zone());
    serve_all(&bed, &nodes, &name, options.fetches)?;
    std::thread::sleep(Duration::from_secs(8));
    look(&bed, "after served connections")
}

/// Every client fetches from every node, as a small explored share of answers would bring about.
fn serve_all(bed: &Bed<'_>, nodes: &[Host], name: &str, fetches: usize) -> Result<()> {
    let one = |client: Host| -> Result<()> {
        for node in nodes {
            for _ in 0..fetches {
                bed.figures_in(&client.name, &["fetch-from", "--node", &node.addr4, "--host", name])
                    .output()?;
            }
        }
        Ok(())
    };
    let one = &one;
    std::thread::scope(|scope| {
        let running: Vec<_> =
            bed.hosts("client").into_iter().map(|client| scope.spawn(move || one(client))).collect();
        running
            .into_iter()
            .try_for_each(|client| client.join().map_err(|_| anyhow::anyhow!("a client panicked"))?)
    })
}

/// The node nearest to the client on the globe, as the GeoIP database places it: what geography
/// alone would choose.
fn nearest(bed: &Bed<'_>, client: &Host) -> Result<Ipv4Addr> {
    let node = bed.hosts("node").into_iter().next().context("no node")?;
    let mut why = bed.godwit_in(&node.name);
    why.args(["why", "www", "--json", "--client", &client.addr4, "--data-dir"]).arg(&node.data_dir);
    let why = json(&mut why)?;
    let replicas = why["replicas"].as_array().context("no replicas")?;
    let nearest = replicas
        .iter()
        .filter(|replica| !replica["rank"].is_null())
        .min_by_key(|replica| replica["distance_km"].as_u64().unwrap_or(u64::MAX))
        .context("nobody is ranked")?;
    Ok(nearest["v4"].as_str().context("no address")?.parse()?)
}

fn look(bed: &Bed<'_>, when: &str) -> Result<()> {
    let name = format!("www.{}", bed.zone());
    let nodes: Vec<String> = bed.hosts("node").into_iter().map(|node| node.addr4).collect();
    let server = bed.redirectors().into_iter().next().context("no redirector")?;
    let nodes = nodes.join(",");
    let (mut by_map, mut by_geography, mut worse) = (Vec::new(), Vec::new(), (0, 0));
    for client in bed.hosts("client") {
        let probed = json(&mut bed.figures_in(
            &client.name,
            &["probe-nodes", "--server", &server, "--name", &name, "--nodes", &nodes],
        ))?;
        let probed: Probed = serde_json::from_value(probed)?;
        let best = probed.rtt_ms.iter().map(|(_, ms)| *ms).fold(f64::INFINITY, f64::min);
        let rtt_of = |node: Ipv4Addr| -> Result<f64> {
            Ok(probed.rtt_ms.iter().find(|(other, _)| *other == node).context("an unknown node")?.1)
        };
        let (chosen, nearest) = (rtt_of(probed.chosen)?, rtt_of(nearest(bed, &client)?)?);
        by_map.push(chosen - best);
        by_geography.push(nearest - best);
        let is_worse = |rtt: f64| usize::from(rtt > best * 1.1 && rtt > best + 2.0);
        worse = (worse.0 + is_worse(chosen), worse.1 + is_worse(nearest));
    }
    let what = "RTT to the chosen less RTT to the best";
    println!("{}", summary::line(&format!("{when}, the map: {what}"), "ms", &by_map));
    println!("{}", summary::line(&format!("{when}, geography alone: {what}"), "ms", &by_geography));
    println!(
        "{when}: materially worse (over 10 % and 2 ms) for {} of {} clients by the map, {} by geography alone",
        worse.0,
        by_map.len(),
        worse.1
    );
    Ok(())
}
