//! Sockets that go on where they were, and those that do not move.

use super::PATIENCE;
use super::world::{LOST, World};
use crate::repair::wire;
use crate::repair::{FreezeError, Frozen, RestoreError, State, UNREAD_MAX, restore};
use crate::sockets::Sockets;
use std::io::{self, Read, Write};
use std::net::{IpAddr, Shutdown, SocketAddr, TcpStream};
use std::os::fd::AsRawFd;
use std::thread;
use std::time::{Duration, Instant};

pub(super) fn resume() {
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

pub(super) fn holes() {
    let Some(world) = World::new("198.51.100.1", "203.0.113.80") else { return };
    let listener = world.listen(0);
    let home = listener.local_addr().unwrap();
    let client = world.connect(home);
    let (server, _) = listener.accept().unwrap();
    let from = client.local_addr().unwrap();
    let until = |lacks| {
        let begun = Instant::now();
        while world.lacks(0, from, home) != lacks {
            assert!(begun.elapsed() < PATIENCE, "it never came to {lacks}");
            thread::sleep(Duration::from_millis(1));
        }
    };
    client.set_nodelay(true).unwrap();
    server.set_nodelay(true).unwrap();
    assert!(!world.lacks(0, from, home));
    // What came behind a hole is noticed by who waits for it, and by who sent it.
    for (mut sender, mut receiver) in [(&client, &server), (&server, &client)] {
        receiver.set_read_timeout(Some(PATIENCE)).unwrap();
        world.lose(true);
        sender.write_all(LOST).unwrap();
        sender.write_all(b" and found").unwrap();
        until(true);
        world.lose(false);
        let mut got = [0; 14];
        receiver.read_exact(&mut got).unwrap();
        assert_eq!(&got, b"lost and found");
        until(false);
    }
    let stranger = SocketAddr::new(from.ip(), from.port() ^ 1);
    assert!(!world.lacks(0, stranger, home));
}

pub(super) fn refusals() {
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
