//! Home addresses at a node: stable addresses that clients use, served here while a home agent sends
//! their packets here.
//!
//! ```text
//!            binding updates, answers                  what the network says of home addresses
//!  home agents ◀────────────▶ ┌───────────────────────┐ ◀──────────────────────────────────────
//!                             │ run: the one task      │ ◀── serve, move, health of programs
//!              tunnel, sealed │  bindings  services    │ ──▶ rules, routes, addresses (owned)
//!  home agents ◀────────────▶ │  relays    claims      │
//!  other nodes ◀────────────▶ └──────────┬────────────┘
//!                                view    │    events
//!                             ┌──────────▼────────────┐
//!                             │ steer: for each packet │ ◀──▶ the kernel, over a TUN device
//!                             └───────────────────────┘
//! ```
//!
//! - `run`: the task; it owns everything below. `bindings`: the machines of [`godwit_core::binding`] and
//!   what their outputs mean here; `care_of`: where this host is reached; `owned`: home addresses on this
//!   host, and which way replies leave.
//! - `steer`, over [`filter`], `known` and `view`: packets, in the tunnel's threads.
//! - `relays` and `claims`: packets that went to the wrong node, and where flows are said to be.
//! - `services`, over `health`, `forward` and `proxy`: what is served; `standing`: whether it is bound.
//! - [`flows`]: what a hand-off does with packets; [`moving`]: `godwit move`.
//!
//! # Trade-offs
//!
//! - The TUN device, the rules and the sockets come with the first name that is served: a member that
//!   serves none needs no privilege.
//! - Second chances are for TCP alone. A UDP flow has no state in the kernel that could be looked up, so
//!   when the choice for its client changes, it is at the new node with its next packet, unless it was
//!   moved.
//! - Later parts of packets that were cut carry no ports: they are dropped while a flow between the same
//!   two addresses moves.

mod bindings;
mod care_of;
mod claims;
pub mod filter;
pub mod flows;
mod forward;
mod health;
mod known;
mod metrics;
pub mod moving;
mod owned;
mod probes;
mod proxy;
mod relays;
mod run;
mod services;
mod serving;
mod standing;
mod status;
mod steer;
mod view;

pub use flows::Flows;
pub use moving::Moved;
pub use serving::ServeConfig;

pub(crate) use metrics::MobilityMetrics;
pub(crate) use services::{ServeSites, Sites};
pub(crate) use serving::Serving;
pub(crate) use status::Told;

use crate::config::MobilityConfig;
use crate::datadir::DataDir;
use crate::handoff::{Connections, Handoffs};
use crate::homes::Homes;
use crate::moves::{Moves, Tell};
use arc_swap::ArcSwap;
use godwit_core::binding::HomeAddress;
use godwit_core::flow::FlowKey;
use godwit_core::handoff::Message;
use godwit_core::key::MemberId;
use godwit_core::name::SiteName;
use godwit_core::time::Time;
use godwit_net::estate::Estate;
use run::Running;
use standing::Stands;
use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use tokio::sync::{mpsc, oneshot, watch};
use tokio_util::sync::CancellationToken;

/// Orders of operators and of hand-offs that wait.
const ORDERS_MAX: usize = 256;

/// Messages about hand-offs that wait for whoever hands over; more are lost, and said again.
const HEARD_MAX: usize = 1024;

/// What was heard about hand-offs.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Heard {
    /// This member is connected now.
    Connected(MemberId),
    /// A member said this.
    Message {
        /// Who.
        from: MemberId,
        /// What.
        message: Message,
    },
}

/// What the part is started with.
pub(crate) struct Start {
    pub(crate) own: MemberId,
    pub(crate) dir: DataDir,
    pub(crate) tell: Tell,
    pub(crate) config: MobilityConfig,
    pub(crate) serve: Vec<ServeConfig>,
    pub(crate) sites: Sites,
    /// Cancelled when the member begins to stop: nothing new is taken then.
    pub(crate) leaving: CancellationToken,
    pub(crate) metrics: Arc<MobilityMetrics>,
    /// What the process before this one leaves, where there is one.
    pub(crate) estate: Option<oneshot::Receiver<Estate>>,
}

/// What the task is asked to do.
enum Order {
    /// Serve a name; its home addresses come back.
    Serve(ServeConfig, oneshot::Sender<Result<BTreeSet<HomeAddress>, String>>),
    /// Serve it no longer; whether it was served.
    Stop(SiteName, oneshot::Sender<bool>),
    /// How this node stands to a name, and which home addresses of it are its to serve.
    Stand(SiteName, oneshot::Sender<(Stands, BTreeSet<HomeAddress>)>),
    /// Look what would move, once the node that is to have it says that it could.
    Prepare { name: SiteName, to: String, reply: oneshot::Sender<Result<Prepared, String>> },
    /// Take no new flows.
    Drain { name: SiteName, until: Time, reply: oneshot::Sender<()> },
    /// Another process is about to follow: carry packets on, by what is known now.
    CarryOn(oneshot::Sender<()>),
    /// It is there: leave it everything but what was accepted here.
    HandOver(oneshot::Sender<Option<Estate>>),
    /// How many connections are still passed on here.
    Forwarding(oneshot::Sender<u64>),
    /// Take all bindings back: the member stops.
    Leave(oneshot::Sender<()>),
    /// Have home agents send flows to a member, or here.
    Bind { to: Option<MemberId>, flows: Vec<FlowKey>, done: Option<oneshot::Sender<()>> },
}

