//! The task that owns everything about home addresses at a node: waits for one thing, feeds it, acts.

mod heard;
mod left;
mod orders;
mod standing;
mod tunnel;

use super::flows::Flows;
use super::services::{Finding, Services};
use super::serving::{ServeConfig, Serving};
use super::status::Told;
use super::view::View;
use super::{Heard, Order, Start};
use crate::clock;
use crate::homes::{Homes as KnownHomes, Known};
use crate::moves::{self, Moves, Tell};
use arc_swap::ArcSwap;
use godwit_core::flow::FlowKey;
use godwit_core::key::MemberId;
use godwit_core::mobility::Message;
use godwit_core::time::Time;
use godwit_net::estate::Estate;
use godwit_net::tunnel::Event;
use standing::Asking;
use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{mpsc, oneshot, watch};
use tokio_util::sync::CancellationToken;
use tunnel::{Tunnel, of_tunnel};

/// What is counted is told so often, and tombstones are looked through.
const TELL_PERIOD: Duration = Duration::from_secs(1);

/// Changes of addresses and routes come in bursts: so long is waited for more.
const CHANGES_SETTLE: Duration = Duration::from_millis(30);

pub(super) struct Running {
    own: MemberId,
    start: Start,
    tell: Tell,
    orders: mpsc::Receiver<Order>,
    again: mpsc::Sender<Order>,
    heard: mpsc::Sender<Heard>,
    told: Arc<ArcSwap<Told>>,
    flows: watch::Sender<Option<Flows>>,
    services: Services,
    findings: mpsc::Receiver<Finding>,
    present: BTreeSet<MemberId>,
    /// What could not be served yet: the device of the process before may still be there.
    unserved: Vec<Serving>,
    /// Moves that wait for the word of the node that is to take the name.
    asking: Vec<Asking>,
    left: bool,
    /// Another process is about to follow: packets are carried on, by what is known now.
    carries_on: bool,
    /// And nobody speaks any more.
    is_deaf: bool,
    /// What the process before leaves, and whether the network's word is there by which to go on.
    estate: Option<oneshot::Receiver<Estate>>,
    is_informed: bool,
    tunnel: Option<Tunnel>,
    stop: CancellationToken,
}

/// What the task was woken by.
enum Woken {
    Moves(moves::Heard),
    Known(Known),
    Estate(Option<Estate>),
    Order(Order),
    Finding(Finding),
    Event(Event),
    Claimed(FlowKey),
    Changes,
    Settled,
    Leaving,
    /// Nobody will say anything any more.
    Silence,
    Tick,
    Timer,
    Stop,
}

impl Running {
    #[allow(clippy::too_many_arguments, reason = "made in one place, of parts that only that place has")]
    pub(super) fn new(
        mut start: Start,
        orders: (mpsc::Sender<Order>, mpsc::Receiver<Order>),
        heard: mpsc::Sender<Heard>,
        told: Arc<ArcSwap<Told>>,
        flows: watch::Sender<Option<Flows>>,
        stop: CancellationToken,
    ) -> Running {
        let estate = start.estate.take();
        let (found, findings) = mpsc::channel(super::services::SERVED_MAX);
        let services = Services::new(start.own, start.sites.clone(), found, stop.child_token());
        Running {
            own: start.own,
            tell: start.tell.clone(),
            start,
            orders: orders.1,
            again: orders.0,
            heard,
            told,
            flows,
            services,
            findings,
            present: BTreeSet::new(),
            unserved: Vec::new(),
            asking: Vec::new(),
            left: false,
            carries_on: false,
            is_deaf: false,
            estate,
            is_informed: false,
            tunnel: None,
            stop,
        }
    }

    pub(super) async fn run(mut self, mut moves: Moves, mut homes: KnownHomes) {
        let mut tick = tokio::time::interval(TELL_PERIOD);
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        if self.estate.is_none() {
            self.serve_as_before();
        }
        loop {
            let woken = self.wait(&mut moves, &mut homes, &mut tick).await;
            if matches!(woken, Woken::Stop) {
                self.flows.send_replace(None);
                return;
            }
            self.act(woken);
            self.settle();
        }
    }

    async fn wait(
        &mut self,
        moves: &mut Moves,
        homes: &mut KnownHomes,
        tick: &mut tokio::time::Interval,
    ) -> Woken {
        let timer = self.next_deadline();
        let timer = async {
            match timer {
                Some(at) => tokio::time::sleep(at.since(clock::now())).await,
                None => std::future::pending().await,
            }
        };
        let silence = if self.carries_on { Woken::Silence } else { Woken::Stop };
        tokio::select! {
            biased;
            () = self.stop.cancelled() => Woken::Stop,
            () = self.start.leaving.cancelled(), if !self.left => Woken::Leaving,
            heard = moves.next(), if !self.is_deaf => heard.map_or(silence, Woken::Moves),
            woken = of_tunnel(self.tunnel.as_mut()) => woken,
            Some(order) = self.orders.recv() => Woken::Order(order),
            Some(finding) = self.findings.recv() => Woken::Finding(finding),
            known = homes.next(), if !self.carries_on => known.map_or(Woken::Stop, Woken::Known),
            estate = left::of(self.estate.as_mut()), if self.is_informed => Woken::Estate(estate),
            _ = tick.tick() => Woken::Tick,
            () = timer => Woken::Timer,
        }
    }

