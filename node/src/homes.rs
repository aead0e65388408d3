//! What the network says of home addresses, as it changes: for the home agent beside this runtime, and
//! for the node's own part.

use crate::driver::Command;
use crate::snapshot::Snapshot;
use godwit_core::announce::Announcement;
use godwit_core::binding::HomeAddress;
use godwit_core::certificate::{Home, Role};
use godwit_core::key::MemberId;
use godwit_core::member::{Input, State};
use godwit_core::name::{MemberName, SiteName};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use tokio::sync::{mpsc, watch};

/// What is known of home addresses at one moment.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Known {
    /// The home addresses that there are.
    pub granted: BTreeMap<SiteName, Home>,
    /// Who may serve which, as the authority has it.
    pub allowed: BTreeSet<(HomeAddress, MemberId)>,
    /// Of those who may serve one, the members in reach and ready.
    pub present: BTreeSet<MemberId>,
    /// Those that another home agent in reach announces and says that it could serve.
    pub elsewhere: BTreeSet<HomeAddress>,
    /// The home agents, those out of reach too.
    pub home_agents: BTreeSet<MemberId>,
    /// What members are called.
    pub names: BTreeMap<MemberId, MemberName>,
}

/// What is known of home addresses, as it changes.
#[derive(Debug)]
pub struct Homes {
    pub(crate) snapshots: watch::Receiver<Arc<Snapshot>>,
    pub(crate) known: Option<Known>,
}

impl Homes {
    /// What is known now, and then whenever it is different; `None` when the member stops.
    pub async fn next(&mut self) -> Option<Known> {
        loop {
            if self.known.is_some() {
                self.snapshots.changed().await.ok()?;
            }
            let known = of(&self.snapshots.borrow_and_update());
            if self.known.as_ref() != Some(&known) {
                self.known = Some(known.clone());
                return Some(known);
            }
        }
    }
}

/// Tells the other home agents what this one announces.
#[derive(Clone, Debug)]
pub struct Announces(pub(crate) mpsc::Sender<Command>);

impl Announces {
    /// These from now on.
    pub async fn tell(&self, announced: Vec<Announcement>) {
        // A member that stops tells nothing any more.
        let _ = self.0.send(Command::Input(Input::HomesAnnounced(announced))).await;
    }
}

fn of(snapshot: &Snapshot) -> Known {
    let allowed = snapshot.allowed();
    let may: BTreeSet<MemberId> = allowed.iter().map(|(_, member)| *member).collect();
    let is_ready = |member: &&MemberId| {
        let entry = snapshot.members.get(member).and_then(|known| known.entry.as_ref());
        snapshot.is_in_reach(member) && entry.is_some_and(|entry| entry.ready)
    };
    let own = |by: &MemberId| snapshot.members.get(by).is_some_and(|known| known.own);
    let others = snapshot.announced.iter().filter(|(by, _)| !own(by) && snapshot.is_in_reach(by));
    let elsewhere = others.flat_map(|(_, announced)| announced).filter(|one| one.well).map(|one| one.home);
    let counts = |state: State| !matches!(state, State::Revoked | State::Expired);
    let agents = snapshot
        .members
        .iter()
        .filter(|(_, known)| known.certificate.has_role(Role::HomeAgent) && counts(known.state));
    let home_agents: BTreeSet<MemberId> = agents.map(|(id, _)| *id).collect();
    Known {
        granted: snapshot.homes().into_iter().map(|(name, home)| (name.clone(), home.clone())).collect(),
        present: may.iter().filter(is_ready).copied().collect(),
        elsewhere: elsewhere.collect(),
        names: may
            .iter()
            .chain(&home_agents)
            .filter_map(|id| Some((*id, snapshot.members.get(id)?.certificate.grant().name.clone())))
            .collect(),
        home_agents,
        allowed,
    }
}
