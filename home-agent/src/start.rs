//! A running home agent: the device, the sockets and the task, started and stopped in order.

use crate::announcing::{Announcing, KernelRoutes, Told};
use crate::config::Config;
use crate::driver::{Command, Driver};
use crate::keys::Keys;
use crate::left::{self, Life, Resumed};
use crate::metrics::Metrics;
use crate::steering::Steering;
use crate::table::Table;
use crate::unreachable::Unreachable;
use crate::view::{FlowView, View};
use crate::world::{Heard, Peers, World};
use godwit_core::announce::Announcer;
use godwit_core::binding::cache::Cache;
use godwit_core::binding::message::TUNNELS_MAX;
use godwit_core::binding::{Incarnation, Pace};
use godwit_core::flow::table::FlowTable;
use godwit_core::time::Time;
use godwit_map::Shared;
use godwit_net::estate::Estate;
use godwit_net::tunnel::{self, Engine, Side, Tun, TunConfig};
use prometheus_client::registry::Registry;
use std::io;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::{Arc, Mutex};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

/// Questions that wait for the task.
const COMMANDS_MAX: usize = 16;

/// What a home agent is started with.
pub struct Settings {
    /// How it tunnels and announces.
    pub config: Config,
    /// The addresses by which other members reach this host, for what is told to nodes.
    pub public: Vec<IpAddr>,
    /// How paths to nodes are watched; other than the default only in tests.
    pub pace: Pace,
    /// The one map.
    pub generations: Shared,
    /// What the network says of home addresses.
    pub world: watch::Receiver<Arc<World>>,
    /// What members say.
    pub heard: mpsc::Receiver<Heard>,
    /// How they are answered.
    pub peers: Arc<dyn Peers>,
    /// Where metrics are registered.
    pub registry: Arc<Mutex<Registry>>,
    /// The time.
    pub clock: fn() -> Time,
    /// What the process before this one has left.
    pub estate: Option<Estate>,
}

/// Why a home agent could not be started. Nothing was changed.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// A value of the configuration cannot be.
    #[error("home_agent.{key}: {problem}")]
    Config {
        /// Which.
        key: &'static str,
        /// What is wrong with it.
        problem: String,
    },
    /// The kernel does not let it.
    #[error(
        "the home agent may not make the TUN device {interface}: it needs CAP_NET_ADMIN (under systemd \
         `AmbientCapabilities=CAP_NET_ADMIN`) and /dev/net/tun"
    )]
    Forbidden {
        /// The device.
        interface: String,
        /// What the kernel says.
        #[source]
        error: io::Error,
    },
    /// The device cannot be made.
    #[error("the TUN device {interface} cannot be made")]
    Device {
        /// The device.
        interface: String,
        /// What the kernel says.
        #[source]
        error: io::Error,
    },
    /// Packets of clients would never come to the tunnel.
    #[error(
        "this host does not forward packets, so none would reach the tunnel: set {setting} to 1 (sysctl -w)"
    )]
    NoForwarding {
        /// The kernel's setting.
        setting: &'static str,
    },
    /// An address cannot be listened on.
    #[error("cannot listen for tunnels on {address}")]
    Listen {
        /// Which.
        address: SocketAddr,
        /// What the kernel says.
        #[source]
        error: io::Error,
    },
    /// No thread, no random number, no netlink.
    #[error("the tunnel cannot be started")]
    Tunnel(#[from] io::Error),
}

/// A running home agent. Dropping it ends it as a crash would.
pub struct Running {
    addresses: Vec<SocketAddr>,
    commands: mpsc::Sender<Command>,
    stop: CancellationToken,
    task: Option<JoinHandle<()>>,
    engine: Arc<Engine>,
}

