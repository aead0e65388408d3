//! Runs the program, and members in the background.

use serde_json::Value;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream, UdpSocket};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

/// How long a test waits for something that takes milliseconds on a quiet machine.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// A directory for everything of one test, and the program in it.
pub(crate) struct World {
    temp: tempfile::TempDir,
}

/// What a command ended with.
pub(crate) struct Ended {
    pub(crate) code: i32,
    pub(crate) out: String,
    pub(crate) err: String,
}

impl World {
    pub(crate) fn new() -> World {
        World { temp: tempfile::tempdir().unwrap() }
    }

    /// A world with a network in it, whose authority has no passphrase.
    pub(crate) fn with_network() -> World {
        let world = World::new();
        world.run(&["init", "--zone", "edge.example.org", "--no-passphrase"]).check(0, "");
        world
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.temp.path().join(name)
    }

    pub(crate) fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_godwit"));
        // Nothing of the machine's own godwit, and no passphrase that somebody happens to have set.
        command.env_clear().env("HOME", self.temp.path()).env("GODWIT_AUTHORITY", self.path("authority"));
        command.args(arguments).current_dir(self.temp.path()).stdin(Stdio::null());
        command
    }

    pub(crate) fn run(&self, arguments: &[&str]) -> Ended {
        ended(self.command(arguments).output().unwrap())
    }

    pub(crate) fn run_with(&self, variable: (&str, &str), arguments: &[&str]) -> Ended {
        ended(self.command(arguments).env(variable.0, variable.1).output().unwrap())
    }

    /// Runs a command that reads `input`.
    pub(crate) fn run_piped(&self, arguments: &[&str], input: &str) -> Ended {
        let mut command = self.command(arguments);
        let mut child =
            command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
        ended(child.wait_with_output().unwrap())
    }

    /// Runs a command that must work, and gives the JSON that it prints.
    pub(crate) fn json(&self, arguments: &[&str]) -> Value {
        let ended = self.run(arguments);
        assert_eq!(ended.code, 0, "{arguments:?}: {}{}", ended.out, ended.err);
        serde_json::from_str(&ended.out).unwrap()
    }

    /// A token for a new member.
    pub(crate) fn invite(&self, name: &str, region: &str) -> String {
        let invited = self.json(&["invite", "--name", name, "--region", region, "--json"]);
        invited["token"].as_str().unwrap().to_owned()
    }

    /// Writes a file, with the directories above it.
    pub(crate) fn write(&self, name: &str, content: impl AsRef<[u8]>) {
        let path = self.path(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, content).unwrap();
    }

    /// Starts the member in `data_dir` on free loopback ports, and waits until it runs.
    pub(crate) fn start(&self, data_dir: &str) -> Member {
        self.start_at(data_dir, "127.0.0.1:0")
    }

    /// The same, with this address for members.
    pub(crate) fn start_at(&self, data_dir: &str, peer: &str) -> Member {
        self.write(
            &format!("{data_dir}/godwit.toml"),
            format!(
                "[overlay]\nlisten = [\"{peer}\"]\n[http]\nlisten = [\"127.0.0.1:0\"]\n\
                 [redirector]\nlisten = [\"127.0.0.1:0\"]\nworkers = 1\n"
            ),
        );
        self.launch(data_dir)
    }

    /// Starts the member in `data_dir` with the configuration that is there.
    pub(crate) fn launch(&self, data_dir: &str) -> Member {
        let mut command = self.command(&["run", "--data-dir", data_dir, "--log-format", "json"]);
        let mut child = command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
        let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
        let mut log = String::new();
        let running = loop {
            let Some(Ok(line)) = lines.next() else { panic!("{data_dir} did not start:\n{log}") };
            log += &line;
            log.push('\n');
            let event: Value = serde_json::from_str(&line).unwrap_or_default();
            if event["fields"]["message"] == "running" {
                break event["fields"].clone();
            }
        };
        // The pipe has to be emptied for as long as the member writes.
        std::thread::spawn(move || lines.for_each(drop));
        let socket = self.path(data_dir).join("admin.sock");
        Member { child, data_dir: data_dir.to_owned(), socket, running }
    }
}

