//! What a redirector makes of garbage and of forged queries.
//!
//! ```text
//! cargo run --release -p godwit-redirector --example attack -- 127.0.0.1:5300 edge.example.org [PACKETS]
//! ```
//!
//! Sends malformed packets (1,000,000 unless told otherwise) of some ten kinds from one address, then
//! queries in and beyond the zone, and prints octets out for octets in. With no answer to a sound query
//! in the end it exits with 1. Point it at servers of your own only.

use std::error::Error;
use std::net::UdpSocket;
use std::time::{Duration, Instant};

/// SplitMix64.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, end: usize) -> usize {
        (self.next() % end as u64) as usize
    }
}

fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = std::env::args().skip(1);
    let usage = "usage: attack ADDRESS ZONE [PACKETS]";
    let (target, zone) = (arguments.next().ok_or(usage)?, arguments.next().ok_or(usage)?);
    let count: usize = arguments.next().map_or(Ok(1_000_000), |count| count.parse())?;
    let socket = UdpSocket::bind("0.0.0.0:0")?;
    socket.connect(&target)?;
    let mut random = Random(1);
    let flood = exchange(&socket, count, || malformed(&mut random, &zone))?;
    println!("malformed: {flood}");
    for (label, name) in [
        ("in zone", format!("www.{zone}")),
        ("not there", format!("nosuch.{zone}")),
        ("beyond", "www.example.net".to_owned()),
    ] {
        for (kind, edns) in
            [(1, false), (1, true), (28, false), (28, true), (2, true), (6, false), (255, true), (16, true)]
        {
            let one = exchange(&socket, 1, || query(7, &name, kind, edns))?;
            println!("{label}, type {kind}, EDNS {edns}: {one}");
        }
    }
    let alive = exchange(&socket, 1, || query(9, &zone, 6, false))?;
    if alive.out == 0 {
        return Err("no answer to a sound query".into());
    }
    Ok(())
}

/// Octets in and out.
struct Exchange {
    packets: usize,
    replies: usize,
    sent: usize,
    out: usize,
    time: Duration,
}

impl std::fmt::Display for Exchange {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Exchange { packets, replies, sent, out, time } = self;
        let ratio = *out as f64 / *sent as f64;
        write!(
            f,
            "{packets} packets, {replies} replies, {sent} octets in, {out} out: {ratio:.3} in {time:.1?}"
        )
    }
}

fn exchange(
    socket: &UdpSocket,
    packets: usize,
    mut make: impl FnMut() -> Vec<u8>,
) -> std::io::Result<Exchange> {
    let started = Instant::now();
    let (mut sent, mut out, mut replies) = (0, 0, 0);
    let mut buffer = [0; 65_535];
    let mut take = |socket: &UdpSocket| {
        socket.recv(&mut buffer).map(|len| {
            out += len;
            replies += 1;
        })
    };
    for number in 0..packets {
        let packet = make();
        sent += socket.send(&packet).unwrap_or(0);
        // The sender must not outrun the socket's buffer, or nothing would be measured but that.
        if number % 64 == 63 {
            socket.set_nonblocking(true)?;
            while take(socket).is_ok() {}
            std::thread::sleep(Duration::from_micros(300));
        }
    }
    socket.set_nonblocking(false)?;
    socket.set_read_timeout(Some(Duration::from_millis(300)))?;
    while take(socket).is_ok() {}
    Ok(Exchange { packets, replies, sent, out, time: started.elapsed() })
}

fn query(id: u16, name: &str, kind: u8, edns: bool) -> Vec<u8> {
    let mut packet = id.to_be_bytes().to_vec();
    packet.extend([1, 0, 0, 1, 0, 0, 0, 0, 0, u8::from(edns)]);
    for label in name.split('.') {
        packet.push(label.len() as u8);
        packet.extend(label.bytes());
    }
    packet.extend([0, 0, kind, 0, 1]);
    if edns {
        packet.extend([0, 0, 41, 4, 208, 0, 0, 0, 0, 0, 0]);
    }
    packet
}

fn malformed(random: &mut Random, zone: &str) -> Vec<u8> {
    let mut packet = query(random.next() as u16, &format!("www.{zone}"), 1, true);
    match random.below(10) {
        0 => packet.truncate(random.below(12)),
        1 => packet.truncate(12 + random.below(packet.len() - 12)),
        2 => packet.extend((0..1 + random.below(60)).map(|_| random.next() as u8)),
        // Other numbers of questions, a response, another opcode.
        3 => packet[5] = [0, 2, 255][random.below(3)],
        4 => packet[2] |= 0x80,
        5 => packet[2] = (1 + random.below(15) as u8) << 3,
        // A label that is none, a pointer in the question, a name without an end.
        6 => packet[12] = 64 + random.below(192) as u8,
        7 => {
            packet.truncate(12);
            packet.extend([63; 300]);
        }
        // A client subnet with bits beyond its prefix; an option cut short.
        8 => {
            let len = packet.len();
            packet[len - 1] = 11;
            packet.extend([0, 8, 0, 7, 0, 1, 20, 0, 203, 0, 255]);
        }
        _ => {
            let len = packet.len();
            packet[len - 1] = 4;
            packet.extend([0, 10, 0, 99]);
        }
    }
    packet
}
