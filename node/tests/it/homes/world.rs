//! Hosts around a router, each in a network namespace with a runtime of its own.

use super::agent::{self, Agent};
use crate::network::{Network, until, validity};
use godwit_core::certificate::{AddressGrant, Home, Invitation, Ports, Role, Serial};
use godwit_core::key::MemberId;
use godwit_core::record::Record;
use godwit_net::namespace::NetworkNamespace;
use godwit_net::netlink::{LinkSettings, Netlink, Route, Rule, interface_index};
use godwit_node::admin::api;
use godwit_node::datadir::DataDir;
use godwit_node::{Config, Leaving, Runtime, Settings, Sockets, clock};
use std::future::Future;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::AsFd;
use std::process::Command;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};

/// The port of members among themselves.
const PEERS: u16 = 4100;
/// The table of direct replies, as the node has it.
const TABLE: u32 = 0x676f;

/// Runs a test where namespaces can be made: here, or as root of a user namespace.
pub fn in_namespaces(name: &str, test: impl FnOnce()) {
    let tun = std::fs::OpenOptions::new().read(true).write(true).open("/dev/net/tun");
    if let Err(error) = tun {
        println!("SKIPPED: /dev/net/tun cannot be opened: {error}");
        return;
    }
    match NetworkNamespace::create(|_| Ok(())) {
        Ok(_) => return test(),
        Err(error) if std::env::var_os("IN_USER_NAMESPACE").is_some() => {
            println!("SKIPPED: no network namespace can be made: {error}");
            return;
        }
        Err(_) => {}
    }
    let run = Command::new("unshare")
        .args(["-Urn", "--"])
        .arg(std::env::current_exe().unwrap())
        .args([name, "--exact", "--nocapture"])
        .env("IN_USER_NAMESPACE", "1")
        .status();
    match run {
        Ok(status) => assert!(status.success(), "it failed in a user namespace"),
        Err(error) => println!("SKIPPED: unshare(1) does not run: {error}"),
    }
}

/// A host: its namespace, and a runtime whose threads are in it.
pub struct Host {
    namespace: NetworkNamespace,
    runtime: Option<tokio::runtime::Runtime>,
}

impl Host {
    /// A host with this number behind the router.
    fn new(router: &NetworkNamespace, name: &str, number: u8) -> Host {
        let (namespace, ()) = NetworkNamespace::create(|_| {
            for family in ["all", "default"] {
                std::fs::write(format!("/proc/sys/net/ipv4/conf/{family}/rp_filter"), "0")?;
            }
            Netlink::open()?.set_up(interface_index("lo")?, LinkSettings::default())
        })
        .unwrap();
        let settings = LinkSettings {
            // The same at both ends: without neighbours, frames carry the sender's own.
            hardware_address: Some([2, 0x67, 0x64, 9, 0, number]),
            no_arp: true,
            ..LinkSettings::default()
        };
        router
            .run(|| {
                let mut netlink = Netlink::open()?;
                netlink.add_veth(name, "wan0", namespace.as_fd())?;
                netlink.set_up(interface_index(name)?, settings)
            })
            .unwrap();
        namespace.run(|| Netlink::open()?.set_up(interface_index("wan0")?, settings)).unwrap();
        let mut host = Host { runtime: None, namespace };
        host.give(router, name, v4(number));
        host.give(router, name, v6(number));
        let entered = NetworkNamespace::open(&host.path()).unwrap();
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .enable_all()
            .on_thread_start(move || entered.enter().unwrap())
            .build()
            .unwrap();
        host.runtime = Some(runtime);
        host
    }

    fn path(&self) -> std::path::PathBuf {
        use std::os::fd::AsRawFd;
        format!("/proc/self/fd/{}", self.namespace.as_fd().as_raw_fd()).into()
    }

    /// Gives the host an address, and the router a route to it.
    fn give(&self, router: &NetworkNamespace, name: &str, address: IpAddr) {
        self.namespace
            .run(|| {
                let (mut netlink, index) = (Netlink::open()?, interface_index("wan0")?);
                netlink.add_address(index, address)?;
                netlink.add_default_route(index, address)
            })
            .unwrap();
        router.run(|| Netlink::open()?.add_route(&to_link(name, address)?)).unwrap();
    }

