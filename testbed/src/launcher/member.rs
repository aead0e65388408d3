//! Members as processes: real `godwit`, started as a person would start it.
//!
//! Everything that this crate knows of godwit's command line and configuration is in this file.

use crate::address;
use crate::options::UpOptions;
use crate::state::RunDir;
use crate::topology::{Role, Topology};
use anyhow::{Context, bail};
use godwit_core::name::ZoneName;
use godwit_net::namespace::NetworkNamespace;
use godwit_net::process::{self, Birth, Signal};
use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// Where members reach each other.
const PEER_PORT: u16 = 4100;

/// Where tunnels end at home agents.
const TUNNEL_PORT: u16 = 4191;

/// How long a member may take to end in order; it has nothing to save that is not saved.
const STOP_WAIT_MAX: Duration = Duration::from_secs(10);

/// The same when the whole testbed ends and nothing of it is kept.
const END_WAIT_MAX: Duration = Duration::from_millis(1500);

/// What measures resolvers in a network of a few addresses that are not public, and quickly.
const PROBE_RESOLVERS: &str = "probe_resolvers = true\n\
    probe_also = [\"198.18.0.0/15\", \"fd67:7764::/32\", \"127.18.0.0/15\"]\n\
    probe_again_secs = 10\nprobe_gap_ms = 100\n";

/// The program that members run, and what all of them share.
#[derive(Clone, Debug)]
pub(super) struct Program {
    executable: PathBuf,
    authority: PathBuf,
    geoip: PathBuf,
    hosts: PathBuf,
    zone: ZoneName,
    probe_resolvers: bool,
}

impl Program {
    pub(super) fn new(dir: &RunDir, options: &UpOptions) -> anyhow::Result<Program> {
        Ok(Program {
            executable: std::env::current_exe().context("cannot tell which program this is")?,
            authority: dir.file("authority"),
            geoip: dir.file("geoip.mmdb"),
            hosts: dir.file("hosts"),
            zone: options.zone.clone(),
            probe_resolvers: options.probe_resolvers,
        })
    }

    /// A command that runs in this host and is killed with the calling thread.
    fn command(&self, namespace: Option<&NetworkNamespace>) -> Command {
        let mut command = Command::new(&self.executable);
        // The user's own settings are for the user's own network.
        for (name, _) in std::env::vars_os() {
            if name.to_string_lossy().starts_with("GODWIT_") {
                command.env_remove(name);
            }
        }
        command.stdin(Stdio::null());
        process::prepare(&mut command, &Birth { namespace, own_session: true, dies_with_parent: true });
        command
    }
}

/// Where one host listens and keeps its files.
#[derive(Clone, Debug)]
pub(super) struct Layout {
    pub(super) v4: Ipv4Addr,
    pub(super) v6: Option<Ipv6Addr>,
    pub(super) data_dir: PathBuf,
    role: Role,
    loopback: bool,
}

impl Layout {
    pub(super) fn peer(&self) -> SocketAddr {
        SocketAddr::new(self.v4.into(), PEER_PORT)
    }

    /// Low ports are for root, which this user may not be outside of a namespace.
    pub(super) fn http(&self) -> SocketAddr {
        SocketAddr::new(self.v4.into(), if self.loopback { 8080 } else { 80 })
    }

    pub(super) fn dns(&self) -> SocketAddr {
        SocketAddr::new(self.v4.into(), if self.loopback { 5300 } else { 53 })
    }

    pub(super) fn log(&self) -> PathBuf {
        self.data_dir.with_extension("log")
    }

    fn config_file(&self) -> PathBuf {
        self.data_dir.with_extension("toml")
    }

    /// What the home agent tells the routers around it, one line each.
    pub(super) fn announcements(&self) -> PathBuf {
        self.data_dir.with_extension("announced")
    }

