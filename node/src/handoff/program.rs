//! The seam: what a program does so that its connections can move.

use godwit_core::flow::FlowKey;
use godwit_core::handoff::Kept;
use godwit_net::repair::Frozen;
use std::net::TcpStream;

/// A connection that its program has stopped using.
pub struct Stopped {
    /// The socket. Nobody else has a descriptor of it.
    pub stream: TcpStream,
    /// What the program needs to go on.
    pub rest: Box<dyn Rest>,
}

/// What a program needs to go on with a connection, here or elsewhere.
pub trait Rest: Send {
    /// Which program, by [`Program::number`].
    fn program(&self) -> u8;

    /// The octets by which the program goes on elsewhere. Those in flight are for it to make anew: it says
    /// here what it needs for that.
    fn pack(&self, socket: &Frozen) -> Result<Vec<u8>, Kept>;

    /// Goes on here. The socket blocks or does not, as it was.
    fn resume(self: Box<Self>, stream: TcpStream);
}

/// A program that goes on with connections of other nodes.
#[async_trait::async_trait]
pub trait Program: Send + Sync + 'static {
    /// Names the program and the form of what it packs, the same at all nodes.
    fn number(&self) -> u8;

    /// Makes `in_flight` octets anew and gets ready, from what [`Rest::pack`] said.
    async fn rebuild(&self, flow: FlowKey, in_flight: u32, packed: &[u8]) -> Result<Rebuilt, Refused>;
}

impl std::fmt::Debug for dyn Program {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "program {}", self.number())
    }
}

/// A connection that goes on as soon as it has a socket.
pub struct Rebuilt {
    /// The octets in flight.
    pub in_flight: Vec<u8>,
    /// Goes on. The socket does not block. Called outside of any task, in a runtime.
    pub go_on: Box<dyn FnOnce(TcpStream) + Send>,
}

/// Why a program does not go on with a connection.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// What was packed is malformed, or of another version of the program.
    #[error("malformed: {0}")]
    Malformed(String),
    /// Content is not here.
    #[error("{0}")]
    Absent(String),
    /// There is no room for one more connection.
    #[error("no room for one more connection")]
    Full,
}
