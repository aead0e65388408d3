//! What becomes of each packet at a node: the [`Steer`] of its tunnel.
//!
//! Inward, in this order: it must come from a home agent or a node that we gave a key, and be for a home
//! address that is served here; a hand-off may want it; then, if a home agent says that somebody else
//! owned the client's flows before, a flow that is unknown here goes there (the *second chance*); everything
//! else is the kernel's. When nobody else can have it, the kernel's reset is the right answer, and it comes
//! from the home address. Whether a connection of TCP is known, the kernel says; of UDP, what was seen
//! ([`godwit_core::flow::chance`]).
//!
//! A packet that another node passed on gets no second chance, so none goes round: TCP's is ours or
//! nobody's, and UDP's, if it is none of ours, is given back. One of a flow that is here means that home
//! agents send its packets elsewhere: they are told where it is ([`Claims`]).

use super::filter::{Filter, Verdict};
use super::known::{Active, Seen};
use super::view::{Sender, View};
use crate::clock;
use arc_swap::ArcSwap;
use godwit_core::flow::FlowKey;
use godwit_core::flow::chance::{self, ASKED_FOR, Came, Inquiry, Turn, VAIN_FOR};
use godwit_core::key::MemberId;
use godwit_core::packet::{Fragment, Packet, TCP, UDP};
use godwit_core::time::Time;
use godwit_core::tunnel::KeyId;
use godwit_net::sockets::{Found, Sockets};
use godwit_net::tunnel::{Inward, Outward, Passing, Reason, Steer};
use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;
use tokio::sync::mpsc;

/// A connection that the kernel knew is not looked up again for so long. When it ends meanwhile, the
/// kernel's reset is right: it was ours.
const KNOWN_FOR: Duration = Duration::from_secs(5);

/// Home agents are told where a flow is so often, while its packets come by way of another node.
const CLAIM_PAUSE: Duration = Duration::from_secs(2);

/// So many flows wait to be claimed; of more, the next packet claims them.
pub(super) const CLAIMS_MAX: usize = 1024;

/// Flows of this node whose packets come by way of another.
pub(super) type Claims = mpsc::Receiver<FlowKey>;

/// What was decided, for people.
#[derive(Debug, Default)]
pub(super) struct Decided {
    /// Packets of flows that were unknown here, passed on to who had them before.
    pub(super) second_chances: AtomicU64,
    /// Packets whose flows had their second chance here in vain, given back.
    pub(super) given_back: AtomicU64,
    /// Packets of flows that were given away, passed on.
    pub(super) passed_on: AtomicU64,
    /// Packets that other nodes passed on to here.
    pub(super) relayed_here: AtomicU64,
    /// Packets to be passed on to a node that has given no key.
    pub(super) no_relay: AtomicU64,
    /// Packets for which there was no room while their flow moved.
    pub(super) overflowed: AtomicU64,
}

/// See the module.
pub(super) struct NodeSteer {
    pub(super) filter: Filter,
    pub(super) view: ArcSwap<View>,
    pub(super) active: Active,
    pub(super) decided: Decided,
    known: Seen,
    /// Flows of UDP of which others were asked whether they have them.
    asked: Seen,
    claimed: Seen,
    /// The home agent through which a client's packets came last, by client: replies take the same.
    nearest: Mutex<HashMap<FlowKey, MemberId>>,
    nearest_told: Seen,
    sockets: Mutex<Option<Sockets>>,
    claims: mpsc::Sender<FlowKey>,
}

/// Clients whose home agent is remembered; of more, the first exit is taken.
const NEAREST_MAX: usize = 65_536;

impl NodeSteer {
    /// One that lets nothing through yet.
    pub(super) fn new() -> (NodeSteer, Claims) {
        let (claims, claimed) = mpsc::channel(CLAIMS_MAX);
        let sockets = Sockets::open();
        if let Err(error) = &sockets {
            tracing::warn!(%error, "the kernel does not tell which connections it knows: no second chances");
        }
        let steer = NodeSteer {
            filter: Filter::new(),
            view: ArcSwap::default(),
            active: Active::default(),
            decided: Decided::default(),
            known: Seen::default(),
            asked: Seen::default(),
            claimed: Seen::default(),
            nearest: Mutex::default(),
            nearest_told: Seen::default(),
            sockets: Mutex::new(sockets.ok()),
            claims,
        };
        (steer, claimed)
    }

