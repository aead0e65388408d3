//! The clients of the demo: probes that run inside the client hosts, all at the same time.

use crate::probe::{Look, Request, Sight, Task, Visits};
use crate::state::{HostState, State};
use crate::topology::Role;
use anyhow::{Context, bail};
use godwit_net::process::{self, Birth};
use serde::{Deserialize, Serialize};
use std::io::{BufRead, BufReader, Read};
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};

/// What one client saw.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Seen<T> {
    /// The client's region.
    pub(crate) region: String,
    /// What it saw.
    #[serde(flatten)]
    pub(crate) what: T,
}

/// One client host of each region.
pub(crate) struct Clients<'a> {
    state: &'a State,
    name: String,
    hosts: Vec<&'a HostState>,
}

impl<'a> Clients<'a> {
    pub(crate) fn new(state: &'a State, site: &str) -> Clients<'a> {
        let client = |region: &String| {
            state.hosts.iter().find(|host| host.region == *region && host.role == Role::Client)
        };
        let hosts = state.regions.iter().filter_map(client).collect();
        Clients { state, name: format!("{site}.{}", state.zone), hosts }
    }

    /// What every client sees now.
    pub(crate) fn look_all(&self) -> anyhow::Result<Vec<Seen<Look>>> {
        let nodes = self.state.hosts.iter().filter(|host| host.role == Role::Node);
        let nodes = nodes.map(|host| Ok((host.name.clone(), host.addr4.parse()?)));
        let nodes: Vec<(String, IpAddr)> = nodes.collect::<anyhow::Result<_>>()?;
        self.all(&Task::Look { nodes })?.into_iter().map(Running::finish).collect()
    }

    /// Lets every client visit the site for so long.
    pub(crate) fn visit_all(&self, seconds: f64) -> anyhow::Result<Vec<Running>> {
        self.all(&Task::Visit { seconds })
    }

    /// Watches what the client in `region` gets.
    pub(crate) fn watch(&self, region: &str, seconds: f64) -> anyhow::Result<Watch> {
        let mut running = self.start_in(region, Task::Watch { seconds })?;
        let stdout = running.child.0.stdout.take().context("a probe without output")?;
        let (sender, sights) = channel();
        std::thread::spawn(move || {
            for line in BufReader::new(stdout).lines().map_while(Result::ok) {
                let Ok(sight) = serde_json::from_str(&line) else { return };
                if sender.send(sight).is_err() {
                    return;
                }
            }
        });
        Ok(Watch { sights, _running: running })
    }

    /// Gives the client in `region` something to do.
    pub(crate) fn start_in(&self, region: &str, task: Task) -> anyhow::Result<Running> {
        let host =
            self.hosts.iter().find(|host| host.region == region).context("the region has no client")?;
        self.start(host, task)
    }

    fn all(&self, task: &Task) -> anyhow::Result<Vec<Running>> {
        self.hosts.iter().map(|host| self.start(host, task.clone())).collect()
    }

    /// Gives a host something to do, whether it is a client or not.
    pub(crate) fn start(&self, host: &HostState, task: Task) -> anyhow::Result<Running> {
        let request = Request {
            task,
            source: host.addr4.parse()?,
            servers: self.servers(&host.region)?,
            name: self.name.clone(),
            port: self.port()?,
        };
        let this = std::env::current_exe()?;
        let mut command = Command::new(&this);
        command.args(["testbed", "--dir"]).arg(&self.state.dir).args(["exec", &host.name, "--"]);
        command.arg(&this).args(["testbed", "probe"]).arg(serde_json::to_string(&request)?);
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        process::prepare(&mut command, &Birth { dies_with_parent: true, ..Birth::default() });
        let child = command.spawn().context("cannot start a client")?;
        Ok(Running { region: host.region.clone(), child: Ending(child) })
    }

    fn servers(&self, region: &str) -> anyhow::Result<Vec<SocketAddr>> {
        let redirectors = self.state.hosts.iter().filter(|host| host.role == Role::Redirector);
        let mut servers = redirectors
            .map(|host| {
                let rtt = self.state.rtt_ms(region, &host.region).unwrap_or(f64::MAX);
                Ok((rtt, host.dns.as_ref().context("a redirector without DNS")?.parse()?))
            })
            .collect::<anyhow::Result<Vec<(f64, SocketAddr)>>>()?;
        servers.sort_by(|a, b| a.0.total_cmp(&b.0));
        Ok(servers.into_iter().map(|(_, server)| server).collect())
    }

    fn port(&self) -> anyhow::Result<u16> {
        let node = self.state.hosts.iter().find_map(|host| host.http.as_ref()).context("there is no node")?;
        Ok(node.parse::<SocketAddr>()?.port())
    }
}

/// A probe that runs.
pub(crate) struct Running {
    region: String,
    child: Ending,
}

/// A process that ends with its owner.
struct Ending(Child);

impl Drop for Ending {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Running {
    /// Waits for what it prints.
    pub(crate) fn finish<T: for<'de> Deserialize<'de>>(mut self) -> anyhow::Result<Seen<T>> {
        let (mut text, mut said) = (String::new(), String::new());
        if let Some(mut stdout) = self.child.0.stdout.take() {
            stdout.read_to_string(&mut text)?;
        }
        if let Some(mut stderr) = self.child.0.stderr.take() {
            stderr.read_to_string(&mut said)?;
        }
        let status = self.child.0.wait()?;
        if !status.success() {
            bail!("the client in {} failed: {}", self.region, said.trim());
        }
        let what = serde_json::from_str(&text).context("a client printed something else than JSON")?;
        Ok(Seen { region: self.region.clone(), what })
    }
}

/// A client that looks again and again.
pub(crate) struct Watch {
    pub(crate) sights: Receiver<Sight>,
    _running: Running,
}

/// What visiting clients saw.
pub(crate) fn finish_visits(running: Vec<Running>) -> anyhow::Result<Vec<Seen<Visits>>> {
    running.into_iter().map(Running::finish).collect()
}

/// This executable, as a person would start it for another job.
pub(crate) fn godwit(arguments: &[&str]) -> anyhow::Result<Command> {
    let this: PathBuf = std::env::current_exe()?;
    let mut command = Command::new(this);
    command.args(arguments).stdin(Stdio::null());
    process::prepare(&mut command, &Birth { dies_with_parent: true, ..Birth::default() });
    Ok(command)
}
