//! What a testbed tells about itself, and the directory it lives in.
//!
//! ```text
//!  testbed         marks the directory as a testbed's, so that only such are ever removed
//!  lock            held (flock) while a launcher runs here
//!  options.json    what was asked for
//!  state.json      what there is: the object that `up --json` prints
//!  control.sock    faults, status, down
//!  namespaces      inode numbers, for tidying up
//!  launcher.log    what the launcher had to say
//!  geoip.mmdb      where the addresses are
//!  authority/      the network authority's and publisher's keys
//!  hosts/<name>/   data directory, configuration and log of a member
//! ```

use crate::fabric::Report;
use crate::options::PortKind;
use crate::topology::Role;
use anyhow::{Context, bail};
use serde::{Deserialize, Serialize};
use std::fs::{self, File, OpenOptions, TryLockError};
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};

/// How far a testbed has come.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Phase {
    /// Something is being made; the text says what.
    Starting(String),
    /// All hosts answer.
    Ready,
    /// It did not work out; the text says why.
    Failed(String),
    /// It is going down.
    Ending,
}

/// One host.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct HostState {
    /// Its name.
    pub name: String,
    /// What it does.
    pub role: Role,
    /// Its region's name.
    pub region: String,
    /// Its godwit process; `None` for clients, and while it is not running.
    pub pid: Option<u32>,
    /// Its network namespace, for `nsenter --net=…`; `None` without namespaces.
    pub netns: Option<String>,
    /// Its IPv4 address.
    pub addr4: String,
    /// Its IPv6 address; `None` where the kernel has no IPv6.
    pub addr6: Option<String>,
    /// Where it serves HTTP.
    pub http: Option<String>,
    /// Where it answers DNS.
    pub dns: Option<String>,
    /// Where members reach it.
    pub peer: Option<String>,
    /// Its control socket.
    pub admin: Option<PathBuf>,
    /// Its data directory.
    pub data_dir: Option<PathBuf>,
    /// Where its messages go.
    pub log: Option<PathBuf>,
    /// Why its process is not running, when nobody asked for that.
    pub ended: Option<String>,
}

/// A testbed.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct State {
    /// The zone it serves.
    pub zone: String,
    /// How hosts are joined: `tun`, `packet`, or `loopback` where there are no namespaces, delays
    /// and network faults.
    pub mode: PortKind,
    /// The launcher's process.
    pub launcher: u32,
    /// The directory of everything.
    pub dir: PathBuf,
    /// The network authority's directory, for `godwit publish --authority`.
    pub authority: PathBuf,
    /// The seed that it was made with.
    pub seed: u64,
    /// How far it has come.
    pub phase: Phase,
    /// What a person should know.
    pub warnings: Vec<String>,
    /// Region names, in the order of `rtt_ms`.
    pub regions: Vec<String>,
    /// Round-trip times between regions, ms, row by row.
    pub rtt_ms: Vec<Vec<f64>>,
    /// The hosts.
    pub hosts: Vec<HostState>,
    /// What the fabric has done; only in answers to `status`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fabric: Option<Report>,
}

impl State {
    /// The host with this name, or the first client host of the region with this name.
    pub fn find(&self, name: &str) -> anyhow::Result<&HostState> {
        let named = self.hosts.iter().find(|host| host.name == name);
        let client = || self.hosts.iter().find(|host| host.region == name && host.role == Role::Client);
        named.or_else(client).with_context(|| {
            let names: Vec<_> = self.hosts.iter().map(|host| host.name.as_str()).collect();
            format!("there is no host {name}; hosts are {}", names.join(", "))
        })
    }

    /// Round-trip time between two regions by name, ms.
    pub fn rtt_ms(&self, a: &str, b: &str) -> Option<f64> {
        let at = |name: &str| self.regions.iter().position(|region| region == name);
        self.rtt_ms.get(at(a)?)?.get(at(b)?).copied()
    }
}

/// The directory of a testbed.
#[derive(Clone, Debug)]
pub struct RunDir {
    path: PathBuf,
}

