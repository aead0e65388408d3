//! The flow bindings of a home agent (RFC 6089, 5.1): flows that are not where a new one would go.
//!
//! A flow is bound by its owner alone: to itself, when it sees that new flows of that client go
//! elsewhere now, or to another node, when it hands the flow over. Nobody else can, so no member can
//! draw a conversation that it is not part of. When an owner dies, its flow bindings go with it, and
//! the packets go where new flows go: that node does not know them and ends them at once.

use super::FlowKey;
use crate::binding::{Incarnation, Order};
use crate::key::MemberId;
use crate::time::Time;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::time::Duration;

/// Most flow bindings of a home agent: some 25 MB.
pub const FLOWS_MAX: usize = 1 << 18;

/// A message binds at most so many flows: what fits into [`crate::wire::MESSAGE_LEN_MAX`] with room
/// to spare. A node with more of them sends several.
pub const FLOWS_PER_UPDATE_MAX: usize = 1024;

/// A flow without packets for so long is forgotten. An established TCP connection may be silent for
/// two hours and longer (RFC 9293, 3.8.4); its node binds it again before this is over.
pub const IDLE_MAX: Duration = Duration::from_secs(300);

/// How often the table is looked through for what is idle.
const SWEEP_PAUSE: Duration = Duration::from_secs(10);

/// A node tells a home agent where flows of its own are to go.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FlowUpdate {
    /// The home agent's life that this is said to.
    pub incarnation: Incarnation,
    /// Later than every flow update before: a hand-off that was overtaken counts for nothing.
    pub order: Order,
    /// Who gets them from now on: the sender itself, or who has taken them over.
    pub to: MemberId,
    /// Which, at most [`FLOWS_PER_UPDATE_MAX`].
    pub flows: Vec<FlowKey>,
}

/// Why a flow update, or one flow of it, has no effect.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, thiserror::Error)]
#[serde(rename_all = "kebab-case")]
pub enum Refusal {
    /// Said to another life of this home agent.
    #[error("said to another life of this home agent")]
    OtherIncarnation,
    /// No later than one before.
    #[error("no later than a flow update before")]
    OutOfOrder,
    /// Too many flows in one message.
    #[error("more than {FLOWS_PER_UPDATE_MAX} flows")]
    TooMany,
    /// The sender does not own the flow.
    #[error("the flow is not the sender's")]
    NotOwner,
    /// Who is to get it does not serve the home address, or cannot be reached.
    #[error("the receiver does not serve that home address")]
    Receiver,
    /// No room: it stays with its owner for as long as that is the choice for new ones.
    #[error("no room for more flow bindings")]
    Full,
}

/// What the home agent knows beside the table.
pub trait Choice {
    /// Whether new flows like this one go to the node now, or did within the last minutes.
    fn chose(&self, flow: &FlowKey, node: &MemberId) -> bool;
    /// Whether new flows like this one go to the node now.
    fn chooses(&self, flow: &FlowKey, node: &MemberId) -> bool;
    /// Whether the node has a binding for the home address of the flow that can be used.
    fn usable(&self, flow: &FlowKey, node: &MemberId) -> bool;
}

#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
struct Bound {
    owner: MemberId,
    used: Time,
}

/// The flow bindings of a home agent. See the module. What one process has written down of it another one
/// on the same host may go on with, at the same clock.
#[derive(Debug, Serialize, Deserialize)]
pub struct FlowTable {
    incarnation: Incarnation,
    flows: HashMap<FlowKey, Bound>,
    floors: BTreeMap<MemberId, Order>,
    swept: Time,
}

impl FlowTable {
    /// An empty one of this life of a home agent.
    pub fn new(now: Time, incarnation: Incarnation) -> FlowTable {
        FlowTable { incarnation, flows: HashMap::new(), floors: BTreeMap::new(), swept: now }
    }

