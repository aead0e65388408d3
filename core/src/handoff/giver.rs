//! The node that gives connections away.

use super::{FLOWS_MAX, HandoffId, Kept, Message, STATE_LEN_MAX};
use crate::flow::FlowKey;
use crate::key::MemberId;
use crate::time::Time;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

/// So many hand-offs are under way at once: some 30 MB of states.
pub const HANDOFFS_MAX: usize = 128;

/// A taker answers within this, or the connections stay. Nothing has been stopped by then.
const PREPARE_MAX: Duration = Duration::from_secs(1);

/// So long the taker is asked what it took, before the connections count as lost.
const TRANSFER_MAX: Duration = Duration::from_secs(30);

/// What happened.
#[derive(Clone, Debug, PartialEq)]
pub enum Input {
    /// These connections are to go there.
    Give {
        /// Names it; never used before.
        id: HandoffId,
        /// To whom.
        to: MemberId,
        /// Which.
        flows: BTreeSet<FlowKey>,
    },
    /// Somebody said this.
    Heard {
        /// Who: the stream has proved it.
        from: MemberId,
        /// What.
        message: Message,
    },
    /// No packet of these flows reaches the kernel any more, and none is on its way there.
    Diverted(HandoffId),
    /// The sockets stand still, and these are their states; or why not.
    Frozen {
        /// Of which hand-off.
        id: HandoffId,
        /// For each of its flows.
        states: Vec<(FlowKey, Result<Vec<u8>, Kept>)>,
    },
    /// A stream to this member has been opened; what was sent on the one before may be lost.
    Connected(MemberId),
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
    /// Keep what comes of these flows from the kernel, in a queue; then feed [`Input::Diverted`].
    Divert {
        /// For which hand-off.
        id: HandoffId,
        /// Which.
        flows: Vec<FlowKey>,
    },
    /// Stop their sockets and read out their states; then feed [`Input::Frozen`].
    Freeze {
        /// For which hand-off.
        id: HandoffId,
        /// Which.
        flows: Vec<FlowKey>,
    },
    /// What is queued of these flows, and what comes, goes to that node.
    PassOn {
        /// Which.
        flows: Vec<FlowKey>,
        /// Where to.
        to: MemberId,
    },
    /// They go on here: their sockets run, what is queued and what comes goes to the kernel.
    Resume(Vec<FlowKey>),
    /// They are the other's: close their sockets without a packet, and tell the home agents. What still
    /// comes is passed on.
    Given {
        /// Which.
        flows: Vec<FlowKey>,
        /// Whose they are.
        to: MemberId,
    },
    /// Nobody knows whose they are: close their sockets without a packet.
    Lost(Vec<FlowKey>),
    /// It is over.
    Ended {
        /// Which hand-off.
        id: HandoffId,
        /// Connections that have moved.
        moved: usize,
        /// Connections that stay, and why.
        kept: Vec<(FlowKey, Kept)>,
        /// Connections that are lost.
        lost: usize,
    },
}

#[derive(Debug)]
enum Stage {
    Preparing,
    Diverting,
    Freezing,
    Transferring(Vec<(FlowKey, Vec<u8>)>),
}

#[derive(Debug)]
struct Handoff {
    to: MemberId,
    /// Those that still may move.
    flows: BTreeSet<FlowKey>,
    kept: Vec<(FlowKey, Kept)>,
    stage: Stage,
    until: Time,
}

/// The machine. See [`super`] for what it does.
#[derive(Debug, Default)]
pub struct Giver {
    handoffs: BTreeMap<HandoffId, Handoff>,
    outputs: VecDeque<Output>,
}

impl Giver {
    /// One that gives nothing.
    pub fn new() -> Giver {
        Giver::default()
    }

