//! The person's side of `up`, `status` and `down`: starts a launcher, waits, prints.

use crate::control::{self, Request};
use crate::launcher::janitor;
use crate::options::{PortKind, UpOptions};
use crate::state::{Phase, RunDir, State};
use crate::topology::Topology;
use anyhow::{Context, bail};
use godwit_net::process::{self, Birth, EndSignals, Signal};
use std::fs::File;
use std::io::{IsTerminal, Write};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// What a launcher takes to end when nothing is wrong, several times over.
const DOWN_WAIT_MAX: Duration = Duration::from_secs(20);

const LOOK_INTERVAL: Duration = Duration::from_millis(20);

/// How long a testbed lives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Life {
    /// Until `down`.
    Detached,
    /// As long as this process.
    Attached,
}

/// Starts a testbed and waits until it is ready, or until a signal says to give up. The child is
/// its launcher.
pub(crate) fn start(
    options: &UpOptions,
    dir: &RunDir,
    life: Life,
    signals: &EndSignals,
) -> anyhow::Result<(State, Child)> {
    // Mistakes show here, before anything is made.
    let mut options = options.clone();
    if let Some(matrix) = &options.matrix {
        options.matrix = Some(std::path::absolute(matrix)?);
    }
    let topology = Topology::build(&options)?;
    let longest = topology.hosts.iter().map(|host| host.name.len()).max().unwrap_or(0);
    dir.create(longest)?;
    std::fs::write(dir.file("options.json"), serde_json::to_vec_pretty(&options)?)?;
    let log = File::create(dir.file("launcher.log"))?;
    let mut command = Command::new(std::env::current_exe()?);
    command.args(["testbed", "launcher"]).arg(dir.path());
    command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log).current_dir("/");
    let dies_with_parent = life == Life::Attached;
    process::prepare(&mut command, &Birth { own_session: true, dies_with_parent, ..Birth::default() });
    let mut launcher = command.spawn().context("cannot start the launcher")?;
    match wait_ready(dir, &mut launcher, signals) {
        Ok(state) => Ok((state, launcher)),
        Err(error) => {
            let _ = process::send_signal(launcher.id(), Signal::Terminate);
            let _ = launcher.wait();
            wait_gone(dir)?;
            Err(error)
        }
    }
}

fn wait_ready(dir: &RunDir, launcher: &mut Child, signals: &EndSignals) -> anyhow::Result<State> {
    let mut progress = Progress::new();
    loop {
        if signals.has_come() {
            bail!("interrupted; nothing is left");
        }
        if let Some(status) = launcher.try_wait()? {
            let log = std::fs::read_to_string(dir.file("launcher.log")).unwrap_or_default();
            bail!("the launcher ended ({status}): {}", log.trim());
        }
        if let Ok(state) = control::state(dir) {
            match &state.phase {
                Phase::Starting(what) => progress.show(what),
                Phase::Ready => return Ok(state),
                Phase::Failed(why) => bail!("the testbed did not come up: {why}"),
                Phase::Ending => bail!("the testbed was told to end"),
            }
        }
        std::thread::sleep(LOOK_INTERVAL);
    }
}

/// One line that tells what is being done, on a terminal; it is gone afterwards.
struct Progress {
    shown: String,
    terminal: bool,
}

impl Progress {
    fn new() -> Progress {
        Progress { shown: String::new(), terminal: std::io::stderr().is_terminal() }
    }

    fn show(&mut self, what: &str) {
        if self.terminal && self.shown != what {
            let mut stderr = std::io::stderr();
            // A terminal that cannot be written to has nobody who misses this.
            let _ = write!(stderr, "\r\x1b[K{what} …");
            let _ = stderr.flush();
            what.clone_into(&mut self.shown);
        }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        if !self.shown.is_empty() {
            eprint!("\r\x1b[K");
        }
    }
}

/// `up` as a person types it.
pub(crate) fn up(options: &UpOptions, dir: &RunDir, json: bool, foreground: bool) -> anyhow::Result<()> {
    let signals = EndSignals::take_over()?;
    if !foreground {
        let (state, _launcher) = start(options, dir, Life::Detached, &signals)?;
        return print(&state, json);
    }
    let (state, mut launcher) = start(options, dir, Life::Attached, &signals)?;
    print(&state, json)?;
    eprintln!("Ctrl-C takes it down.");
    signals.wait()?;
    process::send_signal(launcher.id(), Signal::Terminate)?;
    launcher.wait()?;
    wait_gone(dir)
}

