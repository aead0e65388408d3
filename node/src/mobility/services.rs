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

use super::bindings::Homes;
use super::forward::{Forwarded, forward_tcp, forward_udp};
use super::health::{self, Target};
use super::serving::{Mode, Serving};
use crate::homes::Known;
use godwit_core::binding::HomeAddress;
use godwit_core::certificate::{Home, Ports};
use godwit_core::key::MemberId;
use godwit_core::name::SiteName;
use godwit_core::time::Time;
use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

/// A service that failed keeps its old flows for so long; then nothing is led here for it.
const FAILED_MAX: Duration = Duration::from_secs(30);

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

/// Where a service stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum State {
    Open,
    Draining,
    Kept,
}

impl State {
    pub(super) fn name(self) -> &'static str {
        match self {
            State::Open => "open",
            State::Draining => "draining",
            State::Kept => "not bound",
        }
    }
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

/// The sockets at one home address.
struct Listening {
    /// Nothing new.
    stop: CancellationToken,
    /// Nothing at all.
    end: CancellationToken,
    /// Why it does not listen.
    problem: Option<String>,
}

impl Drop for Listening {
    fn drop(&mut self) {
        self.stop.cancel();
        self.end.cancel();
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
        let same = self.served.get(&serving.name).is_some_and(|served| served.serving == serving);
        if same {
            return Ok(());
        }
        let served = Served {
            works: None,
            failed_at: None,
            drain_until: None,
            check: CancellationToken::new(),
            checked: None,
            forwarded: Arc::new(Forwarded::default()),
            listening: BTreeMap::new(),
            serving: serving.clone(),
        };
        if let Some(before) = self.served.insert(serving.name, served) {
            before.check.cancel();
        }
        Ok(())
    }

    /// Serves a name no longer; whether it did.
    pub(super) fn stop(&mut self, name: &SiteName) -> bool {
        self.served.remove(name).inspect(|served| served.check.cancel()).is_some()
    }

    /// Takes no new flows for a name; old ones until then.
    pub(super) fn drain(&mut self, name: &SiteName, until: Time) {
        if let Some(served) = self.served.get_mut(name) {
            served.drain_until = Some(until);
            served.serving.moved_away = true;
        }
    }

    /// The member stops: what is served takes no new flows.
    pub(super) fn leave(&mut self) {
        self.leaving = true;
    }

    /// What is served, for the disk.
    pub(super) fn serving(&self) -> Vec<Serving> {
        self.served.values().map(|served| served.serving.clone()).collect()
    }

    /// How a name is served.
    pub(super) fn mode(&self, name: &SiteName) -> Option<&Mode> {
        self.served.get(name).map(|served| &served.serving.mode)
    }

