//! The task that owns the machines: it waits for one input, feeds it, and carries the outputs out.

use super::calm;
use super::giving::{self, FrozenFlows, Standing};
use super::taking::{self, Programs};
use super::{Connections, Packets, Program};
use crate::clock;
use godwit_core::flow::FlowKey;
use godwit_core::handoff::giver::{self, Giver};
use godwit_core::handoff::taker::{self, Taker};
use godwit_core::handoff::{FLOWS_MAX, HandoffId, Kept, Message};
use godwit_core::key::MemberId;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use tokio::sync::{mpsc, oneshot};
use tokio_util::sync::CancellationToken;

/// What waits for the task, which takes each in microseconds.
const WAITING_MAX: usize = 1024;

/// How a hand-off is told to others: to whom, and what. It may be lost.
pub type Told = Box<dyn Fn(MemberId, Message) + Send + Sync>;

/// What became of connections that were to move.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// So many have moved.
    pub moved: usize,
    /// These stay, each with the reason.
    pub kept: Vec<(FlowKey, Kept)>,
    /// So many are lost, with a taker that went silent.
    pub lost: usize,
}

/// How others speak to the task. Clones are the same.
#[derive(Clone)]
pub struct Handoffs {
    work: mpsc::Sender<Work>,
    connections: Arc<Connections>,
}

enum Work {
    Give { to: MemberId, flows: BTreeSet<FlowKey>, done: oneshot::Sender<Report> },
    Heard { from: MemberId, message: Message },
    Connected(MemberId),
}

/// What the hands have done.
enum Done {
    Diverted(HandoffId),
    Frozen(HandoffId, FrozenFlows),
    Restored { from: MemberId, id: HandoffId, flows: Vec<FlowKey> },
}

impl Handoffs {
    /// The connections that can move; programs register theirs here.
    pub fn connections(&self) -> &Arc<Connections> {
        &self.connections
    }

    /// Moves connections to a member; returns when it is known what became of each.
    pub async fn give(&self, to: MemberId, flows: impl IntoIterator<Item = FlowKey>) -> Report {
        let flows: Vec<FlowKey> = flows.into_iter().collect();
        let parts = flows.chunks(FLOWS_MAX).map(|part| self.give_part(to, part.iter().copied().collect()));
        let mut all = Report::default();
        for report in futures::future::join_all(parts).await {
            all.moved += report.moved;
            all.kept.extend(report.kept);
            all.lost += report.lost;
        }
        all
    }

    async fn give_part(&self, to: MemberId, flows: BTreeSet<FlowKey>) -> Report {
        let (done, report) = oneshot::channel();
        let stay = flows.iter().map(|flow| (*flow, Kept::NoAnswer)).collect();
        if self.work.send(Work::Give { to, flows, done }).await.is_ok()
            && let Ok(report) = report.await
        {
            return report;
        }
        // This member stops.
        Report { kept: stay, ..Report::default() }
    }

    /// A member said this.
    pub async fn heard(&self, from: MemberId, message: Message) {
        let _ = self.work.send(Work::Heard { from, message }).await;
    }

    /// A stream to this member was opened.
    pub async fn connected(&self, to: MemberId) {
        let _ = self.work.send(Work::Connected(to)).await;
    }
}

/// The task; see [`Shell::run`].
pub struct Shell<P> {
    giver: Giver,
    taker: Taker,
    packets: Arc<P>,
    connections: Arc<Connections>,
    programs: Arc<Programs>,
    tell: Told,
    /// Connections that stand still.
    standing: HashMap<FlowKey, Standing>,
    waiting: BTreeMap<HandoffId, oneshot::Sender<Report>>,
    last: HandoffId,
    work: mpsc::Receiver<Work>,
    doing: mpsc::Sender<Done>,
    done: mpsc::Receiver<Done>,
}

impl<P: Packets> Shell<P> {
    /// A shell over these packets, for connections of these programs. Its hand-offs count from the time,
    /// so that none is named twice over restarts.
    pub fn new(packets: Arc<P>, programs: Vec<Arc<dyn Program>>, tell: Told) -> (Shell<P>, Handoffs) {
        let (send, work) = mpsc::channel(WAITING_MAX);
        let (doing, done) = mpsc::channel(WAITING_MAX);
        let connections = Arc::new(Connections::default());
        let shell = Shell {
            giver: Giver::new(),
            taker: Taker::new(),
            packets,
            connections: connections.clone(),
            programs: Arc::new(Programs::new(programs)),
            tell,
            standing: HashMap::new(),
            waiting: BTreeMap::new(),
            last: HandoffId(clock::now().as_millis() << 16),
            work,
            doing,
            done,
        };
        (shell, Handoffs { work: send, connections })
    }

