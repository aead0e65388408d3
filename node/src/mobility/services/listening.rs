//! What listens at home addresses, and what is looked at to know whether it works.

use super::left::{Pool, SocketLeft};
use super::{Served, Services, Sites};
use crate::mobility::forward::{self, Sessions, forward_tcp, forward_udp};
use crate::mobility::health::{self, Target};
use crate::mobility::serving::Mode;
use godwit_core::binding::HomeAddress;
use godwit_core::certificate::Ports;
use godwit_core::name::SiteName;
use std::collections::BTreeSet;
use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

/// A socket at a home address that another process could go on with.
enum Open {
    /// Connections come to it; held open here, whoever accepts them.
    Tcp(SocketAddr, OwnedFd),
    /// Datagrams come to it.
    Udp(SocketAddr, Arc<Sessions>),
}

/// The sockets at one home address.
pub(super) struct Listening {
    /// Nothing new.
    pub(super) stop: CancellationToken,
    /// Nothing at all.
    pub(super) end: CancellationToken,
    /// No datagram any more.
    deaf: CancellationToken,
    open: Vec<Open>,
    /// Why it does not listen.
    pub(super) problem: Option<String>,
}

impl Drop for Listening {
    fn drop(&mut self) {
        self.stop.cancel();
        self.end.cancel();
    }
}

impl Listening {
    /// Listens, on the socket that another process has left or on a new one.
    fn tcp(
        &mut self,
        pool: &mut Pool,
        at: SocketAddr,
        listen: impl FnOnce(SocketAddr) -> io::Result<TcpListener>,
    ) -> io::Result<TcpListener> {
        let listener = pool.tcp(at, listen)?;
        self.open.push(Open::Tcp(at, listener.as_fd().try_clone_to_owned()?));
        Ok(listener)
    }

    /// Accepts nothing any more, and gives what another process accepts from. What was begun goes on.
    fn leave(&mut self) -> io::Result<Vec<SocketLeft>> {
        self.stop.cancel();
        let left = std::mem::take(&mut self.open).into_iter().map(|open| match open {
            Open::Tcp(at, socket) => Ok(SocketLeft { is_tcp: true, at, socket, sessions: Vec::new() }),
            Open::Udp(at, all) => {
                let (socket, sessions) = all.duplicate()?;
                Ok(SocketLeft { is_tcp: false, at, socket, sessions })
            }
        });
        let left = left.collect();
        self.deaf.cancel();
        left
    }
}

impl Services {
    /// Sites are another process's from now on, which does not serve them yet: clients wait.
    pub(in crate::mobility) fn suspend_sites(&self) {
        let sites = self.served.values().filter(|served| served.serving.mode == Mode::Sites);
        sites.flat_map(|served| served.listening.values()).for_each(|listening| listening.stop.cancel());
    }

    /// Leaves what listens to another process. Connections that were begun go on.
    pub(in crate::mobility) fn leave_sockets(&mut self) -> io::Result<Vec<SocketLeft>> {
        let mut left = Vec::new();
        for served in self.served.values_mut() {
            served.check.cancel();
            for listening in served.listening.values_mut() {
                left.extend(listening.leave()?);
            }
        }
        Ok(left)
    }

