//! What a client sees, measured inside its host: `godwit testbed probe` runs there, asks the
//! testbed's redirectors, fetches, and prints JSON.
//!
//! It needs nothing of the machine: no `dig`, no `curl`, no resolver library.

mod moving;

pub(crate) use moving::SILENCE_MIN;
pub use moving::{Download, Silence, Stream};

use crate::demo::site;
use crate::dns::{self, Kind};
use crate::http::{Connection, Response};
use anyhow::Context;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::io::{self, Write};
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// A client gives a server that long; `resolv.conf` says the same.
const DNS_TIMEOUT: Duration = Duration::from_secs(1);

/// How long a person waits before trying elsewhere.
const FETCH_TIMEOUT: Duration = Duration::from_secs(2);

/// How often a watching client asks: ten times as often as browsers would.
const WATCH_INTERVAL: Duration = Duration::from_millis(100);

/// How many files a visit fetches over one connection.
const VISIT_FILES: usize = 8;

/// What a client is to do.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Request {
    /// What to look at.
    pub task: Task,
    /// The client's own address.
    pub source: IpAddr,
    /// The name servers, nearest first.
    pub servers: Vec<SocketAddr>,
    /// The site's host name.
    pub name: String,
    /// The port it is served on.
    pub port: u16,
}

/// See [`Request`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Task {
    /// Resolve, fetch one file, and measure how far every node is.
    Look {
        /// All nodes: name and address.
        nodes: Vec<(String, IpAddr)>,
    },
    /// Resolve and fetch again and again; one line for each time.
    Watch {
        /// For so long.
        seconds: f64,
    },
    /// Visit the whole site again and again; one line at the end.
    Visit {
        /// For so long.
        seconds: f64,
    },
    /// Ask for a page at a home address; prints the status.
    Reach {
        /// The address.
        address: IpAddr,
        /// The site's host name.
        host: String,
    },
    /// Download the demo's long file from a home address.
    Download {
        /// The address.
        address: IpAddr,
        /// The site's host name.
        host: String,
        /// How long the file is, octets.
        len: u64,
    },
    /// Send a thousand datagrams a second to a home address.
    Stream {
        /// The address.
        address: IpAddr,
        /// The port.
        port: u16,
        /// For so long.
        seconds: f64,
    },
    /// Send datagrams back, on this host alone.
    Echo {
        /// The port.
        port: u16,
    },
}

/// What [`Task::Look`] prints.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Look {
    /// The addresses that the name has for this client, in order.
    pub resolved: Vec<IpAddr>,
    /// How long resolving took, ms.
    pub dns_ms: f64,
    /// How long the answer may be kept, seconds.
    pub ttl: Option<u32>,
    /// The node that answered, as it says itself.
    pub node: Option<String>,
    /// The site's version, as the node says.
    pub version: Option<String>,
    /// The status of its answer.
    pub status: u16,
    /// Round-trip time to the chosen address, ms.
    pub rtt_ms: f64,
    /// From the request to the answer's first byte, without the connection, ms.
    pub first_byte_ms: f64,
    /// Round-trip times to all nodes that answered, ms.
    pub nodes: Vec<(String, f64)>,
}

/// One line of [`Task::Watch`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Sight {
    /// When it began, ms since 1970.
    pub at_ms: u64,
    /// The address that the name had; `None` when no server answered with one.
    pub address: Option<IpAddr>,
    /// The node that answered.
    pub node: Option<String>,
    /// What went wrong.
    pub error: Option<String>,
}

/// What [`Task::Visit`] prints.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Visits {
    /// Visits: one connection, several files.
    pub visits: u64,
    /// Files fetched.
    pub files: u64,
    /// Visits by the version they saw.
    pub versions: BTreeMap<u64, u64>,
    /// Visits that saw files of more than one version.
    pub mixed: u64,
    /// Files whose bytes were not what was published.
    pub wrong: u64,
    /// Visits that failed.
    pub failed: u64,
    /// The first failure.
    pub first_error: Option<String>,
}

pub(crate) fn run(request: &str) -> anyhow::Result<()> {
    let request: Request = serde_json::from_str(request).context("not a probe's request")?;
    match &request.task {
        Task::Look { nodes } => print(&request.look(nodes)?),
        Task::Watch { seconds } => request.watch(Duration::from_secs_f64(*seconds)),
        Task::Visit { seconds } => print(&request.visit_for(Duration::from_secs_f64(*seconds))),
        Task::Reach { address, host } => print(&request.reach(*address, host)?),
        Task::Download { address, host, len } => moving::download(*address, request.port, host, *len),
        Task::Stream { address, port, seconds } => moving::stream(*address, *port, *seconds),
        Task::Echo { port } => moving::echo(*port),
    }
}

fn print(value: &impl Serialize) -> anyhow::Result<()> {
    let mut line = serde_json::to_vec(value)?;
    line.push(b'\n');
    let mut stdout = io::stdout();
    stdout.write_all(&line)?;
    Ok(stdout.flush()?)
}

