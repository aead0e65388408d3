//! `godwit move`: moves what is served at a home address from this node to another.

use crate::arguments::DaemonArguments;
use crate::daemon::block_on;
use crate::failure::{Exit, Failure, Outcome};
use crate::terminal;
use clap::Args;
use godwit_node::admin::api;

/// Move what is served at a home address to another node
#[derive(Debug, Args)]
#[command(after_help = "\
Example:
  godwit move game --to tyo1

It is asked of the node that serves the name now. UDP flows go to the other node at once; TCP
connections of this node's sites are handed over alive; those of other programs go on here until
they end, or the deadline comes. New flows go where the map leads them, and not here any more, until
`godwit serve` says so. It is refused, and nothing changes, where the other node is not bound to the
name. It fails when there are connections and none of them could be moved.")]
pub(crate) struct Move {
    /// The name of the home address
    name: String,
    /// The node that is to have it
    #[arg(long, value_name = "NODE")]
    to: String,
    /// How long connections that cannot move may go on here, seconds
    #[arg(long, value_name = "SECONDS", default_value_t = 300)]
    deadline: u64,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    daemon: DaemonArguments,
}

impl Move {
    pub(crate) fn run(self) -> Outcome {
        let client = self.daemon.client()?;
        let wanted = api::Move { name: self.name.clone(), to: self.to.clone(), deadline_secs: self.deadline };
        let moved = block_on(async { Ok(client.move_to(&wanted).await?) })?;
        match self.json {
            true => terminal::print_json(&moved)?,
            false => terminal::print(&self.text(&moved))?,
        }
        if is_nothing(&moved) {
            let what = format!("nothing of {} could be moved: its connections go on here", self.name);
            return Err(Failure::new(Exit::Failed, anyhow::anyhow!(what)));
        }
        Ok(())
    }

    fn text(&self, moved: &api::Moved) -> String {
        let mut text = format!(
            "{} moves to {}: {} connections moved, {} drained, {} lost; {} UDP flows moved.\n",
            self.name,
            self.to,
            moved.connections_moved,
            moved.connections_drained,
            moved.connections_lost,
            moved.udp_flows_moved
        );
        text += &format!(
            "{} packets lost, gap at most {:.0} ms, UDP switched within {:.0} ms.",
            moved.packets_lost, moved.gap_ms, moved.switched_ms
        );
        for (why, count) in &moved.kept {
            text += &format!("\n{count} stay here for at most {} s: {why}", self.deadline);
        }
        text
    }
}

/// Whether there was something, and none of it has moved.
fn is_nothing(moved: &api::Moved) -> bool {
    let there = moved.connections_drained + moved.connections_lost > 0;
    there && moved.connections_moved + moved.udp_flows_moved == 0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_fails_when_there_was_something_and_nothing_moved() {
        let moved = |moved, drained, udp| api::Moved {
            connections_moved: moved,
            connections_drained: drained,
            udp_flows_moved: udp,
            ..api::Moved::default()
        };
        assert!(is_nothing(&moved(0, 3, 0)));
        assert!(!is_nothing(&moved(0, 0, 0)) && !is_nothing(&moved(1, 3, 0)) && !is_nothing(&moved(0, 3, 1)));
    }
}
