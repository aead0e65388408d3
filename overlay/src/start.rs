//! Starting: sockets, transports, the swarm, and the task that owns it.

use crate::address;
use crate::config::Config;
use crate::driver::{Behaviour, Command, Driver};
use crate::event::{Event, StartError, TransportKind};
use crate::identity;
use crate::path::Paths;
use crate::pending::Pending;
use crate::quic::{self, Sockets};
use crate::shared::{Shared, VERDICTS_MAX};
use crate::streams::Streams;
use crate::transports::Transports;
use libp2p::core::Transport;
use libp2p::core::upgrade::Version;
use libp2p::{Swarm, ping};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::mpsc;

/// An idle connection is kept for ever, or nearly: members stay connected.
const IDLE_MAX: Duration = Duration::from_secs(24 * 3600);

/// Ports tried before giving up on one that is free for both UDP and TCP.
const PORTS_TRIED: usize = 16;

/// What [`start`] leaves for the handle.
pub(crate) struct Started {
    pub(crate) shared: Arc<Shared>,
    pub(crate) addresses: Vec<SocketAddr>,
}

/// Listens, and starts the task.
pub(crate) fn start(
    config: Config,
    commands: mpsc::Receiver<Command>,
    weak_commands: mpsc::WeakSender<Command>,
    events: mpsc::Sender<Event>,
) -> Result<Started, StartError> {
    if config.certificate.member() != config.key.public() {
        return Err(StartError::Certificate);
    }
    install_crypto();
    let keypair = identity::keypair(&config.key).map_err(|e| StartError::Key(e.to_string()))?;
    let (report, verdicts) = mpsc::channel(VERDICTS_MAX);
    let shared = Arc::new(Shared::new(&config, report));
    let pending = Pending::new(config.limits.pending_per_source, config.limits.pending);
    let sockets = Sockets::default();
    let transports = Transports::new(
        &config.key,
        &keypair,
        config.paths,
        &config.limits,
        sockets.clone(),
        pending.clone(),
    )
    .map_err(StartError::Key)?;
    let behaviour = Behaviour {
        streams: Streams::new(shared.clone()),
        ping: ping::Behaviour::new(
            ping::Config::new()
                .with_interval(config.limits.ping_interval)
                .with_timeout(config.limits.ping_timeout),
        ),
    };
    let swarm_config = libp2p::swarm::Config::with_tokio_executor()
        .with_idle_connection_timeout(IDLE_MAX)
        .with_substream_upgrade_protocol_override(Version::V1Lazy)
        .with_max_negotiating_inbound_streams(2 * config.limits.inbound_streams as usize);
    let transport = Paths::new(transports, shared.clone(), pending).boxed();
    let mut swarm = Swarm::new(transport, behaviour, keypair.public().to_peer_id(), swarm_config);
    let addresses = listen(&mut swarm, &sockets, &config)?;
    let serves = (config.holder, config.moves);
    let driver = Driver::new(shared.clone(), swarm, sockets, serves, (weak_commands, events));
    tokio::spawn(driver.run(commands, verdicts));
    Ok(Started { shared, addresses })
}

/// One provider for all of TLS in the process; whoever was first keeps it.
pub(crate) fn install_crypto() {
    rustls::crypto::aws_lc_rs::default_provider().install_default().ok();
}

fn listen(
    swarm: &mut Swarm<Behaviour>,
    sockets: &Sockets,
    config: &Config,
) -> Result<Vec<SocketAddr>, StartError> {
    let mut free_port = 0;
    let mut addresses = Vec::new();
    for wanted in &config.listen {
        let mut tried = 0;
        let bound = loop {
            tried += 1;
            let port = if wanted.port() == 0 { free_port } else { wanted.port() };
            match listen_both(swarm, sockets, SocketAddr::new(wanted.ip(), port), config) {
                Ok(bound) => break bound,
                // A port that was free for UDP was not for TCP.
                Err(_) if port == 0 && tried < PORTS_TRIED => continue,
                Err(error) => return Err(error),
            }
        };
        if wanted.port() == 0 {
            free_port = bound.port();
        }
        addresses.push(bound);
    }
    Ok(addresses)
}

fn listen_both(
    swarm: &mut Swarm<Behaviour>,
    sockets: &Sockets,
    wanted: SocketAddr,
    config: &Config,
) -> Result<SocketAddr, StartError> {
    let refused = |address, transport| move |source| StartError::Listen { address, transport, source };
    // Also where only TCP is spoken: it settles the port.
    let socket =
        quic::bind(wanted, config.limits.udp_buffer).map_err(refused(wanted, TransportKind::Quic))?;
    let bound = socket.local_addr().map_err(refused(wanted, TransportKind::Quic))?;
    let mut listen_on = |transport| {
        swarm
            .listen_on(address::listen_address(bound, transport))
            .map(drop)
            .map_err(|error| std::io::Error::other(innermost(&error)))
            .map_err(refused(bound, transport))
    };
    if config.paths.has(TransportKind::Tcp) {
        listen_on(TransportKind::Tcp)?;
    }
    if config.paths.has(TransportKind::Quic) {
        sockets.put(socket);
        listen_on(TransportKind::Quic)?;
    }
    Ok(bound)
}

/// The first cause. The layers of transports around it say nothing, not even that they have one.
fn innermost(error: &dyn std::error::Error) -> String {
    match error.source() {
        Some(source) => innermost(source),
        None => error.to_string(),
    }
}
