//! Values for certificate authorities (RFC 8555, 8.4), kept beside the state file.
//!
//! A value is on the disk before it is answered, and has its end in it, by the host's clock: so a
//! process that follows another one answers it on, for as long as was said.

use super::durable::{self, Turn};
use super::file::read_text;
use super::problem::Problem;
use godwit_core::challenge::{Challenge, LEASE_MAX};
use serde::{Deserialize, Serialize};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// At most so many values at a time: certificates for a few hundred names, each with its wildcard.
pub(crate) const VALUES_MAX: usize = 1024;
/// The longest file, bytes: every value with the longest name.
const FILE_LEN_MAX: u64 = 1024 * 1024;

/// The values that stand.
pub(crate) struct Challenges {
    /// Nowhere without a state file.
    path: Option<PathBuf>,
    held: Vec<Held>,
}

/// A value and its end, seconds since the Unix epoch.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Held {
    pub(crate) name: String,
    pub(crate) value: String,
    until: u64,
}

#[derive(Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    #[serde(default)]
    challenge: Vec<Held>,
}

/// Seconds since the Unix epoch.
pub(crate) fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

impl Challenges {
    /// Those in the file beside `state_file`. A file that is broken is told and holds nothing: a zone
    /// that does not start would be worse than a certificate that is asked for again.
    pub(crate) fn read(state_file: Option<&Path>, now: u64) -> Challenges {
        let path = state_file.map(|path| path.with_extension("acme"));
        let read = |path: &Path| -> Result<File, Problem> {
            let text = read_text(path, FILE_LEN_MAX)?;
            toml::from_str(&text).map_err(|error| Problem::with(path, error.message()))
        };
        let file = match path.as_deref().filter(|path| path.exists()).map(read) {
            Some(Ok(file)) => file,
            Some(Err(problem)) => {
                tracing::error!(%problem, "values for certificate authorities are lost");
                File::default()
            }
            None => File::default(),
        };
        // Nobody may set one for longer: a clock that was ahead must not keep it for ever.
        let stands = |held: &Held| held.until > now && held.until <= now + LEASE_MAX.as_secs();
        let held = file.challenge.into_iter().filter(stands).take(VALUES_MAX).collect();
        Challenges { path, held }
    }

    /// Sets a value, or clears it with a lease of zero. It is on the disk when this returns.
    pub(crate) fn set(&mut self, now: u64, challenge: Challenge, lease: Duration) -> Result<(), String> {
        if lease > LEASE_MAX {
            return Err(format!("a value stands for at most {} seconds", LEASE_MAX.as_secs()));
        }
        let Challenge { name, value } = challenge;
        let is = |held: &Held| held.name == name && held.value == value;
        let mut held: Vec<Held> =
            self.held.iter().filter(|held| held.until > now && !is(held)).cloned().collect();
        if !lease.is_zero() {
            if held.len() >= VALUES_MAX {
                return Err(format!("{VALUES_MAX} values are set already: clear some"));
            }
            held.push(Held { name, value, until: now + lease.as_secs() });
        }
        self.write(held)
    }

    /// Leaves those whose time is over; whether there were any.
    pub(crate) fn expire(&mut self, now: u64) -> bool {
        let before = self.held.len();
        self.held.retain(|held| held.until > now);
        self.held.len() < before
    }

    /// The values that stand.
    pub(crate) fn held(&self) -> &[Held] {
        &self.held
    }

    fn write(&mut self, held: Vec<Held>) -> Result<(), String> {
        let path = self.path.as_deref().ok_or("the zone has no `state_file`: nothing could be kept")?;
        let file = File { challenge: held };
        let text = toml::to_string(&file).map_err(|error| error.to_string())?;
        let turn = Turn::take(path).map_err(|problem| problem.to_string())?;
        durable::replace(&turn, path, &text).map_err(|problem| problem.to_string())?;
        self.held = file.challenge;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn challenge(value: &str) -> Challenge {
        Challenge::new("_acme-challenge.www.svc.example.org", value).unwrap()
    }

    fn values(challenges: &Challenges) -> Vec<&str> {
        challenges.held().iter().map(|held| held.value.as_str()).collect()
    }

    #[test]
    fn values_are_there_again_until_their_time_is_over() {
        let folder = tempfile::tempdir().unwrap();
        let states = folder.path().join("states.toml");
        let mut first = Challenges::read(Some(&states), 1000);
        let hour = Duration::from_secs(3600);
        first.set(1000, challenge("a"), hour).unwrap();
        first.set(1000, challenge("b"), hour * 2).unwrap();
        first.set(1000, challenge("c"), hour).unwrap();
        first.set(1000, challenge("c"), Duration::ZERO).unwrap();
        assert!(first.set(1000, challenge("d"), LEASE_MAX + hour).is_err());
        let mut again = Challenges::read(Some(&states), 2000);
        assert_eq!(values(&again), ["a", "b"]);
        assert!(!again.expire(4599));
        assert!(again.expire(4600));
        assert_eq!(values(&again), ["b"]);
        // From a clock that was ahead by more than anybody may ask for.
        let far = LEASE_MAX.as_secs() + 2001;
        let ahead = format!("[[challenge]]\nname = \"n\"\nvalue = \"v\"\nuntil = {far}\n");
        std::fs::write(folder.path().join("states.acme"), ahead).unwrap();
        assert!(values(&Challenges::read(Some(&states), 2000)).is_empty());
        assert_eq!(values(&Challenges::read(Some(&states), 2001)), ["v"]);
        std::fs::write(folder.path().join("states.acme"), "garbage").unwrap();
        assert!(values(&Challenges::read(Some(&states), 2000)).is_empty());
        assert!(Challenges::read(None, 0).set(0, challenge("a"), hour).unwrap_err().contains("state_file"));
    }

    #[test]
    fn there_are_only_so_many() {
        let folder = tempfile::tempdir().unwrap();
        let mut challenges = Challenges::read(Some(&folder.path().join("s.toml")), 0);
        let held = |n: usize| Held { name: "n".into(), value: n.to_string(), until: 10 };
        challenges.held = (0..VALUES_MAX).map(held).collect();
        let hour = Duration::from_secs(3600);
        assert!(challenges.set(0, challenge("a"), hour).unwrap_err().contains("clear some"));
        challenges.set(11, challenge("a"), hour).unwrap();
        assert_eq!(values(&challenges), ["a"]);
    }
}