    fn act(&mut self, woken: Woken) {
        match woken {
            Woken::Moves(heard) => self.heard(heard),
            Woken::Known(known) => {
                self.is_informed = true;
                self.present.clone_from(&known.present);
                self.services.set_known(known);
                self.serve_homes();
            }
            Woken::Estate(estate) => self.inherit(estate),
            Woken::Order(order) => self.order(order),
            Woken::Finding(finding) => {
                self.services.found(clock::now(), &finding);
                self.serve_homes();
            }
            Woken::Event(Event::Heard { key, control: Some(control), .. }) => {
                if let Some(tunnel) = &mut self.tunnel {
                    tunnel.bindings.heard(key, control);
                }
            }
            // Where packets of flows come from is the home agent's business; keys wear out in years.
            Woken::Event(Event::Heard { .. } | Event::Worn(_)) => {}
            Woken::Event(Event::Width) => self.follow_host(),
            Woken::Claimed(flow) => self.claim(flow),
            Woken::Changes => {
                if let Some(tunnel) = &mut self.tunnel {
                    tunnel.changed_at.get_or_insert_with(|| tokio::time::Instant::now() + CHANGES_SETTLE);
                }
            }
            Woken::Settled => self.follow_host(),
            Woken::Silence => self.is_deaf = true,
            Woken::Leaving => {
                self.left = true;
                self.services.begin_to_stop();
                self.serve_homes();
            }
            Woken::Tick => {
                self.serve_unserved();
                self.ask_again();
                self.tick();
            }
            Woken::Timer => {
                self.end_asking(clock::now());
                self.serve_homes();
                if let Some(tunnel) = &mut self.tunnel {
                    tunnel.bindings.pass_time();
                    tunnel.updates.pass_time(clock::now());
                }
            }
            Woken::Stop => {}
        }
    }

    fn next_deadline(&self) -> Option<Time> {
        let tunnel = self.tunnel.iter().flat_map(|tunnel| {
            tunnel.bindings.next_deadline().into_iter().chain(tunnel.updates.next_deadline())
        });
        tunnel.chain(self.services.next_deadline(clock::now())).chain(self.asking_until()).min()
    }

    /// What was configured, and what operators have said before.
    fn serve_as_before(&mut self) {
        let kept = self.start.dir.serving().unwrap_or_else(|error| {
            tracing::warn!(%error, "what was served at home addresses is forgotten");
            Vec::new()
        });
        let configured = self.start.serve.iter().map(ServeConfig::serving);
        let configured = configured.filter(|one| !kept.iter().any(|kept| kept.name == one.name));
        self.unserved = configured.chain(kept.iter().cloned()).collect();
        self.serve_unserved();
    }

    fn serve_unserved(&mut self) {
        if self.unserved.is_empty() || self.estate.is_some() {
            return;
        }
        for serving in std::mem::take(&mut self.unserved) {
            if let Err(problem) = self.take_on(serving.clone()) {
                tracing::error!(name = %serving.name, problem, "a home address cannot be served yet");
                self.unserved.push(serving);
            }
        }
        // All at once: what is bound already stays bound.
        self.serve_homes();
    }

    fn serve(&mut self, serving: Serving) -> Result<(), String> {
        self.take_on(serving)?;
        self.serve_homes();
        Ok(())
    }

    fn take_on(&mut self, serving: Serving) -> Result<(), String> {
        if self.estate.is_some() {
            return Err("the process before this one still carries packets: try again in a moment".into());
        }
        self.open_tunnel()
            .map_err(|error| format!("home addresses need CAP_NET_ADMIN and a TUN device: {error}"))?;
        self.services.serve(serving)
    }

    /// Binds what should be bound, and listens where that is.
    fn serve_homes(&mut self) {
        let Some(tunnel) = &mut self.tunnel else { return };
        if tunnel.bindings.is_withdrawn() {
            return;
        }
        tunnel.bindings.set_agents(self.services.home_agents());
        let wanted = self.services.homes(clock::now());
        for (home, error) in tunnel.bindings.set_homes(wanted) {
            tracing::warn!(%home, %error, "a home address is not served");
        }
        self.services.listen(&tunnel.bindings.homes().all());
    }

    /// Passes on what has changed to the tunnel's threads.
    fn settle(&mut self) {
        let Some(tunnel) = &mut self.tunnel else { return };
        let others = self.services.others();
        let asked = tunnel.relays.ask(clock::now(), others.intersection(&self.present).copied());
        for member in asked {
            let _ = self.tell.tell(member, &Message::RelayWanted);
        }
        let bound = tunnel.bindings.homes().bound();
        let view = View::new(
            tunnel.bindings.agent_keys(),
            tunnel.relays.by_key(),
            bound.iter().map(|home| (*home, tunnel.bindings.exits(home))),
            self.services.allowed(),
            tunnel.relays.ways(),
        );
        if **tunnel.steer.view.load() != view {
            tunnel.steer.view.store(Arc::new(view));
        }
    }

    fn tick(&mut self) {
        let now = clock::now();
        let mut told = Told::of_services(&self.services, now);
        if let Some(tunnel) = &mut self.tunnel {
            tunnel.steer.sweep(now);
            tunnel.bindings.remind();
            told.add_bindings(&self.services, &tunnel.bindings.told());
            told.add_counts(&tunnel.engine.counts(), &tunnel.steer);
        }
        self.start.metrics.tell(&told);
        self.told.store(Arc::new(told));
    }
}
