//! What an owner may do with packets: hold them and let them go, and pass them on to another node, once.

use crate::in_own_network;
use crate::world::{End, HOME_V4, MTU, Return, end, ip, is_home, key, wait, world};
use godwit_core::tunnel::{Cipher, KeyId, TunnelKey};
use godwit_net::netlink::Netlink;
use godwit_net::tunnel::{Inward, Kept, Outward, Passing, Reason, Side, Steer, Way};
use std::net::{SocketAddr, UdpSocket};
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex};
use std::time::Duration;

const PATIENCE: Duration = Duration::from_secs(30);
/// Between the nodes.
const RELAY: TunnelKey = TunnelKey { id: KeyId(99), to_node: [5; 32], from_node: [6; 32] };

#[derive(Clone, Copy)]
enum Mode {
    Deliver,
    Hold,
    Relay(SocketAddr),
    Ask(SocketAddr),
}

/// A node that does as it is told.
struct Told {
    mode: Mutex<Mode>,
    held: Mutex<Vec<Kept>>,
    /// So many packets said who owned their flows before, and so many that they were relayed.
    before: AtomicUsize,
    relayed: AtomicUsize,
}

impl Told {
    fn new(mode: Mode) -> Arc<Told> {
        let (before, relayed) = (AtomicUsize::new(0), AtomicUsize::new(0));
        Arc::new(Told { mode: Mutex::new(mode), held: Mutex::default(), before, relayed })
    }

    fn set(&self, mode: Mode) {
        *self.mode.lock().unwrap() = mode;
    }
}

impl Steer for Told {
    fn outward(&self, _: &Passing<'_>) -> Outward {
        Outward::Drop(Reason::Filtered)
    }

    fn inward(&self, _: KeyId, _: SocketAddr, packet: &Passing<'_>) -> Inward {
        self.before.fetch_add(usize::from(packet.before == Some(3)), Relaxed);
        self.relayed.fetch_add(usize::from(packet.relayed), Relaxed);
        let mode = *self.mode.lock().unwrap();
        match mode {
            _ if !is_home(packet.packet.destination) => Inward::Drop(Reason::Foreign),
            Mode::Deliver => Inward::Deliver,
            Mode::Hold => {
                self.held.lock().unwrap().push(packet.keep());
                Inward::Taken
            }
            Mode::Relay(to) => Inward::Relay { key: RELAY.id, to, before: None },
            Mode::Ask(to) => Inward::Relay { key: RELAY.id, to, before: packet.before },
        }
    }
}

#[test]
fn held_let_go_and_passed_on() {
    in_own_network("steered::held_let_go_and_passed_on", || {
        // The home agent and the cables of the usual world; its node steps aside for two of ours.
        let world = world(false, Cipher::Aes256Gcm, true, Return::Direct);
        drop(world.node);
        let (first, second) = (Told::new(Mode::Deliver), Told::new(Mode::Deliver));
        let a = node(&world.cables.node, "10.2.0.2:4191", first.clone());
        a.engine.install(key(), Side::Node, Cipher::Aes256Gcm, MTU).unwrap();
        // Who gives packets on seals "to node" with the key that the other gave it.
        a.engine.install(RELAY, Side::HomeAgent, Cipher::ChaCha20Poly1305, MTU).unwrap();
        let server = socket(&world.cables.node, HOME_V4);
        // The second node stands where the client is: any host will do.
        let b = node(&world.cables.client, "10.1.0.2:4191", second.clone());
        b.engine.install(RELAY, Side::Node, Cipher::ChaCha20Poly1305, MTU).unwrap();
        // It has the home address too, so packets for it are sent from the home agent's host.
        let client = world.cables.home_agent.run(|| UdpSocket::bind("10.2.0.1:0")).unwrap();
        let server_b = socket(&world.cables.client, HOME_V4);
        let to = SocketAddr::new(ip(HOME_V4), server.local_addr().unwrap().port());
        let to_b = SocketAddr::new(ip(HOME_V4), server_b.local_addr().unwrap().port());

        let send = |to, numbers: std::ops::Range<u8>| {
            for number in numbers {
                client.send_to(&[number; 50], to).unwrap();
            }
        };
        send(to, 0..10);
        check(&server, 0..10, None);
        assert_eq!(first.before.load(Relaxed), 10, "who owned the flow before is told");

        first.set(Mode::Hold);
        a.engine.barrier();
        send(to, 10..30);
        wait(|| first.held.lock().unwrap().len() == 20, &a);
        first.set(Mode::Deliver);
        a.engine.barrier();
        a.engine.inject(&std::mem::take(&mut *first.held.lock().unwrap()));
        check(&server, 10..30, None);

        // Passed on as they come, and one hop less: no router has counted it.
        first.set(Mode::Relay(b.address));
        a.engine.barrier();
        send(to_b, 30..40);
        check(&server_b, 30..40, Some(63));
        // And what was held is passed on in its order.
        first.set(Mode::Hold);
        send(to_b, 40..50);
        wait(|| first.held.lock().unwrap().len() == 10, &a);
        let held = std::mem::take(&mut *first.held.lock().unwrap());
        let way = Way { key: RELAY.id, to: b.address, before: None, relayed: true };
        a.engine.pass(&way, &held);
        check(&server_b, 40..50, None);
        assert_eq!(second.relayed.load(Relaxed), 20);

        // Nothing is passed on twice.
        second.set(Mode::Relay(a.address));
        b.engine.barrier();
        first.set(Mode::Relay(b.address));
        send(to_b, 50..60);
        wait(|| b.engine.counts().dropped[&Reason::Loop] == 10, &b);
        assert_eq!(b.engine.counts().relayed, 0);
        // Nor is a question passed on as one.
        second.set(Mode::Ask(a.address));
        b.engine.barrier();
        first.set(Mode::Ask(b.address));
        send(to_b, 60..70);
        wait(|| b.engine.counts().dropped[&Reason::Loop] == 20, &b);
        assert_eq!(b.engine.counts().relayed, 0);
        // It may be given back, and that is the end of it.
        second.set(Mode::Relay(a.address));
        b.engine.barrier();
        send(to_b, 70..80);
        wait(|| a.engine.counts().dropped[&Reason::Loop] == 10, &a);
        assert_eq!(b.engine.counts().relayed, 10);
    });
}

