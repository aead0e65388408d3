//! A sample of what was decided, with reasons: counted, and written to a file where one is named.
//!
//! Why a client is led where it is led depends on more than the answer: the same replica is told
//! because its time was measured, because it is near, or because nothing is known. Finding the
//! reasons costs some microseconds, so they are found for a sample of the queries, by a task of its
//! own, from the same data that `godwit why` asks. What a query costs is one countdown: both paths
//! ask [`Decisions::is_due`], and then [offer](Decisions::offer) the query.
//!
//! ```json
//! {"time_ms":1760000000000,"name":"www.edge.example.org.","type":"A","transport":"udp",
//!  "by":"203.0.113.0/24","subnet":true,"code":"No Error","site":"www","tier":"healthy",
//!  "source":"observed","replica":"fra1","estimate_us":8200,"kept":false,"scope":24,"generation":17}
//! ```
//!
//! A client is named by its prefix, /24 or /56, and nothing else of it is kept. Offers beyond what the
//! task takes, and beyond [`DecisionsConfig::per_second_max`], are counted and dropped.

use crate::metrics::Transport;
use godwit_dns_plugin::{SharedView, View, client_prefix, explain};
use godwit_map::Why;
use hickory_server::proto::rr::{Name, RecordType};
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::registry::Registry;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::fs::{File, OpenOptions};
use std::hash::{BuildHasher, RandomState};
use std::io::{self, Write};
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};
use tokio::sync::{mpsc, watch};

/// Offers that wait for the task; each has some hundred octets.
const WAITING_MAX: usize = 256;
/// The rarest sample: one in 10^9, so that counting does not overflow.
const ONE_IN_MAX: u32 = 1 << 30;

/// Which decisions are sampled, and where they are written.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct DecisionsConfig {
    /// One query in so many is looked at, at random; 0: none. Default 1,000.
    pub one_in: u32,
    /// At most so many are looked at in a second. Default 100: half a per cent of a processor.
    pub per_second_max: u32,
    /// The file to which a line of JSON is appended for each. Not set: they are only counted.
    pub file: Option<PathBuf>,
}

impl Default for DecisionsConfig {
    fn default() -> DecisionsConfig {
        DecisionsConfig { one_in: 1000, per_second_max: 100, file: None }
    }
}

/// A query whose decision is to be looked at.
#[derive(Clone, Debug)]
pub(crate) struct Sample {
    pub(crate) name: Name,
    pub(crate) kind: RecordType,
    /// Who decides: the client subnet's address, or the source.
    pub(crate) by: IpAddr,
    /// Whether it came in a client subnet option.
    pub(crate) subnet: bool,
    pub(crate) transport: Transport,
}

/// Where sampled queries go.
pub(crate) struct Decisions {
    sender: Option<mpsc::Sender<Sample>>,
    one_in: u32,
    /// How many queries until the next one.
    left: AtomicU32,
    missed: Counter,
}

impl Clone for Decisions {
    /// With a countdown of its own: threads that each have a clone share nothing.
    fn clone(&self) -> Decisions {
        Decisions {
            sender: self.sender.clone(),
            one_in: self.one_in,
            left: AtomicU32::new(distance(&mut seed(), self.one_in.max(1))),
            missed: self.missed.clone(),
        }
    }
}

/// 1 to twice the mean less one: the mean, on average.
fn distance(random: &mut u64, mean: u32) -> u32 {
    // xorshift64 (Marsaglia 2003): never zero, and nobody profits from guessing it.
    *random ^= *random << 13;
    *random ^= *random >> 7;
    *random ^= *random << 17;
    let span = u64::from(mean) * 2 - 1;
    (*random % span) as u32 + 1
}

fn seed() -> u64 {
    RandomState::new().hash_one(0u8) | 1
}

impl Decisions {
    /// Starts the task that looks at samples, from what is current in `view`; it ends with `stopped`.
    /// Its metrics go into `registry`. An error when the file cannot be opened.
    pub(crate) fn start(
        config: &DecisionsConfig,
        view: SharedView,
        registry: &mut Registry,
        stopped: watch::Receiver<()>,
    ) -> io::Result<(Decisions, impl Future<Output = ()> + Send + 'static)> {
        let counters = Counters::register(registry);
        let missed = counters.missed.clone();
        let open = |path: &PathBuf| OpenOptions::new().create(true).append(true).open(path);
        let file = config.file.as_ref().map(open).transpose()?;
        let one_in = config.one_in.min(ONE_IN_MAX);
        let (sender, receiver) = mpsc::channel(WAITING_MAX);
        let per_second_max = config.per_second_max;
        let looker = Looker { view, file, counters, per_second_max, second: Instant::now(), in_second: 0 };
        let sender = (one_in > 0).then_some(sender);
        let left = AtomicU32::new(distance(&mut seed(), one_in.max(1)));
        let decisions = Decisions { sender, one_in, left, missed };
        Ok((decisions, looker.run(receiver, stopped)))
    }

    /// Nobody looks at any.
    pub(crate) fn none() -> Decisions {
        Decisions { sender: None, one_in: 0, left: AtomicU32::new(0), missed: Counter::default() }
    }

    /// Whether this query is looked at. On average one in so many, at random distances: traffic that
    /// repeats itself does not always meet the same query.
    #[inline]
    pub(crate) fn is_due(&self) -> bool {
        if self.one_in == 0 {
            return false;
        }
        // Not in one step, which would cost each query as much as its whole look-up: where threads share
        // a countdown, some queries do not count.
        let left = self.left.load(Ordering::Relaxed);
        if left > 1 {
            self.left.store(left - 1, Ordering::Relaxed);
            return false;
        }
        self.left.store(distance(&mut seed(), self.one_in), Ordering::Relaxed);
        true
    }

