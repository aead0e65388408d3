//! The bindings of a node: which updates it sends to which home agent, and when again (RFC 6275,
//! 11.7.1, 11.8).
//!
//! # Calling contract
//!
//! 1. Before the first update of a process, the epoch on disk is raised by one and synced; the new
//!    one is passed to [`Registration::new`].
//! 2. Feed each [`Input`] as it happens. [`Input::Heard`] only for what the tunnel's key has
//!    authenticated.
//! 3. Drain [`Registration::poll_output`] after each input, in order; [`Output::Persist`] is durable
//!    before any output after it leaves.
//! 4. Sleep until [`Registration::next_deadline`] at most; then feed [`Input::Timer`].
//!
//! # When updates are sent
//!
//! At once when anything about them changed or a home agent came back, but no more than three a
//! second to each home agent for each care-of address; again after 1, 2, 4 … 32 s while no answer
//! comes; a third of the lifetime after it was granted; and when the home agent has stopped probing
//! a care-of address, which means that it has lost it.

use super::message::{BindingAcknowledgement, BindingUpdate, Status};
use super::{
    BindingId, CARE_OFS_MAX, Capabilities, CareOf, HOMES_MAX, HomeAddress, Incarnation, Lifetime, Order,
    Service,
};
use crate::key::MemberId;
use crate::random::Random;
use crate::time::Time;
use crate::tunnel::{Control, KeyId, TunnelKey};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

/// A node registers with at most so many home agents: each probes each of its care-of addresses.
pub const HOME_AGENTS_MAX: usize = 16;

/// The first wait for an answer (INITIAL_BINDACK_TIMEOUT; RFC 6275, 12).
const WAIT_FIRST: Duration = Duration::from_secs(1);
/// The longest (MAX_BINDACK_TIMEOUT).
const WAIT_MAX: Duration = Duration::from_secs(32);
/// Between two updates (MAX_UPDATE_RATE), a little over what home agents allow.
const UPDATE_PAUSE: Duration = Duration::from_millis(340);

/// A node says so often where it is after an update: as often as the home agent answers.
const HELLOS_MAX: u8 = super::cache::PROOF_TRIES;
/// Between two of them, at first; then twice as long each time.
const HELLO_PAUSE: Duration = Duration::from_millis(200);

/// A home agent that has not probed a proved care-of address for so long has lost it: four probes
/// and a round trip.
const PROBES_MISSED: Duration = Duration::from_millis(1800);

/// What happened.
#[derive(Clone, Debug, PartialEq)]
pub enum Input {
    /// These home addresses are to be bound from now on, at most [`HOMES_MAX`].
    Homes(BTreeSet<HomeAddress>),
    /// These are the home agents, at most [`HOME_AGENTS_MAX`].
    HomeAgents(BTreeSet<MemberId>),
    /// A care-of address came, changed or (`None`) went away.
    CareOf {
        /// Which.
        id: BindingId,
        /// What it is now.
        offer: Option<Offer>,
    },
    /// Whether new flows are welcome.
    Service(Service),
    /// A stream to this home agent has been opened: it may be new, or have forgotten everything.
    Connected(MemberId),
    /// A home agent answered, this machine or another one of the same node.
    Acknowledged {
        /// Which: the stream has proved it.
        from: MemberId,
        /// What.
        acknowledgement: BindingAcknowledgement,
    },
    /// A home agent said this through the tunnel.
    Heard {
        /// Which home agent.
        from: MemberId,
        /// At which of the care-of addresses.
        id: BindingId,
        /// Under which key.
        key: KeyId,
        /// What.
        control: Control,
    },
    /// The deadline has passed.
    Timer,
}

/// A care-of address as it is announced.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Offer {
    /// Where.
    pub care_of: CareOf,
    /// What the node can do there.
    pub capabilities: Capabilities,
    /// The lowest that is alive is used.
    pub priority: u8,
}

