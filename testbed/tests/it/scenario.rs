//! What must hold of a testbed.

use crate::bed::{Bed, processes_of, wait_for};
use godwit_testbed::topology::Role;
use godwit_testbed::{Degrade, Fault, PortKind, UpOptions};
use std::io::Write;
use std::process::Stdio;

pub(crate) const ALL: &[(&str, fn())] = &[
    ("tun_ports_keep_the_matrix", || keeps_the_matrix("tun_ports_keep_the_matrix", PortKind::Tun)),
    ("packet_ports_keep_the_matrix", || keeps_the_matrix("packet_ports_keep_the_matrix", PortKind::Packet)),
    ("paths_are_cut_degraded_and_healed", paths_are_cut_degraded_and_healed),
    ("a_host_that_roams_has_other_paths", a_host_that_roams_has_other_paths),
    ("home_addresses_reach_who_announces_them", home_addresses_reach_who_announces_them),
    ("processes_are_killed_stopped_and_started", processes_are_killed_stopped_and_started),
    ("exec_gives_resolv_conf_and_exit_code", exec_gives_resolv_conf_and_exit_code),
    ("down_leaves_nothing", down_leaves_nothing),
    ("kill_of_the_launcher_leaves_nothing", kill_of_the_launcher_leaves_nothing),
    ("loopback_is_marked_and_works", loopback_is_marked_and_works),
];

fn small(ports: PortKind) -> UpOptions {
    UpOptions { regions: 2, ports, ..UpOptions::default() }
}

fn client(bed: &Bed, number: usize) -> (String, String) {
    let host = bed.state.hosts.iter().filter(|host| host.role == Role::Client).nth(number).unwrap();
    (host.name.clone(), host.addr4.clone())
}

/// The fastest of several pings is the path itself; the others measure the machine.
fn assert_rtt(pings: &[u64], expected_ms: f64) {
    let fastest = *pings.iter().min().expect("no ping came back") as f64 / 1000.0;
    assert!(fastest >= expected_ms, "{fastest} ms is less than the path's {expected_ms} ms");
    assert!(fastest < expected_ms + 20.0, "{fastest} ms, the path has {expected_ms} ms");
}

fn keeps_the_matrix(test: &str, ports: PortKind) {
    let Some(bed) = Bed::up(test, &small(ports)) else { return };
    assert_eq!(bed.state.mode, ports);
    let ((a, _), (b, address)) = (client(&bed, 0), client(&bed, 1));
    let rtt = bed.state.rtt_ms[0][1];
    let pings = bed.ping(&a, &b, &format!("{address}:7000"));
    assert_eq!(pings.len(), 10);
    assert_rtt(&pings, rtt);
    if let Some(v6) = &bed.state.find(&b).unwrap().addr6 {
        assert_rtt(&bed.ping(&a, &b, &format!("[{v6}]:7000")), rtt);
    }
    let fabric = bed.now().fabric.unwrap();
    assert_eq!(fabric.overflow, 0, "{fabric:?}");
}

fn paths_are_cut_degraded_and_healed() {
    let Some(bed) = Bed::up("paths_are_cut_degraded_and_healed", &small(PortKind::Auto)) else { return };
    let ((a, _), (b, address)) = (client(&bed, 0), client(&bed, 1));
    let (address, rtt) = (format!("{address}:7000"), bed.state.rtt_ms[0][1]);
    let fault = |fault: Fault| godwit_testbed::fault(Some(&bed.dir), &fault).unwrap();
    fault(Fault::Cut { a: a.clone(), b: Some(b.clone()) });
    assert_eq!(bed.ping(&a, &b, &address), [0u64; 0]);
    let how = Degrade { delay_ms: Some(100.0), ..Degrade::default() };
    fault(Fault::Heal { a: None, b: None });
    fault(Fault::Degrade { a: bed.state.regions[0].clone(), b: Some(bed.state.regions[1].clone()), how });
    assert_rtt(&bed.ping(&a, &b, &address), rtt + 200.0);
    fault(Fault::Heal { a: Some(a.clone()), b: None });
    assert_rtt(&bed.ping(&a, &b, &address), rtt);
    let unknown = Fault::Cut { a: "nowhere".into(), b: None };
    assert!(godwit_testbed::fault(Some(&bed.dir), &unknown).is_err());
}