fn ended(output: Output) -> Ended {
    Ended {
        code: output.status.code().unwrap_or(-1),
        out: String::from_utf8_lossy(&output.stdout).into_owned(),
        err: String::from_utf8_lossy(&output.stderr).into_owned(),
    }
}

impl Ended {
    /// Checks the exit code and that standard error tells of `part`.
    #[track_caller]
    pub(crate) fn check(&self, code: i32, part: &str) {
        assert_eq!(self.code, code, "{}{}", self.out, self.err);
        assert!(self.err.contains(part), "{part:?} is not in:\n{}", self.err);
    }
}

/// A running member; killed when dropped.
pub(crate) struct Member {
    child: Child,
    data_dir: String,
    socket: PathBuf,
    running: Value,
}

impl Member {
    /// Its data directory, as an argument.
    pub(crate) fn dir(&self) -> [&str; 2] {
        ["--data-dir", &self.data_dir]
    }

    /// The first address that it logged under this name.
    pub(crate) fn address(&self, name: &str) -> SocketAddr {
        let text = self.running[name].as_str().unwrap();
        text.trim_matches(['[', ']']).split(", ").next().unwrap().parse().unwrap()
    }

    /// Whether it listens under this name.
    pub(crate) fn has_address(&self, name: &str) -> bool {
        self.running[name].as_str().is_some_and(|addresses| addresses != "[]")
    }

    /// Its control socket.
    pub(crate) fn socket(&self) -> &Path {
        &self.socket
    }

    /// Waits until it has ended by itself, and gives its exit code.
    pub(crate) fn ended(mut self) -> i32 {
        self.child.wait().unwrap().code().unwrap_or(-1)
    }

    /// Asks it to stop, and gives its exit code.
    pub(crate) fn stop(mut self) -> i32 {
        Command::new("kill").arg(self.child.id().to_string()).status().unwrap();
        let status = self.child.wait().unwrap();
        status.code().unwrap_or(-1)
    }
}

impl Drop for Member {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Waits until `look` finds something.
#[track_caller]
pub(crate) fn until<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(Instant::now() < deadline, "{what} did not come about");
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// What a web server answers to a GET: status code, head and body.
pub(crate) fn get(address: SocketAddr, host: &str, path: &str) -> (u16, String, Vec<u8>) {
    let mut stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    write!(stream, "GET {path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n").unwrap();
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).unwrap();
    let end = answer.windows(4).position(|bytes| bytes == b"\r\n\r\n").unwrap();
    let head = String::from_utf8_lossy(&answer[..end]).into_owned();
    let status = head.split(' ').nth(1).unwrap().parse().unwrap();
    (status, head, answer[end + 4..].to_vec())
}

/// The member's metrics, from its control socket.
pub(crate) fn metrics(member: &Member) -> String {
    get_unix(&member.socket, "/metrics")
}

/// What a control socket answers to a GET, head and body.
pub(crate) fn get_unix(socket: &Path, path: &str) -> String {
    let mut stream = UnixStream::connect(socket).unwrap();
    write!(stream, "GET {path} HTTP/1.1\r\nHost: admin\r\nConnection: close\r\n\r\n").unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    answer
}

/// Types by number (RFC 1035, 3.2.2).
pub(crate) const A: u8 = 1;
pub(crate) const TXT: u8 = 16;

/// Asks a name server for the A record of `name`, over and over; gives the reply's bytes.
pub(crate) fn resolve(server: SocketAddr, name: &str) -> Vec<u8> {
    resolve_as(server, name, A)
}

/// The same for a record of this type.
pub(crate) fn resolve_as(server: SocketAddr, name: &str, kind: u8) -> Vec<u8> {
    let (socket, mut query) = asker(name);
    let at = query.len() - 3;
    query[at] = kind;
    socket.set_read_timeout(Some(Duration::from_secs(1))).unwrap();
    until("a reply from the redirector", || {
        socket.send_to(&query, server).unwrap();
        let mut reply = [0; 1500];
        let len = socket.recv(&mut reply).ok()?;
        Some(reply[..len].to_vec())
    })
}

