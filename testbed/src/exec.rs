//! Running an unmodified program inside a host.
//!
//! The process enters the host's network namespace, gets mounts of its own in which
//! `/etc/resolv.conf` names the testbed's redirectors, nearest first, and becomes the program: so
//! the terminal, signals and the exit code are the program's own. Everything else on the machine
//! looks as always to it.

use crate::options::PortKind;
use crate::state::{HostState, RunDir, State};
use crate::topology::Role;
use anyhow::{Context, bail};
use godwit_net::namespace::{self, NetworkNamespace};
use std::ffi::OsString;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;

const RESOLV_CONF: &str = "/etc/resolv.conf";

/// Sockets over which the C library asks the machine's own resolver or cache before it looks at
/// `resolv.conf`. Inside a host there is nobody behind them, and it goes on to `resolv.conf`.
const OTHER_RESOLVERS: [&str; 2] = ["/run/systemd/resolve/io.systemd.Resolve", "/run/nscd/socket"];

/// Enters the host; the process must have a single thread. Answers a command that runs there.
pub(crate) fn enter(dir: &RunDir, state: &State, host: &str) -> anyhow::Result<()> {
    let host = state.find(host)?;
    let Some(netns) = &host.netns else {
        if state.mode == PortKind::Loopback {
            eprintln!("note: this testbed has no namespaces; the program runs on this machine itself");
            return Ok(());
        }
        bail!("{} has no network yet", host.name);
    };
    let namespace = NetworkNamespace::open(Path::new(netns));
    let namespace =
        namespace.with_context(|| format!("cannot reach {}; does the testbed run?", host.name))?;
    if std::fs::read_link("/proc/self/ns/user")? != std::fs::read_link(user_namespace(state))? {
        namespace::enter_user_namespace(&user_namespace(state)).context("cannot enter the testbed")?;
    }
    namespace.enter().with_context(|| format!("cannot enter {}", host.name))?;
    let resolv = dir.file(&format!("hosts/{}.resolv.conf", host.name));
    std::fs::write(&resolv, resolv_conf(state, host)).context("cannot write the host's resolv.conf")?;
    let mut binds: Vec<(&Path, &Path)> = Vec::new();
    if Path::new(RESOLV_CONF).exists() {
        binds.push((&resolv, Path::new(RESOLV_CONF)));
    } else {
        eprintln!(
            "note: this machine has no {RESOLV_CONF}; names resolve only for programs that are told a server"
        );
    }
    let nothing = Path::new("/dev/null");
    let others = OTHER_RESOLVERS.map(Path::new).into_iter().filter(|path| path.exists());
    binds.extend(others.map(|path| (nothing, path)));
    namespace::with_own_mounts(&binds).context("cannot give the host its resolv.conf")
}

/// Becomes `command` inside the host. Returns only when that fails.
pub(crate) fn run(dir: &RunDir, host: &str, command: &[OsString]) -> anyhow::Result<()> {
    let state = crate::control::state(dir)?;
    let (program, arguments) = command.split_first().context("there is no command to run")?;
    enter(dir, &state, host)?;
    let error = Command::new(program).args(arguments).exec();
    Err(error).with_context(|| format!("cannot run {}", program.display()))
}

fn user_namespace(state: &State) -> PathBuf {
    format!("/proc/{}/ns/user", state.launcher).into()
}

fn resolv_conf(state: &State, host: &HostState) -> String {
    let mut redirectors: Vec<&HostState> =
        state.hosts.iter().filter(|host| host.role == Role::Redirector).collect();
    let distance = |other: &HostState| state.rtt_ms(&host.region, &other.region).unwrap_or(f64::MAX);
    redirectors.sort_by(|a, b| distance(a).total_cmp(&distance(b)));
    let mut text = format!("# the redirectors of a godwit testbed, nearest to {} first\n", host.region);
    // The C library looks at the first three.
    for redirector in redirectors.into_iter().take(3) {
        text.push_str(&format!("nameserver {}\n", redirector.addr4));
    }
    text.push_str("options timeout:1 attempts:3\n");
    text
}