fn a_host_that_roams_has_other_paths() {
    let options = UpOptions { regions: 3, ..small(PortKind::Auto) };
    let Some(bed) = Bed::up("a_host_that_roams_has_other_paths", &options) else { return };
    let ((a, _), (b, old)) = (client(&bed, 0), client(&bed, 1));
    let third = bed.state.regions[2].clone();
    let fault = |fault: Fault| godwit_testbed::fault(Some(&bed.dir), &fault);
    let how = Degrade { delay_ms: Some(30.0), ..Degrade::default() };
    fault(Fault::Degrade { a: a.clone(), b: Some(b.clone()), how }).unwrap();
    fault(Fault::Roam { host: b.clone(), to: third.clone() }).unwrap();
    let state = bed.now();
    let moved = state.find(&b).unwrap();
    assert_eq!(moved.region, third);
    let occupied = state.hosts.iter().filter(|host| host.addr4 == moved.addr4).count();
    assert_eq!(occupied, 1, "an address of its own");
    let rtt = bed.state.rtt_ms[0][2] + 60.0;
    assert_rtt(&bed.ping(&a, &b, &format!("{}:7000", moved.addr4)), rtt);
    if let Some(v6) = &moved.addr6 {
        assert_rtt(&bed.ping(&a, &b, &format!("[{v6}]:7000")), rtt);
    }
    let nowhere = bed.now().fabric.unwrap().nowhere;
    let this = std::env::current_exe().unwrap();
    let pings = bed.output(&a, &[this.to_str().unwrap(), "ping", &format!("{old}:7000")]);
    assert!(pings.lines().all(|line| line == "lost"), "{pings}");
    assert!(bed.now().fabric.unwrap().nowhere > nowhere, "{old} is nobody's");
    for (host, to) in [(b.as_str(), third.as_str()), (b.as_str(), "nowhere"), ("nobody", third.as_str())] {
        assert!(fault(Fault::Roam { host: host.into(), to: to.into() }).is_err(), "{host} to {to}");
    }
}

/// A stand-in for a home agent answers at a home address itself.
fn home_addresses_reach_who_announces_them() {
    let options = UpOptions { home_agents: 2, ..small(PortKind::Auto) };
    let Some(bed) = Bed::up("home_addresses_reach_who_announces_them", &options) else { return };
    let (a, _) = client(&bed, 0);
    let agents: Vec<_> = bed.state.hosts.iter().filter(|host| host.role == Role::HomeAgent).collect();
    let home = "198.18.255.1";
    for agent in &agents {
        bed.output(&agent.name, &["ip", "address", "add", &format!("{home}/32"), "dev", "lo"]);
    }
    let says = |agent: usize, line: &str| {
        let path = agents[agent].data_dir.as_ref().unwrap().with_extension("announced");
        let mut file = std::fs::OpenOptions::new().append(true).open(path).unwrap();
        writeln!(file, "{line} route {home}/32 next-hop self").unwrap();
    };
    let reaches = |agent: usize, what: &str| {
        wait_for(what, || bed.ping(&a, &agents[agent].name, &format!("{home}:7000")).len() == 10);
    };
    says(0, "announce");
    reaches(0, "the first announces it");
    // Its network lets nothing out that does not come from its addresses; this one it announces.
    let fault = |fault: Fault| godwit_testbed::fault(Some(&bed.dir), &fault).unwrap();
    fault(Fault::Filter { host: agents[0].name.clone(), off: false });
    reaches(0, "what is announced is its own");
    says(1, "announce");
    fault(Fault::Kill { host: agents[0].name.clone() });
    reaches(1, "the first is dead");
    says(1, "withdraw");
    let nowhere = || bed.now().fabric.unwrap().nowhere;
    wait_for("nobody announces it", || {
        let before = nowhere();
        bed.ping(&a, &agents[1].name, &format!("{home}:7000")).is_empty() && nowhere() > before
    });
}

fn processes_are_killed_stopped_and_started() {
    let Some(bed) = Bed::up("processes_are_killed_stopped_and_started", &small(PortKind::Auto)) else {
        return;
    };
    let node = bed.state.hosts[0].name.clone();
    let pid = || bed.now().find(&node).unwrap().pid;
    let fault = |fault: Fault| godwit_testbed::fault(Some(&bed.dir), &fault);
    let first = pid().unwrap();
    fault(Fault::Kill { host: node.clone() }).unwrap();
    assert_eq!(pid(), None);
    assert!(fault(Fault::Kill { host: node.clone() }).is_err());
    fault(Fault::Start { host: node.clone() }).unwrap();
    assert!(pid().is_some_and(|pid| pid != first));
    fault(Fault::Stop { host: node.clone() }).unwrap();
    assert_eq!(pid(), None);
    fault(Fault::Start { host: node.clone() }).unwrap();
    assert!(fault(Fault::Start { host: node.clone() }).is_err());
    assert!(fault(Fault::Kill { host: client(&bed, 0).0 }).is_err());
}

