//! Live connections move between two members while a client that knows nothing uses them.
//!
//! Each test runs in a user namespace of its own (see [`inside`]): a client, a home agent that is a few lines
//! of a router, and two members, each host with a namespace and a TUN device.

mod echo;
mod figures;
mod http;
mod members;
mod plain;
mod world;

use std::process::Command;

/// Runs the test `name` of this binary as root of its own namespaces. It prints why where it cannot.
fn inside(name: &str) {
    let mut command = Command::new("unshare");
    command.args(["--user", "--map-root-user", "--net"]).arg(std::env::current_exe().unwrap());
    command.args([&format!("moves::{name}"), "--exact", "--ignored", "--nocapture"]);
    match command.output() {
        Err(error) => println!("SKIPPED: {name}: unshare(1) does not run: {error}"),
        Ok(output) => {
            let (out, err) =
                (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
            if !out.contains("running 1 test") {
                return println!("SKIPPED: {name}: there are no user namespaces here: {err}");
            }
            if let Some(skipped) = out.lines().find(|line| line.starts_with("SKIPPED")) {
                return println!("{skipped}");
            }
            assert!(output.status.success(), "{out}\n{err}");
        }
    }
}
