//! What the task is asked to do, by operators and by hand-offs.

use super::Running;
use crate::clock;
use crate::mobility::{Order, Prepared};
use godwit_core::flow::FlowKey;
use godwit_core::key::MemberId;
use godwit_core::name::SiteName;
use godwit_net::sockets::Sockets;
use std::collections::BTreeSet;
use std::net::IpAddr;

/// Flows claimed in one go.
const CLAIMED_MAX: usize = 256;

impl Running {
    pub(super) fn order(&mut self, order: Order) {
        match order {
            Order::Serve(config, reply) => {
                self.unserved.retain(|serving| serving.name != config.name);
                let done = self.serve(config.serving()).map(|()| self.services.homes_of(&config.name));
                self.save();
                let _ = reply.send(done);
            }
            Order::Stop(name, reply) => {
                let waiting = self.unserved.len();
                self.unserved.retain(|serving| serving.name != name);
                let stopped = self.services.stop(&name) || self.unserved.len() < waiting;
                self.save();
                self.serve_homes();
                let _ = reply.send(stopped);
            }
            Order::Stand(name, reply) => {
                let _ = reply.send((self.stands(&name), self.services.homes_of(&name)));
            }
            Order::Prepare { name, to, reply } => self.prepare(name, &to, reply),
            Order::Drain { name, until, reply } => {
                self.services.drain(&name, until);
                self.save();
                self.serve_homes();
                let _ = reply.send(());
            }
            Order::CarryOn(reply) => {
                self.carry_on();
                let _ = reply.send(());
            }
            Order::HandOver(reply) => {
                let _ = reply.send(self.bequeath());
            }
            Order::Forwarding(reply) => {
                let _ = reply.send(self.services.forwarding());
            }
            Order::Leave(reply) => {
                self.left = true;
                if let Some(tunnel) = &mut self.tunnel {
                    tunnel.bindings.withdraw();
                }
                let _ = reply.send(());
            }
            Order::Bind { to, flows, done } => {
                if let Some(tunnel) = &mut self.tunnel {
                    let to = to.unwrap_or(self.own);
                    let lives = tunnel.bindings.lives();
                    tunnel.updates.bind(clock::now(), &lives, to, &flows, done);
                }
            }
        }
    }

    /// The node that a name is to be moved to, if it could be.
    pub(super) fn taker(&self, name: &SiteName, to: &str) -> Result<MemberId, String> {
        if self.services.mode(name).is_none() {
            return Err(format!("{name} is not served here"));
        }
        let member =
            self.services.member_named(to).ok_or_else(|| format!("{to} may serve no home address"))?;
        if member == self.own {
            return Err(format!("{name} is served here already"));
        }
        if !self.services.may_take(name, &member) {
            return Err(format!("{to} may not serve {name}, or cannot be reached"));
        }
        Ok(member)
    }

    /// What is to be moved to another node.
    pub(super) fn prepared(&self, name: &SiteName, to: MemberId) -> Result<Prepared, String> {
        let Some(tunnel) = &self.tunnel else { return Err("no home address is served here".into()) };
        let homes = self.services.homes_of(name);
        let ips: BTreeSet<IpAddr> = homes.iter().map(|home| home.0).collect();
        let connections =
            Sockets::open().and_then(|mut sockets| sockets.connections(|local| ips.contains(&local.ip())));
        let tcp =
            connections.map_err(|error| format!("the kernel does not tell its connections: {error}"))?;
        let tcp = tcp.into_iter().map(|(correspondent, home)| FlowKey { protocol: 6, correspondent, home });
        let udp = tunnel.steer.active.list(clock::now(), |flow| ips.contains(&flow.home.ip()));
        Ok(Prepared { to, tcp: tcp.collect(), udp })
    }

    fn save(&self) {
        let mut serving = self.services.serving();
        serving.extend(self.unserved.iter().cloned());
        if let Err(error) = self.start.dir.write_serving(&serving) {
            tracing::error!(%error, "what is served at home addresses could not be kept");
        }
    }

    pub(super) fn claim(&mut self, first: FlowKey) {
        let Some(tunnel) = &mut self.tunnel else { return };
        let mut flows = vec![first];
        while flows.len() < CLAIMED_MAX
            && let Ok(flow) = tunnel.claims.try_recv()
        {
            flows.push(flow);
        }
        let lives = tunnel.bindings.lives();
        tunnel.updates.bind(clock::now(), &lives, self.own, &flows, None);
    }
}
