//! A member that is started while its disk is full.

use crate::harness::{World, resolve, until};
use serde_json::Value;
use std::io::{BufRead, BufReader, Write};
use std::net::SocketAddr;
use std::process::{Child, ChildStderr, ChildStdin, Command, Stdio};

/// Runs the member in $2 on a small disk at $1, with $3, full and without ballast. A line on standard
/// input makes room, another one ends it; so does the end of standard input.
const SCRIPT: &str = r#"
mount -t tmpfs -o size=24m tmpfs "$1" || exit 77
cp -a "$2/." "$1/" && rm -f "$1/store/ballast" "$1/admin.sock"
dd if=/dev/zero of="$1/fill" bs=64k 2>/dev/null
dd if=/dev/zero of="$1/rest" bs=512 2>/dev/null
"$3" run --data-dir "$1" --log-format json &
trap 'kill $! && wait $!' EXIT
read -r _ || exit 1
rm "$1/fill" "$1/rest"
read -r _
"#;

/// A member on a disk of its own.
struct OnDisk {
    child: Child,
    stdin: Option<ChildStdin>,
    lines: std::io::Lines<BufReader<ChildStderr>>,
}

impl OnDisk {
    /// The fields of the first event to come with this message; `None` when it ends before.
    fn event(&mut self, message: &str) -> Option<Value> {
        loop {
            let line = self.lines.next()?.ok()?;
            let event: Value = serde_json::from_str(&line).unwrap_or_default();
            let fields = &event["fields"];
            if fields["message"].as_str().is_some_and(|text| text.starts_with(message)) {
                return Some(fields.clone());
            }
        }
    }

    fn go_on(&mut self) {
        self.stdin.as_mut().unwrap().write_all(b"\n").unwrap();
    }
}

impl Drop for OnDisk {
    fn drop(&mut self) {
        drop(self.stdin.take());
        // The pipe has to be emptied for as long as the member writes.
        self.lines.by_ref().for_each(drop);
        let _ = self.child.wait();
    }
}

#[test]
fn a_redirector_that_starts_on_a_full_disk_answers_and_goes_on_when_there_is_room() {
    let world = World::with_network();
    let token = world.invite("fra1", "eu-frankfurt");
    world.run(&["join", &token, "--data-dir", "fra1"]).check(0, "");
    let member = world.start("fra1");
    world.write("site/index.html", "x");
    world.json(&["publish", "site", "--to", "www", "--json", "--data-dir", "fra1"]);
    until("the name to be answered", || {
        resolve(member.address("dns"), "www.edge.example.org").ends_with(&[127, 0, 0, 1]).then_some(())
    });
    assert_eq!(member.stop(), 0);

    let (disk, seed) = (world.path("disk"), world.path("fra1"));
    std::fs::create_dir(&disk).unwrap();
    let mut command = Command::new("unshare");
    command.args(["-Urm", "sh", "-c", SCRIPT, "sh"]).arg(&disk).arg(&seed).arg(env!("CARGO_BIN_EXE_godwit"));
    command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::piped());
    let Ok(mut child) = command.spawn() else {
        return eprintln!("SKIPPED: a full disk: unshare(1) is not installed");
    };
    let lines = BufReader::new(child.stderr.take().unwrap()).lines();
    let mut member = OnDisk { stdin: child.stdin.take(), child, lines };
    let Some(listens) = member.event("redirector listens") else {
        match member.child.wait().unwrap().code() {
            // What unshare(1) and the script end with where that is not allowed.
            Some(1 | 77) => return eprintln!("SKIPPED: a full disk: no file system can be mounted here"),
            code => panic!("it did not start: {code:?}"),
        }
    };
    let addresses = listens["addresses"].as_str().unwrap();
    let address = addresses.split_once("dns: [").unwrap().1.split([']', ',']).next().unwrap();
    let dns: SocketAddr = address.parse().unwrap();
    member.event("the disk is full").unwrap();
    assert!(resolve(dns, "www.edge.example.org").ends_with(&[127, 0, 0, 1]), "it answers from its last map");
    member.go_on();
    let running = member.event("running").unwrap();
    assert_eq!(running["dns"].as_str().unwrap(), format!("[{dns}]"));
    until("the name to be answered", || {
        resolve(dns, "www.edge.example.org").ends_with(&[127, 0, 0, 1]).then_some(())
    });
    member.go_on();
    member.event("redirector stopped").unwrap();
}
