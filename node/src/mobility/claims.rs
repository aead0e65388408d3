//! Telling home agents where flows of this node are to go: to itself, when they send them elsewhere, or
//! to a node that has taken them over.
//!
//! All home agents are told, each about its own life, in one order. What is not answered is said again,
//! under a later order, so a flow that was bound otherwise meanwhile is not bound back: the home agent
//! takes it from its owner alone. So is what was refused for a reason that can pass: a flow may be given on
//! before the home agent has heard who got it, or to a node that is just being bound, and one link that is
//! missing would have all later ones refused.

use crate::moves::Tell;
use godwit_core::binding::{Incarnation, Order};
use godwit_core::flow::FlowKey;
use godwit_core::flow::table::{FLOWS_PER_UPDATE_MAX, FlowUpdate, Refusal};
use godwit_core::key::MemberId;
use godwit_core::mobility::{FlowsBound, Message};
use godwit_core::time::Time;
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;
use tokio::sync::oneshot;

/// Said again after so long without an answer.
const AGAIN: Duration = Duration::from_millis(700);

/// And so often.
const TRIES_MAX: u8 = 5;

/// Flows that were refused are said again after so long where that can pass: who is to get them is being
/// bound, or who had them before has not been heard yet.
const REFUSED_AGAIN: Duration = Duration::from_millis(250);

/// And so often: for as long as a node takes to be bound, with some updates lost (four seconds). A flow that
/// nobody binds goes by way of who had it before, and cannot go further.
const REFUSED_TRIES_MAX: u8 = 16;

/// Updates that wait for answers; of more, the oldest are given up: flows whose packets still come here
/// are claimed again.
const WAITING_MAX: usize = 256;

/// Flow updates under way.
pub(super) struct FlowUpdates {
    /// What is not sent is sent again.
    tell: Box<dyn Fn(MemberId, FlowUpdate) + Send + Sync>,
    order: Order,
    waiting: BTreeMap<(MemberId, u32), Waiting>,
    /// Told when nothing waits any more.
    watchers: Vec<oneshot::Sender<()>>,
}

struct Waiting {
    update: FlowUpdate,
    again: Time,
    /// Without an answer, and with flows refused.
    tries: u8,
    refused: u8,
}

impl FlowUpdates {
    /// None, in this process's epoch.
    pub(super) fn new(tell: Tell, epoch: u32) -> FlowUpdates {
        FlowUpdates::told(epoch, move |agent, update| {
            let _ = tell.tell(agent, &Message::Flows(update));
        })
    }

    fn told(epoch: u32, tell: impl Fn(MemberId, FlowUpdate) + Send + Sync + 'static) -> FlowUpdates {
        let tell = Box::new(tell);
        let order = Order { epoch, sequence: 0 };
        FlowUpdates { tell, order, waiting: BTreeMap::new(), watchers: Vec::new() }
    }

    /// Packets of these flows are to go to `to` from now on. `done` hears when all home agents have
    /// answered, or were asked often enough.
    pub(super) fn bind(
        &mut self,
        now: Time,
        agents: &BTreeMap<MemberId, Incarnation>,
        to: MemberId,
        flows: &[FlowKey],
        done: Option<oneshot::Sender<()>>,
    ) {
        self.forget(flows);
        for flows in flows.chunks(FLOWS_PER_UPDATE_MAX) {
            for (agent, incarnation) in agents {
                let update =
                    FlowUpdate { incarnation: *incarnation, order: self.order, to, flows: flows.to_vec() };
                self.say(now, *agent, update, 1, 0);
            }
        }
        self.watchers.extend(done);
        self.tell_watchers();
    }

    /// A home agent answered.
    pub(super) fn bound(&mut self, now: Time, from: MemberId, answer: &FlowsBound) {
        let key = (from, answer.order.sequence);
        if let Some(waiting) = self.waiting.remove(&key) {
            match &answer.result {
                Ok(refused) if refused.is_empty() => {}
                Ok(refused) => {
                    let why = refused.first().map(|(flow, why)| format!("{flow}: {why}"));
                    let (agent, count) = (from.short(), refused.len());
                    tracing::debug!(agent, refused = count, ?why, "flows were not bound");
                    self.refused(now, key, waiting, refused);
                }
                Err(why) => {
                    tracing::debug!(agent = from.short(), %why, flows = waiting.update.flows.len(), "no flow was bound");
                }
            }
        }
        self.tell_watchers();
    }

    /// What was said of these flows before does not hold any more.
    fn forget(&mut self, flows: &[FlowKey]) {
        if self.waiting.is_empty() {
            return;
        }
        let flows: BTreeSet<&FlowKey> = flows.iter().collect();
        self.waiting.retain(|_, waiting| {
            waiting.update.flows.retain(|flow| !flows.contains(flow));
            !waiting.update.flows.is_empty()
        });
    }