/// Keeps other launchers out while it lives.
#[derive(Debug)]
pub struct RunLock(#[expect(dead_code, reason = "the lock ends with the file")] File);

const MARK: &str = "testbed";
const MARK_TEXT: &str = "This directory belongs to a godwit testbed and is removed with it.\n";

/// A unix socket's path has at most 107 bytes, and `hosts/<name>/admin.sock` must fit.
const PATH_LEN_MAX: usize = 107;

impl RunDir {
    /// The directory `path`, or the user's own. Touches nothing.
    pub fn new(path: Option<&Path>) -> anyhow::Result<RunDir> {
        let path = path.map_or_else(crate::default_dir, Path::to_owned);
        let path = std::path::absolute(&path).with_context(|| format!("{} is not a path", path.display()))?;
        Ok(RunDir { path })
    }

    /// The path of a file in it.
    pub fn file(&self, name: &str) -> PathBuf {
        self.path.join(name)
    }

    /// The directory itself.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Makes the directory for a new testbed; an earlier one that died here is tidied away.
    pub fn create(&self, longest_host: usize) -> anyhow::Result<()> {
        let longest = self.path.as_os_str().len() + "/hosts//admin.sock".len() + longest_host;
        if longest > PATH_LEN_MAX {
            bail!("{} is too long a path for the sockets in it; use a shorter --dir", self.path.display());
        }
        if self.path.exists() {
            self.check_ours()?;
            if self.lock()?.is_none() {
                bail!(
                    "a testbed runs in {}; end it with `godwit testbed down` or use another --dir",
                    self.path.display()
                );
            }
            self.remove()?;
        }
        fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(&self.path)
            .with_context(|| format!("cannot make the directory {}", self.path.display()))?;
        self.check_owner()?;
        fs::write(self.file(MARK), MARK_TEXT)?;
        Ok(())
    }

    /// Takes the lock; `None` when a launcher has it.
    pub fn lock(&self) -> anyhow::Result<Option<RunLock>> {
        let path = self.file("lock");
        let file = OpenOptions::new().create(true).append(true).open(&path);
        let file = file.with_context(|| format!("cannot open {}", path.display()))?;
        match file.try_lock() {
            Ok(()) => Ok(Some(RunLock(file))),
            Err(TryLockError::WouldBlock) => Ok(None),
            Err(TryLockError::Error(error)) => Err(error).context("cannot lock the testbed's directory"),
        }
    }

    /// Whether a launcher runs here.
    pub fn is_running(&self) -> bool {
        self.file(MARK).exists() && matches!(self.lock(), Ok(None))
    }

    /// Removes the directory and all in it; it must be a testbed's.
    pub fn remove(&self) -> anyhow::Result<()> {
        if !self.path.exists() {
            return Ok(());
        }
        self.check_ours()?;
        fs::remove_dir_all(&self.path).with_context(|| format!("cannot remove {}", self.path.display()))
    }

    /// Writes `state.json`, whole or not at all.
    pub fn write_state(&self, state: &State) -> anyhow::Result<()> {
        let fresh = self.file("state.json.new");
        fs::write(&fresh, serde_json::to_vec_pretty(state)?)?;
        fs::rename(fresh, self.file("state.json"))?;
        Ok(())
    }

    /// Reads `state.json`.
    pub fn read_state(&self) -> anyhow::Result<State> {
        let path = self.file("state.json");
        let text = fs::read(&path).with_context(|| format!("cannot read {}", path.display()))?;
        serde_json::from_slice(&text).with_context(|| format!("{} is damaged", path.display()))
    }

    /// Nothing but a testbed's directory is ever emptied, and only its owner's.
    fn check_ours(&self) -> anyhow::Result<()> {
        self.check_owner()?;
        let empty = fs::read_dir(&self.path)?.next().is_none();
        if !empty && fs::read_to_string(self.file(MARK)).ok().as_deref() != Some(MARK_TEXT) {
            bail!("{} exists and is not a testbed's directory; use another --dir", self.path.display());
        }
        Ok(())
    }

    fn check_owner(&self) -> anyhow::Result<()> {
        let metadata = fs::symlink_metadata(&self.path)?;
        let own = fs::metadata("/proc/self").map(|own| own.uid());
        if !metadata.is_dir() || own.is_ok_and(|own| own != metadata.uid()) {
            bail!("{} is not a directory of this user; use another --dir", self.path.display());
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_testbeds_directory_is_emptied() {
        let parent = tempfile::tempdir().unwrap();
        let theirs = parent.path().join("theirs");
        fs::create_dir(&theirs).unwrap();
        fs::write(theirs.join("thesis.tex"), "x").unwrap();
        let dir = RunDir::new(Some(&theirs)).unwrap();
        assert!(dir.create(10).unwrap_err().to_string().contains("not a testbed's directory"));
        assert!(dir.remove().is_err());
        let ours = RunDir::new(Some(&parent.path().join("a/b"))).unwrap();
        ours.create(10).unwrap();
        assert!(!ours.is_running());
        let lock = ours.lock().unwrap().unwrap();
        assert!(ours.is_running());
        assert!(ours.create(10).unwrap_err().to_string().contains("a testbed runs in"));
        drop(lock);
        ours.create(10).unwrap();
        ours.remove().unwrap();
        assert!(!ours.path().exists());
        assert!(ours.create(100).unwrap_err().to_string().contains("too long"));
    }
}