    /// Takes what `from` says. The flows that it could not bind come back with the reason, or one
    /// reason for all.
    pub fn update(
        &mut self,
        now: Time,
        from: MemberId,
        update: &FlowUpdate,
        choice: &impl Choice,
    ) -> Result<Vec<(FlowKey, Refusal)>, Refusal> {
        if update.incarnation != self.incarnation {
            return Err(Refusal::OtherIncarnation);
        }
        if update.flows.len() > FLOWS_PER_UPDATE_MAX {
            return Err(Refusal::TooMany);
        }
        if self.floors.get(&from).is_some_and(|floor| update.order <= *floor) {
            return Err(Refusal::OutOfOrder);
        }
        self.floors.insert(from, update.order);
        let bind = |flow: &FlowKey| Some((*flow, self.bind(now, from, update.to, flow, choice).err()?));
        Ok(update.flows.iter().filter_map(bind).collect())
    }

    fn bind(
        &mut self,
        now: Time,
        from: MemberId,
        to: MemberId,
        flow: &FlowKey,
        choice: &impl Choice,
    ) -> Result<(), Refusal> {
        let owns = match self.flows.get(flow) {
            Some(bound) => bound.owner == from,
            None => choice.chose(flow, &from),
        };
        if !owns {
            return Err(Refusal::NotOwner);
        }
        if !choice.usable(flow, &to) {
            return Err(Refusal::Receiver);
        }
        // What goes there anyway needs no exception. A fresh one stays: the choice may have been
        // another a moment ago.
        if choice.chooses(flow, &to) && !self.flows.contains_key(flow) {
            return Ok(());
        }
        if self.flows.len() >= FLOWS_MAX && !self.flows.contains_key(flow) {
            return Err(Refusal::Full);
        }
        self.flows.insert(*flow, Bound { owner: to, used: now });
        Ok(())
    }

    /// Who the packets of a flow go to, if it is an exception; one more packet of it came.
    pub fn owner(&mut self, now: Time, flow: &FlowKey) -> Option<MemberId> {
        let bound = self.flows.get_mut(flow)?;
        bound.used = now;
        Some(bound.owner)
    }

    /// These members, and no others, can be reached: what is bound to others is let go.
    pub fn retain_owners(&mut self, reachable: &BTreeSet<MemberId>) {
        self.flows.retain(|_, bound| reachable.contains(&bound.owner));
    }

    /// Forgets what has been idle for long; call it every few seconds.
    pub fn sweep(&mut self, now: Time) {
        if now.since(self.swept) >= SWEEP_PAUSE {
            self.swept = now;
            self.flows.retain(|_, bound| now.since(bound.used) < IDLE_MAX);
        }
    }

    /// How many flows are bound.
    pub fn len(&self) -> usize {
        self.flows.len()
    }

    /// Whether no flow is.
    pub fn is_empty(&self) -> bool {
        self.flows.is_empty()
    }

