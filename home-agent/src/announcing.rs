//! Drawing traffic: the host's own route into the tunnel, and those that tell other routers.
//!
//! When to announce and when to withdraw says `core::announce`; here it is done, for each home address or for
//! the prefix that it is in. The host's route comes
//! before the word to others and goes after it, so that no packet arrives for which there is no route.
//!
//! BIRD reads static routes from files that it includes; they are written whole, under another name, and
//! moved into place, and then a command makes BIRD read them. ExaBGP reads commands from a pipe. Neither
//! is waited for while it does not answer: what failed is told and tried again.

use crate::config::{AnnounceConfig, BirdConfig};
use godwit_core::binding::HomeAddress;
use godwit_net::netlink::{Netlink, Route};
use ipnet::IpNet;
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// A command that takes longer is ended.
const COMMAND_MAX: Duration = Duration::from_secs(5);
/// Between looks at whether it has ended.
const COMMAND_PAUSE: Duration = Duration::from_millis(20);

/// The host's routes into the tunnel.
pub(crate) trait Routes: Send + Sync + 'static {
    /// Packets to `home` come to us.
    fn add(&self, home: IpNet) -> io::Result<()>;
    /// They do so no longer.
    fn remove(&self, home: IpNet) -> io::Result<()>;
}

/// Those of the kernel. They go with the device.
pub(crate) struct KernelRoutes {
    netlink: Mutex<Netlink>,
    interface: u32,
}

impl KernelRoutes {
    /// Of the calling thread's network namespace, through the interface of this number.
    pub(crate) fn new(interface: u32) -> io::Result<KernelRoutes> {
        Ok(KernelRoutes { netlink: Mutex::new(Netlink::open()?), interface })
    }

    fn route(&self, destination: IpNet) -> Route {
        Route { destination, interface: self.interface, gateway: None }
    }

    fn netlink(&self) -> MutexGuard<'_, Netlink> {
        self.netlink.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Routes for KernelRoutes {
    fn add(&self, home: IpNet) -> io::Result<()> {
        self.netlink().add_route(&self.route(home))
    }

    fn remove(&self, home: IpNet) -> io::Result<()> {
        self.netlink().remove_route(&self.route(home))
    }
}

/// What the host and others were told.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(crate) struct Told {
    told: Option<BTreeSet<IpNet>>,
    routed: BTreeSet<IpNet>,
}

/// Who is told.
pub(crate) struct Announcing {
    config: AnnounceConfig,
    interface: String,
    routes: Box<dyn Routes>,
    /// What others were told last; `None` before they were told anything.
    told: Option<BTreeSet<IpNet>>,
    /// What the host has routes for.
    routed: BTreeSet<IpNet>,
}

impl Announcing {
    pub(crate) fn new(config: AnnounceConfig, interface: String, routes: Box<dyn Routes>) -> Announcing {
        Announcing { config, interface, routes, told: None, routed: BTreeSet::new() }
    }

    /// As another process left it: others were told, and the host's routes are there.
    pub(crate) fn resume(&mut self, told: Told) {
        (self.told, self.routed) = (told.told, told.routed);
    }

    /// Leaves everything as it is to another process.
    pub(crate) fn leave(&mut self) -> Told {
        Told { told: self.told.clone(), routed: self.routed.clone() }
    }

    /// These are to be announced from now on. Blocks. With an error something is missing, and the same
    /// call again does what is left.
    pub(crate) fn announce(&mut self, wanted: &BTreeSet<HomeAddress>) -> io::Result<()> {
        let wanted: BTreeSet<IpNet> = wanted.iter().map(|home| self.prefix_of(home)).collect();
        for home in wanted.difference(&self.routed.clone()) {
            self.routes.add(*home).map_err(about(format!("the route to {home}")))?;
            self.routed.insert(*home);
        }
        self.tell(&wanted)?;
        for home in self.routed.clone().difference(&wanted) {
            self.routes.remove(*home).map_err(about(format!("the route to {home}")))?;
            self.routed.remove(home);
        }
        Ok(())
    }

    /// What is announced for a home address: the shortest of the prefixes that it is in, or itself.
    fn prefix_of(&self, home: &HomeAddress) -> IpNet {
        let around = self.config.prefixes.iter().filter(|prefix| prefix.contains(&home.0));
        around.min_by_key(|prefix| prefix.prefix_len()).copied().unwrap_or_else(|| home.0.into())
    }

    /// Says again to ExaBGP what is announced: it forgets it when it is started anew.
    pub(crate) fn repeat(&mut self) -> io::Result<()> {
        let (Some(pipe), Some(told)) = (&self.config.exabgp, &self.told) else { return Ok(()) };
        tell_exabgp(pipe, &BTreeSet::new(), told).map_err(about("ExaBGP".into()))
    }

