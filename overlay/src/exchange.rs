//! Admission inside the transport: the first substream of a connection, before the swarm sees it.
//!
//! ```text
//! dialler                                listener
//!   Hello (member or joiner)     -->       judges it
//!                                <--     Answer: Welcome(Hello) | Sponsored | Refused
//!   judges the listener
//!   Confirmation: Admitted | Refused -->  only now is the dialler admitted
//! ```
//!
//! Each is a frame: its length (4 bytes, little-endian, at most [`HELLO_LEN_MAX`]), then the value in
//! the one encoding of `core::wire`. No challenge is needed: both have proved their keys in the
//! handshake below. A stranger hears a refusal and learns nothing about this member. A former member
//! is shown the statement that revokes it, from either end: nobody else tells it any more. Whoever
//! refuses waits a moment for the other to hear it before the connection goes.
//!
//! The whole exchange has one deadline, and the multiplexer is polled all the while: yamux makes no
//! progress otherwise.

use crate::SponsorRequest;
use crate::event::{Direction, TransportKind};
use crate::identity::member_id;
use crate::shared::{Admitted, Refused, Shared, Verdict};
use crate::transports::Secured;
use futures::{AsyncReadExt, AsyncWriteExt};
use godwit_core::admission::{Answer, Confirmation, HELLO_LEN_MAX, Hello, Refusal};
use godwit_core::certificate::{MemberCertificate, Redemption, Revocation};
use godwit_core::key::MemberId;
use godwit_core::wire;
use libp2p::core::muxing::{StreamMuxerBox, StreamMuxerExt, SubstreamBox};
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::future::{Future, poll_fn};
use std::io;
use std::net::SocketAddr;
use std::pin::pin;
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::sync::oneshot;
use tokio::time::timeout;

/// Whoever refused waits so long for the other to hear it.
const LINGER: Duration = Duration::from_secs(1);