/// Starts a home agent in the calling thread's network namespace. When this returns it accepts binding
/// updates; it draws traffic when it knows the nodes.
pub async fn start(settings: Settings) -> Result<Running, StartError> {
    let Settings { config, public, pace, generations, world, heard, peers, registry, clock, estate } =
        settings;
    config.check().map_err(|(key, problem)| StartError::Config { key, problem })?;
    let now = clock();
    let (device, sockets, tunnel_keys, life) = match resume(now, &config, estate) {
        Some(Resumed { device, sockets, keys, life }) => (adopt(&config, device)?, sockets, keys, life),
        None => {
            let device = device(&config)?;
            (device, listen(&config.listen)?, Vec::new(), begin(now, pace)?)
        }
    };
    let tun = Arc::new(device);
    forwards()?;
    let Life { mut cache, flows, announcer, keys, told: announced, settled } = life;
    let addresses = sockets.iter().map(UdpSocket::local_addr).collect::<io::Result<Vec<_>>>()?;
    let routes = KernelRoutes::new(tun.index())?;
    let (unreachable, denied) = Unreachable::new();
    let steering = Arc::new(Steering::new(unreachable));
    // Packets may have waited: they are steered at once.
    let mut table = Table::new(&world.borrow(), &cache, &keys);
    table.now = Arc::new(table.choices(&generations.load_full()));
    steering.table.store(Arc::new(table));
    steering.moved.change(flows.iter().map(|(flow, owner)| (*flow, Some(owner))));
    let side = tunnel::Config::new(Side::HomeAgent);
    let (engine, events) = Engine::resume(side, tun, sockets, steering.clone(), tunnel_keys)?;
    let engine = Arc::new(engine);
    let told = advertised(&config, &public, &addresses);
    if told.is_empty() {
        tracing::warn!(
            "no address of the tunnel is known to nodes: set home_agent.advertise or node.public_v4"
        );
    }
    cache.receive_at(told.clone());
    let metrics = Arc::new(Metrics::default());
    metrics.register(&registry, &steering, &engine);
    let (commands, orders) = mpsc::channel(COMMANDS_MAX);
    let stop = CancellationToken::new();
    let mut announcing = Announcing::new(config.announce.clone(), config.interface.clone(), Box::new(routes));
    announcing.resume(announced);
    metrics.settled.set(i64::from(settled));
    let driver = Driver {
        clock,
        announcer,
        cache,
        flows,
        keys,
        settled,
        announcing: Arc::new(Mutex::new(announcing)),
        engine: engine.clone(),
        events,
        denied,
        steering,
        world,
        generations,
        heard,
        peers,
        commands: orders,
        metrics,
        config,
        stop: stop.clone(),
    };
    tracing::info!(interface = driver.config.interface, listen = ?addresses, told = ?told, "home agent");
    let task = Some(tokio::spawn(driver.run()));
    Ok(Running { addresses, commands, stop, task, engine })
}

impl Running {
    /// Where the tunnel listens, ports filled in.
    pub fn addresses(&self) -> &[SocketAddr] {
        &self.addresses
    }

    /// What is there; `None` when it has ended.
    pub async fn view(&self) -> Option<View> {
        Viewer(self.commands.clone()).view().await
    }

    /// Asks it later, from elsewhere.
    pub fn viewer(&self) -> Viewer {
        Viewer(self.commands.clone())
    }

    /// Another process is about to follow: packets are carried on by what is known now.
    pub async fn carry_on(&self) {
        let (reply, done) = oneshot::channel();
        if self.commands.send(Command::CarryOn(reply)).await.is_ok() {
            let _ = done.await;
        }
    }

    /// Ends, and leaves everything to the process that follows. Nothing is withdrawn.
    pub async fn hand_over(self) -> Option<Estate> {
        let (reply, left) = oneshot::channel();
        self.commands.send(Command::HandOver(reply)).await.ok()?;
        left.await.ok().flatten()
    }

