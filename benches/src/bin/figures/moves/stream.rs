//! A thousand datagrams a second to a program that sends them back.

use super::client::StreamOptions;
use super::course::{Silence, now_ms};
use anyhow::Result;
use serde::{Deserialize, Serialize};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::time::{Duration, Instant};

/// Where that program listens on each node.
pub(crate) const ECHO_PORT: u16 = 7700;
/// What comes late, comes within this.
const LATE: Duration = Duration::from_secs(1);

/// What a client saw of its stream.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Stream {
    pub(crate) sent: u64,
    pub(crate) received: u64,
    /// The longest run of lost datagrams, one each millisecond.
    pub(crate) longest_loss: u64,
    pub(crate) silences: Vec<Silence>,
}

/// Sends a thousand datagrams a second and tells which came back.
pub(crate) fn stream(options: &StreamOptions) -> Result<()> {
    let any: IpAddr = match options.address {
        IpAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
        IpAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
    };
    let socket = UdpSocket::bind((any, 0))?;
    socket.connect(SocketAddr::from((options.address, options.port)))?;
    socket.set_read_timeout(Some(LATE))?;
    let count = options.seconds * 1000;
    let mut came = vec![false; count as usize];
    let mut silences = Vec::new();
    std::thread::scope(|scope| -> Result<()> {
        let receiver = scope.spawn(|| {
            let (mut buffer, mut last) = ([0; 64], None::<Instant>);
            while let Ok(len) = socket.recv(&mut buffer) {
                let number = buffer[..len].first_chunk().map_or(u64::MAX, |bytes| u64::from_be_bytes(*bytes));
                if let Some(one) = came.get_mut(number as usize) {
                    *one = true;
                }
                let ms = last.map_or(0.0, |last| last.elapsed().as_secs_f64() * 1e3);
                silences.push(Silence { until_ms: now_ms(), ms });
                last = Some(Instant::now());
            }
        });
        let began = Instant::now();
        for number in 0..count {
            let due = began + Duration::from_millis(number);
            std::thread::sleep(due.saturating_duration_since(Instant::now()));
            // A refusal is a loss like others.
            let _ = socket.send(&number.to_be_bytes());
        }
        receiver.join().map_err(|_| anyhow::anyhow!("the receiver panicked"))
    })?;
    silences.retain(|silence: &Silence| silence.ms >= 5.0);
    let longest_loss = came.split(|came| *came).map(<[bool]>::len).max().unwrap_or(0) as u64;
    let received = came.iter().filter(|came| **came).count() as u64;
    println!("{}", serde_json::to_string(&Stream { sent: count, received, longest_loss, silences })?);
    Ok(())
}

/// Returns datagrams to where they came from, until it is killed.
pub(crate) fn echo() -> Result<()> {
    let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, ECHO_PORT))?;
    let mut buffer = [0; 2048];
    loop {
        let (len, from) = socket.recv_from(&mut buffer)?;
        let _ = socket.send_to(&buffer[..len], from);
    }
}
