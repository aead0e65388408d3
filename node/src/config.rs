//! Configuration of the daemon: each part has its own section, everything has a default.
//!
//! These are the *raw* forms, as they stand in the file. Unknown keys are errors, so that a typing
//! error does not silently leave a default in force. [`Config::check`] says what cannot work before
//! anything is started.

use crate::health::{HealthConfig, ServiceConfig, WhenAllDown};
use crate::mobility::ServeConfig;
use godwit_core::demand::Capacity;
use godwit_core::name::SiteName;
use godwit_core::resolver::{Pace, Rules};
use godwit_map::PERMILLE_MAX;
use ipnet::IpNet;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

/// The port on which members listen for each other unless told otherwise.
pub const PEER_PORT: u16 = 4100;

/// What a member is configured with. Composed of one section per part.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// What the member tells about itself.
    pub node: NodeConfig,
    /// Connections between members.
    pub overlay: OverlayConfig,
    /// Content and records on disk.
    pub store: StoreConfig,
    /// How clients are led to nodes.
    pub map: MapConfig,
    /// Serving sites. Used by members with the role `node`.
    pub http: HttpConfig,
    /// The control endpoint.
    pub admin: AdminConfig,
    /// How this member's services are checked by others.
    pub health: HealthConfig,
    /// How services are answered for, by site.
    #[schemars(with = "BTreeMap<String, ServiceConfig>")]
    pub service: BTreeMap<SiteName, ServiceConfig>,
    /// Home addresses. Used by members with the role `node`.
    pub mobility: MobilityConfig,
    /// What is served at home addresses, beside what `godwit serve` was told.
    pub serve: Vec<ServeConfig>,
}

impl Config {
    /// The sites that are not answered when the checks of all their members fail, sorted.
    pub(crate) fn closed(&self) -> Vec<SiteName> {
        let closed = |service: &ServiceConfig| service.when_all_down == WhenAllDown::Closed;
        self.service.iter().filter(|(_, service)| closed(service)).map(|(site, _)| site.clone()).collect()
    }
}

/// What the member tells about itself.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct NodeConfig {
    /// The IPv4 address at which clients reach this host. Not set: the first IPv4 address among
    /// those listened on; when they are wildcards, the one from which this host reaches the world.
    pub public_v4: Option<Ipv4Addr>,
    /// The IPv6 address at which clients reach this host. Not set: as for `public_v4`.
    pub public_v6: Option<Ipv6Addr>,
    /// The port under which clients reach the HTTP server, when it differs from the one listened on
    /// (behind a port mapping, for example).
    pub http_port: Option<u16>,
    /// Requests per second that this host can serve, 1 to 4,000,000. Clients are led elsewhere before
    /// it is reached. Not set: no limit is known, and only `http.connections_max` makes it full.
    pub capacity_rps: Option<u32>,
    /// How many of the clients of whom nothing is known come here, per cent of what the capacity (or
    /// an equal part) would give it, 0 to 10,000. 0: only when nobody else is left. Not set: 100.
    pub weight_percent: Option<u16>,
}

impl NodeConfig {
    /// What it can take.
    pub(crate) fn capacity(&self) -> Capacity {
        Capacity { rps: self.capacity_rps, weight_percent: self.weight_percent }
    }
}

/// Connections between members.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct OverlayConfig {
    /// Where to listen for members, over QUIC (UDP) and TCP alike. Port 0 takes a free one.
    pub listen: Vec<SocketAddr>,
    /// Where other members are told to reach this one. Not set: the public addresses of `[node]`
    /// with the port listened on, or the addresses listened on when they are no wildcards.
    pub advertise: Vec<SocketAddr>,
    /// Members to ask first, beside those in the join token and those known from earlier.
    pub bootstrap: Vec<SocketAddr>,
}

impl Default for OverlayConfig {
    fn default() -> OverlayConfig {
        OverlayConfig {
            // One dual-stack socket would do on most hosts; hosts without IPv6 refuse it, and two
            // sockets make it plain in `ss` what is listened on.
            listen: wildcard(PEER_PORT),
            advertise: Vec::new(),
            bootstrap: Vec::new(),
        }
    }
}

/// The UDP port on which nodes and home agents receive what comes through tunnels, unless told otherwise
/// (RFC 5555 uses it for the same).
pub const TUNNEL_PORT: u16 = 4191;

/// Home addresses. Used by members with the role `node`, and only once a name is served.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct MobilityConfig {
    /// The UDP port that receives what comes through the tunnel.
    pub port: u16,
    /// The interface that home addresses are on while they are served here; it is made, and goes with
    /// the process. At most 15 octets.
    pub interface: String,
    /// Where home agents and other nodes send packets, at most four, the most preferred first. Empty:
    /// the host's own addresses, followed as they change, and behind a translator whatever it makes of
    /// them.
    pub care_of: Vec<SocketAddr>,
}

