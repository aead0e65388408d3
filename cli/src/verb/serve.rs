//! `godwit serve`: serves a home address at this node, or no longer.

use crate::arguments::DaemonArguments;
use crate::daemon::block_on;
use crate::failure::{Failure, Outcome};
use crate::terminal;
use clap::Args;
use godwit_node::admin::api;
use std::net::SocketAddr;

/// Serve a home address at this node
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  godwit serve www                          this node's sites
  godwit serve game --to 127.0.0.1:27015    a program on this host, TCP and UDP
  godwit serve shop --to 127.0.0.1:8080 --proxy-protocol
  godwit serve game --local                 a program that listens at the home address itself
  godwit serve game --stop

The authority grants the address first: godwit address add. What is served is kept over restarts,
and serving a name that was moved away brings new flows back.")]
pub(crate) struct Serve {
    /// The name of the home address
    name: String,
    /// Pass connections and datagrams on to the program that listens there
    #[arg(long, value_name = "ADDRESS", conflicts_with_all = ["local", "stop"])]
    to: Option<SocketAddr>,
    /// Tell the program the client's address, over TCP, by the PROXY protocol, version 2
    #[arg(long, requires = "to")]
    proxy_protocol: bool,
    /// A program of this host listens at the home address itself, and sees its clients' addresses
    #[arg(long, conflicts_with = "stop")]
    local: bool,
    /// Serve it no longer; connections end
    #[arg(long)]
    stop: bool,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    daemon: DaemonArguments,
}

impl Serve {
    pub(crate) fn run(self) -> Outcome {
        let client = self.daemon.client()?;
        let asked = api::Serve {
            name: self.name.clone(),
            to: self.to,
            proxy_protocol: self.proxy_protocol,
            local: self.local,
            stop: self.stop,
        };
        let served = block_on(async { Ok(client.serve(&asked).await?) })?;
        if self.stop && !served.stopped {
            return Err(Failure::usage(format!("{} is not served here", self.name)));
        }
        match self.json {
            true => terminal::print_json(&served),
            false => terminal::print(&self.text(&served)),
        }
    }

    fn text(&self, served: &api::Served) -> String {
        if self.stop {
            return format!("{} is served here no longer.", self.name);
        }
        if served.addresses.is_empty() {
            return format!(
                "{} will be served here as soon as its address is granted to this node: godwit address add {}",
                self.name, self.name
            );
        }
        let addresses: Vec<String> = served.addresses.iter().map(ToString::to_string).collect();
        format!(
            "{} is served here at {}: godwit status shows its bindings.",
            self.name,
            addresses.join(" and ")
        )
    }
}