/// The same, once: that query must be answered.
pub(crate) fn ask_once(server: SocketAddr, name: &str) -> Vec<u8> {
    let (socket, query) = asker(name);
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    socket.send_to(&query, server).unwrap();
    let mut reply = [0; 1500];
    let len = socket.recv(&mut reply).unwrap();
    reply[..len].to_vec()
}

/// Whether nobody listens there any more: a query is turned away, not merely left without a reply.
pub(crate) fn is_closed(server: SocketAddr) -> bool {
    let (socket, query) = asker("edge.example.org");
    socket.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
    socket.connect(server).unwrap();
    // The first turn comes back as an error of whatever is done next.
    let refused = |error: std::io::Error| error.kind() == std::io::ErrorKind::ConnectionRefused;
    socket.send(&query).is_err_and(refused) || socket.recv(&mut [0; 1500]).is_err_and(refused)
}

/// What a name server tells a client of this subnet: addresses in the order of the reply, and the scope.
/// Asked over and over until there is an answer.
pub(crate) fn ask_subnet(server: SocketAddr, name: &str, client: (Ipv4Addr, u8)) -> (Vec<Ipv4Addr>, u8) {
    let (socket, mut query) = asker(name);
    let kept = usize::from(client.1.div_ceil(8));
    let option = [&[0, 8, 0, 4 + kept as u8, 0, 1, client.1, 0], &client.0.octets()[..kept]].concat();
    query[11] = 1;
    query.extend([0, 0, 41, 4, 208, 0, 0, 0, 0, 0, option.len() as u8]);
    query.extend(option);
    socket.set_read_timeout(Some(Duration::from_secs(2))).unwrap();
    let reply = until("a reply", || {
        socket.send_to(&query, server).unwrap();
        let mut reply = [0; 1500];
        let len = socket.recv(&mut reply).ok()?;
        Some(reply[..len].to_vec())
    });
    // Owners are pointers to the question here; OPT's is the root.
    let mut at = query.len() - 11 - (8 + kept);
    let (mut addresses, mut scope) = (Vec::new(), None);
    while let Some(owner) = reply.get(at) {
        at += if *owner == 0 { 1 } else { 2 };
        let (kind, len) = (reply[at + 1], usize::from(reply[at + 9]));
        let data = &reply[at + 10..at + 10 + len];
        match kind {
            A => addresses.push(Ipv4Addr::from(<[u8; 4]>::try_from(data).unwrap())),
            41 => scope = data.windows(2).position(|code| code == [0, 8]).map(|option| data[option + 7]),
            _ => {}
        }
        at += 10 + len;
    }
    (addresses, scope.expect("a client subnet comes back"))
}

/// Where a program of Debian is; `None`, loudly, where it is not.
pub(crate) fn program(name: &str) -> Option<PathBuf> {
    let folders = ["/usr/sbin", "/usr/bin", "/usr/local/sbin", "/usr/local/bin"];
    let found = folders.iter().map(|folder| Path::new(folder).join(name)).find(|path| path.is_file());
    if found.is_none() {
        eprintln!("SKIPPED: {name} is not installed");
    }
    found
}

fn asker(name: &str) -> (UdpSocket, Vec<u8>) {
    let mut query = vec![0x12, 0x34, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0];
    for label in name.split('.') {
        query.push(u8::try_from(label.len()).unwrap());
        query.extend_from_slice(label.as_bytes());
    }
    query.extend_from_slice(&[0, 0, 1, 0, 1]);
    (UdpSocket::bind("127.0.0.1:0").unwrap(), query)
}

/// Whether the path's mode lets nobody but the owner in.
pub(crate) fn is_private(path: &Path) -> bool {
    use std::os::unix::fs::PermissionsExt;
    std::fs::metadata(path).unwrap().permissions().mode() & 0o077 == 0
}

/// Metric names are public API: the document that lists them has to keep up.
#[track_caller]
pub(crate) fn documented(metrics: &str) {
    let document = include_str!("../../../docs/metrics.md");
    let names = metrics.lines().filter_map(|line| line.strip_prefix("# TYPE ")?.split(' ').next());
    let missing: Vec<&str> = names.filter(|name| !document.contains(&format!("`{name}"))).collect();
    assert!(missing.is_empty(), "docs/metrics.md does not tell of {missing:?}");
}