impl Default for MobilityConfig {
    fn default() -> MobilityConfig {
        MobilityConfig { port: TUNNEL_PORT, interface: "godwit0".into(), care_of: Vec::new() }
    }
}

impl MobilityConfig {
    fn check(&self) -> Result<(), BadValue> {
        let plain = |octet: u8| octet.is_ascii_graphic() && octet != b'/';
        if self.port == 0 {
            return bad("mobility.port", "home agents must know it: 0 is none".into());
        }
        if !(1..=15).contains(&self.interface.len()) || !self.interface.bytes().all(plain) {
            return bad("mobility.interface", format!("{:?} is no name of an interface", self.interface));
        }
        if self.care_of.len() > 4 {
            return bad("mobility.care_of", "names more than four addresses".into());
        }
        let unusable = |at: &&SocketAddr| at.port() == 0 || !is_of_a_host(at.ip());
        match self.care_of.iter().find(unusable) {
            Some(at) => bad("mobility.care_of", format!("{at} is nowhere a host can receive")),
            None => Ok(()),
        }
    }
}

/// Content and records on disk.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct StoreConfig {
    /// Memory for the record index, MiB, 16 to 4,096. More helps only with millions of objects.
    pub cache_mib: u32,
    /// Superseded versions kept per site, 0 to 100: what a rollback needs no transfer for, and what
    /// slow clients may still be reading.
    pub keep_versions: u32,
    /// Disk for objects of sites that are not kept here but were pulled for clients, MiB, 0 to
    /// 1,073,741,824. The bound is restored at each collection, and there is one when a quarter of it was pulled
    /// since the last: what was used longest ago goes.
    pub cache_disk_mib: u32,
    /// How often objects that nothing refers to any more are collected, seconds, 10 to 86,400.
    pub collect_period_secs: u32,
    /// Objects stay at least so long after they were sent or looked for by a publisher or by
    /// replication, seconds, 1 to 2,592,000. A publish that takes longer may be refused as
    /// incomplete, and then sends the rest.
    pub collect_after_secs: u32,
}

impl Default for StoreConfig {
    fn default() -> StoreConfig {
        StoreConfig {
            cache_mib: 64,
            keep_versions: 3,
            cache_disk_mib: 1024,
            collect_period_secs: 600,
            collect_after_secs: 3600,
        }
    }
}

/// How clients are led to nodes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct MapConfig {
    /// A MaxMind database (mmdb) with locations. Without one, clients are placed by measured
    /// round-trip times alone. The file is read again when it changes; a broken one is reported and
    /// the one before stays in force.
    pub geoip: Option<PathBuf>,
    /// How many of a thousand client blocks (IPv4 /20, IPv6 /40) measure for the others: they are
    /// told a replica that may be better than the best measured one; three times as many where
    /// there are three such replicas. 0 to 300; 0 for none. All redirectors of a network should have
    /// the same.
    pub explore_permille: u16,
    /// Each so many seconds other blocks do, 60 to 86,400. All redirectors of a network should have
    /// the same.
    pub explore_epoch_secs: u32,
    /// Whether resolvers that ask without a client subnet are measured: on a redirector, whether it
    /// asks for that; on a node, whether it does it. Off unless said: it sends packets to strangers.
    pub probe_resolvers: bool,
    /// Prefixes in which nobody is measured, whoever asks for it.
    #[schemars(with = "Vec<String>")]
    pub probe_never: Vec<IpNet>,
    /// Prefixes in which resolvers may be measured although they are not public: a network of one's
    /// own.
    #[schemars(with = "Vec<String>")]
    pub probe_also: Vec<IpNet>,
    /// At least so long between two probes of one resolver by this node, seconds, 10 to 86,400.
    pub probe_again_secs: u32,
    /// At least so long between any two probes by this node, milliseconds, 100 to 60,000.
    pub probe_gap_ms: u32,
}

impl MapConfig {
    /// Whom probes may go to.
    pub fn probe_rules(&self) -> Rules {
        Rules { never: self.probe_never.clone(), also: self.probe_also.clone() }
    }

    /// How often.
    pub(crate) fn probe_pace(&self) -> Pace {
        Pace {
            gap: Duration::from_millis(self.probe_gap_ms.into()),
            again: Duration::from_secs(self.probe_again_secs.into()),
            ..Pace::default()
        }
    }
}

