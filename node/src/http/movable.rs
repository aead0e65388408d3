//! Connections that can go on at another node.
//!
//! ```text
//!            ┌─▶ finish: what another node began ─┐
//!  accepted ─┤                                    ├─▶ hyper: requests ─▶ end
//!            └────────────────────────────────────┘
//!                   stopped at any point ─▶ (Left, stream) ─▶ here or elsewhere again
//! ```
//!
//! hyper is left in the middle of a response without being asked: nothing that it holds is needed
//! ([`super::watch`]). Only HTTP/1.1 moves; HTTP/2 connections, and requests with a body, end where they
//! are.
//!
//! *The first request* may say that another node were better: when this one would have to fetch the file,
//! the connection is offered to holders of it, [`OFFERS_MAX`] at most, with its request unread. Where it
//! goes it stays; where nobody takes it, the file is fetched as ever.

use super::finish::{Finished, finish};
use super::head::{ends, head_of, says};
use super::listen::{Door, Guest};
use super::moved::{Left, Plan};
use super::socket::ClientSocket;
use super::taken::Here;
use super::watch::{Note, Standing, Watch};
use crate::handoff::{Handoffs, Packets, Rest, StopOrder, Stopped};
use bytes::{Bytes, BytesMut};
use godwit_core::flow::FlowKey;
use godwit_core::handoff::Kept;
use godwit_core::key::MemberId;
use godwit_net::repair;
use http::{Request, Response};
use hyper::body::Body as _;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use std::convert::Infallible;
use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::Poll;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::{mpsc, oneshot};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// A response that is being made may take so long until the connection can move.
const BUSY_MAX: Duration = Duration::from_millis(80);

/// A connection is offered to so many members for its first request.
const OFFERS_MAX: usize = 2;

/// So long may nothing be said after everything is, before a connection is closed.
const LINGER: Duration = Duration::from_secs(5);

/// The beginning of HTTP/2 (RFC 9113, 3.4), as far as it takes to know it.
const HTTP2: &[u8] = b"PRI ";

/// With what connections move.
pub(crate) struct Moving {
    pub(crate) handoffs: Handoffs,
    pub(crate) packets: Arc<dyn Packets>,
    /// Where tasks of connections are counted, and what ends them.
    pub(crate) tasks: TaskTracker,
    pub(crate) stop: CancellationToken,
}

impl Moving {
    /// The flow of a connection that can move.
    pub(super) fn flow(&self, stream: &TcpStream) -> Option<FlowKey> {
        let [home, correspondent] = [stream.local_addr().ok()?, stream.peer_addr().ok()?]
            .map(|address| std::net::SocketAddr::new(address.ip().to_canonical(), address.port()));
        let flow = FlowKey { protocol: 6, correspondent, home };
        self.packets.serves(&flow).then_some(flow)
    }
}

/// A connection that can move.
pub(super) struct Movable {
    pub(super) door: Arc<Door>,
    pub(super) moving: Arc<Moving>,
    pub(super) flow: FlowKey,
    pub(super) guest: Guest,
}

/// The first request wants to be answered elsewhere: by one of these. Answered when it stays.
struct Wish {
    takers: Vec<MemberId>,
    stay: oneshot::Sender<()>,
}

/// The head of a request that waits for what becomes of its wish.
type Wished = Mutex<Option<Bytes>>;

impl Movable {
    /// Serves a connection from `left` on, until it ends or goes elsewhere.
    pub(super) async fn serve(self, stream: TcpStream, left: Left) {
        if let Err(error) = repair::make_movable(&stream) {
            tracing::debug!(%error, "TCP_NOTSENT_LOWAT");
        }
        let flow = self.flow;
        if let Err(error) = self.serve_from(stream, left).await {
            tracing::debug!(client = super::rtt::for_log(flow.correspondent.ip()), %error, "a connection ended early");
        }
    }