/// What to do.
#[derive(Clone, Debug, PartialEq)]
pub enum Output {
    /// Keep this epoch on disk: the one on disk was lost.
    Persist(u32),
    /// Tell a home agent.
    Update {
        /// Whom.
        to: MemberId,
        /// What.
        update: BindingUpdate,
    },
    /// Accept packets under this key, and seal with it what goes there; keys before it stay good for
    /// what is on its way.
    Install {
        /// Which home agent.
        home_agent: MemberId,
        /// For which care-of address.
        id: BindingId,
        /// The key.
        key: TunnelKey,
    },
    /// Send this through the tunnel.
    Send {
        /// To which home agent.
        to: MemberId,
        /// From which care-of address.
        id: BindingId,
        /// Under which key.
        key: KeyId,
        /// What.
        control: Control,
    },
    /// A home agent sends packets here from now on, or does so no longer.
    Carries {
        /// Which.
        home_agent: MemberId,
        /// To which care-of address.
        id: BindingId,
        /// Whether it does.
        carries: bool,
    },
    /// The authority does not let this member serve these.
    Refused {
        /// Which home agent says so.
        home_agent: MemberId,
        /// Which home addresses.
        homes: Vec<HomeAddress>,
    },
}

/// One care-of address at one home agent.
#[derive(Debug, Serialize, Deserialize)]
struct Side {
    incarnation: Option<Incarnation>,
    /// When the next update is due.
    due: Time,
    /// When the last one was sent.
    sent: Option<Time>,
    /// Its order, while no answer has come.
    awaited: Option<Order>,
    wait: Duration,
    /// Until when the binding holds.
    granted: Option<Time>,
    key: Option<KeyId>,
    hello: Option<(Time, u8)>,
    /// When it probed last; `None` while it does not use the address.
    probed: Option<Time>,
    /// The address is another one than was proved.
    moved: bool,
    /// The home agent has accepted what holds now: nothing changed since.
    is_known: bool,
    /// The address went away: one more update, to say so.
    leaving: bool,
}

impl Side {
    fn new(now: Time, incarnation: Option<Incarnation>, sent: Option<Time>) -> Side {
        let mut side = Side {
            incarnation,
            due: now,
            sent,
            awaited: None,
            wait: WAIT_FIRST,
            granted: None,
            key: None,
            hello: None,
            probed: None,
            moved: false,
            is_known: false,
            leaving: false,
        };
        side.soon(now);
        side
    }

    /// An update is due as soon as the pace allows.
    fn soon(&mut self, now: Time) {
        self.is_known = false;
        self.wait = WAIT_FIRST;
        self.due = self.sent.map_or(now, |sent| now.max(sent + UPDATE_PAUSE));
    }

    fn deadline(&self) -> Time {
        let hello = self.hello.map_or(Time::NEVER, |(at, _)| at);
        let probed = self.probed.map_or(Time::NEVER, |at| at + PROBES_MISSED);
        let granted = self.granted.unwrap_or(Time::NEVER);
        self.due.min(hello).min(probed).min(granted)
    }
}

/// The machine. See the module for how to call it. What one process has written down of it another one
/// on the same host may go on with, at the same clock: it is the same epoch.
#[derive(Debug, Serialize, Deserialize)]
pub struct Registration {
    order: Order,
    homes: BTreeSet<HomeAddress>,
    home_agents: BTreeSet<MemberId>,
    offers: BTreeMap<BindingId, Offer>,
    service: Service,
    /// The lives of the home agents, as they said last: what is bound anew need not ask.
    lives: BTreeMap<MemberId, Incarnation>,
    /// When the last updates of bindings that ended were sent: what is bound anew keeps their pace.
    paces: BTreeMap<(MemberId, BindingId), Time>,
    sides: BTreeMap<(MemberId, BindingId), Side>,
    random: Random,
    #[serde(skip)]
    outputs: VecDeque<Output>,
}

