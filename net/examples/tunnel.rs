//! What a tunnel costs: an upload through it against the same without, and against a tunnel that moves
//! one packet for each call; and how many small packets it carries.
//!
//! Three namespaces, one process: client, home agent, node. Answers take the direct way back, as they
//! usually do. Processor time is that of the two engines' threads, the kernel's work in their name
//! included. Each way is measured in turn, several times, and medians are compared: on a machine with few
//! cores absolute figures move by the factor of two between minutes, ratios do not.
//!
//! `unshare -Urn target/release/examples/tunnel [ROUNDS [SECONDS [WAY]]]`
#![allow(clippy::unwrap_used, reason = "a measurement may panic")]

#[path = "../tests/it/world.rs"]
#[allow(dead_code, reason = "shared with the tests")]
mod world;

use godwit_core::tunnel::Cipher;
use godwit_net::netlink::{Netlink, Route, interface_index};
use socket2::{Domain, SockRef, Socket, Type};
use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::process::Command;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};
use world::{Cables, HOME_V4, Return, World, ip};

/// A kind of cable.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Wire {
    Whole,
    Frames,
}

/// One way to carry.
#[derive(Clone, Copy)]
struct Way {
    name: &'static str,
    /// `None` without a tunnel.
    tunnel: Option<(Cipher, bool)>,
}

const WAYS: [Way; 4] = [
    Way { name: "direct", tunnel: None },
    Way { name: "AES-256-GCM", tunnel: Some((Cipher::Aes256Gcm, true)) },
    Way { name: "ChaCha20-Poly1305", tunnel: Some((Cipher::ChaCha20Poly1305, true)) },
    Way { name: "AES, one packet a call", tunnel: Some((Cipher::Aes256Gcm, false)) },
];

/// What came of one measurement.
#[derive(Clone, Copy, Default)]
struct Sample {
    /// Bits or packets for each second.
    rate: f64,
    /// Processor seconds of the home agent's and the node's threads, for each second.
    processor: [f64; 2],
}

fn main() {
    let mut arguments = std::env::args().skip(1);
    let mut number = |default| arguments.next().map_or(default, |argument| argument.parse().unwrap());
    let (rounds, time) = (number(5), Duration::from_secs(number(2)));
    let only = arguments.next().unwrap_or_default();
    let mut kinds = vec![
        ("upload, one connection", Wire::Whole, 1e9, upload as fn(&Cables, Duration) -> f64),
        ("datagrams of 64 octets, one flow", Wire::Whole, 1e3, small),
    ];
    match Command::new("ethtool").arg("--version").output() {
        Ok(_) => {
            kinds.insert(1, ("upload, one connection, frames of 1,500 octets", Wire::Frames, 1e9, upload))
        }
        Err(error) => println!("SKIPPED: frames of 1,500 octets: ethtool: {error}"),
    }
    for (title, wire, unit, measure) in kinds {
        let mut samples = WAYS.map(|_| Vec::new());
        for _ in 0..rounds {
            for (way, samples) in WAYS.iter().zip(&mut samples).filter(|(way, _)| way.name.contains(&only)) {
                samples.push(run(*way, wire, time, measure));
            }
        }
        println!("\n{title}, {rounds} times {} s each, medians", time.as_secs());
        let name = if unit > 1e6 { "Gbit" } else { "k packets" };
        println!("| way | {name}/s | of direct | {name} per core-second: home agent | node | both |");
        println!("|---|---|---|---|---|---|");
        let direct = median(&samples[0], |sample| sample.rate);
        for (way, samples) in WAYS.iter().zip(&samples).filter(|(_, samples)| !samples.is_empty()) {
            let rate = median(samples, |sample| sample.rate);
            let per = |of: &dyn Fn(&Sample) -> f64| match way.tunnel {
                Some(_) => format!("{:.1}", median(samples, |sample| sample.rate / of(sample)) / unit),
                None => "-".to_owned(),
            };
            println!(
                "| {} | {:.2} | {:.2} | {} | {} | {} |",
                way.name,
                rate / unit,
                rate / direct,
                per(&|sample| sample.processor[0]),
                per(&|sample| sample.processor[1]),
                per(&|sample| sample.processor[0] + sample.processor[1]),
            );
        }
    }
}

fn median(samples: &[Sample], of: impl Fn(&Sample) -> f64) -> f64 {
    let mut values: Vec<f64> = samples.iter().map(of).collect();
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}

fn run(way: Way, wire: Wire, time: Duration, measure: fn(&Cables, Duration) -> f64) -> Sample {
    let Some((cipher, batching)) = way.tunnel else {
        let cables = direct();
        lay(wire, &cables);
        return Sample { rate: measure(&cables, time), processor: [0.0; 2] };
    };
    let world = world::world(false, cipher, batching, Return::Direct);
    lay(wire, &world.cables);
    let before = processor(&world);
    let began = Instant::now();
    let rate = measure(&world.cables, time);
    let (after, took) = (processor(&world), began.elapsed().as_secs_f64());
    let processor = [0, 1].map(|end| ((after[end] - before[end]) / took).max(1e-9));
    Sample { rate, processor }
}

