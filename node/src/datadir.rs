//! A member's data directory.
//!
//! ```text
//! member.key          the member's secret key, hexadecimal, mode 0600
//! certificate         the member's certificate, wire form in hexadecimal
//! incarnation         how often the member was started, decimal
//! binding-epoch       how often the member has served home addresses, decimal
//! serving             what it serves at home addresses, as operators said, JSON
//! members.bootstrap   addresses of members from the join token, JSON
//! lock                held (flock) by the daemon that runs here
//! store/              content and records
//! generation.bin      the inputs of the last map, to answer from at the next start
//! admin.sock          the control endpoint of the running daemon, mode 0600
//! ```
//!
//! Every file is replaced whole: written beside, synced, renamed, the directory synced. A crash
//! leaves the old file or the new one.

use crate::mobility::Serving;
use godwit_core::certificate::MemberCertificate;
use godwit_core::key::SecretKey;
use godwit_core::wire;
use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, Read, Write};
use std::net::SocketAddr;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

/// The control endpoint's socket in the directory.
pub(crate) const ADMIN_SOCKET: &str = "admin.sock";

/// No file of ours but the map's inputs is longer, bytes.
const FILE_LEN_MAX: u64 = 64 * 1024;

/// Why a data directory cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum DataDirError {
    /// The host has not joined a network. Joining helps.
    #[error("{0} holds no member: run `godwit join TOKEN` first")]
    NotJoined(PathBuf),
    /// Key and certificate are of different members: files of two directories were mixed.
    #[error(
        "the certificate in {path} is for member {certificate}, but the key there is that of {key}: \
         this is another member's directory"
    )]
    OtherMember {
        /// The directory.
        path: PathBuf,
        /// Whom the certificate names, short.
        certificate: String,
        /// Whose key is there, short.
        key: String,
    },
    /// A daemon runs here. Stopping it helps.
    #[error("{0} is in use by a running godwit")]
    Locked(PathBuf),
    /// A file does not have its form.
    #[error("{path} is damaged: {problem}")]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        problem: String,
    },
    /// The system refused.
    #[error("{path}: {source}")]
    Io {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

/// Who the member is: what joining leaves in the directory.
#[derive(Clone, Debug)]
pub struct Identity {
    /// The member's key.
    pub key: SecretKey,
    /// Its certificate, for that key.
    pub certificate: MemberCertificate,
}

/// The paths of a member's data directory. Making one touches nothing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DataDir {
    path: PathBuf,
}

/// Keeps a second daemon out of the directory while it lives.
#[derive(Debug)]
pub struct Lock {
    _file: File,
}

impl DataDir {
    /// The data directory at `path`.
    pub fn new(path: impl Into<PathBuf>) -> DataDir {
        DataDir { path: path.into() }
    }

    /// The directory itself.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Where the store lies.
    pub fn store(&self) -> PathBuf {
        self.path.join("store")
    }

    /// Where the map's last inputs lie.
    pub fn generation(&self) -> PathBuf {
        self.path.join("generation.bin")
    }

    /// Where the running daemon answers its operator.
    pub fn admin_socket(&self) -> PathBuf {
        self.path.join(ADMIN_SOCKET)
    }

    /// Makes the directory, readable by its owner only, unless it is there.
    pub fn create(&self) -> Result<(), DataDirError> {
        fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(&self.path)
            .map_err(|source| self.io("", source))
    }

    /// Keeps other daemons out for as long as the [`Lock`] lives.
    pub fn lock(&self) -> Result<Lock, DataDirError> {
        let file = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(self.path.join("lock"))
            .map_err(|source| self.io("lock", source))?;
        match file.try_lock() {
            Ok(()) => Ok(Lock { _file: file }),
            Err(TryLockError::WouldBlock) => Err(DataDirError::Locked(self.path.clone())),
            Err(TryLockError::Error(source)) => Err(self.io("lock", source)),
        }
    }