/// What would move.
#[derive(Clone, Debug)]
struct Prepared {
    to: MemberId,
    tcp: Vec<FlowKey>,
    udp: Vec<FlowKey>,
}

/// Home addresses at this node. Clones are the same.
#[derive(Clone)]
pub struct Mobility {
    orders: mpsc::Sender<Order>,
    told: Arc<ArcSwap<Told>>,
    flows: watch::Receiver<Option<Flows>>,
    heard: Arc<Mutex<Option<mpsc::Receiver<Heard>>>>,
    handoffs: Arc<OnceLock<Handoffs>>,
}

impl Mobility {
    /// Starts the part: a handle of it, and the task, which ends with `stop`.
    pub(crate) fn start(
        start: Start,
        moves: Moves,
        homes: Homes,
        stop: CancellationToken,
    ) -> (Mobility, impl Future<Output = ()> + Send + use<>) {
        let (orders, ordered) = mpsc::channel(ORDERS_MAX);
        let (hear, heard) = mpsc::channel(HEARD_MAX);
        let (opened, flows) = watch::channel(None);
        let told = Arc::new(ArcSwap::default());
        let running = Running::new(start, (orders.clone(), ordered), hear, told.clone(), opened, stop);
        let heard = Arc::new(Mutex::new(Some(heard)));
        let mobility = Mobility { orders, told, flows, heard, handoffs: Arc::default() };
        (mobility, running.run(moves, homes))
    }

    /// Serves a name from now on, as kept on disk; its home addresses that this member may serve.
    pub async fn serve(&self, config: ServeConfig) -> Result<BTreeSet<HomeAddress>, String> {
        config.check()?;
        self.ask(|reply| Order::Serve(config, reply))
            .await
            .unwrap_or_else(|| Err("the daemon is stopping".into()))
    }

    /// Serves a name no longer; whether it was served.
    pub async fn stop(&self, name: SiteName) -> bool {
        self.ask(|reply| Order::Stop(name, reply)).await.unwrap_or(false)
    }

    /// Takes all bindings back, so that home agents need not notice that this member is gone.
    pub(crate) async fn leave(&self) {
        let _ = self.ask(Order::Leave).await;
    }

    /// Another process is about to follow: packets are carried on, by what is known now.
    pub(crate) async fn carry_on(&self) {
        let _ = self.ask(Order::CarryOn).await;
    }

    /// Leaves everything to the process that follows, but what was accepted here.
    pub(crate) async fn bequeath(&self) -> Option<Estate> {
        self.ask(Order::HandOver).await.flatten()
    }

    /// How many connections are passed on to programs here.
    pub(crate) async fn forwarding(&self) -> u64 {
        self.ask(Order::Forwarding).await.unwrap_or(0)
    }

    /// What hand-offs do with packets: there once a name is served, gone when the member stops.
    pub fn flows(&self) -> watch::Receiver<Option<Flows>> {
        self.flows.clone()
    }

    /// The connections that can move; programs in this process register theirs there. `None` until a name
    /// is served here.
    pub fn connections(&self) -> Option<Arc<Connections>> {
        self.handoffs.get().map(|handoffs| handoffs.connections().clone())
    }

    /// Who hands connections over, and hears what is said about that. Only the first call counts; what is
    /// returned passes on what is heard, until the member stops.
    pub(crate) fn hand_over_by(&self, handoffs: Handoffs) -> impl Future<Output = ()> + Send + use<> {
        let heard = self.heard.lock().unwrap_or_else(PoisonError::into_inner).take();
        let _ = self.handoffs.set(handoffs.clone());
        async move {
            let Some(mut heard) = heard else { return };
            while let Some(heard) = heard.recv().await {
                match heard {
                    Heard::Connected(member) => handoffs.connected(member).await,
                    Heard::Message { from, message } => handoffs.heard(from, message).await,
                }
            }
        }
    }

    /// What can be told of it now, a second old at most.
    pub(crate) fn told(&self) -> Arc<Told> {
        self.told.load_full()
    }

    async fn ask<T>(&self, order: impl FnOnce(oneshot::Sender<T>) -> Order) -> Option<T> {
        let (reply, answer) = oneshot::channel();
        self.orders.send(order(reply)).await.ok()?;
        answer.await.ok()
    }
}

impl std::fmt::Debug for Mobility {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Mobility").finish_non_exhaustive()
    }
}
