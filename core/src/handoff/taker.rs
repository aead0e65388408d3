//! The node that takes connections over.

use super::{FLOWS_MAX, HandoffId, Message, STATE_LEN_MAX};
use crate::flow::FlowKey;
use crate::key::MemberId;
use crate::time::Time;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

/// So many hand-offs are under way at once, of all givers: packets are held for each.
pub const HANDOFFS_MAX: usize = 256;

/// Packets are held for so long and no longer: by then their senders have sent them again.
const HOLD_MAX: Duration = Duration::from_secs(5);

/// What was taken is known for so long, for a giver that asks again.
const MEMORY: Duration = Duration::from_secs(60);

/// So many hand-offs that are over are remembered, each with at most [`FLOWS_MAX`] flows. While there are
/// more, none is begun: one that was forgotten too early would get two owners.
pub const REMEMBERED_MAX: usize = 4096;

/// What happened.
#[derive(Clone, Debug, PartialEq)]
pub enum Input {
    /// Somebody said this.
    Heard {
        /// Who: the stream has proved it.
        from: MemberId,
        /// What.
        message: Message,
    },
    /// Sockets were restored; those not named could not be.
    Restored {
        /// Whose hand-off.
        from: MemberId,
        /// Which.
        id: HandoffId,
        /// Which flows.
        flows: BTreeSet<FlowKey>,
    },
    /// The deadline has passed.
    Timer,
}

/// What to do, in this order.
#[derive(Clone, Debug, PartialEq)]
pub enum Output {
    /// Tell a member.
    Send {
        /// Whom.
        to: MemberId,
        /// What.
        message: Message,
    },
    /// Keep what comes of these flows from the kernel, in a bounded queue.
    Hold(Vec<FlowKey>),
    /// Make sockets of these states; then feed [`Input::Restored`].
    Restore {
        /// Whose hand-off.
        from: MemberId,
        /// Which.
        id: HandoffId,
        /// The states.
        states: Vec<(FlowKey, Vec<u8>)>,
    },
    /// What is held of these flows, and what comes, goes to the kernel.
    Release(Vec<FlowKey>),
    /// What is held of these flows is dropped; what comes is treated as that of any unknown flow.
    Drop(Vec<FlowKey>),
}

#[derive(Debug)]
enum Stage {
    Holding(Time),
    Restoring,
}

#[derive(Debug)]
struct Handoff {
    held: BTreeSet<FlowKey>,
    stage: Stage,
}

/// The machine. See [`super`] for what it does.
#[derive(Debug, Default)]
pub struct Taker {
    handoffs: BTreeMap<(MemberId, HandoffId), Handoff>,
    /// All flows of those.
    held: BTreeSet<FlowKey>,
    /// What was answered at the end, and until when it is known.
    over: BTreeMap<(MemberId, HandoffId), (Time, Vec<FlowKey>)>,
    ends: VecDeque<(Time, (MemberId, HandoffId))>,
    outputs: VecDeque<Output>,
}

impl Taker {
    /// One that takes nothing.
    pub fn new() -> Taker {
        Taker::default()
    }

    /// Takes note of what happened. `wants` says whether this node would serve a flow, as its home
    /// addresses and its room have it.
    pub fn handle(&mut self, now: Time, input: Input, wants: impl FnMut(&FlowKey) -> bool) {
        match input {
            Input::Heard { from, message } => self.heard(now, from, message, wants),
            Input::Restored { from, id, flows } => self.restored(now, from, id, &flows),
            Input::Timer => {}
        }
        self.end_overdue(now);
    }

    /// The next thing to do.
    pub fn poll_output(&mut self) -> Option<Output> {
        self.outputs.pop_front()
    }

    /// When to feed [`Input::Timer`] at the latest.
    pub fn next_deadline(&self) -> Option<Time> {
        let holding = |handoff: &Handoff| match handoff.stage {
            Stage::Holding(until) => Some(until),
            Stage::Restoring => None,
        };
        let end = self.ends.front().map(|(at, _)| *at);
        self.handoffs.values().filter_map(holding).chain(end).min()
    }

    fn heard(&mut self, now: Time, from: MemberId, message: Message, wants: impl FnMut(&FlowKey) -> bool) {
        match message {
            Message::Prepare { id, flows } => self.prepare(now, (from, id), flows, wants),
            Message::Transfer { id, states } => self.transfer((from, id), states),
            Message::Cancel { id } => self.cancel((from, id)),
            // Said by takers only.
            Message::Prepared { .. } | Message::Taken { .. } => {}
        }
    }

