//! What this node serves at home addresses, and whether it can: which of them take new flows, keep old
//! ones, or are only there.
//!
//! | | bound | when |
//! |---|---|---|
//! | open | for new flows and old ones | it works, and was not moved away |
//! | draining | for old flows | it failed, or was moved away a while ago |
//! | kept | not at all | it has never worked, has failed for long, or its drain is over |
//!
//! The host has the address in each of these, so that a program can listen on it before anybody is led
//! there.

mod left;
mod listening;
mod standing;
mod told;

pub(super) use left::{ServiceLeft, SocketLeft};
pub(super) use standing::State;

use super::forward::Forwarded;
use super::health::Target;
use super::serving::{Mode, Serving};
use crate::homes::Known;
use godwit_core::binding::HomeAddress;
use godwit_core::certificate::Home;
use godwit_core::key::MemberId;
use godwit_core::name::SiteName;
use godwit_core::time::Time;
use left::Pool;
use listening::Listening;
use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::Arc;
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

/// A node serves at most so many names: each has a health check and some sockets.
pub(super) const SERVED_MAX: usize = 64;

/// Serves sites on one more socket, until the token is cancelled.
pub(crate) type ServeSites = Arc<dyn Fn(TcpListener, CancellationToken) + Send + Sync>;

/// How sites are served.
#[derive(Clone)]
pub(crate) struct Sites {
    /// Where they are served anyway.
    pub(crate) listening: Vec<SocketAddr>,
    /// And how more sockets are.
    pub(crate) serve: ServeSites,
}

/// What a health check found.
#[derive(Clone, Debug)]
pub(super) struct Finding {
    pub(super) name: SiteName,
    pub(super) works: bool,
}

/// See the module.
pub(super) struct Services {
    own: MemberId,
    sites: Sites,
    findings: mpsc::Sender<Finding>,
    known: Known,
    served: BTreeMap<SiteName, Served>,
    /// The member stops: nothing new is taken.
    leaving: bool,
    end: CancellationToken,
    /// What another process has left.
    left: Vec<ServiceLeft>,
    pool: Pool,
}

struct Served {
    serving: Serving,
    works: Option<bool>,
    failed_at: Option<Time>,
    drain_until: Option<Time>,
    check: CancellationToken,
    /// What is looked at; `None` while nothing is.
    checked: Option<Vec<Target>>,
    forwarded: Arc<Forwarded>,
    /// What listens, by home address.
    listening: BTreeMap<HomeAddress, Listening>,
}

impl Served {
    /// Whether it works, as far as it is known: the program does, and what has to listen for it listens.
    fn works(&self) -> Option<bool> {
        let listens = self.listening.values().all(|listening| listening.problem.is_none());
        self.works.map(|works| works && listens)
    }
}

impl Services {
    /// None yet.
    pub(super) fn new(
        own: MemberId,
        sites: Sites,
        findings: mpsc::Sender<Finding>,
        end: CancellationToken,
    ) -> Services {
        Services {
            own,
            sites,
            findings,
            known: Known::default(),
            served: BTreeMap::new(),
            leaving: false,
            end,
            left: Vec::new(),
            pool: Pool::default(),
        }
    }

    /// This is what the network says of home addresses.
    pub(super) fn set_known(&mut self, known: Known) {
        self.known = known;
    }

    /// Serves a name from now on, or in another way than before.
    pub(super) fn serve(&mut self, serving: Serving) -> Result<(), String> {
        if self.served.len() >= SERVED_MAX && !self.served.contains_key(&serving.name) {
            return Err(format!("a node serves at most {SERVED_MAX} names"));
        }
        let known = self.served.get_mut(&serving.name);
        if let Some(served) = known.filter(|served| served.serving.mode == serving.mode) {
            // What was moved away comes back: its sockets, its connections and what is known of the program
            // are the same.
            if !serving.moved_away {
                served.drain_until = None;
            }
            served.serving = serving;
            return Ok(());
        }
        let mut served = Served {
            works: None,
            failed_at: None,
            drain_until: None,
            check: CancellationToken::new(),
            checked: None,
            forwarded: Arc::new(Forwarded::default()),
            listening: BTreeMap::new(),
            serving: serving.clone(),
        };
        self.as_left(&mut served);
        if let Some(before) = self.served.insert(serving.name, served) {
            before.check.cancel();
        }
        Ok(())
    }

    /// Serves a name no longer; whether it did.
    pub(super) fn stop(&mut self, name: &SiteName) -> bool {
        self.served.remove(name).inspect(|served| served.check.cancel()).is_some()
    }

    /// What is served, for the disk.
    pub(super) fn serving(&self) -> Vec<Serving> {
        self.served.values().map(|served| served.serving.clone()).collect()
    }

    /// How a name is served.
    pub(super) fn mode(&self, name: &SiteName) -> Option<&Mode> {
        self.served.get(name).map(|served| &served.serving.mode)
    }

    /// The granted home addresses of a name that this member may serve.
    pub(super) fn homes_of(&self, name: &SiteName) -> BTreeSet<HomeAddress> {
        let granted = self.known.granted.get(name).into_iter().flat_map(Home::addresses);
        granted.filter(|home| self.known.allowed.contains(&(*home, self.own))).collect()
    }

    /// Who else may serve any of the home addresses that are served here.
    pub(super) fn others(&self) -> BTreeSet<MemberId> {
        let homes: BTreeSet<HomeAddress> = self.served.keys().flat_map(|name| self.homes_of(name)).collect();
        let others =
            self.known.allowed.iter().filter(|(home, member)| *member != self.own && homes.contains(home));
        others.map(|(_, member)| *member).collect()
    }

    /// Who may serve which home address.
    pub(super) fn allowed(&self) -> &BTreeSet<(HomeAddress, MemberId)> {
        &self.known.allowed
    }

    /// The home agents.
    pub(super) fn home_agents(&self) -> BTreeSet<MemberId> {
        self.known.home_agents.clone()
    }

    /// A member's name, for people; and the member of a name.
    pub(super) fn name_of(&self, member: &MemberId) -> String {
        self.known.names.get(member).map_or_else(|| member.short().to_string(), ToString::to_string)
    }

    /// The member of this name, if it may serve any home address.
    pub(super) fn member_named(&self, name: &str) -> Option<MemberId> {
        self.known.names.iter().find(|(_, known)| known.as_str() == name).map(|(member, _)| *member)
    }

    /// Whether a member may serve the home addresses of a name and is in reach.
    pub(super) fn may_take(&self, name: &SiteName, member: &MemberId) -> bool {
        self.known.present.contains(member)
            && self.homes_of(name).iter().all(|home| self.known.allowed.contains(&(*home, *member)))
    }
}