    async fn serve_from(self, stream: TcpStream, mut left: Left) -> io::Result<()> {
        let (registered, mut orders) = self.moving.handoffs.connections().register(self.flow);
        let mut socket = self.door.client_socket(stream, &self.guest);
        if let Some(rest) = left.rest.take() {
            match finish(self.door.server(), &mut socket, rest.clone(), &mut orders).await? {
                Finished::Whole => left.rest = Some(rest.whole()),
                Finished::Wanted(rest, order) => {
                    self.hand_out(order, socket, Left { rest: Some(rest), ..left });
                    return Ok(());
                }
            }
        }
        if left.close {
            drop(registered);
            return close(socket).await;
        }
        let mut first = BytesMut::from(&left.unparsed[..]);
        while first.len() < HTTP2.len() && HTTP2.starts_with(&first) {
            tokio::select! {
                biased;
                Some(order) = orders.recv() => {
                    self.hand_out(order, socket, Left { unparsed: first.freeze(), ..left });
                    return Ok(());
                }
                // The daemon ends, and this client has asked for nothing.
                () = self.moving.stop.cancelled() => return close(socket).await,
                read = socket.read_buf(&mut first) => if read? == 0 {
                    return Ok(());
                },
            }
        }
        let socket = socket.beginning(first.freeze());
        if left_is_http2(&socket) {
            drop(registered);
            self.door.serve_any(socket, self.guest, self.moving.stop.clone()).await;
            return Ok(());
        }
        self.serve_requests(socket, left, &mut orders).await
    }

    async fn serve_requests(
        self,
        socket: ClientSocket,
        left: Left,
        orders: &mut mpsc::Receiver<StopOrder>,
    ) -> io::Result<()> {
        let watch = Arc::new(Watch::new(left.rest.clone()));
        let pins = self.door.pins(&self.guest);
        let (wish, mut wishes) = mpsc::channel::<Wish>(1);
        let wished = Wished::default();
        let fresh = AtomicBool::new(!left.passed);
        let hearing = self.door.hear();
        let mut hearing = Some(hearing);
        let heard = Mutex::new(tokio::time::Instant::now());
        let service = service_fn(|request: Request<Incoming>| {
            watch.asked();
            *lock(&heard) = tokio::time::Instant::now();
            let first = fresh.swap(false, Relaxed);
            let (this, pins, watch, wish, wished) = (&self, &pins, &watch, &wish, &wished);
            async move {
                if first {
                    this.offer(&request, wish, wished).await;
                }
                Ok::<_, Infallible>(this.respond(pins, watch, &request).await)
            }
        });
        let socket = TokioIo::new(socket.watched(watch.clone()));
        let mut connection = self.door.http1_builder().serve_connection(socket, service);
        let stop = self.moving.stop.clone();
        let mut stopping = None;
        let quiet = || *lock(&heard) + super::listen::QUIET;
        let order = loop {
            tokio::select! {
                biased;
                Some(order) = orders.recv() => {
                    if lock(&wished).is_some() {
                        break order;
                    }
                    match clear(&mut connection, &watch).await {
                        Cleared::Yes => break order,
                        Cleared::No => drop(order.send(Err(Kept::Unmovable))),
                        Cleared::Ended(ended) => return ended.map_err(io::Error::other),
                    }
                }
                Some(Wish { takers, stay }) = wishes.recv() => self.give_first(takers, stay),
                ended = &mut connection => return ended.map_err(io::Error::other),
                () = stop.cancelled(), if stopping.is_none() => stopping = Some(quiet()),
                () = tokio::time::sleep_until(stopping.unwrap_or_else(quiet)), if stopping.is_some() => {
                    if stopping == Some(quiet()) {
                        Pin::new(&mut connection).graceful_shutdown();
                        hearing.take();
                        return connection.await.map_err(io::Error::other);
                    }
                    stopping = Some(quiet());
                }
            }
        };
        let http1::Parts { io, read_buf, service, .. } = connection.into_parts();
        let _ = service;
        let wished = lock(&wished).take();
        let mut unparsed = BytesMut::new();
        let passed = left.passed || wished.is_some();
        let (rest, close) = match (wished, watch.standing()) {
            (Some(head), _) => {
                unparsed.extend(head);
                (left.rest, false)
            }
            (None, Standing::Clear { rest, close }) => (rest, close),
            (None, Standing::Busy | Standing::Stuck) => return Err(io::ErrorKind::InvalidData.into()),
        };
        unparsed.extend(read_buf);
        let left = Left { rest, close, unparsed: unparsed.freeze(), passed };
        self.hand_out(order, io.into_inner(), left);
        Ok(())
    }