    /// The member's key, if one was written.
    pub fn key(&self) -> Result<Option<SecretKey>, DataDirError> {
        let Some(text) = self.text("member.key")? else { return Ok(None) };
        let mut seed = [0; 32];
        hex::decode_to_slice(text.trim(), &mut seed)
            .map_err(|_| self.damaged("member.key", "a key is 64 hexadecimal digits".into()))?;
        Ok(Some(SecretKey::from_seed(&seed)))
    }

    /// Writes the member's key.
    pub fn write_key(&self, key: &SecretKey) -> Result<(), DataDirError> {
        self.replace("member.key", format!("{}\n", hex::encode(*key.to_seed())).as_bytes())
    }

    /// The member's key; a fresh one is drawn and written when there is none.
    pub fn key_or_new(&self) -> Result<SecretKey, DataDirError> {
        if let Some(key) = self.key()? {
            return Ok(key);
        }
        let key = SecretKey::from_seed(&rand::random());
        self.write_key(&key)?;
        Ok(key)
    }

    /// The member's certificate, if it has joined.
    pub fn certificate(&self) -> Result<Option<MemberCertificate>, DataDirError> {
        let Some(text) = self.text("certificate")? else { return Ok(None) };
        let bytes = hex::decode(text.trim()).map_err(|e| self.damaged("certificate", e.to_string()))?;
        wire::decode(&bytes, wire::RECORD_LEN_MAX)
            .map(Some)
            .map_err(|e| self.damaged("certificate", e.to_string()))
    }

    /// Writes the member's certificate.
    pub fn write_certificate(&self, certificate: &MemberCertificate) -> Result<(), DataDirError> {
        self.replace("certificate", format!("{}\n", hex::encode(wire::encode(certificate))).as_bytes())
    }

    /// Key and certificate, which must belong together.
    pub fn identity(&self) -> Result<Identity, DataDirError> {
        let (Some(key), Some(certificate)) = (self.key()?, self.certificate()?) else {
            return Err(DataDirError::NotJoined(self.path.clone()));
        };
        if certificate.member() != key.public() {
            return Err(DataDirError::OtherMember {
                path: self.path.clone(),
                certificate: certificate.member().short(),
                key: key.public().short(),
            });
        }
        certificate
            .verify(certificate.grant().network)
            .map_err(|invalid| self.damaged("certificate", invalid.to_string()))?;
        Ok(Identity { key, certificate })
    }

    /// Addresses of members from the join token; empty when none were written.
    pub fn bootstrap(&self) -> Result<Vec<SocketAddr>, DataDirError> {
        let Some(text) = self.text("members.bootstrap")? else { return Ok(Vec::new()) };
        serde_json::from_str(&text).map_err(|e| self.damaged("members.bootstrap", e.to_string()))
    }

    /// Writes addresses of members to ask first.
    pub fn write_bootstrap(&self, addresses: &[SocketAddr]) -> Result<(), DataDirError> {
        let text = serde_json::json!(addresses).to_string();
        self.replace("members.bootstrap", text.as_bytes())
    }

    /// Counts this start: the incarnation, higher than any before and durable when this returns.
    pub fn next_incarnation(&self) -> Result<u64, DataDirError> {
        let last = match self.text("incarnation")? {
            None => 0,
            Some(text) => {
                text.trim().parse().map_err(|_| self.damaged("incarnation", "it is not a number".into()))?
            }
        };
        let next = u64::saturating_add(last, 1);
        self.replace("incarnation", format!("{next}\n").as_bytes())?;
        Ok(next)
    }

    /// Counts this start for home agents: the epoch, higher than any before and durable when this
    /// returns.
    pub(crate) fn next_binding_epoch(&self) -> Result<u32, DataDirError> {
        let last = match self.text("binding-epoch")? {
            None => 0,
            Some(text) => {
                text.trim().parse().map_err(|_| self.damaged("binding-epoch", "it is not a number".into()))?
            }
        };
        let next = u32::saturating_add(last, 1);
        self.write_binding_epoch(next)?;
        Ok(next)
    }

