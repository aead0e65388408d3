//! Telling secondaries that the zone has changed: NOTIFY (RFC 1996), signed.
//!
//! One task looks for a new serial twice a second, which costs next to nothing, and
//! gathers changes that come close together. Each secondary has a task of
//! its own that tells it the newest serial, at the start too, until it acknowledges or
//! [`TRIES`] went unanswered; a newer serial starts anew. A secondary that missed them all asks by
//! itself when the SOA's refresh time is over.

use crate::metrics::NotifyOutcome;
use crate::transfer::{Secondary, Transfers, now};
use hickory_server::proto::op::{Message, MessageType, OpCode, Query};
use hickory_server::proto::rr::{Record, RecordType};
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;
use tokio::net::UdpSocket;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

/// How often the serial is looked at.
const LOOK: Duration = Duration::from_millis(500);
/// RFC 1996, 3.6 suggests five.
const TRIES: u32 = 5;
/// How long to wait for the first acknowledgement; twice as long each further time, so that the
/// last try ends about a minute after the first.
const WAIT: Duration = Duration::from_secs(2);

/// Tells secondaries until told to stop. Takes up changed peers.
pub(crate) async fn run(transfers: Arc<Transfers>, mut stopped: watch::Receiver<()>) {
    let (news, heard) = watch::channel(None);
    let mut telling = JoinSet::new();
    let (mut told, mut peers) = (None, None);
    loop {
        let current = transfers.peers.load_full();
        if peers.as_ref().is_none_or(|peers| !Arc::ptr_eq(peers, &current)) {
            telling.shutdown().await;
            for secondary in current.secondaries.iter().filter(|secondary| secondary.notify) {
                telling.spawn(tell_always(transfers.clone(), secondary.clone(), heard.clone()));
            }
            peers = Some(current);
        }
        let serial = transfers.serial();
        if told != Some(serial) {
            told = Some(serial);
            news.send_replace(transfers.soa());
        }
        tokio::select! {
            () = sleep(LOOK) => {}
            _ = stopped.changed() => return,
        }
    }
}

async fn tell_always(
    transfers: Arc<Transfers>,
    secondary: Arc<Secondary>,
    mut heard: watch::Receiver<Option<Record>>,
) {
    loop {
        let soa = heard.borrow_and_update().clone();
        let Some(soa) = soa else {
            if heard.changed().await.is_err() {
                return;
            }
            continue;
        };
        tokio::select! {
            outcome = tell(&secondary, &soa) => {
                transfers.metrics.notified(outcome);
                if outcome == NotifyOutcome::Unanswered {
                    tracing::warn!(secondary = %secondary.address, "does not acknowledge that the zone has changed");
                }
            }
            changed = heard.changed() => match changed {
                Ok(()) => continue,
                Err(_) => return,
            }
        }
        if heard.changed().await.is_err() {
            return;
        }
    }
}

async fn tell(secondary: &Secondary, soa: &Record) -> NotifyOutcome {
    for tries in 0..TRIES {
        let wait = WAIT * 2u32.pow(tries);
        // Where it cannot even be sent (no route yet), the next try may do better.
        match timeout(wait, tell_once(secondary, soa)).await {
            Ok(Ok(())) => return NotifyOutcome::Acknowledged,
            Ok(Err(error)) => {
                tracing::debug!(%error, secondary = %secondary.address, "cannot notify");
                sleep(wait).await;
            }
            Err(_) => {}
        }
    }
    NotifyOutcome::Unanswered
}

async fn tell_once(secondary: &Secondary, soa: &Record) -> std::io::Result<()> {
    let any: SocketAddr = match secondary.address {
        SocketAddr::V4(_) => (Ipv4Addr::UNSPECIFIED, 0).into(),
        SocketAddr::V6(_) => (Ipv6Addr::UNSPECIFIED, 0).into(),
    };
    let socket = UdpSocket::bind(any).await?;
    socket.connect(secondary.address).await?;
    let mut id = [0; 2];
    aws_lc_rs::rand::fill(&mut id).map_err(std::io::Error::other)?;
    let id = u16::from_be_bytes(id);
    let mut packet = notify(id, soa).map_err(std::io::Error::other)?;
    let signer = secondary.key.sign_request(now(), &mut packet);
    socket.send(&packet).await?;
    let mut buffer = [0; 1232];
    loop {
        let len = socket.recv(&mut buffer).await?;
        let reply = &buffer[..len];
        // RFC 1996, 3.12: any reply to it ends the matter, as long as it comes from the secondary.
        let ours = reply.get(..2) == Some(&id.to_be_bytes())
            && reply.get(2).is_some_and(|flags| flags & 0xf8 == 0xa0);
        if ours && signer.verifies(now(), reply) {
            return Ok(());
        }
        tracing::debug!(secondary = %secondary.address, "a reply to NOTIFY that is none");
    }
}

/// RFC 1996, 3.7: the new SOA goes with it as a hint.
fn notify(id: u16, soa: &Record) -> Result<Vec<u8>, hickory_server::proto::ProtoError> {
    let mut message = Message::new(id, MessageType::Query, OpCode::Notify);
    message.metadata.authoritative = true;
    message.add_query(Query::query(soa.name.clone(), RecordType::SOA));
    message.add_answer(soa.clone());
    message.to_vec()
}
