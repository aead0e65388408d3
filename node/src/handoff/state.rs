//! What travels of a connection: program, socket, and what the program packed.

use godwit_net::repair::{self, DecodeError};

/// Why octets are no state of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum StateError {
    #[error("it is empty")]
    Empty,
    #[error(transparent)]
    Socket(#[from] DecodeError),
}

pub(super) fn encode(program: u8, socket: &repair::State, packed: &[u8]) -> Vec<u8> {
    let mut bytes = vec![program];
    bytes.extend(socket.encode());
    bytes.extend(packed);
    bytes
}

/// The program's number, the socket, and what the program packed.
pub(super) fn decode(bytes: &[u8]) -> Result<(u8, repair::State, &[u8]), StateError> {
    let (program, rest) = bytes.split_first().ok_or(StateError::Empty)?;
    let (socket, packed) = repair::State::decode(rest)?;
    Ok((*program, socket, packed))
}