    fn take(&self, router: &NetworkNamespace, name: &str, address: IpAddr) {
        router.run(|| Netlink::open()?.remove_route(&to_link(name, address)?)).unwrap();
        self.namespace.run(|| Netlink::open()?.remove_address(interface_index("wan0")?, address)).unwrap();
    }

    /// Runs to its end what is done on the host.
    pub fn run<T: Send + 'static>(&self, task: impl Future<Output = T> + Send + 'static) -> T {
        let runtime = self.runtime.as_ref().unwrap();
        let task = runtime.spawn(task);
        match runtime.block_on(task) {
            Ok(done) => done,
            Err(error) => std::panic::resume_unwind(error.into_panic()),
        }
    }

    fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        self.runtime.as_ref().unwrap().spawn(task);
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_timeout(Duration::from_secs(5));
        }
    }
}

fn to_link(name: &str, address: IpAddr) -> io::Result<Route> {
    Ok(Route { destination: address.into(), interface: interface_index(name)?, gateway: None })
}

fn v4(number: u8) -> IpAddr {
    Ipv4Addr::new(10, 90, 0, number).into()
}

fn v6(number: u8) -> IpAddr {
    Ipv6Addr::new(0xfd90, 0, 0, 0, 0, 0, 0, number.into()).into()
}

/// A node of the network, on a host.
#[derive(Clone)]
pub struct Node {
    running: Arc<Mutex<Option<Arc<Runtime>>>>,
}

impl Node {
    pub fn runtime(&self) -> Arc<Runtime> {
        self.running.lock().unwrap().clone().unwrap()
    }
}

/// A host with a node.
pub struct NodeHost {
    host: Host,
    node: Node,
    dir: DataDir,
    pub address: IpAddr,
}

impl NodeHost {
    pub fn run<T: Send + 'static, F: Future<Output = T> + Send + 'static>(
        &self,
        task: impl FnOnce(Node) -> F,
    ) -> T {
        self.host.run(task(self.node.clone()))
    }

    pub fn member(&self) -> MemberId {
        self.dir.key().unwrap().unwrap().public()
    }
}

/// Everything.
pub struct World {
    network: Network,
    router: NetworkNamespace,
    pub client: Host,
    pub agent: Arc<Agent>,
    agent_host: Host,
    pub a: NodeHost,
    pub b: NodeHost,
}

impl World {
    pub fn new() -> World {
        let network = Network::new();
        let (router, ()) = NetworkNamespace::create(|_| {
            for family in ["all", "default"] {
                std::fs::write(format!("/proc/sys/net/ipv4/conf/{family}/rp_filter"), "0")?;
            }
            forward()
        })
        .unwrap();
        let client = Host::new(&router, "client", 1);
        let agent_host = Host::new(&router, "agent", 2);
        agent_host.namespace.run(forward).unwrap();
        for home in homes() {
            router.run(|| Netlink::open()?.add_route(&to_link("agent", home)?)).unwrap();
        }
        let place = |name: &str, number: u8| {
            let host = Host::new(&router, name, number);
            let dir = join(&network, name, number.into(), Role::Node);
            let node = Node { running: Arc::default() };
            NodeHost { host, node, dir, address: v4(number) }
        };
        let (a, b) = (place("a", 11), place("b", 12));
        let dir = join(&network, "agent", 2, Role::HomeAgent);
        let agent = Arc::new(Agent::default());
        let (running, path) = (agent.clone(), dir.path().to_owned());
        let runtime = agent_host.run(async move { start(&path, v4(2)).await });
        agent_host.spawn(agent::run(running, runtime, vec![v4(2), v6(2)], homes()));
        World { network, router, client, agent, agent_host, a, b }
    }