impl Registration {
    /// One that has nothing to bind. `epoch` is higher than that of every process before.
    pub fn new(epoch: u32, seed: u64) -> Registration {
        Registration {
            order: Order { epoch, sequence: 0 },
            homes: BTreeSet::new(),
            home_agents: BTreeSet::new(),
            offers: BTreeMap::new(),
            service: Service::Open,
            lives: BTreeMap::new(),
            paces: BTreeMap::new(),
            sides: BTreeMap::new(),
            random: Random::new(seed),
            outputs: VecDeque::new(),
        }
    }

    /// Takes note of what happened.
    pub fn handle(&mut self, now: Time, input: Input) {
        match input {
            Input::Homes(mut homes) => {
                while homes.len() > HOMES_MAX {
                    homes.pop_last();
                }
                if homes != self.homes {
                    self.homes = homes;
                    self.all_soon(now);
                }
            }
            Input::HomeAgents(mut home_agents) => {
                while home_agents.len() > HOME_AGENTS_MAX {
                    home_agents.pop_last();
                }
                // What is no home agent any more is not told: its bindings end by themselves.
                self.sides.retain(|(home_agent, _), _| home_agents.contains(home_agent));
                self.lives.retain(|home_agent, _| home_agents.contains(home_agent));
                self.paces.retain(|(home_agent, _), _| home_agents.contains(home_agent));
                self.home_agents = home_agents;
            }
            Input::CareOf { id, offer } => self.offer(now, id, offer),
            Input::Service(service) => {
                if service != self.service {
                    self.service = service;
                    self.all_soon(now);
                }
            }
            Input::Connected(home_agent) => {
                self.sides_of(home_agent).for_each(|(_, side)| side.soon(now));
            }
            Input::Acknowledged { from, acknowledgement } => {
                if self.home_agents.contains(&from) {
                    self.lives.insert(from, acknowledgement.incarnation);
                }
                self.acknowledged(now, from, acknowledgement);
            }
            Input::Heard { from, id, key, control } => self.heard(now, (from, id), key, control),
            Input::Timer => {}
        }
        self.open_sides(now);
        self.pass_time(now);
    }

    /// The next thing to do.
    pub fn poll_output(&mut self) -> Option<Output> {
        self.outputs.pop_front()
    }

    /// When to feed [`Input::Timer`] at the latest.
    pub fn next_deadline(&self) -> Option<Time> {
        self.sides.values().map(Side::deadline).min().filter(|deadline| *deadline < Time::NEVER)
    }

    /// The home agents that send packets to each care-of address now.
    pub fn carried(&self) -> impl Iterator<Item = (MemberId, BindingId)> {
        self.sides.iter().filter(|(_, side)| side.probed.is_some()).map(|(key, _)| *key)
    }

    /// Whether a home agent sends packets here for what is to be bound now.
    pub fn is_known_to(&self, home_agent: &MemberId) -> bool {
        let mut sides = self.sides.iter().filter(|((of, _), _)| of == home_agent);
        sides.any(|(_, side)| side.probed.is_some() && side.is_known)
    }

    fn sides_of(
        &mut self,
        home_agent: MemberId,
    ) -> impl Iterator<Item = (&(MemberId, BindingId), &mut Side)> {
        self.sides.iter_mut().filter(move |((of, _), _)| *of == home_agent)
    }

    fn all_soon(&mut self, now: Time) {
        self.sides.values_mut().for_each(|side| side.soon(now));
    }

    fn offer(&mut self, now: Time, id: BindingId, offer: Option<Offer>) {
        if usize::from(id.0) >= CARE_OFS_MAX || self.offers.get(&id) == offer.as_ref() {
            return;
        }
        match offer {
            Some(offer) => self.offers.insert(id, offer),
            None => self.offers.remove(&id),
        };
        for (_, side) in self.sides.iter_mut().filter(|((_, of), _)| *of == id) {
            side.leaving = offer.is_none();
            side.moved = true;
            side.soon(now);
        }
    }

