//! `godwit drain` and `godwit undrain`: takes clients away from a member, and gives them back.

use crate::arguments::{MemberArguments, PublisherArguments};
use crate::daemon::{block_on, member_named};
use crate::failure::{Classify, Exit, Outcome};
use crate::terminal;
use clap::Args;
use godwit_core::certificate::{Duty, Order, Serial};
use godwit_core::name::MemberName;
use godwit_core::record::Record;
use godwit_redirector::static_zone::{Plan, State};
use serde_json::json;
use std::path::PathBuf;

/// Lead no new clients to a node; it goes on serving those it has
#[derive(Debug, Args)]
#[command(after_help = "\
Example: before maintenance
  godwit drain fra1 && sleep 60 && ssh fra1 reboot
  godwit undrain fra1

Clients go elsewhere as their resolvers ask again, within the lifetime of an answer.")]
pub(crate) struct Drain {
    #[command(flatten)]
    order: OrderArguments,
}

/// Lead clients to a drained node again
#[derive(Debug, Args)]
pub(crate) struct Undrain {
    #[command(flatten)]
    order: OrderArguments,
}

#[derive(Debug, Args)]
struct OrderArguments {
    /// The node's name; of a static zone a region or an address
    node: String,
    /// Drain or undrain in the state file of a static zone, without a member
    #[arg(long = "static", value_name = "FILE", conflicts_with_all = ["data_dir", "socket"])]
    file: Option<PathBuf>,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    publisher: PublisherArguments,
    #[command(flatten)]
    member: MemberArguments,
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
        if let Some(file) = &self.file {
            let state = if duty == Duty::Drain { State::Drain } else { State::Up };
            Plan::read(file).and_then(|plan| plan.set_state(&self.node, state)).or_exit(Exit::Usage)?;
            return match self.json {
                true => terminal::print_json(&json!({ "name": self.node, "state": state })),
                false => terminal::print(&format!("{} {what}.", self.node)),
            };
        }
        let node: MemberName = self.node.parse().or_exit(Exit::Usage)?;
        let operator = self.publisher.read()?;
        operator
            .certificate
            .may_operate()
            .or_exit(Exit::Refused)
            .or_advise(|| "ask the authority for a certificate with the right to operate".into())?;
        let client = self.member.client()?;
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
}
