//! `godwit dnssec`: the zone's keys.

mod change;
mod show;

use crate::config::File;
use crate::failure::{Classify, Exit, Failure, Outcome};
use crate::span::Span;
use crate::terminal;
use crate::verb::config::FileArguments;
use anyhow::Context;
use clap::{Args, Subcommand};
use godwit_core::name::ZoneName;
use godwit_core::time::Time;
use godwit_dns_plugin::dnssec::date::Date;
use godwit_dns_plugin::dnssec::rollover::convert::Scheme;
use godwit_dns_plugin::dnssec::rollover::{self, RollError, Waits};
use godwit_dns_plugin::dnssec::{Algorithm, Directory, Phase, Role, SigningKey, StoredKey, Times, ZoneKey};
use std::path::PathBuf;
use std::sync::Arc;

/// How often another key is made because two have one tag: they are 65,536, and a zone has a few.
const TAG_TRIES: usize = 16;

/// Make, show and change the keys that the zone's answers are signed with
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  godwit dnssec generate --zone edge.example.org --keys /var/lib/godwit/keys
  godwit dnssec ds            what to enter at the registrar
  godwit dnssec status        the keys, their phases, and what to do next
  godwit dnssec roll start    a new key beside the old one
  godwit dnssec roll ds-seen  the registrar has the new DS record, and it only
  godwit dnssec roll emergency   somebody else may have the keys: replace all of them
  godwit dnssec convert split    a KSK and a ZSK in place of one key for both
  godwit dnssec unsign start     sign no more, in the end

The directory is the one in `[dnssec] keys` of the configuration. Every redirector has the same
files in it: make and change them on one machine and copy the directory. Redirectors read changed
files within ten seconds.")]
pub(crate) struct Dnssec {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// Make the first key of a zone, and print its DS record
    #[command(
        after_help = "Example:\n  godwit dnssec generate --zone edge.example.org --keys /var/lib/godwit/keys"
    )]
    Generate(Generate),
    /// Print the DS and DNSKEY records for the registrar
    #[command(after_help = "Example:\n  godwit dnssec ds")]
    Ds(Which),
    /// Show the keys, their phases, and what to do next
    #[command(after_help = "Example:\n  godwit dnssec status --json")]
    Status(Which),
    /// Change keys: start a rollover, or tell it that the parent has the new DS record
    #[command(after_help = "Examples:\n  godwit dnssec roll start\n  godwit dnssec roll ds-seen")]
    #[command(subcommand)]
    Roll(Roll),
    /// One key for everything, or two: a rollover from one to the other
    #[command(after_help = "Example:\n  godwit dnssec convert split")]
    Convert(change::Convert),
    /// End signing: ask the parent to take the DS record away, and stop when nobody has it
    #[command(after_help = "Examples:\n  godwit dnssec unsign start\n  godwit dnssec unsign ds-gone")]
    #[command(subcommand)]
    Unsign(change::Unsign),
}

#[derive(Debug, Subcommand)]
enum Roll {
    /// Make a new key beside the active one
    #[command(after_help = "Example:\n  godwit dnssec roll start --role zsk")]
    Start(Start),
    /// The parent zone has the new DS record, and it only: let the old key end
    #[command(after_help = "Example:\n  godwit dnssec roll ds-seen")]
    DsSeen(DsSeen),
    /// Somebody else may have the keys: replace all of them, as fast as can be without breaking the zone
    Emergency(change::Emergency),
}

/// Which keys.
#[derive(Debug, Args)]
struct Which {
    /// The zone [default: the one whose keys are in the directory]
    #[arg(long)]
    zone: Option<ZoneName>,
    /// The directory of keys [default: `[dnssec] keys` in the configuration]
    #[arg(long, value_name = "DIR")]
    keys: Option<PathBuf>,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    file: FileArguments,
}

#[derive(Debug, Args)]
struct Generate {
    /// ecdsa-p256 or ed25519
    #[arg(long, default_value_t)]
    algorithm: Algorithm,
    /// Two keys: one that the DS record points at, and one that signs the zone
    #[arg(long)]
    split: bool,
    #[command(flatten)]
    which: Which,
}

/// How long others take to hear of a change.
#[derive(Debug, Args)]
struct WaitArguments {
    /// Until every redirector has the changed files
    #[arg(long, value_name = "SPAN", default_value = "1h")]
    propagation: Span,
    /// The longest TTL of the zone's records
    #[arg(long, value_name = "SPAN", default_value = "1d")]
    zone_ttl: Span,
    /// TTL of the zone's DS records in the parent zone
    #[arg(long, value_name = "SPAN", default_value = "1d")]
    ds_ttl: Span,
}

