//! What monitors are told, in OpenMetrics text. Names are public API: `godwit_`, base units, and
//! labels of few values only.

mod map;

pub(crate) use map::MapMetrics;

use crate::health::HealthMetrics;
use crate::mobility::MobilityMetrics;
use crate::resolvers::ResolverMetrics;
use godwit_core::member::State;
use godwit_core::stats::{Counters, Refused};
use http::StatusCode;
use prometheus_client::encoding::{EncodeLabelSet, text};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::metrics::info::Info;
use prometheus_client::registry::{Registry, Unit};
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

/// The registry of a daemon: every part registers its metrics here once.
pub type SharedRegistry = Arc<Mutex<Registry>>;

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Code {
    code: u16,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct MemberState {
    state: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Reason {
    reason: String,
}

/// Metrics of the HTTP role.
#[derive(Default)]
pub(crate) struct HttpMetrics {
    requests: Family<Code, Counter>,
    durations: Latencies,
    sent_bytes: Counter,
    connections: Gauge,
    connections_opened: Counter,
    connections_shed: Counter,
}

struct Latencies(Histogram);

impl Default for Latencies {
    fn default() -> Latencies {
        // From what memory takes to what a fetch over an ocean takes.
        Latencies(Histogram::new([0.0001, 0.0005, 0.001, 0.005, 0.02, 0.1, 0.3, 1.0, 3.0, 10.0]))
    }
}

impl HttpMetrics {
    pub(crate) fn answered(&self, status: StatusCode, took: Duration) {
        self.requests.get_or_create(&Code { code: status.as_u16() }).inc();
        self.durations.0.observe(took.as_secs_f64());
    }

    pub(crate) fn sent(&self, bytes: usize) {
        self.sent_bytes.inc_by(bytes as u64);
    }

    pub(crate) fn opened(&self) {
        self.connections.inc();
        self.connections_opened.inc();
    }

    pub(crate) fn closed(&self) {
        self.connections.dec();
    }

    pub(crate) fn shed(&self) {
        self.connections_shed.inc();
    }
}

/// Metrics of the member itself.
pub(crate) struct Metrics {
    registry: SharedRegistry,
    pub(crate) http: Arc<HttpMetrics>,
    pub(crate) health: Arc<HealthMetrics>,
    /// Home addresses.
    pub(crate) mobility: Arc<MobilityMetrics>,
    /// Measuring resolvers.
    pub(crate) resolvers: Arc<ResolverMetrics>,
    /// Settings that redirectors have different values of.
    pub(crate) differing: Gauge,
    /// Sites held here that this member's entry has no room for.
    pub(crate) untold: Gauge,
    /// What the map has decided.
    pub(crate) map: MapMetrics,
    /// Objects fetched from other members and kept.
    pub(crate) fetched_objects: Counter,
    /// Bytes of them.
    pub(crate) fetched_bytes: Counter,
    /// Fetches that ended early.
    pub(crate) fetch_failures: Counter,
    /// Objects that a client's request had to wait for.
    pub(crate) pulled_objects: Counter,
    /// Objects that were damaged on the disk and fetched again.
    pub(crate) repaired_objects: Counter,
    /// Objects removed because no kept version refers to them.
    pub(crate) collected_objects: Counter,
    /// Bytes of them.
    pub(crate) collected_bytes: Counter,
    /// How long collections took.
    pub(crate) collect_seconds: Histogram,
    /// Bytes of objects that were pulled for clients and stay while there is room.
    pub(crate) cache_bytes: Gauge,
    /// Objects taken from publishers.
    pub(crate) uploaded_objects: Counter,
    /// How long computing a generation took.
    pub(crate) generation_seconds: Histogram,
    /// Number of the present generation.
    pub(crate) generation: Gauge,
    /// Whether the GeoIP database in use is the one on disk.
    pub(crate) geoip_fresh: Gauge,
    /// Whether the member can serve.
    pub(crate) ready: Gauge,
    /// Whether heads can be made durable.
    pub(crate) durable: Gauge,
    members: Family<MemberState, Gauge>,
    peers: Gauge,
    sites: Gauge,
    records_accepted: Counter,
    records_refused: Family<Reason, Counter>,
    messages_received: Counter,
    messages_sent: Counter,
    messages_sent_bytes: Counter,
    reconciliations: Counter,
    differences: Counter,
    own_refused: Counter,
    store_objects: Gauge,
    store_bytes: Gauge,
    store_lost: Counter,
    store_free: Gauge,
    store_full: Gauge,
    store_degraded: Gauge,
}

/// The figures of the store.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct StoreFigures {
    pub(crate) objects: u64,
    pub(crate) bytes: u64,
    pub(crate) lost: u64,
    pub(crate) disk_free: u64,
    pub(crate) full: bool,
    pub(crate) degraded: bool,
}

impl Metrics {
    pub(crate) fn new() -> Metrics {
        let metrics = Metrics {
            registry: Arc::new(Mutex::new(Registry::with_prefix("godwit"))),
            http: Arc::default(),
            health: Arc::default(),
            mobility: Arc::default(),
            resolvers: Arc::default(),
            differing: Gauge::default(),
            untold: Gauge::default(),
            map: MapMetrics::default(),
            fetched_objects: Counter::default(),
            fetched_bytes: Counter::default(),
            fetch_failures: Counter::default(),
            pulled_objects: Counter::default(),
            repaired_objects: Counter::default(),
            collected_objects: Counter::default(),
            collected_bytes: Counter::default(),
            collect_seconds: Histogram::new([0.001, 0.01, 0.1, 0.5, 2.0, 10.0, 60.0]),
            cache_bytes: Gauge::default(),
            uploaded_objects: Counter::default(),
            generation_seconds: Histogram::new([0.0001, 0.0005, 0.002, 0.01, 0.05, 0.2, 1.0, 5.0]),
            generation: Gauge::default(),
            geoip_fresh: Gauge::default(),
            ready: Gauge::default(),
            durable: Gauge::default(),
            members: Family::default(),
            peers: Gauge::default(),
            sites: Gauge::default(),
            records_accepted: Counter::default(),
            records_refused: Family::default(),
            messages_received: Counter::default(),
            messages_sent: Counter::default(),
            messages_sent_bytes: Counter::default(),
            reconciliations: Counter::default(),
            differences: Counter::default(),
            own_refused: Counter::default(),
            store_objects: Gauge::default(),
            store_bytes: Gauge::default(),
            store_lost: Counter::default(),
            store_free: Gauge::default(),
            store_full: Gauge::default(),
            store_degraded: Gauge::default(),
        };
        metrics.register();
        metrics
    }

    pub(crate) fn registry(&self) -> SharedRegistry {
        self.registry.clone()
    }

    /// All metrics as OpenMetrics text.
    pub(crate) fn encode(&self) -> Result<String, std::fmt::Error> {
        let mut text = String::new();
        text::encode(&mut text, &self.registry.lock().unwrap_or_else(PoisonError::into_inner))?;
        Ok(text)
    }

    /// Takes over what the machine has counted.
    pub(crate) fn count(&self, counters: &Counters) {
        let set = |metric: &Counter, value: u64| metric.inner().store(value, Ordering::Relaxed);
        set(&self.records_accepted, counters.accepted);
        set(&self.messages_received, counters.messages_in);
        set(&self.messages_sent, counters.messages_out);
        set(&self.messages_sent_bytes, counters.bytes_out);
        set(&self.reconciliations, counters.reconciliations);
        set(&self.differences, counters.differences);
        set(&self.own_refused, counters.own_refused);
        for why in Refused::ALL {
            let reason = Reason { reason: why.as_str().to_owned() };
            set(&self.records_refused.get_or_create(&reason), counters.refused(why));
        }
    }

    /// Takes over how many members are in each state, with how many there is a connection, and how
    /// many sites there are.
    pub(crate) fn roster(&self, states: impl Iterator<Item = State>, peers: usize, sites: usize) {
        let mut counts = std::collections::BTreeMap::new();
        states.for_each(|state| *counts.entry(state).or_insert(0) += 1);
        for (state, name) in STATES {
            let gauge = self.members.get_or_create(&MemberState { state: name.to_owned() });
            gauge.set(counts.get(&state).copied().unwrap_or(0));
        }
        self.peers.set(peers as i64);
        self.sites.set(sites as i64);
    }

    /// Takes over what the store holds.
    pub(crate) fn store(&self, figures: StoreFigures) {
        self.store_objects.set(figures.objects as i64);
        self.store_bytes.set(figures.bytes as i64);
        self.store_lost.inner().store(figures.lost, Ordering::Relaxed);
        self.store_free.set(i64::try_from(figures.disk_free).unwrap_or(i64::MAX));
        self.store_full.set(figures.full.into());
        self.store_degraded.set(figures.degraded.into());
    }

    fn register(&self) {
        let mut registry = self.registry.lock().unwrap_or_else(PoisonError::into_inner);
        let r = &mut *registry;
        let build = Info::new([("version", env!("CARGO_PKG_VERSION"))]);
        r.register("build", "Version of the software", build);
        self.health.register(r);
        self.resolvers.register(r);
        self.mobility.register(r);
        let help = "Settings that not all redirectors of the zone have alike";
        r.register("redirector_settings_differing", help, self.differing.clone());
        let help = "Sites held here that this member's entry has no room for";
        r.register("entry_sites_untold", help, self.untold.clone());
        let h = &self.http;
        r.register("http_requests", "Requests answered, by status code", h.requests.clone());
        let help = "Time until a response could begin";
        r.register_with_unit("http_response_start", help, Unit::Seconds, h.durations.0.clone());
        r.register_with_unit("http_sent", "Bytes of bodies sent", Unit::Bytes, h.sent_bytes.clone());
        r.register("http_connections", "Open client connections", h.connections.clone());
        r.register("http_connections_opened", "Client connections accepted", h.connections_opened.clone());
        r.register(
            "http_connections_shed",
            "Connections over the limit of one address",
            h.connections_shed.clone(),
        );
        r.register("fetched_objects", "Objects fetched from members", self.fetched_objects.clone());
        r.register_with_unit(
            "fetched",
            "Bytes fetched from members",
            Unit::Bytes,
            self.fetched_bytes.clone(),
        );
        r.register("fetch_failures", "Fetches that ended early", self.fetch_failures.clone());
        r.register("pulled_objects", "Objects fetched while a client waited", self.pulled_objects.clone());
        r.register("repaired_objects", "Damaged objects fetched again", self.repaired_objects.clone());
        r.register("collected_objects", "Unreferenced objects removed", self.collected_objects.clone());
        let help = "Bytes of unreferenced objects removed";
        r.register_with_unit("collected", help, Unit::Bytes, self.collected_bytes.clone());
        let help = "Time to find and remove unreferenced objects";
        r.register_with_unit("collect", help, Unit::Seconds, self.collect_seconds.clone());
        let help = "Bytes of pulled objects after the last collection";
        r.register_with_unit("cache", help, Unit::Bytes, self.cache_bytes.clone());
        r.register("uploaded_objects", "Objects taken from publishers", self.uploaded_objects.clone());
        let help = "Time to compute a generation of the map";
        r.register_with_unit("generation_compute", help, Unit::Seconds, self.generation_seconds.clone());
        self.map.register(r);
        r.register("generation", "Number of the present generation of the map", self.generation.clone());
        let help = "Whether the GeoIP database in use is the one on disk";
        r.register("geoip_last_reload_successful", help, self.geoip_fresh.clone());
        r.register("ready", "Whether this member can serve", self.ready.clone());
        r.register("heads_durable", "Whether heads can be made durable", self.durable.clone());
        r.register("members", "Members, by state", self.members.clone());
        r.register("peers", "Members connected", self.peers.clone());
        r.register("sites", "Sites known", self.sites.clone());
        r.register("records_accepted", "Records accepted", self.records_accepted.clone());
        r.register(
            "records_refused",
            "Records and messages dropped, by reason",
            self.records_refused.clone(),
        );
        r.register("messages_received", "Messages of members", self.messages_received.clone());
        r.register("messages_sent", "Messages to members", self.messages_sent.clone());
        let help = "Bytes of messages to members";
        r.register_with_unit("messages_sent", help, Unit::Bytes, self.messages_sent_bytes.clone());
        r.register("reconciliations", "Reconciliations begun", self.reconciliations.clone());
        let help = "Records made here that hold for nobody";
        r.register("records_own_refused", help, self.own_refused.clone());
        r.register("reconciliation_differences", "Reconciliations that found one", self.differences.clone());
        r.register("store_objects", "Objects stored", self.store_objects.clone());
        r.register_with_unit("store", "Bytes of objects stored", Unit::Bytes, self.store_bytes.clone());
        r.register("store_damaged_objects", "Objects found damaged on the disk", self.store_lost.clone());
        r.register_with_unit("store_free", "Bytes free on the disk", Unit::Bytes, self.store_free.clone());
        r.register("store_full", "Whether writes are refused for want of space", self.store_full.clone());
        r.register("store_degraded", "Whether the index is being repaired", self.store_degraded.clone());
    }
}

/// The states as they are written, here and in the control endpoint.
const STATES: [(State, &str); 6] = [
    (State::Alive, "alive"),
    (State::Suspect, "suspect"),
    (State::Unreachable, "unreachable"),
    (State::Unknown, "unknown"),
    (State::Revoked, "revoked"),
    (State::Expired, "expired"),
];

/// A state as it is written.
pub(crate) fn state_name(state: State) -> &'static str {
    STATES.iter().find(|(known, _)| *known == state).map_or("unknown", |(_, name)| name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn metrics_have_units_in_their_names_and_end_as_openmetrics_do() {
        let metrics = Metrics::new();
        metrics.http.answered(StatusCode::OK, Duration::from_millis(2));
        metrics.count(&Counters::default());
        metrics.roster([State::Alive, State::Alive].into_iter(), 1, 2);
        let text = metrics.encode().unwrap();
        for line in [
            "godwit_http_requests_total{code=\"200\"} 1",
            "godwit_http_response_start_seconds_count 1",
            "godwit_members{state=\"alive\"} 2",
            "godwit_members{state=\"revoked\"} 0",
            "godwit_fetched_bytes_total 0",
            concat!("godwit_build_info{version=\"", env!("CARGO_PKG_VERSION"), "\"} 1"),
        ] {
            assert!(text.contains(line), "{line} in\n{text}");
        }
        assert!(text.ends_with("# EOF\n"));
    }
}
