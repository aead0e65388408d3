//! Figures of moves, with delays: 5 ms from the client to the home agent, 5 and 10 ms from there to the nodes
//! (one way). They are printed, not asserted: a loaded machine has others. `docs/figures.md` says how.

use super::echo::digest;
use super::http::{ask, connect, content, field, head, until};
use super::members::{ECHO, HTTP, Members};
use super::world::{Addresses, Delays, IPV4, IPV6, World};
use crate::network::Tree;
use godwit_net::tcp::unacknowledged;
use std::io::{BufReader, ErrorKind, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

const MOVES: usize = 20;

fn delays() -> Delays {
    Delays { client: Duration::from_millis(5), nodes: [Duration::from_millis(5), Duration::from_millis(10)] }
}

fn members(addresses: Addresses) -> Option<Members> {
    World::new(addresses, delays()).map(Members::start)
}

/// Octets of a transfer: 300 MB, or what is asked for.
fn len() -> usize {
    std::env::var("MOVES_LEN").ok().and_then(|len| len.parse().ok()).unwrap_or(300_000_000)
}

/// When how many octets had come.
#[derive(Default)]
struct Course(Vec<(Instant, usize)>);

impl Course {
    fn add(&mut self, at: usize) {
        self.0.push((Instant::now(), at));
    }

    /// The longest times in which nothing came.
    fn silences(&self) -> Vec<Duration> {
        let mut silences: Vec<_> = self.0.windows(2).map(|pair| pair[1].0 - pair[0].0).collect();
        silences.sort();
        silences.into_iter().rev().take(3).collect()
    }

    /// Megabits a second between two moments.
    fn rate(&self, from: Instant, to: Instant) -> f64 {
        let at = |when: Instant| self.0.partition_point(|(time, _)| *time < when).min(self.0.len() - 1);
        let (first, last) = (self.0[at(from)], self.0[at(to)]);
        (last.1 - first.1) as f64 * 8e-6 / (last.0 - first.0).as_secs_f64().max(1e-9)
    }
}

/// Moves to and fro while `progress` goes from 10 to 90 percent; the moments of the first and last move.
fn move_along(
    members: &Members,
    progress: &AtomicUsize,
    ended: impl Fn() -> bool,
) -> (Instant, Instant, usize) {
    let (mut at, mut moved, mut begun) = (0, 0, None);
    let mut took = Vec::new();
    let mut last = Instant::now();
    while moved < MOVES && !ended() {
        let goal = len() / 10 + len() * 8 / 10 * moved / MOVES;
        let ready = || progress.load(Ordering::Relaxed) >= goal && !members.flows(at).is_empty();
        until("so much has come", || ready() || ended());
        begun.get_or_insert_with(Instant::now);
        let start = Instant::now();
        let report = members.give(at, members.flows(at));
        took.push(start.elapsed().as_millis());
        assert_eq!(report.lost, 0);
        if report.moved == 1 {
            (at, moved) = (1 - at, moved + 1);
        } else {
            println!("  kept: {:?}", report.kept);
        }
        last = Instant::now();
    }
    println!("  from order to report, ms: {took:?}");
    (begun.unwrap_or(last), last, moved)
}

/// What the nodes' kernels counted.
fn counters(members: &Members) -> String {
    let names = ["RetransSegs", "TCPTimeouts", "TCPLossProbes", "TCPSACKReneging", "TCPSlowStartRetrans"];
    let of = |node: usize| {
        let read = || {
            Ok(std::fs::read_to_string("/proc/thread-self/net/netstat")?
                + &std::fs::read_to_string("/proc/thread-self/net/snmp")?)
        };
        let text = members.world.nodes[node].run(read).unwrap();
        let lines: Vec<&str> = text.lines().collect();
        let values = lines.chunks(2).flat_map(|pair| pair[0].split(' ').zip(pair[1].split(' ')));
        let known = values.filter(|(name, _)| names.contains(name));
        known.map(|(name, value)| format!("{name} {value}")).collect::<Vec<_>>().join(" ")
    };
    format!("one: {}; two: {}", of(0), of(1))
}

fn report(what: &str, members: &Members, course: &Course, moves: (Instant, Instant, usize)) {
    let (first, last) = (course.0[0].0, course.0[course.0.len() - 1].0);
    let (begun, ended, moved) = moves;
    let silences: Vec<_> =
        course.silences().iter().map(|silence| format!("{:.0}", silence.as_secs_f64() * 1e3)).collect();
    println!(
        "{what}: {moved} moves, contents equal, {} resets, longest silences {} ms, \
         Mbit/s before {:.0}, during {:.0}, after {:.0}",
        members.world.resets(),
        silences.join(" "),
        course.rate(first, begun),
        course.rate(begun, ended),
        course.rate(ended, last),
    );
    println!("  {}", counters(members));
}

fn download(what: &str, addresses: Addresses) {
    let Some(members) = members(addresses) else { return };
    let expected = content(len());
    members.publish(&Tree::with_large("big.bin", &expected));
    let mut stream = connect(&members, HTTP);
    let progress = Arc::new(AtomicUsize::new(0));
    let client = thread::spawn({
        let progress = progress.clone();
        move || {
            ask(&mut stream, "/big.bin");
            let mut stream = BufReader::with_capacity(1 << 16, stream);
            assert_eq!(field(&head(&mut stream), "content-length"), len().to_string());
            let (mut course, mut at) = (Course::default(), 0);
            let mut buffer = vec![0; 1 << 18];
            while at < len() {
                let got = stream.read(&mut buffer).unwrap();
                assert!(got > 0 && buffer[..got] == expected[at..at + got], "other octets at {at}");
                at += got;
                course.add(at);
                progress.store(at, Ordering::Relaxed);
            }
            course
        }
    });
    let moves = move_along(&members, &progress, || client.is_finished());
    report(what, &members, &client.join().unwrap(), moves);
}

fn upload(what: &str, addresses: Addresses) {
    let Some(members) = members(addresses) else { return };
    let octets = content(len());
    let mut stream = connect(&members, ECHO);
    let progress = Arc::new(AtomicUsize::new(0));
    let client = thread::spawn({
        let progress = progress.clone();
        move || {
            let mut course = Course::default();
            stream.write_all(b"u").unwrap();
            stream.set_nonblocking(true).unwrap();
            // What is written says only that there was room, a third of the buffer at a time.
            let (mut written, mut acknowledged) = (0, 0);
            while acknowledged < len() {
                match stream.write(&octets[written..len().min(written + (1 << 16))]) {
                    Ok(some) => written += some,
                    Err(error) => assert_eq!(error.kind(), ErrorKind::WouldBlock),
                }
                let waits = unacknowledged(&stream).unwrap() as usize;
                if written - waits.min(written) > acknowledged {
                    acknowledged = written - waits;
                    course.add(acknowledged);
                    progress.store(acknowledged, Ordering::Relaxed);
                }
                thread::sleep(Duration::from_micros(500));
            }
            stream.set_nonblocking(false).unwrap();
            stream.shutdown(Shutdown::Write).unwrap();
            let mut answer = String::new();
            stream.read_to_string(&mut answer).unwrap();
            assert_eq!(answer, format!("{} {}", len(), digest(0, &octets)));
            course
        }
    });
    let moves = move_along(&members, &progress, || client.is_finished());
    report(what, &members, &client.join().unwrap(), moves);
}

fn echo(what: &str, addresses: Addresses) {
    let Some(members) = members(addresses) else { return };
    let (stop, number) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
    let mut stream = connect(&members, ECHO);
    let client = thread::spawn({
        let (stop, number) = (stop.clone(), number.clone());
        move || {
            stream.write_all(b"e").unwrap();
            let mut times = Vec::new();
            while !stop.load(Ordering::Relaxed) {
                let (begun, mut got) = (Instant::now(), [0; 8]);
                let word = (number.load(Ordering::Relaxed) as u64).to_be_bytes();
                stream.write_all(&word).unwrap();
                stream.read_exact(&mut got).unwrap();
                assert_eq!(got, word);
                times.push((begun, begun.elapsed()));
                number.fetch_add(1, Ordering::Relaxed);
                thread::sleep(Duration::from_millis(2));
            }
            times
        }
    });
    let (mut at, mut moves) = (0, Vec::new());
    for _ in 0..MOVES {
        let goal = number.load(Ordering::Relaxed) + 12;
        until("echoes have come", || number.load(Ordering::Relaxed) >= goal);
        let begun = Instant::now();
        loop {
            let report = members.give(at, members.flows(at));
            if report.moved == 1 {
                break;
            }
            println!("  kept: {:?}", report.kept);
        }
        at = 1 - at;
        moves.push((begun, Instant::now()));
    }
    stop.store(true, Ordering::Relaxed);
    let times = client.join().unwrap();
    let worst = |(begun, ended): &(Instant, Instant)| {
        let near = times
            .iter()
            .filter(|(at, took)| *at <= *ended + Duration::from_millis(60) && *at + *took >= *begun);
        near.map(|(_, took)| took.as_secs_f64() * 1e3).fold(0.0, f64::max)
    };
    for (way, skip) in [("from 5 ms to 10 ms", 0), ("back", 1)] {
        let mut all: Vec<f64> = moves.iter().skip(skip).step_by(2).map(worst).collect();
        all.sort_by(f64::total_cmp);
        println!(
            "{what} {way}: worst echo of each move, median {:.1}, largest {:.1} ms; {} resets",
            all[all.len() / 2],
            all[all.len() - 1],
            members.world.resets()
        );
    }
    let mut usual: Vec<f64> = times.iter().map(|(_, took)| took.as_secs_f64() * 1e3).collect();
    usual.sort_by(f64::total_cmp);
    println!("{what}: {} echoes, median {:.1} ms", usual.len(), usual[usual.len() / 2]);
}

fn idle(what: &str, addresses: Addresses) {
    let Some(members) = members(addresses) else { return };
    members.publish(&Tree::new(&[("index.html", b"<h1>one</h1>")]));
    let count = 1000;
    let mut streams: Vec<TcpStream> = (0..count).map(|_| connect(&members, HTTP)).collect();
    until("all are known", || members.flows(0).len() == count);
    let begun = Instant::now();
    let report = members.give(0, members.flows(0));
    let took = begun.elapsed();
    let alive = streams
        .iter_mut()
        .filter_map(|stream| {
            ask(stream, "/");
            let mut reader = BufReader::new(stream);
            let head = head(&mut reader);
            reader.read_exact(&mut [0; 12]).ok()?;
            (field(&head, "godwit-node") == "two").then_some(())
        })
        .count();
    println!(
        "{what}: {} of {count} moved in {:.0} ms, {} kept, {} lost; {alive} answer at the other node; {} resets",
        report.moved,
        took.as_secs_f64() * 1e3,
        report.kept.len(),
        report.lost,
        members.world.resets()
    );
}

/// `unshare -Urn IT moves::figures::all --exact --ignored --nocapture`, with `IT` this test binary.
#[test]
#[ignore = "measures; run it alone"]
fn all() {
    let only = std::env::var("MOVES_ONLY").unwrap_or_default();
    type Measure = fn(&str, Addresses);
    let all: [(&str, Measure); 4] =
        [("download", download), ("upload", upload), ("echo", echo), ("idle", idle)];
    for (name, measure) in all.into_iter().filter(|(name, _)| only.is_empty() || only == *name) {
        measure(&format!("{name} IPv4"), IPV4);
        measure(&format!("{name} IPv6"), IPV6);
    }
}