impl Request {
    fn look(&self, nodes: &[(String, IpAddr)]) -> anyhow::Result<Look> {
        let answer = self.resolve()?;
        let address = *answer.addresses.first().context("the name has no address")?;
        let (response, rtt) = self.fetch(address, "/")?;
        let rtts = std::thread::scope(|scope| {
            let measured: Vec<_> =
                nodes.iter().map(|(_, address)| scope.spawn(|| self.rtt_ms(*address))).collect();
            let rtts = measured.into_iter().map(|rtt| rtt.join().ok().and_then(Result::ok));
            rtts.collect::<Vec<Option<f64>>>()
        });
        let nodes = nodes.iter().zip(rtts).filter_map(|((name, _), rtt)| Some((name.clone(), rtt?)));
        Ok(Look {
            dns_ms: millis(answer.took),
            ttl: answer.ttl,
            resolved: answer.addresses,
            node: response.field("godwit-node").map(str::to_owned),
            version: response.field("godwit-version").map(str::to_owned),
            status: response.status,
            rtt_ms: millis(rtt).min(self.rtt_ms(address).unwrap_or(f64::MAX)),
            first_byte_ms: millis(response.first_byte),
            nodes: nodes.collect(),
        })
    }

    fn watch(&self, limit: Duration) -> anyhow::Result<()> {
        let started = Instant::now();
        while started.elapsed() < limit {
            let at = Instant::now();
            let at_ms = now_ms();
            let mut sight = Sight { at_ms, address: None, node: None, error: None };
            let fetched = self.resolve().and_then(|answer| {
                sight.address = answer.addresses.first().copied();
                let (response, _) = self.fetch(sight.address.context("the name has no address")?, "/")?;
                Ok(response)
            });
            match fetched {
                Ok(response) if response.status == 200 => {
                    sight.node = response.field("godwit-node").map(str::to_owned);
                }
                Ok(response) => sight.error = Some(format!("status {}", response.status)),
                Err(error) => sight.error = Some(format!("{error:#}")),
            }
            if print(&sight).is_err() {
                // Nobody looks any more.
                return Ok(());
            }
            std::thread::sleep(WATCH_INTERVAL.saturating_sub(at.elapsed()));
        }
        Ok(())
    }

    fn visit_for(&self, limit: Duration) -> Visits {
        let started = Instant::now();
        let mut visits = Visits::default();
        while started.elapsed() < limit {
            if let Err(error) = self.visit(&mut visits) {
                visits.failed += 1;
                visits.first_error.get_or_insert(format!("{error:#}"));
            }
        }
        visits
    }

    /// Fetches files over one connection and compares every byte with what was published.
    fn visit(&self, visits: &mut Visits) -> anyhow::Result<()> {
        let address = *self.resolve()?.addresses.first().context("the name has no address")?;
        let mut connection = Connection::new(self.connect(address)?);
        let mut seen = BTreeMap::new();
        // Another part of the site each time, so that all of it is seen; the page itself always.
        let first = visits.visits as usize * VISIT_FILES;
        let rest = (0..VISIT_FILES - 1).map(|at| site::path((first + at) % site::FILES));
        for path in std::iter::once(site::path(0)).chain(rest) {
            let response = connection.get(&self.name, &format!("/{path}"))?;
            anyhow::ensure!(response.status == 200, "status {} for {path}", response.status);
            visits.files += 1;
            match site::version_of(&response.body) {
                Some(version) if response.body == site::body(version, &path) => {
                    *seen.entry(version).or_insert(0) += 1;
                }
                _ => visits.wrong += 1,
            }
        }
        visits.visits += 1;
        if seen.len() > 1 {
            visits.mixed += 1;
        }
        if let Some(version) = seen.keys().next() {
            *visits.versions.entry(*version).or_insert(0) += 1;
        }
        Ok(())
    }

    /// The status that a page of `host` has at `address`.
    fn reach(&self, address: IpAddr, host: &str) -> anyhow::Result<u16> {
        let mut connection = Connection::new(self.connect(address)?);
        Ok(connection.get(host, "/")?.status)
    }

    /// As the C library does: the next server when one does not answer.
    fn resolve(&self) -> anyhow::Result<dns::Answer> {
        let mut last = None;
        for server in &self.servers {
            match dns::ask(self.source, *server, &self.name, Kind::A, DNS_TIMEOUT) {
                Ok(answer) if answer.code == 0 => return Ok(answer),
                Ok(answer) => last = Some(format!("{server} answered with code {}", answer.code)),
                Err(error) => last = Some(format!("{server}: {error}")),
            }
        }
        anyhow::bail!("cannot resolve {}: {}", self.name, last.unwrap_or_default())
    }

    fn connect(&self, address: IpAddr) -> anyhow::Result<TcpStream> {
        let stream = TcpStream::connect_timeout(&SocketAddr::new(address, self.port), FETCH_TIMEOUT)
            .with_context(|| format!("cannot connect to {address}"))?;
        stream.set_read_timeout(Some(FETCH_TIMEOUT))?;
        stream.set_nodelay(true)?;
        Ok(stream)
    }

    /// The response, and how long the connection took: one round trip.
    fn fetch(&self, address: IpAddr, path: &str) -> anyhow::Result<(Response, Duration)> {
        let started = Instant::now();
        let stream = self.connect(address)?;
        let rtt = started.elapsed();
        Ok((Connection::new(stream).get(&self.name, path)?, rtt))
    }

    /// The shorter of two connections: one may have waited for a processor.
    fn rtt_ms(&self, address: IpAddr) -> anyhow::Result<f64> {
        let mut best = f64::MAX;
        for _ in 0..2 {
            let started = Instant::now();
            self.connect(address)?;
            best = best.min(millis(started.elapsed()));
        }
        Ok(best)
    }
}

/// By the clock that all hosts share, ms since 1970.
pub(crate) fn now_ms() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_millis() as u64
}

fn millis(duration: Duration) -> f64 {
    (duration.as_secs_f64() * 1e5).round() / 100.0
}