    /// A flow is here now, or not any more: what was known of it does not hold.
    pub(super) fn forget(&self, flows: &[FlowKey]) {
        flows.iter().for_each(|flow| self.known.forget(flow));
    }

    fn relay(&self, view: &View, to: &MemberId, before: Option<u16>) -> Inward {
        match view.relays.get(to) {
            Some((key, to)) => Inward::Relay { key: *key, to: *to, before },
            None => {
                self.decided.no_relay.fetch_add(1, Ordering::Relaxed);
                // Never the kernel: it would reset somebody else's connection.
                Inward::Drop(Reason::Filtered)
            }
        }
    }

    /// Whether the kernel has the connection of a flow.
    fn is_known(&self, now: Time, flow: &FlowKey) -> bool {
        if self.known.lately(now, flow, KNOWN_FOR) {
            return true;
        }
        let mut sockets = self.sockets.lock().unwrap_or_else(PoisonError::into_inner);
        let found = sockets.as_mut().map(|sockets| sockets.tcp(flow.correspondent, flow.home));
        drop(sockets);
        match found {
            Some(Ok(Found::Listener | Found::Nobody)) => false,
            Some(Ok(Found::Connection)) => {
                self.known.see(now, flow);
                true
            }
            // Without knowing, what is local goes first.
            Some(Err(_)) | None => true,
        }
    }

    /// What becomes of a segment of TCP: there is no giving back, as the kernel's reset is right where a
    /// connection is looked for last.
    fn of_segment(&self, now: Time, flow: &FlowKey, begins: bool, came: Came) -> Turn {
        match came {
            Came::Ours => Turn::Keep,
            Came::Contested if begins => {
                self.known.see(now, flow);
                Turn::Keep
            }
            Came::Contested if self.is_known(now, flow) => Turn::Keep,
            Came::Contested => Turn::Ask,
            Came::Asked | Came::Given if self.is_known(now, flow) => Turn::Claim,
            Came::Asked | Came::Given => Turn::Keep,
        }
    }

    fn of_datagram(&self, now: Time, flow: &FlowKey, came: Came) -> Turn {
        // As a rule nobody doubts whose it is.
        if matches!(came, Came::Ours | Came::Given) {
            return Turn::Keep;
        }
        let inquiry = match self.asked.lately(now, flow, VAIN_FOR) {
            true if self.asked.lately(now, flow, ASKED_FOR) => Inquiry::Open,
            true => Inquiry::Vain,
            false => Inquiry::None,
        };
        let turn = chance::of_datagram(came, self.active.knows(now, flow), inquiry);
        if turn == Turn::Ask && inquiry == Inquiry::None {
            self.asked.see(now, flow);
        }
        turn
    }

    /// Tells home agents, now and then, that a flow is here.
    fn claim(&self, now: Time, flow: &FlowKey) {
        if !self.claimed.lately(now, flow, CLAIM_PAUSE) && self.claims.try_send(*flow).is_ok() {
            self.claimed.see(now, flow);
        }
    }

    /// Remembers through which home agent a client comes, to the second.
    fn came_by(&self, now: Time, flow: &FlowKey, agent: MemberId) {
        let client = client_of(flow);
        if self.nearest_told.lately(now, &client, Duration::ZERO) {
            return;
        }
        self.nearest_told.see(now, &client);
        let mut nearest = self.nearest.lock().unwrap_or_else(PoisonError::into_inner);
        if nearest.len() < NEAREST_MAX || nearest.contains_key(&client) {
            nearest.insert(client, agent);
        }
    }

    /// Forgets what was too long ago to matter; call it every few minutes.
    pub(super) fn sweep(&self, now: Time) {
        self.filter.sweep(now);
        let mut nearest = self.nearest.lock().unwrap_or_else(PoisonError::into_inner);
        if nearest.len() > NEAREST_MAX / 2 {
            nearest.clear();
        }
    }
}

