//! A redirector for a made-up network, to point `dig` or a load generator at.
//!
//! ```text
//! cargo run -p godwit-redirector --example made_up -- 127.0.0.1:5300
//! dig @127.0.0.1 -p 5300 www.edge.example.org +subnet=203.0.113.0/24
//! ```
//!
//! With a directory of keys as the second argument (`godwit dnssec generate --zone edge.example.org`)
//! the zone is signed.
//!
//! Instead of an address it takes a file with the settings that stand under `[redirector]` in a
//! member's configuration; SIGHUP reads it again. A second one with the same `handover` takes over.

use godwit_core::certificate::{Role, Serial};
use godwit_core::content::VersionNumber;
use godwit_core::geo::Coordinates;
use godwit_core::key::SecretKey;
use godwit_map::{Generation, GeoDb, Health, Inputs, MemberInput, SiteInput};
use godwit_redirector::{Config, Redirector, SharedView, Succession, Zone};
use prometheus_client::registry::Registry;
use std::error::Error;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::sync::Arc;
use tokio::signal::unix::{SignalKind, signal};

const CITIES: [(&str, f64, f64); 4] = [
    ("paris", 48.86, 2.35),
    ("tokyo", 35.69, 139.69),
    ("new-york", 40.71, -74.01),
    ("sydney", -33.87, 151.21),
];

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let argument = std::env::args().nth(1).unwrap_or_else(|| "127.0.0.1:5300".to_owned());
    let config = || -> Result<Config, Box<dyn Error>> {
        match argument.parse() {
            Ok(listen) => Ok(Config { listen: vec![listen], ..Config::default() }),
            Err(_) => Ok(toml::from_str(&std::fs::read_to_string(&argument)?)?),
        }
    };
    let members: Result<Vec<_>, _> = CITIES.iter().zip(1..).map(|(city, n)| member(city, n)).collect();
    let inputs = Inputs {
        members: members?,
        sites: vec![SiteInput::published("www".parse()?, VersionNumber(1))],
        ..Inputs::new("edge.example.org".parse()?)
    };
    // Paris has a /24 and Tokyo half of one; all others are unknown.
    let place = |city: usize| Coordinates::new(CITIES[city].1, CITIES[city].2);
    let geo = GeoDb::from_networks([
        ("203.0.113.0/24".parse()?, place(0)?),
        ("198.51.100.0/25".parse()?, place(1)?),
    ]);
    let generation = Arc::new(arc_swap::ArcSwap::from_pointee(Generation::compute(&inputs, &geo, None)));
    let mut registry = Registry::default();
    let zone = Zone::new(generation.load().zone(), config()?.options());
    let mut running = Redirector::start(config()?, SharedView::new(generation, zone), &mut registry).await?;
    println!("edge.example.org on {:?}; Ctrl-C stops", running.all_addresses());
    let mut hangup = signal(SignalKind::hangup())?;
    loop {
        tokio::select! {
            _ = tokio::signal::ctrl_c() => break,
            _ = hangup.recv() => match config().and_then(|config| Ok(running.reload(&config)?)) {
                Ok(()) => println!("reloaded"),
                Err(error) => println!("stays as it was: {error}"),
            },
            succession = running.succession() => match succession {
                Succession::Wanted(let_go) => let_go.done(),
                Succession::Heir(_) => {}
                Succession::Done => break,
                Succession::Failed => {}
            }
        }
    }
    running.shutdown().await;
    let mut metrics = String::new();
    prometheus_client::encoding::text::encode(&mut metrics, &registry)?;
    println!("{metrics}");
    Ok(())
}

fn member(city: &(&str, f64, f64), n: u8) -> Result<MemberInput, Box<dyn Error>> {
    Ok(MemberInput {
        id: SecretKey::from_seed(&[n; 32]).public(),
        serial: Serial(u64::from(n)),
        name: city.0.parse()?,
        region: city.0.parse()?,
        place: Some(Coordinates::new(city.1, city.2)?),
        roles: vec![Role::Node, Role::Redirector],
        state: Health::Alive,
        draining: false,
        ready: true,
        load_permille: 0,
        capacity: Default::default(),
        public_v4: Some(Ipv4Addr::new(198, 18, 0, n)),
        public_v6: Some(Ipv6Addr::new(0xfd67, 0, 0, 0, 0, 0, 0, u16::from(n))),
        http_port: Some(80),
        held: vec![("www".parse()?, VersionNumber(1))],
        peer_rtts: Vec::new(),
        certified: true,
        checks: Vec::new(),
    })
}
