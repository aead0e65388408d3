//! A client and two nodes, and what carries packets between them.

use super::PATIENCE;
use crate::namespace::NetworkNamespace;
use crate::offload::Train;
use crate::port::{BUFFER_LEN, Buffer, Ipv6, Port};
use crate::repair::{Frozen, State, restore};
use crate::sockets::Sockets;
use std::collections::VecDeque;
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

/// A client and two nodes, each in a namespace of its own; both nodes have the home address, and one of
/// them gets what the client sends.
pub(super) struct World {
    client: NetworkNamespace,
    pub(super) nodes: [NetworkNamespace; 2],
    home: IpAddr,
    router: Arc<Router>,
    thread: Option<thread::JoinHandle<()>>,
}

/// Packets between them, on a thread of its own.
pub(super) struct Router {
    /// Which node gets what the client sends; it waits when none does.
    to: Mutex<Option<usize>>,
    /// Packets with [`LOST`] in them are lost.
    loses: AtomicBool,
    resets: AtomicU64,
    stop: AtomicBool,
}

/// What a test writes that is to be lost.
pub(super) const LOST: &[u8] = b"lost";

impl World {
    pub(super) fn new(client: &str, home: &str) -> Option<World> {
        let home: IpAddr = home.parse().unwrap();
        let host = |address: IpAddr| {
            NetworkNamespace::create(|_| {
                // In a user namespace buffers are not set beyond `net.core.wmem_max`, but begin with this.
                std::fs::write("/proc/sys/net/ipv4/tcp_wmem", "4096 4194304 4194304")?;
                Port::tun(&[address])
            })
        };
        let made = [client.parse().unwrap(), home, home].map(host);
        if let Some(error) = made.iter().find_map(|made| made.as_ref().err()) {
            println!("SKIPPED: namespaces with TUN devices cannot be made here: {error}");
            return None;
        }
        let [client, a, b] = made.map(Result::unwrap);
        if home.is_ipv6() && client.1.1 == Ipv6::Absent {
            println!("SKIPPED: this host has no IPv6");
            return None;
        }
        let router = Arc::new(Router {
            to: Mutex::new(Some(0)),
            loses: AtomicBool::new(false),
            resets: AtomicU64::new(0),
            stop: AtomicBool::new(false),
        });
        let ports = [client.1.0, a.1.0, b.1.0];
        let thread = Some(thread::spawn({
            let router = router.clone();
            move || router.run(ports)
        }));
        Some(World { client: client.0, nodes: [a.0, b.0], home, router, thread })
    }

    pub(super) fn listen(&self, node: usize) -> TcpListener {
        self.listen_at(node, 0)
    }

    pub(super) fn listen_at(&self, node: usize, port: u16) -> TcpListener {
        self.nodes[node].run(|| TcpListener::bind((self.home, port))).unwrap()
    }

    pub(super) fn connect(&self, to: SocketAddr) -> TcpStream {
        let stream = self.client.run(|| TcpStream::connect_timeout(&to, PATIENCE)).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream.set_write_timeout(Some(PATIENCE)).unwrap();
        stream
    }

    pub(super) fn freeze(&self, node: usize, stream: TcpStream) -> Frozen {
        let freeze = || Ok(Frozen::freeze(&mut Sockets::open()?, stream));
        self.nodes[node].run(freeze).unwrap().unwrap()
    }

    pub(super) fn restore(
        &self,
        node: usize,
        [local, peer]: [SocketAddr; 2],
        state: &State,
        in_flight: &[u8],
    ) -> TcpStream {
        self.nodes[node].run(|| Ok(restore(local, peer, state, in_flight).unwrap())).unwrap()
    }

    /// No packet reaches a node from here on.
    pub(super) fn hold(&self) {
        *self.router.to.lock().unwrap() = None;
    }

    /// What waited and what comes goes to this node.
    pub(super) fn release(&self, node: usize) {
        *self.router.to.lock().unwrap() = Some(node);
    }

    /// Whether packets are lost, in either direction.
    pub(super) fn lose(&self, loses: bool) {
        self.router.loses.store(loses, Ordering::Relaxed);
    }

    /// Whether the connection that ends at a node lacks anything there.
    pub(super) fn lacks(&self, node: usize, from: SocketAddr, to: SocketAddr) -> bool {
        self.nodes[node].run(|| Sockets::open()?.lacks(from, to)).unwrap()
    }

    /// So many resets were sent by nodes.
    pub(super) fn resets(&self) -> u64 {
        self.router.resets.load(Ordering::Relaxed)
    }
}

impl Drop for World {
    fn drop(&mut self) {
        self.router.stop.store(true, Ordering::Relaxed);
        let ended = self.thread.take().map(thread::JoinHandle::join);
        assert!(thread::panicking() || ended.is_none_or(|ended| ended.is_ok()));
    }
}

impl Router {
    fn is_lost(&self, packet: &[u8]) -> bool {
        self.loses.load(Ordering::Relaxed) && packet.windows(LOST.len()).any(|part| part == LOST)
    }

    fn run(&self, [mut client, mut a, mut b]: [Port; 3]) {
        let mut buffer: Box<Buffer> = vec![0; BUFFER_LEN].into_boxed_slice().try_into().unwrap();
        let mut held = VecDeque::new();
        while !self.stop.load(Ordering::Relaxed) {
            let mut idle = true;
            for port in [&mut a, &mut b] {
                idle &= !port
                    .receive(&mut buffer, |train| {
                        if is_reset(train.packet) {
                            self.resets.fetch_add(1, Ordering::Relaxed);
                        }
                        // A full interface loses packets, as a path does.
                        if !self.is_lost(train.packet) {
                            let _ = client.send(train);
                        }
                    })
                    .unwrap();
            }
            let to = self.to.lock().unwrap();
            let mut nodes = [&mut a, &mut b];
            if let Some(node) = *to {
                while let Some((packet, offload)) = held.pop_front() {
                    let packet: Vec<u8> = packet;
                    let _ = nodes[node].send(Train { packet: &packet, offload });
                }
            }
            idle &= !client
                .receive(&mut buffer, |train| match *to {
                    _ if self.is_lost(train.packet) => {}
                    Some(node) => drop(nodes[node].send(train)),
                    None => held.push_back((train.packet.to_vec(), train.offload)),
                })
                .unwrap();
            drop(to);
            if idle {
                thread::sleep(Duration::from_micros(200));
            }
        }
    }
}

/// Whether a packet is a TCP segment that resets its connection.
fn is_reset(packet: &[u8]) -> bool {
    let (protocol, at) = if packet[0] >> 4 == 4 { (9, 20) } else { (6, 40) };
    packet[protocol] == 6 && packet[at + 13] & 4 != 0
}