    fn prepare(
        &mut self,
        now: Time,
        key: (MemberId, HandoffId),
        flows: Vec<FlowKey>,
        mut wants: impl FnMut(&FlowKey) -> bool,
    ) {
        let (from, id) = key;
        if self.over.contains_key(&key) {
            return;
        }
        if !self.handoffs.contains_key(&key) {
            let room = self.handoffs.len() < HANDOFFS_MAX
                && self.over.len() + self.handoffs.len() < REMEMBERED_MAX
                && flows.len() <= FLOWS_MAX;
            let free = |flow: &FlowKey| room && !self.held.contains(flow) && wants(flow);
            let held: BTreeSet<FlowKey> = flows.into_iter().filter(free).collect();
            if !held.is_empty() {
                self.held.extend(&held);
                self.outputs.push_back(Output::Hold(held.iter().copied().collect()));
                self.handoffs.insert(key, Handoff { held, stage: Stage::Holding(now + HOLD_MAX) });
            }
        }
        // Asked again, the same is answered.
        let flows = self.handoffs.get(&key).map(|handoff| handoff.held.iter().copied().collect());
        let message = Message::Prepared { id, flows: flows.unwrap_or_default() };
        self.outputs.push_back(Output::Send { to: from, message });
    }

    fn transfer(&mut self, key: (MemberId, HandoffId), states: Vec<(FlowKey, Vec<u8>)>) {
        let (from, id) = key;
        if let Some((_, flows)) = self.over.get(&key) {
            let message = Message::Taken { id, flows: flows.clone() };
            self.outputs.push_back(Output::Send { to: from, message });
            return;
        }
        let Some(handoff) = self.handoffs.get_mut(&key) else {
            // Nothing is held any more, or this process is another: the giver may go on.
            let message = Message::Taken { id, flows: Vec::new() };
            self.outputs.push_back(Output::Send { to: from, message });
            return;
        };
        if matches!(handoff.stage, Stage::Restoring) {
            return;
        }
        handoff.stage = Stage::Restoring;
        let fits =
            |(flow, state): &(FlowKey, Vec<u8>)| handoff.held.contains(flow) && state.len() <= STATE_LEN_MAX;
        let states: Vec<(FlowKey, Vec<u8>)> = states.into_iter().filter(fits).collect();
        self.outputs.push_back(Output::Restore { from, id, states });
    }

    fn restored(&mut self, now: Time, from: MemberId, id: HandoffId, restored: &BTreeSet<FlowKey>) {
        let key = (from, id);
        let Some(handoff) = self.handoffs.get(&key) else { return };
        if !matches!(handoff.stage, Stage::Restoring) {
            return;
        }
        let taken: Vec<FlowKey> = handoff.held.intersection(restored).copied().collect();
        if !taken.is_empty() {
            self.outputs.push_back(Output::Release(taken.clone()));
        }
        self.let_go(key, &taken);
        self.over(now, key, taken);
    }

    fn cancel(&mut self, key: (MemberId, HandoffId)) {
        if self.handoffs.get(&key).is_some_and(|handoff| matches!(handoff.stage, Stage::Holding(_))) {
            self.let_go(key, &[]);
        }
    }

    /// Ends a hand-off of which these flows were taken.
    fn let_go(&mut self, key: (MemberId, HandoffId), taken: &[FlowKey]) {
        let Some(handoff) = self.handoffs.remove(&key) else { return };
        self.held.retain(|flow| !handoff.held.contains(flow));
        let dropped: Vec<FlowKey> = handoff.held.into_iter().filter(|flow| !taken.contains(flow)).collect();
        if !dropped.is_empty() {
            self.outputs.push_back(Output::Drop(dropped));
        }
    }

    /// Says what was taken, now and when asked again.
    fn over(&mut self, now: Time, key: (MemberId, HandoffId), taken: Vec<FlowKey>) {
        let (to, id) = key;
        self.over.insert(key, (now + MEMORY, taken.clone()));
        self.ends.push_back((now + MEMORY, key));
        self.outputs.push_back(Output::Send { to, message: Message::Taken { id, flows: taken } });
    }

    fn end_overdue(&mut self, now: Time) {
        let overdue = |(key, handoff): (&(MemberId, HandoffId), &Handoff)| match handoff.stage {
            Stage::Holding(until) if until <= now => Some(*key),
            _ => None,
        };
        let overdue: Vec<(MemberId, HandoffId)> = self.handoffs.iter().filter_map(overdue).collect();
        for key in overdue {
            self.let_go(key, &[]);
        }
        while self.ends.front().is_some_and(|(at, _)| *at <= now) {
            if let Some((_, key)) = self.ends.pop_front() {
                self.over.remove(&key);
            }
        }
    }
}