/// Makes the cables what they are to be.
fn lay(wire: Wire, cables: &Cables) {
    if wire == Wire::Whole {
        return;
    }
    for (host, ends) in
        [(&cables.client, &["h"][..]), (&cables.home_agent, &["c", "n"]), (&cables.node, &["h"])]
    {
        for end in ends {
            let features = ["tso", "off", "tx-udp-segmentation", "off", "gro", "on"];
            let set = host.run(|| Command::new("ethtool").args(["-K", end]).args(features).output()).unwrap();
            assert!(set.status.success(), "ethtool: {}", String::from_utf8_lossy(&set.stderr));
        }
    }
}

/// The home address at the node, by a plain route.
fn direct() -> Cables {
    let cables = world::cables();
    cables
        .home_agent
        .run(|| {
            let gateway = Some(ip("10.2.0.2"));
            let interface = interface_index("n")?;
            Netlink::open()?.add_route(&Route { destination: ip(HOME_V4).into(), interface, gateway })
        })
        .unwrap();
    cables.node.run(|| Netlink::open()?.add_address(interface_index("lo")?, ip(HOME_V4))).unwrap();
    cables
}

/// Processor seconds that the threads of both engines have taken.
fn processor(world: &World) -> [f64; 2] {
    [&world.home_agent, &world.node].map(|end| end.threads.iter().map(|thread| seconds(*thread)).sum())
}

fn seconds(thread: u32) -> f64 {
    // Nanoseconds on a processor (Documentation/scheduler/sched-stats.rst).
    let stat = std::fs::read_to_string(format!("/proc/self/task/{thread}/schedstat")).unwrap_or_default();
    stat.split(' ').next().and_then(|time| time.parse::<f64>().ok()).unwrap_or(0.0) / 1e9
}

/// Bits for each second that arrive of one connection.
fn upload(cables: &Cables, time: Duration) -> f64 {
    let listener = cables.node.run(|| TcpListener::bind((ip(HOME_V4), 0))).unwrap();
    let to = listener.local_addr().unwrap();
    let stream = cables.client.run(|| connect(to)).unwrap();
    let (stop, received) = (AtomicBool::new(false), AtomicU64::new(0));
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let (mut stream, mut buffer) = (listener.accept().unwrap().0, vec![0; 256 << 10]);
            while let Ok(len @ 1..) = stream.read(&mut buffer) {
                received.fetch_add(len as u64, Relaxed);
            }
        });
        scope.spawn(|| {
            let (mut stream, buffer) = (&stream, vec![7; 256 << 10]);
            while !stop.load(Relaxed) {
                stream.write_all(&buffer).unwrap();
            }
            let _ = stream.shutdown(std::net::Shutdown::Both);
        });
        8.0 * over(time, &stop, || received.load(Relaxed))
    })
}

/// Comparable with other machines, whatever their default; said before it connects, as what has begun
/// with BBR is paced for ever.
fn connect(to: SocketAddr) -> io::Result<TcpStream> {
    let socket = Socket::new(Domain::for_address(to), Type::STREAM, None)?;
    let _ = socket.set_tcp_congestion(b"cubic");
    socket.connect(&to.into())?;
    Ok(socket.into())
}

/// Datagrams for each second that arrive of one flow.
fn small(cables: &Cables, time: Duration) -> f64 {
    let server = cables.node.run(|| UdpSocket::bind((ip(HOME_V4), 0))).unwrap();
    server.set_read_timeout(Some(Duration::from_millis(100))).unwrap();
    let _ = SockRef::from(&server).set_recv_buffer_size(4 << 20);
    let client = cables.client.run(|| UdpSocket::bind("10.1.0.2:0")).unwrap();
    client.connect(server.local_addr().unwrap()).unwrap();
    let (stop, received) = (AtomicBool::new(false), AtomicU64::new(0));
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let mut buffer = [0; 100];
            while !stop.load(Relaxed) {
                if server.recv(&mut buffer).is_ok() {
                    received.fetch_add(1, Relaxed);
                }
            }
        });
        scope.spawn(|| {
            while !stop.load(Relaxed) {
                let _ = client.send(&[7; 64]);
            }
        });
        over(time, &stop, || received.load(Relaxed))
    })
}

/// How much more there is for each second, once it flows.
fn over(time: Duration, stop: &AtomicBool, count: impl Fn() -> u64) -> f64 {
    std::thread::sleep(Duration::from_millis(300));
    let (began, before) = (Instant::now(), count());
    std::thread::sleep(time);
    let rate = (count() - before) as f64 / began.elapsed().as_secs_f64();
    stop.store(true, Relaxed);
    rate
}