impl Default for MapConfig {
    fn default() -> MapConfig {
        // One client in fifty, for ten minutes each: a place with fifty blocks knows its best of
        // twenty replicas within an hour or two of clients.
        MapConfig {
            geoip: None,
            explore_permille: 20,
            explore_epoch_secs: 600,
            probe_resolvers: false,
            probe_never: Vec::new(),
            probe_also: Vec::new(),
            probe_again_secs: 600,
            probe_gap_ms: 1000,
        }
    }
}

/// Serving sites.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct HttpConfig {
    /// Where to listen for HTTP/1.1 and HTTP/2 without TLS. Port 0 takes a free one.
    pub listen: Vec<SocketAddr>,
    /// Other host names that lead to a site, for example `"www.example.org" = "www"`.
    #[schemars(with = "BTreeMap<String, String>")]
    pub hosts: BTreeMap<String, SiteName>,
    /// Connections served at once, 1 to 1,000,000; further ones wait in the kernel's queue. An idle
    /// one costs some 20 KB.
    pub connections_max: u32,
    /// Connections from one address at once, 1 to 1,000,000; further ones are closed at once.
    pub connections_per_address_max: u32,
    /// How long a client may take to send a request's header, and how long it may stay idle between
    /// requests, milliseconds, 100 to 3,600,000.
    pub idle_timeout_ms: u64,
    /// How long a response's next bytes may wait for a client that does not read, milliseconds,
    /// 100 to 3,600,000.
    pub write_timeout_ms: u64,
    /// `Cache-Control` of what is served. The default lets caches keep a copy and makes them ask
    /// whether it is still current: one round trip to a near node, and never an old page.
    pub cache_control: String,
}

impl Default for HttpConfig {
    fn default() -> HttpConfig {
        HttpConfig {
            listen: wildcard(80),
            hosts: BTreeMap::new(),
            connections_max: 4096,
            connections_per_address_max: 1024,
            idle_timeout_ms: 30_000,
            write_timeout_ms: 30_000,
            cache_control: "public, max-age=0, must-revalidate".into(),
        }
    }
}

impl HttpConfig {
    /// How long a client may be idle.
    pub fn idle_timeout(&self) -> Duration {
        Duration::from_millis(self.idle_timeout_ms)
    }

    /// How long a client may not read.
    pub fn write_timeout(&self) -> Duration {
        Duration::from_millis(self.write_timeout_ms)
    }
}

/// The control endpoint. The unix socket `admin.sock` in the data directory is always there.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct AdminConfig {
    /// Also answer `/livez`, `/readyz` and `/metrics`, and nothing else, on this TCP address.
    pub metrics_listen: Option<SocketAddr>,
}

/// A value that cannot work.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{key}: {problem}")]
pub struct BadValue {
    /// The key, with its section.
    pub key: &'static str,
    /// What is wrong with its value.
    pub problem: String,
}

impl Config {
    /// Checks what types cannot: ranges, and values that contradict each other.
    pub fn check(&self) -> Result<(), BadValue> {
        within("node.capacity_rps", self.node.capacity_rps.unwrap_or(1), 1, 4_000_000)?;
        within("node.weight_percent", self.node.weight_percent.unwrap_or(100), 0, 10_000)?;
        within("store.cache_mib", self.store.cache_mib, 16, 4096)?;
        within("store.keep_versions", self.store.keep_versions, 0, 100)?;
        within("store.cache_disk_mib", self.store.cache_disk_mib, 0, 1 << 30)?;
        within("store.collect_period_secs", self.store.collect_period_secs, 10, 86_400)?;
        within("store.collect_after_secs", self.store.collect_after_secs, 1, 2_592_000)?;
        within("map.explore_permille", self.map.explore_permille, 0, PERMILLE_MAX)?;
        within("map.explore_epoch_secs", self.map.explore_epoch_secs, 60, 86_400)?;
        within("map.probe_again_secs", self.map.probe_again_secs, 10, 86_400)?;
        within("map.probe_gap_ms", self.map.probe_gap_ms, 100, 60_000)?;
        within("http.connections_max", self.http.connections_max, 1, 1_000_000)?;
        within("http.connections_per_address_max", self.http.connections_per_address_max, 1, 1_000_000)?;
        within("http.idle_timeout_ms", self.http.idle_timeout_ms, 100, 3_600_000)?;
        within("http.write_timeout_ms", self.http.write_timeout_ms, 100, 3_600_000)?;
        if http::HeaderValue::from_str(&self.http.cache_control).is_err() {
            return bad("http.cache_control", "is not the value of a header field".into());
        }
        self.health.check()?;
        self.mobility.check()?;
        for serve in &self.serve {
            serve.check().or_else(|problem| bad("serve", format!("{}: {problem}", serve.name)))?;
        }
        if self.overlay.listen.is_empty() {
            return bad("overlay.listen", "needs an address: a member must be reachable".into());
        }
        if let Some(wildcard) = self.overlay.advertise.iter().find(|address| address.ip().is_unspecified()) {
            return bad("overlay.advertise", format!("{wildcard} is no address that others can reach"));
        }
        if let Some(host) = self.http.hosts.keys().find(|host| !is_host_name(host)) {
            return bad("http.hosts", format!("{host:?} is not a host name (no scheme, no port)"));
        }
        if let Some(address) = self.node.public_v4.filter(|v4| !is_of_a_host((*v4).into())) {
            return bad("node.public_v4", format!("{address} is not the address of a host"));
        }
        if let Some(address) = self.node.public_v6.filter(|v6| !is_of_a_host((*v6).into())) {
            return bad("node.public_v6", format!("{address} is not the address of a host"));
        }
        Ok(())
    }
}