    /// Runs until `stop`, or until nobody can speak to it any more. Connections that stand still then
    /// vanish with it, as the others of a member that stops end: it gives them away before.
    pub async fn run(mut self, stop: CancellationToken) {
        loop {
            let deadline =
                [self.giver.next_deadline(), self.taker.next_deadline()].into_iter().flatten().min();
            let timer = async {
                match deadline {
                    Some(at) => tokio::time::sleep_until(clock::instant_of(at)).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                biased;
                () = stop.cancelled() => return,
                // Work of its own comes first: it ends what others began.
                Some(done) = self.done.recv() => self.did(done),
                work = self.work.recv() => match work {
                    Some(work) => self.start(work),
                    None => return,
                },
                () = timer => {
                    self.give(giver::Input::Timer);
                    self.take(taker::Input::Timer);
                }
            }
        }
    }

    fn start(&mut self, work: Work) {
        match work {
            Work::Give { to, flows, done } => {
                self.last.0 += 1;
                self.waiting.insert(self.last, done);
                self.give(giver::Input::Give { id: self.last, to, flows });
            }
            Work::Heard { from, message } => {
                self.give(giver::Input::Heard { from, message: message.clone() });
                self.take(taker::Input::Heard { from, message });
            }
            Work::Connected(to) => self.give(giver::Input::Connected(to)),
        }
    }

    fn did(&mut self, done: Done) {
        match done {
            Done::Diverted(id) => self.give(giver::Input::Diverted(id)),
            Done::Frozen(id, flows) => {
                let keep = |(flow, frozen): (FlowKey, Result<(Vec<u8>, Standing), Kept>)| {
                    let state = frozen.map(|(state, standing)| {
                        self.standing.insert(flow, standing);
                        state
                    });
                    (flow, state)
                };
                let states = flows.into_iter().map(keep).collect();
                self.give(giver::Input::Frozen { id, states });
            }
            Done::Restored { from, id, flows } => {
                self.take(taker::Input::Restored { from, id, flows: flows.into_iter().collect() });
            }
        }
    }

    fn give(&mut self, input: giver::Input) {
        self.giver.handle(clock::now(), input);
        while let Some(output) = self.giver.poll_output() {
            self.carry_out(output);
        }
    }

    fn carry_out(&mut self, output: giver::Output) {
        match output {
            giver::Output::Send { to, message } => (self.tell)(to, message),
            giver::Output::Divert { id, flows } => {
                let packets = self.packets.clone();
                self.later(async move {
                    let flows = calm::wait(flows).await;
                    packets.divert(&flows).await;
                    Done::Diverted(id)
                });
            }
            giver::Output::Freeze { id, flows } => {
                let frozen = giving::freeze(self.connections.clone(), flows);
                self.later(async move { Done::Frozen(id, frozen.await) });
            }
            giver::Output::PassOn { flows, to } => self.packets.pass_on(&flows, to),
            giver::Output::Resume(flows) => {
                for flow in &flows {
                    if let Some(standing) = self.standing.remove(flow) {
                        standing.resume(flow);
                    }
                }
                self.packets.release(&flows);
            }
            giver::Output::Given { flows, to } => {
                self.packets.given(&flows, to);
                flows.iter().for_each(|flow| drop(self.standing.remove(flow)));
            }
            giver::Output::Lost(flows) => {
                flows.iter().for_each(|flow| drop(self.standing.remove(flow)));
                self.packets.drop_held(&flows);
            }
            giver::Output::Ended { id, moved, kept, lost } => {
                tracing::debug!(id = id.0, moved, kept = kept.len(), lost, "a hand-off ended");
                if let Some(done) = self.waiting.remove(&id) {
                    let _ = done.send(Report { moved, kept, lost });
                }
            }
        }
    }

    fn take(&mut self, input: taker::Input) {
        let packets = self.packets.clone();
        self.taker.handle(clock::now(), input, |flow| packets.serves(flow));
        while let Some(output) = self.taker.poll_output() {
            match output {
                taker::Output::Send { to, message } => (self.tell)(to, message),
                taker::Output::Hold(flows) => self.packets.hold(&flows),
                taker::Output::Restore { from, id, states } => {
                    let made = taking::restore(self.programs.clone(), states);
                    self.later(async move { Done::Restored { from, id, flows: made.await } });
                }
                taker::Output::Release(flows) => self.packets.release(&flows),
                taker::Output::Drop(flows) => self.packets.drop_held(&flows),
            }
        }
    }

    /// The machines bound how many of these there are.
    fn later(&self, work: impl Future<Output = Done> + Send + 'static) {
        let doing = self.doing.clone();
        tokio::spawn(async move {
            // When the shell has gone, what was frozen vanishes with it.
            let _ = doing.send(work.await).await;
        });
    }
}