    fn tell(&mut self, wanted: &BTreeSet<IpNet>) -> io::Result<()> {
        if self.told.as_ref() == Some(wanted) {
            return Ok(());
        }
        if let Some(bird) = &self.config.bird {
            self.tell_bird(bird, wanted).map_err(about("BIRD".into()))?;
        }
        if let Some(pipe) = &self.config.exabgp {
            let nothing = BTreeSet::new();
            let known = self.told.as_ref().unwrap_or(&nothing);
            tell_exabgp(pipe, known, wanted).map_err(about("ExaBGP".into()))?;
        }
        self.told = Some(wanted.clone());
        Ok(())
    }

    fn tell_bird(&self, bird: &BirdConfig, wanted: &BTreeSet<IpNet>) -> io::Result<()> {
        for (file, v4) in [(&bird.v4, true), (&bird.v6, false)] {
            let Some(file) = file else { continue };
            let mut text = String::from("# Written by godwit; changes are lost.\n");
            for home in wanted.iter().filter(|home| home.addr().is_ipv4() == v4) {
                text += &format!("route {home} via \"{}\";\n", self.interface);
            }
            replace(file, &text)?;
        }
        run(&bird.command)
    }
}

fn about(what: String) -> impl FnOnce(io::Error) -> io::Error {
    move |error| io::Error::new(error.kind(), format!("{what}: {error}"))
}

/// Puts `text` in the place of a file, whole.
fn replace(path: &Path, text: &str) -> io::Result<()> {
    let mut beside = path.as_os_str().to_owned();
    beside.push(".new");
    std::fs::write(&beside, text)?;
    std::fs::rename(&beside, path)
}

/// Runs a command to its end, within bounds.
fn run(command: &[String]) -> io::Result<()> {
    let Some((program, arguments)) = command.split_first() else { return Ok(()) };
    let mut child =
        Command::new(program).args(arguments).stdin(Stdio::null()).stdout(Stdio::null()).spawn()?;
    let until = Instant::now() + COMMAND_MAX;
    loop {
        if let Some(status) = child.try_wait()? {
            return match status.success() {
                true => Ok(()),
                false => Err(io::Error::other(format!("{program} ended with {status}"))),
            };
        }
        if Instant::now() >= until {
            child.kill()?;
            child.wait()?;
            return Err(io::Error::new(io::ErrorKind::TimedOut, format!("{program} did not end")));
        }
        std::thread::sleep(COMMAND_PAUSE);
    }
}

