//! The network in which services move: what is published and granted, who serves, and where it is now.

use super::client::PATIENCE;
use super::course::octets;
use super::stream::ECHO_PORT;
use crate::bed::{Bed, Host, Watcher, json};
use anyhow::{Context, Result, bail, ensure};
use serde::Deserialize;
use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::process::{Child, ChildStdout, Stdio};
use std::time::{Duration, Instant};

/// A home address of the testbed by name: its number there.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Name(&'static str, u8);

/// The node's sites, a program that returns datagrams, and one that takes uploads.
pub(crate) const SITE: Name = Name("cdn", 1);
pub(crate) const STREAM: Name = Name("stream", 2);
pub(crate) const UPLOADS: Name = Name("uploads", 3);
/// Where uploads are taken.
pub(crate) const UPLOAD_PORT: u16 = 7701;

impl Name {
    /// Its addresses.
    pub(crate) fn homes(self) -> [IpAddr; 2] {
        let v6 = Ipv6Addr::new(0xfd67, 0x7764, 0x3000, 0, 0, 0, 0, self.1.into());
        [Ipv4Addr::new(198, 18, 255, self.1).into(), v6.into()]
    }

    /// What is transferred there.
    pub(crate) fn transfer(self) -> &'static str {
        if self == UPLOADS { "upload" } else { "download" }
    }
}

/// Home agents give a flow that began under a choice of nodes that lasted for less than two seconds no second
/// chance when the choice changes: while nodes come one after the other nothing is begun.
const SETTLE: Duration = Duration::from_secs(4);

/// What `godwit move` told.
#[derive(Clone, Debug, Deserialize)]
pub(crate) struct Told {
    #[serde(rename = "connections_moved")]
    pub(crate) connections: u64,
    #[serde(rename = "connections_drained")]
    pub(crate) drained: u64,
    pub(crate) gap_ms: f64,
    /// How many stayed for which reason.
    pub(crate) kept: BTreeMap<String, usize>,
}

/// Of what `godwit status` tells of a node.
#[derive(Deserialize)]
struct Bindings {
    home_bindings: Vec<Binding>,
}

#[derive(Deserialize)]
struct Binding {
    home: IpAddr,
    state: String,
    draining: bool,
}

/// See the module.
pub(crate) struct Stage<'a> {
    bed: &'a Bed<'a>,
    nodes: Vec<Host>,
    client: Host,
    host: String,
    /// Which node each name is at.
    at: BTreeMap<Name, usize>,
    /// The client's own.
    first: usize,
    programs: Vec<Watcher>,
}