    /// All flow bindings, in no order.
    pub fn iter(&self) -> impl Iterator<Item = (&FlowKey, MemberId)> {
        self.flows.iter().map(|(flow, bound)| (flow, bound.owner))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIFE: Incarnation = Incarnation(5);

    fn member(n: u8) -> MemberId {
        MemberId::from_bytes([n; 32])
    }

    fn flow(port: u16) -> FlowKey {
        FlowKey {
            protocol: 6,
            correspondent: ([203, 0, 113, 7], port).into(),
            home: "192.0.2.1:80".parse().unwrap(),
        }
    }

    /// New flows go to the first; until lately they went to the others of `chose`.
    struct World {
        chose: Vec<u8>,
        usable: Vec<u8>,
    }

    impl Choice for World {
        fn chose(&self, _: &FlowKey, node: &MemberId) -> bool {
            self.chose.iter().any(|n| member(*n) == *node)
        }
        fn chooses(&self, _: &FlowKey, node: &MemberId) -> bool {
            self.chose.first().is_some_and(|n| member(*n) == *node)
        }
        fn usable(&self, _: &FlowKey, node: &MemberId) -> bool {
            self.usable.iter().any(|n| member(*n) == *node)
        }
    }

    fn world() -> World {
        World { chose: vec![1, 2], usable: vec![1, 2, 3] }
    }

    fn update(sequence: u32, to: u8, flows: &[u16]) -> FlowUpdate {
        FlowUpdate {
            incarnation: LIFE,
            order: Order { epoch: 1, sequence },
            to: member(to),
            flows: flows.iter().map(|port| flow(*port)).collect(),
        }
    }

    fn table() -> FlowTable {
        FlowTable::new(Time::default(), LIFE)
    }

    #[test]
    fn an_owner_keeps_its_flows_and_hands_them_over_and_nobody_else_does() {
        let (now, mut table) = (Time::from_secs(1), table());
        // The choice has moved from 2 to 1; 2 keeps what it has.
        assert_eq!(table.update(now, member(2), &update(1, 2, &[10, 11]), &world()), Ok(vec![]));
        assert_eq!(table.owner(now, &flow(10)), Some(member(2)));
        // A stranger cannot take it, nor can who is chosen for new flows.
        for thief in [1, 3] {
            let refused = table.update(now, member(thief), &update(1, thief, &[10]), &world());
            assert_eq!(refused, Ok(vec![(flow(10), Refusal::NotOwner)]));
        }
        assert_eq!(table.update(now, member(2), &update(2, 3, &[10]), &world()), Ok(vec![]));
        assert_eq!(table.owner(now, &flow(10)), Some(member(3)));
        // What was given away is the other's.
        assert_eq!(
            table.update(now, member(2), &update(3, 2, &[10]), &world()),
            Ok(vec![(flow(10), Refusal::NotOwner)])
        );
        assert_eq!(table.owner(now, &flow(11)), Some(member(2)));
    }

    #[test]
    fn what_is_late_foreign_or_unreachable_is_refused() {
        let (now, mut table, world) = (Time::from_secs(1), table(), world());
        assert_eq!(table.update(now, member(2), &update(5, 2, &[10]), &world), Ok(vec![]));
        for sequence in [5, 4, 0] {
            let late = table.update(now, member(2), &update(sequence, 3, &[10]), &world);
            assert_eq!(late, Err(Refusal::OutOfOrder));
        }
        let other = FlowUpdate { incarnation: Incarnation(4), ..update(6, 3, &[10]) };
        assert_eq!(table.update(now, member(2), &other, &world), Err(Refusal::OtherIncarnation));
        let many = FlowUpdate { flows: vec![flow(1); FLOWS_PER_UPDATE_MAX + 1], ..update(6, 3, &[]) };
        assert_eq!(table.update(now, member(2), &many, &world), Err(Refusal::TooMany));
        assert_eq!(
            table.update(now, member(2), &update(7, 9, &[10]), &world),
            Ok(vec![(flow(10), Refusal::Receiver)])
        );
        assert_eq!(table.owner(now, &flow(10)), Some(member(2)));
    }

    #[test]
    fn what_goes_there_anyway_takes_no_room() {
        let (now, mut table) = (Time::from_secs(1), table());
        assert_eq!(table.update(now, member(1), &update(1, 1, &[10]), &world()), Ok(vec![]));
        assert!(table.is_empty());
    }

    #[test]
    fn the_dead_and_the_idle_are_forgotten() {
        let (mut now, mut table) = (Time::from_secs(1), table());
        table.update(now, member(2), &update(1, 2, &[10, 11]), &world()).unwrap();
        table.update(now, member(2), &update(2, 3, &[11]), &world()).unwrap();
        table.retain_owners(&[member(3)].into());
        assert_eq!((table.owner(now, &flow(10)), table.owner(now, &flow(11))), (None, Some(member(3))));
        for _ in 0..100 {
            now = now + IDLE_MAX / 2;
            table.sweep(now);
            assert_eq!(table.owner(now, &flow(11)), Some(member(3)));
        }
        table.sweep(now + IDLE_MAX);
        assert!(table.is_empty());
    }

    #[test]
    fn the_table_is_bounded() {
        let (now, mut table) = (Time::from_secs(1), table());
        let mut sequence = 0;
        let mut full = 0;
        for high in 0..=(FLOWS_MAX / FLOWS_PER_UPDATE_MAX) as u32 {
            sequence += 1;
            let flows = (0..FLOWS_PER_UPDATE_MAX as u32).map(|low| FlowKey {
                correspondent: ((high << 16 | low).to_be_bytes(), 1).into(),
                ..flow(1)
            });
            let update = FlowUpdate { flows: flows.collect(), ..update(sequence, 2, &[]) };
            assert!(crate::wire::encode(&update).len() <= crate::wire::MESSAGE_LEN_MAX);
            full += table.update(now, member(2), &update, &world()).unwrap().len();
        }
        assert_eq!((table.len(), full), (FLOWS_MAX, FLOWS_PER_UPDATE_MAX));
    }
}
