//! The task that owns the swarm: waits for one thing, does it, looks for the next.
//!
//! It knows every live connection, and so decides what the parts below cannot: which of a peer's
//! connections is used (the newest, QUIC before TCP), which are dead because the peer started anew
//! (those of a lower epoch), which have to go because the peer is no longer admitted. A connection
//! it gives up is forgotten at once and closed in the background.
//!
//! It never waits for the owner: events that do not fit wait in a list that peers cannot make long,
//! since of everything that strangers cause only a bounded number is kept.

use crate::address::connection_address;
use crate::event::{Event, OpenError, Said, TransportKind};
use crate::identity;
use crate::link::{self, Link, Reader};
use crate::peers::{Peer, best_of};
use crate::quic::Sockets;
use crate::shared::{Shared, Verdict};
use crate::stream::Stream;
use crate::streams::{Inbound, OpenReply, Protocol, Streams};
use crate::transfer::{self, Holder};
use futures::StreamExt;
use godwit_core::key::MemberId;
use libp2p::swarm::dial_opts::{DialOpts, PeerCondition};
use libp2p::swarm::{ConnectionId, DialError, NetworkBehaviour, SwarmEvent};
use libp2p::{Swarm, ping};
use std::collections::{BTreeMap, HashMap, VecDeque};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{Semaphore, mpsc, oneshot};
use tokio::task::JoinSet;
use tokio::time::{Instant, MissedTickBehavior, interval, timeout_at};

/// Commands waiting for the driver.
pub(crate) const COMMANDS_MAX: usize = 1024;

/// Events about round trips and refusals are dropped when so many events wait for the owner.
const OUTBOX_SOFT_MAX: usize = 256;

/// Certificates of connected peers are judged anew this often, for those that expire.
const REJUDGE_EVERY: Duration = Duration::from_secs(5);

/// Closing all connections takes at most this long.
const SHUTDOWN_MAX: Duration = Duration::from_secs(1);

/// What the handle asks for.
pub(crate) enum Command {
    Dial { peer: Option<MemberId>, addresses: Vec<SocketAddr> },
    Open { peer: MemberId, protocol: Protocol, reply: OpenReply },
    Shutdown { done: oneshot::Sender<()> },
}

/// All that is spoken on admitted connections.
#[derive(NetworkBehaviour)]
pub(crate) struct Behaviour {
    pub(crate) streams: Streams,
    pub(crate) ping: ping::Behaviour,
}

/// A dial in progress.
pub(crate) struct Dial {
    peer: Option<MemberId>,
    addresses: Vec<SocketAddr>,
}

/// The state of the task.
pub(crate) struct Driver {
    pub(crate) shared: Arc<Shared>,
    pub(crate) swarm: Swarm<Behaviour>,
    sockets: Sockets,
    holder: Option<Arc<dyn Holder>>,
    moves: Option<mpsc::Sender<Said>>,
    serving: Arc<Semaphore>,
    transfers: JoinSet<()>,
    pub(crate) peers: BTreeMap<MemberId, Peer>,
    /// Whose each connection in `peers` is.
    pub(crate) owners: HashMap<ConnectionId, MemberId>,
    pub(crate) dials: HashMap<ConnectionId, Dial>,
    /// Events that wait for the owner; with a `PeerUp` its link, to be announced then.
    pub(crate) outbox: VecDeque<(Event, Option<Arc<Link>>)>,
    events: mpsc::Sender<Event>,
    pub(crate) commands: mpsc::WeakSender<Command>,
}

impl Driver {
    pub(crate) fn new(
        shared: Arc<Shared>,
        swarm: Swarm<Behaviour>,
        sockets: Sockets,
        (holder, moves): (Option<Arc<dyn Holder>>, Option<mpsc::Sender<Said>>),
        (commands, events): (mpsc::WeakSender<Command>, mpsc::Sender<Event>),
    ) -> Driver {
        Driver {
            serving: Arc::new(Semaphore::new(shared.limits.served_streams)),
            transfers: JoinSet::new(),
            holder,
            moves,
            shared,
            swarm,
            sockets,
            peers: BTreeMap::new(),
            owners: HashMap::new(),
            dials: HashMap::new(),
            outbox: VecDeque::new(),
            events,
            commands,
        }
    }

