//! A testbed for one test, and what tests ask of it.

use godwit_testbed::control;
use godwit_testbed::state::{RunDir, State};
use godwit_testbed::{PortKind, UpOptions};
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

pub(crate) struct Bed {
    pub(crate) dir: PathBuf,
    pub(crate) state: State,
    _parent: tempfile::TempDir,
}

impl Bed {
    /// Brings a testbed up; `None`, loudly, where this machine cannot.
    pub(crate) fn up(test: &str, options: &UpOptions) -> Option<Bed> {
        let parent = tempfile::tempdir().unwrap();
        let dir = parent.path().join("t");
        if let Err(error) = godwit_testbed::up(options, Some(&dir), true, false) {
            let text = format!("{error:#}");
            assert!(text.contains("this machine") || text.contains("host's network"), "{text}");
            eprintln!("SKIPPED: {test}: {:?} ports cannot be made here, because {text}", options.ports);
            return None;
        }
        let state = control::state(&RunDir::new(Some(&dir)).unwrap()).unwrap();
        if options.ports == PortKind::Auto && state.mode == PortKind::Loopback {
            godwit_testbed::down(Some(&dir)).unwrap();
            eprintln!("SKIPPED: {test}: no namespaces here, because {:?}", state.warnings);
            return None;
        }
        Some(Bed { dir, state, _parent: parent })
    }

    /// This program inside a host.
    pub(crate) fn exec(&self, host: &str, command: &[&str]) -> Command {
        let mut exec = Command::new(std::env::current_exe().unwrap());
        exec.arg("testbed-exec").arg(&self.dir).arg(host).args(command);
        exec
    }

    /// What a command inside a host prints.
    pub(crate) fn output(&self, host: &str, command: &[&str]) -> String {
        let output = self.exec(host, command).output().unwrap();
        assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    }

    /// Round-trip times in µs from one host to an echo in another; fewer when some were lost.
    pub(crate) fn ping(&self, from: &str, to: &str, address: &str) -> Vec<u64> {
        let this = std::env::current_exe().unwrap();
        let this = this.to_str().unwrap();
        let mut echo = self.exec(to, &[this, "echo", address]).stdout(Stdio::piped()).spawn().unwrap();
        let mut ready = String::new();
        BufReader::new(echo.stdout.take().unwrap()).read_line(&mut ready).unwrap();
        assert_eq!(ready, "ready\n");
        let pings = self.output(from, &[this, "ping", address]);
        end(&mut echo);
        pings.lines().filter(|line| *line != "lost").map(|line| line.parse().unwrap()).collect()
    }

    pub(crate) fn now(&self) -> State {
        control::state(&RunDir::new(Some(&self.dir)).unwrap()).unwrap()
    }
}

impl Drop for Bed {
    fn drop(&mut self) {
        if self.dir.exists() {
            let _ = godwit_testbed::down(Some(&self.dir));
        }
    }
}

pub(crate) fn end(child: &mut Child) {
    child.kill().unwrap();
    child.wait().unwrap();
}

/// Waits until something is so.
pub(crate) fn wait_for(what: &str, mut is_so: impl FnMut() -> bool) {
    let until = Instant::now() + Duration::from_secs(30);
    while !is_so() {
        assert!(Instant::now() < until, "not within 30 s: {what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// The processes whose command line names `dir`.
pub(crate) fn processes_of(dir: &Path) -> Vec<u32> {
    let dir = dir.to_str().unwrap().as_bytes();
    let entries = std::fs::read_dir("/proc").unwrap().flatten();
    let pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    pids.filter(|pid| {
        let line = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        line.windows(dir.len()).any(|window| window == dir)
    })
    .collect()
}
