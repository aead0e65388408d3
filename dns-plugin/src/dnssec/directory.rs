//! The directory of keys: what redirectors read and `godwit dnssec` writes.
//!
//! ```text
//! Kedge.example.org.+013+34567.pem    the private key, PKCS#8; readable by its owner only
//! Kedge.example.org.+013+34567.toml   role and times
//! lock                                keeps two commands apart
//! ```
//!
//! Files are replaced whole. A key is there when its `.toml` is; the `.pem` is written before it.
//! Files of other zones may lie beside.

use super::date::{BadDate, Date};
use super::key::{Algorithm, KeyError, PEM_LEN_MAX, SigningKey};
use super::lifecycle::{Role, Times};
use super::timeline::ZoneKey;
use godwit_core::name::ZoneName;
use godwit_core::time::Time;
use serde::{Deserialize, Serialize};
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use zeroize::Zeroizing;

/// More keys of a zone than this are a mistake: a rollover has two or three, and the files of those
/// that are removed stay until somebody deletes them.
pub const KEYS_MAX: usize = 64;
/// The form of `.toml` files that this program writes and reads.
const FORMAT: u32 = 1;

/// Why keys were not read or written.
#[derive(Debug, thiserror::Error)]
pub enum DirectoryError {
    /// The file system said no.
    #[error("cannot {doing} {}", path.display())]
    Io {
        /// What was tried.
        doing: &'static str,
        /// With what.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// Others than the owner may read a private key.
    #[error("{} may be read by others: chmod 600 it", .0.display())]
    Open(PathBuf),
    /// A private key that is none.
    #[error("{} is no key", path.display())]
    Key {
        /// The file.
        path: PathBuf,
        /// Why.
        source: KeyError,
    },
    /// A `.toml` file that is none of a key.
    #[error("{} does not tell of a key: {problem}", path.display())]
    State {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        problem: String,
    },
    /// More than [`KEYS_MAX`] keys of a zone.
    #[error("{} has more than {KEYS_MAX} keys of this zone: delete the files of those that are removed", .0.display())]
    TooMany(PathBuf),
}

/// A key in the directory.
#[derive(Clone, Debug)]
pub struct StoredKey {
    /// The name of its files, without ending.
    pub stem: String,
    /// The key itself.
    pub key: ZoneKey,
}

/// A directory of keys.
#[derive(Clone, Debug)]
pub struct Directory {
    path: PathBuf,
}

/// `.toml`, as it is written.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct State {
    format: u32,
    zone: ZoneName,
    algorithm: String,
    role: String,
    published: String,
    active: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    ds_from: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    ds_until: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    retired: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    removed: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    ds_delete: Option<String>,
}

