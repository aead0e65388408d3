//! The janitor: removes what a launcher leaves when it ends, even by SIGKILL.
//!
//! It holds the reading end of a pipe whose other end only the launcher has. When the pipe ends, so
//! has the launcher, and the kernel has already taken away members and interfaces. What remains
//! are commands that a person started with `exec` in a host, and files.

use crate::state::RunDir;
use anyhow::Context;
use godwit_net::process::{self, Birth, Signal};
use std::collections::BTreeSet;
use std::io::Read;
use std::path::Path;
use std::process::{ChildStdin, Command, Stdio};
use std::time::{Duration, Instant};

/// Killed processes are gone in milliseconds, unless the kernel is stuck in one.
const KILL_WAIT_MAX: Duration = Duration::from_secs(10);

/// Starts a janitor for the directory; it goes to work when the answer is dropped.
pub(super) fn spawn(dir: &RunDir) -> anyhow::Result<ChildStdin> {
    let mut command = Command::new(std::env::current_exe()?);
    command.args(["testbed", "janitor"]).arg(dir.path());
    // Out of the directory's way, and without a descriptor that someone may wait for.
    command.current_dir("/").stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null());
    process::prepare(&mut command, &Birth { own_session: true, ..Birth::default() });
    let mut child = command.spawn().context("cannot start the janitor")?;
    child.stdin.take().context("the janitor has no standard input")
}

/// Waits for the launcher's end and tidies up.
pub(crate) fn run(dir: &Path) -> anyhow::Result<()> {
    let dir = RunDir::new(Some(dir))?;
    let mut nothing = [0; 1];
    while !matches!(std::io::stdin().read(&mut nothing), Ok(0) | Err(_)) {}
    tidy(&dir)
}

/// Kills what runs in the testbed's namespaces, and removes its directory.
pub(crate) fn tidy(dir: &RunDir) -> anyhow::Result<()> {
    let text = std::fs::read_to_string(dir.file("namespaces")).unwrap_or_default();
    let namespaces: BTreeSet<String> = text.lines().map(|inode| format!("net:[{inode}]")).collect();
    let until = Instant::now() + KILL_WAIT_MAX;
    while !namespaces.is_empty() && Instant::now() < until {
        let inside = processes_in(&namespaces);
        if inside.is_empty() {
            break;
        }
        for pid in inside {
            let _ = process::send_signal(pid, Signal::Kill);
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    // A dying process may still have written a file between two looks.
    let mut result = dir.remove();
    for _ in 0..50 {
        if result.is_ok() {
            break;
        }
        std::thread::sleep(Duration::from_millis(20));
        result = dir.remove();
    }
    result
}

fn processes_in(namespaces: &BTreeSet<String>) -> Vec<u32> {
    let entries = std::fs::read_dir("/proc").into_iter().flatten().flatten();
    let pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    pids.filter(|pid| {
        let link = std::fs::read_link(format!("/proc/{pid}/ns/net")).ok();
        link.and_then(|link| link.to_str().map(|link| namespaces.contains(link))).unwrap_or(false)
    })
    .collect()
}
