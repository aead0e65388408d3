//! `godwit serve`: serves a home address at this node, or no longer.

use crate::arguments::DaemonArguments;
use crate::daemon::block_on;
use crate::failure::{Exit, Failure, Outcome};
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

It returns when this node is bound: when a home agent sends it packets. Where it does not, it
says why, and fails; the name is served all the same, and bound as soon as that is possible.

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
    /// Wait at most so long until this node is bound, seconds, at most 60
    #[arg(long, value_name = "SECONDS", default_value_t = 10, conflicts_with_all = ["no_wait", "stop"])]
    wait: u64,
    /// Do not wait until this node is bound
    #[arg(long, conflicts_with = "stop")]
    no_wait: bool,
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
            wait_ms: if self.no_wait { 0 } else { self.wait.saturating_mul(1000) },
        };
        let served = block_on(async { Ok(client.serve(&asked).await?) })?;
        if self.stop && !served.stopped {
            return Err(Failure::usage(format!("{} is not served here", self.name)));
        }
        let failure = if self.stop || self.no_wait { None } else { self.unbound(&served) };
        match (self.json, &failure) {
            (true, _) => terminal::print_json(&served)?,
            (false, None) => terminal::print(&self.text(&served))?,
            (false, Some(_)) => {}
        }
        failure.map_or(Ok(()), Err)
    }

    /// Why it is not bound.
    fn unbound(&self, served: &api::Served) -> Option<Failure> {
        let problem = served.problem.as_ref()?;
        let error = anyhow::anyhow!("{} is served here from now on, but not bound: {problem}", self.name);
        let failure = Failure::new(Exit::Failed, error);
        Some(match &served.next {
            Some(next) => failure.advise(next.clone()),
            None => failure,
        })
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
        let bound = match &served.bound_at[..] {
            [] => "godwit status shows its bindings".to_owned(),
            agents => format!("bound at {}", agents.join(" and ")),
        };
        format!("{} is served here at {}: {bound}.", self.name, addresses.join(" and "))
    }
}
