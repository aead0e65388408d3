//! The main thread's work: bring everything up, do what is ordered, take everything down.

use super::hosts::{Hosts, Mode, Paths, queue_len};
use super::member::{Members, Namespaces, Program};
use super::ready;
use super::routes::Routes;
use crate::fabric::{FabricHandle, LinkChange};
use crate::geoip;
use crate::options::{Degrade, Fault, PortKind, UpOptions};
use crate::state::{HostState, Phase, RunDir, State};
use crate::topology::{Role, Topology};
use anyhow::{Context, bail};
use godwit_net::port::Ipv6;
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, SyncSender, channel};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;

/// How soon the end of a process shows in `status`.
const LOOK_INTERVAL: Duration = Duration::from_millis(50);

/// How long a testbed that did not come up waits to be asked why.
const FAILED_WAIT: Duration = Duration::from_secs(20);

/// What other threads hold of the supervisor.
#[derive(Clone)]
pub(super) struct Handle {
    pub(super) dir: RunDir,
    state: Arc<Mutex<State>>,
    fabric: Arc<OnceLock<FabricHandle>>,
    orders: Sender<Order>,
    ending: Arc<AtomicBool>,
}

/// What the supervisor is told to do.
pub(super) enum Order {
    /// Change something and say what was done, or why not.
    Fault { fault: Fault, reply: SyncSender<Result<String, String>> },
    /// End everything.
    End,
}

impl Handle {
    /// What there is now.
    pub(super) fn state(&self) -> State {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner).clone();
        state.fabric = self.fabric.get().and_then(FabricHandle::report);
        state
    }

    pub(super) fn order(&self, order: Order) {
        // A supervisor that has ended drops the order, and with it the reply.
        let _ = self.orders.send(order);
    }

    /// Ends everything, also in the middle of bringing it up.
    pub(super) fn end(&self) {
        self.ending.store(true, Ordering::Relaxed);
        self.order(Order::End);
    }

    pub(super) fn check_not_ending(&self) -> anyhow::Result<()> {
        if self.ending.load(Ordering::Relaxed) {
            bail!("it was told to end");
        }
        Ok(())
    }
}

pub(super) struct Supervisor {
    handle: Handle,
    inbox: Receiver<Order>,
    options: UpOptions,
    pub(super) topology: Topology,
    mode: Mode,
    pub(super) members: Members,
    routes: Routes,
    faults: BTreeMap<(usize, usize), PathFault>,
    /// Last: members are gone before their hosts.
    pub(super) hosts: Option<Hosts>,
}

/// What is wrong with one directed path.
#[derive(Clone, Copy, Debug, Default)]
struct PathFault {
    cut: bool,
    degrade: Degrade,
}

impl Supervisor {
    pub(super) fn new(
        dir: RunDir,
        options: UpOptions,
        topology: Topology,
        mode: Mode,
    ) -> anyhow::Result<Supervisor> {
        let program = Program::new(&dir, &options)?;
        let members = Members::new(program, &topology, mode.kind == PortKind::Loopback);
        let state = initial_state(&dir, &options, &topology, &mode, &members);
        let (orders, inbox) = channel();
        let handle = Handle {
            dir,
            state: Arc::new(Mutex::new(state)),
            fabric: Arc::new(OnceLock::new()),
            orders,
            ending: Arc::new(AtomicBool::new(false)),
        };
        Ok(Supervisor {
            handle,
            inbox,
            options,
            topology,
            mode,
            members,
            routes: Routes::default(),
            faults: BTreeMap::new(),
            hosts: None,
        })
    }

    pub(super) fn handle(&self) -> Handle {
        self.handle.clone()
    }

    /// Lives until told to end.
    pub(super) fn run(&mut self) -> anyhow::Result<()> {
        let result = match self.bring_up() {
            Ok(()) => {
                self.update(|state| state.phase = Phase::Ready)?;
                self.obey(None)
            }
            Err(error) => {
                let why = format!("{error:#}");
                eprintln!("{why}");
                self.update(|state| state.phase = Phase::Failed(why))?;
                self.obey(Some(FAILED_WAIT))
            }
        };
        let _ = self.update(|state| state.phase = Phase::Ending);
        self.members.end_all();
        result
    }