    /// Makes what listens be what should, at the home addresses that the host has now.
    pub(in crate::mobility) fn listen(&mut self, owned: &BTreeSet<HomeAddress>) {
        let names: Vec<SiteName> = self.served.keys().cloned().collect();
        for name in names {
            let homes: BTreeSet<HomeAddress> = self.homes_of(&name).intersection(owned).copied().collect();
            let ports = self.known.granted.get(&name).map(|home| home.ports.clone());
            let Some(served) = self.served.get_mut(&name) else { continue };
            served.listening.retain(|home, _| homes.contains(home));
            for home in &homes {
                let before = served.listening.get(home);
                if before.is_some_and(|before| before.problem.is_none()) {
                    continue;
                }
                let told = before.and_then(|before| before.problem.clone());
                let listening = open(&self.sites, &mut self.pool, served, *home, ports.as_ref(), &self.end);
                match &listening.problem {
                    Some(problem) if listening.problem != told => {
                        tracing::warn!(%name, %home, problem, "nothing listens at a home address");
                    }
                    None if told.is_some() => tracing::info!(%name, %home, "now it listens"),
                    _ => {}
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
}

/// Opens the sockets of a service at one home address.
fn open(
    sites: &Sites,
    pool: &mut Pool,
    served: &Served,
    home: HomeAddress,
    ports: Option<&Ports>,
    end: &CancellationToken,
) -> Listening {
    let (stop, end) = (end.child_token(), end.child_token());
    let deaf = end.child_token();
    let mut listening = Listening { stop, end, deaf, open: Vec::new(), problem: None };
    let opened = match &served.serving.mode {
        Mode::Local => leave_room(sites, home, ports),
        Mode::Sites => open_sites(sites, pool, home, ports, &mut listening),
        Mode::To { address, proxy_protocol } => {
            open_forwarders(served, pool, home, (*address, *proxy_protocol), ports, &mut listening)
        }
    };
    listening.problem = opened.err().map(|error| error.to_string());
    listening
}

/// Sites are served at the ports that are granted; where all are, at the HTTP server's own.
fn open_sites(
    sites: &Sites,
    pool: &mut Pool,
    home: HomeAddress,
    ports: Option<&Ports>,
    listening: &mut Listening,
) -> io::Result<()> {
    let Some(any) = sites.listening.first() else {
        return Err(io::Error::other("this node serves no sites: `http.listen` is empty"));
    };
    let ports = match ports {
        Some(Ports::Only { tcp, .. }) => tcp.clone(),
        Some(Ports::All) | None => vec![any.port()],
    };
    for port in ports {
        if !covers(sites, home, port) {
            let listener = listening.tcp(pool, SocketAddr::new(home.0, port), crate::http::listen)?;
            (sites.serve)(listener, listening.stop.clone());
        }
    }
    Ok(())
}

/// Whether this node's HTTP server listens there anyway.
fn covers(sites: &Sites, home: HomeAddress, port: u16) -> bool {
    let covers = |at: &SocketAddr| {
        let any = at.ip().is_unspecified() && at.is_ipv4() == home.0.is_ipv4();
        at.port() == port && (any || at.ip() == home.0)
    };
    sites.listening.iter().any(covers)
}

/// A program of this host cannot listen where this node's HTTP server does.
fn leave_room(sites: &Sites, home: HomeAddress, ports: Option<&Ports>) -> io::Result<()> {
    let Some(Ports::Only { tcp, .. }) = ports else { return Ok(()) };
    match tcp.iter().find(|port| covers(sites, home, **port)) {
        Some(port) => Err(io::Error::other(format!(
            "this node's HTTP server has port {port} of all addresses: name its own in `http.listen`"
        ))),
        None => Ok(()),
    }
}

fn open_forwarders(
    served: &Served,
    pool: &mut Pool,
    home: HomeAddress,
    (to, tells_client): (SocketAddr, bool),
    ports: Option<&Ports>,
    listening: &mut Listening,
) -> io::Result<()> {
    let (tcp, udp) = forwarded_ports(to, ports);
    let (stop, end, deaf) = (listening.stop.clone(), listening.end.clone(), listening.deaf.clone());
    for port in tcp {
        let listener = listening.tcp(pool, SocketAddr::new(home.0, port), forward::listen)?;
        let forwarded = served.forwarded.clone();
        tokio::spawn(forward_tcp(listener, to, tells_client, forwarded, stop.clone(), end.clone())?);
    }
    for port in udp {
        let home = SocketAddr::new(home.0, port);
        let (sessions, run) =
            forward_udp(pool.udp(home)?, to, served.forwarded.clone(), stop.clone(), deaf.clone())?;
        listening.open.push(Open::Udp(home, sessions));
        tokio::spawn(run);
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
        (Mode::To { address, proxy_protocol }, ports) => {
            let (tcp, udp) = forwarded_ports(*address, ports);
            match (tcp.is_empty(), udp.is_empty(), ports) {
                // All ports: whichever of both protocols the program speaks.
                (_, _, Some(Ports::All) | None) => vec![Target::Either(*address)],
                (false, ..) if *proxy_protocol => vec![Target::AcceptsProxied(*address)],
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
