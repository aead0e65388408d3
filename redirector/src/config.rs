//! The redirector's part of a configuration file.

use crate::decisions::DecisionsConfig;
use godwit_dns_plugin::Options;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

/// How the redirector listens and answers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// Addresses to answer on, each over UDP and TCP. Default: port 53 on all addresses.
    /// Replies leave from the address that was asked.
    pub listen: Vec<SocketAddr>,
    /// UDP sockets per address; 0 (the default) makes one for each processor.
    pub workers: usize,
    /// Whether what may be encoded before it is asked for is, for queries over UDP. The replies are
    /// the same without, at five times the cost: to be turned off only for comparing. Default true.
    /// Heeded at a start.
    pub fast_path: bool,
    /// Seconds that an answer chosen by the map may be kept. Default 5: how long a dead replica is
    /// believed in; the load on the redirector falls as it grows.
    pub ttl_secs: u32,
    /// Seconds that names of members and name servers may be kept. Default 60.
    pub ttl_static_secs: u32,
    /// A file with the secret that DNS cookies (RFC 9018) are made with: 32 hexadecimal digits. The
    /// same for all redirectors of a zone, so that each knows the others' cookies. Up to two more
    /// lines hold secrets that are heeded but not used for new cookies; so the secret is changed
    /// without anybody noticing. Default: a secret of this process alone.
    pub cookie_secret_file: Option<PathBuf>,
    /// What this name server calls itself to those who ask (NSID, RFC 5001); at most 64 octets.
    /// Default: nothing.
    pub nsid: String,
    /// Limits against abuse.
    pub limits: Limits,
    /// DNS over TLS, HTTPS and QUIC. Off by default.
    pub tls: TlsConfig,
    /// Zone transfers to other name servers. Off by default.
    pub transfer: TransferConfig,
    /// A sample of the decisions, with reasons.
    pub decisions: DecisionsConfig,
    /// A Unix socket where this process gives its sockets to the one that follows it, which has the
    /// same setting: that one is started while this one answers, takes over, and no query is lost.
    /// No default: the ports have to be free at a start.
    pub handover: Option<PathBuf>,
}

/// Encrypted DNS: a certificate, and where to listen.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct TlsConfig {
    /// The certificate and those between it and a root, PEM. Read again on SIGHUP. No default.
    pub certificate: Option<PathBuf>,
    /// The certificate's private key, PEM. Read again on SIGHUP. No default.
    pub key: Option<PathBuf>,
    /// Addresses for DNS over TLS (RFC 7858), for example `0.0.0.0:853`. Default: none.
    pub dot: Vec<SocketAddr>,
    /// Addresses for DNS over HTTPS (RFC 8484), for example `0.0.0.0:443`. Default: none.
    pub doh: Vec<SocketAddr>,
    /// Addresses for DNS over QUIC (RFC 9250), for example `0.0.0.0:853`. Default: none.
    pub doq: Vec<SocketAddr>,
    /// The path of DNS over HTTPS. Default `/dns-query`.
    pub doh_path: String,
}

/// Who may transfer the zone's static part, and is told when it changes.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct TransferConfig {
    /// Files with a TSIG key each, as `tsig-keygen -a hmac-sha256 NAME` writes them. Read again on
    /// SIGHUP. Default: none.
    pub keys: Vec<PathBuf>,
    /// The other name servers. Default: none.
    pub secondaries: Vec<SecondaryConfig>,
}

/// Another name server for the zone.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct SecondaryConfig {
    /// Whence it asks for transfers, and where it is told of changes.
    pub address: IpAddr,
    /// The port where it is told of changes. Default 53.
    #[serde(default = "dns_port")]
    pub port: u16,
    /// The name of the key that it signs with, and that what is sent to it is signed with.
    pub key: String,
    /// Whether it is told of changes. Default true.
    #[serde(default = "yes")]
    pub notify: bool,
}

fn dns_port() -> u16 {
    53
}

fn yes() -> bool {
    true
}