impl Steer for NodeSteer {
    fn outward(&self, passing: &Passing<'_>) -> Outward {
        let Packet { source, destination, .. } = passing.packet;
        let view = self.view.load();
        let Some(exits) = view.homes.get(&source) else { return Outward::Drop(Reason::Foreign) };
        let client = client_between(destination, source);
        let nearest = match exits.len() {
            0 | 1 => None,
            _ => self.nearest.lock().unwrap_or_else(PoisonError::into_inner).get(&client).copied(),
        };
        let exit = exits.iter().find(|exit| Some(exit.agent) == nearest).or(exits.first());
        match exit {
            Some(exit) => Outward::Seal { key: exit.key, to: exit.to, before: None },
            None => Outward::Drop(Reason::Unserved),
        }
    }

    fn inward(&self, key: KeyId, _from: SocketAddr, passing: &Passing<'_>) -> Inward {
        let packet = &passing.packet;
        let view = self.view.load();
        let Some(sender) = view.senders.get(&key) else { return Inward::Drop(Reason::Foreign) };
        if !view.homes.contains_key(&packet.destination) {
            return Inward::Drop(Reason::Unserved);
        }
        let (now, flow, begins) = (clock::now(), packet.flow(), begins(packet, passing.bytes));
        match self.filter.judge(now, &flow, begins, || passing.keep()) {
            Verdict::Usual => {}
            Verdict::Kept => return Inward::Taken,
            Verdict::Overflow => {
                self.decided.overflowed.fetch_add(1, Ordering::Relaxed);
                return Inward::Drop(Reason::Overflow);
            }
            Verdict::Unclear => return Inward::Drop(Reason::Filtered),
            // Who passes it on will hear that it was not taken, and has it still. Its client sends it again.
            Verdict::Refused if matches!(sender, Sender::Node(_)) => return Inward::Drop(Reason::Filtered),
            Verdict::Refused => {}
            // Never back to whom it came from: it is the one who does not have it.
            Verdict::PassOn(to) if *sender == Sender::Node(to) => {}
            Verdict::PassOn(to) => {
                self.decided.passed_on.fetch_add(1, Ordering::Relaxed);
                return self.relay(&view, &to, None);
            }
        }
        let before = passing.before.and_then(|number| view.numbered(number));
        let came = match sender {
            Sender::Node(_) => {
                self.decided.relayed_here.fetch_add(1, Ordering::Relaxed);
                if passing.before.is_some() { Came::Asked } else { Came::Given }
            }
            Sender::HomeAgent(agent) => {
                if view.homes.get(&packet.destination).is_some_and(|exits| exits.len() > 1) {
                    self.came_by(now, &flow, *agent);
                }
                if before.is_some() { Came::Contested } else { Came::Ours }
            }
        };
        let turn = match flow.protocol {
            // A fragment after the first follows its client's network.
            _ if flow.correspondent.port() == 0 => Turn::Keep,
            TCP => self.of_segment(now, &flow, begins, came),
            UDP => self.of_datagram(now, &flow, came),
            _ => Turn::Keep,
        };
        match (turn, before, sender) {
            (Turn::Ask, Some(to), _) => {
                self.decided.second_chances.fetch_add(1, Ordering::Relaxed);
                return self.relay(&view, &to, passing.before);
            }
            // To whom there is no way back it cannot be given; nobody resets a datagram.
            (Turn::GiveBack, _, Sender::Node(to)) if view.relays.contains_key(to) => {
                self.decided.given_back.fetch_add(1, Ordering::Relaxed);
                return self.relay(&view, to, None);
            }
            (Turn::Claim, ..) => self.claim(now, &flow),
            (Turn::Keep | Turn::Ask | Turn::GiveBack, ..) => {}
        }
        if packet.protocol == UDP && flow.correspondent.port() != 0 {
            self.active.see(now, &flow);
        }
        Inward::Deliver
    }
}

/// Whether a packet opens a connection (RFC 9293, 3.5): SYN without ACK.
fn begins(packet: &Packet, bytes: &[u8]) -> bool {
    const SYN: u8 = 0x02;
    const ACK: u8 = 0x10;
    packet.protocol == TCP
        && packet.fragment != Fragment::Later
        && bytes.get(packet.payload + 13).is_some_and(|flags| flags & (SYN | ACK) == SYN)
}

/// All that is between a client and a home address, as one.
fn client_of(flow: &FlowKey) -> FlowKey {
    client_between(flow.correspondent.ip(), flow.home.ip())
}

fn client_between(client: std::net::IpAddr, home: std::net::IpAddr) -> FlowKey {
    FlowKey { protocol: 0, correspondent: (client, 0).into(), home: (home, 0).into() }
}