    fn open_sides(&mut self, now: Time) {
        if self.homes.is_empty() {
            return;
        }
        for home_agent in &self.home_agents {
            for id in self.offers.keys() {
                let (life, sent) = (self.lives.get(home_agent), self.paces.get(&(*home_agent, *id)));
                let new = || Side::new(now, life.copied(), sent.copied());
                self.sides.entry((*home_agent, *id)).or_insert_with(new);
            }
        }
    }

    fn acknowledged(&mut self, now: Time, from: MemberId, acknowledgement: BindingAcknowledgement) {
        // Where it receives, the tunnel knows.
        let BindingAcknowledgement { id, incarnation, order, status, lifetime, refused, key, tunnels: _ } =
            acknowledgement;
        let mut again = None;
        let Some(side) = self.sides.get_mut(&(from, id)) else { return };
        if status == Status::OtherIncarnation {
            // Another life of it: nothing that was granted before holds.
            if side.incarnation != Some(incarnation) && side.awaited == Some(order) {
                side.incarnation = Some(incarnation);
                (side.key, side.awaited) = (None, None);
                side.soon(now);
            }
            return;
        }
        if side.incarnation != Some(incarnation) {
            return;
        }
        match status {
            Status::OutOfOrder if side.awaited.is_some_and(|awaited| awaited <= order) => {
                side.awaited = None;
                side.soon(now);
                again = Some(order);
            }
            Status::Accepted if side.awaited == Some(order) => {
                side.awaited = None;
                side.wait = WAIT_FIRST;
                if side.leaving || lifetime == Lifetime::NONE {
                    self.left(from, id);
                } else {
                    let third = lifetime.duration() / 3;
                    side.due = (now + self.random.around(third)).max(now + UPDATE_PAUSE);
                    side.granted = Some(now + lifetime.duration());
                    side.is_known = true;
                    if let Some(key) = key {
                        self.keyed(now, (from, id), key);
                    }
                }
            }
            // Somebody has to change something first; ask again in a while.
            Status::Prohibited | Status::Full if side.awaited == Some(order) => {
                side.awaited = None;
                side.due = now + self.random.around(WAIT_MAX);
                if side.leaving {
                    self.left(from, id);
                }
            }
            _ => return,
        }
        if let Some(seen) = again {
            self.overtake(seen);
        }
        if !refused.is_empty() {
            self.outputs.push_back(Output::Refused { home_agent: from, homes: refused });
        }
    }

    /// A home agent has accepted a higher order from this member than it knows of: its disk was set
    /// back. It goes on above.
    fn overtake(&mut self, seen: Order) {
        if seen < self.order {
            return;
        }
        if seen.epoch == self.order.epoch && seen.sequence < u32::MAX {
            self.order.sequence = seen.sequence;
        } else {
            self.order = Order { epoch: seen.epoch.saturating_add(1), sequence: 0 };
            self.outputs.push_back(Output::Persist(self.order.epoch));
        }
    }

    fn keyed(&mut self, now: Time, (home_agent, id): (MemberId, BindingId), key: TunnelKey) {
        let Some(side) = self.sides.get_mut(&(home_agent, id)) else { return };
        let number = key.id;
        if side.key != Some(number) {
            side.key = Some(number);
            self.outputs.push_back(Output::Install { home_agent, id, key });
        }
        // An address that is not proved asks for a cookie.
        if side.probed.is_none() || side.moved {
            side.hello = Some((now, 0));
        }
    }

    fn left(&mut self, home_agent: MemberId, id: BindingId) {
        let Some(side) = self.sides.remove(&(home_agent, id)) else { return };
        if let Some(sent) = side.sent {
            self.paces.insert((home_agent, id), sent);
        }
        if side.probed.is_some() {
            self.outputs.push_back(Output::Carries { home_agent, id, carries: false });
        }
    }

