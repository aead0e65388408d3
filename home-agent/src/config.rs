//! The home agent's part of a configuration file.

use ipnet::IpNet;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::PathBuf;

/// Where tunnels end when nothing else is said: the port that RFC 5555 has for Mobile IP in UDP.
pub(crate) const PORT: u16 = 4191;

/// How the home agent tunnels and announces.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// Addresses that the tunnel listens on. Nodes must reach them; a firewall must let UDP in there.
    /// Default: port 4191 on all addresses.
    pub listen: Vec<SocketAddr>,
    /// Where nodes reach the tunnel, when that differs from `listen`: behind a translator, or where
    /// `listen` is all addresses and the host has several. At most 4. Default: the public addresses of
    /// this member with the ports of `listen`.
    pub advertise: Vec<SocketAddr>,
    /// The name of the TUN device. Default `godwit0`.
    pub interface: String,
    /// The largest packet that is tunnelled, octets. Default 1,420: what fits into paths of 1,500 over
    /// IPv4 and IPv6. Larger ones are answered as routers do, and segments of TCP are kept below it.
    pub mtu: u16,
    /// Threads that take packets of clients out of the device. Default 1: some Gbit/s.
    pub queues: usize,
    /// Who else is told which home addresses are here. Default: nobody; the host's own routes are set
    /// either way.
    pub announce: AnnounceConfig,
}

/// Who is told which home addresses are here, beside the host's own routes.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct AnnounceConfig {
    /// Prefixes that are announced in the place of the home addresses in them, while one of these is: routers
    /// of the Internet hear of nothing longer than a /24 or a /48. What comes for other addresses of a prefix is
    /// denied. Default: each home address by itself.
    #[schemars(with = "Vec<String>")]
    pub prefixes: Vec<IpNet>,
    /// BIRD: files of static routes that its configuration includes. Default: none.
    pub bird: Option<BirdConfig>,
    /// ExaBGP: the pipe that it reads commands from. Default: none.
    pub exabgp: Option<PathBuf>,
}

/// Files that BIRD includes in a static protocol, and how it is told to read them again.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct BirdConfig {
    /// Where the routes of IPv4 are written. No default: IPv4 is not announced without.
    #[serde(default)]
    pub v4: Option<PathBuf>,
    /// Where the routes of IPv6 are written. No default: IPv6 is not announced without.
    #[serde(default)]
    pub v6: Option<PathBuf>,
    /// The command that makes BIRD read them. Default `birdc configure`.
    #[serde(default = "birdc")]
    pub command: Vec<String>,
}

fn birdc() -> Vec<String> {
    vec!["birdc".into(), "configure".into()]
}

impl Default for Config {
    fn default() -> Config {
        Config {
            listen: vec![
                SocketAddr::from((Ipv4Addr::UNSPECIFIED, PORT)),
                SocketAddr::from((Ipv6Addr::UNSPECIFIED, PORT)),
            ],
            advertise: Vec::new(),
            interface: "godwit0".into(),
            mtu: 1420,
            queues: 1,
            announce: AnnounceConfig::default(),
        }
    }
}

impl Config {
    /// Checks what types cannot; gives the key and what is wrong with its value.
    pub fn check(&self) -> Result<(), (&'static str, String)> {
        if self.listen.is_empty() {
            return Err(("listen", "a tunnel has to end somewhere".into()));
        }
        if self.advertise.len() > godwit_core::binding::message::TUNNELS_MAX {
            let max = godwit_core::binding::message::TUNNELS_MAX;
            return Err(("advertise", format!("{} addresses where {max} are told", self.advertise.len())));
        }
        if let Some(bad) = self.advertise.iter().find(|at| at.ip().is_unspecified() || at.port() == 0) {
            return Err(("advertise", format!("{bad} is nowhere that packets can be sent to")));
        }
        if self.interface.is_empty() || self.interface.len() > 15 || self.interface.contains(['/', ' ']) {
            return Err(("interface", "an interface's name has 1 to 15 octets, no / and no blank".into()));
        }
        if !(1280..=9000).contains(&self.mtu) {
            return Err(("mtu", format!("{} is not between 1280 and 9000", self.mtu)));
        }
        if !(1..=64).contains(&self.queues) {
            return Err(("queues", format!("{} is not between 1 and 64", self.queues)));
        }
        if let Some(bad) = self.announce.prefixes.iter().find(|prefix| **prefix != prefix.trunc()) {
            return Err((
                "announce.prefixes",
                format!("{bad} has more bits than its length: {}", bad.trunc()),
            ));
        }
        if let Some(bad) = self.announce.prefixes.iter().find(|prefix| prefix.prefix_len() == 0) {
            return Err(("announce.prefixes", format!("{bad} is everything")));
        }
        match &self.announce.bird {
            Some(bird) if bird.command.is_empty() => Err(("announce.bird", "the command is empty".into())),
            Some(bird) if bird.v4.is_none() && bird.v6.is_none() => {
                Err(("announce.bird", "neither v4 nor v6 says where routes are written".into()))
            }
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_default_is_right_and_what_cannot_work_is_told_by_its_key() {
        assert_eq!(Config::default().check(), Ok(()));
        let wrong = |change: fn(&mut Config)| {
            let mut config = Config::default();
            change(&mut config);
            config.check().unwrap_err().0
        };
        assert_eq!(wrong(|c| c.listen.clear()), "listen");
        assert_eq!(wrong(|c| c.advertise = vec!["0.0.0.0:4191".parse().unwrap()]), "advertise");
        assert_eq!(wrong(|c| c.advertise = vec!["192.0.2.1:4191".parse().unwrap(); 5]), "advertise");
        assert_eq!(wrong(|c| c.interface = "a-name-of-16-long".into()), "interface");
        assert_eq!(wrong(|c| c.mtu = 100), "mtu");
        assert_eq!(wrong(|c| c.queues = 0), "queues");
        let bird = BirdConfig { v4: None, v6: None, command: birdc() };
        let announce = AnnounceConfig { bird: Some(bird), ..AnnounceConfig::default() };
        let config = Config { announce, ..Config::default() };
        assert_eq!(config.check().unwrap_err().0, "announce.bird");
        let prefixes = |prefix: &str| {
            let announce =
                AnnounceConfig { prefixes: vec![prefix.parse().unwrap()], ..AnnounceConfig::default() };
            Config { announce, ..Config::default() }.check().map_err(|(key, _)| key)
        };
        assert_eq!(prefixes("192.0.2.0/24"), Ok(()));
        assert_eq!(prefixes("192.0.2.1/24"), Err("announce.prefixes"));
        assert_eq!(prefixes("::/0"), Err("announce.prefixes"));
    }
}
