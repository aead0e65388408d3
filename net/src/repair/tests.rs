//! Connections that move between two kernels' namespaces, while a client that knows nothing uses them.
//!
//! Everything runs in a user namespace of its own, so it takes no root; where there are none, it says so.

use super::*;
use crate::namespace::NetworkNamespace;
use crate::offload::Train;
use crate::port::{BUFFER_LEN, Buffer, Ipv6, Port};
use crate::sockets::Sockets;
use std::collections::VecDeque;
use std::io::{self, Read, Write};
use std::net::{IpAddr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::os::fd::{AsFd, AsRawFd};
use std::process::Command;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

/// Nothing here takes a tenth of this; a loaded machine may.
const PATIENCE: Duration = Duration::from_secs(60);
/// Octets of one transfer: some tens of times what is in flight.
const LEN: u64 = 24 << 20;
const MOVES: u64 = 10;

/// Runs one of the tests below as root of its own namespaces.
fn inside(test: &str) {
    let mut command = Command::new("unshare");
    command.args(["--user", "--map-root-user", "--net"]).arg(std::env::current_exe().unwrap());
    command.args([&format!("repair::tests::{test}"), "--exact", "--ignored", "--nocapture"]);
    match command.output() {
        Err(error) => println!("SKIPPED: {test}: unshare(1) does not run: {error}"),
        Ok(output) => {
            let (out, err) =
                (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
            if !out.contains("running 1 test") {
                return println!("SKIPPED: {test}: there are no user namespaces here: {err}");
            }
            if let Some(skipped) = out.lines().find(|line| line.starts_with("SKIPPED")) {
                return println!("{skipped}");
            }
            assert!(output.status.success(), "{out}\n{err}");
        }
    }
}

#[test]
fn a_download_moves_over_ipv4() {
    inside("download_4");
}

#[test]
fn a_download_moves_over_ipv6() {
    inside("download_6");
}

#[test]
fn an_upload_moves_over_ipv4() {
    inside("upload_4");
}

#[test]
fn an_upload_moves_over_ipv6() {
    inside("upload_6");
}

#[test]
fn what_does_not_move_is_refused_and_runs_on() {
    inside("refusals");
}

#[test]
fn a_frozen_socket_resumes_with_all_it_had() {
    inside("resume");
}

#[test]
fn without_the_right_nothing_is_frozen() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let mut client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    let (mut server, _) = listener.accept().unwrap();
    let mut sockets = Sockets::open().unwrap();
    // Root may; then it goes on, and so it does when it may not.
    server = match Frozen::freeze(&mut sockets, server) {
        Ok(frozen) => frozen.resume().unwrap(),
        Err((server, error)) => {
            assert!(matches!(error, FreezeError::NotPermitted), "{error}");
            server
        }
    };
    server.write_all(b"on").unwrap();
    let mut got = [0; 2];
    client.read_exact(&mut got).unwrap();
    assert_eq!(&got, b"on");
}

#[test]
#[ignore = "run inside namespaces by the test above"]
fn download_4() {
    download("198.51.100.1", "203.0.113.80");
}

#[test]
#[ignore = "run inside namespaces by the test above"]
fn download_6() {
    download("2001:db8:1::1", "2001:db8:2::80");
}

#[test]
#[ignore = "run inside namespaces by the test above"]
fn upload_4() {
    upload("198.51.100.1", "203.0.113.80");
}

#[test]
#[ignore = "run inside namespaces by the test above"]
fn upload_6() {
    upload("2001:db8:1::1", "2001:db8:2::80");
}

/// What both sides of a transfer take for octet number `at`.
fn octet(at: u64) -> u8 {
    (at ^ at >> 8 ^ at >> 17) as u8
}

fn octets(from: u64, to: u64) -> Vec<u8> {
    (from..to).map(octet).collect()
}

fn download(client: &str, home: &str) {
    let Some(world) = World::new(client, home) else { return };
    let listener = world.listen(0);
    let address = listener.local_addr().unwrap();
    let got = Arc::new(AtomicU64::new(0));
    let reader = {
        let (got, mut stream) = (got.clone(), world.connect(address));
        thread::spawn(move || {
            let mut buffer = vec![0; 1 << 16];
            loop {
                let len = stream.read(&mut buffer).unwrap();
                if len == 0 {
                    return;
                }
                let at = got.load(Ordering::Relaxed);
                assert!(buffer[..len] == octets(at, at + len as u64), "other octets at {at}");
                got.store(at + len as u64, Ordering::Relaxed);
            }
        })
    };
    let (mut stream, peer) = listener.accept().unwrap();
    let (mut sent, mut at, mut largest) = (0, 0, 0);
    for number in 1..=MOVES {
        make_movable(&stream).unwrap();
        stream.set_write_timeout(Some(Duration::from_millis(20))).unwrap();
        while got.load(Ordering::Relaxed) < LEN * number / (MOVES + 1) {
            let end = LEN.min(sent + (1 << 16));
            match stream.write(&octets(sent, end)) {
                Ok(len) => sent += len as u64,
                Err(error) => assert_eq!(error.kind(), io::ErrorKind::WouldBlock),
            }
        }
        world.hold();
        let frozen = world.freeze(at, stream);
        let state = round_trip(frozen.state());
        largest = largest.max(state.in_flight);
        let in_flight = octets(sent - u64::from(state.in_flight), sent);
        assert!(frozen.in_flight().unwrap() == in_flight);
        drop(frozen);
        at = 1 - at;
        stream = world.restore(at, [address, peer], &state, &in_flight);
        check_restored(&stream);
        world.release(at);
    }
    assert!(largest > 0, "nothing was in flight at any move");
    // The listener is closed and opened again, here and there, while the moved connection lives.
    drop(listener);
    for node in [0, 1] {
        drop(world.listen_at(node, address.port()));
    }
    stream.set_write_timeout(Some(PATIENCE)).unwrap();
    stream.write_all(&octets(sent, LEN)).unwrap();
    stream.shutdown(Shutdown::Write).unwrap();
    reader.join().unwrap();
    assert_eq!(got.load(Ordering::Relaxed), LEN);
    assert_eq!(world.resets(), 0);
}

fn upload(client: &str, home: &str) {
    let Some(world) = World::new(client, home) else { return };
    let listener = world.listen(0);
    let address = listener.local_addr().unwrap();
    let mut client = world.connect(address);
    let moved = Arc::new(AtomicBool::new(false));
    let over = moved.clone();
    let writer = thread::spawn(move || {
        for start in (0..LEN).step_by(1 << 16) {
            client.write_all(&octets(start, LEN.min(start + (1 << 16)))).unwrap();
        }
        // What is closing does not move.
        while !over.load(Ordering::Relaxed) {
            thread::sleep(Duration::from_millis(1));
        }
        client.shutdown(Shutdown::Write).unwrap();
        // The answer comes from where the connection is at the end.
        let mut answer = String::new();
        client.read_to_string(&mut answer).unwrap();
        answer
    });
    let (mut stream, peer) = listener.accept().unwrap();
    let (mut got, mut at) = (0, 0);
    let mut buffer = vec![0; 1 << 16];
    for number in 1..=MOVES {
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        while got < LEN * number / (MOVES + 1) {
            got += take(&mut stream, &mut buffer, got).unwrap();
        }
        world.hold();
        stream.set_nonblocking(true).unwrap();
        // All but a little is read: what is not read moves too.
        while crate::repair::options::count(stream.as_fd(), 0x541b).unwrap() as usize > UNREAD_MAX {
            got += take(&mut stream, &mut buffer[..1000], got).unwrap();
        }
        let frozen = world.freeze(at, stream);
        let state = round_trip(frozen.state());
        drop(frozen);
        at = 1 - at;
        stream = world.restore(at, [address, peer], &state, &[]);
        check_restored(&stream);
        world.release(at);
    }
    moved.store(true, Ordering::Relaxed);
    loop {
        match take(&mut stream, &mut buffer, got).unwrap() {
            0 => break,
            len => got += len,
        }
    }
    assert_eq!(got, LEN);
    stream.write_all(b"all").unwrap();
    drop(stream);
    assert_eq!(writer.join().unwrap(), "all");
    assert_eq!(world.resets(), 0);
}

/// Reads what is there and checks it.
fn take(stream: &mut TcpStream, buffer: &mut [u8], at: u64) -> io::Result<u64> {
    let len = stream.read(buffer)?;
    assert!(buffer[..len] == octets(at, at + len as u64), "other octets at {at}");
    Ok(len as u64)
}

/// As it comes out at the other member.
fn round_trip(state: &State) -> State {
    let bytes = state.encode();
    let (decoded, rest) = State::decode(&bytes).unwrap();
    assert!(rest.is_empty() && decoded == *state);
    decoded
}

fn check_restored(stream: &TcpStream) {
    stream.set_nonblocking(false).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    let [mss] = options::get_tcp(stream.as_fd(), libc::TCP_MAXSEG).unwrap();
    assert!(mss >= 1300, "segments of {mss} octets");
    let buffers = [libc::SO_SNDBUF, libc::SO_RCVBUF].map(|name| options::get_socket(stream.as_fd(), name));
    assert!(buffers.iter().all(|len| *len.as_ref().unwrap() <= 16 << 20), "{buffers:?}");
    assert_eq!(options::get_socket(stream.as_fd(), options::SO_BUF_LOCK).unwrap(), 0);
    let congestion = socket2::SockRef::from(stream).tcp_congestion().unwrap();
    assert!(congestion.starts_with(CONGESTION.as_bytes()), "{congestion:?}");
}

#[test]
#[ignore = "run inside namespaces by the test above"]
fn resume() {
    let Some(world) = World::new("198.51.100.1", "203.0.113.80") else { return };
    let listener = world.listen(0);
    let address = listener.local_addr().unwrap();
    let mut client = world.connect(address);
    let (mut server, _) = listener.accept().unwrap();
    client.write_all(b"question").unwrap();
    server.set_read_timeout(Some(PATIENCE)).unwrap();
    server.peek(&mut [0]).unwrap();
    world.hold();
    server.write_all(b"begun ").unwrap();
    let frozen = world.freeze(0, server);
    assert_eq!(frozen.in_flight().unwrap(), b"begun ");
    assert_eq!(frozen.state().unread, b"question");
    let mut server = frozen.resume().unwrap();
    world.release(0);
    server.write_all(b"and ended").unwrap();
    let mut answer = [0; 15];
    client.read_exact(&mut answer).unwrap();
    assert_eq!(&answer, b"begun and ended");
    let mut question = [0; 8];
    server.read_exact(&mut question).unwrap();
    assert_eq!(&question, b"question");
    assert_eq!(world.resets(), 0);
}

#[test]
#[ignore = "run inside namespaces by the test above"]
fn refusals() {
    let Some(world) = World::new("198.51.100.1", "203.0.113.80") else { return };
    let listener = world.listen(0);
    let address = listener.local_addr().unwrap();
    let pair = || {
        let client = world.connect(address);
        (client, listener.accept().unwrap().0)
    };
    let refused =
        |server: TcpStream| world.nodes[0].run(|| Ok(Frozen::freeze(&mut Sockets::open()?, server)));

    // Closing: the client has said its last word.
    let (mut client, server) = pair();
    client.shutdown(Shutdown::Write).unwrap();
    let mut server = Some(server);
    loop {
        match refused(server.take().unwrap()).unwrap() {
            Ok(frozen) => server = Some(frozen.resume().unwrap()),
            Err((mut stream, error)) => {
                assert!(matches!(error, FreezeError::NotEstablished(8)), "{error}");
                stream.write_all(b"still here").unwrap();
                break;
            }
        }
    }
    let mut answer = String::new();
    client.read_to_string(&mut answer).unwrap();
    assert_eq!(answer, "still here");

    // Too much that was not read.
    let (mut client, server) = pair();
    client.write_all(&vec![1; UNREAD_MAX + 1]).unwrap();
    server.set_read_timeout(Some(PATIENCE)).unwrap();
    while server.peek(&mut vec![0; UNREAD_MAX + 1]).unwrap() <= UNREAD_MAX {}
    let (_, error) = refused(server).unwrap().unwrap_err();
    assert!(matches!(error, FreezeError::Unread(len) if len as usize == UNREAD_MAX + 1), "{error}");

    // Signed segments.
    let (client, server) = pair();
    world.nodes[0].run(|| sign(&server, client.local_addr()?)).unwrap();
    let (_, error) = refused(server).unwrap().unwrap_err();
    assert!(matches!(error, FreezeError::Kind("TCP-MD5")), "{error}");

    // Multipath TCP.
    let multipath = world.nodes[0].run(|| {
        let protocol = socket2::Protocol::from(libc::IPPROTO_MPTCP);
        let new = || socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, Some(protocol));
        let (listener, client) = (new()?, new()?);
        listener.bind(&"127.0.0.1:0".parse::<SocketAddr>().unwrap().into())?;
        listener.listen(1)?;
        client.connect(&listener.local_addr()?)?;
        let server: TcpStream = listener.accept()?.0.into();
        Ok(Frozen::freeze(&mut Sockets::open()?, server).unwrap_err().1)
    });
    match multipath {
        Ok(error) => assert!(matches!(error, FreezeError::Kind("Multipath TCP")), "{error}"),
        Err(error) => println!("no Multipath TCP here: {error}"),
    }

    // Nowhere to put it: the address is not there, the connection is already, the octets are too few.
    let (_client, server) = pair();
    let peer = server.peer_addr().unwrap();
    let state = State { in_flight: 0, unsent: 0, unread: Vec::new(), ..wire::tests::sample() };
    let here = |local: SocketAddr, in_flight: &[u8]| {
        world.nodes[0].run(|| Ok(restore(local, peer, &state, in_flight))).unwrap().unwrap_err()
    };
    assert!(matches!(here(address, b"some"), RestoreError::InFlight { got: 4, state: 0 }));
    assert!(matches!(here(address, b""), RestoreError::Kernel("connecting", _)));
    assert!(matches!(here("192.0.2.1:80".parse().unwrap(), b""), RestoreError::Kernel("connecting", _)));
    assert!(matches!(here("[2001:db8::1]:80".parse().unwrap(), b""), RestoreError::Families));
}

