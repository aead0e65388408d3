//! Messages between members about home addresses, for whoever moves connections: the home agent, or
//! this node's own part in it.

use godwit_core::key::MemberId;
use godwit_core::mobility::Message;
use godwit_overlay::{Overlay, Said, SendError};
use tokio::sync::mpsc;

/// What was heard.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Heard {
    /// This member is connected now: it may be new, or have forgotten everything.
    Connected(MemberId),
    /// A member said this.
    Message {
        /// Who: its connection has proved it.
        from: MemberId,
        /// What.
        message: Box<Message>,
    },
    /// A member said something that is no message. Nothing of it counts.
    Malformed {
        /// Who.
        from: MemberId,
        /// What is wrong with it.
        why: String,
    },
}

/// The receiving end; a member has one.
#[derive(Debug)]
pub struct Moves {
    pub(crate) said: mpsc::Receiver<Said>,
    pub(crate) connected: mpsc::Receiver<MemberId>,
}

impl Moves {
    /// Waits for the next; `None` when the member stops.
    pub async fn next(&mut self) -> Option<Heard> {
        tokio::select! {
            biased;
            Some(peer) = self.connected.recv() => Some(Heard::Connected(peer)),
            said = self.said.recv() => Some(read(said?)),
        }
    }
}

fn read(Said { from, bytes }: Said) -> Heard {
    match Message::decode(&bytes) {
        Ok(message) => Heard::Message { from, message: Box::new(message) },
        Err(error) => Heard::Malformed { from, why: error.to_string() },
    }
}

/// The sending end. Clones are the same.
#[derive(Clone)]
pub struct Tell(pub(crate) Overlay);

impl Tell {
    /// Tells a connected member. It may be lost with the connection.
    pub fn tell(&self, to: MemberId, message: &Message) -> Result<(), SendError> {
        self.0.send_mobility(to, message.encode().into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn what_is_no_message_is_told_as_such() {
        let (say, said) = mpsc::channel(4);
        let (connect, connected) = mpsc::channel(4);
        let mut moves = Moves { said, connected };
        let from = MemberId::from_bytes([1; 32]);
        say.send(Said { from, bytes: "nonsense".into() }).await.unwrap();
        say.send(Said { from, bytes: Message::RelayWanted.encode().into() }).await.unwrap();
        assert!(matches!(moves.next().await, Some(Heard::Malformed { .. })));
        connect.send(from).await.unwrap();
        assert_eq!(moves.next().await, Some(Heard::Connected(from)));
        let message = Box::new(Message::RelayWanted);
        assert_eq!(moves.next().await, Some(Heard::Message { from, message }));
        drop((say, connect));
        assert_eq!(moves.next().await, None);
    }
}