    /// The authority grants the home addresses to a name; where clients find the service.
    pub fn grant(&self, name: &str) -> Vec<SocketAddr> {
        let [IpAddr::V4(v4), IpAddr::V6(v6)] = homes()[..] else { unreachable!() };
        let ports = Ports::Only { tcp: vec![7000], udp: vec![7000] };
        let home = Home { v4: Some(v4), v6: Some(v6), ports, servers: Vec::new() };
        let key = &self.network.authority.key;
        let grant = AddressGrant::issue(clock::now(), key, name.parse().unwrap(), 1, Some(home));
        let record = Record::Address(Box::new(grant));
        let client = godwit_node::admin::Client::new(self.network.dir("agent").admin_socket());
        self.agent_host.run(async move { client.submit(&record).await }).unwrap();
        homes().into_iter().map(|home| SocketAddr::new(home, 7000)).collect()
    }

    pub fn start_node(&mut self, name: &str) {
        let node = self.node(name);
        let (path, address) = (node.dir.path().to_owned(), node.address);
        let runtime = node.host.run(async move { start(&path, address).await });
        *node.node.running.lock().unwrap() = Some(Arc::new(runtime));
    }

    /// The node's runtime, which nobody else uses any more.
    fn take_node(&self, name: &str) -> Runtime {
        let node = self.node(name);
        let mut shared = node.node.running.lock().unwrap().take();
        node.host.run(async move {
            let mut alone = None;
            until("nobody uses the runtime", || {
                match Arc::try_unwrap(shared.take().unwrap()) {
                    Ok(runtime) => alone = Some(runtime),
                    Err(used) => shared = Some(used),
                }
                std::future::ready(alone.is_some())
            })
            .await;
            alone.unwrap()
        })
    }

    /// The node lets go for another process, and carries packets until that is there.
    pub fn let_go(&self, name: &str) -> Leaving {
        let runtime = self.take_node(name);
        self.node(name).host.run(runtime.hand_over())
    }

    /// Another process follows on what the one before leaves.
    pub fn follow(&self, name: &str, leaving: Leaving) -> Leaving {
        let node = self.node(name);
        let (path, address) = (node.dir.path().to_owned(), node.address);
        let (runtime, leaving) = node.host.run(async move {
            let (leave, left) = tokio::sync::oneshot::channel();
            let sockets = Sockets { estate: Some(left), ..Sockets::default() };
            let runtime = Runtime::start_on(sockets, settings(&path, address)).await.unwrap();
            leave.send(leaving.estate().await.unwrap()).unwrap();
            (runtime, leaving)
        });
        *node.node.running.lock().unwrap() = Some(Arc::new(runtime));
        leaving
    }

    /// Stops the node, and starts it again in another runtime.
    pub fn restart_node(&mut self, name: &str) {
        let runtime = self.take_node(name);
        let node = self.node(name);
        node.host.spawn(runtime.shutdown());
        let path = node.dir.path().to_owned();
        // The lock goes with the old one.
        let address = node.address;
        let runtime = node.host.run(async move {
            loop {
                match Runtime::start(settings(&path, address)).await {
                    Ok(runtime) => break runtime,
                    Err(_) => tokio::time::sleep(Duration::from_millis(50)).await,
                }
            }
        });
        *node.node.running.lock().unwrap() = Some(Arc::new(runtime));
    }

    fn node(&self, name: &str) -> &NodeHost {
        if name == "a" { &self.a } else { &self.b }
    }

    /// New flows go there.
    pub fn choose(&self, node: &NodeHost) {
        self.agent.choose(node.member());
    }

    /// The host has another address now, and the old one is dead.
    pub fn roam(&mut self, name: &str) {
        let node = self.node(name);
        node.host.give(&self.router, name, v4(111));
        node.host.take(&self.router, name, node.address);
        self.a.address = v4(111);
    }

    /// Whether the router drops what does not come from where it would go, on the link of a host.
    pub fn filter_sources(&self, name: &str, filter: bool) {
        let setting = format!("/proc/sys/net/ipv4/conf/{name}/rp_filter");
        self.router.run(|| std::fs::write(setting, if filter { "1" } else { "0" })).unwrap();
    }

    /// Leaves a rule behind, as a process does that is killed.
    pub fn stale_rule(&self, name: &str) {
        self.node(name).host.namespace.run(|| Netlink::open()?.add_rule(&STALE)).unwrap();
    }