impl<'a> Stage<'a> {
    /// Publishes, grants the addresses, and serves on all nodes what the daemon serves.
    pub(crate) fn set(bed: &'a Bed<'a>, len: u64, rate: f64) -> Result<Stage<'a>> {
        let (nodes, clients) = (bed.hosts("node"), bed.hosts("client"));
        let client = clients.first().context("no client")?.clone();
        let first = nodes.iter().position(|node| node.region == client.region).unwrap_or(0);
        let host = format!("www.{}", bed.zone());
        let mut stage = Stage { bed, nodes, client, host, at: BTreeMap::new(), first, programs: Vec::new() };
        stage.publish(len)?;
        stage.grant(SITE, &[])?;
        stage.grant(STREAM, &[])?;
        for number in 0..stage.nodes.len() {
            let mut echo = bed.figures_in(&stage.nodes[number].name, &["return-datagrams"]);
            stage.programs.push(Watcher(echo.stdin(Stdio::null()).spawn()?));
            stage.serve(number, SITE)?;
            stage.serve(number, STREAM)?;
        }
        stage.wait_for_site()?;
        std::thread::sleep(SETTLE);
        // Only now, so that publishing need not take as long as everything that is measured.
        bed.verb(&["degrade", &stage.client.name, "--rate", &rate.to_string()])?;
        Ok(stage)
    }

    /// The site's whole name.
    pub(crate) fn host(&self) -> &str {
        &self.host
    }

    fn publish(&self, len: u64) -> Result<()> {
        let content = self.bed.scratch().join("moves-tree");
        std::fs::create_dir_all(&content)?;
        std::fs::write(content.join("index.html"), "<h1>moves</h1>")?;
        std::fs::write(content.join("large"), octets(0, len))?;
        json(self.bed.publish(&self.nodes[0], &content, "www").args(["--wait", "all"])).map(drop)
    }

    fn grant(&self, name: Name, ports: &[&str]) -> Result<()> {
        let node = &self.nodes[0];
        let [v4, v6] = name.homes().map(|home| home.to_string());
        let mut add = self.bed.godwit_in(&node.name);
        add.args(["address", "add", name.0, "--address", &v4, "--address", &v6]).args(ports);
        add.args(["--json", "--authority"]).arg(self.bed.authority()).arg("--data-dir").arg(&node.data_dir);
        json(&mut add).map(drop)
    }

    fn serve(&self, node: usize, name: Name) -> Result<()> {
        let node = &self.nodes[node];
        let mut serve = self.bed.godwit_in(&node.name);
        serve.args(["serve", name.0, "--json", "--data-dir"]).arg(&node.data_dir);
        if name == STREAM {
            serve.args(["--to", &format!("127.0.0.1:{ECHO_PORT}")]);
        }
        if name == UPLOADS {
            serve.arg("--local");
        }
        serve.stdin(Stdio::null());
        // A node that has not heard of the grant yet is asked again.
        let until = Instant::now() + PATIENCE;
        loop {
            let output = serve.output()?;
            if output.status.success() {
                return Ok(());
            }
            if Instant::now() > until {
                bail!("serve: {}", String::from_utf8_lossy(&output.stderr));
            }
            std::thread::sleep(Duration::from_millis(200));
        }
    }

    fn wait_for_site(&self) -> Result<()> {
        let home = SocketAddr::new(SITE.homes()[0], 80).to_string();
        let arguments = ["echo", "--to", &home, "--host", &self.host, "--seconds", "0.1"];
        self.until("the site answers at its home address", || {
            Ok(self.bed.figures_in(&self.client.name, &arguments).output()?.status.success())
        })
    }

    /// Nodes with a program in them take the places of the daemons.
    pub(crate) fn take_uploads(&mut self) -> Result<()> {
        self.grant(UPLOADS, &["--tcp", &UPLOAD_PORT.to_string()])?;
        let listen = UPLOADS.homes().map(|home| SocketAddr::new(home, UPLOAD_PORT).to_string());
        for number in 0..self.nodes.len() {
            let node = self.nodes[number].clone();
            self.bed.verb(&["kill", &node.name])?;
            let mut member = self.bed.figures_in(&node.name, &["member", "--data-dir"]);
            member.arg(&node.data_dir);
            for address in &listen {
                member.args(["--listen", address]);
            }
            let mut child = member.stdin(Stdio::null()).stdout(Stdio::piped()).spawn()?;
            let mut ready = String::new();
            BufReader::new(child.stdout.take().context("no output")?).read_line(&mut ready)?;
            self.programs.push(Watcher(child));
            ensure!(ready == "ready\n", "a node with a program in it did not start");
            self.serve(number, UPLOADS)?;
        }
        let home = SocketAddr::new(UPLOADS.homes()[0], UPLOAD_PORT).to_string();
        self.until("uploads are taken at their home address", || {
            let mut upload = self.bed.figures_in(&self.client.name, &["upload", "--to", &home]);
            Ok(upload.args(["--octets", "1000"]).output()?.status.success())
        })?;
        std::thread::sleep(SETTLE);
        Ok(())
    }

    fn until(&self, what: &str, mut done: impl FnMut() -> Result<bool>) -> Result<()> {
        let until = Instant::now() + PATIENCE;
        while !done()? {
            ensure!(Instant::now() < until, "waited in vain until {what}");
            std::thread::sleep(Duration::from_millis(200));
        }
        Ok(())
    }

    /// Starts a client.
    pub(crate) fn client(&self, what: &str, arguments: &[&str]) -> Result<Running> {
        let mut command = self.bed.figures_in(&self.client.name, &[what]);
        command.args(arguments).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.spawn()?;
        let output = BufReader::new(child.stdout.take().context("no output")?);
        Ok(Running { child, output })
    }

    /// Looks at which node the connections of a client that has just begun are.
    pub(crate) fn find(&mut self, name: Name) -> Result<()> {
        let port = if name == UPLOADS { UPLOAD_PORT } else { 80 };
        let until = Instant::now() + PATIENCE;
        loop {
            for number in 0..self.nodes.len() {
                if self.connected(number, name, port)? {
                    self.at.insert(name, number);
                    return Ok(());
                }
            }
            ensure!(Instant::now() < until, "no node has the client's connection");
        }
    }

    fn connected(&self, node: usize, name: Name, port: u16) -> Result<bool> {
        let mut list = self.bed.testbed(&["exec", &self.nodes[node].name, "--", "cat"]);
        let output = list.args(["/proc/net/tcp", "/proc/net/tcp6"]).output()?;
        // As the kernel writes them: words of four octets, in the order of this machine.
        let [v4, v6] = name.homes().map(|home| match home {
            IpAddr::V4(home) => format!("{:08X}", u32::from_ne_bytes(home.octets())),
            IpAddr::V6(home) => {
                let words = home
                    .octets()
                    .chunks(4)
                    .map(|word| u32::from_ne_bytes([word[0], word[1], word[2], word[3]]))
                    .collect::<Vec<_>>();
                words.iter().map(|word| format!("{word:08X}")).collect()
            }
        });
        let text = String::from_utf8(output.stdout)?;
        let is_here = |line: &str| {
            let mut fields = line.split_whitespace().skip(1);
            let (Some(local), Some(peer), Some(state)) = (fields.next(), fields.next(), fields.next()) else {
                return false;
            };
            let here = [&v4, &v6].into_iter().any(|home| local.ends_with(&format!("{home}:{port:04X}")));
            // The node itself looks whether the program answers.
            let itself = [&v4, &v6].into_iter().any(|home| peer.contains(home.as_str()));
            here && !itself && state == "01"
        };
        Ok(text.lines().any(is_here))
    }

    /// Moves a name to the next node.
    pub(crate) fn move_on(&mut self, name: Name) -> Result<Told> {
        let from = self.at.get(&name).copied().unwrap_or(self.first);
        let to = (from + 1) % self.nodes.len();
        let (giver, taker) = (&self.nodes[from], &self.nodes[to]);
        self.until("the next node is bound", || self.is_bound(taker, name))?;
        let mut moving = self.bed.godwit_in(&giver.name);
        moving.args(["move", name.0, "--to", &taker.name, "--json", "--data-dir"]).arg(&giver.data_dir);
        let output = moving.stdin(Stdio::null()).output()?;
        let told: Told = serde_json::from_slice(&output.stdout)
            .with_context(|| format!("move: {}", String::from_utf8_lossy(&output.stderr)))?;
        // It may come back.
        self.serve(from, name)?;
        // What stayed is moved from where it is the next time.
        if told.drained == 0 {
            self.at.insert(name, to);
        }
        Ok(told)
    }

    /// Whether packets to a name's addresses can be led to a node: it has served the name again for seconds only.
    fn is_bound(&self, node: &Host, name: Name) -> Result<bool> {
        let mut status = self.bed.godwit_in(&node.name);
        status.args(["status", "--json", "--data-dir"]).arg(&node.data_dir).stdin(Stdio::null());
        let status: Bindings = serde_json::from_slice(&status.output()?.stdout)?;
        let carries = |home: &IpAddr| {
            let up = |one: &Binding| one.home == *home && one.state == "up" && !one.draining;
            status.home_bindings.iter().any(up)
        };
        Ok(name.homes().iter().all(carries))
    }

    /// Connections of the client's that were reset.
    pub(crate) fn resets(&self) -> Result<i64> {
        let output =
            self.bed.testbed(&["exec", &self.client.name, "--", "cat", "/proc/net/snmp"]).output()?;
        let text = String::from_utf8(output.stdout)?;
        let mut lines = text.lines().filter_map(|line| line.strip_prefix("Tcp: "));
        let (names, values) = lines.next().zip(lines.next()).context("no counts of TCP")?;
        let mut counts = names.split(' ').zip(values.split(' '));
        let (_, resets) = counts.find(|(name, _)| *name == "EstabResets").context("no count of resets")?;
        Ok(resets.parse()?)
    }
}

/// A client that was started.
pub(crate) struct Running {
    child: Child,
    output: BufReader<ChildStdout>,
}

impl Running {
    /// Whether it is over.
    pub(crate) fn ended(&mut self) -> Result<bool> {
        Ok(self.child.try_wait()?.is_some())
    }

    /// Waits until it has said something.
    pub(crate) fn wait_for_line(&mut self) -> Result<()> {
        let mut line = String::new();
        ensure!(self.output.read_line(&mut line)? > 0, "a client ended early");
        Ok(())
    }

    /// Lets it go on.
    pub(crate) fn say_line(&mut self) -> Result<()> {
        Ok(self.child.stdin.take().context("no input")?.write_all(b"\n")?)
    }

    /// Waits for its end and reads what it saw.
    pub(crate) fn finish<T: for<'a> Deserialize<'a>>(mut self) -> Result<T> {
        let mut text = String::new();
        self.output.read_to_string(&mut text)?;
        self.child.wait()?;
        serde_json::from_str(&text).with_context(|| format!("a client printed no JSON object: {text:?}"))
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
