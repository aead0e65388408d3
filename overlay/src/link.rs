//! Messages with one peer: a bounded queue out, frames in.
//!
//! A link lives from `PeerUp` to `PeerDown` and has two lanes, each with a queue, a writer and a stream
//! of its own: what moves connections does not wait behind what is told of members. A writer opens one
//! long-lived stream to the peer on the first message, and a new one on the then best connection when
//! that breaks; the queue stays. A frame
//! is its length (4 bytes, little-endian, at most [`MESSAGE_LEN_MAX`]) and its bytes. Frames that wait
//! together leave together. Whoever reads slowly fills the flow-control window, then this queue, and
//! then [`SendError::Full`] is the sender's to handle; nobody else waits.

use crate::driver::Command;
use crate::event::{Event, PeerInfo, Said, SendError, TransportKind};
use crate::shared::{Admitted, Counts, Shared, lock};
use crate::stream::Stream;
use crate::streams::Protocol;
use bytes::{BufMut, Bytes, BytesMut};
use godwit_core::key::MemberId;
use godwit_core::wire::MESSAGE_LEN_MAX;
use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::sync::{mpsc, oneshot, watch};

/// Frames gathered into one write.
const BATCH_LEN: usize = 64 * 1024;

/// After a stream could not be opened, the next try.
const REOPEN_DELAY: Duration = Duration::from_millis(100);

/// The links of all connected peers.
#[derive(Default)]
pub(crate) struct Links {
    by_peer: RwLock<BTreeMap<MemberId, Arc<Link>>>,
}

impl Links {
    pub(crate) fn get(&self, peer: &MemberId) -> Option<Arc<Link>> {
        self.by_peer.read().unwrap_or_else(PoisonError::into_inner).get(peer).cloned()
    }

    pub(crate) fn insert(&self, peer: MemberId, link: Arc<Link>) {
        self.by_peer.write().unwrap_or_else(PoisonError::into_inner).insert(peer, link);
    }

    pub(crate) fn remove(&self, peer: &MemberId) {
        self.by_peer.write().unwrap_or_else(PoisonError::into_inner).remove(peer);
    }

    pub(crate) fn infos(&self) -> Vec<PeerInfo> {
        let links = self.by_peer.read().unwrap_or_else(PoisonError::into_inner);
        links.iter().map(|(peer, link)| link.info(*peer)).collect()
    }
}

/// One connected peer, as seen by its senders.
pub(crate) struct Link {
    counters: Arc<Counts>,
    queue_bytes_max: usize,
    lanes: [Lane; 2],
    best: Mutex<Best>,
    /// Whether the owner has been told `PeerUp`; messages wait for that.
    announced: watch::Sender<bool>,
}

/// Messages of one protocol to one peer.
struct Lane {
    protocol: Protocol,
    queue: mpsc::Sender<Bytes>,
    queued_bytes: AtomicUsize,
}

/// What a lane's writer takes its messages from.
pub(crate) struct Queue {
    lane: usize,
    receiver: mpsc::Receiver<Bytes>,
}

/// The connection that messages go over.
struct Best {
    address: SocketAddr,
    transport: TransportKind,
    quic: Option<quinn::Connection>,
    rtt: Option<Duration>,
}

impl Link {
    /// A link and what [`write_messages`] sends from.
    pub(crate) fn new(shared: &Shared, admitted: &Admitted) -> (Arc<Link>, [Queue; 2]) {
        let lane = |lane, protocol| {
            let (queue, receiver) = mpsc::channel(shared.limits.queue_messages);
            (Lane { protocol, queue, queued_bytes: AtomicUsize::new(0) }, Queue { lane, receiver })
        };
        let (messages, said) = lane(0, Protocol::Messages);
        let (mobility, moved) = lane(1, Protocol::Mobility);
        let best = Mutex::new(Best {
            address: admitted.address,
            transport: admitted.transport,
            quic: admitted.quic.clone(),
            rtt: admitted.quic.as_ref().map(quinn::Connection::rtt),
        });
        let announced = watch::Sender::new(false);
        let link = Link {
            counters: shared.counters.clone(),
            queue_bytes_max: shared.limits.queue_bytes,
            lanes: [messages, mobility],
            best,
            announced,
        };
        (Arc::new(link), [said, moved])
    }

    /// Queues a message of this protocol.
    pub(crate) fn enqueue(&self, protocol: Protocol, bytes: Bytes) -> Result<(), SendError> {
        let lane = self.lanes.iter().find(|lane| lane.protocol == protocol);
        let Some(lane) = lane else { return Err(SendError::NotConnected) };
        let len = bytes.len();
        let waiting = lane.queued_bytes.fetch_add(len, Ordering::AcqRel);
        let full = waiting > 0 && waiting + len > self.queue_bytes_max;
        let result = match full {
            true => Err(SendError::Full),
            false => lane.queue.try_send(bytes).map_err(|error| match error {
                mpsc::error::TrySendError::Full(_) => SendError::Full,
                mpsc::error::TrySendError::Closed(_) => SendError::NotConnected,
            }),
        };
        if let Err(error) = result {
            lane.queued_bytes.fetch_sub(len, Ordering::AcqRel);
            if error == SendError::Full {
                self.counters.messages_dropped.fetch_add(1, Ordering::Relaxed);
            }
        }
        result
    }

    /// Another connection is the best one now.
    pub(crate) fn set_best(&self, admitted: &Admitted) {
        let mut best = lock(&self.best);
        best.address = admitted.address;
        best.transport = admitted.transport;
        best.quic = admitted.quic.clone();
    }