/// `status` as a person types it.
pub(crate) fn status(dir: &RunDir, json: bool) -> anyhow::Result<()> {
    if !dir.is_running() && dir.path().exists() {
        bail!(
            "the testbed in {} died; `godwit testbed down` tidies up, `up` starts a new one",
            dir.path().display()
        );
    }
    print(&control::state(dir)?, json)
}

/// Ends a testbed, also one that died, and waits until nothing is left.
pub(crate) fn down(dir: &RunDir) -> anyhow::Result<()> {
    if !dir.path().exists() {
        bail!("no testbed runs in {}", dir.path().display());
    }
    if !dir.is_running() {
        return janitor::tidy(dir);
    }
    if control::ask(dir, &Request::Down).is_err() {
        // It runs and does not answer: the lock says that the process is what it was.
        process::send_signal(dir.read_state()?.launcher, Signal::Kill)?;
    }
    wait_gone(dir)
}

fn wait_gone(dir: &RunDir) -> anyhow::Result<()> {
    let until = Instant::now() + DOWN_WAIT_MAX;
    while dir.path().exists() {
        if Instant::now() > until {
            // The janitor was killed too.
            return janitor::tidy(dir);
        }
        std::thread::sleep(LOOK_INTERVAL);
    }
    Ok(())
}

fn print(state: &State, json: bool) -> anyhow::Result<()> {
    let text = if json { serde_json::to_string_pretty(state)? } else { describe(state) };
    // A pipe that is closed early is not a failure of the testbed.
    let _ = writeln!(std::io::stdout(), "{}", text.trim_end());
    Ok(())
}

/// The testbed for people.
pub(crate) fn describe(state: &State) -> String {
    let width = |what: fn(&crate::state::HostState) -> usize, least: usize| {
        state.hosts.iter().map(what).max().unwrap_or(0).max(least)
    };
    let (name, region) = (width(|host| host.name.len(), 4), width(|host| host.region.len(), 6));
    let mut text = format!(
        "{:name$}  {:10}  {:region$}  {:>8}  {:14}  {}\n",
        "HOST", "ROLE", "REGION", "PID", "IPV4", "IPV6"
    );
    for host in &state.hosts {
        let pid = match (host.pid, &host.ended) {
            (Some(pid), _) => pid.to_string(),
            (None, Some(_)) => "died".into(),
            (None, None) => "-".into(),
        };
        let v6 = host.addr6.as_deref().unwrap_or("-");
        text.push_str(&format!(
            "{:name$}  {:10}  {:region$}  {pid:>8}  {:14}  {v6}\n",
            host.name,
            host.role.as_str(),
            host.region,
            host.addr4
        ));
    }
    text.push_str(&format!("\nzone {} · directory {} · {}\n", state.zone, state.dir.display(), mode(state)));
    if let Some(fabric) = &state.fabric {
        let trust = match (fabric.valid, fabric.delivered) {
            (_, 0) => "nothing carried yet",
            (true, _) => "delays are kept",
            (false, _) => "DELAYS ARE NOT KEPT: this machine is too busy to measure anything",
        };
        text.push_str(&format!(
            "fabric: {} packets, {:.1} MB; lost {}, cut {}, queue full {}, own fault {}; late p50 {} µs, p99 {} µs: {trust}\n",
            fabric.delivered,
            fabric.delivered_bytes as f64 / 1e6,
            fabric.lost,
            fabric.cut,
            fabric.queue_full,
            fabric.overflow,
            fabric.late_p50_us,
            fabric.late_p99_us,
        ));
    }
    for warning in &state.warnings {
        text.push_str(&format!("warning: {warning}\n"));
    }
    text
}

fn mode(state: &State) -> &'static str {
    match state.mode {
        PortKind::Auto | PortKind::Tun => "namespaces joined by TUN ports",
        PortKind::Packet => "namespaces joined by veth pairs",
        PortKind::Loopback => "LOOPBACK ONLY: no namespaces, no delays, no network faults",
    }
}