/// Makes the socket sign what it sends to the peer (RFC 2385).
fn sign(socket: &TcpStream, peer: SocketAddr) -> io::Result<()> {
    // `struct tcp_md5sig`: a sockaddr_storage, flags, prefix length, key length, interface, key.
    let mut value = [0u8; 128 + 8 + 80];
    let IpAddr::V4(ip) = peer.ip() else { panic!("for IPv4 only") };
    value[..2].copy_from_slice(&(libc::AF_INET as u16).to_ne_bytes());
    value[4..8].copy_from_slice(&ip.octets());
    value[130..132].copy_from_slice(&3u16.to_ne_bytes());
    value[136..139].copy_from_slice(b"key");
    // SAFETY: the pointer and length describe `value`; the kernel only reads.
    let status = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::IPPROTO_TCP,
            libc::TCP_MD5SIG,
            value.as_ptr().cast(),
            value.len() as libc::socklen_t,
        )
    };
    crate::namespace::check(status)
}

/// A client and two nodes, each in a namespace of its own; both nodes have the home address, and one of
/// them gets what the client sends.
struct World {
    client: NetworkNamespace,
    nodes: [NetworkNamespace; 2],
    home: IpAddr,
    router: Arc<Router>,
    thread: Option<thread::JoinHandle<()>>,
}

