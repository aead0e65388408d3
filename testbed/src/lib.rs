//! A network of regions on one machine: WAN fabric, launcher, fault control.
//!
//! `godwit testbed up` makes hosts out of network namespaces, joins them by a *fabric* that carries
//! packets between them with the delays of a real wide-area network, and runs one real `godwit`
//! process in each. Nothing inside a host is simulated.
//!
//! ```text
//!  godwit testbed up ──spawns──▶ launcher ──┬── fabric thread ── a port into each host
//!  godwit testbed cut ──control socket──▶   ├── godwit run (eu-frankfurt-1)
//!  godwit testbed exec ──enters──▶ a host   ├── godwit run (us-ashburn-1) ...
//!                                           └── janitor: tidies when the launcher is gone
//! ```
//!
//! For the caller: [`up`], [`launcher_main`], [`exec`] and [`demo()`] enter namespaces, which the
//! kernel only lets a process with a single thread do. Call everything in this crate from a plain
//! `main`, before any runtime is made.
//!
//! Hidden subcommands that the binary must offer, since the testbed starts its own executable:
//! `testbed launcher DIR` ([`launcher_main`]), `testbed janitor DIR` ([`janitor_main`]) and
//! `testbed probe JSON` ([`probe_main`]).
#![cfg_attr(test, allow(clippy::unwrap_used, reason = "a test may panic"))]

pub mod address;
pub mod control;
pub mod demo;
pub mod dns;
mod exec;
pub mod fabric;
pub mod geoip;
pub mod http;
mod launcher;
mod options;
pub mod probe;
pub mod state;
pub mod topology;
mod up;

pub use options::{BadOption, Degrade, Fault, HOSTS_PER_REGION_MAX, PortKind, REGION_COUNT_MAX, UpOptions};

use state::RunDir;
use std::ffi::OsString;
use std::path::{Path, PathBuf};

/// The exit code of a command, when it is not an error.
pub type ExitCode = u8;

/// `godwit testbed up`: starts a testbed in `dir` (default [`default_dir`]) and returns when all
/// hosts answer. Prints a table, or with `json` one object. With `foreground` it stays until
/// Ctrl-C and then takes the testbed down.
pub fn up(options: &UpOptions, dir: Option<&Path>, json: bool, foreground: bool) -> anyhow::Result<()> {
    options.check()?;
    up::up(options, &RunDir::new(dir)?, json, foreground)
}

/// The hidden `godwit testbed launcher DIR`: holds the hosts of the testbed in `dir` until it is
/// told to end. Must run before the process has a second thread.
pub fn launcher_main(dir: &Path) -> anyhow::Result<()> {
    launcher::run(dir)
}

/// The hidden `godwit testbed janitor DIR`: waits until its standard input ends, which it does with
/// the launcher, and then removes what the testbed left.
pub fn janitor_main(dir: &Path) -> anyhow::Result<()> {
    launcher::janitor::run(dir)
}

/// The hidden `godwit testbed probe JSON`: one client's look at a site; prints JSON.
pub fn probe_main(request: &str) -> anyhow::Result<()> {
    probe::run(request)
}

/// `godwit testbed status`: prints the hosts and how exactly the fabric keeps its delays.
pub fn status(dir: Option<&Path>, json: bool) -> anyhow::Result<()> {
    up::status(&RunDir::new(dir)?, json)
}

/// `godwit testbed exec HOST -- COMMAND...`: becomes `command`, inside the host. Returns only when
/// that fails; the exit code is then the command's own.
pub fn exec(dir: Option<&Path>, host: &str, command: &[OsString]) -> anyhow::Result<()> {
    exec::run(&RunDir::new(dir)?, host, command)
}

/// `godwit testbed kill|stop|start|cut|heal|degrade`: returns what was done, in words.
pub fn fault(dir: Option<&Path>, fault: &Fault) -> anyhow::Result<String> {
    if let Fault::Degrade { how, .. } = fault {
        how.check()?;
    }
    match control::ask(&RunDir::new(dir)?, &control::Request::Fault(fault.clone()))? {
        control::Answer::Done(done) => Ok(done),
        other => anyhow::bail!("the launcher gave an unexpected answer: {other:?}"),
    }
}

/// `godwit testbed down`: ends the testbed and waits until nothing of it is left. Also tidies up
/// after one that died.
pub fn down(dir: Option<&Path>) -> anyhow::Result<()> {
    up::down(&RunDir::new(dir)?)
}

/// `godwit testbed demo`: the whole story in under a minute. Exit code 1 when a promise was broken.
pub fn demo(options: &UpOptions, dir: Option<&Path>, json: bool) -> anyhow::Result<ExitCode> {
    options.check()?;
    let held = demo::run(options, &RunDir::new(dir)?, json)?;
    Ok(u8::from(!held))
}

/// Where a user's testbed is when `--dir` names no other place: `godwit-testbed-<uid>` among the
/// temporary files.
pub fn default_dir() -> PathBuf {
    use std::os::unix::fs::MetadataExt;
    let uid = std::fs::metadata("/proc/self").map_or(0, |own| own.uid());
    std::env::temp_dir().join(format!("godwit-testbed-{uid}"))
}
