//! The testbed as a whole: launcher, namespaces, fabric, control, tidying up.
//!
//! The launcher starts its own executable, as `godwit init|invite|join|run` and for its helpers. In
//! these tests that executable is this one: it dispatches to the testbed's entry points like the
//! real binary does, and plays the members with a [`member`] that is just alive. So the test has
//! a `main` of its own in place of the usual harness.
//!
//! Every test makes a network for itself and is skipped, loudly, where none can be made.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod bed;
mod member;
mod scenario;

use std::path::Path;
use std::process::ExitCode;

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match arguments.as_slice() {
        ["testbed", "launcher", dir] => report(godwit_testbed::launcher_main(Path::new(dir))),
        ["testbed", "janitor", dir] => report(godwit_testbed::janitor_main(Path::new(dir))),
        ["testbed", "probe", request] => report(godwit_testbed::probe_main(request)),
        ["testbed-exec", dir, host, command @ ..] => {
            let command: Vec<_> = command.iter().map(Into::into).collect();
            report(godwit_testbed::exec(Some(Path::new(dir)), host, &command))
        }
        ["init" | "join", ..] => ExitCode::SUCCESS,
        ["invite", ..] => {
            println!("gw1-token");
            ExitCode::SUCCESS
        }
        ["run", rest @ ..] => member::run(rest),
        ["echo", address] => member::echo(address),
        ["ping", address] => member::ping(address),
        ["--list", ..] => {
            scenario::ALL.iter().for_each(|(name, _)| println!("{name}: test"));
            ExitCode::SUCCESS
        }
        filters => run_tests(filters),
    }
}

fn report(result: anyhow::Result<()>) -> ExitCode {
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run_tests(arguments: &[&str]) -> ExitCode {
    let filters: Vec<&&str> = arguments.iter().filter(|argument| !argument.starts_with("--")).collect();
    let chosen = scenario::ALL
        .iter()
        .filter(|(name, _)| filters.is_empty() || filters.iter().any(|f| name.contains(**f)));
    let (mut passed, mut failed) = (0, 0);
    for (name, test) in chosen {
        match std::panic::catch_unwind(test) {
            Ok(()) => {
                passed += 1;
                println!("test {name} ... ok");
            }
            Err(_) => {
                failed += 1;
                println!("test {name} ... FAILED");
            }
        }
    }
    let result = if failed == 0 { "ok" } else { "FAILED" };
    println!(
        "\ntest result: {result}. {passed} passed; {failed} failed; 0 ignored; 0 measured; 0 filtered out"
    );
    if failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