#[derive(Debug, Args)]
struct Start {
    /// csk, ksk or zsk [default: csk where there is one, else zsk]
    #[arg(long)]
    role: Option<Role>,
    /// The new key's algorithm [default: the old one's]
    #[arg(long)]
    algorithm: Option<Algorithm>,
    #[command(flatten)]
    waits: WaitArguments,
    #[command(flatten)]
    which: Which,
}

#[derive(Debug, Args)]
struct DsSeen {
    #[command(flatten)]
    waits: WaitArguments,
    #[command(flatten)]
    which: Which,
}

/// A zone's keys and where they are.
struct Keys {
    directory: Directory,
    zone: ZoneName,
    keys: Vec<StoredKey>,
    /// TTL of DNSKEY, CDS and CDNSKEY, as redirectors with this configuration tell it.
    dnskey_ttl: std::time::Duration,
}

impl Dnssec {
    pub(crate) fn run(self) -> Outcome {
        let now = godwit_node::clock::now();
        match self.action {
            Action::Generate(generate) => generate.run(now),
            Action::Ds(which) => show::ds(&which.open()?, now, which.json),
            Action::Status(which) => show::status(&which.open()?, now, which.json),
            Action::Roll(Roll::Start(start)) => start.run(now),
            Action::Roll(Roll::DsSeen(seen)) => seen.run(now),
            Action::Roll(Roll::Emergency(emergency)) => emergency.run(now),
            Action::Convert(convert) => convert.run(now),
            Action::Unsign(unsign) => unsign.run(now),
        }
    }
}

impl Which {
    fn directory(&self) -> Outcome<(Directory, std::time::Duration)> {
        let config = File::read(self.file.path()?.as_deref())?;
        let path = self.keys.clone().or_else(|| config.dnssec.keys.clone()).ok_or_else(|| {
            Failure::usage("no directory of keys is configured")
                .advise("name one with --keys DIR, and in the configuration of every redirector: [dnssec] keys = \"DIR\"")
        })?;
        Ok((Directory::new(path), config.dnssec.options().ttl))
    }

    fn open(&self) -> Outcome<Keys> {
        let (directory, dnskey_ttl) = self.directory()?;
        let zone = match &self.zone {
            Some(zone) => zone.clone(),
            None => match &directory.zones()?[..] {
                [zone] => zone.clone(),
                zones => {
                    let names: Vec<&str> = zones.iter().map(ZoneName::as_str).collect();
                    let found = if names.is_empty() { "no zone".to_owned() } else { names.join(", ") };
                    let text = format!("{} has keys of {found}", directory.path().display());
                    return Err(Failure::usage(text).advise(
                        "name the zone with --zone ZONE; `godwit dnssec generate` makes its first key",
                    ));
                }
            },
        };
        let keys = directory.read(&zone)?;
        if keys.is_empty() {
            return Err(Failure::usage(format!("{} has no key of {zone}", directory.path().display()))
                .advise(format!("make one with `godwit dnssec generate --zone {zone}`")));
        }
        Ok(Keys { directory, zone, keys, dnskey_ttl })
    }
}

impl Generate {
    fn run(self, now: Time) -> Outcome {
        let (directory, dnskey_ttl) = self.which.directory()?;
        let zone = self.which.zone.clone().ok_or_else(|| Failure::usage("name the zone with --zone ZONE"))?;
        let _lock = directory.lock()?;
        let mut keys = directory.read(&zone)?;
        // Those of a zone that went unsigned have all ended.
        if keys.iter().any(|stored| stored.key.times.phase(now) < Phase::Removed) {
            return Err(Failure::usage(format!("{} already has keys of {zone}", directory.path().display()))
                .advise("change keys with `godwit dnssec roll start`"));
        }
        let scheme = if self.split { Scheme::Split } else { Scheme::Csk };
        for role in scheme.roles() {
            keys.push(add(&directory, &zone, self.algorithm, *role, Times::first(now, *role), &keys)?);
        }
        show::ds(&Keys { directory, zone, keys, dnskey_ttl }, now, self.which.json)
    }
}