    /// Keeps an epoch.
    pub(crate) fn write_binding_epoch(&self, epoch: u32) -> Result<(), DataDirError> {
        self.replace("binding-epoch", format!("{epoch}\n").as_bytes())
    }

    /// What is served at home addresses, as operators said; nothing when nothing was written.
    pub(crate) fn serving(&self) -> Result<Vec<Serving>, DataDirError> {
        let Some(text) = self.text("serving")? else { return Ok(Vec::new()) };
        serde_json::from_str(&text).map_err(|e| self.damaged("serving", e.to_string()))
    }

    /// Keeps what is served at home addresses.
    pub(crate) fn write_serving(&self, serving: &[Serving]) -> Result<(), DataDirError> {
        let text = serde_json::to_string(serving).map_err(|e| self.damaged("serving", e.to_string()))?;
        self.replace("serving", text.as_bytes())
    }

    /// Replaces the file `name` by one with these bytes, whole, durable and readable by the owner only.
    pub(crate) fn replace(&self, name: &str, bytes: &[u8]) -> Result<(), DataDirError> {
        replace_file(&self.path, name, bytes).map_err(|source| self.io(name, source))
    }

    fn text(&self, name: &str) -> Result<Option<String>, DataDirError> {
        let file = match File::open(self.path.join(name)) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(source) => return Err(self.io(name, source)),
        };
        let mut text = String::new();
        file.take(FILE_LEN_MAX).read_to_string(&mut text).map_err(|source| self.io(name, source))?;
        Ok(Some(text))
    }

    fn io(&self, name: &str, source: io::Error) -> DataDirError {
        let path = if name.is_empty() { self.path.clone() } else { self.path.join(name) };
        DataDirError::Io { path, source }
    }

    fn damaged(&self, name: &str, problem: String) -> DataDirError {
        DataDirError::Damaged { path: self.path.join(name), problem }
    }
}

/// Replaces the file `name` in `dir` by one with these bytes, whole, durable and readable by the
/// owner only: beside it first, then in its place, then the directory itself is synced.
pub fn replace_file(dir: &Path, name: &str, bytes: &[u8]) -> io::Result<()> {
    let beside = dir.join(format!(".{name}.new"));
    let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&beside)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    fs::rename(&beside, dir.join(name))?;
    File::open(dir)?.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    fn directory() -> (tempfile::TempDir, DataDir) {
        let temp = tempfile::tempdir().unwrap();
        let dir = DataDir::new(temp.path().join("member"));
        dir.create().unwrap();
        (temp, dir)
    }

    #[test]
    fn files_read_back_and_are_private() {
        let (_temp, dir) = directory();
        let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!(mode(dir.path()), 0o700);
        let key = dir.key_or_new().unwrap();
        assert_eq!(mode(&dir.path().join("member.key")), 0o600);
        assert_eq!(dir.key_or_new().unwrap().public(), key.public());
        let addresses = vec!["192.0.2.1:4100".parse().unwrap()];
        dir.write_bootstrap(&addresses).unwrap();
        assert_eq!(dir.bootstrap().unwrap(), addresses);
    }

    #[test]
    fn incarnations_grow_and_a_damaged_count_is_no_fresh_start() {
        let (_temp, dir) = directory();
        assert_eq!((dir.next_incarnation().unwrap(), dir.next_incarnation().unwrap()), (1, 2));
        fs::write(dir.path().join("incarnation"), "soup").unwrap();
        assert!(matches!(dir.next_incarnation(), Err(DataDirError::Damaged { .. })));
    }

    #[test]
    fn an_empty_directory_says_how_to_join() {
        let (_temp, dir) = directory();
        let error = dir.identity().unwrap_err();
        assert!(error.to_string().contains("godwit join"), "{error}");
    }

    #[test]
    fn one_daemon_at_a_time() {
        let (_temp, dir) = directory();
        let lock = dir.lock().unwrap();
        assert!(matches!(dir.lock(), Err(DataDirError::Locked(_))));
        drop(lock);
        dir.lock().unwrap();
    }
}
