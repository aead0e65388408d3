//! A home agent from end to end: clients, nodes and routers in network namespaces, with the kernel's own
//! TCP and UDP, the real tunnel at both ends, and nodes made of the machines that real ones are made of.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod attacks;
mod carries;
mod choosing;
mod lives;
mod net;
mod node;
mod world;

use std::process::Command;
use std::time::{Duration, Instant};

/// How long something may take on a machine that does much else.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);

/// Runs `body` as root of a user namespace with a network of its own, in another process: the test
/// `name` of this program, which comes here again. Tells loudly when the machine does not let us.
pub(crate) fn in_own_network(name: &str, body: fn()) {
    const INSIDE: &str = "GODWIT_HOME_AGENT_TEST_INSIDE";
    if std::env::var_os(INSIDE).is_some() {
        return body();
    }
    let may = Command::new("unshare").args(["-Urn", "test", "-w", "/dev/net/tun"]).status();
    if !may.is_ok_and(|status| status.success()) {
        println!("SKIPPED: {name}: no user namespace with /dev/net/tun is to be had here");
        return;
    }
    let program = std::env::current_exe().unwrap();
    let output = Command::new("unshare")
        .arg("-Urn")
        .arg(program)
        .args([name, "--exact", "--nocapture", "--test-threads=1"])
        .env(INSIDE, "1")
        .output()
        .unwrap();
    let told = String::from_utf8_lossy(&output.stdout);
    let errors = String::from_utf8_lossy(&output.stderr);
    print!("{told}");
    assert!(output.status.success() && told.contains("1 passed"), "{told}\n{errors}");
}

/// Waits until `holds`; tells how long that took.
#[track_caller]
pub(crate) fn wait(what: &str, mut holds: impl FnMut() -> bool) -> Duration {
    let start = Instant::now();
    while !holds() {
        assert!(start.elapsed() < PATIENCE, "never: {what}");
        std::thread::sleep(Duration::from_millis(10));
    }
    start.elapsed()
}
