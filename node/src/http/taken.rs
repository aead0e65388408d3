//! A connection that has stopped at one node goes on at one: here again, or where it was taken over.

use super::listen::Door;
use super::movable::Movable;
use super::moved::Left;
use crate::handoff::{Program, Rebuilt, Refused, Rest};
use godwit_core::flow::FlowKey;
use godwit_core::handoff::Kept;
use godwit_net::repair::Frozen;
use std::sync::Arc;
use tokio::net::TcpStream;

/// The number of this program among those whose connections move.
const PROGRAM: u8 = 1;

/// A connection that has stopped here.
pub(super) struct Here {
    pub(super) movable: Movable,
    pub(super) left: Left,
}

impl Rest for Here {
    fn program(&self) -> u8 {
        PROGRAM
    }

    fn pack(&self, socket: &Frozen) -> Result<Vec<u8>, Kept> {
        let len = self.left.literal_len(socket.state().in_flight);
        if len == 0 {
            return self.left.pack(&[]);
        }
        let in_flight = socket.in_flight().map_err(|_| Kept::Unmovable)?;
        self.left.pack(in_flight.get(..len).ok_or(Kept::Unmovable)?)
    }

    fn resume(self: Box<Self>, stream: std::net::TcpStream) {
        start(self.movable, self.left, stream);
    }
}

fn start(movable: Movable, left: Left, stream: std::net::TcpStream) {
    let ready = stream.set_nonblocking(true).and_then(|()| stream.set_nodelay(true));
    match ready.and_then(|()| TcpStream::from_std(stream)) {
        Ok(stream) => drop(movable.moving.tasks.clone().spawn(movable.serve(stream, left))),
        Err(error) => tracing::warn!(%error, "a connection could not go on"),
    }
}

/// Takes connections over.
pub(crate) struct Taking(pub(crate) Arc<Door>);

#[async_trait::async_trait]
impl Program for Taking {
    fn number(&self) -> u8 {
        PROGRAM
    }

    async fn rebuild(&self, flow: FlowKey, in_flight: u32, packed: &[u8]) -> Result<Rebuilt, Refused> {
        let door = self.0.clone();
        let (left, literal) =
            Left::unpack(packed, in_flight).map_err(|error| Refused::Malformed(error.to_string()))?;
        let moving = door.moving().ok_or(Refused::Full)?;
        let guest = door.admit(flow.correspondent.ip()).ok_or(Refused::Full)?;
        let made = left.in_flight(&door.server().content, in_flight, literal).await;
        let in_flight = made.map_err(|absent| Refused::Absent(absent.to_string()))?;
        // What comes next shall be here too: a holder goes on with it better than somebody who fetches.
        if let Some(rest) = left.rest.as_ref().filter(|rest| rest.next < rest.plan.end) {
            let here = rest.here(&door.server().content).await;
            here.map_err(|absent| Refused::Absent(absent.to_string()))?;
        }
        let movable = Movable { door, moving, flow, guest };
        let go_on = Box::new(move |stream| start(movable, left, stream));
        Ok(Rebuilt { in_flight, go_on })
    }
}