    async fn respond(
        &self,
        pins: &Mutex<super::sites::Pins>,
        watch: &Watch,
        request: &Request<Incoming>,
    ) -> Response<super::Body> {
        let plan = Mutex::new(None);
        let response = self.door.server().respond_telling(pins, request, Some(&plan)).await;
        let plan: Option<Plan> = plan.into_inner().unwrap_or_else(PoisonError::into_inner);
        let len = plan.as_ref().map(|plan| plan.end - plan.start);
        let len = len.or_else(|| response.body().size_hint().exact());
        let close = ends(request.version(), request.headers()) || says(response.headers(), "close");
        watch.answered(Note { len, plan, close, with_body: !request.body().is_end_stream() });
        response
    }

    /// Offers the connection to those who have what the request is for, when this node has not. Returns
    /// when it stays.
    async fn offer(&self, request: &Request<Incoming>, wish: &mpsc::Sender<Wish>, wished: &Wished) {
        let Some((site, number)) = self.door.server().lacks(request).await else { return };
        let holders = self.door.server().content.holders(&site, number);
        let near = self.moving.packets.takers(&self.flow);
        let takers: Vec<MemberId> =
            holders.into_iter().filter(|holder| near.contains(holder)).take(OFFERS_MAX).collect();
        if takers.is_empty() || !request.body().is_end_stream() {
            return;
        }
        let (stay, stays) = oneshot::channel();
        *lock(wished) = Some(head_of(request));
        if wish.send(Wish { takers, stay }).await.is_ok() {
            let _ = stays.await;
        }
        *lock(wished) = None;
    }

    /// Gives the connection away in a task of its own: to stop it is an order like any other.
    fn give_first(&self, takers: Vec<MemberId>, stay: oneshot::Sender<()>) {
        let (handoffs, flow) = (self.moving.handoffs.clone(), self.flow);
        tokio::spawn(async move {
            for taker in takers {
                let report = handoffs.give(taker, [flow]).await;
                // Whoever stopped it has gone on with it: then nobody listens here.
                if report.moved + report.lost > 0 || stay.is_closed() {
                    return;
                }
            }
            let _ = stay.send(());
        });
    }

    /// Answers an order. When nobody waits for the answer any more, it goes on here.
    fn hand_out(self, order: StopOrder, socket: ClientSocket, left: Left) {
        let Some((stream, unread)) = socket.into_stream() else { return };
        let left = match unread.is_empty() {
            true => left,
            false => Left { unparsed: [&left.unparsed[..], &unread].concat().into(), ..left },
        };
        let Ok(stream) = stream.into_std() else { return };
        let rest: Box<dyn Rest> = Box::new(Here { movable: self, left });
        if let Err(Ok(Stopped { stream, rest })) = order.send(Ok(Stopped { stream, rest })) {
            rest.resume(stream);
        }
    }
}

/// Whether a connection can be stopped.
enum Cleared<T> {
    Yes,
    No,
    /// It has ended instead.
    Ended(T),
}

/// Lets a connection come to where it can be stopped.
async fn clear<C: Future + Unpin>(connection: &mut C, watch: &Watch) -> Cleared<C::Output> {
    let clear = poll_fn(|cx| {
        loop {
            match watch.standing() {
                Standing::Clear { .. } => return Poll::Ready(Cleared::Yes),
                Standing::Stuck => return Poll::Ready(Cleared::No),
                Standing::Busy => {}
            }
            if let Poll::Ready(ended) = Pin::new(&mut *connection).poll(cx) {
                return Poll::Ready(Cleared::Ended(ended));
            }
            if matches!(watch.standing(), Standing::Busy) {
                return Poll::Pending;
            }
        }
    });
    tokio::time::timeout(BUSY_MAX, clear).await.unwrap_or(Cleared::No)
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn left_is_http2(socket: &ClientSocket) -> bool {
    socket.first().starts_with(HTTP2)
}

/// Says that nothing more comes, and waits a little for the client to do the same, so that it has read all
/// before the socket goes.
async fn close(mut socket: ClientSocket) -> io::Result<()> {
    socket.shutdown().await?;
    let mut rest = [0; 512];
    let heard = async { while matches!(socket.read(&mut rest).await, Ok(1..)) {} };
    let _ = tokio::time::timeout(LINGER, heard).await;
    Ok(())
}