    fn bring_up(&mut self) -> anyhow::Result<()> {
        self.make_hosts()?;
        let loopback = self.hosts.is_none();
        let geoip =
            geoip::database(&self.topology, self.options.seed, self.options.geoip_wrong_percent, loopback)?;
        std::fs::write(self.handle.dir.file("geoip.mmdb"), geoip)?;
        self.step("making the network's authority and invitations")?;
        let mut tokens = self.members.invite_all(&self.topology)?;
        let founder = self.members.founder()?;
        let token = tokens.remove(&founder).context("the founder was not invited")?;
        self.step(&format!("the first member joins: {}", self.members.name(founder)))?;
        let namespaces = Namespaces::new(self.hosts.as_ref().map(|hosts| hosts.namespaces.as_slice()));
        self.members.join(founder, &token, namespaces)?;
        self.members.start(founder, namespaces)?;
        ready::wait_live(&mut self.members, founder, &self.handle)?;
        self.step(&format!("{} more members join", tokens.len()))?;
        let namespaces = Namespaces::new(self.hosts.as_ref().map(|hosts| hosts.namespaces.as_slice()));
        self.members.join_all(&tokens, namespaces)?;
        for host in tokens.keys() {
            self.members.start(*host, namespaces)?;
        }
        self.note_processes()?;
        self.step("waiting until every member is ready and every redirector knows all nodes")?;
        let namespaces = Namespaces::new(self.hosts.as_ref().map(|hosts| hosts.namespaces.as_slice()));
        ready::wait_all(&mut self.members, &self.topology, namespaces, &self.handle)
    }

    fn make_hosts(&mut self) -> anyhow::Result<()> {
        if self.mode.kind == PortKind::Loopback {
            return Ok(());
        }
        self.step("making hosts")?;
        let capture = self.options.pcap.then(|| self.handle.dir.file("fabric.pcap"));
        let hosts = Hosts::create(&self.topology, &self.options, &self.mode, capture.as_deref())?;
        let mut inodes = String::new();
        for namespace in &hosts.namespaces {
            inodes.push_str(&format!("{}\n", namespace.inode()?));
        }
        std::fs::write(self.handle.dir.file("namespaces"), inodes)?;
        let _ = self.handle.fabric.set(hosts.fabric.handle());
        if hosts.ipv6 == Ipv6::Absent {
            self.members.without_ipv6();
        }
        let launcher = std::process::id();
        let paths: Vec<String> = hosts
            .namespaces
            .iter()
            .map(|namespace| {
                use std::os::fd::{AsFd, AsRawFd};
                format!("/proc/{launcher}/fd/{}", namespace.as_fd().as_raw_fd())
            })
            .collect();
        let (kind, ipv6) = (hosts.kind, hosts.ipv6);
        self.hosts = Some(hosts);
        self.update(|state| {
            state.mode = kind;
            for (host, path) in state.hosts.iter_mut().zip(paths) {
                host.netns = Some(path);
                if ipv6 == Ipv6::Absent {
                    host.addr6 = None;
                }
            }
            if ipv6 == Ipv6::Absent {
                state.warnings.push("this kernel has no IPv6: hosts have IPv4 addresses only".into());
            }
        })
    }

    fn step(&mut self, what: &str) -> anyhow::Result<()> {
        self.handle.check_not_ending()?;
        self.update(|state| state.phase = Phase::Starting(what.into()))
    }

    pub(super) fn update(&self, change: impl FnOnce(&mut State)) -> anyhow::Result<()> {
        let mut state = self.handle.state.lock().unwrap_or_else(PoisonError::into_inner);
        change(&mut state);
        self.handle.dir.write_state(&state)
    }

    /// Writes down which processes run, when that changed.
    fn note_processes(&mut self) -> anyhow::Result<()> {
        self.members.look();
        if let Some(fabric) = self.handle.fabric.get() {
            let is_agent = |host: &usize| self.topology.hosts[*host].role == Role::HomeAgent;
            let agents: Vec<usize> = (0..self.topology.hosts.len()).filter(is_agent).collect();
            self.routes.look(&self.members, &agents, fabric);
        }
        let now: Vec<_> = (0..self.topology.hosts.len()).map(|host| self.members.process(host)).collect();
        let known = self.handle.state.lock().unwrap_or_else(PoisonError::into_inner);
        let same =
            known.hosts.iter().zip(&now).all(|(host, (pid, ended))| (&host.pid, &host.ended) == (pid, ended));
        drop(known);
        if same {
            return Ok(());
        }
        self.update(|state| {
            for (host, (pid, ended)) in state.hosts.iter_mut().zip(now) {
                (host.pid, host.ended) = (pid, ended);
            }
        })
    }

