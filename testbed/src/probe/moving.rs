//! A client of services that move: one long download, and a stream of datagrams; and the program that
//! sends those back.

use super::{millis, now_ms, print};
use crate::demo::site;
use anyhow::{bail, ensure};
use serde::{Deserialize, Serialize};
use std::io::{self, Read, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpStream, UdpSocket};
use std::time::{Duration, Instant};

/// Nothing is waited for longer: then it has broken.
const PATIENCE: Duration = Duration::from_secs(20);

/// Silences shorter than this are how packets come.
pub(crate) const SILENCE_MIN: Duration = Duration::from_millis(10);

/// Most silences that are told.
const SILENCES_MAX: usize = 2000;

/// Datagrams are a millisecond apart.
const PACE: Duration = Duration::from_millis(1);

/// What comes late, comes within this.
const LATE: Duration = Duration::from_secs(1);

/// A time without anything.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Silence {
    /// When it ended, ms since 1970.
    pub until_ms: u64,
    /// How long it was, ms.
    pub ms: f64,
}

/// What [`super::Task::Download`] prints.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Download {
    /// Octets that came.
    pub octets: u64,
    /// Whether all were there, each as it was published.
    pub intact: bool,
    /// Why it ended early: a reset, for example.
    pub error: Option<String>,
    /// How long it took, seconds.
    pub seconds: f64,
    /// The silences in it.
    pub silences: Vec<Silence>,
}

/// What [`super::Task::Stream`] prints.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Stream {
    /// Datagrams sent.
    pub sent: u64,
    /// When those were sent that did not come back, ms since 1970.
    pub lost_at_ms: Vec<u64>,
    /// The silences in it.
    pub silences: Vec<Silence>,
}

/// Notes silences as they end.
struct Silences {
    last: Instant,
    noted: Vec<Silence>,
}

impl Silences {
    fn new() -> Silences {
        Silences { last: Instant::now(), noted: Vec::new() }
    }

    fn heard(&mut self) {
        let silence = self.last.elapsed();
        if silence >= SILENCE_MIN && self.noted.len() < SILENCES_MAX {
            self.noted.push(Silence { until_ms: now_ms(), ms: millis(silence) });
        }
        self.last = Instant::now();
    }
}

/// Downloads the demo's long file from `host` at a home address.
pub(super) fn download(address: IpAddr, port: u16, host: &str, len: u64) -> anyhow::Result<()> {
    let mut stream = TcpStream::connect_timeout(&SocketAddr::new(address, port), PATIENCE)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    let path = site::LONG;
    write!(stream, "GET /{path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n")?;
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let mut octet = [0];
        ensure!(stream.read(&mut octet)? == 1 && head.len() < 8192, "no head of a response");
        head.extend(octet);
    }
    if !head.starts_with(b"HTTP/1.1 200") {
        bail!("{}", String::from_utf8_lossy(&head));
    }
    let (began, mut silences) = (Instant::now(), Silences::new());
    let mut seen = Download { intact: true, ..Download::default() };
    let mut buffer = vec![0; 64 << 10];
    loop {
        match stream.read(&mut buffer) {
            Ok(0) => break,
            Ok(len) => {
                silences.heard();
                let expected = (seen.octets..).map(site::long_octet);
                seen.intact &= buffer[..len].iter().copied().zip(expected).all(|(is, should)| is == should);
                seen.octets += len as u64;
            }
            Err(error) => {
                seen.error = Some(error.to_string());
                break;
            }
        }
    }
    seen.intact &= seen.octets == len;
    seen.seconds = began.elapsed().as_secs_f64();
    seen.silences = silences.noted;
    print(&seen)
}

/// Sends a thousand numbered datagrams a second to a home address and looks which come back.
pub(super) fn stream(address: IpAddr, port: u16, seconds: f64) -> anyhow::Result<()> {
    let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))?;
    socket.connect((address, port))?;
    socket.set_read_timeout(Some(LATE))?;
    let count = (seconds * 1000.0) as u64;
    let began_ms = now_ms();
    let (came, silences) = std::thread::scope(|scope| {
        let receiver = scope.spawn(|| {
            let (mut came, mut silences) = (vec![false; count as usize], None::<Silences>);
            let mut buffer = [0; 64];
            while let Ok(len) = socket.recv(&mut buffer) {
                let number =
                    buffer[..len].first_chunk().map_or(u64::MAX, |number| u64::from_be_bytes(*number));
                if let Some(one) = came.get_mut(number as usize) {
                    *one = true;
                }
                silences.get_or_insert_with(Silences::new).heard();
            }
            (came, silences.map(|silences| silences.noted).unwrap_or_default())
        });
        let began = Instant::now();
        for number in 0..count {
            let due = began + PACE * number as u32;
            std::thread::sleep(due.saturating_duration_since(Instant::now()));
            // What is refused on the way is lost like the rest.
            let _ = socket.send(&number.to_be_bytes());
        }
        receiver.join()
    })
    .map_err(|_| anyhow::anyhow!("the receiver panicked"))?;
    let lost = came.iter().enumerate().filter(|(_, came)| !**came);
    let lost_at_ms = lost.map(|(number, _)| began_ms + number as u64).collect();
    print(&Stream { sent: count, lost_at_ms, silences })
}

/// Sends datagrams back to where they came from, until it is killed. Says when it is ready.
pub(super) fn echo(port: u16) -> anyhow::Result<()> {
    let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, port))?;
    print(&"ready")?;
    let mut buffer = [0; 2048];
    loop {
        match socket.recv_from(&mut buffer) {
            Ok((len, from)) => drop(socket.send_to(&buffer[..len], from)),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error.into()),
        }
    }
}
