//! The authority directory: what the person who owns a network keeps.
//!
//! ```text
//! authority.key     the network authority's key, sealed with a passphrase
//! authority.json    the zone, the next serial, who was invited and where: no secrets
//! publisher.key     a key that may publish every site and give orders, plain
//! publisher.cert    the authority's certificate for it, wire form in hexadecimal
//! ```
//!
//! Only the first needs to stay off line; it signs invitations and revocations. The publisher's
//! two files are what a machine that publishes gets. Files are replaced whole, and a lock keeps two
//! commands from giving one serial twice.

pub(crate) mod sealed;

use crate::failure::{Classify, Exit, Failure, Outcome};
use anyhow::Context;
use godwit_core::certificate::{PublisherCertificate, Role, Serial};
use godwit_core::key::{NetworkId, SecretKey};
use godwit_core::name::{MemberName, RegionName, ZoneName};
use godwit_core::time::Time;
use godwit_core::wire;
use godwit_node::datadir::replace_file;
use serde::{Deserialize, Serialize};
use std::fs::{self, File, OpenOptions};
use std::io::{self, IsTerminal, Read};
use std::net::SocketAddr;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use zeroize::Zeroizing;

/// No file in the directory is longer, bytes: ten thousand members are some 4 MB.
const FILE_LEN_MAX: u64 = 16 * 1024 * 1024;

/// The version of `authority.json` that this program writes and reads.
const FORMAT: u32 = 1;

const STATE: &str = "authority.json";
const KEY: &str = "authority.key";
const PUBLISHER_KEY: &str = "publisher.key";
const PUBLISHER_CERTIFICATE: &str = "publisher.cert";

/// An authority directory.
#[derive(Clone, Debug)]
pub(crate) struct AuthorityDir {
    path: PathBuf,
}

/// What the authority knows about its network.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct State {
    /// Version of the form.
    pub(crate) format: u32,
    /// The authority's public key.
    #[serde(with = "crate::text")]
    pub(crate) network: NetworkId,
    /// The network's zone.
    pub(crate) zone: ZoneName,
    /// The serial to give next.
    pub(crate) next_serial: u64,
    /// Who was invited, in order.
    pub(crate) members: Vec<Invited>,
    /// Publisher certificates issued, in order.
    pub(crate) publishers: Vec<Issued>,
}

/// One invitation.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Invited {
    pub(crate) serial: Serial,
    pub(crate) name: MemberName,
    pub(crate) region: RegionName,
    pub(crate) roles: Vec<Role>,
    /// Where members will reach it: bootstrap addresses in later tokens.
    pub(crate) addresses: Vec<SocketAddr>,
    /// The token must be redeemed by then.
    pub(crate) redeem_by: Time,
    /// The membership ends then.
    pub(crate) not_after: Time,
    pub(crate) founder: bool,
    pub(crate) revoked: bool,
}

/// One publisher certificate.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Issued {
    pub(crate) serial: Serial,
    /// The key it is for, hexadecimal.
    pub(crate) key: String,
    pub(crate) site_prefix: String,
    pub(crate) not_after: Time,
    pub(crate) revoked: bool,
}

/// A publisher's key and certificate.
#[derive(Clone, Debug)]
pub(crate) struct Publisher {
    pub(crate) key: SecretKey,
    pub(crate) certificate: PublisherCertificate,
}

impl State {
    /// A new network.
    pub(crate) fn new(network: NetworkId, zone: ZoneName) -> State {
        State { format: FORMAT, network, zone, next_serial: 1, members: Vec::new(), publishers: Vec::new() }
    }

    /// Takes the next serial.
    pub(crate) fn take_serial(&mut self) -> Serial {
        let serial = Serial(self.next_serial);
        self.next_serial += 1;
        serial
    }

    /// The newest invitation of this name that was not revoked.
    pub(crate) fn member(&self, name: &MemberName) -> Option<&Invited> {
        self.members.iter().rev().find(|member| member.name == *name && !member.revoked)
    }
}

impl AuthorityDir {
    /// The authority directory at `path`. Touches nothing.
    pub(crate) fn new(path: impl Into<PathBuf>) -> AuthorityDir {
        AuthorityDir { path: path.into() }
    }

    /// The directory itself.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Makes the directory and puts a new network into it. Refuses to replace one.
    pub(crate) fn create(&self, state: &State, key: &str, publisher: &Publisher) -> Outcome {
        fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(&self.path)
            .with_context(|| format!("cannot make {}", self.path.display()))?;
        let _lock = self.lock()?;
        if self.path.join(KEY).exists() || self.path.join(STATE).exists() {
            return Err(Failure::usage(format!(
                "{} already holds the authority of a network",
                self.path.display()
            ))
            .advise("name another directory with --authority DIR; an authority is never replaced"));
        }
        self.replace(PUBLISHER_KEY, sealed::plain(&publisher.key).as_bytes())?;
        self.replace(
            PUBLISHER_CERTIFICATE,
            format!("{}\n", hex::encode(wire::encode(&publisher.certificate))).as_bytes(),
        )?;
        self.replace(KEY, key.as_bytes())?;
        // Last: a directory with a state is whole.
        self.replace(STATE, json(state)?.as_bytes())
    }