    /// Hands a query over to be looked at; never waits.
    pub(crate) fn offer(&self, sample: Sample) {
        if let Some(sender) = &self.sender
            && sender.try_send(sample).is_err()
        {
            self.missed.inc();
        }
    }
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, EncodeLabelSet)]
struct DecisionLabels {
    /// What decided: `choice` of the map, `same-for-all`, or `client`.
    on: String,
    /// Which rules gave way; empty where the map had no choice.
    tier: String,
    /// Where the first replica's estimate comes from; empty where the map had no choice.
    source: String,
    /// `subnet` or `address`.
    by: String,
}

struct Counters {
    decisions: Family<DecisionLabels, Counter>,
    missed: Counter,
}

impl Counters {
    fn register(registry: &mut Registry) -> Counters {
        let counters = Counters { decisions: Family::default(), missed: Counter::default() };
        let registry = registry.sub_registry_with_prefix("dns");
        registry.register(
            "decisions_sampled",
            "Sampled decisions, by what they depend on, tier, source of the first estimate, and whether a client subnet decided",
            counters.decisions.clone(),
        );
        registry.register(
            "decisions_missed",
            "Sampled decisions that were not looked at, as too many came at once",
            counters.missed.clone(),
        );
        counters
    }
}

/// Looks at samples.
struct Looker {
    view: SharedView,
    file: Option<File>,
    counters: Counters,
    per_second_max: u32,
    second: Instant,
    in_second: u32,
}

/// A line of the file.
#[derive(Serialize)]
struct Line<'a> {
    time_ms: u64,
    name: &'a str,
    r#type: &'a str,
    transport: &'static str,
    by: ipnet::IpNet,
    subnet: bool,
    code: &'a str,
    site: Option<&'a str>,
    tier: Option<String>,
    source: Option<String>,
    replica: Option<&'a str>,
    estimate_us: Option<u32>,
    kept: Option<bool>,
    scope: u8,
    generation: u64,
}

impl Looker {
    async fn run(mut self, mut samples: mpsc::Receiver<Sample>, mut stopped: watch::Receiver<()>) {
        loop {
            let sample = tokio::select! {
                sample = samples.recv() => sample,
                _ = stopped.changed() => None,
            };
            let Some(sample) = sample else { break };
            if self.is_too_many() {
                self.counters.missed.inc();
                continue;
            }
            let view = self.view.load_full();
            self.look(&view, &sample);
        }
    }

    fn is_too_many(&mut self) -> bool {
        if self.second.elapsed() >= Duration::from_secs(1) {
            (self.second, self.in_second) = (Instant::now(), 0);
        }
        self.in_second += 1;
        self.in_second > self.per_second_max
    }

    fn look(&mut self, view: &View, sample: &Sample) {
        let (name, kind) = (sample.name.to_string(), sample.kind.to_string());
        let Ok(explained) = explain::explain(view, &name, Some(&kind), sample.by, None) else { return };
        let (dns, why) = (&explained.dns, explained.why.as_ref());
        let first = why.and_then(Why::first_told);
        let tier = why.map(|why| word(&why.tier));
        let source = first.map(|first| word(&first.source));
        let labels = DecisionLabels {
            on: dns.depends_on.to_owned(),
            tier: tier.clone().unwrap_or_default(),
            source: source.clone().unwrap_or_default(),
            by: if sample.subnet { "subnet" } else { "address" }.to_owned(),
        };
        self.counters.decisions.get_or_create(&labels).inc();
        let Some(file) = &mut self.file else { return };
        let line = Line {
            time_ms: SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |time| time.as_millis() as u64),
            name: &name,
            r#type: &kind,
            transport: sample.transport.as_str(),
            by: client_prefix(sample.by),
            subnet: sample.subnet,
            code: &dns.code,
            site: dns.site.as_ref().map(|site| site.as_str()),
            tier,
            source,
            replica: first.map(|first| first.name.as_str()),
            estimate_us: first.and_then(|first| first.rtt_estimate_us),
            kept: why.map(|why| why.kept),
            scope: dns.scope,
            generation: view.generation.number(),
        };
        let written = serde_json::to_vec(&line).map_err(io::Error::from).and_then(|mut line| {
            line.push(b'\n');
            file.write_all(&line)
        });
        if let Err(error) = written {
            tracing::warn!(%error, "the decisions' file takes no more; they are counted on");
            self.file = None;
        }
    }
}

/// A value by the word that its JSON form has.
pub(crate) fn word(value: &impl Serialize) -> String {
    match serde_json::to_value(value) {
        Ok(serde_json::Value::String(word)) => word,
        Ok(other) => other.to_string(),
        Err(_) => String::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(one_in: u32, queries: usize, due: std::ops::RangeInclusive<usize>) {
        let missed = Counter::default();
        let decisions = Decisions { sender: None, one_in, left: AtomicU32::new(1), missed };
        let found = (0..queries).filter(|_| decisions.is_due()).count();
        assert!(due.contains(&found), "{found} of {queries}");
    }

    #[test]
    fn one_in_so_many_is_due() {
        // The mean is 1,000, its deviation 18.
        check(100, 100_000, 880..=1120);
        check(1, 100, 100..=100);
        check(0, 100, 0..=0);
        check(ONE_IN_MAX, 100, 1..=1);
    }
}