impl Directory {
    /// The directory at `path`. Touches nothing.
    pub fn new(path: impl Into<PathBuf>) -> Directory {
        Directory { path: path.into() }
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The keys of a zone, oldest first. None is no error.
    pub fn read(&self, zone: &ZoneName) -> Result<Vec<StoredKey>, DirectoryError> {
        let prefix = format!("K{zone}.+");
        let mut keys = Vec::new();
        for entry in fs::read_dir(&self.path).map_err(|source| self.io("read", &self.path, source))? {
            let entry = entry.map_err(|source| self.io("read", &self.path, source))?;
            let name = entry.file_name();
            let Some(stem) = name.to_str().and_then(|name| name.strip_suffix(".toml")) else { continue };
            if !stem.starts_with(&prefix) {
                continue;
            }
            if keys.len() == KEYS_MAX {
                return Err(DirectoryError::TooMany(self.path.clone()));
            }
            keys.push(self.read_key(stem)?);
        }
        // Two of one second: the one that signs, or that the parent is asked for, earlier.
        let age = |stored: &StoredKey| {
            let Times { published, active, ds_from, .. } = stored.key.times;
            (published, active, ds_from, stored.stem.clone())
        };
        keys.sort_by_key(age);
        Ok(keys)
    }

    fn read_key(&self, stem: &str) -> Result<StoredKey, DirectoryError> {
        let path = self.file(stem, "toml");
        let bad = |problem: String| DirectoryError::State { path: path.clone(), problem };
        let state: State =
            toml::from_str(&self.text(&path)?.0).map_err(|error| bad(error.message().into()))?;
        if state.format != FORMAT {
            return Err(bad(format!("its form is {}, and this godwit reads form {FORMAT}", state.format)));
        }
        let algorithm: Algorithm =
            state.algorithm.parse().map_err(|error: KeyError| bad(error.to_string()))?;
        let role: Role = state.role.parse().map_err(bad)?;
        let times = state.times().map_err(|error| bad(error.to_string()))?;
        let pem = self.file(stem, "pem");
        let (text, mode) = self.text(&pem)?;
        if mode & 0o077 != 0 {
            return Err(DirectoryError::Open(pem));
        }
        let text = Zeroizing::new(text);
        let key = SigningKey::from_pem(algorithm, &text)
            .map_err(|source| DirectoryError::Key { path: pem, source })?;
        Ok(StoredKey { stem: stem.to_owned(), key: ZoneKey { key: Arc::new(key), role, times } })
    }

    /// The zones that have keys here.
    pub fn zones(&self) -> Result<Vec<ZoneName>, DirectoryError> {
        let mut zones = Vec::new();
        for entry in fs::read_dir(&self.path).map_err(|source| self.io("read", &self.path, source))? {
            let name = entry.map_err(|source| self.io("read", &self.path, source))?.file_name();
            let stem = name.to_str().and_then(|name| name.strip_prefix('K')?.strip_suffix(".toml"));
            let zone = stem.and_then(|stem| stem.split(".+").next()?.parse().ok());
            zones.extend(zone);
        }
        zones.sort();
        zones.dedup();
        Ok(zones)
    }

    /// Writes a new key, which nobody has yet.
    pub fn add(&self, zone: &ZoneName, key: ZoneKey) -> Result<StoredKey, DirectoryError> {
        let stem = format!("K{zone}.+{:03}+{:05}", key.key.algorithm().number(), key.public().tag());
        let path = self.file(&stem, "pem");
        let pem = key.key.to_pem().map_err(|source| DirectoryError::Key { path: path.clone(), source })?;
        let stored = StoredKey { stem, key };
        self.replace(&path, pem.as_bytes(), 0o600)?;
        self.update(zone, &stored)?;
        Ok(stored)
    }

    /// Whether a key of this name is there already: two keys may have one tag.
    pub fn has(&self, zone: &ZoneName, key: &ZoneKey) -> bool {
        let stem = format!("K{zone}.+{:03}+{:05}", key.key.algorithm().number(), key.public().tag());
        self.file(&stem, "pem").exists()
    }

    /// Writes role and times of a key.
    pub fn update(&self, zone: &ZoneName, stored: &StoredKey) -> Result<(), DirectoryError> {
        let path = self.file(&stored.stem, "toml");
        let text = toml::to_string(&State::new(zone, &stored.key))
            .map_err(|error| DirectoryError::State { path: path.clone(), problem: error.to_string() })?;
        self.replace(&path, text.as_bytes(), 0o644)
    }

    /// Makes the directory if there is none, and keeps other commands out until the file is dropped.
    pub fn lock(&self) -> Result<File, DirectoryError> {
        let made = fs::DirBuilder::new().recursive(true).mode(0o700).create(&self.path);
        made.map_err(|source| self.io("make", &self.path, source))?;
        let path = self.path.join("lock");
        let open = || -> io::Result<File> {
            let file = OpenOptions::new().write(true).create(true).truncate(false).mode(0o600).open(&path)?;
            file.lock()?;
            Ok(file)
        };
        open().map_err(|source| self.io("lock", &path, source))
    }

    fn file(&self, stem: &str, ending: &str) -> PathBuf {
        self.path.join(format!("{stem}.{ending}"))
    }

    /// A file's text and mode.
    fn text(&self, path: &Path) -> Result<(String, u32), DirectoryError> {
        let read = || -> io::Result<(String, u32)> {
            let file = File::open(path)?;
            let mode = file.metadata()?.permissions().mode();
            let mut text = String::with_capacity(1024);
            file.take(PEM_LEN_MAX as u64).read_to_string(&mut text)?;
            Ok((text, mode))
        };
        read().map_err(|source| self.io("read", path, source))
    }

    /// Replaces a file whole and durably.
    fn replace(&self, path: &Path, bytes: &[u8], mode: u32) -> Result<(), DirectoryError> {
        let new = path.with_added_extension("new");
        let write = || -> io::Result<()> {
            // One that was left behind may be of another mode.
            match fs::remove_file(&new) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                _ => {}
            }
            let mut file = OpenOptions::new().write(true).create_new(true).mode(mode).open(&new)?;
            file.write_all(bytes)?;
            file.sync_all()?;
            fs::rename(&new, path)?;
            File::open(&self.path)?.sync_all()
        };
        write().map_err(|source| self.io("write", path, source))
    }

    fn io(&self, doing: &'static str, path: &Path, source: io::Error) -> DirectoryError {
        DirectoryError::Io { doing, path: path.to_owned(), source }
    }
}

