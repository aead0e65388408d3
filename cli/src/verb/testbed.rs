//! `godwit testbed ...`: a network of regions on this machine.
//!
//! The testbed enters namespaces and replaces the process by programs: nothing here may start a
//! thread or a runtime before it.

use crate::failure::{Failure, Outcome};
use crate::terminal;
use clap::{Args, Subcommand};
use godwit_testbed::{Degrade, Fault, UpOptions};
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

/// Start a network of regions on this machine, with real delays, and break it
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  godwit testbed demo                            the whole story in a minute
  godwit testbed up --regions 6
  godwit testbed status
  godwit testbed exec HOST -- curl http://www.testbed.example/
  godwit testbed kill HOST
  godwit testbed cut eu-frankfurt ap-tokyo
  godwit testbed down

Hosts are named by `testbed status`. It runs as any user where user namespaces are allowed.")]
pub(crate) struct Testbed {
    /// The testbed's directory [default: godwit-testbed-UID among the temporary files]
    #[arg(long, value_name = "DIR", env = "GODWIT_TESTBED", global = true)]
    dir: Option<PathBuf>,
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// Start a network and return when every host answers
    #[command(
        after_help = "Examples:\n  godwit testbed up --regions 6\n  godwit testbed up --regions 3 --nodes-per-region 2 --loss 1 --json"
    )]
    Up {
        #[command(flatten)]
        options: UpOptions,
        /// Print one JSON object that names every host
        #[arg(long)]
        json: bool,
        /// Stay until Ctrl-C, then take it down
        #[arg(long)]
        foreground: bool,
    },
    /// Tell which hosts there are and how exactly delays are kept
    #[command(
        after_help = "Examples:\n  godwit testbed status\n  godwit testbed status --json | jq -r '.hosts[].name'"
    )]
    Status {
        /// Print one JSON object
        #[arg(long)]
        json: bool,
    },
    /// Run a program inside a host
    #[command(
        after_help = "Examples:\n  godwit testbed exec ap-tokyo-client -- curl http://www.testbed.example/\n  godwit testbed exec ap-tokyo-client -- dig www.testbed.example"
    )]
    Exec {
        /// The host
        host: String,
        /// The program and its arguments
        #[arg(last = true, required = true, value_name = "COMMAND")]
        command: Vec<OsString>,
    },
    /// Kill a host's godwit as a crash does (SIGKILL)
    #[command(after_help = "Example:\n  godwit testbed kill us-virginia-1")]
    Kill {
        /// The host, or a region for all of its hosts
        host: String,
    },
    /// Stop a host's godwit in order (SIGTERM)
    #[command(after_help = "Example:\n  godwit testbed stop us-virginia-1")]
    Stop {
        /// The host, or a region for all of its hosts
        host: String,
    },
    /// Start a host's godwit again
    #[command(after_help = "Example:\n  godwit testbed start us-virginia-1")]
    Start {
        /// The host, or a region for all of its hosts
        host: String,
    },
    /// Cut the paths between two hosts or regions, or all paths of one
    #[command(
        after_help = "Examples:\n  godwit testbed cut eu-frankfurt ap-tokyo\n  godwit testbed cut us-virginia-1"
    )]
    Cut {
        /// One end
        a: String,
        /// The other end [default: everybody]
        b: Option<String>,
    },
    /// Undo cuts and degradations between two ends, of one end, or all
    #[command(after_help = "Examples:\n  godwit testbed heal eu-frankfurt ap-tokyo\n  godwit testbed heal")]
    Heal {
        /// One end
        a: Option<String>,
        /// The other end
        b: Option<String>,
    },
    /// Make paths between two hosts or regions worse
    #[command(
        after_help = "Examples:\n  godwit testbed degrade eu-frankfurt ap-tokyo --delay 100\n  godwit testbed degrade us-virginia --loss 5 --rate 10"
    )]
    Degrade {
        /// One end
        a: String,
        /// The other end [default: everybody]
        b: Option<String>,
        #[command(flatten)]
        how: Degrade,
    },
    /// Move a host to another region, with another address
    ///
    /// Its processes run on. The address that it had is nobody's from then on.
    #[command(after_help = "Example:\n  godwit testbed roam eu-frankfurt-client --to ap-tokyo")]
    Roam {
        /// The host
        host: String,
        /// Its new region
        #[arg(long, value_name = "REGION")]
        to: String,
    },
    /// Let out of a host only packets that come from its own addresses, as many networks do (BCP 38)
    #[command(
        after_help = "Examples:\n  godwit testbed filter us-virginia-1\n  godwit testbed filter us-virginia-1 --off"
    )]
    Filter {
        /// The host, or a region for all of its hosts
        host: String,
        /// Let all packets out again
        #[arg(long)]
        off: bool,
    },
    /// Take the testbed down; nothing of it is left
    #[command(after_help = "Example:\n  godwit testbed down")]
    Down,
    /// Show all of it: six regions, a site, a crash, a new version
    #[command(after_help = "Examples:\n  godwit testbed demo\n  godwit testbed demo --regions 3 --json")]
    Demo {
        #[command(flatten)]
        options: UpOptions,
        /// Print one JSON object
        #[arg(long)]
        json: bool,
    },
    #[command(hide = true)]
    Launcher { dir: PathBuf },
    #[command(hide = true)]
    Janitor { dir: PathBuf },
    #[command(hide = true)]
    Probe { request: String },
}

impl Testbed {
    pub(crate) fn run(self) -> Outcome<ExitCode> {
        let dir = self.dir.as_deref();
        match self.action {
            Action::Up { options, json, foreground } => {
                godwit_testbed::up(&options, dir, json, foreground)?;
            }
            Action::Status { json } => godwit_testbed::status(dir, json)?,
            Action::Exec { host, command } => godwit_testbed::exec(dir, &host, &command)?,
            Action::Kill { host } => fault(dir, &Fault::Kill { host })?,
            Action::Stop { host } => fault(dir, &Fault::Stop { host })?,
            Action::Start { host } => fault(dir, &Fault::Start { host })?,
            Action::Cut { a, b } => fault(dir, &Fault::Cut { a, b })?,
            Action::Heal { a, b } => fault(dir, &Fault::Heal { a, b })?,
            Action::Degrade { a, b, how } => {
                if how == Degrade::default() {
                    return Err(Failure::usage("say how: --delay MS, --loss PERCENT or --rate MBIT/S"));
                }
                fault(dir, &Fault::Degrade { a, b, how })?;
            }
            Action::Roam { host, to } => fault(dir, &Fault::Roam { host, to })?,
            Action::Filter { host, off } => fault(dir, &Fault::Filter { host, off })?,
            Action::Down => godwit_testbed::down(dir)?,
            Action::Demo { options, json } => {
                return Ok(ExitCode::from(godwit_testbed::demo(&options, dir, json)?));
            }
            Action::Launcher { dir } => godwit_testbed::launcher_main(&dir)?,
            Action::Janitor { dir } => godwit_testbed::janitor_main(&dir)?,
            Action::Probe { request } => godwit_testbed::probe_main(&request)?,
        }
        Ok(ExitCode::SUCCESS)
    }
}

fn fault(dir: Option<&Path>, fault: &Fault) -> Outcome {
    let done = godwit_testbed::fault(dir, fault)?;
    terminal::print(&done)
}
