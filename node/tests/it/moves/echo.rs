//! A program whose connections move: it sends back what it gets, or counts it.
//!
//! The first octet says which: `e` for echo, `u` for an upload, which is answered with its length and a
//! digest when the client has said its last word.

use futures::future::BoxFuture;
use godwit_core::flow::FlowKey;
use godwit_core::handoff::Kept;
use godwit_net::repair::{Frozen, make_movable};
use godwit_node::handoff::{Connections, Program, Rebuilt, Refused, Rest, StopOrder, Stopped};
use std::io::{self, Read};
use std::net::SocketAddr;
use std::sync::{Arc, OnceLock};
use tokio::io::AsyncWriteExt;
use tokio::net::{TcpListener, TcpStream};

const NUMBER: u8 = 200;

/// Octets in flight that travel themselves.
const LITERAL_MAX: usize = 1500;

#[derive(Default)]
pub struct Echo {
    connections: OnceLock<Arc<Connections>>,
}

/// Where a connection stands.
#[derive(Clone, Debug, Default)]
struct State {
    kind: u8,
    count: u64,
    digest: u64,
    /// Read and not sent back.
    pending: Vec<u8>,
}

impl Echo {
    /// Accepts connections from now on.
    pub async fn listen(self: Arc<Self>, address: SocketAddr, connections: Arc<Connections>) {
        let _ = self.connections.set(connections);
        let listener = TcpListener::bind(address).await.unwrap();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                make_movable(&stream).unwrap();
                stream.set_nodelay(true).unwrap();
                tokio::spawn(self.clone().serve(stream, State::default()));
            }
        });
    }

    fn serve(self: Arc<Self>, stream: TcpStream, state: State) -> BoxFuture<'static, ()> {
        Box::pin(async move {
            let _ = self.serve_from(stream, state).await;
        })
    }

    async fn serve_from(self: Arc<Self>, mut stream: TcpStream, mut state: State) -> io::Result<()> {
        let flow = FlowKey { protocol: 6, correspondent: stream.peer_addr()?, home: stream.local_addr()? };
        let (_registered, mut orders) = self.connections.get().unwrap().register(flow);
        let mut buffer = vec![0; 1 << 18];
        loop {
            let order: StopOrder = tokio::select! {
                biased;
                Some(order) = orders.recv() => order,
                ready = stream.writable(), if !state.pending.is_empty() => {
                    ready?;
                    let sent = stream.try_write(&state.pending).or_else(later)?;
                    state.pending.drain(..sent);
                    continue;
                }
                ready = stream.readable(), if state.pending.is_empty() => {
                    ready?;
                    let got = match stream.try_read(&mut buffer) {
                        Err(error) if error.kind() == io::ErrorKind::WouldBlock => continue,
                        got => got?,
                    };
                    state.took(&buffer[..got]);
                    if got == 0 {
                        if state.kind == b'u' {
                            stream.write_all(format!("{} {}", state.count, state.digest).as_bytes()).await?;
                        }
                        return stream.shutdown().await;
                    }
                    continue;
                }
            };
            // No packet comes any more: what is there is all there is. An upload takes it in; of an echo
            // it may stay where it is.
            let mut stream = stream.into_std()?;
            while state.kind == b'u' {
                match stream.read(&mut buffer) {
                    Ok(got) if got > 0 => state.took(&buffer[..got]),
                    _ => break,
                }
            }
            let rest = Box::new(Stands { echo: self, state });
            if let Err(Ok(Stopped { stream, rest })) = order.send(Ok(Stopped { stream, rest })) {
                rest.resume(stream);
            }
            return Ok(());
        }
    }
}

fn later(error: io::Error) -> io::Result<usize> {
    if error.kind() == io::ErrorKind::WouldBlock { Ok(0) } else { Err(error) }
}

impl State {
    fn took(&mut self, mut bytes: &[u8]) {
        if self.kind == 0 && !bytes.is_empty() {
            self.kind = bytes[0];
            bytes = &bytes[1..];
        }
        match self.kind {
            b'e' => self.pending.extend(bytes),
            _ => {
                self.count += bytes.len() as u64;
                self.digest = digest(self.digest, bytes);
            }
        }
    }
}

/// A digest that depends on the order of octets, and on no cut.
pub fn digest(before: u64, bytes: &[u8]) -> u64 {
    bytes.iter().fold(before, |digest, byte| {
        (digest ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3).rotate_left(5)
    })
}

struct Stands {
    echo: Arc<Echo>,
    state: State,
}

impl Rest for Stands {
    fn program(&self) -> u8 {
        NUMBER
    }

    fn pack(&self, socket: &Frozen) -> Result<Vec<u8>, Kept> {
        let in_flight = socket.in_flight().map_err(|_| Kept::Unmovable)?;
        if in_flight.len() + self.state.pending.len() > LITERAL_MAX {
            return Err(Kept::TooLarge);
        }
        let State { kind, count, digest, pending } = &self.state;
        let numbers = [&[*kind][..], &count.to_be_bytes(), &digest.to_be_bytes()].concat();
        Ok([&numbers[..], &in_flight, pending].concat())
    }

    fn resume(self: Box<Self>, stream: std::net::TcpStream) {
        go_on(self.echo, self.state, stream);
    }
}

fn go_on(echo: Arc<Echo>, state: State, stream: std::net::TcpStream) {
    stream.set_nonblocking(true).unwrap();
    stream.set_nodelay(true).unwrap();
    tokio::spawn(echo.serve(TcpStream::from_std(stream).unwrap(), state));
}

/// It goes on with connections of others.
pub struct Shared(pub Arc<Echo>);

#[async_trait::async_trait]
impl Program for Shared {
    fn number(&self) -> u8 {
        NUMBER
    }

    async fn rebuild(&self, _flow: FlowKey, in_flight: u32, packed: &[u8]) -> Result<Rebuilt, Refused> {
        let malformed = || Refused::Malformed("too short".into());
        let (numbers, rest) = packed.split_first_chunk::<17>().ok_or_else(malformed)?;
        let (in_flight, pending) = rest.split_at_checked(in_flight as usize).ok_or_else(malformed)?;
        let number = |at: usize| u64::from_be_bytes(numbers[at..at + 8].try_into().unwrap());
        let state =
            State { kind: numbers[0], count: number(1), digest: number(9), pending: pending.to_vec() };
        let echo = self.0.clone();
        let in_flight = in_flight.to_vec();
        Ok(Rebuilt { in_flight, go_on: Box::new(move |stream| go_on(echo, state, stream)) })
    }
}
