//! `godwit testbed ...`: a network of regions on this machine.
//!
//! The testbed enters namespaces and replaces the process by programs: nothing here may start a
//! thread or a runtime before it.

use crate::failure::{Failure, Outcome};
use crate::terminal;
use clap::{Args, Subcommand, ValueEnum};
use godwit_core::name::ZoneName;
use godwit_testbed::{Degrade, Fault, PortKind, UpOptions};
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
    Up {
        #[command(flatten)]
        options: Options,
        /// Print one JSON object that names every host
        #[arg(long)]
        json: bool,
        /// Stay until Ctrl-C, then take it down
        #[arg(long)]
        foreground: bool,
    },
    /// Tell which hosts there are and how exactly delays are kept
    Status {
        /// Print one JSON object
        #[arg(long)]
        json: bool,
    },
    /// Run a program inside a host
    Exec {
        /// The host
        host: String,
        /// The program and its arguments
        #[arg(last = true, required = true, value_name = "COMMAND")]
        command: Vec<OsString>,
    },
    /// Kill a host's godwit as a crash does (SIGKILL)
    Kill {
        /// The host, or a region for all of its hosts
        host: String,
    },
    /// Stop a host's godwit in order (SIGTERM)
    Stop {
        /// The host, or a region for all of its hosts
        host: String,
    },
    /// Start a host's godwit again
    Start {
        /// The host, or a region for all of its hosts
        host: String,
    },
    /// Cut the paths between two hosts or regions, or all paths of one
    Cut {
        /// One end
        a: String,
        /// The other end [default: everybody]
        b: Option<String>,
    },
    /// Undo cuts and degradations between two ends, of one end, or all
    Heal {
        /// One end
        a: Option<String>,
        /// The other end
        b: Option<String>,
    },
    /// Make paths between two hosts or regions worse
    Degrade {
        /// One end
        a: String,
        /// The other end [default: everybody]
        b: Option<String>,
        /// Added to the delay of each direction
        #[arg(long, value_name = "MS")]
        delay: Option<f64>,
        /// Share of packets lost in each direction
        #[arg(long, value_name = "PERCENT")]
        loss: Option<f64>,
        /// Rate of each direction
        #[arg(long, value_name = "MBIT/S")]
        rate: Option<f64>,
    },
    /// Take the testbed down; nothing of it is left
    Down,
    /// Show all of it: six regions, a site, a crash, a new version
    Demo {
        #[command(flatten)]
        options: Options,
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

/// Which network to start.
#[derive(Debug, Args)]
struct Options {
    /// Regions with nodes
    #[arg(long, value_name = "N", default_value_t = 6)]
    regions: usize,
    /// Nodes in each of them
    #[arg(long, value_name = "K", default_value_t = 1)]
    nodes_per_region: usize,
    /// Clients in each region
    #[arg(long, value_name = "K", default_value_t = 1)]
    clients_per_region: usize,
    /// More regions, with clients only
    #[arg(long, value_name = "N", default_value_t = 0)]
    client_regions: usize,
    /// Measured round-trip times to use [default: built-in cities and a model of their times]
    #[arg(long, value_name = "CSV")]
    matrix: Option<PathBuf>,
    /// Decides everything that is drawn: one seed, one network
    #[arg(long, value_name = "S", default_value_t = 0)]
    seed: u64,
    /// Rate of each direction between two hosts [default: unlimited]
    #[arg(long, value_name = "MBIT/S")]
    rate: Option<f64>,
    /// One round-trip time between any two hosts, in place of the matrix
    #[arg(long, value_name = "MS")]
    rtt: Option<f64>,
    /// Packets lost in each direction between regions
    #[arg(long, value_name = "PERCENT", default_value_t = 0.0)]
    loss: f64,
    /// Clients that the GeoIP database has in a wrong city
    #[arg(long, value_name = "PERCENT", default_value_t = 0.0)]
    geoip_wrong: f64,
    /// Nodes measure the resolvers that ask without a client subnet, every ten seconds
    #[arg(long)]
    probe_resolvers: bool,
    /// The zone
    #[arg(long, default_value = "testbed.example")]
    zone: ZoneName,
    /// How hosts are joined to the network [default: the best that this machine allows]
    #[arg(long, value_enum, default_value_t = Ports::Auto)]
    ports: Ports,
    /// Record every packet to fabric.pcap in the testbed's directory
    #[arg(long)]
    pcap: bool,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Ports {
    Auto,
    Tun,
    Packet,
    Loopback,
}

impl Options {
    fn read(self) -> UpOptions {
        UpOptions {
            regions: self.regions,
            nodes_per_region: self.nodes_per_region,
            clients_per_region: self.clients_per_region,
            client_regions: self.client_regions,
            matrix: self.matrix,
            seed: self.seed,
            rate_mbit: self.rate,
            rtt_ms: self.rtt,
            loss_percent: self.loss,
            geoip_wrong_percent: self.geoip_wrong,
            probe_resolvers: self.probe_resolvers,
            zone: self.zone,
            ports: match self.ports {
                Ports::Auto => PortKind::Auto,
                Ports::Tun => PortKind::Tun,
                Ports::Packet => PortKind::Packet,
                Ports::Loopback => PortKind::Loopback,
            },
            pcap: self.pcap,
        }
    }
}

impl Testbed {
    pub(crate) fn run(self) -> Outcome<ExitCode> {
        let dir = self.dir.as_deref();
        match self.action {
            Action::Up { options, json, foreground } => {
                godwit_testbed::up(&options.read(), dir, json, foreground)?;
            }
            Action::Status { json } => godwit_testbed::status(dir, json)?,
            Action::Exec { host, command } => godwit_testbed::exec(dir, &host, &command)?,
            Action::Kill { host } => fault(dir, &Fault::Kill { host })?,
            Action::Stop { host } => fault(dir, &Fault::Stop { host })?,
            Action::Start { host } => fault(dir, &Fault::Start { host })?,
            Action::Cut { a, b } => fault(dir, &Fault::Cut { a, b })?,
            Action::Heal { a, b } => fault(dir, &Fault::Heal { a, b })?,
            Action::Degrade { a, b, delay, loss, rate } => {
                let how = Degrade { delay_ms: delay, loss_percent: loss, rate_mbit: rate };
                if how == Degrade::default() {
                    return Err(Failure::usage("say how: --delay MS, --loss PERCENT or --rate MBIT/S"));
                }
                fault(dir, &Fault::Degrade { a, b, how })?;
            }
            Action::Down => godwit_testbed::down(dir)?,
            Action::Demo { options, json } => {
                return Ok(ExitCode::from(godwit_testbed::demo(&options.read(), dir, json)?));
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
