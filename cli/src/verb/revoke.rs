//! `godwit revoke`: takes a membership or a publisher's certificate back.

use crate::arguments::{AuthorityArguments, MemberArguments};
use crate::authority::State;
use crate::daemon::block_on;
use crate::failure::{Failure, Outcome};
use crate::terminal;
use clap::Args;
use godwit_core::certificate::{Revocation, Serial};
use godwit_core::name::MemberName;
use godwit_core::record::Record;
use serde_json::json;

/// Take a membership back, for ever: the network refuses the host within seconds
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  godwit revoke fra1                 a host that was stolen, sold or mistrusted
  godwit revoke --publisher 7        a publisher's certificate, by its serial
  godwit revoke --serial 12          an invitation, by its serial

It needs the authority's key, and a running member that spreads it. It cannot be undone; to come
back, a host is invited again and joins with a fresh data directory.")]
pub(crate) struct Revoke {
    /// The member's name
    #[arg(value_name = "NODE", required_unless_present_any = ["publisher", "serial"], conflicts_with_all = ["publisher", "serial"])]
    node: Option<MemberName>,
    /// A publisher certificate, by serial
    #[arg(long, value_name = "SERIAL", conflicts_with = "serial")]
    publisher: Option<u64>,
    /// An invitation, by serial
    #[arg(long, value_name = "SERIAL")]
    serial: Option<u64>,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    authority: AuthorityArguments,
    #[command(flatten)]
    member: MemberArguments,
}

impl Revoke {
    pub(crate) fn run(self) -> Outcome {
        let dir = self.authority.dir()?;
        let client = self.member.client()?;
        let serials = self.serials(&dir.state()?)?;
        let key = dir.unlock()?;
        block_on(async {
            for serial in &serials {
                let revocation = Revocation::issue(godwit_node::clock::now(), &key, *serial);
                client.submit(&Record::Revocation(revocation)).await?;
            }
            Ok(())
        })?;
        // After it is durable in the network: a revocation that was only written here would be
        // forgotten about.
        dir.update(|state| {
            mark(state, &serials);
            Ok(())
        })?;
        if self.json {
            return terminal::print_json(&json!({ "revoked": serials }));
        }
        let numbers: Vec<String> = serials.iter().map(ToString::to_string).collect();
        terminal::print(&format!("Revoked serial {}: it spreads to every member.", numbers.join(", ")))
    }

    /// What to revoke. A name may have been invited more than once; all of its invitations go.
    fn serials(&self, state: &State) -> Outcome<Vec<Serial>> {
        let serials: Vec<Serial> = if let Some(serial) = self.publisher {
            let known = state.publishers.iter().map(|issued| issued.serial);
            known.filter(|known| known.0 == serial).collect()
        } else if let Some(serial) = self.serial {
            let known = state.members.iter().map(|invited| invited.serial);
            known.filter(|known| known.0 == serial).collect()
        } else {
            let of_name = state.members.iter().filter(|invited| Some(&invited.name) == self.node.as_ref());
            of_name.filter(|invited| !invited.revoked).map(|invited| invited.serial).collect()
        };
        if serials.is_empty() {
            let names: Vec<&str> = state
                .members
                .iter()
                .filter(|invited| !invited.revoked)
                .map(|invited| invited.name.as_str())
                .collect();
            return Err(Failure::usage(
                "the authority has issued nothing of that name or serial that still holds",
            )
            .advise(format!("members that can be revoked: {}", names.join(", "))));
        }
        Ok(serials)
    }
}

fn mark(state: &mut State, serials: &[Serial]) {
    for invited in state.members.iter_mut().filter(|invited| serials.contains(&invited.serial)) {
        invited.revoked = true;
    }
    for issued in state.publishers.iter_mut().filter(|issued| serials.contains(&issued.serial)) {
        issued.revoked = true;
    }
}
