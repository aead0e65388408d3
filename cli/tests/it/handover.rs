//! One process of a member follows another while clients fetch, and no request is lost.

use crate::harness::{Member, PATIENCE, World, get, until};
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::thread::JoinHandle;

const HOST: &str = "www.edge.example.org";
/// More than one object, and more than the kernel keeps for a client that does not read.
const LARGE: usize = 70 << 20;
/// Requests of each kind between two processes.
const BETWEEN: u32 = 30;

/// Clients that fetch until they are stopped. Each request must be answered.
struct Load {
    stop: Arc<AtomicBool>,
    counts: [Arc<AtomicU32>; 3],
    clients: Vec<JoinHandle<()>>,
}

impl Load {
    fn start(http: SocketAddr, member: &Member) -> Load {
        let stop = Arc::<AtomicBool>::default();
        let counts: [Arc<AtomicU32>; 3] = std::array::from_fn(|_| Arc::default());
        let mut clients = Vec::new();
        for _ in 0..2 {
            let (until_then, count) = (stop.clone(), counts[0].clone());
            clients.push(std::thread::spawn(move || {
                while !until_then.load(Ordering::SeqCst) {
                    let (status, _, body) = get(http, HOST, "/");
                    assert_eq!((status, &body[..]), (200, &b"<h1>one</h1>"[..]));
                    count.fetch_add(1, Ordering::SeqCst);
                }
            }));
            let (stop, counts) = (stop.clone(), [counts[1].clone(), counts[2].clone()]);
            clients.push(std::thread::spawn(move || keep_alive(http, &stop, &counts)));
        }
        let (stop_control, socket) = (stop.clone(), member.socket().to_owned());
        clients.push(std::thread::spawn(move || {
            while !stop_control.load(Ordering::SeqCst) {
                let mut stream = std::os::unix::net::UnixStream::connect(&socket).expect("control");
                stream.set_read_timeout(Some(PATIENCE)).unwrap();
                write!(stream, "GET /livez HTTP/1.1\r\nHost: admin\r\nConnection: close\r\n\r\n").unwrap();
                let mut answer = String::new();
                stream.read_to_string(&mut answer).expect("control");
                assert!(answer.ends_with("live\n"), "{answer:?}");
                std::thread::sleep(std::time::Duration::from_millis(20));
            }
        }));
        Load { stop, counts, clients }
    }

    /// Waits until some more were answered, of both kinds.
    fn wait_for_more(&self) {
        let now = || [0, 1].map(|kind: usize| self.counts[kind].load(Ordering::SeqCst));
        let before = now();
        until("more answers", || {
            assert!(!self.clients.iter().any(JoinHandle::is_finished), "a client gave up");
            let now = now();
            (now[0] >= before[0] + BETWEEN && now[1] >= before[1] + BETWEEN).then_some(())
        });
    }

    fn finish(self) {
        self.stop.store(true, Ordering::SeqCst);
        for client in self.clients {
            client.join().unwrap();
        }
        let [new, kept, again] = self.counts.map(|count| count.load(Ordering::SeqCst));
        println!("{new} requests on new connections and {kept} on kept ones answered, {again} asked again");
    }
}

/// One request after the other on a connection, as long as the server keeps it. A connection that
/// ended before the request was read is no failure (RFC 9112, 9.3.1), unless it is a new one.
fn keep_alive(http: SocketAddr, stop: &AtomicBool, [answered, again]: &[Arc<AtomicU32>; 2]) {
    let mut kept: Option<TcpStream> = None;
    while !stop.load(Ordering::SeqCst) {
        let is_new = kept.is_none();
        let mut stream = kept.take().unwrap_or_else(|| TcpStream::connect(http).unwrap());
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        match ask(&mut stream) {
            Ok(closes) => {
                answered.fetch_add(1, Ordering::SeqCst);
                kept = (!closes).then_some(stream);
            }
            Err(error) => {
                assert!(!is_new, "a new connection ended without an answer: {error}");
                again.fetch_add(1, Ordering::SeqCst);
            }
        }
    }
}

/// Whether the server closes the connection after its answer.
fn ask(stream: &mut TcpStream) -> std::io::Result<bool> {
    write!(stream, "GET / HTTP/1.1\r\nHost: {HOST}\r\n\r\n")?;
    let mut answer = Vec::new();
    let mut octet = [0];
    while !answer.ends_with(b"<h1>one</h1>") {
        stream.read_exact(&mut octet)?;
        answer.push(octet[0]);
    }
    let head = String::from_utf8_lossy(&answer).to_ascii_lowercase();
    assert!(head.starts_with("http/1.1 200"), "{head}");
    Ok(head.contains("connection: close"))
}

/// A download that has begun, and whose client takes its time.
fn begin_download(http: SocketAddr) -> (TcpStream, Vec<u8>) {
    let mut stream = TcpStream::connect(http).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    write!(stream, "GET /large HTTP/1.1\r\nHost: {HOST}\r\nConnection: close\r\n\r\n").unwrap();
    let mut begun = vec![0; 100_000];
    stream.read_exact(&mut begun).unwrap();
    (stream, begun)
}

fn check_download((mut stream, mut got): (TcpStream, Vec<u8>), expected: &[u8]) {
    stream.read_to_end(&mut got).unwrap();
    let head = got.windows(4).position(|bytes| bytes == b"\r\n\r\n").unwrap();
    assert!(got[head + 4..] == *expected, "{} octets of {LARGE} came", got.len() - head - 4);
}

fn takes_over(roles: &str, expect_dns: bool) {
    let world = World::with_network();
    let token = world.invite("fra1", "eu-frankfurt");
    world.run(&["join", &token, "--data-dir", "fra1"]).check(0, "");
    let handover = world.path("handover");
    world.write(
        "fra1/godwit.toml",
        format!(
            "roles = {roles}\nhandover = {handover:?}\n[overlay]\nlisten = [\"127.0.0.1:0\"]\n\
             [http]\nlisten = [\"127.0.0.1:0\"]\n\
             [redirector]\nlisten = [\"127.0.0.1:0\"]\nworkers = 1\n"
        ),
    );
    let mut running = world.launch("fra1");
    let http = running.address("http");
    assert_eq!(running.has_address("dns"), expect_dns);
    let large: Vec<u8> = (0..LARGE as u32).map(|at| (at.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
    world.write("site/index.html", "<h1>one</h1>");
    world.write("site/large", &large);
    world.json(&["publish", "site", "--to", "www", "--json", "--data-dir", "fra1"]);
    until("the site to be served", || (get(http, HOST, "/").0 == 200).then_some(()));

    let load = Load::start(http, &running);
    for _ in 0..2 {
        load.wait_for_more();
        let download = begin_download(http);
        let next = world.launch("fra1");
        assert_eq!(next.address("http"), http, "the same socket");
        check_download(download, &large);
        assert_eq!(std::mem::replace(&mut running, next).ended(), 0);
    }
    load.wait_for_more();
    load.finish();
    assert_eq!(running.stop(), 0);
    assert!(!handover.exists());
}

#[test]
fn a_whole_member_is_followed_without_a_lost_request() {
    takes_over("[\"node\", \"redirector\"]", true);
}

#[test]
fn a_node_without_a_redirector_is_followed_too() {
    takes_over("[\"node\"]", false);
}