    /// Takes note of what happened.
    pub fn handle(&mut self, now: Time, input: Input) {
        match input {
            Input::Give { id, to, flows } => self.give(now, id, to, flows),
            Input::Heard { from, message } => self.heard(from, message),
            Input::Diverted(id) => self.diverted(id),
            Input::Frozen { id, states } => self.frozen(now, id, states),
            Input::Connected(to) => self.say_again(to),
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
        self.handoffs.values().filter(|handoff| handoff.waits()).map(|handoff| handoff.until).min()
    }

    fn give(&mut self, now: Time, id: HandoffId, to: MemberId, flows: BTreeSet<FlowKey>) {
        let under_way = |flow: &FlowKey| self.handoffs.values().any(|handoff| handoff.flows.contains(flow));
        let crowded = self.handoffs.len() >= HANDOFFS_MAX || self.handoffs.contains_key(&id);
        let (mut going, mut kept) = (BTreeSet::new(), Vec::new());
        for flow in flows {
            if crowded || going.len() >= FLOWS_MAX || under_way(&flow) {
                kept.push((flow, Kept::TooMany));
            } else {
                going.insert(flow);
            }
        }
        if going.is_empty() {
            self.outputs.push_back(Output::Ended { id, moved: 0, kept, lost: 0 });
            return;
        }
        let message = Message::Prepare { id, flows: going.iter().copied().collect() };
        self.outputs.push_back(Output::Send { to, message });
        let until = now + PREPARE_MAX;
        self.handoffs.insert(id, Handoff { to, flows: going, kept, stage: Stage::Preparing, until });
    }

    fn heard(&mut self, from: MemberId, message: Message) {
        match message {
            Message::Prepared { id, flows } => self.prepared(from, id, &flows),
            Message::Taken { id, flows } => self.taken(from, id, &flows),
            // Said by givers only.
            Message::Prepare { .. } | Message::Transfer { .. } | Message::Cancel { .. } => {}
        }
    }

    fn prepared(&mut self, from: MemberId, id: HandoffId, held: &[FlowKey]) {
        let Some(handoff) = self.handoffs.get_mut(&id) else { return };
        if handoff.to != from || !matches!(handoff.stage, Stage::Preparing) {
            return;
        }
        let unwanted: Vec<FlowKey> =
            handoff.flows.iter().filter(|flow| !held.contains(flow)).copied().collect();
        handoff.keep(unwanted.iter().map(|flow| (*flow, Kept::Unwanted)));
        if handoff.flows.is_empty() {
            self.end(id, 0, 0);
            return;
        }
        handoff.stage = Stage::Diverting;
        let flows = handoff.flows.iter().copied().collect();
        self.outputs.push_back(Output::Divert { id, flows });
    }

    fn diverted(&mut self, id: HandoffId) {
        let Some(handoff) = self.handoffs.get_mut(&id) else { return };
        if matches!(handoff.stage, Stage::Diverting) {
            handoff.stage = Stage::Freezing;
            let flows = handoff.flows.iter().copied().collect();
            self.outputs.push_back(Output::Freeze { id, flows });
        }
    }

    fn frozen(&mut self, now: Time, id: HandoffId, states: Vec<(FlowKey, Result<Vec<u8>, Kept>)>) {
        let Some(handoff) = self.handoffs.get_mut(&id) else { return };
        if !matches!(handoff.stage, Stage::Freezing) {
            return;
        }
        let mut states: BTreeMap<FlowKey, Result<Vec<u8>, Kept>> = states.into_iter().collect();
        let (mut going, mut staying) = (Vec::new(), Vec::new());
        for flow in &handoff.flows {
            match states.remove(flow).unwrap_or(Err(Kept::Unmovable)) {
                Ok(state) if state.len() <= STATE_LEN_MAX => going.push((*flow, state)),
                Ok(_) => staying.push((*flow, Kept::TooLarge)),
                Err(why) => staying.push((*flow, why)),
            }
        }
        self.keep_running(id, staying);
        let Some(handoff) = self.handoffs.get_mut(&id) else { return };
        let to = handoff.to;
        if going.is_empty() {
            self.outputs.push_back(Output::Send { to, message: Message::Cancel { id } });
            self.end(id, 0, 0);
            return;
        }
        handoff.stage = Stage::Transferring(going.clone());
        handoff.until = now + TRANSFER_MAX;
        let flows = going.iter().map(|(flow, _)| *flow).collect();
        self.outputs.push_back(Output::Send { to, message: Message::Transfer { id, states: going } });
        self.outputs.push_back(Output::PassOn { flows, to });
    }

    fn taken(&mut self, from: MemberId, id: HandoffId, taken: &[FlowKey]) {
        let Some(handoff) = self.handoffs.get(&id) else { return };
        if handoff.to != from || !matches!(handoff.stage, Stage::Transferring(_)) {
            return;
        }
        let (moved, failed): (Vec<FlowKey>, Vec<FlowKey>) =
            handoff.flows.iter().partition(|flow| taken.contains(flow));
        if !moved.is_empty() {
            self.outputs.push_back(Output::Given { flows: moved.clone(), to: from });
        }
        self.keep_running(id, failed.into_iter().map(|flow| (flow, Kept::NotRestored)).collect());
        self.end(id, moved.len(), 0);
    }

    /// What was said on the stream before may be lost: a taker that heard it answers again.
    fn say_again(&mut self, to: MemberId) {
        for (id, handoff) in self.handoffs.iter().filter(|(_, handoff)| handoff.to == to) {
            let id = *id;
            let message = match &handoff.stage {
                Stage::Preparing => Message::Prepare { id, flows: handoff.flows.iter().copied().collect() },
                Stage::Transferring(states) => Message::Transfer { id, states: states.clone() },
                Stage::Diverting | Stage::Freezing => continue,
            };
            self.outputs.push_back(Output::Send { to, message });
        }
    }

    fn end_overdue(&mut self, now: Time) {
        let overdue =
            |(id, handoff): (&HandoffId, &Handoff)| (handoff.waits() && handoff.until <= now).then_some(*id);
        let overdue: Vec<HandoffId> = self.handoffs.iter().filter_map(overdue).collect();
        for id in overdue {
            let Some(handoff) = self.handoffs.get_mut(&id) else { continue };
            if matches!(handoff.stage, Stage::Preparing) {
                let to = handoff.to;
                let flows: Vec<FlowKey> = handoff.flows.iter().copied().collect();
                handoff.keep(flows.into_iter().map(|flow| (flow, Kept::NoAnswer)));
                self.outputs.push_back(Output::Send { to, message: Message::Cancel { id } });
                self.end(id, 0, 0);
            } else {
                let flows: Vec<FlowKey> = handoff.flows.iter().copied().collect();
                let lost = flows.len();
                self.outputs.push_back(Output::Lost(flows));
                self.end(id, 0, lost);
            }
        }
    }

    /// Connections whose packets were diverted stay after all.
    fn keep_running(&mut self, id: HandoffId, staying: Vec<(FlowKey, Kept)>) {
        let Some(handoff) = self.handoffs.get_mut(&id).filter(|_| !staying.is_empty()) else { return };
        self.outputs.push_back(Output::Resume(staying.iter().map(|(flow, _)| *flow).collect()));
        handoff.keep(staying);
    }

    fn end(&mut self, id: HandoffId, moved: usize, lost: usize) {
        if let Some(handoff) = self.handoffs.remove(&id) {
            self.outputs.push_back(Output::Ended { id, moved, kept: handoff.kept, lost });
        }
    }
}

impl Handoff {
    /// Whether it waits for the taker; otherwise for this node's own hands.
    fn waits(&self) -> bool {
        matches!(self.stage, Stage::Preparing | Stage::Transferring(_))
    }

    fn keep(&mut self, kept: impl IntoIterator<Item = (FlowKey, Kept)>) {
        for (flow, why) in kept {
            self.flows.remove(&flow);
            self.kept.push((flow, why));
        }
    }
}