/// Whether a client can send it in a `Host` field and mean a host: labels of letters, digits,
/// hyphens and underscores, 253 octets at most (RFC 1035, 2.3.4), in whichever case.
fn is_host_name(name: &str) -> bool {
    let is_label = |label: &str| {
        let allowed = |octet: u8| octet.is_ascii_alphanumeric() || octet == b'-' || octet == b'_';
        (1..=63).contains(&label.len()) && label.bytes().all(allowed)
    };
    name.len() <= 253 && name.split('.').all(is_label)
}

/// Whether one host can have the address, as far as the address tells.
fn is_of_a_host(address: IpAddr) -> bool {
    let broadcast = matches!(address, IpAddr::V4(v4) if v4.is_broadcast());
    !(address.is_unspecified() || address.is_multicast() || broadcast)
}

fn within<N: PartialOrd + std::fmt::Display>(
    key: &'static str,
    value: N,
    min: N,
    max: N,
) -> Result<(), BadValue> {
    if value < min || value > max {
        return bad(key, format!("{value} is not between {min} and {max}"));
    }
    Ok(())
}

fn bad(key: &'static str, problem: String) -> Result<(), BadValue> {
    Err(BadValue { key, problem })
}

fn wildcard(port: u16) -> Vec<SocketAddr> {
    [IpAddr::V4(Ipv4Addr::UNSPECIFIED), IpAddr::V6(Ipv6Addr::UNSPECIFIED)]
        .map(|ip| SocketAddr::new(ip, port))
        .to_vec()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn defaults_pass_their_own_check() {
        assert_eq!(Config::default().check(), Ok(()));
    }

    #[test]
    fn unknown_keys_and_bad_values_are_errors() {
        let unknown = serde_json::from_str::<Config>(r#"{"http": {"port": 80}}"#).unwrap_err();
        assert!(unknown.to_string().contains("unknown field `port`"), "{unknown}");
        let reserved = serde_json::from_str::<Config>(r#"{"http": {"hosts": {"a.example": "node"}}}"#);
        assert!(reserved.unwrap_err().to_string().contains("reserved"));
        let mut config = Config::default();
        config.http.connections_max = 0;
        assert_eq!(config.check().unwrap_err().key, "http.connections_max");
        let mut config = Config::default();
        config.overlay.advertise = wildcard(4100);
        assert_eq!(config.check().unwrap_err().key, "overlay.advertise");
    }

    #[test]
    fn addresses_and_host_names_that_nobody_can_reach_are_errors() {
        for (address, works) in
            [("0.0.0.0", false), ("224.0.0.1", false), ("255.255.255.255", false), ("192.0.2.1", true)]
        {
            let mut config = Config::default();
            config.node.public_v4 = Some(address.parse().unwrap());
            assert_eq!(config.check().is_ok(), works, "{address}");
        }
        for (address, works) in [("::", false), ("ff02::1", false), ("2001:db8::1", true)] {
            let mut config = Config::default();
            config.node.public_v6 = Some(address.parse().unwrap());
            assert_eq!(config.check().is_ok(), works, "{address}");
        }
        let hosts = [
            ("www.example.org", true),
            ("WWW.example.org", true),
            ("a b", false),
            ("", false),
            ("a..b", false),
            ("a.", false),
            ("a:80", false),
            ("http://a", false),
        ];
        for (host, works) in hosts {
            let mut config = Config::default();
            config.http.hosts.insert(host.to_owned(), "www".parse().unwrap());
            assert_eq!(config.check().is_ok(), works, "{host:?}");
        }
    }
}