/// Packets that were steered in the old way have gone when a barrier ends, however many come.
#[test]
fn nothing_is_in_hand_after_a_barrier() {
    in_own_network("steered::nothing_is_in_hand_after_a_barrier", || {
        let world = world(false, Cipher::Aes256Gcm, true, Return::Direct);
        drop(world.node);
        let told = Told::new(Mode::Deliver);
        let a = node(&world.cables.node, "10.2.0.2:4191", told.clone());
        a.engine.install(key(), Side::Node, Cipher::Aes256Gcm, MTU).unwrap();
        let client = world.cables.client.run(|| UdpSocket::bind("10.1.0.2:0")).unwrap();
        let stop = std::sync::atomic::AtomicBool::new(false);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                while !stop.load(Relaxed) {
                    let _ = client.send_to(&[0; 100], (ip(HOME_V4), 9));
                }
            });
            for _ in 0..200 {
                told.set(Mode::Deliver);
                let before = a.engine.counts().delivered;
                wait(|| a.engine.counts().delivered > before, &a);
                told.set(Mode::Hold);
                a.engine.barrier();
                let delivered = a.engine.counts().delivered;
                let held = told.held.lock().unwrap().len();
                wait(|| told.held.lock().unwrap().len() > held, &a);
                assert_eq!(a.engine.counts().delivered, delivered);
                told.held.lock().unwrap().clear();
            }
            stop.store(true, Relaxed);
        });
    });
}

/// An engine in this namespace, with the home address.
fn node(namespace: &godwit_net::namespace::NetworkNamespace, at: &str, steer: Arc<Told>) -> End {
    let made = namespace.run(|| {
        let end = end(at.parse().unwrap(), Side::Node, true, steer);
        Netlink::open()?.add_address(end.tun.index(), ip(HOME_V4))?;
        Ok(end)
    });
    made.unwrap()
}

fn socket(namespace: &godwit_net::namespace::NetworkNamespace, at: &str) -> UdpSocket {
    let socket = namespace.run(|| UdpSocket::bind((ip(at), 0))).unwrap();
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    crate::marks::ask_for_hops(&socket);
    socket
}

/// Receives these, in this order, each with so many hops left.
#[track_caller]
fn check(server: &UdpSocket, numbers: std::ops::Range<u8>, hops: Option<u8>) {
    for number in numbers {
        let (bytes, told) = crate::marks::receive(server);
        assert_eq!(bytes, [number; 50]);
        if let Some(hops) = hops {
            assert_eq!(told, Some(hops));
        }
    }
}
