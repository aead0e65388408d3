//! How far a resolver is: one echo request, or one connection to port 53, and nothing that privileges
//! are needed for.
//!
//! - *Echo*: an ICMP socket that the kernel lets users have (`net.ipv4.ping_group_range`). One packet
//!   of 64 octets, whose text says who asks, and one back.
//! - *Connect*: a TCP handshake, closed at once. A refusal takes as long as an acceptance does.
//!
//! No question is asked, so nothing is looked up, logged or counted against a limit there.

use godwit_core::resolver::{Method, Outcome, Probe};
use socket2::{Domain, Protocol, Socket, Type};
use std::io::{self, ErrorKind};
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};
use tokio::net::{TcpStream, UdpSocket};

/// Where resolvers listen.
const PORT: u16 = 53;
/// Octets of an echo request after its header: 64 with it, as `ping` sends.
const PAYLOAD_LEN: usize = 56;
/// Octets of the header (RFC 792, RFC 4443, 4.1).
const HEADER_LEN: usize = 8;
/// ICMP types: echo request and reply, for IPv4 and IPv6.
const V4: [u8; 2] = [8, 0];
const V6: [u8; 2] = [128, 129];

/// Makes one probe. `who` stands at the beginning of an echo request, as much as has room: a person
/// who wonders about it there can find out whose it is. `nonce` tells its answer from others.
pub async fn measure(probe: Probe, who: &str, nonce: u64, timeout: Duration) -> Outcome {
    let took = async {
        match probe.method {
            Method::Echo => echo(probe.address, who, nonce).await,
            Method::Connect => connect(SocketAddr::new(probe.address, PORT)).await,
        }
    };
    judge(timeout, took).await
}

async fn judge(timeout: Duration, took: impl Future<Output = Result<Duration, Failed>>) -> Outcome {
    match tokio::time::timeout(timeout, took).await {
        Ok(Ok(took)) => Outcome::Took(took),
        Ok(Err(Failed::Unable)) => Outcome::Unable,
        Ok(Err(Failed::Silent)) | Err(_) => Outcome::Silent,
    }
}

enum Failed {
    Silent,
    Unable,
}

impl From<io::Error> for Failed {
    fn from(_: io::Error) -> Failed {
        Failed::Silent
    }
}

async fn connect(address: SocketAddr) -> Result<Duration, Failed> {
    let started = Instant::now();
    match TcpStream::connect(address).await {
        Ok(_closed_at_once) => Ok(started.elapsed()),
        Err(error) if error.kind() == ErrorKind::ConnectionRefused => Ok(started.elapsed()),
        Err(error) => Err(error.into()),
    }
}

async fn echo(address: IpAddr, who: &str, nonce: u64) -> Result<Duration, Failed> {
    let socket = echo_socket(address).map_err(|_| Failed::Unable)?;
    socket.connect(&SocketAddr::new(address, 0).into())?;
    let socket = UdpSocket::from_std(socket.into())?;
    let [request, reply] = if address.is_ipv4() { V4 } else { V6 };
    let packet = packet(request, who, nonce);
    let started = Instant::now();
    socket.send(&packet).await?;
    let mut buffer = [0; 1500];
    loop {
        let len = socket.recv(&mut buffer).await?;
        let took = started.elapsed();
        // The kernel has put an identifier of its own into the header.
        let answer = &buffer[..len];
        if answer.first() == Some(&reply) && answer.get(HEADER_LEN..) == packet.get(HEADER_LEN..) {
            return Ok(took);
        }
    }
}

/// A datagram socket for echo requests: the kernel fills in identifier and checksum, and passes on
/// answers to its own requests alone.
fn echo_socket(address: IpAddr) -> io::Result<Socket> {
    let (domain, protocol) = match address {
        IpAddr::V4(_) => (Domain::IPV4, Protocol::ICMPV4),
        IpAddr::V6(_) => (Domain::IPV6, Protocol::ICMPV6),
    };
    let socket = Socket::new(domain, Type::DGRAM, Some(protocol))?;
    socket.set_nonblocking(true)?;
    Ok(socket)
}

fn packet(request: u8, who: &str, nonce: u64) -> [u8; HEADER_LEN + PAYLOAD_LEN] {
    let mut packet = [0; HEADER_LEN + PAYLOAD_LEN];
    packet[0] = request;
    packet[HEADER_LEN..][..8].copy_from_slice(&nonce.to_be_bytes());
    let room = PAYLOAD_LEN - 8;
    let who = &who.as_bytes()[..who.len().min(room)];
    packet[HEADER_LEN + 8..][..who.len()].copy_from_slice(who);
    packet
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_echo_request_says_who_sends_it() {
        let packet = packet(8, &"godwit edge.example ".repeat(9), 7);
        assert_eq!(packet[..2], [8, 0]);
        assert_eq!(packet[HEADER_LEN..][..8], 7u64.to_be_bytes());
        assert!(packet[HEADER_LEN + 8..].starts_with(b"godwit edge.example godwit"));
    }

    #[tokio::test]
    async fn this_host_is_near_and_says_so_either_way() {
        let timeout = Duration::from_secs(30);
        let address = IpAddr::from([127, 0, 0, 1]);
        // Whether something listens on port 53 here or not: both are answers.
        let outcome = measure(Probe { address, method: Method::Connect }, "godwit", 1, timeout).await;
        assert!(matches!(outcome, Outcome::Took(took) if took < timeout), "{outcome:?}");
        match measure(Probe { address, method: Method::Echo }, "godwit", 2, timeout).await {
            Outcome::Took(took) => assert!(took < timeout),
            Outcome::Unable => println!("SKIPPED: this host lets nobody have echo sockets"),
            Outcome::Silent => panic!("the loopback answers echo requests"),
        }
    }

    #[tokio::test]
    async fn who_does_not_answer_is_silent() {
        let full = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
        full.bind(&SocketAddr::from(([127, 0, 0, 1], 0)).into()).unwrap();
        full.listen(0).unwrap();
        let address = full.local_addr().unwrap();
        // Nobody accepts: the queue fills up, and then the kernel drops what comes.
        let waiting = (0..8).map(|_| {
            let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
            socket.set_nonblocking(true).unwrap();
            let _ = socket.connect(&address);
            socket
        });
        let _waiting: Vec<Socket> = waiting.collect();
        let outcome = judge(Duration::from_millis(300), connect(address.as_socket().unwrap())).await;
        assert_eq!(outcome, Outcome::Silent);
    }
}
