//! The connections that can move, each with a way to stop it.

use super::Stopped;
use godwit_core::flow::FlowKey;
use godwit_core::handoff::Kept;
use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio::sync::{mpsc, oneshot};

/// Asks a program to stop using a connection. Answered with the connection, or why it stays; dropped, it
/// stays as well.
pub type StopOrder = oneshot::Sender<Result<Stopped, Kept>>;

/// All connections of this node that can move. Costs a connection one entry, and its requests nothing.
#[derive(Debug, Default)]
pub struct Connections {
    open: Mutex<HashMap<FlowKey, (u64, mpsc::Sender<StopOrder>)>>,
}

/// A connection's entry, for as long as it lives.
#[derive(Debug)]
pub struct Registered {
    flow: FlowKey,
    number: u64,
    all: Arc<Connections>,
}

impl Connections {
    /// A connection that can be stopped from now on. Orders come one at a time.
    pub fn register(self: &Arc<Self>, flow: FlowKey) -> (Registered, mpsc::Receiver<StopOrder>) {
        let (order, orders) = mpsc::channel(1);
        let mut open = self.lock();
        // A connection that ended with its task still running has the same name as a new one.
        let number = open.get(&flow).map_or(0, |(number, _)| number + 1);
        open.insert(flow, (number, order));
        (Registered { flow, number, all: self.clone() }, orders)
    }

    /// The connections of a home address.
    pub fn of(&self, home: IpAddr) -> Vec<FlowKey> {
        let mut flows: Vec<FlowKey> =
            self.lock().keys().filter(|flow| flow.home.ip() == home).copied().collect();
        flows.sort_unstable();
        flows
    }

    /// Whether this one can move.
    pub fn knows(&self, flow: &FlowKey) -> bool {
        self.lock().contains_key(flow)
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.lock().len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.lock().is_empty()
    }

    /// Asks the program to stop; an answer that never comes is an error of the receiver.
    pub(super) fn stop(&self, flow: &FlowKey) -> Option<oneshot::Receiver<Result<Stopped, Kept>>> {
        let order = self.lock().get(flow).map(|(_, order)| order.clone())?;
        let (reply, answer) = oneshot::channel();
        // Full means that it is being stopped already.
        order.try_send(reply).ok().map(|()| answer)
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<FlowKey, (u64, mpsc::Sender<StopOrder>)>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Registered {
    fn drop(&mut self) {
        let mut open = self.all.lock();
        if open.get(&self.flow).is_some_and(|(number, _)| *number == self.number) {
            open.remove(&self.flow);
        }
    }
}