    /// Does what is ordered until told to end, or until `limit` has passed.
    fn obey(&mut self, limit: Option<Duration>) -> anyhow::Result<()> {
        let mut waited = Duration::ZERO;
        while limit.is_none_or(|limit| waited < limit) {
            match self.inbox.recv_timeout(LOOK_INTERVAL) {
                Ok(Order::End) | Err(RecvTimeoutError::Disconnected) => return Ok(()),
                Ok(Order::Fault { fault, reply }) => {
                    let done = self.apply(fault).map_err(|error| format!("{error:#}"));
                    self.note_processes()?;
                    let _ = reply.send(done);
                }
                Err(RecvTimeoutError::Timeout) => {
                    waited += LOOK_INTERVAL;
                    self.note_processes()?;
                }
            }
        }
        Ok(())
    }

    fn apply(&mut self, fault: Fault) -> anyhow::Result<String> {
        match fault {
            Fault::Kill { host } => {
                for_members(&self.topology, &mut self.members, &host, "killed", Members::kill)
            }
            Fault::Stop { host } => {
                for_members(&self.topology, &mut self.members, &host, "stopped", Members::stop)
            }
            Fault::Start { host } => self.start(&host),
            Fault::Cut { a, b } => self.change_paths(Some(&a), b.as_deref(), "cut", |fault| fault.cut = true),
            Fault::Heal { a, b } => {
                self.change_paths(a.as_deref(), b.as_deref(), "healed", |fault| *fault = PathFault::default())
            }
            Fault::Roam { host, to } => self.roam(&host, &to),
            Fault::Filter { host, off } => self.filter(&host, off),
            Fault::Degrade { a, b, how } => {
                how.check()?;
                self.change_paths(Some(&a), b.as_deref(), "degraded", |fault| fault.degrade = how)
            }
        }
    }

    fn start(&mut self, name: &str) -> anyhow::Result<String> {
        let namespaces = Namespaces::new(self.hosts.as_ref().map(|hosts| hosts.namespaces.as_slice()));
        let (members, topology) = (&mut self.members, &self.topology);
        for_members(topology, members, name, "started", |members, host| members.start(host, namespaces))
    }

    fn change_paths(
        &mut self,
        a: Option<&str>,
        b: Option<&str>,
        done: &str,
        change: impl Fn(&mut PathFault),
    ) -> anyhow::Result<String> {
        let fabric = self.fabric()?;
        let every = || (0..self.topology.hosts.len()).collect::<Vec<_>>();
        let from = a.map_or_else(|| Ok(every()), |a| select(&self.topology, a))?;
        let to = b.map_or_else(|| Ok(every()), |b| select(&self.topology, b))?;
        let paths = Paths::new(&self.topology, &self.options);
        let mut changes = BTreeMap::new();
        for pair in from.iter().flat_map(|from| to.iter().flat_map(move |to| [(*from, *to), (*to, *from)])) {
            if pair.0 == pair.1 {
                continue;
            }
            let fault = self.faults.entry(pair).or_default();
            change(fault);
            changes.insert(pair, fault.on(&paths, pair));
        }
        let count = changes.len() / 2;
        fabric.change(changes.into_values().collect());
        Ok(format!("{done}: {count} paths"))
    }

    /// What all paths of a host are like, whatever is wrong with them, given where it is now.
    pub(super) fn paths_of(&self, host: usize) -> Vec<LinkChange> {
        let paths = Paths::new(&self.topology, &self.options);
        let others = (0..self.topology.hosts.len()).filter(|other| *other != host);
        let pairs = others.flat_map(|other| [(host, other), (other, host)]);
        pairs.map(|pair| self.faults.get(&pair).copied().unwrap_or_default().on(&paths, pair)).collect()
    }

    /// A way to talk to the fabric, if there is one.
    pub(super) fn fabric(&self) -> anyhow::Result<FabricHandle> {
        let Some(hosts) = &self.hosts else {
            bail!(
                "there is no fabric without namespaces: all hosts are on this machine's loopback interface"
            );
        };
        Ok(hosts.fabric.handle())
    }