/// A connection did not become one of the overlay.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Denied {
    /// This side refused.
    #[error("refused: {why}", why = .0.why)]
    Here(Refused),
    /// The other side refused.
    #[error("the other side refused: {0}")]
    There(Refusal),
    /// The other side refused, and showed that this member was revoked.
    #[error("the other side refused: {}", Refusal::Revoked)]
    Revoked(Box<Revocation>),
    /// It was a joiner and has its answer.
    #[error("it only wanted to join")]
    Joiner,
    /// What was said is not what the protocol says.
    #[error("the other side does not follow the protocol: {0}")]
    Protocol(&'static str),
    /// The connection broke or was given up by the other side.
    #[error("the connection broke: {0}")]
    Broken(#[from] io::Error),
    /// It took too long.
    #[error("admission took too long")]
    Timeout,
}

impl From<Refused> for Denied {
    fn from(refused: Refused) -> Denied {
        Denied::Here(refused)
    }
}

/// Admits a connection, from either end, or not.
pub(crate) async fn admit(
    shared: &Shared,
    direction: Direction,
    address: SocketAddr,
    transport: TransportKind,
    secured: Secured,
) -> Result<(Admitted, StreamMuxerBox), Denied> {
    let Secured { peer, mut muxer, quic } = secured;
    let peer = member_id(&peer).ok_or(Denied::Protocol("the key is not Ed25519"))?;
    let mut stream = None;
    let exchange = async {
        let stream = stream.insert(first_substream(&mut muxer, direction).await?);
        let talk = async {
            match direction {
                Direction::Inbound => listen(shared, peer, stream).await,
                Direction::Outbound => dial(shared, peer, stream).await,
            }
        };
        while_polling(&mut muxer, talk).await
    };
    // The owner of a sponsoring overlay has its own deadline within `listen`.
    let at_most = 2 * shared.limits.admission;
    let result = timeout(at_most, exchange).await.unwrap_or(Err(Denied::Timeout));
    if let Err(denied) = &result {
        report(shared, direction, address, denied);
        if let (Denied::Here(_) | Denied::Joiner, Some(stream)) = (denied, &mut stream) {
            timeout(LINGER, while_polling(&mut muxer, linger(stream))).await.ok();
        }
    }
    let (certificate, epoch) = result?;
    Ok((Admitted { peer, certificate: *certificate, epoch, address, transport, quic }, muxer))
}

/// Verdicts are for the owner; connections that merely broke are not.
fn report(shared: &Shared, direction: Direction, address: SocketAddr, denied: &Denied) {
    let revocation = match denied {
        Denied::Here(_) | Denied::There(_) => None,
        Denied::Revoked(revocation) => Some(revocation.clone()),
        Denied::Joiner | Denied::Protocol(_) | Denied::Broken(_) | Denied::Timeout => return,
    };
    shared.report(Verdict { address, direction, why: denied.to_string(), revocation });
}

/// Redeems a token over a connection to some member.
pub(crate) async fn ask_to_join(
    redemption: &Redemption,
    secured: Secured,
) -> Result<MemberCertificate, Denied> {
    let mut muxer = secured.muxer;
    let mut stream = first_substream(&mut muxer, Direction::Outbound).await?;
    while_polling(&mut muxer, async {
        write_frame(&mut stream, &Hello::Join { redemption: Box::new(redemption.clone()) }).await?;
        let answer = read_frame(&mut stream).await?;
        stream.close().await.ok();
        match answer {
            Answer::Sponsored(certificate) => Ok(*certificate),
            Answer::Refused(refusal) => Err(Denied::There(refusal)),
            Answer::Revoked(_) => Err(Denied::There(Refusal::Revoked)),
            Answer::Welcome(_) => Err(Denied::Protocol("a welcome for a joiner")),
        }
    })
    .await
}

type Shown = (Box<MemberCertificate>, u64);

async fn dial(shared: &Shared, peer: MemberId, stream: &mut SubstreamBox) -> Result<Shown, Denied> {
    write_frame(stream, &shared.hello()).await?;
    let (certificate, epoch) = match read_frame(stream).await? {
        Answer::Welcome(hello) => match *hello {
            Hello::Member { certificate, epoch } => (certificate, epoch),
            Hello::Join { .. } => return Err(Denied::Protocol("a listener cannot join")),
        },
        Answer::Refused(refusal) => {
            stream.close().await.ok();
            return Err(Denied::There(refusal));
        }
        Answer::Revoked(revocation) => {
            stream.close().await.ok();
            return Err(Denied::Revoked(revocation));
        }
        Answer::Sponsored(_) => return Err(Denied::Protocol("sponsored without asking")),
    };
    let judged = shared.judge(peer, &certificate, epoch);
    let confirmation = judged.as_ref().map_or_else(Refused::confirmation, |()| Confirmation::Admitted);
    write_frame(stream, &confirmation).await?;
    stream.close().await?;
    judged?;
    Ok((certificate, epoch))
}

async fn listen(shared: &Shared, peer: MemberId, stream: &mut SubstreamBox) -> Result<Shown, Denied> {
    let heard = timeout(shared.limits.admission, read_frame(stream)).await.map_err(|_| Denied::Timeout)?;
    let judged = match heard {
        Ok(Hello::Member { certificate, epoch }) => {
            shared.judge(peer, &certificate, epoch).map(|()| (certificate, epoch))
        }
        Ok(Hello::Join { redemption }) => match sponsor(shared, peer, *redemption).await {
            Ok(certificate) => {
                write_frame(stream, &Answer::Sponsored(Box::new(certificate))).await?;
                return Err(Denied::Joiner);
            }
            Err(refused) => Err(refused),
        },
        Err(Denied::Protocol(what)) => {
            Err(Refused::new(Refusal::Malformed, format!("its hello cannot be read: {what}")))
        }
        Err(denied) => return Err(denied),
    };
    match judged {
        Ok(shown) => {
            write_frame(stream, &Answer::Welcome(Box::new(shared.hello()))).await?;
            match read_frame::<Confirmation>(stream).await? {
                Confirmation::Admitted => Ok(shown),
                Confirmation::Refused(refusal) => Err(Denied::There(refusal)),
                Confirmation::Revoked(revocation) => Err(Denied::Revoked(revocation)),
            }
        }
        Err(refused) => {
            write_frame(stream, &refused.answer()).await.ok();
            Err(refused.into())
        }
    }
}

/// Has a joiner sponsored by the owner of the overlay, who makes it durable first. What could not
/// come from a holder of a token of this network does not get that far.
async fn sponsor(
    shared: &Shared,
    peer: MemberId,
    redemption: Redemption,
) -> Result<MemberCertificate, Refused> {
    let admission = shared.admission();
    let network = admission.network.ok_or(Refusal::Unavailable)?;
    redemption.verify(network).map_err(|invalid| {
        let why = format!("the join token shown by {peer:?} does not hold: {invalid}");
        Refused::new(Refusal::from(&invalid), why)
    })?;
    if redemption.member != peer {
        return Err(Refusal::Invalid.into());
    }
    let owner = shared.sponsor.as_ref().ok_or(Refusal::Unavailable)?;
    let (reply, answer) = oneshot::channel();
    let asked = async {
        owner.send(SponsorRequest { redemption, reply }).await.ok()?;
        answer.await.ok()
    };
    match timeout(shared.limits.admission, asked).await {
        Ok(Some(answer)) => answer.map_err(|refusal| {
            Refused::new(refusal, format!("the join token shown by {peer:?} was not honoured: {refusal}"))
        }),
        Ok(None) | Err(_) => Err(Refusal::Unavailable.into()),
    }
}

async fn first_substream(muxer: &mut StreamMuxerBox, direction: Direction) -> Result<SubstreamBox, Denied> {
    poll_fn(|cx| {
        let substream = match direction {
            Direction::Inbound => muxer.poll_inbound_unpin(cx),
            Direction::Outbound => muxer.poll_outbound_unpin(cx),
        };
        if let Poll::Ready(substream) = substream {
            return Poll::Ready(substream.map_err(Denied::from));
        }
        poll_muxer(muxer, cx).map(|error| Err(error.into()))
    })
    .await
}

/// Runs `exchange` while the multiplexer moves its bytes.
async fn while_polling<T>(
    muxer: &mut StreamMuxerBox,
    exchange: impl Future<Output = Result<T, Denied>>,
) -> Result<T, Denied> {
    let mut exchange = pin!(exchange);
    poll_fn(|cx| {
        if let Poll::Ready(result) = exchange.as_mut().poll(cx) {
            return Poll::Ready(result);
        }
        poll_muxer(muxer, cx).map(|error| Err(error.into()))
    })
    .await
}

/// Ready only when the multiplexer is broken.
fn poll_muxer(muxer: &mut StreamMuxerBox, cx: &mut Context<'_>) -> Poll<io::Error> {
    loop {
        match muxer.poll_unpin(cx) {
            Poll::Ready(Ok(_address_change)) => continue,
            Poll::Ready(Err(error)) => return Poll::Ready(error),
            Poll::Pending => return Poll::Pending,
        }
    }
}

async fn write_frame<T: Serialize>(stream: &mut SubstreamBox, value: &T) -> Result<(), Denied> {
    let bytes = wire::encode(value);
    if bytes.len() > HELLO_LEN_MAX {
        return Err(Denied::Protocol("the own hello is too long"));
    }
    let mut frame = (bytes.len() as u32).to_le_bytes().to_vec();
    frame.extend_from_slice(&bytes);
    stream.write_all(&frame).await?;
    stream.flush().await?;
    Ok(())
}

async fn read_frame<T: DeserializeOwned>(stream: &mut SubstreamBox) -> Result<T, Denied> {
    let mut len = [0; 4];
    stream.read_exact(&mut len).await?;
    let len = u32::from_le_bytes(len) as usize;
    if len > HELLO_LEN_MAX {
        return Err(Denied::Protocol("a frame is too long"));
    }
    let mut bytes = vec![0; len];
    stream.read_exact(&mut bytes).await?;
    wire::decode(&bytes, HELLO_LEN_MAX).map_err(|_| Denied::Protocol("a frame cannot be read"))
}

/// Waits until the other side has ended the stream, which it does once it has read the answer.
async fn linger(stream: &mut SubstreamBox) -> Result<(), Denied> {
    stream.close().await?;
    let mut bytes = [0; 64];
    while stream.read(&mut bytes).await? > 0 {}
    Ok(())
}