    /// A health check has found something else than before.
    pub(super) fn found(&mut self, now: Time, finding: &Finding) {
        let Some(served) = self.served.get_mut(&finding.name) else { return };
        if served.works != Some(finding.works) {
            tracing::info!(name = %finding.name, works = finding.works, "a service at a home address");
        }
        served.failed_at = if finding.works { None } else { served.failed_at.or(Some(now)) };
        served.works = Some(finding.works);
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

    /// Where a service stands.
    fn state(served: &Served, now: Time) -> State {
        let failed_for = served.failed_at.map(|at| now.since(at));
        match (served.serving.moved_away, served.works) {
            (_, None) => State::Kept,
            (true, Some(true)) if served.drain_until.is_some_and(|until| now < until) => State::Draining,
            (true, _) => State::Kept,
            (false, Some(true)) => State::Open,
            (false, Some(false)) if failed_for.is_some_and(|long| long < FAILED_MAX) => State::Draining,
            (false, Some(false)) => State::Kept,
        }
    }

    /// What is to be bound now.
    pub(super) fn homes(&self, now: Time) -> Homes {
        let mut homes = Homes::default();
        for (name, served) in &self.served {
            let set = match Services::state(served, now) {
                State::Open if self.leaving => &mut homes.draining,
                State::Open => &mut homes.open,
                State::Draining => &mut homes.draining,
                State::Kept => &mut homes.kept,
            };
            set.extend(self.homes_of(name));
        }
        homes
    }

    /// When [`Services::homes`] changes without anything else happening.
    pub(super) fn next_deadline(&self, now: Time) -> Option<Time> {
        let ends = self.served.values().flat_map(|served| {
            served.drain_until.into_iter().chain(served.failed_at.map(|at| at + FAILED_MAX))
        });
        ends.filter(|end| *end > now).min()
    }

    /// Makes what listens be what should, at the home addresses that the host has now.
    pub(super) fn listen(&mut self, owned: &BTreeSet<HomeAddress>) {
        let names: Vec<SiteName> = self.served.keys().cloned().collect();
        for name in names {
            let homes: BTreeSet<HomeAddress> = self.homes_of(&name).intersection(owned).copied().collect();
            let ports = self.known.granted.get(&name).map(|home| home.ports.clone());
            let Some(served) = self.served.get_mut(&name) else { continue };
            served.listening.retain(|home, listening| homes.contains(home) && listening.problem.is_none());
            for home in &homes {
                if served.listening.contains_key(home) {
                    continue;
                }
                let listening = open(&self.sites, served, *home, ports.as_ref(), &self.end);
                if let Some(problem) = &listening.problem {
                    tracing::warn!(%name, %home, problem, "nothing listens at a home address");
                }
                served.listening.insert(*home, listening);
            }
            let wanted = (!homes.is_empty()).then(|| targets(&served.serving.mode, &homes, ports.as_ref()));
            if wanted == served.checked {
                continue;
            }
            served.check.cancel();
            served.check = self.end.child_token();
            served.checked.clone_from(&wanted);
            if let Some(targets) = wanted {
                let (findings, check) = (self.findings.clone(), served.check.clone());
                tokio::spawn(health::watch(name.clone(), targets, findings, check));
            }
        }
    }

    /// What can be told of the services.
    pub(super) fn told(&self, now: Time) -> Vec<Told> {
        let told = |(name, served): (&SiteName, &Served)| Told {
            name: name.clone(),
            serving: served.serving.clone(),
            homes: self.homes_of(name),
            granted: self.known.granted.contains_key(name),
            works: served.works,
            state: Services::state(served, now),
            problem: served.listening.values().find_map(|listening| listening.problem.clone()),
            open: served.forwarded.open.load(Ordering::Relaxed),
            begun: served.forwarded.begun.load(Ordering::Relaxed),
            failed: served.forwarded.failed.load(Ordering::Relaxed)
                + served.forwarded.refused.load(Ordering::Relaxed),
        };
        self.served.iter().map(told).collect()
    }
}

/// What can be told of one service.
#[derive(Clone, Debug)]
pub(super) struct Told {
    pub(super) name: SiteName,
    pub(super) serving: Serving,
    pub(super) homes: BTreeSet<HomeAddress>,
    pub(super) granted: bool,
    pub(super) works: Option<bool>,
    pub(super) state: State,
    pub(super) problem: Option<String>,
    pub(super) open: u64,
    pub(super) begun: u64,
    pub(super) failed: u64,
}

/// Opens the sockets of a service at one home address.
fn open(
    sites: &Sites,
    served: &Served,
    home: HomeAddress,
    ports: Option<&Ports>,
    end: &CancellationToken,
) -> Listening {
    let mut listening = Listening { stop: end.child_token(), end: end.child_token(), problem: None };
    let opened = match &served.serving.mode {
        Mode::Local => Ok(()),
        Mode::Sites => open_sites(sites, home, ports, &listening.stop),
        Mode::To { address, proxy_protocol } => {
            open_forwarders(served, home, (*address, *proxy_protocol), ports, &listening)
        }
    };
    listening.problem = opened.err().map(|error| error.to_string());
    listening
}

/// Sites are served at the ports that are granted; where all are, at the HTTP server's own.
fn open_sites(
    sites: &Sites,
    home: HomeAddress,
    ports: Option<&Ports>,
    stop: &CancellationToken,
) -> io::Result<()> {
    let Some(any) = sites.listening.first() else {
        return Err(io::Error::other("this node serves no sites: `http.listen` is empty"));
    };
    let ports = match ports {
        Some(Ports::Only { tcp, .. }) => tcp.clone(),
        Some(Ports::All) | None => vec![any.port()],
    };
    for port in ports {
        let covers = |at: &SocketAddr| {
            let any = at.ip().is_unspecified() && at.is_ipv4() == home.0.is_ipv4();
            at.port() == port && (any || at.ip() == home.0)
        };
        if !sites.listening.iter().any(covers) {
            (sites.serve)(crate::http::listen(SocketAddr::new(home.0, port))?, stop.clone());
        }
    }
    Ok(())
}

fn open_forwarders(
    served: &Served,
    home: HomeAddress,
    (to, tells_client): (SocketAddr, bool),
    ports: Option<&Ports>,
    listening: &Listening,
) -> io::Result<()> {
    let (tcp, udp) = forwarded_ports(to, ports);
    let (stop, end) = (&listening.stop, &listening.end);
    for port in tcp {
        let (home, forwarded) = (SocketAddr::new(home.0, port), served.forwarded.clone());
        tokio::spawn(forward_tcp(home, to, tells_client, forwarded, stop.clone(), end.clone())?);
    }
    for port in udp {
        let (home, forwarded) = (SocketAddr::new(home.0, port), served.forwarded.clone());
        tokio::spawn(forward_udp(home, to, forwarded, stop.clone(), end.clone())?);
    }
    Ok(())
}

/// The ports of TCP and of UDP that are forwarded: those that are open at the address; where all are, the
/// program's own.
fn forwarded_ports(to: SocketAddr, ports: Option<&Ports>) -> (Vec<u16>, Vec<u16>) {
    match ports {
        Some(Ports::Only { tcp, udp }) => (tcp.clone(), udp.clone()),
        Some(Ports::All) | None => (vec![to.port()], vec![to.port()]),
    }
}

/// What is looked at to know whether a service works.
fn targets(mode: &Mode, homes: &BTreeSet<HomeAddress>, ports: Option<&Ports>) -> Vec<Target> {
    match (mode, ports) {
        (Mode::Sites, _) | (Mode::Local, Some(Ports::All) | None) => Vec::new(),
        (Mode::To { address, .. }, ports) => {
            let (tcp, udp) = forwarded_ports(*address, ports);
            match (tcp.is_empty(), udp.is_empty(), ports) {
                // All ports: whichever of both protocols the program speaks.
                (_, _, Some(Ports::All) | None) => vec![Target::Either(*address)],
                (false, ..) => vec![Target::Accepts(*address)],
                (true, false, _) => vec![Target::Receives(*address)],
                (true, true, _) => Vec::new(),
            }
        }
        (Mode::Local, Some(Ports::Only { tcp, udp })) => {
            let at = |home: &HomeAddress, port: &u16| SocketAddr::new(home.0, *port);
            let tcp =
                homes.iter().flat_map(|home| tcp.iter().map(move |port| Target::Listens(at(home, port))));
            let udp =
                homes.iter().flat_map(|home| udp.iter().map(move |port| Target::Receives(at(home, port))));
            tcp.chain(udp).collect()
        }
    }
}
