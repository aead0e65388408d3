//! Two members in the world, and programs on them.

use super::echo::{Echo, Shared};
use super::world::{NodePackets, World, on};
use crate::network::{Network, Tree, until, until_held};
use godwit_core::certificate::Role;
use godwit_core::content::{Replicas, VersionNumber};
use godwit_core::flow::FlowKey;
use godwit_core::mobility::Message;
use godwit_node::handoff::{Handoffs, Report};
use godwit_node::moves::Heard;
use godwit_node::{Config, Runtime, Settings};
use std::cell::Cell;
use std::net::SocketAddr;
use std::sync::Arc;

/// Ports of the home address.
pub const HTTP: u16 = 8080;
pub const ECHO: u16 = 7;

pub struct Member {
    pub runtime: tokio::runtime::Runtime,
    pub member: Option<Arc<Runtime>>,
    pub handoffs: Handoffs,
}

pub struct Members {
    pub network: Network,
    pub members: [Member; 2],
    pub world: World,
}

impl Members {
    /// Two members of one network; each has the other's word, over their own overlay.
    pub fn start(world: World) -> Members {
        // Both roles together: then the node's own part for home addresses leaves them to the world.
        let mut network = Network::new();
        network.roles.push(Role::HomeAgent);
        let network = Arc::new(network);
        let first = start(&world, &network, 0, None);
        let second = start(&world, &network, 1, first.member.clone());
        Members { network: Arc::into_inner(network).unwrap(), members: [first, second], world }
    }

    /// Publishes the site `www` at the first member, and waits until both have it.
    pub fn publish(&self, tree: &Tree) {
        self.publish_as("www", Replicas::All, tree);
        let node = &self.members[0];
        node.runtime.block_on(until_held(node.member.as_ref().unwrap(), "www", 1, 2));
    }

    pub fn publish_as(&self, site: &str, replicas: Replicas, tree: &Tree) {
        let version = self.network.sign(site, 1, replicas, tree);
        let node = &self.members[0];
        let client = node.member.as_ref().unwrap().client();
        node.runtime.block_on(self.network.publish(&client, &version, tree)).unwrap();
    }

    /// The node that holds a site which one of them is to, once no other does.
    pub fn holder(&self, site: &str) -> usize {
        let client = self.members[0].member.as_ref().unwrap().client();
        let name = site.parse().unwrap();
        let holder = Cell::new(None);
        self.members[0].runtime.block_on(until("one holds it", || async {
            let progress = client.progress(&name, VersionNumber(1)).await.unwrap();
            // Who was published to holds it until the other does.
            let mut holding = progress.members.iter().filter(|member| member.holds || member.wanted);
            holder.set(holding.next().filter(|member| member.holds).map(|member| member.name == "two"));
            holder.get().is_some() && holding.next().is_none()
        }));
        usize::from(holder.get().unwrap())
    }

    /// The home address.
    pub fn home(&self, port: u16) -> SocketAddr {
        SocketAddr::new(self.world.addresses.home.parse().unwrap(), port)
    }

    pub fn flows(&self, node: usize) -> Vec<FlowKey> {
        self.members[node].handoffs.connections().of(self.home(0).ip())
    }

    /// Gives these connections from this node to the other one.
    pub fn give(&self, node: usize, flows: Vec<FlowKey>) -> Report {
        let handoffs = self.members[node].handoffs.clone();
        let to = *self.world.net.members[1 - node].get().unwrap();
        on(&self.members[node].runtime, async move { handoffs.give(to, flows).await })
    }
}

impl Drop for Members {
    fn drop(&mut self) {
        for member in &mut self.members {
            let Some(runtime) = member.member.take().and_then(Arc::into_inner) else { continue };
            on(&member.runtime, runtime.shutdown());
        }
    }
}

fn start(world: &World, network: &Arc<Network>, node: usize, sponsor: Option<Arc<Runtime>>) -> Member {
    let runtime = world.runtime(node);
    let own: SocketAddr = SocketAddr::new(world.addresses.nodes[node].parse().unwrap(), 4000);
    let mut config = Config::default();
    config.overlay.listen = vec![own];
    config.http.listen = vec![SocketAddr::new(world.addresses.home.parse().unwrap(), HTTP)];
    config.http.hosts.insert("www.example.com".into(), "www".parse().unwrap());
    config.http.connections_per_address_max = 4000;
    config.http.idle_timeout_ms = 600_000;
    // Both listen at one address: checks of it would say that the other one answered.
    config.health.vantage = false;
    let network = network.clone();
    let member = on(&runtime, async move {
        let dir = network.joined(["one", "two"][node], sponsor.as_deref()).await;
        Runtime::start(Settings::new(dir.path(), config)).await.unwrap()
    });
    let member = Arc::new(member);
    let id = member.certificate().member();
    world.net.members[node].set(id).unwrap();
    let packets = Arc::new(NodePackets { net: world.net.clone(), node });
    let tell = member.tell();
    let tell = move |to, message| {
        if let Err(error) = tell.tell(to, &Message::Handoff(message)) {
            println!("node {node}: nothing was told: {error}");
        }
    };
    let echo = Arc::new(Echo::default());
    let (of, shared) = (member.clone(), echo.clone());
    let home = SocketAddr::new(world.addresses.home.parse().unwrap(), ECHO);
    let handoffs = on(&runtime, async move {
        let handoffs =
            of.move_connections(packets, vec![Arc::new(Shared(shared.clone()))], Box::new(tell)).unwrap();
        shared.listen(home, handoffs.connections().clone()).await;
        let (mut moves, heard) = (of.moves().unwrap(), handoffs.clone());
        tokio::spawn(async move {
            while let Some(word) = moves.next().await {
                match word {
                    Heard::Connected(to) => heard.connected(to).await,
                    Heard::Message { from, message } => {
                        if let Message::Handoff(message) = *message {
                            heard.heard(from, message).await;
                        }
                    }
                    Heard::Malformed { why, .. } => println!("node {node}: {why}"),
                }
            }
        });
        handoffs
    });
    Member { runtime, member: Some(member), handoffs }
}
