//! `godwit`: the one binary. It parses arguments, composes the daemons and prints what comes of it.
//!
//! One file per verb under `verb/`. Each has its arguments, its help and a `run`; what several
//! share stands beside. Exit codes are in [`failure`], and are part of the interface, like the
//! verbs and the `--json` fields.
#![cfg_attr(test, allow(clippy::unwrap_used, reason = "a test may panic"))]

mod arguments;
mod authority;
mod config;
mod daemon;
mod failure;
mod home;
mod place;
mod publish;
mod remember;
mod span;
mod static_host;
mod supervisor;
mod terminal;
mod text;
mod verb;
mod zone;

use clap::Parser;
use std::process::ExitCode;

// Not an async main: the testbed enters namespaces, which the kernel allows only to a process with
// a single thread, so every verb that wants a runtime makes its own.
fn main() -> ExitCode {
    let arguments = arguments::Arguments::parse();
    match verb::run(arguments) {
        Ok(code) => code,
        Err(failure) => failure.report(),
    }
}