fn exec_gives_resolv_conf_and_exit_code() {
    let Some(bed) = Bed::up("exec_gives_resolv_conf_and_exit_code", &small(PortKind::Auto)) else { return };
    let region = bed.state.regions[1].clone();
    let resolv = bed.output(&region, &["cat", "/etc/resolv.conf"]);
    let servers: Vec<_> = resolv.lines().filter_map(|line| line.strip_prefix("nameserver ")).collect();
    let nearest = bed.state.hosts.iter().find(|host| host.role == Role::Redirector && host.region == region);
    assert_eq!(servers.first(), nearest.map(|host| host.addr4.as_str()).as_ref());
    let status = bed.exec(&region, &["sh", "-c", "exit 7"]).status().unwrap();
    assert_eq!(status.code(), Some(7));
    let status = bed.exec(&region, &["no-such-program"]).stderr(Stdio::null()).status().unwrap();
    assert_eq!(status.code(), Some(1));
}

fn down_leaves_nothing() {
    let Some(bed) = Bed::up("down_leaves_nothing", &small(PortKind::Auto)) else { return };
    let (host, _) = client(&bed, 0);
    // A command in a host that does not end by itself goes too.
    let mut sleeper = bed.exec(&host, &["sleep", "1000"]).spawn().unwrap();
    wait_for("the sleeper sleeps in its host", || in_host(sleeper.id(), &bed));
    godwit_testbed::down(Some(&bed.dir)).unwrap();
    assert!(!bed.dir.exists());
    assert!(!sleeper.wait().unwrap().success());
    wait_for("no process is left", || processes_of(&bed.dir).is_empty());
    assert!(godwit_testbed::down(Some(&bed.dir)).is_err());
}

fn kill_of_the_launcher_leaves_nothing() {
    let Some(bed) = Bed::up("kill_of_the_launcher_leaves_nothing", &small(PortKind::Auto)) else { return };
    let (host, _) = client(&bed, 0);
    let mut sleeper = bed.exec(&host, &["sleep", "1000"]).spawn().unwrap();
    wait_for("the sleeper sleeps in its host", || in_host(sleeper.id(), &bed));
    let launcher = bed.state.launcher;
    godwit_net::process::send_signal(launcher, godwit_net::process::Signal::Kill).unwrap();
    wait_for("the directory is gone", || !bed.dir.exists());
    wait_for("no process is left", || processes_of(&bed.dir).is_empty());
    wait_for("the sleeper ended", || sleeper.try_wait().unwrap().is_some());
}

fn in_host(pid: u32, bed: &Bed) -> bool {
    let inode =
        |path: String| std::fs::metadata(path).map(|metadata| std::os::unix::fs::MetadataExt::ino(&metadata));
    let host = bed.state.hosts.iter().find(|host| host.role == Role::Client).unwrap();
    let (Ok(a), Ok(b)) = (inode(format!("/proc/{pid}/ns/net")), inode(host.netns.clone().unwrap())) else {
        return false;
    };
    a == b && std::fs::read(format!("/proc/{pid}/cmdline")).is_ok_and(|line| line.starts_with(b"sleep"))
}

fn loopback_is_marked_and_works() {
    let bed = Bed::up("loopback_is_marked_and_works", &small(PortKind::Loopback)).unwrap();
    assert_eq!(bed.state.mode, PortKind::Loopback);
    assert!(bed.state.warnings.iter().any(|warning| warning.contains("without delays")));
    assert!(bed.state.hosts.iter().all(|host| host.addr4.starts_with("127.") && host.netns.is_none()));
    let cut = Fault::Cut { a: bed.state.hosts[0].name.clone(), b: None };
    assert!(godwit_testbed::fault(Some(&bed.dir), &cut).unwrap_err().to_string().contains("no fabric"));
    godwit_testbed::down(Some(&bed.dir)).unwrap();
    assert!(!bed.dir.exists());
}
