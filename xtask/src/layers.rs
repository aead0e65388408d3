//! The layer law: who may use whom, and where each foreign library lives.
//!
//! ARCHITECTURE.md has the table for people; here it is for the machine. A new line in either list
//! is a decision about the design and comes in a commit of its own.
//!
//! - [`LAYERS`]: which crates of the workspace a crate may use. What stands lower may use what
//!   stands higher, never the other way round. It holds for test dependencies too.
//! - [`HOMES`]: the crates that may name a foreign library. Everybody else meets it only through
//!   the types of that crate, so that it can be replaced in one place.
//! - Every crate takes the workspace's lints, and `unsafe` code is allowed in `net` alone.

use anyhow::{Context, bail};
use serde::Deserialize;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;

const LAYERS: &[(&str, &[&str])] = &[
    ("core", &[]),
    ("map", &["core"]),
    ("sim", &["core", "map"]),
    ("store", &["core"]),
    ("overlay", &["core"]),
    ("net", &["core"]),
    ("probe", &["core"]),
    ("node", &["core", "map", "store", "overlay", "net", "probe"]),
    ("dns-plugin", &["core", "map"]),
    ("redirector", &["core", "map", "net", "dns-plugin", "probe"]),
    ("home-agent", &["core", "map", "net"]),
    ("testbed", &["core", "map", "net", "sim"]),
    (
        "cli",
        &[
            "core",
            "map",
            "store",
            "overlay",
            "net",
            "node",
            "dns-plugin",
            "redirector",
            "home-agent",
            "testbed",
        ],
    ),
    ("benches", &["core", "map", "sim", "store", "overlay", "net", "node", "dns-plugin", "redirector"]),
    ("xtask", &[]),
];

/// A pattern ending in `*` stands for all names that start so.
const HOMES: &[(&str, &[&str])] = &[
    ("libp2p*", &["overlay"]),
    // Peers' connections in `overlay`; DNS over QUIC in `redirector`.
    ("quinn*", &["overlay", "redirector"]),
    ("sled", &["store"]),
    ("hickory-*", &["dns-plugin", "redirector"]),
    ("maxminddb", &["map"]),
    // Writes databases: of the map for other servers, and of the testbed's topology.
    ("mmdb-writer", &["map", "testbed"]),
    // `testbed` owns the options of its own commands.
    ("clap*", &["cli", "benches", "testbed"]),
    ("indicatif", &["cli"]),
    ("rpassword", &["cli"]),
    // `redirector` speaks DNS over HTTPS.
    ("hyper*", &["probe", "node", "cli", "redirector"]),
    // TLS of sockets that strangers come to; peers' own certificates are `overlay`'s, and `probe`
    // asks others' servers.
    ("rustls", &["overlay", "probe", "redirector"]),
    ("tokio-rustls", &["probe", "redirector"]),
    ("rtnetlink", &["net"]),
    // `store` and `testbed` use constants and types of it; calls need `unsafe`, which only `net` may.
    ("libc", &["net", "store", "testbed"]),
    // Names of content are `core`'s alone; the others guard their own files with a digest, `overlay`
    // derives the key of its stateless resets, and `sim` digests traces.
    ("blake3", &["core", "map", "sim", "store", "overlay"]),
    ("ed25519*", &["core"]),
    // Seals what goes through tunnels: as fast as `aws-lc-rs` there, and in the tree already.
    ("ring", &["net"]),
    // Signs the zone: P-256, which `core`'s library does not have, and fast.
    // `redirector` signs transfers with its HMAC.
    ("aws-lc-rs", &["dns-plugin", "redirector"]),
];

/// The one crate in which `unsafe` may be written.
const UNSAFE_HOME: &str = "net";

/// The parts of `cargo metadata` that the law looks at.
#[derive(Deserialize)]
struct Metadata {
    packages: Vec<Package>,
}

#[derive(Deserialize)]
struct Package {
    name: String,
    manifest_path: PathBuf,
    dependencies: Vec<Dependency>,
}

#[derive(Deserialize)]
struct Dependency {
    name: String,
}

/// Checks the workspace at `root`; fails with every breach there is.
pub(crate) fn check(root: &Path) -> anyhow::Result<()> {
    let packages = read(root)?;
    let mut breaches = breaches(&packages);
    for package in &packages {
        breaches.extend(breaches_in_text(package)?);
    }
    if !breaches.is_empty() {
        bail!(
            "the layer law is broken (xtask/src/layers.rs says why it exists):\n  {}",
            breaches.join("\n  ")
        );
    }
    println!("xtask: layers: {} crates keep the law", packages.len());
    Ok(())
}

fn read(root: &Path) -> anyhow::Result<Vec<Package>> {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let output = Command::new(cargo)
        .args(["metadata", "--format-version", "1", "--no-deps"])
        .current_dir(root)
        .output()
        .context("cannot start cargo metadata")?;
    if !output.status.success() {
        bail!("cargo metadata failed: {}", String::from_utf8_lossy(&output.stderr));
    }
    let metadata: Metadata =
        serde_json::from_slice(&output.stdout).context("cargo metadata printed something else")?;
    Ok(metadata.packages)
}