    /// Withdraws what is announced, and then ends the tunnel.
    pub async fn shutdown(mut self) {
        self.stop.cancel();
        if let Some(task) = self.task.take() {
            // A panic in it was told already.
            let _ = task.await;
        }
        let engine = self.engine.clone();
        drop(self);
        // Threads are waited for.
        let _ = tokio::task::spawn_blocking(move || drop(engine)).await;
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

/// Asks a home agent what is there.
#[derive(Clone)]
pub struct Viewer(mpsc::Sender<Command>);

impl Viewer {
    /// What is there; `None` when it has ended.
    pub async fn view(&self) -> Option<View> {
        let (reply, answer) = oneshot::channel();
        self.0.send(Command::View(reply)).await.ok()?;
        answer.await.ok()
    }

    /// The flows that passed lately, at most so many; `None` when it has ended.
    pub async fn flows(&self, max: usize) -> Option<Vec<FlowView>> {
        let (reply, answer) = oneshot::channel();
        self.0.send(Command::Flows(max, reply)).await.ok()?;
        answer.await.ok()
    }
}

/// What was left, if it can be gone on with.
fn resume(now: Time, config: &Config, estate: Option<Estate>) -> Option<Resumed> {
    left::resume(now, config, estate?)
        .inspect_err(|problem| tracing::warn!(problem, "a new life begins: what was left is of no use"))
        .ok()
}

/// A new life.
fn begin(now: Time, pace: Pace) -> io::Result<Life> {
    let incarnation = Incarnation(u64::from_le_bytes(random()?));
    let cache = Cache::new(now, random()?, incarnation, pace);
    Ok(Life {
        announcer: Announcer::new(cache.settled_at()),
        cache,
        flows: FlowTable::new(now, incarnation),
        keys: Keys::default(),
        told: Told::default(),
        settled: false,
    })
}

fn device(config: &Config) -> Result<Tun, StartError> {
    made(config, Tun::create(&wanted(config)))
}

fn adopt(config: &Config, queues: Vec<OwnedFd>) -> Result<Tun, StartError> {
    made(config, Tun::adopt(&wanted(config), queues))
}

fn wanted(config: &Config) -> TunConfig {
    TunConfig { queues: config.queues, ..TunConfig::new(&config.interface, config.mtu) }
}

fn made(config: &Config, tun: io::Result<Tun>) -> Result<Tun, StartError> {
    tun.map_err(|error| {
        let interface = config.interface.clone();
        match error.kind() {
            io::ErrorKind::PermissionDenied => StartError::Forbidden { interface, error },
            _ => StartError::Device { interface, error },
        }
    })
}

/// Whether the host forwards IPv4 packets; that it does not forward IPv6 is only told, as it may have
/// none.
fn forwards() -> Result<(), StartError> {
    let on = |path: &str| {
        // Where it cannot be read, it is not known to be off.
        std::fs::read_to_string(Path::new("/proc/sys/net").join(path)).map_or(true, |text| text.trim() != "0")
    };
    if !on("ipv4/ip_forward") {
        return Err(StartError::NoForwarding { setting: "net.ipv4.ip_forward" });
    }
    if !on("ipv6/conf/all/forwarding") {
        tracing::warn!(
            "this host does not forward IPv6 packets: IPv6 home addresses need net.ipv6.conf.all.forwarding = 1"
        );
    }
    Ok(())
}

/// Opens the sockets. A family that the host does not have is left out, if another one is left.
fn listen(addresses: &[SocketAddr]) -> Result<Vec<UdpSocket>, StartError> {
    let mut sockets = Vec::new();
    for address in addresses {
        match bind(*address) {
            Ok(socket) => sockets.push(socket),
            Err(error) if absent(&error) && addresses.len() > 1 && address.ip().is_unspecified() => {
                tracing::warn!(%address, "not listened on: the host has no such addresses");
            }
            Err(error) => return Err(StartError::Listen { address: *address, error }),
        }
    }
    Ok(sockets)
}

fn bind(address: SocketAddr) -> io::Result<UdpSocket> {
    use socket2::{Domain, Protocol, Socket, Type};
    let socket = Socket::new(Domain::for_address(address), Type::DGRAM, Some(Protocol::UDP))?;
    if address.is_ipv6() {
        // The other family has a socket of its own.
        socket.set_only_v6(true)?;
    }
    socket.bind(&address.into())?;
    Ok(socket.into())
}

fn absent(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::Unsupported | io::ErrorKind::AddrNotAvailable)
        || rustix::io::Errno::from_io_error(error) == Some(rustix::io::Errno::AFNOSUPPORT)
}

/// Where nodes are told that the tunnel is.
fn advertised(config: &Config, public: &[IpAddr], listen: &[SocketAddr]) -> Vec<SocketAddr> {
    if !config.advertise.is_empty() {
        return config.advertise.clone();
    }
    let mut told: Vec<SocketAddr> = Vec::new();
    for address in listen {
        let here: Vec<IpAddr> = match address.ip().is_unspecified() {
            true => public.iter().copied().filter(|ip| ip.is_ipv4() == address.is_ipv4()).collect(),
            false => vec![address.ip()],
        };
        told.extend(here.into_iter().map(|ip| SocketAddr::new(ip, address.port())));
    }
    told.truncate(TUNNELS_MAX);
    told
}

/// What nobody can guess.
fn random<const LEN: usize>() -> io::Result<[u8; LEN]> {
    let mut bytes = [0; LEN];
    getrandom::fill(&mut bytes).map_err(|error| io::Error::other(error.to_string()))?;
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nodes_are_told_addresses_that_packets_can_be_sent_to() {
        let at = |text: &str| text.parse::<SocketAddr>().unwrap();
        let public: Vec<IpAddr> = vec!["192.0.2.5".parse().unwrap(), "2001:db8::5".parse().unwrap()];
        let told = |config: Config, listen: &[&str]| {
            let listen: Vec<SocketAddr> = listen.iter().map(|text| at(text)).collect();
            advertised(&config, &public, &listen)
        };
        assert_eq!(
            told(Config::default(), &["0.0.0.0:4191", "[::]:4191"]),
            [at("192.0.2.5:4191"), at("[2001:db8::5]:4191")]
        );
        assert_eq!(told(Config::default(), &["198.51.100.1:99"]), [at("198.51.100.1:99")]);
        let config = Config { advertise: vec![at("203.0.113.9:1")], ..Config::default() };
        assert_eq!(told(config, &["0.0.0.0:4191"]), [at("203.0.113.9:1")]);
    }
}