    /// The member's configuration file. TOML's basic strings and arrays are JSON's.
    ///
    /// A host of its own listens on all its addresses, whatever they are at the time; hosts that share the
    /// loopback interface on theirs alone.
    fn config(&self, geoip: &Path, probe_resolvers: bool) -> anyhow::Result<String> {
        let addresses = |port: u16| -> anyhow::Result<String> {
            let v4 = if self.loopback { self.v4 } else { Ipv4Addr::UNSPECIFIED };
            let v6 = self.v6.map(|_| IpAddr::V6(Ipv6Addr::UNSPECIFIED));
            let ips = std::iter::once(IpAddr::V4(v4)).chain(v6);
            let addresses: Vec<SocketAddr> = ips.map(|ip| SocketAddr::new(ip, port)).collect();
            Ok(serde_json::to_string(&addresses)?)
        };
        let geoip = serde_json::to_string(geoip)?;
        let mut text = String::new();
        if self.loopback {
            text.push_str(&format!("[node]\npublic_v4 = \"{}\"\n\n", self.v4));
        }
        text.push_str(&format!("[overlay]\nlisten = {}\n", addresses(PEER_PORT)?));
        text.push_str(&format!("\n[map]\ngeoip = {geoip}\nexplore_permille = 0\n"));
        if probe_resolvers {
            text.push_str(PROBE_RESOLVERS);
        }
        match self.role {
            Role::Node => text.push_str(&format!("\n[http]\nlisten = {}\n", addresses(self.http().port())?)),
            Role::Redirector => {
                text.push_str(&format!("\n[redirector]\nlisten = {}\n", addresses(self.dns().port())?));
            }
            Role::HomeAgent => {
                let announced = serde_json::to_string(&self.announcements())?;
                text.push_str(&format!(
                    "\n[home_agent]\nlisten = {}\n\n[home_agent.announce]\nexabgp = {announced}\n",
                    addresses(TUNNEL_PORT)?
                ));
            }
            Role::Client => {}
        }
        Ok(text)
    }
}

/// The namespaces of all hosts by number; none when there are none.
#[derive(Clone, Copy)]
pub(super) struct Namespaces<'a>(Option<&'a [NetworkNamespace]>);

impl<'a> Namespaces<'a> {
    pub(super) fn new(namespaces: Option<&'a [NetworkNamespace]>) -> Namespaces<'a> {
        Namespaces(namespaces)
    }

    fn of(self, host: usize) -> Option<&'a NetworkNamespace> {
        self.0.and_then(|namespaces| namespaces.get(host))
    }

    /// Runs `action` inside a host.
    pub(super) fn run<T: Send>(
        self,
        host: usize,
        action: impl FnOnce() -> io::Result<T> + Send,
    ) -> io::Result<T> {
        match self.of(host) {
            Some(namespace) => namespace.run(action),
            None => action(),
        }
    }
}

/// All hosts' processes, by the hosts' numbers.
pub(super) struct Members {
    program: Program,
    members: Vec<Member>,
}

struct Member {
    name: String,
    layout: Layout,
    process: Option<Child>,
    /// Why it is not running, when nobody asked for that.
    ended: Option<String>,
}

impl Members {
    pub(super) fn new(program: Program, topology: &Topology, loopback: bool) -> Members {
        let member = |host: &crate::topology::Host| {
            let (v4, v6) = match loopback {
                true => {
                    (address::of_host_on_loopback(host.role.side(), host.region as u8, host.number), None)
                }
                false => (host.addr4, Some(host.addr6)),
            };
            let data_dir = program.hosts.join(&host.name);
            let layout = Layout { v4, v6, data_dir, role: host.role, loopback };
            Member { name: host.name.clone(), layout, process: None, ended: None }
        };
        let members = topology.hosts.iter().map(member).collect();
        Members { program, members }
    }

    pub(super) fn without_ipv6(&mut self) {
        for member in &mut self.members {
            member.layout.v6 = None;
        }
    }

    pub(super) fn zone(&self) -> &ZoneName {
        &self.program.zone
    }

    /// The host has other addresses from now on; IPv6 only if it had it before.
    pub(super) fn readdress(&mut self, host: usize, v4: Ipv4Addr, v6: Ipv6Addr) {
        let layout = &mut self.members[host].layout;
        (layout.v4, layout.v6) = (v4, layout.v6.map(|_| v6));
    }

    pub(super) fn layout(&self, host: usize) -> &Layout {
        &self.members[host].layout
    }

    pub(super) fn name(&self, host: usize) -> &str {
        &self.members[host].name
    }