    /// Runs until the owner asks for the end or has gone.
    pub(crate) async fn run(
        mut self,
        mut commands: mpsc::Receiver<Command>,
        mut verdicts: mpsc::Receiver<Verdict>,
    ) {
        let mut rtt_tick = interval(self.shared.limits.ping_interval);
        let mut judge_tick = interval(REJUDGE_EVERY);
        rtt_tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        judge_tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let (shared, events) = (self.shared.clone(), self.events.clone());
        let done = loop {
            tokio::select! {
                permit = events.reserve(), if !self.outbox.is_empty() => match permit {
                    Ok(permit) => {
                        if let Some((event, link)) = self.outbox.pop_front() {
                            permit.send(event);
                            if let Some(link) = link { link.announce() }
                        }
                    }
                    Err(_) => break None, // the owner has gone
                },
                command = commands.recv() => match command {
                    Some(Command::Dial { peer, addresses }) => self.dial(peer, addresses),
                    Some(Command::Open { peer, protocol, reply }) => self.open(peer, protocol, reply),
                    Some(Command::Shutdown { done }) => break Some(done),
                    None => break None,
                },
                event = self.swarm.select_next_some() => self.on_swarm_event(event),
                Some(verdict) = verdicts.recv() => self.on_verdict(verdict),
                Some(_ended) = self.transfers.join_next() => {}
                () = shared.attention.notified() => self.on_attention(),
                _ = rtt_tick.tick() => self.measure(),
                _ = judge_tick.tick() => self.rejudge(),
            }
        };
        self.shut_down().await;
        if let Some(done) = done {
            done.send(()).ok();
        }
    }

    fn dial(&mut self, peer: Option<MemberId>, addresses: Vec<SocketAddr>) {
        let is_connected = peer.is_some_and(|peer| self.peers.contains_key(&peer));
        let is_dialling = self
            .dials
            .values()
            .any(|dial| dial.peer == peer && (peer.is_some() || dial.addresses == addresses));
        if is_connected || is_dialling || peer == Some(self.shared.me) {
            return;
        }
        if addresses.is_empty() {
            return self.dial_failed(Dial { peer, addresses }, "no address is known".into());
        }
        let target = connection_address(self.shared.connection_number(), &addresses);
        let options = match peer.map(|peer| identity::peer_id(&peer)) {
            Some(Some(name)) => {
                DialOpts::peer_id(name).condition(PeerCondition::Always).addresses(vec![target]).build()
            }
            Some(None) => {
                return self.dial_failed(Dial { peer, addresses }, "its key is not a key".into());
            }
            None => DialOpts::unknown_peer_id().address(target).build(),
        };
        let connection = options.connection_id();
        match self.swarm.dial(options) {
            Ok(()) => {
                self.dials.insert(connection, Dial { peer, addresses });
            }
            Err(error) => self.dial_failed(Dial { peer, addresses }, error.to_string()),
        }
    }

    fn dial_failed(&mut self, dial: Dial, why: String) {
        let Dial { peer, addresses } = dial;
        self.tell(Event::DialFailed { peer, addresses, why });
    }

    fn open(&mut self, peer: MemberId, protocol: Protocol, reply: OpenReply) {
        match self.peers.get(&peer).and_then(|p| Some((p.name, best_of(&p.connections)?.id))) {
            Some((name, connection)) => {
                self.swarm.behaviour_mut().streams.open(name, connection, protocol, reply);
            }
            None => {
                reply.send(Err(OpenError::NotConnected)).ok();
            }
        }
    }

    fn on_swarm_event(&mut self, event: SwarmEvent<BehaviourEvent>) {
        match event {
            SwarmEvent::ConnectionEstablished { peer_id, connection_id, endpoint, .. } => {
                self.on_established(peer_id, connection_id, &endpoint);
            }
            SwarmEvent::ConnectionClosed { connection_id, cause, .. } => {
                tracing::debug!(?connection_id, ?cause, "connection closed");
                self.forget(connection_id);
            }
            SwarmEvent::OutgoingConnectionError { connection_id, error, .. } => {
                if let Some(dial) = self.dials.remove(&connection_id) {
                    self.dial_failed(dial, dial_error(&error));
                }
            }
            SwarmEvent::IncomingConnectionError { error, .. } => {
                tracing::debug!(%error, "an inbound connection came to nothing");
            }
            SwarmEvent::ListenerError { error, .. } => tracing::warn!(%error, "a listener failed"),
            SwarmEvent::ListenerClosed { addresses, reason, .. } => {
                tracing::warn!(?addresses, ?reason, "a listener closed");
            }
            SwarmEvent::Behaviour(BehaviourEvent::Streams(inbound)) => self.on_inbound(inbound),
            SwarmEvent::Behaviour(BehaviourEvent::Ping(ping)) => self.on_ping(ping),
            _ => {}
        }
    }