/// What one source, and all together, may use.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Limits {
    /// UDP replies per second and source prefix (IPv4 /24, IPv6 /56); bursts of twice that. 0 turns
    /// the limit off. Default 1,000: a large public resolver's share of one small zone is below it,
    /// and a forged flood gets at most about 100 kB/s out of it. Clients that show a cookie of ours are
    /// not limited; replies to malformed packets are limited to 10 a second always.
    pub replies_per_second: u32,
    /// Beyond the limit every so-manieth reply goes out truncated, and the others not at all.
    /// 0 sends none. Default 2.
    pub slip: u32,
    /// So many source prefixes are counted apart. Default 65,536 (1 MiB).
    pub prefixes_max: usize,
    /// TCP connections at a time. One more takes the place of the one that has been without a whole
    /// query for longest. Default 1,024, at 3 kB each.
    pub tcp_connections_max: usize,
    /// TCP connections at a time from one source prefix (IPv4 /24, IPv6 /56), where one more takes the
    /// place of one from there; encrypted ones are counted apart. Default 64.
    pub tcp_connections_per_prefix_max: usize,
    /// Seconds a TCP connection may be silent, or take for one query, or take for its replies; for
    /// encrypted connections as well. Default 10.
    pub tcp_idle_secs: u32,
    /// Connections with DNS over TLS, HTTPS and QUIC at a time, together. Default 1,024, at about
    /// 10 to 25 kB each.
    pub tls_connections_max: usize,
}

impl Default for Config {
    fn default() -> Config {
        Config {
            listen: vec![(Ipv4Addr::UNSPECIFIED, 53).into(), (Ipv6Addr::UNSPECIFIED, 53).into()],
            workers: 0,
            fast_path: true,
            ttl_secs: 5,
            ttl_static_secs: 60,
            cookie_secret_file: None,
            nsid: String::new(),
            limits: Limits::default(),
            tls: TlsConfig::default(),
            transfer: TransferConfig::default(),
            decisions: DecisionsConfig::default(),
            handover: None,
        }
    }
}

impl Default for TlsConfig {
    fn default() -> TlsConfig {
        TlsConfig {
            certificate: None,
            key: None,
            dot: Vec::new(),
            doh: Vec::new(),
            doq: Vec::new(),
            doh_path: "/dns-query".into(),
        }
    }
}

impl TlsConfig {
    /// Whether anything encrypted is asked for.
    pub(crate) fn is_on(&self) -> bool {
        !(self.dot.is_empty() && self.doh.is_empty() && self.doq.is_empty())
    }
}

impl Default for Limits {
    fn default() -> Limits {
        Limits {
            replies_per_second: 1000,
            slip: 2,
            prefixes_max: 65_536,
            tcp_connections_max: 1024,
            tcp_connections_per_prefix_max: 64,
            tcp_idle_secs: 10,
            tls_connections_max: 1024,
        }
    }
}

impl Config {
    /// Every file that it names.
    pub(crate) fn paths_mut(&mut self) -> impl Iterator<Item = &mut PathBuf> {
        let Config { cookie_secret_file, tls, transfer, decisions, handover, .. } = self;
        [cookie_secret_file, &mut tls.certificate, &mut tls.key, &mut decisions.file, handover]
            .into_iter()
            .flatten()
            .chain(&mut transfer.keys)
    }

    /// How answers are made.
    pub fn options(&self) -> Options {
        let seconds = |count: u32| Duration::from_secs(count.into());
        Options { ttl: seconds(self.ttl_secs), ttl_static: seconds(self.ttl_static_secs) }
    }

    /// Whether [`Running::reload`](crate::Running::reload) makes all of `other` of this.
    pub fn can_become(&self, other: &Config) -> bool {
        let mut reloaded = self.clone();
        (reloaded.ttl_secs, reloaded.ttl_static_secs) = (other.ttl_secs, other.ttl_static_secs);
        reloaded.transfer = other.transfer.clone();
        reloaded.listen = other.listen.clone();
        reloaded.tls = TlsConfig { doh_path: self.tls.doh_path.clone(), ..other.tls.clone() };
        reloaded.limits = Limits { prefixes_max: self.limits.prefixes_max, ..other.limits.clone() };
        // Without a file at either time there is one random secret, which stays.
        if self.cookie_secret_file.is_some() && other.cookie_secret_file.is_some() {
            reloaded.cookie_secret_file = other.cookie_secret_file.clone();
        }
        reloaded == *other
    }

    /// At least one, and not more than a machine has use for.
    pub(crate) fn workers(&self) -> usize {
        let processors = std::thread::available_parallelism().map_or(1, |count| count.get());
        if self.workers == 0 { processors.min(64) } else { self.workers.min(64) }
    }
}

impl Limits {
    pub(crate) fn tcp_idle(&self) -> Duration {
        Duration::from_secs(self.tcp_idle_secs.max(1).into())
    }
}