    /// The hosts that are members.
    pub(super) fn all(&self) -> impl Iterator<Item = usize> + '_ {
        (0..self.members.len()).filter(|host| self.members[*host].layout.role != Role::Client)
    }

    /// The member that starts the network: the first of them.
    pub(super) fn founder(&self) -> anyhow::Result<usize> {
        self.all().next().context("a network has at least one member")
    }

    /// Makes the network's authority and a token for each member, the founder's first.
    pub(super) fn invite_all(&self, topology: &Topology) -> anyhow::Result<BTreeMap<usize, String>> {
        fs::create_dir_all(&self.program.hosts)?;
        let mut init = self.program.command(None);
        init.args(["init", "--no-passphrase", "--zone", self.program.zone.as_str()]);
        init.arg("--authority").arg(&self.program.authority);
        for host in self.all().filter(|host| self.members[*host].layout.role == Role::Redirector) {
            init.arg("--ns").arg(format!("{}={}", self.name(host), self.layout(host).v4));
        }
        finish(init, "init")?;
        let invite = |host: usize| {
            let member = &self.members[host];
            let region = &topology.regions[topology.hosts[host].region];
            let mut invite = self.program.command(None);
            invite.args(["invite", "--name", &member.name, "--region", &region.name]);
            invite.args(["--role", member.layout.role.as_str(), "--expires", "1h"]);
            invite.arg(format!("--at={}", region.place));
            invite.args(["--address", &member.layout.peer().to_string()]);
            invite.arg("--authority").arg(&self.program.authority);
            let token = finish(invite, &format!("invite {}", member.name))?;
            Ok((host, token.trim().to_owned()))
        };
        self.all().map(invite).collect()
    }

    /// Makes the host a member.
    pub(super) fn join(&self, host: usize, token: &str, namespaces: Namespaces<'_>) -> anyhow::Result<()> {
        let member = &self.members[host];
        fs::write(
            member.layout.config_file(),
            member.layout.config(&self.program.geoip, self.program.probe_resolvers)?,
        )?;
        if member.layout.role == Role::HomeAgent {
            File::create(member.layout.announcements())?;
        }
        let mut join = self.program.command(namespaces.of(host));
        join.arg("join").arg("--data-dir").arg(&member.layout.data_dir).arg(token);
        finish(join, &format!("join on {}", member.name)).map(drop)
    }

    /// Makes all these hosts members, at the same time.
    pub(super) fn join_all(
        &self,
        tokens: &BTreeMap<usize, String>,
        namespaces: Namespaces<'_>,
    ) -> anyhow::Result<()> {
        // More at once than a machine has cores, as joining waits for the network; not all of 500.
        const AT_ONCE: usize = 16;
        let tokens: Vec<_> = tokens.iter().collect();
        for some in tokens.chunks(AT_ONCE) {
            std::thread::scope(|scope| {
                let joins: Vec<_> = some
                    .iter()
                    .map(|(host, token)| scope.spawn(move || self.join(**host, token, namespaces)))
                    .collect();
                let results = joins
                    .into_iter()
                    .map(|join| join.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)));
                results.collect::<anyhow::Result<Vec<()>>>()
            })?;
        }
        Ok(())
    }

    /// Starts the host's daemon. Must be called on the thread that lasts.
    pub(super) fn start(&mut self, host: usize, namespaces: Namespaces<'_>) -> anyhow::Result<()> {
        let program = &self.program;
        let member = &mut self.members[host];
        if member.process.is_some() {
            bail!("{} is running already", member.name);
        }
        let log = OpenOptions::new().create(true).append(true).open(member.layout.log())?;
        let mut run = program.command(namespaces.of(host));
        run.arg("run").arg("--data-dir").arg(&member.layout.data_dir);
        run.arg("--config").arg(member.layout.config_file());
        run.stdout(log.try_clone()?).stderr(log);
        let child = run.spawn().with_context(|| format!("cannot start godwit on {}", member.name))?;
        (member.process, member.ended) = (Some(child), None);
        Ok(())
    }

    /// Ends the host's daemon at once.
    pub(super) fn kill(&mut self, host: usize) -> anyhow::Result<()> {
        let mut child = self.take(host)?;
        child.kill()?;
        child.wait()?;
        Ok(())
    }

    /// Asks the host's daemon to end, and waits.
    pub(super) fn stop(&mut self, host: usize) -> anyhow::Result<()> {
        let mut child = self.take(host)?;
        process::send_signal(child.id(), Signal::Terminate)?;
        if !wait_until(&mut child, Instant::now() + STOP_WAIT_MAX)? {
            child.kill()?;
            child.wait()?;
            bail!("{} did not end within {} s and was killed", self.name(host), STOP_WAIT_MAX.as_secs());
        }
        Ok(())
    }

    /// Ends all.
    pub(super) fn end_all(&mut self) {
        let until = Instant::now() + END_WAIT_MAX;
        let mut children: Vec<Child> =
            self.members.iter_mut().filter_map(|member| member.process.take()).collect();
        for child in &children {
            let _ = process::send_signal(child.id(), Signal::Terminate);
        }
        for child in &mut children {
            if !wait_until(child, until).unwrap_or(false) {
                let _ = child.kill();
                let _ = child.wait();
            }
        }
    }

    /// Looks which processes have ended.
    pub(super) fn look(&mut self) {
        for member in &mut self.members {
            let ended = member.process.as_mut().and_then(|child| child.try_wait().ok().flatten());
            if let Some(status) = ended {
                member.process = None;
                member.ended = Some(match last_lines(&member.layout.log()) {
                    lines if lines.is_empty() => status.to_string(),
                    lines => format!("{status}\n{lines}"),
                });
            }
        }
    }

    /// The process of the host, and why it has none.
    pub(super) fn process(&self, host: usize) -> (Option<u32>, Option<String>) {
        let member = &self.members[host];
        (member.process.as_ref().map(Child::id), member.ended.clone())
    }

    /// The first member that ended by itself, and why.
    pub(super) fn first_that_ended(&mut self) -> Option<(String, String)> {
        self.look();
        self.members.iter().find_map(|member| Some((member.name.clone(), member.ended.clone()?)))
    }

    fn take(&mut self, host: usize) -> anyhow::Result<Child> {
        let member = &mut self.members[host];
        member.process.take().with_context(|| format!("{} is not running", member.name))
    }
}

