//! A redirector in a process of its own: this test binary again, told by a file what to do.
//!
//! What is about processes (descriptors that run out, sockets that are passed, memory) is tested on
//! one that is not the test's own.

use crate::{inputs, shared, view};
use godwit_redirector::{Config, Redirector, Succession};
use prometheus_client::registry::Registry;
use rustix::process::{Pid, Resource, Rlimit, Signal, kill_process, setrlimit};
use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::time::Duration;
use tokio::signal::unix::{SignalKind, signal};

const FILE: &str = "GODWIT_TEST_REDIRECTOR";
const DESCRIPTORS: &str = "GODWIT_TEST_DESCRIPTORS";
/// A start takes some tens of milliseconds; the machine may be busy.
const PATIENCE: Duration = Duration::from_secs(60);

#[test]
#[ignore = "is the process that other tests start; does nothing by itself"]
fn redirector_process() {
    let Ok(file) = std::env::var(FILE) else { return };
    if let Ok(count) = std::env::var(DESCRIPTORS) {
        let count = count.parse().unwrap();
        setrlimit(Resource::Nofile, Rlimit { current: Some(count), maximum: Some(count) }).unwrap();
    }
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    runtime.block_on(serve(&file));
    runtime.shutdown_background();
    // The harness must not say anything after it.
    std::process::exit(0);
}

async fn serve(file: &str) {
    let mut terminate = signal(SignalKind::terminate()).unwrap();
    let config: Config = toml::from_str(&std::fs::read_to_string(file).unwrap()).unwrap();
    let shared = shared(&inputs(3));
    let mut running = Redirector::start(config, view(&shared), &mut Registry::default()).await.unwrap();
    eprintln!("LISTENING {}", running.addresses()[0]);
    loop {
        tokio::select! {
            _ = terminate.recv() => break,
            succession = running.succession() => match succession {
                Succession::Wanted(let_go) => let_go.done(),
                Succession::Heir(_) => {}
                Succession::Done => break,
                Succession::Failed => panic!("the successor failed"),
            }
        }
    }
    running.shutdown().await;
}

/// A running redirector; killed when dropped.
pub(crate) struct Process {
    child: Child,
    pub(crate) address: SocketAddr,
}

impl Process {
    /// Starts one with the settings in `config`, and so many descriptors when that is told.
    pub(crate) fn start(config: &Path, descriptors: Option<u64>) -> Process {
        let mut command = Command::new(std::env::current_exe().unwrap());
        if let Some(count) = descriptors {
            command.env(DESCRIPTORS, count.to_string());
        }
        Process::run(command.args(Process::arguments()).env(FILE, config))
    }

    /// Starts one as a service manager would, with two sockets.
    pub(crate) fn start_with(config: &Path, udp: OwnedFd, tcp: OwnedFd) -> Process {
        // The sockets go in as standard input and output, and become descriptors 3 and 4.
        let script = "exec 3<&0 4<&1 0</dev/null 1>&2; LISTEN_PID=$$ exec \"$@\"";
        let mut command = Command::new("sh");
        command.args(["-c", script, "sh"]).arg(std::env::current_exe().unwrap()).args(Process::arguments());
        command.env(FILE, config).env("LISTEN_FDS", "2").env("LISTEN_FDNAMES", "dns:dns");
        Process::run(command.stdin(udp).stdout(tcp))
    }

    fn arguments() -> [&'static str; 4] {
        ["process::redirector_process", "--exact", "--ignored", "--nocapture"]
    }

    fn run(command: &mut Command) -> Process {
        let mut child = command.stderr(Stdio::piped()).spawn().unwrap();
        let stderr = child.stderr.take().unwrap();
        let (tell, told) = mpsc::channel();
        std::thread::spawn(move || {
            for line in BufReader::new(stderr).lines().map_while(Result::ok) {
                match line.strip_prefix("LISTENING ") {
                    Some(address) => drop(tell.send(address.parse().unwrap())),
                    None => eprintln!("redirector {line}"),
                }
            }
        });
        let address = told.recv_timeout(PATIENCE).unwrap();
        Process { child, address }
    }

    /// Kilobytes of memory in use.
    pub(crate) fn memory_kb(&self) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id())).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
        line.split_whitespace().next().unwrap().parse().unwrap()
    }

    /// Milliseconds of processor time spent so far.
    pub(crate) fn cpu_ms(&self) -> u64 {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.child.id())).unwrap();
        let fields: Vec<&str> = stat.rsplit(')').next().unwrap().split_whitespace().collect();
        // User and system time, in hundredths of a second.
        (fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap()) * 10
    }

    pub(crate) fn terminate(&self) {
        kill_process(Pid::from_child(&self.child), Signal::TERM).unwrap();
    }

    /// Waits for its end, which it must come to without a fault.
    pub(crate) fn wait(mut self) {
        assert!(self.child.wait().unwrap().success());
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