    fn on_inbound(&mut self, inbound: Inbound) {
        let Inbound { peer, connection, protocol, stream, permit } = inbound;
        let Some(known) = self.peers.get_mut(&peer) else { return };
        let Some(connection) = known.connections.iter_mut().find(|c| c.id == connection) else { return };
        let stream = Stream::new(peer, stream, Some(permit));
        let reader = match protocol {
            Protocol::Messages => Some(Reader::Messages(self.events.clone())),
            Protocol::Mobility => self.moves.clone().map(Reader::Mobility),
            Protocol::Transfer => {
                if let Some(holder) = self.holder.clone() {
                    self.transfers.spawn(serve(stream, holder, self.serving.clone()));
                }
                return;
            }
        };
        if let Some(reader) = reader {
            let reader = link::read_messages(known.link.clone(), stream, reader);
            connection.readers.retain(|reader| !reader.is_finished());
            connection.readers.push(tokio::spawn(reader).abort_handle());
        }
    }

    fn on_ping(&mut self, ping: ping::Event) {
        let Some(peer) = self.owners.get(&ping.connection).copied() else { return };
        let Some(known) = self.peers.get(&peer) else { return };
        let Some(connection) = known.connections.iter().find(|c| c.id == ping.connection) else { return };
        match (ping.result, connection.admitted.transport) {
            // QUIC measures and watches by itself.
            (_, TransportKind::Quic) => {}
            (Ok(rtt), TransportKind::Tcp) => {
                if best_of(&known.connections).is_some_and(|best| best.id == ping.connection) {
                    known.link.set_rtt(rtt);
                    self.tell_soft(Event::Rtt { peer, rtt });
                }
            }
            (Err(error), TransportKind::Tcp) => {
                tracing::debug!(?peer, %error, "a TCP peer does not answer");
                self.drop_connection(ping.connection);
            }
        }
    }

    fn measure(&mut self) {
        let measured: Vec<(MemberId, Duration)> =
            self.peers.iter().filter_map(|(peer, known)| Some((*peer, known.link.measure()?))).collect();
        for (peer, rtt) in measured {
            self.tell_soft(Event::Rtt { peer, rtt });
        }
    }

    fn on_attention(&mut self) {
        for peer in self.shared.take_unwanted() {
            self.drop_peer(peer);
        }
        self.rejudge();
    }

    fn on_verdict(&mut self, verdict: Verdict) {
        let Verdict { address, direction, why, revocation } = verdict;
        self.tell_soft(Event::Refused { address, direction, why, revocation });
    }

    pub(crate) fn tell(&mut self, event: Event) {
        self.outbox.push_back((event, None));
    }

    /// For events that the next one makes up for.
    fn tell_soft(&mut self, event: Event) {
        if self.outbox.len() < OUTBOX_SOFT_MAX {
            self.tell(event);
        }
    }

    /// Cuts off what is being served and lets the acknowledgements come in. quinn-proto up to
    /// 0.11.19 never sends the close of a connection whose congestion window is full
    /// (quinn-rs/quinn#2785); the peer would wait for its idle time.
    async fn end_transfers(&mut self) {
        if !self.transfers.is_empty() {
            self.transfers.shutdown().await;
            let slowest = self.peers.values().filter_map(|known| known.link.measure()).max();
            tokio::time::sleep(settling_time(slowest.unwrap_or_default())).await;
        }
    }

    async fn shut_down(mut self) {
        self.end_transfers().await;
        let peers: Vec<MemberId> = self.peers.keys().copied().collect();
        for peer in peers {
            self.drop_peer(peer);
        }
        let deadline = Instant::now() + SHUTDOWN_MAX;
        while self.swarm.network_info().connection_counters().num_established() > 0 {
            if timeout_at(deadline, self.swarm.select_next_some()).await.is_err() {
                break;
            }
        }
        drop(self.swarm);
        self.sockets.wait_idle(SHUTDOWN_MAX).await;
    }
}

/// How long acknowledgements of what is under way take, with something to spare.
fn settling_time(rtt: Duration) -> Duration {
    (2 * rtt + Duration::from_millis(25)).min(Duration::from_millis(700))
}

async fn serve(stream: Stream, holder: Arc<dyn Holder>, serving: Arc<Semaphore>) {
    let peer = stream.peer();
    let Ok(_place) = serving.acquire().await else { return };
    if let Err(error) = transfer::serve(stream, holder).await {
        tracing::debug!(?peer, %error, "a transfer ended early");
    }
}

fn dial_error(error: &DialError) -> String {
    match error {
        DialError::Transport(errors) => {
            let texts: Vec<String> = errors.iter().map(|(_, error)| transport_error(error)).collect();
            texts.join("; ")
        }
        other => other.to_string(),
    }
}

fn transport_error(error: &libp2p::TransportError<std::io::Error>) -> String {
    match error {
        libp2p::TransportError::Other(error) => error.to_string(),
        other => other.to_string(),
    }
}
