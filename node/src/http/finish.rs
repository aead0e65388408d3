//! The end of a response that another node began.

use super::moved::Rest;
use super::serve::Server;
use super::socket::ClientSocket;
use crate::handoff::StopOrder;
use std::io;
use tokio::io::AsyncWriteExt;
use tokio::sync::mpsc;

/// What became of it.
pub(super) enum Finished {
    /// It is out.
    Whole,
    /// The connection is wanted elsewhere; this is left of the response.
    Wanted(Rest, StopOrder),
}

/// Writes what is left of a response, until it is out or the connection is wanted elsewhere.
pub(super) async fn finish(
    server: &Server,
    socket: &mut ClientSocket,
    rest: Rest,
    orders: &mut mpsc::Receiver<StopOrder>,
) -> io::Result<Finished> {
    let broken = |absent: crate::content::Absent| {
        tracing::warn!(%absent, "a response that moved here was broken off");
        io::Error::other(absent.to_string())
    };
    let Rest { plan, mut next } = rest;
    let mut parts = Rest { plan: plan.clone(), next }.parts(server).await.map_err(broken)?;
    let mut portion = bytes::Bytes::new();
    loop {
        let step = async {
            if portion.is_empty() {
                return Ok(Err(parts.next().await.map_err(broken)?));
            }
            socket.write(&portion).await.map(Ok)
        };
        // Neither step loses anything when it is given up: nothing was written, or nothing was taken.
        tokio::select! {
            biased;
            Some(order) = orders.recv() => return Ok(Finished::Wanted(Rest { plan, next }, order)),
            done = step => match done? {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(len) => {
                    next += len as u64;
                    drop(portion.split_to(len));
                }
                Err(Some(more)) => portion = more,
                Err(None) => return Ok(Finished::Whole),
            },
        }
    }
}