    /// Keeps what may be bound in a moment.
    fn refused(
        &mut self,
        now: Time,
        key: (MemberId, u32),
        mut waiting: Waiting,
        refused: &[(FlowKey, Refusal)],
    ) {
        let passes = |why: &Refusal| matches!(why, Refusal::NotOwner | Refusal::Receiver);
        waiting.update.flows = refused.iter().filter(|(_, why)| passes(why)).map(|(flow, _)| *flow).collect();
        waiting.refused += 1;
        if !waiting.update.flows.is_empty() && waiting.refused < REFUSED_TRIES_MAX {
            waiting.again = now + REFUSED_AGAIN;
            waiting.tries = 0;
            self.waiting.insert(key, waiting);
        }
    }

    /// Time has passed.
    pub(super) fn pass_time(&mut self, now: Time) {
        let due: Vec<(MemberId, u32)> =
            self.waiting.iter().filter(|(_, waiting)| waiting.again <= now).map(|(key, _)| *key).collect();
        for key in due {
            let Some(waiting) = self.waiting.remove(&key) else { continue };
            if waiting.tries < TRIES_MAX {
                self.say(now, key.0, waiting.update, waiting.tries + 1, waiting.refused);
            } else {
                tracing::info!(agent = key.0.short(), "a home agent does not answer about flows");
            }
        }
        self.tell_watchers();
    }

    /// When [`FlowUpdates::pass_time`] is to be called.
    pub(super) fn next_deadline(&self) -> Option<Time> {
        self.waiting.values().map(|waiting| waiting.again).min()
    }

    fn say(&mut self, now: Time, agent: MemberId, mut update: FlowUpdate, tries: u8, refused: u8) {
        while self.waiting.len() >= WAITING_MAX {
            self.waiting.pop_first();
        }
        self.order.sequence += 1;
        update.order = self.order;
        (self.tell)(agent, update.clone());
        let waiting = Waiting { update, again: now + AGAIN, tries, refused };
        self.waiting.insert((agent, self.order.sequence), waiting);
    }

    fn tell_watchers(&mut self) {
        if self.waiting.is_empty() {
            for watcher in self.watchers.drain(..) {
                // Whoever wanted to know may have gone.
                let _ = watcher.send(());
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::{Arc, Mutex};

    const AGENT: MemberId = MemberId::from_bytes([9; 32]);
    const NEXT: MemberId = MemberId::from_bytes([2; 32]);

    fn flow(port: u16) -> FlowKey {
        FlowKey {
            protocol: 6,
            correspondent: ([203, 0, 113, 7], port).into(),
            home: "192.0.2.1:80".parse().unwrap(),
        }
    }

    /// What was said, and the machine that says it.
    fn updates() -> (Arc<Mutex<Vec<FlowUpdate>>>, FlowUpdates) {
        let said = Arc::new(Mutex::new(Vec::new()));
        let ear = said.clone();
        (said, FlowUpdates::told(1, move |_, update| ear.lock().unwrap().push(update)))
    }

    fn bind(updates: &mut FlowUpdates, now: Time, to: MemberId, ports: &[u16]) {
        let flows: Vec<FlowKey> = ports.iter().map(|port| flow(*port)).collect();
        updates.bind(now, &[(AGENT, Incarnation(1))].into(), to, &flows, None);
    }

    fn refuse(updates: &mut FlowUpdates, now: Time, sequence: u32, refused: &[(u16, Refusal)]) {
        let result = Ok(refused.iter().map(|(port, why)| (flow(*port), *why)).collect());
        updates.bound(now, AGENT, &FlowsBound { order: Order { epoch: 1, sequence }, result });
    }

    #[test]
    fn what_may_be_bound_in_a_moment_is_said_again_and_nothing_else() {
        let (said, mut updates) = updates();
        let mut now = Time::from_secs(1);
        bind(&mut updates, now, NEXT, &[1, 2, 3, 4]);
        let why = [(1, Refusal::Receiver), (2, Refusal::NotOwner), (3, Refusal::Full)];
        refuse(&mut updates, now, 1, &why);
        updates.pass_time(now);
        assert_eq!(said.lock().unwrap().len(), 1, "not at once");
        now = now + REFUSED_AGAIN;
        updates.pass_time(now);
        let again = said.lock().unwrap().last().unwrap().clone();
        assert_eq!((again.to, again.flows, again.order.sequence), (NEXT, vec![flow(1), flow(2)], 2));
        // For a while, and then it is over.
        for sequence in 2..100 {
            refuse(&mut updates, now, sequence, &[(1, Refusal::Receiver)]);
            now = now + REFUSED_AGAIN;
            updates.pass_time(now);
        }
        assert_eq!(said.lock().unwrap().len(), usize::from(REFUSED_TRIES_MAX));
        assert!(updates.waiting.is_empty());
    }

    #[test]
    fn the_last_word_about_a_flow_is_the_only_one() {
        let (said, mut updates) = updates();
        let now = Time::from_secs(1);
        bind(&mut updates, now, MemberId::from_bytes([1; 32]), &[1, 2]);
        refuse(&mut updates, now, 1, &[(1, Refusal::NotOwner), (2, Refusal::NotOwner)]);
        bind(&mut updates, now, NEXT, &[1]);
        refuse(&mut updates, now, 2, &[]);
        updates.pass_time(now + REFUSED_AGAIN);
        assert_eq!(said.lock().unwrap().last().unwrap().flows, [flow(2)]);
        assert_eq!(said.lock().unwrap().len(), 3);
    }
}