    pub fn has_stale_rule(&self, name: &str) -> bool {
        let rules = self.node(name).host.namespace.run(|| Netlink::open()?.rules(TABLE)).unwrap();
        rules.contains(&STALE)
    }
}

const STALE: Rule =
    Rule { priority: 5201, from: IpAddr::V4(Ipv4Addr::new(192, 0, 2, 99)), mark: 0, table: TABLE };

/// Serves a name through the node's own endpoint, and waits until it is bound or it is clear why not.
pub async fn serve(node: &Node, name: &str, to: Option<&str>) -> api::Served {
    let serve = api::Serve {
        name: name.into(),
        to: to.map(|to| to.parse().unwrap()),
        proxy_protocol: false,
        local: false,
        stop: false,
        wait_ms: 60_000,
    };
    node.runtime().client().serve(&serve).await.unwrap()
}

/// Serves a name that is granted, until it is bound.
pub async fn served(node: &Node, name: &str, to: Option<&str>) {
    until("the node is bound", || async { !serve(node, name, to).await.bound_at.is_empty() }).await;
}

/// A program that repeats what it hears, with its name before it, over TCP and UDP.
pub fn echo(host: &NodeHost, name: &'static str, at: &'static str) {
    host.run(|_| async move {
        let socket = match tokio::net::UdpSocket::bind(at).await {
            Ok(socket) => socket,
            // It runs already.
            Err(error) if error.kind() == io::ErrorKind::AddrInUse => return,
            Err(error) => panic!("{error}"),
        };
        let listener = tokio::net::TcpListener::bind(at).await.unwrap();
        tokio::spawn(async move {
            let mut datagram = [0; 256];
            while let Ok((len, from)) = socket.recv_from(&mut datagram).await {
                let answer = [name.as_bytes(), b" ", &datagram[..len]].concat();
                let _ = socket.send_to(&answer, from).await;
            }
        });
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(async move {
                    let (read, mut write) = stream.into_split();
                    let mut lines = BufReader::new(read).lines();
                    while let Ok(Some(line)) = lines.next_line().await {
                        let answer = format!("{name} {line}\n");
                        if write.write_all(answer.as_bytes()).await.is_err() {
                            return;
                        }
                    }
                });
            }
        });
    });
}

fn homes() -> Vec<IpAddr> {
    vec!["192.0.2.1".parse().unwrap(), "2001:db8:1::1".parse().unwrap()]
}

fn forward() -> io::Result<()> {
    std::fs::write("/proc/sys/net/ipv4/ip_forward", "1")?;
    std::fs::write("/proc/sys/net/ipv6/conf/all/forwarding", "1")
}

/// A directory that has joined; everybody knows the home agent's address.
fn join(network: &Network, name: &str, serial: u64, role: Role) -> DataDir {
    let dir = network.dir(name);
    dir.create().unwrap();
    let key = dir.key_or_new().unwrap();
    let invitation = Invitation {
        serial: Serial(1000 + serial),
        name: name.parse().unwrap(),
        region: format!("r-{name}").parse().unwrap(),
        place: None,
        roles: vec![role],
        validity: validity(),
        redeem_by: clock::now() + Duration::from_secs(900),
        founder: true,
        bootstrap: Vec::new(),
    };
    let token = network.authority.invite(invitation, &[serial as u8; 32]);
    let certificate = token.redeem(clock::now(), key.public()).sponsor(clock::now(), &key);
    dir.write_certificate(&certificate).unwrap();
    dir.write_bootstrap(&[SocketAddr::new(v4(2), PEERS)]).unwrap();
    dir
}

fn settings(path: &std::path::Path, address: IpAddr) -> Settings {
    let mut config = Config::default();
    config.overlay.listen = vec![SocketAddr::new(Ipv4Addr::UNSPECIFIED.into(), PEERS)];
    config.overlay.advertise = vec![SocketAddr::new(address, PEERS)];
    config.http.listen = vec!["127.0.0.1:0".parse().unwrap()];
    Settings::new(path, config)
}

async fn start(path: &std::path::Path, address: IpAddr) -> Runtime {
    Runtime::start(settings(path, address)).await.unwrap()
}