    fn heard(&mut self, now: Time, at: (MemberId, BindingId), key: KeyId, control: Control) {
        let Some(side) = self.sides.get_mut(&at) else { return };
        let (to, id) = at;
        let answer = match control {
            Control::Cookie(cookie) => {
                side.moved = false;
                Control::Echo(cookie)
            }
            Control::Probe(number) => {
                if side.probed.replace(now).is_none() {
                    self.outputs.push_back(Output::Carries { home_agent: to, id, carries: true });
                }
                Control::Alive(number)
            }
            // Said by nodes only.
            Control::Hello | Control::Echo(_) | Control::Alive(_) | Control::Direct(_) => return,
            // The shell's: `Returns` is told.
            Control::Seen { .. } => return,
        };
        self.outputs.push_back(Output::Send { to, id, key, control: answer });
    }

    fn pass_time(&mut self, now: Time) {
        let due = |(key, side): (&(MemberId, BindingId), &Side)| (side.deadline() <= now).then_some(*key);
        let due: Vec<(MemberId, BindingId)> = self.sides.iter().filter_map(due).collect();
        for (home_agent, id) in due {
            self.look_for_silence(now, home_agent, id);
            self.greet(now, home_agent, id);
            if self.sides.get(&(home_agent, id)).is_some_and(|side| side.due <= now) {
                self.update(now, home_agent, id);
            }
        }
    }

    /// Notices that a home agent has lost a care-of address, or forgotten it.
    fn look_for_silence(&mut self, now: Time, home_agent: MemberId, id: BindingId) {
        let Some(side) = self.sides.get_mut(&(home_agent, id)) else { return };
        let silent = side.probed.take_if(|at| now.since(*at) >= PROBES_MISSED).is_some();
        let over = side.granted.take_if(|until| *until <= now).is_some();
        if over {
            side.hello = None;
        }
        if silent {
            // The answer proves the address anew.
            side.soon(now);
            self.outputs.push_back(Output::Carries { home_agent, id, carries: false });
        }
    }

    fn greet(&mut self, now: Time, home_agent: MemberId, id: BindingId) {
        let Some(side) = self.sides.get_mut(&(home_agent, id)) else { return };
        let Some((at, said)) = side.hello.filter(|(at, _)| *at <= now) else { return };
        let Some(key) = side.key else { return };
        side.hello = (said + 1 < HELLOS_MAX).then(|| (at.max(now) + HELLO_PAUSE * (1 << said), said + 1));
        self.outputs.push_back(Output::Send { to: home_agent, id, key, control: Control::Hello });
    }

    fn next_order(&mut self) -> Order {
        if self.order.sequence == u32::MAX {
            self.overtake(self.order);
        }
        self.order.sequence += 1;
        self.order
    }

    fn update(&mut self, now: Time, home_agent: MemberId, id: BindingId) {
        let order = self.next_order();
        let offer = self.offers.get(&id).copied();
        let leaves = offer.is_none() || self.homes.is_empty();
        let Some(side) = self.sides.get_mut(&(home_agent, id)) else { return };
        if leaves && side.granted.is_none() {
            // Nothing is bound, or not any more.
            self.left(home_agent, id);
            return;
        }
        side.leaving = leaves;
        side.sent = Some(now);
        side.awaited = Some(order);
        side.due = now + self.random.around(side.wait);
        side.wait = (side.wait * 2).min(WAIT_MAX);
        let nowhere = Offer { care_of: CareOf::Observed, capabilities: Capabilities::NONE, priority: 0 };
        let Offer { care_of, capabilities, priority } = offer.unwrap_or(nowhere);
        let update = BindingUpdate {
            id,
            incarnation: side.incarnation,
            order,
            homes: self.homes.iter().copied().collect(),
            care_of,
            lifetime: if leaves { Lifetime::NONE } else { Lifetime::DEFAULT },
            capabilities,
            priority,
            service: self.service,
        };
        self.outputs.push_back(Output::Update { to: home_agent, update });
    }
}