fn breaches(packages: &[Package]) -> Vec<String> {
    let layers: BTreeMap<&str, &[&str]> = LAYERS.iter().copied().collect();
    let mut breaches = Vec::new();
    for package in packages {
        let name = folder(&package.name);
        let Some(allowed) = layers.get(name) else {
            breaches.push(format!("{name} has no place in the layers: give it one"));
            continue;
        };
        for dependency in &package.dependencies {
            let used = folder(&dependency.name);
            let ours = layers.contains_key(used) && used != dependency.name || used == "xtask";
            if ours && !allowed.contains(&used) {
                breaches.push(format!("{name} may not use {used}"));
            }
            let home = HOMES.iter().find(|(pattern, _)| matches(pattern, &dependency.name));
            if let Some((_, homes)) = home
                && !homes.contains(&name)
            {
                breaches.push(format!(
                    "{name} may not use {}: its home is {}",
                    dependency.name,
                    homes.join(", ")
                ));
            }
        }
    }
    breaches
}

/// A package `godwit-x` lives in the folder `x`.
fn folder(package: &str) -> &str {
    package.strip_prefix("godwit-").unwrap_or(package)
}

fn matches(pattern: &str, name: &str) -> bool {
    match pattern.strip_suffix('*') {
        Some(start) => name.starts_with(start),
        None => name == pattern,
    }
}

fn breaches_in_text(package: &Package) -> anyhow::Result<Vec<String>> {
    let mut breaches = Vec::new();
    let name = folder(&package.name);
    let manifest = std::fs::read_to_string(&package.manifest_path)
        .with_context(|| format!("cannot read {}", package.manifest_path.display()))?;
    if !manifest.contains("[lints]\nworkspace = true") {
        breaches.push(format!("{name} does not take the workspace's lints"));
    }
    let folder = package.manifest_path.parent().unwrap_or(Path::new("."));
    for file in rust_files(folder)? {
        let text =
            std::fs::read_to_string(&file).with_context(|| format!("cannot read {}", file.display()))?;
        if name != UNSAFE_HOME && allows_unsafe(&text) {
            breaches.push(format!("{} allows unsafe code: only {UNSAFE_HOME} may", file.display()));
        }
    }
    Ok(breaches)
}

/// Whether the text lifts the workspace's ban on `unsafe`, which is a lint.
fn allows_unsafe(text: &str) -> bool {
    text.lines().map(str::trim_start).any(|line| {
        let attribute = line.starts_with("#[") || line.starts_with("#!");
        attribute && line.contains("unsafe_code") && (line.contains("allow(") || line.contains("expect("))
    })
}

fn rust_files(folder: &Path) -> anyhow::Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in
            std::fs::read_dir(&folder).with_context(|| format!("cannot read {}", folder.display()))?
        {
            let path = entry?.path();
            if path.is_dir() && !path.ends_with("target") {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                files.push(path);
            }
        }
    }
    files.sort();
    Ok(files)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test may panic")]
    use super::*;

    fn package(name: &str, uses: &[&str]) -> Package {
        Package {
            name: name.into(),
            manifest_path: "Cargo.toml".into(),
            dependencies: uses.iter().map(|name| Dependency { name: (*name).into() }).collect(),
        }
    }

    #[track_caller]
    fn check_one(name: &str, uses: &[&str], breach: Option<&str>) {
        let found = breaches(&[package(name, uses)]);
        match breach {
            None => assert_eq!(found, Vec::<String>::new()),
            Some(breach) => assert!(found.len() == 1 && found[0].contains(breach), "{found:?}"),
        }
    }

    #[test]
    fn arrows_point_one_way() {
        check_one("godwit-map", &["godwit-core", "maxminddb", "serde"], None);
        check_one("godwit-core", &["godwit-map"], Some("core may not use map"));
        check_one("godwit-node", &["godwit-redirector"], Some("node may not use redirector"));
        check_one("godwit-net", &["godwit-map"], Some("net may not use map"));
        check_one("godwit-cli", &["godwit-node", "godwit-redirector", "clap", "clap_complete"], None);
        check_one("godwit-cli", &["xtask"], Some("cli may not use xtask"));
        check_one("godwit-new", &[], Some("no place"));
    }

    #[test]
    fn a_foreign_library_has_one_home() {
        check_one("godwit-overlay", &["libp2p", "libp2p-tls", "quinn"], None);
        check_one("godwit-node", &["libp2p-tls"], Some("its home is overlay"));
        check_one("godwit-node", &["sled"], Some("its home is store"));
        check_one("godwit-redirector", &["hickory-server"], None);
        check_one("godwit-cli", &["hickory-server"], Some("its home is dns-plugin, redirector"));
        check_one("godwit-testbed", &["rtnetlink"], Some("its home is net"));
        check_one("godwit-node", &["clap"], Some("its home is cli"));
    }

    #[test]
    fn a_lifted_ban_on_unsafe_shows() {
        assert!(allows_unsafe("//! x\n#![allow(unsafe_code, reason = \"…\")]\n"));
        assert!(allows_unsafe("    #[expect(unsafe_code, reason = \"…\")]"));
        assert!(!allows_unsafe("// allow(unsafe_code) is not an attribute here"));
        assert!(!allows_unsafe("#![deny(unsafe_code)]"));
    }

    #[test]
    fn every_layer_only_names_layers_that_exist() {
        let names: Vec<&str> = LAYERS.iter().map(|(name, _)| *name).collect();
        for (name, allowed) in LAYERS {
            assert!(allowed.iter().all(|used| names.contains(used) && used != name), "{name}");
        }
        assert!(HOMES.iter().all(|(_, homes)| homes.iter().all(|home| names.contains(home))));
    }
}
