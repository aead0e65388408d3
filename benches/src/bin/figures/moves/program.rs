//! A program inside a node whose connections move: it takes an upload in and says whether it was whole.
//!
//! It is written as anybody would who embeds a node: it registers each connection, stops when it is asked
//! to, and packs what it needs to go on. Nothing but two numbers; what was sent to it is gone by then, as
//! it reads all that is there before it stops.

use super::course::are_octets;
use godwit_core::flow::FlowKey;
use godwit_core::handoff::Kept;
use godwit_net::repair::Frozen;
use godwit_node::handoff::{Connections, Program, Rebuilt, Refused, Rest, StopOrder, Stopped};
use std::future::Future;
use std::io::{self, ErrorKind, Read};
use std::pin::Pin;
use std::sync::{Arc, OnceLock};
use tokio::io::AsyncWriteExt;
use tokio::net::{TcpListener, TcpStream};

/// The program's number among those whose connections move; the HTTP server has 1.
const NUMBER: u8 = 100;

/// The program.
#[derive(Default)]
pub(crate) struct Uploads {
    connections: OnceLock<Arc<Connections>>,
}

/// Where an upload stands.
#[derive(Clone, Copy, Debug)]
struct State {
    octets: u64,
    intact: bool,
}

impl State {
    fn took(&mut self, bytes: &[u8]) {
        self.intact &= are_octets(bytes, self.octets);
        self.octets += bytes.len() as u64;
    }
}

impl Uploads {
    /// Accepts uploads from now on.
    pub(crate) async fn accept(self: Arc<Self>, listener: TcpListener, connections: Arc<Connections>) {
        let _ = self.connections.set(connections);
        while let Ok((stream, _)) = listener.accept().await {
            self.clone().start(stream, State { octets: 0, intact: true });
        }
    }

    fn start(self: Arc<Self>, stream: TcpStream, state: State) {
        let serving: Pin<Box<dyn Future<Output = io::Result<()>> + Send>> =
            Box::pin(self.serve(stream, state));
        tokio::spawn(serving);
    }

    async fn serve(self: Arc<Self>, mut stream: TcpStream, mut state: State) -> io::Result<()> {
        let flow = FlowKey { protocol: 6, correspondent: stream.peer_addr()?, home: stream.local_addr()? };
        let Some(connections) = self.connections.get() else { return Ok(()) };
        let (_registered, mut orders) = connections.register(flow);
        let mut buffer = vec![0; 1 << 18];
        let order = loop {
            tokio::select! {
                biased;
                Some(order) = orders.recv() => break order,
                ready = stream.readable() => ready?,
            }
            match stream.try_read(&mut buffer) {
                Ok(0) => {
                    let answer = format!("{} {}", state.octets, state.intact);
                    stream.write_all(answer.as_bytes()).await?;
                    return stream.shutdown().await;
                }
                Ok(len) => state.took(&buffer[..len]),
                Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                Err(error) => return Err(error),
            }
        };
        self.stop(order, stream.into_std()?, state, &mut buffer);
        Ok(())
    }

    /// No packet comes any more: what is there is all there is.
    fn stop(
        self: Arc<Self>,
        order: StopOrder,
        mut stream: std::net::TcpStream,
        mut state: State,
        buffer: &mut [u8],
    ) {
        while let Ok(len @ 1..) = stream.read(buffer) {
            state.took(&buffer[..len]);
        }
        let rest = Box::new(Stands { uploads: self, state });
        // Nobody waits any more: it goes on here.
        if let Err(Ok(Stopped { stream, rest })) = order.send(Ok(Stopped { stream, rest })) {
            rest.resume(stream);
        }
    }
}

/// An upload that stands still.
struct Stands {
    uploads: Arc<Uploads>,
    state: State,
}

impl Rest for Stands {
    fn program(&self) -> u8 {
        NUMBER
    }

    fn pack(&self, socket: &Frozen) -> Result<Vec<u8>, Kept> {
        // Its answer is on the way: it ends here.
        if socket.state().in_flight > 0 {
            return Err(Kept::Unmovable);
        }
        Ok([&self.state.octets.to_be_bytes()[..], &[u8::from(self.state.intact)]].concat())
    }

    fn resume(self: Box<Self>, stream: std::net::TcpStream) {
        go_on(self.uploads, self.state, stream);
    }
}

fn go_on(uploads: Arc<Uploads>, state: State, stream: std::net::TcpStream) {
    if let Ok(stream) = stream.set_nonblocking(true).and_then(|()| TcpStream::from_std(stream)) {
        uploads.start(stream, state);
    }
}

/// It goes on with uploads of other nodes.
pub(crate) struct Taking(pub(crate) Arc<Uploads>);

#[async_trait::async_trait]
impl Program for Taking {
    fn number(&self) -> u8 {
        NUMBER
    }

    async fn rebuild(&self, _: FlowKey, _: u32, packed: &[u8]) -> Result<Rebuilt, Refused> {
        let malformed = || Refused::Malformed("not nine octets".into());
        let (octets, rest) = packed.split_first_chunk().ok_or_else(malformed)?;
        let [intact @ (0 | 1)] = *rest else { return Err(malformed()) };
        let state = State { octets: u64::from_be_bytes(*octets), intact: intact == 1 };
        let uploads = self.0.clone();
        Ok(Rebuilt { in_flight: Vec::new(), go_on: Box::new(move |stream| go_on(uploads, state, stream)) })
    }
}
