//! `cargo xtask`: the checks that CI runs, as one command that a contributor runs before a push.
//!
//! ```text
//! cargo xtask check     fmt, the laws below, clippy without warnings, all tests and doc tests
//! cargo xtask laws      layers and version floors only: takes a second
//! cargo xtask layers    who may use whom
//! cargo xtask floors    no dependency older than deny.toml allows
//! ```

mod floors;
mod layers;

use anyhow::{Context, bail};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

fn main() -> ExitCode {
    let mut arguments = std::env::args().skip(1);
    let task = arguments.next();
    let outcome = match (task.as_deref(), arguments.next()) {
        (Some("check"), None) => check(),
        (Some("laws"), None) => laws(),
        (Some("layers"), None) => layers::check(&root()),
        (Some("floors"), None) => floors::check(&root()),
        _ => {
            eprintln!("usage: cargo xtask check | laws | layers | floors");
            return ExitCode::from(2);
        }
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("xtask: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// Everything that CI runs; what is quick to fail comes first.
fn check() -> anyhow::Result<()> {
    cargo(&["fmt", "--all", "--check"])?;
    laws()?;
    cargo(&["clippy", "--workspace", "--all-targets", "--", "-D", "warnings"])?;
    // Of libraries this runs the doc tests too.
    cargo(&["test", "--workspace"])?;
    println!("xtask: all checks passed");
    Ok(())
}

fn laws() -> anyhow::Result<()> {
    layers::check(&root())?;
    floors::check(&root())
}

fn cargo(arguments: &[&str]) -> anyhow::Result<()> {
    println!("xtask: cargo {}", arguments.join(" "));
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let status = Command::new(cargo)
        .args(arguments)
        .current_dir(root())
        .status()
        .with_context(|| format!("cannot start cargo {}", arguments.join(" ")))?;
    if !status.success() {
        bail!("cargo {} failed", arguments.join(" "));
    }
    Ok(())
}

/// The repository: the folder above this crate.
fn root() -> PathBuf {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    here.parent().unwrap_or(here).to_owned()
}