/// One command for each change. A pipe that nobody reads is an error, and not waited at.
fn tell_exabgp(pipe: &Path, known: &BTreeSet<IpNet>, wanted: &BTreeSet<IpNet>) -> io::Result<()> {
    let line = |verb: &str, home: &IpNet| format!("{verb} route {home} next-hop self\n");
    let withdrawn = known.difference(wanted).map(|home| line("withdraw", home));
    let announced = wanted.difference(known).map(|home| line("announce", home));
    let text: String = withdrawn.chain(announced).collect();
    if text.is_empty() {
        return Ok(());
    }
    let nonblock = rustix::fs::OFlags::NONBLOCK.bits() as i32;
    let mut file = std::fs::OpenOptions::new().append(true).custom_flags(nonblock).open(pipe)?;
    file.write_all(text.as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::{Arc, Mutex};

    #[derive(Clone, Default)]
    struct Kernel(Arc<Mutex<Vec<String>>>);

    impl Routes for Kernel {
        fn add(&self, home: IpNet) -> io::Result<()> {
            self.0.lock().unwrap().push(format!("+{home}"));
            Ok(())
        }

        fn remove(&self, home: IpNet) -> io::Result<()> {
            self.0.lock().unwrap().push(format!("-{home}"));
            Ok(())
        }
    }

    impl Kernel {
        fn take(&self) -> Vec<String> {
            std::mem::take(&mut *self.0.lock().unwrap())
        }
    }

    fn homes(list: &[&str]) -> BTreeSet<HomeAddress> {
        list.iter().map(|ip| HomeAddress(ip.parse().unwrap())).collect()
    }

    fn announcing(config: AnnounceConfig, kernel: &Kernel) -> Announcing {
        Announcing::new(config, "godwit0".into(), Box::new(kernel.clone()))
    }

    #[test]
    fn the_hosts_routes_follow() {
        let kernel = Kernel::default();
        let mut announcing = announcing(AnnounceConfig::default(), &kernel);
        announcing.announce(&homes(&["192.0.2.1", "2001:db8::1"])).unwrap();
        assert_eq!(kernel.take(), ["+192.0.2.1/32", "+2001:db8::1/128"]);
        announcing.announce(&homes(&["192.0.2.1"])).unwrap();
        assert_eq!(kernel.take(), ["-2001:db8::1/128"]);
        announcing.announce(&homes(&["192.0.2.1"])).unwrap();
        assert!(kernel.take().is_empty());
    }

    #[test]
    fn a_prefix_is_announced_while_one_of_its_addresses_is() {
        let (kernel, dir) = (Kernel::default(), tempfile::tempdir().unwrap());
        let pipe = dir.path().join("exabgp.in");
        std::fs::write(&pipe, "").unwrap();
        let prefixes = ["192.0.2.0/24", "2001:db8::/48", "192.0.2.0/28"].map(|text| text.parse().unwrap());
        let config = AnnounceConfig { prefixes: prefixes.into(), exabgp: Some(pipe.clone()), bird: None };
        let mut announcing = announcing(config, &kernel);
        announcing.announce(&homes(&["192.0.2.1", "192.0.2.200", "198.51.100.1"])).unwrap();
        assert_eq!(kernel.take(), ["+192.0.2.0/24", "+198.51.100.1/32"]);
        announcing.announce(&homes(&["192.0.2.200", "2001:db8::7"])).unwrap();
        assert_eq!(kernel.take(), ["+2001:db8::/48", "-198.51.100.1/32"]);
        announcing.announce(&homes(&[])).unwrap();
        assert_eq!(kernel.take(), ["-192.0.2.0/24", "-2001:db8::/48"]);
        let told = std::fs::read_to_string(&pipe).unwrap();
        assert_eq!(told.matches("announce route 192.0.2.0/24 next-hop self\n").count(), 1, "{told}");
        assert_eq!(told.matches("withdraw route 192.0.2.0/24 next-hop self\n").count(), 1, "{told}");
    }

    #[test]
    fn bird_gets_files_and_a_command_and_a_failure_is_made_good_later() {
        let (kernel, dir) = (Kernel::default(), tempfile::tempdir().unwrap());
        let (v4, ran) = (dir.path().join("godwit4.conf"), dir.path().join("ran"));
        let script =
            format!("test -e {0}/go && cat {1} >> {2}", dir.path().display(), v4.display(), ran.display());
        let command = vec!["sh".into(), "-c".into(), script];
        let bird = BirdConfig { v4: Some(v4.clone()), v6: None, command };
        let config = AnnounceConfig { bird: Some(bird), ..AnnounceConfig::default() };
        let mut announcing = announcing(config, &kernel);
        let wanted = homes(&["192.0.2.1", "2001:db8::1"]);
        let error = announcing.announce(&wanted).unwrap_err();
        assert!(error.to_string().starts_with("BIRD: sh ended"), "{error}");
        // Routes of the host stand: packets may come already.
        assert_eq!(kernel.take().len(), 2);
        std::fs::write(dir.path().join("go"), "").unwrap();
        announcing.announce(&wanted).unwrap();
        let text = std::fs::read_to_string(&ran).unwrap();
        assert!(text.ends_with("route 192.0.2.1/32 via \"godwit0\";\n"), "{text}");
        announcing.announce(&homes(&[])).unwrap();
        assert!(!std::fs::read_to_string(&v4).unwrap().contains("route"));
        // Withdrawn before the route goes.
        assert_eq!(kernel.take(), ["-192.0.2.1/32", "-2001:db8::1/128"]);
    }

    #[test]
    fn exabgp_is_told_what_changes_and_everything_again_from_time_to_time() {
        let (kernel, dir) = (Kernel::default(), tempfile::tempdir().unwrap());
        let pipe = dir.path().join("exabgp.in");
        let config = AnnounceConfig { exabgp: Some(pipe.clone()), ..AnnounceConfig::default() };
        let mut announcing = announcing(config, &kernel);
        assert!(announcing.announce(&homes(&["192.0.2.1"])).is_err(), "nobody reads");
        std::fs::write(&pipe, "").unwrap();
        announcing.announce(&homes(&["192.0.2.1"])).unwrap();
        announcing.announce(&homes(&["192.0.2.2"])).unwrap();
        announcing.repeat().unwrap();
        let lines = [
            "announce route 192.0.2.1/32 next-hop self",
            "withdraw route 192.0.2.1/32 next-hop self",
            "announce route 192.0.2.2/32 next-hop self",
            "announce route 192.0.2.2/32 next-hop self",
        ];
        assert_eq!(std::fs::read_to_string(&pipe).unwrap().lines().collect::<Vec<_>>(), lines);
    }
}
