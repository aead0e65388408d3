//! Telling home agents where flows of this node are to go: to itself, when they send them elsewhere, or
//! to a node that has taken them over.
//!
//! All home agents are told, each about its own life, in one order. What is not answered is said again,
//! under a later order, so a flow that was bound otherwise meanwhile is not bound back: the home agent
//! takes it from its owner alone.

use crate::moves::Tell;
use godwit_core::binding::{Incarnation, Order};
use godwit_core::flow::FlowKey;
use godwit_core::flow::table::{FLOWS_PER_UPDATE_MAX, FlowUpdate};
use godwit_core::key::MemberId;
use godwit_core::mobility::{FlowsBound, Message};
use godwit_core::time::Time;
use std::collections::BTreeMap;
use std::time::Duration;
use tokio::sync::oneshot;

/// Said again after so long without an answer.
const AGAIN: Duration = Duration::from_millis(700);

/// And so often.
const TRIES_MAX: u8 = 5;

/// Updates that wait for answers; of more, the oldest are given up: flows whose packets still come here
/// are claimed again.
const WAITING_MAX: usize = 256;

/// Flow updates under way.
pub(super) struct FlowUpdates {
    tell: Tell,
    order: Order,
    waiting: BTreeMap<(MemberId, u32), Waiting>,
    /// Told when nothing waits any more.
    watchers: Vec<oneshot::Sender<()>>,
}

struct Waiting {
    update: FlowUpdate,
    again: Time,
    tries: u8,
}

impl FlowUpdates {
    /// None, in this process's epoch.
    pub(super) fn new(tell: Tell, epoch: u32) -> FlowUpdates {
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
        for flows in flows.chunks(FLOWS_PER_UPDATE_MAX) {
            for (agent, incarnation) in agents {
                let update =
                    FlowUpdate { incarnation: *incarnation, order: self.order, to, flows: flows.to_vec() };
                self.say(now, *agent, update, 1);
            }
        }
        self.watchers.extend(done);
        self.tell_watchers();
    }

    /// A home agent answered.
    pub(super) fn bound(&mut self, from: MemberId, answer: &FlowsBound) {
        if let Some(waiting) = self.waiting.remove(&(from, answer.order.sequence)) {
            match &answer.result {
                Ok(refused) if refused.is_empty() => {}
                Ok(refused) => {
                    let why = refused.first().map(|(flow, why)| format!("{flow}: {why}"));
                    tracing::debug!(
                        agent = from.short(),
                        refused = refused.len(),
                        ?why,
                        "flows were not bound"
                    );
                }
                Err(why) => {
                    tracing::debug!(agent = from.short(), %why, flows = waiting.update.flows.len(), "no flow was bound");
                }
            }
        }
        self.tell_watchers();
    }

    /// Time has passed.
    pub(super) fn pass_time(&mut self, now: Time) {
        let due: Vec<(MemberId, u32)> =
            self.waiting.iter().filter(|(_, waiting)| waiting.again <= now).map(|(key, _)| *key).collect();
        for key in due {
            let Some(waiting) = self.waiting.remove(&key) else { continue };
            if waiting.tries < TRIES_MAX {
                self.say(now, key.0, waiting.update, waiting.tries + 1);
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

    fn say(&mut self, now: Time, agent: MemberId, mut update: FlowUpdate, tries: u8) {
        while self.waiting.len() >= WAITING_MAX {
            self.waiting.pop_first();
        }
        self.order.sequence += 1;
        update.order = self.order;
        // One that is not sent is sent again.
        let _ = self.tell.tell(agent, &Message::Flows(update.clone()));
        let waiting = Waiting { update, again: now + AGAIN, tries };
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
