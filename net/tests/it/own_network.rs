//! Tests that want a network of their own. Other crates' tests take this file too.

use std::process::Command;

/// Runs `body` as root of a user namespace with a network of its own, in another process: the test
/// `name` of this program, which comes here again. Tells loudly when the machine does not let us.
pub(crate) fn in_own_network(name: &str, body: fn()) {
    const INSIDE: &str = "GODWIT_TEST_INSIDE_ITS_NETWORK";
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