    /// QUIC's own estimate, remembered; `None` on a path that has none.
    pub(crate) fn measure(&self) -> Option<Duration> {
        let mut best = lock(&self.best);
        let rtt = best.quic.as_ref()?.rtt();
        best.rtt = Some(rtt);
        Some(rtt)
    }

    /// Remembers a ping's round trip.
    pub(crate) fn set_rtt(&self, rtt: Duration) {
        lock(&self.best).rtt = Some(rtt);
    }

    pub(crate) fn announce(&self) {
        self.announced.send_replace(true);
    }

    fn info(&self, peer: MemberId) -> PeerInfo {
        let best = lock(&self.best);
        let address = best.quic.as_ref().map_or(best.address, quinn::Connection::remote_address);
        PeerInfo { peer, rtt: best.rtt, address, transport: best.transport }
    }
}

/// Sends what is queued until the link goes (the task is then aborted) or the overlay stops.
pub(crate) async fn write_messages(
    peer: MemberId,
    link: Arc<Link>,
    mut queue: Queue,
    commands: mpsc::WeakSender<Command>,
) {
    let mut batch = BytesMut::new();
    while let Some(first) = queue.receiver.recv().await {
        put_frame(&link, &queue, &mut batch, &first);
        let Some(mut stream) = open(peer, link.lanes[queue.lane].protocol, &commands).await else { return };
        if let Err(error) = pump(&link, &mut stream, &mut queue, &mut batch).await {
            tracing::debug!(?peer, %error, "a message stream broke");
        }
        batch.clear(); // perhaps half sent: lost, as documented
    }
}

/// `None` when the overlay has stopped.
async fn open(peer: MemberId, protocol: Protocol, commands: &mpsc::WeakSender<Command>) -> Option<Stream> {
    loop {
        let (reply, answer) = oneshot::channel();
        let command = Command::Open { peer, protocol, reply };
        commands.upgrade()?.send(command).await.ok()?;
        match answer.await {
            Ok(Ok(stream)) => return Some(Stream::new(peer, stream, None)),
            Ok(Err(_)) | Err(_) => tokio::time::sleep(REOPEN_DELAY).await,
        }
    }
}

async fn pump(
    link: &Link,
    stream: &mut (impl AsyncWrite + Unpin),
    queue: &mut Queue,
    batch: &mut BytesMut,
) -> io::Result<()> {
    loop {
        while batch.len() < BATCH_LEN {
            match queue.receiver.try_recv() {
                Ok(bytes) => put_frame(link, queue, batch, &bytes),
                Err(_) => break,
            }
        }
        stream.write_all_buf(batch).await?;
        stream.flush().await?;
        match queue.receiver.recv().await {
            Some(bytes) => put_frame(link, queue, batch, &bytes),
            None => return stream.shutdown().await,
        }
    }
}

fn put_frame(link: &Link, queue: &Queue, batch: &mut BytesMut, bytes: &Bytes) {
    link.lanes[queue.lane].queued_bytes.fetch_sub(bytes.len(), Ordering::AcqRel);
    link.counters.messages_sent.fetch_add(1, Ordering::Relaxed);
    batch.put_u32_le(bytes.len() as u32);
    batch.put_slice(bytes);
}

/// Who reads the messages of a stream.
pub(crate) enum Reader {
    /// The overlay's owner.
    Messages(mpsc::Sender<Event>),
    /// Whoever moves connections.
    Mobility(mpsc::Sender<Said>),
}

/// Hands the peer's messages to the owner until the stream ends. Not reading on is how a busy owner
/// slows the peer down.
pub(crate) async fn read_messages(link: Arc<Link>, stream: Stream, owner: Reader) {
    let from = stream.peer();
    let mut announced = link.announced.subscribe();
    if announced.wait_for(|announced| *announced).await.is_err() {
        return;
    }
    let mut reader = tokio::io::BufReader::with_capacity(BATCH_LEN, stream);
    while let Ok(Some(bytes)) = read_frame(&mut reader).await {
        link.counters.messages_received.fetch_add(1, Ordering::Relaxed);
        let told = match &owner {
            Reader::Messages(events) => events.send(Event::Message { from, bytes }).await.is_ok(),
            Reader::Mobility(moves) => moves.send(Said { from, bytes }).await.is_ok(),
        };
        if !told {
            return;
        }
    }
}

async fn read_frame(reader: &mut (impl AsyncRead + Unpin)) -> io::Result<Option<Bytes>> {
    let mut len = [0; 4];
    if reader.read(&mut len[..1]).await? == 0 {
        return Ok(None);
    }
    reader.read_exact(&mut len[1..]).await?;
    let len = u32::from_le_bytes(len) as usize;
    if len > MESSAGE_LEN_MAX {
        return Err(io::ErrorKind::InvalidData.into());
    }
    let mut bytes = vec![0; len];
    reader.read_exact(&mut bytes).await?;
    Ok(Some(bytes.into()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn frames_are_bounded_before_they_are_allocated() {
        let mut reader = &[2, 0, 0, 0, b'h', b'i'][..];
        assert_eq!(read_frame(&mut reader).await.unwrap(), Some(Bytes::from_static(b"hi")));
        assert_eq!(read_frame(&mut reader).await.unwrap(), None);
        assert!(read_frame(&mut &[0xff; 8][..]).await.is_err());
        assert!(read_frame(&mut &[9, 0, 0, 0, 1][..]).await.is_err());
    }
}