/// Packets between them, on a thread of its own.
struct Router {
    /// Which node gets what the client sends; it waits when none does.
    to: Mutex<Option<usize>>,
    resets: AtomicU64,
    stop: AtomicBool,
}

impl World {
    fn new(client: &str, home: &str) -> Option<World> {
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

    fn listen(&self, node: usize) -> TcpListener {
        self.listen_at(node, 0)
    }

    fn listen_at(&self, node: usize, port: u16) -> TcpListener {
        self.nodes[node].run(|| TcpListener::bind((self.home, port))).unwrap()
    }

    fn connect(&self, to: SocketAddr) -> TcpStream {
        let stream = self.client.run(|| TcpStream::connect_timeout(&to, PATIENCE)).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream.set_write_timeout(Some(PATIENCE)).unwrap();
        stream
    }

    fn freeze(&self, node: usize, stream: TcpStream) -> Frozen {
        let freeze = || Ok(Frozen::freeze(&mut Sockets::open()?, stream));
        self.nodes[node].run(freeze).unwrap().unwrap()
    }

    fn restore(
        &self,
        node: usize,
        [local, peer]: [SocketAddr; 2],
        state: &State,
        in_flight: &[u8],
    ) -> TcpStream {
        self.nodes[node].run(|| Ok(restore(local, peer, state, in_flight).unwrap())).unwrap()
    }

    /// No packet reaches a node from here on.
    fn hold(&self) {
        *self.router.to.lock().unwrap() = None;
    }

    /// What waited and what comes goes to this node.
    fn release(&self, node: usize) {
        *self.router.to.lock().unwrap() = Some(node);
    }

    /// So many resets were sent by nodes.
    fn resets(&self) -> u64 {
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
                        let _ = client.send(train);
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
