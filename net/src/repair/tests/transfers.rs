//! Transfers that move to and fro.

use super::PATIENCE;
use super::world::World;
use crate::repair::{CONGESTION, State, UNREAD_MAX, make_movable, options};
use std::io::{self, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::os::fd::AsFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

/// Octets of one transfer: some tens of times what is in flight.
const LEN: u64 = 24 << 20;
const MOVES: u64 = 10;

/// What both sides of a transfer take for octet number `at`.
fn octet(at: u64) -> u8 {
    (at ^ at >> 8 ^ at >> 17) as u8
}

fn octets(from: u64, to: u64) -> Vec<u8> {
    (from..to).map(octet).collect()
}

pub(super) fn download(client: &str, home: &str) {
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

pub(super) fn upload(client: &str, home: &str) {
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