    /// What the authority knows.
    pub(crate) fn state(&self) -> Outcome<State> {
        let text = self.read(STATE)?.ok_or_else(|| {
            Failure::usage(format!("{} holds no authority", self.path.display())).advise(
                "make a network with `godwit init --zone ZONE`, or name its directory with --authority DIR",
            )
        })?;
        let state: State = serde_json::from_str(&text)
            .with_context(|| format!("{} is damaged", self.path.join(STATE).display()))?;
        if state.format != FORMAT {
            return Err(Failure::usage(format!(
                "{} has form {}, this godwit reads form {FORMAT}",
                self.path.join(STATE).display(),
                state.format
            )));
        }
        Ok(state)
    }

    /// Changes what the authority knows, in one piece: nobody else changes it meanwhile, and when
    /// `change` fails nothing was changed.
    pub(crate) fn update<T>(&self, change: impl FnOnce(&mut State) -> Outcome<T>) -> Outcome<T> {
        let _lock = self.lock()?;
        let mut state = self.state()?;
        let result = change(&mut state)?;
        self.replace(STATE, json(&state)?.as_bytes())?;
        Ok(result)
    }

    /// The authority's key; asks for the passphrase when it is sealed.
    pub(crate) fn unlock(&self) -> Outcome<SecretKey> {
        let state = self.state()?;
        let text = Zeroizing::new(self.read(KEY)?.ok_or_else(|| {
            Failure::usage(format!("{} has no {KEY}", self.path.display()))
                .advise("the authority's key is elsewhere: run this where it is kept")
        })?);
        let key = if sealed::is_sealed(&text) {
            sealed::open(&text, &ask_passphrase("Passphrase of the network authority: ")?)
        } else {
            sealed::read_plain(&text)
        };
        let key = key.or_exit(Exit::Usage)?;
        if key.public() != state.network {
            return Err(Failure::usage(format!("{KEY} and {STATE} are of different networks")));
        }
        Ok(key)
    }

    /// The publisher's key and certificate.
    pub(crate) fn publisher(&self) -> Outcome<Publisher> {
        let missing = |name: &str| {
            Failure::usage(format!("{} has no {name}", self.path.display())).advise(
                "copy publisher.key and publisher.cert from the machine where `godwit init` ran, and name \
                 their directory with --publisher DIR",
            )
        };
        let key = Zeroizing::new(self.read(PUBLISHER_KEY)?.ok_or_else(|| missing(PUBLISHER_KEY))?);
        let key = sealed::read_plain(&key).or_exit(Exit::Usage)?;
        let text = self.read(PUBLISHER_CERTIFICATE)?.ok_or_else(|| missing(PUBLISHER_CERTIFICATE))?;
        let damaged = || format!("{} is damaged", self.path.join(PUBLISHER_CERTIFICATE).display());
        let bytes = hex::decode(text.trim()).with_context(damaged).or_exit(Exit::Usage)?;
        let certificate: PublisherCertificate =
            wire::decode(&bytes, wire::RECORD_LEN_MAX).with_context(damaged).or_exit(Exit::Usage)?;
        if certificate.publisher != key.public() {
            return Err(Failure::usage(format!("{PUBLISHER_CERTIFICATE} is not for {PUBLISHER_KEY}")));
        }
        Ok(Publisher { key, certificate })
    }

    fn lock(&self) -> Outcome<File> {
        let path = self.path.join("lock");
        let open = || -> io::Result<File> {
            let file = OpenOptions::new().write(true).create(true).truncate(false).mode(0o600).open(&path)?;
            file.lock()?;
            Ok(file)
        };
        Ok(open().with_context(|| format!("cannot lock {}", path.display()))?)
    }

    fn read(&self, name: &str) -> Outcome<Option<String>> {
        let path = self.path.join(name);
        let file = match File::open(&path) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => {
                return Err(anyhow::Error::new(error)
                    .context(format!("cannot open {}", path.display()))
                    .into());
            }
        };
        let mut text = String::new();
        file.take(FILE_LEN_MAX)
            .read_to_string(&mut text)
            .with_context(|| format!("cannot read {}", path.display()))?;
        Ok(Some(text))
    }

    fn replace(&self, name: &str, bytes: &[u8]) -> Outcome {
        Ok(replace_file(&self.path, name, bytes)
            .with_context(|| format!("cannot write {}", self.path.join(name).display()))?)
    }
}

/// The passphrase from `GODWIT_PASSPHRASE`, or else from the terminal.
pub(crate) fn ask_passphrase(prompt: &str) -> Outcome<Zeroizing<String>> {
    if let Some(passphrase) = passphrase_from_environment() {
        return Ok(passphrase);
    }
    if !io::stdin().is_terminal() {
        return Err(Failure::usage("the authority's key is sealed, and there is no terminal to ask at")
            .advise("set GODWIT_PASSPHRASE, or run this in a terminal"));
    }
    Ok(Zeroizing::new(rpassword::prompt_password(prompt).context("cannot read the passphrase")?))
}

/// The passphrase from `GODWIT_PASSPHRASE`, if it is set.
pub(crate) fn passphrase_from_environment() -> Option<Zeroizing<String>> {
    std::env::var("GODWIT_PASSPHRASE").ok().map(Zeroizing::new)
}

fn json(state: &State) -> anyhow::Result<String> {
    Ok(serde_json::to_string_pretty(state)? + "\n")
}