/// Runs a command to its end; answers what it printed.
fn finish(mut command: Command, what: &str) -> anyhow::Result<String> {
    let output = command.output().with_context(|| format!("cannot run godwit {what}"))?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        bail!("`godwit {what}` ended with {}: {}", output.status, said.trim());
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// Whether the process ended in time.
fn wait_until(child: &mut Child, until: Instant) -> io::Result<bool> {
    while child.try_wait()?.is_none() {
        if Instant::now() > until {
            return Ok(false);
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    Ok(true)
}

/// The end of a log: what a daemon said last is mostly why it ended.
fn last_lines(path: &Path) -> String {
    use std::io::{Read, Seek, SeekFrom};
    let read = || -> io::Result<String> {
        let mut file = File::open(path)?;
        let len = file.metadata()?.len();
        file.seek(SeekFrom::Start(len.saturating_sub(4096)))?;
        let mut bytes = Vec::new();
        file.read_to_end(&mut bytes)?;
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    };
    let text = read().unwrap_or_default();
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(5)..].join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn configuration_of_a_node_and_a_redirector() {
        let mut layout = Layout {
            v4: "198.18.0.1".parse().unwrap(),
            v6: Some("fd67:7764:1000::1".parse().unwrap()),
            data_dir: "/tmp/t/hosts/a-1".into(),
            role: Role::Node,
            loopback: false,
        };
        let geoip = Path::new("/tmp/t/geoip.mmdb");
        assert_eq!(
            layout.config(geoip, false).unwrap(),
            "[overlay]\nlisten = [\"0.0.0.0:4100\",\"[::]:4100\"]\n\n\
             [map]\ngeoip = \"/tmp/t/geoip.mmdb\"\nexplore_permille = 0\n\n\
             [http]\nlisten = [\"0.0.0.0:80\",\"[::]:80\"]\n"
        );
        layout.role = Role::HomeAgent;
        assert!(layout.config(geoip, false).unwrap().ends_with(
            "[home_agent]\nlisten = [\"0.0.0.0:4191\",\"[::]:4191\"]\n\n\
             [home_agent.announce]\nexabgp = \"/tmp/t/hosts/a-1.announced\"\n"
        ));
        (layout.role, layout.loopback, layout.v6) = (Role::Redirector, true, None);
        let text = layout.config(geoip, false).unwrap();
        assert!(text.starts_with("[node]\npublic_v4 = \"198.18.0.1\"\n\n[overlay]"), "{text}");
        assert!(text.ends_with("[redirector]\nlisten = [\"198.18.0.1:5300\"]\n"));
        assert_eq!(layout.log(), Path::new("/tmp/t/hosts/a-1.log"));
    }
}
