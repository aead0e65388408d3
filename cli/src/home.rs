//! The home agent beside a runtime: what the network says goes in, what it answers goes out.

use crate::config::File;
use crate::failure::{Classify, Exit, Failure, Outcome};
use anyhow::Context;
use godwit_core::announce::Announcement;
use godwit_core::binding::Pace;
use godwit_core::key::MemberId;
use godwit_core::mobility::Message;
use godwit_home_agent::{Heard, Peers, Running, Settings, StartError, Viewer, World};
use godwit_node::Runtime;
use godwit_node::homes::{Homes, Known};
use godwit_node::moves::{self, Moves, Tell};
use godwit_redirector::Estate;
use std::sync::Arc;
use tokio::sync::{mpsc, oneshot, watch};

/// Messages of members that wait for the home agent; then members wait.
const HEARD_MAX: usize = 256;

/// Starts a home agent on the runtime's map and members; it goes on with what the process before this one has
/// left, if that was relieved already.
pub(crate) async fn start(
    config: &File,
    runtime: &Runtime,
    estate: Option<oneshot::Receiver<Estate>>,
) -> Outcome<Running> {
    let moves = runtime.moves().context("somebody else reads what members say of home addresses")?;
    let mut homes = runtime.homes();
    let first = homes.next().await.context("the member has stopped")?;
    let (tell_world, world) = watch::channel(Arc::new(world_of(first)));
    let (say, heard) = mpsc::channel(HEARD_MAX);
    let (announce, announced) = watch::channel(Vec::new());
    let settings = Settings {
        config: config.home_agent.clone(),
        public: runtime.public_addresses(),
        pace: Pace::default(),
        generations: runtime.generation(),
        world,
        heard,
        peers: Arc::new(Speaker { tell: runtime.tell(), announce }),
        registry: runtime.registry(),
        clock: godwit_node::clock::now,
        estate: match estate {
            Some(estate) => estate.await.ok(),
            None => None,
        },
    };
    let running = godwit_home_agent::start(settings).await.map_err(failure)?;
    // They end with the member or the home agent, whichever is first.
    tokio::spawn(follow(homes, tell_world));
    tokio::spawn(listen(moves, say));
    tokio::spawn(tell_others(runtime, announced));
    Ok(running)
}

fn failure(error: StartError) -> Failure {
    let (exit, advice) = match &error {
        StartError::Config { .. } => (Exit::Usage, None),
        StartError::Forbidden { .. } => {
            (Exit::Failed, Some("grant it, or leave `home-agent` out of `roles` in the configuration"))
        }
        StartError::NoForwarding { .. } => {
            (Exit::Failed, Some("docs/home-addresses.md lists what a host needs"))
        }
        _ => (Exit::Failed, None),
    };
    let failed: Outcome = Err(error).context("the home agent cannot start").or_exit(exit);
    let failure = failed.expect_err("an error was put in");
    match advice {
        Some(advice) => failure.advise(advice),
        None => failure,
    }
}

fn world_of(known: Known) -> World {
    let Known { granted, allowed, present, elsewhere, names, home_agents: _ } = known;
    World { granted, allowed, present, elsewhere, names }
}

async fn follow(mut homes: Homes, world: watch::Sender<Arc<World>>) {
    while let Some(known) = homes.next().await {
        if world.send(Arc::new(world_of(known))).is_err() {
            return;
        }
    }
}

async fn listen(mut moves: Moves, say: mpsc::Sender<Heard>) {
    while let Some(heard) = moves.next().await {
        let heard = match heard {
            // Nodes ask by themselves.
            moves::Heard::Connected(_) => continue,
            moves::Heard::Message { from, message } => Heard::Message { from, message },
            moves::Heard::Malformed { from, .. } => Heard::Malformed { from },
        };
        if say.send(heard).await.is_err() {
            return;
        }
    }
}

fn tell_others(
    runtime: &Runtime,
    mut announced: watch::Receiver<Vec<Announcement>>,
) -> impl Future<Output = ()> + use<> {
    let announces = runtime.announces();
    async move {
        while announced.changed().await.is_ok() {
            let now = announced.borrow_and_update().clone();
            announces.tell(now).await;
        }
    }
}

/// Speaks to members.
struct Speaker {
    tell: Tell,
    announce: watch::Sender<Vec<Announcement>>,
}

impl Peers for Speaker {
    fn tell(&self, to: MemberId, message: &Message) {
        if let Err(error) = self.tell.tell(to, message) {
            // It asks again.
            tracing::debug!(to = to.short(), %error, "a member could not be answered");
        }
    }

    fn announced(&self, announced: Vec<Announcement>) {
        self.announce.send_replace(announced);
    }
}

/// What the control endpoint is told; nothing where there is no home agent.
pub(crate) async fn view(
    viewer: Option<Viewer>,
) -> Result<serde_json::Value, godwit_node::admin::api::Error> {
    let view = async { viewer?.view().await };
    match view.await {
        Some(view) => Ok(serde_json::to_value(view).unwrap_or_default()),
        None => Err(godwit_node::admin::no_home_agent()),
    }
}

/// The same of flows.
pub(crate) async fn flows(
    viewer: Option<Viewer>,
    max: usize,
) -> Result<serde_json::Value, godwit_node::admin::api::Error> {
    let flows = async { viewer?.flows(max).await };
    match flows.await {
        Some(flows) => Ok(serde_json::to_value(flows).unwrap_or_default()),
        None => Err(godwit_node::admin::no_home_agent()),
    }
}