impl State {
    fn new(zone: &ZoneName, key: &ZoneKey) -> State {
        let date = |time: Time| Date(time).to_string();
        let Times { published, active, ds_from, ds_until, retired, removed, ds_delete } = key.times;
        State {
            format: FORMAT,
            zone: zone.clone(),
            algorithm: key.key.algorithm().to_string(),
            role: key.role.to_string(),
            published: date(published),
            active: date(active),
            ds_from: ds_from.map(date),
            ds_until: ds_until.map(date),
            retired: retired.map(date),
            removed: removed.map(date),
            ds_delete: ds_delete.map(date),
        }
    }

    fn times(&self) -> Result<Times, BadDate> {
        let date = |text: &String| text.parse::<Date>().map(|date| date.0);
        let maybe = |text: &Option<String>| text.as_ref().map(date).transpose();
        Ok(Times {
            published: date(&self.published)?,
            active: date(&self.active)?,
            ds_from: maybe(&self.ds_from)?,
            ds_until: maybe(&self.ds_until)?,
            retired: maybe(&self.retired)?,
            removed: maybe(&self.removed)?,
            ds_delete: maybe(&self.ds_delete)?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(secs: u64, algorithm: Algorithm) -> ZoneKey {
        let mut times = Times::first(Time::from_secs(secs), Role::Csk);
        times.retired = Some(Time::from_secs(secs + 5));
        times.ds_delete = Some(Time::from_secs(secs + 6));
        ZoneKey { key: Arc::new(SigningKey::generate(algorithm).unwrap()), role: Role::Csk, times }
    }

    #[test]
    fn keys_survive_their_files() {
        let temporary = tempfile::tempdir().unwrap();
        let directory = Directory::new(temporary.path().join("keys"));
        let zone: ZoneName = "edge.example.org".parse().unwrap();
        let _lock = directory.lock().unwrap();
        let young = directory.add(&zone, key(200, Algorithm::Ed25519)).unwrap();
        let old = directory.add(&zone, key(100, Algorithm::EcdsaP256)).unwrap();
        directory.add(&"other.example.org".parse().unwrap(), key(1, Algorithm::Ed25519)).unwrap();
        let read = directory.read(&zone).unwrap();
        assert_eq!(read.iter().map(|key| &key.stem).collect::<Vec<_>>(), [&old.stem, &young.stem]);
        assert_eq!((read[0].key.times, read[0].key.public()), (old.key.times, old.key.public()));
        assert!(directory.has(&zone, &old.key) && !directory.has(&zone, &key(1, Algorithm::Ed25519)));
        assert!(old.stem.starts_with("Kedge.example.org.+013+"), "{}", old.stem);
        let names: Vec<String> = directory.zones().unwrap().iter().map(ToString::to_string).collect();
        assert_eq!(names, ["edge.example.org", "other.example.org"]);
        let pem = directory.file(&old.stem, "pem");
        assert_eq!(fs::metadata(&pem).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(fs::metadata(directory.path()).unwrap().permissions().mode() & 0o777, 0o700);
        fs::set_permissions(&pem, fs::Permissions::from_mode(0o640)).unwrap();
        assert!(matches!(directory.read(&zone), Err(DirectoryError::Open(_))));
    }

    #[test]
    fn what_is_wrong_is_told() {
        let temporary = tempfile::tempdir().unwrap();
        let directory = Directory::new(temporary.path());
        let zone: ZoneName = "edge.example.org".parse().unwrap();
        assert!(directory.read(&zone).unwrap().is_empty());
        let stored = directory.add(&zone, key(200, Algorithm::Ed25519)).unwrap();
        let path = directory.file(&stored.stem, "toml");
        let text = fs::read_to_string(&path).unwrap();
        for (from, to) in [
            ("format = 1", "format = 2"),
            ("role = \"csk\"", "role = \"king\""),
            ("algorithm = \"ed25519\"", "algorithm = \"rsa\""),
            ("1970-01-01", "1970-02-30"),
            ("published", "x = 1\npublished"),
        ] {
            assert!(text.contains(from), "{text}");
            fs::write(&path, text.replacen(from, to, 1)).unwrap();
            assert!(matches!(directory.read(&zone), Err(DirectoryError::State { .. })), "{to}");
        }
        fs::write(&path, text.replace("ed25519", "ecdsa-p256")).unwrap();
        assert!(matches!(directory.read(&zone), Err(DirectoryError::Key { .. })));
        let missing = Directory::new(temporary.path().join("missing"));
        assert!(matches!(missing.read(&zone), Err(DirectoryError::Io { .. })));
    }
}
