//! Version floors: no package in Cargo.lock may be one that `deny.toml` bans.
//!
//! `cargo deny check` reads the same list and more (advisories, licences, sources). It is not part
//! of a Rust installation, and several of the faults behind the floors stand in no advisory
//! database, so the floors alone are checked here, from two files, without a network.

use anyhow::{Context, bail};
use serde::Deserialize;
use std::path::Path;

#[derive(Deserialize)]
struct DenyFile {
    bans: Bans,
}

#[derive(Deserialize)]
struct Bans {
    deny: Vec<Ban>,
}

/// `crate = "name:<1.2.3"` bans the versions below; without a version all of them.
#[derive(Deserialize)]
struct Ban {
    #[serde(rename = "crate")]
    spec: String,
    reason: String,
}

#[derive(Deserialize)]
struct LockFile {
    package: Vec<Locked>,
}

#[derive(Deserialize)]
struct Locked {
    name: String,
    version: String,
}

/// Checks the workspace at `root`; fails with every banned package there is.
pub(crate) fn check(root: &Path) -> anyhow::Result<()> {
    let read =
        |name: &str| std::fs::read_to_string(root.join(name)).with_context(|| format!("cannot read {name}"));
    let (count, banned) = banned(&read("deny.toml")?, &read("Cargo.lock")?)?;
    if !banned.is_empty() {
        bail!("deny.toml bans what Cargo.lock holds:\n  {}", banned.join("\n  "));
    }
    println!("xtask: floors: Cargo.lock keeps all {count}");
    Ok(())
}

/// How many bans there are, and what is held in spite of them.
fn banned(deny: &str, lock: &str) -> anyhow::Result<(usize, Vec<String>)> {
    let deny: DenyFile = toml::from_str(deny).context("deny.toml is malformed")?;
    let lock: LockFile = toml::from_str(lock).context("Cargo.lock is malformed")?;
    let mut banned = Vec::new();
    for ban in &deny.bans.deny {
        let (name, floor) = match ban.spec.split_once(":<") {
            Some((name, floor)) => (name, Some(version(floor)?)),
            None if ban.spec.contains([':', '@']) => {
                bail!("xtask understands only name and name:<version, not {:?}", ban.spec)
            }
            None => (ban.spec.as_str(), None),
        };
        for package in lock.package.iter().filter(|package| package.name == name) {
            if floor.is_none_or(|floor| version(&package.version).is_ok_and(|held| held < floor)) {
                banned.push(format!("{} {} ({}): {}", package.name, package.version, ban.spec, ban.reason));
            }
        }
    }
    Ok((deny.bans.deny.len(), banned))
}

/// The three numbers of a version. A pre-release counts as its release: floors are on releases.
fn version(text: &str) -> anyhow::Result<[u64; 3]> {
    let mut numbers = [0; 3];
    let release = text.split(['-', '+']).next().unwrap_or(text);
    for (number, part) in numbers.iter_mut().zip(release.split('.')) {
        *number = part.parse().with_context(|| format!("{text:?} is not a version"))?;
    }
    Ok(numbers)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test may panic")]
    use super::*;

    fn check_one(spec: &str, name: &str, version: &str) -> usize {
        let deny = format!("[bans]\ndeny = [{{ crate = \"{spec}\", reason = \"it panics\" }}]");
        let lock = format!("[[package]]\nname = \"{name}\"\nversion = \"{version}\"");
        banned(&deny, &lock).unwrap().1.len()
    }

    #[test]
    fn a_floor_bans_what_is_below_it() {
        assert_eq!(check_one("yamux:<0.14", "yamux", "0.13.9"), 1);
        assert_eq!(check_one("yamux:<0.14", "yamux", "0.14.0"), 0);
        assert_eq!(check_one("yamux:<0.14", "yamux", "1.0.0"), 0);
        assert_eq!(check_one("h2:<0.4.16", "h2", "0.4.9"), 1);
        assert_eq!(check_one("h2:<0.4.16", "other", "0.1.0"), 0);
        assert_eq!(check_one("openssl", "openssl", "9.9.9"), 1);
    }

    #[test]
    fn what_it_does_not_understand_is_an_error() {
        let deny = "[bans]\ndeny = [{ crate = \"a@1\", reason = \"\" }]";
        assert!(banned(deny, "package = []").is_err());
        assert!(banned("", "package = []").is_err());
        assert!(version("1.x").is_err());
    }
}