impl Start {
    fn run(self, now: Time) -> Outcome {
        let (directory, _) = self.which.directory()?;
        let _lock = directory.lock()?;
        let mut keys = self.which.open()?;
        let has_csk = keys.keys.iter().any(|stored| stored.key.role == Role::Csk);
        let role = self.role.unwrap_or(if has_csk { Role::Csk } else { Role::Zsk });
        let mut times = keys.times();
        let old = keys.algorithm();
        let algorithm = self.algorithm.unwrap_or(old);
        if algorithm != old && role != Role::Csk {
            // RFC 4035, 2.2: whatever algorithm the DS record names has signed the whole zone.
            return Err(Failure::usage("one key of two cannot be of another algorithm than the other")
                .advise("change both: `godwit dnssec convert csk --algorithm …`"));
        }
        let waits = keys.waits(&self.waits, algorithm);
        let new = rollover::start(now, role, &waits, &mut times).map_err(refused)?;
        // The new key first: an old one that ends without a new one would leave the zone bogus.
        let added = add(&keys.directory, &keys.zone, algorithm, role, new, &keys.keys)?;
        keys.write(&times)?;
        keys.keys.push(added);
        if !self.which.json && role.is_entry() {
            let from = new.ds_from.map_or_else(String::new, |at| Date(at).to_string());
            terminal::print(&format!(
                "Copy {} to every redirector now.\nFrom {from} on, enter the new DS record at the registrar in \
                 place of the old one\n(a registry that reads CDS or CDNSKEY does that by itself); then: \
                 godwit dnssec roll ds-seen",
                keys.directory.path().display()
            ))?;
        } else if !self.which.json {
            terminal::print(&format!("Copy {} to every redirector now.", keys.directory.path().display()))?;
        }
        show::status(&keys, now, self.which.json)
    }
}

impl DsSeen {
    fn run(self, now: Time) -> Outcome {
        let (directory, _) = self.which.directory()?;
        let _lock = directory.lock()?;
        let mut keys = self.which.open()?;
        let mut times = keys.times();
        let waits = keys.waits(&self.waits, keys.algorithm());
        let end = rollover::ds_seen(now, &waits, &mut times).map_err(refused)?;
        keys.write(&times)?;
        if !self.which.json {
            terminal::print(&format!(
                "Copy {} to every redirector now. The old key ends on {}.",
                keys.directory.path().display(),
                Date(end)
            ))?;
        }
        show::status(&keys, now, self.which.json)
    }
}

impl Keys {
    /// How long to wait when the new keys are of `algorithm`.
    fn waits(&self, arguments: &WaitArguments, algorithm: Algorithm) -> Waits {
        let waits = Waits {
            propagation: arguments.propagation.0,
            dnskey_ttl: self.dnskey_ttl,
            zone_ttl_max: arguments.zone_ttl.0,
            ds_ttl: arguments.ds_ttl.0,
        };
        if algorithm == self.algorithm() { waits } else { waits.for_another_algorithm() }
    }

    /// The algorithm of the newest key.
    fn algorithm(&self) -> Algorithm {
        self.keys.last().map(|stored| stored.key.key.algorithm()).unwrap_or_default()
    }

    fn times(&self) -> Vec<(Role, Times)> {
        self.keys.iter().map(|stored| (stored.key.role, stored.key.times)).collect()
    }

    /// Writes the keys whose times changed.
    fn write(&mut self, times: &[(Role, Times)]) -> Outcome {
        for (stored, (_, times)) in self.keys.iter_mut().zip(times) {
            if stored.key.times != *times {
                stored.key.times = *times;
                self.directory.update(&self.zone, stored)?;
            }
        }
        Ok(())
    }

    /// The zone in canonical wire form.
    fn wire(&self) -> Vec<u8> {
        let labels = self.zone.as_str().split('.');
        // A label of a zone's name has at most 63 octets.
        let mut wire: Vec<u8> =
            labels.flat_map(|label| [&[label.len() as u8], label.as_bytes()].concat()).collect();
        wire.push(0);
        wire
    }
}

/// A new key with a tag that no other key of the zone has: validators try one key for each tag.
fn add(
    directory: &Directory,
    zone: &ZoneName,
    algorithm: Algorithm,
    role: Role,
    times: Times,
    others: &[StoredKey],
) -> Outcome<StoredKey> {
    for _ in 0..TAG_TRIES {
        let key = ZoneKey { key: Arc::new(SigningKey::generate(algorithm)?), role, times };
        let taken = others.iter().any(|other| other.key.public().tag() == key.public().tag());
        if !taken && !directory.has(zone, &key) {
            return Ok(directory.add(zone, key)?);
        }
    }
    Err(anyhow::anyhow!("no key has a tag of its own")).context("cannot make a key").or_exit(Exit::Failed)
}

fn refused(error: RollError) -> Failure {
    let exit = match error {
        RollError::NoneActive(_)
        | RollError::NothingWaits
        | RollError::Already
        | RollError::Unsigning
        | RollError::NotUnsigning => Exit::Usage,
        RollError::UnderWay(_) | RollError::TooEarly(_) => Exit::Refused,
    };
    Failure::new(exit, error)
}
