//! One process follows another under load, and no query is lost or wrong.

use crate::process::Process;
use crate::{check_www, www};
use hickory_proto::op::Message;
use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

/// A query without an answer for so long is lost; a resolver would have given up on it long before.
const LOST: Duration = Duration::from_secs(30);
/// How often one process follows another.
const RESTARTS: usize = 3;
/// Answers between two restarts.
const BETWEEN: u32 = 200;

/// Clients that ask until they are stopped. Each query must be answered, once, and right.
pub(crate) struct Load {
    stop: Arc<AtomicBool>,
    udp: Arc<AtomicU32>,
    tcp: Arc<AtomicU32>,
    /// Queries on a connection that was closed before they were read: asked again on another, as
    /// RFC 7766, 6.2.4 has it.
    again: Arc<AtomicU32>,
    clients: Vec<JoinHandle<()>>,
}

impl Load {
    pub(crate) fn start(address: SocketAddr) -> Load {
        let counter = Arc::<AtomicU32>::default;
        let (stop, udp, tcp, again) = (Arc::<AtomicBool>::default(), counter(), counter(), counter());
        let mut clients = Vec::new();
        for _ in 0..4 {
            let (stop, udp) = (stop.clone(), udp.clone());
            clients.push(std::thread::spawn(move || ask_udp(address, &stop, &udp)));
        }
        for keeps in [true, true, false, false] {
            let (stop, tcp, again) = (stop.clone(), tcp.clone(), again.clone());
            clients.push(std::thread::spawn(move || ask_tcp(address, keeps, &stop, &tcp, &again)));
        }
        Load { stop, udp, tcp, again, clients }
    }

    /// Waits until some more have been answered, of each kind.
    pub(crate) fn wait_for_more(&self) {
        let before = [&self.udp, &self.tcp].map(|count| count.load(Ordering::SeqCst));
        let enough = || {
            let now = [&self.udp, &self.tcp].map(|count| count.load(Ordering::SeqCst));
            now[0] >= before[0] + BETWEEN && now[1] >= before[1] + BETWEEN
        };
        while !enough() {
            assert!(!self.clients.iter().any(JoinHandle::is_finished), "a client gave up");
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    pub(crate) fn finish(self) {
        self.stop.store(true, Ordering::SeqCst);
        for client in self.clients {
            client.join().unwrap();
        }
        let [udp, tcp, again] = [self.udp, self.tcp, self.again].map(|count| count.load(Ordering::SeqCst));
        println!("{udp} UDP and {tcp} TCP queries answered, {again} asked again, none lost");
    }
}

fn ask_udp(address: SocketAddr, stop: &AtomicBool, answered: &AtomicU32) {
    let mut id = 0;
    while !stop.load(Ordering::SeqCst) {
        // A new port every now and then meets another of the sockets.
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        socket.set_read_timeout(Some(LOST)).unwrap();
        socket.connect(address).unwrap();
        for _ in 0..10 {
            id += 1;
            socket.send(&www(id)).unwrap();
            let mut buffer = [0; 4096];
            let len = socket.recv(&mut buffer).expect("a query over UDP is lost");
            check_www(&Message::from_vec(&buffer[..len]).unwrap(), id);
            answered.fetch_add(1, Ordering::SeqCst);
        }
    }
}

fn ask_tcp(address: SocketAddr, keeps: bool, stop: &AtomicBool, answered: &AtomicU32, again: &AtomicU32) {
    let connect = || {
        let stream = TcpStream::connect(address).unwrap();
        stream.set_read_timeout(Some(LOST)).unwrap();
        stream
    };
    let (mut stream, mut id, mut fresh) = (connect(), 0, true);
    while !stop.load(Ordering::SeqCst) {
        id += 1;
        loop {
            match exchange(&mut stream, id) {
                Ok(reply) => {
                    check_www(&Message::from_vec(&reply).unwrap(), id);
                    answered.fetch_add(1, Ordering::SeqCst);
                    break;
                }
                Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {
                    panic!("a query over TCP is lost")
                }
                Err(error) => {
                    assert!(!fresh, "a new connection is closed with its first query unanswered: {error}");
                    again.fetch_add(1, Ordering::SeqCst);
                    (stream, fresh) = (connect(), true);
                }
            }
        }
        fresh = false;
        if !keeps {
            (stream, fresh) = (connect(), true);
        }
    }
}

fn exchange(stream: &mut TcpStream, id: u16) -> std::io::Result<Vec<u8>> {
    let query = www(id);
    stream.write_all(&[&(query.len() as u16).to_be_bytes()[..], &query].concat())?;
    let mut len = [0; 2];
    stream.read_exact(&mut len)?;
    let mut reply = vec![0; usize::from(u16::from_be_bytes(len))];
    stream.read_exact(&mut reply)?;
    Ok(reply)
}

fn config(dir: &tempfile::TempDir, text: &str) -> PathBuf {
    let path = dir.path().join("redirector.toml");
    let limits = "[limits]\nreplies_per_second = 0\n";
    std::fs::write(&path, format!("workers = 2\n{text}{limits}")).unwrap();
    path
}

#[test]
fn a_process_hands_its_sockets_to_the_next_without_a_lost_query() {
    let dir = tempfile::tempdir().unwrap();
    let handover = format!("listen = [\"127.0.0.1:0\"]\nhandover = {:?}\n", dir.path().join("handover"));
    let config = config(&dir, &handover);
    let mut process = Process::start(&config, None);
    let load = Load::start(process.address);
    for _ in 0..RESTARTS {
        load.wait_for_more();
        let next = Process::start(&config, None);
        assert_eq!(next.address, process.address, "the same sockets");
        std::mem::replace(&mut process, next).wait();
    }
    load.wait_for_more();
    load.finish();
    process.terminate();
    process.wait();
    assert!(!dir.path().join("handover").exists(), "the last one cleans up");
}

#[test]
fn sockets_of_a_service_manager_outlive_the_process() {
    let dir = tempfile::tempdir().unwrap();
    // The addresses in the file are not bound: these would fail.
    let config = config(&dir, "listen = [\"192.0.2.1:53\"]\n");
    let tcp = TcpListener::bind("127.0.0.1:0").unwrap();
    let udp = UdpSocket::bind(tcp.local_addr().unwrap()).unwrap();
    let start =
        || Process::start_with(&config, udp.try_clone().unwrap().into(), tcp.try_clone().unwrap().into());
    let mut process = start();
    assert_eq!(process.address, tcp.local_addr().unwrap());
    let load = Load::start(process.address);
    for _ in 0..RESTARTS {
        load.wait_for_more();
        process.terminate();
        process.wait();
        process = start();
    }
    load.wait_for_more();
    load.finish();
}

#[test]
fn a_successor_that_fails_changes_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("handover");
    let config = config(&dir, &format!("listen = [\"127.0.0.1:0\"]\nhandover = {path:?}\n"));
    let process = Process::start(&config, None);
    // It asks, and is gone.
    drop(std::os::unix::net::UnixStream::connect(&path).unwrap());
    let mut garbage = std::os::unix::net::UnixStream::connect(&path).unwrap();
    garbage.write_all(b"?").unwrap();
    let mut rest = Vec::new();
    // Descriptors that nobody takes are closed by the kernel; then the end.
    let _ = garbage.read_to_end(&mut rest);
    let mut stream = TcpStream::connect(process.address).unwrap();
    check_www(&Message::from_vec(&exchange(&mut stream, 1).unwrap()).unwrap(), 1);
    let next = Process::start(&config, None);
    process.wait();
    drop(next);
}