    fn filter(&self, name: &str, off: bool) -> anyhow::Result<String> {
        let fabric = self.fabric()?;
        let hosts = select(&self.topology, name)?;
        hosts.iter().for_each(|host| fabric.filter(*host as u16, !off));
        let names: Vec<_> = hosts.iter().map(|host| self.topology.hosts[*host].name.as_str()).collect();
        let done = if off { "all packets are let out of" } else { "only own packets are let out of" };
        Ok(format!("{done} {}", names.join(", ")))
    }
}

impl PathFault {
    /// What a path is like with it.
    fn on(&self, paths: &Paths<'_>, (from, to): (usize, usize)) -> LinkChange {
        let mut profile = paths.profile(from, to);
        let how = self.degrade;
        profile.cut = self.cut;
        profile.delay += Duration::from_secs_f64(how.delay_ms.unwrap_or(0.0) / 1000.0);
        profile.loss = how.loss_percent.map_or(profile.loss, |percent| percent / 100.0);
        if let Some(mbit) = how.rate_mbit {
            profile.rate_bps = Some((mbit * 1e6) as u64);
            profile.queue_len_max = queue_len(profile.rate_bps, profile.delay.as_secs_f64() * 2000.0);
        }
        LinkChange { from: from as u16, to: to as u16, profile }
    }
}

/// Does something to the members that a name means; answers in words.
fn for_members(
    topology: &Topology,
    members: &mut Members,
    name: &str,
    done: &str,
    action: impl Fn(&mut Members, usize) -> anyhow::Result<()>,
) -> anyhow::Result<String> {
    let chosen: Vec<usize> = select(topology, name)?
        .into_iter()
        .filter(|host| topology.hosts[*host].role != Role::Client)
        .collect();
    if chosen.is_empty() {
        bail!("{name} is a client: nothing of godwit runs there");
    }
    for host in &chosen {
        action(members, *host)?;
    }
    let names: Vec<_> = chosen.iter().map(|host| topology.hosts[*host].name.as_str()).collect();
    Ok(format!("{done}: {}", names.join(", ")))
}

fn select(topology: &Topology, name: &str) -> anyhow::Result<Vec<usize>> {
    let hosts = topology.select(name);
    if hosts.is_empty() {
        bail!("there is no host and no region {name}; `godwit testbed status` lists them");
    }
    Ok(hosts)
}

fn initial_state(
    dir: &RunDir,
    options: &UpOptions,
    topology: &Topology,
    mode: &Mode,
    members: &Members,
) -> State {
    let hosts = topology.hosts.iter().enumerate().map(|(number, host)| {
        let layout = members.layout(number);
        let member = host.role != Role::Client;
        HostState {
            name: host.name.clone(),
            role: host.role,
            region: topology.regions[host.region].name.clone(),
            pid: None,
            netns: None,
            addr4: layout.v4.to_string(),
            addr6: layout.v6.map(|v6| v6.to_string()),
            http: (host.role == Role::Node).then(|| layout.http().to_string()),
            dns: (host.role == Role::Redirector).then(|| layout.dns().to_string()),
            peer: member.then(|| layout.peer().to_string()),
            admin: member.then(|| layout.data_dir.join("admin.sock")),
            data_dir: member.then(|| layout.data_dir.clone()),
            log: member.then(|| layout.log()),
            ended: None,
        }
    });
    let mut warnings = topology.warnings.clone();
    if let Some(why) = &mode.why_loopback {
        warnings.push(format!(
            "no namespaces ({why}): hosts are addresses of the loopback interface, without delays, loss or cuts"
        ));
    }
    State {
        zone: options.zone.to_string(),
        mode: mode.kind,
        launcher: std::process::id(),
        dir: dir.path().to_owned(),
        authority: dir.file("authority"),
        seed: options.seed,
        phase: Phase::Starting("starting".into()),
        warnings,
        regions: topology.regions.iter().map(|region| region.name.clone()).collect(),
        rtt_ms: topology.rtt_ms.chunks(topology.regions.len()).map(<[f64]>::to_vec).collect(),
        hosts: hosts.collect(),
        fabric: None,
    }
}
