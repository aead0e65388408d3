//! Connections that move between two kernels' namespaces, while a client that knows nothing uses them.
//!
//! Everything runs in a user namespace of its own, so it takes no root; where there are none, it says so.

mod standing;
mod transfers;
mod world;

use super::{FreezeError, Frozen};
use crate::sockets::Sockets;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::process::Command;
use std::time::Duration;

/// Nothing here takes a tenth of this; a loaded machine may.
const PATIENCE: Duration = Duration::from_secs(60);

/// Runs one of the tests below as root of its own namespaces.
fn inside(test: &str) {
    let mut command = Command::new("unshare");
    command.args(["--user", "--map-root-user", "--net"]).arg(std::env::current_exe().unwrap());
    command.args([&format!("repair::tests::{test}"), "--exact", "--ignored", "--nocapture"]);
    match command.output() {
        Err(error) => println!("SKIPPED: {test}: unshare(1) does not run: {error}"),
        Ok(output) => {
            let (out, err) =
                (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
            if !out.contains("running 1 test") {
                return println!("SKIPPED: {test}: there are no user namespaces here: {err}");
            }
            if let Some(skipped) = out.lines().find(|line| line.starts_with("SKIPPED")) {
                return println!("{skipped}");
            }
            assert!(output.status.success(), "{out}\n{err}");
        }
    }
}

#[test]
fn a_download_moves_over_ipv4() {
    inside("download_4");
}

#[test]
fn a_download_moves_over_ipv6() {
    inside("download_6");
}

#[test]
fn an_upload_moves_over_ipv4() {
    inside("upload_4");
}

#[test]
fn an_upload_moves_over_ipv6() {
    inside("upload_6");
}

#[test]
fn what_does_not_move_is_refused_and_runs_on() {
    inside("refusals");
}

#[test]
fn a_connection_that_lacks_something_is_known() {
    inside("holes");
}

#[test]
fn a_frozen_socket_resumes_with_all_it_had() {
    inside("resume");
}

#[test]
fn without_the_right_nothing_is_frozen() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let mut client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    let (mut server, _) = listener.accept().unwrap();
    let mut sockets = Sockets::open().unwrap();
    // Root may; then it goes on, and so it does when it may not.
    server = match Frozen::freeze(&mut sockets, server) {
        Ok(frozen) => frozen.resume().unwrap(),
        Err((server, error)) => {
            assert!(matches!(error, FreezeError::NotPermitted), "{error}");
            server
        }
    };
    server.write_all(b"on").unwrap();
    let mut got = [0; 2];
    client.read_exact(&mut got).unwrap();
    assert_eq!(&got, b"on");
}

#[test]
#[ignore = "run inside namespaces by the test above"]
fn download_4() {
    transfers::download("198.51.100.1", "203.0.113.80");
}

#[test]
#[ignore = "run inside namespaces by the test above"]
fn download_6() {
    transfers::download("2001:db8:1::1", "2001:db8:2::80");
}

#[test]
#[ignore = "run inside namespaces by the test above"]
fn upload_4() {
    transfers::upload("198.51.100.1", "203.0.113.80");
}

#[test]
#[ignore = "run inside namespaces by the test above"]
fn upload_6() {
    transfers::upload("2001:db8:1::1", "2001:db8:2::80");
}
#[test]
#[ignore = "run inside namespaces by the test above"]
fn resume() {
    standing::resume();
}

#[test]
#[ignore = "run inside namespaces by the test above"]
fn holes() {
    standing::holes();
}

#[test]
#[ignore = "run inside namespaces by the test above"]
fn refusals() {
    standing::refusals();
}
