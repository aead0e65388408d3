//! Clients that take places and descriptors, and do not ask, or do not listen.

use crate::process::Process;
use crate::{Bench, PATIENCE, check_www, query, send, www};
use godwit_redirector::Limits;
use hickory_proto::op::Message;
use hickory_proto::rr::RecordType;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use socket2::{Domain, Socket, Type};
use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::path::PathBuf;
use std::time::{Duration, Instant};
use tokio::io::AsyncWriteExt;
use tokio::time::timeout;

/// As many as the project promises to bear.
const HALF_OPEN: u32 = 10_000;
/// Honest queries among them.
const HONEST: u16 = 50;

fn config(dir: &tempfile::TempDir, limits: &str) -> PathBuf {
    let path = dir.path().join("redirector.toml");
    std::fs::write(&path, format!("listen = [\"127.0.0.1:0\"]\nworkers = 1\n[limits]\n{limits}")).unwrap();
    path
}

/// Connects from the `number`th /24 of the host's own addresses.
fn connect_from(number: u32, to: SocketAddr) -> std::io::Result<TcpStream> {
    let [_, _, second, third] = number.to_be_bytes();
    let source: SocketAddr = (Ipv4Addr::new(127, 100 + second, third, 1), 0).into();
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None)?;
    socket.bind(&source.into())?;
    socket.connect(&to.into())?;
    Ok(socket.into())
}

fn half_a_query(number: u32, to: SocketAddr) -> std::io::Result<TcpStream> {
    let mut stream = connect_from(number, to)?;
    let query = www(1);
    stream.write_all(&(query.len() as u16).to_be_bytes())?;
    stream.write_all(&query[..query.len() / 2])?;
    Ok(stream)
}

/// How long an honest client needs, from before its connection to the end of its answer.
fn honest(to: SocketAddr, id: u16) -> Duration {
    let started = Instant::now();
    let mut stream = TcpStream::connect(to).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    let query = www(id);
    stream.write_all(&[&(query.len() as u16).to_be_bytes()[..], &query].concat()).unwrap();
    let mut len = [0; 2];
    stream.read_exact(&mut len).unwrap();
    let mut reply = vec![0; usize::from(u16::from_be_bytes(len))];
    stream.read_exact(&mut reply).unwrap();
    check_www(&Message::from_vec(&reply).unwrap(), id);
    started.elapsed()
}

/// Half-open connections from so many prefixes, then honest queries one by one.
fn flood(process: &Process, what: &str) -> Vec<TcpStream> {
    let before = process.memory_kb();
    let held: Vec<TcpStream> =
        (0..HALF_OPEN).filter_map(|number| half_a_query(number, process.address).ok()).collect();
    // The first comes while the flood is still being accepted.
    let first = honest(process.address, HONEST);
    let mut times: Vec<Duration> = (0..HONEST).map(|id| honest(process.address, id)).collect();
    times.sort();
    let grown = process.memory_kb().saturating_sub(before);
    println!(
        "{what}: {} half-open, honest query: first {first:?}, then median {:?}, slowest {:?}; memory grew by {grown} kB",
        held.len(),
        times[times.len() / 2],
        times[times.len() - 1],
    );
    held
}

/// Whether this process may have so many descriptors, and a redirector as well.
fn may_have_descriptors() -> bool {
    let wanted = u64::from(HALF_OPEN) + 500;
    let limit = getrlimit(Resource::Nofile);
    if limit.maximum.is_some_and(|maximum| maximum < wanted) {
        println!("SKIPPED: {HALF_OPEN} half-open connections need more descriptors than {:?}", limit.maximum);
        return false;
    }
    if limit.current.is_some_and(|current| current < wanted) {
        let limit = Rlimit { current: Some(wanted), maximum: limit.maximum };
        return setrlimit(Resource::Nofile, limit).is_ok();
    }
    true
}

#[test]
fn ten_thousand_half_open_connections_do_not_keep_an_honest_one_out() {
    if !may_have_descriptors() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let process = Process::start(&config(&dir, ""), None);
    drop(flood(&process, "limits as they come"));
    // Room for all of them: what each takes.
    let roomy = "tcp_connections_max = 20000\ntcp_idle_secs = 600\n";
    let process = Process::start(&config(&dir, roomy), None);
    let held = flood(&process, "room for all");
    for mut stream in held {
        // Nobody was put out.
        stream.set_nonblocking(true).unwrap();
        assert_eq!(stream.read(&mut [0]).unwrap_err().kind(), std::io::ErrorKind::WouldBlock);
    }
}

#[test]
fn without_descriptors_the_newest_gets_in_and_nothing_spins() {
    let dir = tempfile::tempdir().unwrap();
    let process = Process::start(&config(&dir, "tcp_idle_secs = 600\n"), Some(48));
    let _held: Vec<TcpStream> =
        (0..200).filter_map(|number| half_a_query(number, process.address).ok()).collect();
    for id in 0..20 {
        honest(process.address, id);
    }
    // Not a limit of time but of work: in a second that nobody asks anything, next to none is done.
    let before = process.cpu_ms();
    std::thread::sleep(Duration::from_secs(1));
    let spent = process.cpu_ms() - before;
    assert!(spent < 300, "{spent} ms of work in an idle second");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_does_not_read_is_hung_up_on() {
    let bench = Bench::new(13, Limits { tcp_idle_secs: 1, ..Limits::default() }).await;
    let mut stream = bench.connect().await;
    let ns = query(7, "edge.example.org.", RecordType::NS);
    let framed = [&(ns.len() as u16).to_be_bytes()[..], &ns].concat().repeat(100);
    // Some 100 kB of replies for each: when no more is taken, nothing more is read either.
    let writes = async { while stream.write_all(&framed).await.is_ok() {} };
    timeout(PATIENCE, writes).await.unwrap();
    let metrics = bench.metrics();
    assert!(metrics.contains(r#"godwit_dns_drops_total{reason="unread"} 1"#), "{metrics}");
    // Others are served meanwhile and after.
    let mut stream = bench.connect().await;
    send(&mut stream, &www(3)).await;
    check_www(&crate::read(&mut stream).await, 3);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_queries_at_once_are_all_answered() {
    let bench = Bench::new(2, Limits::default()).await;
    let stream = bench.connect().await;
    let (mut reading, mut writing) = stream.into_split();
    let queries: Vec<u8> =
        (0..2000u16).flat_map(|id| [&(www(id).len() as u16).to_be_bytes()[..], &www(id)].concat()).collect();
    let write = tokio::spawn(async move {
        writing.write_all(&queries).await.unwrap();
        writing
    });
    for id in 0..2000 {
        check_www(&crate::read(&mut reading).await, id);
    }
    write.await.unwrap();
}
