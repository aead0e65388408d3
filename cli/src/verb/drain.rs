//! `godwit drain` and `godwit undrain`: takes clients away from a member, and gives them back.

use crate::arguments::{DaemonArguments, PublisherArguments};
use crate::daemon::{block_on, member_named};
use crate::failure::{Classify, Exit, Outcome};
use crate::terminal;
use clap::Args;
use godwit_core::certificate::{Duty, Order, Serial};
use godwit_core::name::MemberName;
use godwit_core::record::Record;
use godwit_node::admin::{Client, api};
use godwit_redirector::static_zone::{Plan, State};
use serde_json::json;

/// Lead no new clients to a node; it goes on serving those it has
#[derive(Debug, Args)]
#[command(after_help = "\
Example: before maintenance
  godwit drain fra1 && sleep 60 && ssh fra1 reboot
  godwit undrain fra1
  godwit drain eu --static zone.toml      a region or an address of a static zone

Clients go elsewhere as their resolvers ask again, within the lifetime of an answer.")]
pub(crate) struct Drain {
    #[command(flatten)]
    order: OrderArguments,
}

/// Lead clients to a drained node again
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  godwit undrain fra1
  godwit undrain eu --static zone.toml")]
pub(crate) struct Undrain {
    #[command(flatten)]
    order: OrderArguments,
}

#[derive(Debug, Args)]
struct OrderArguments {
    /// The node's name; of a static zone a region or an address
    node: String,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    publisher: PublisherArguments,
    #[command(flatten)]
    daemon: DaemonArguments,
}

impl Drain {
    pub(crate) fn run(self) -> Outcome {
        self.order.give(Duty::Drain, "gets no new clients")
    }
}

impl Undrain {
    pub(crate) fn run(self) -> Outcome {
        self.order.give(Duty::Serve, "gets clients again")
    }
}

impl OrderArguments {
    fn give(self, duty: Duty, what: &str) -> Outcome {
        if let Some(file) = &self.daemon.file {
            let state = if duty == Duty::Drain { State::Drain } else { State::Up };
            match block_on(self.daemon.running_client())? {
                Some(client) => self.ask(&client, duty)?,
                // Nobody to ask: the state file is what counts at the next start.
                None => {
                    let plan = Plan::read(file).or_exit(Exit::Usage)?;
                    plan.set_state(&self.node, state).or_exit(Exit::Usage)?;
                }
            }
            return self.told(duty, what);
        }
        let client = self.daemon.client()?;
        if block_on(async { Ok(client.status().await?.is_static()) })? {
            self.ask(&client, duty)?;
            return self.told(duty, what);
        }
        let node: MemberName = self.node.parse().or_exit(Exit::Usage)?;
        let operator = self.publisher.read()?;
        operator
            .certificate
            .may_operate()
            .or_exit(Exit::Refused)
            .or_advise(|| "ask the authority for a certificate with the right to operate".into())?;
        let serial = block_on(async {
            let serial = Serial(member_named(&client, &node).await?.serial);
            let now = godwit_node::clock::now();
            let order = Order::issue(now, &operator.key, operator.certificate, serial, duty);
            client.submit(&Record::Order(Box::new(order))).await?;
            Ok(serial)
        })?;
        if self.json {
            return terminal::print_json(&json!({ "member": self.node, "serial": serial, "duty": duty }));
        }
        terminal::print(&format!("{} {what}.", self.node))
    }

    /// Asks the redirector of a static zone.
    fn ask(&self, client: &Client, duty: Duty) -> Outcome {
        let state = api::State { name: self.node.clone(), state: state_of(duty).to_owned() };
        block_on(async { Ok(client.set_state(&state).await?) }).or_exit(Exit::Usage)
    }

    fn told(&self, duty: Duty, what: &str) -> Outcome {
        match self.json {
            true => terminal::print_json(&json!({ "name": self.node, "state": state_of(duty) })),
            false => terminal::print(&format!("{} {what}.", self.node)),
        }
    }
}

/// What a duty is in a static zone.
fn state_of(duty: Duty) -> &'static str {
    if duty == Duty::Drain { "drain" } else { "up" }
}
