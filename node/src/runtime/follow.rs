//! The host's addresses change while the daemon runs: members and clients are told where it is now.
//!
//! Only what the daemon has found out by itself changes: addresses that the configuration names stay.

use super::own::own_entry;
use crate::addresses::Changes;
use crate::config::Config;
use crate::driver::Command;
use godwit_core::member::{Input, OwnEntry};
use std::net::SocketAddr;
use std::time::Duration;
use tokio::sync::mpsc;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

/// An address is taken away and another given in a moment: so long is waited for the second.
const SETTLE: Duration = Duration::from_millis(50);

/// Without word of the kernel it is asked this often.
const LOOK_PERIOD: Duration = Duration::from_secs(5);

/// Where a member listens, and what it says of itself.
pub(super) struct Follow {
    pub(super) config: Config,
    pub(super) peer: Vec<SocketAddr>,
    pub(super) http: Vec<SocketAddr>,
    pub(super) told: OwnEntry,
    pub(super) commands: mpsc::Sender<Command>,
}

impl Follow {
    /// Tells the machine whenever the addresses are others, until `stop`.
    pub(super) async fn run(mut self, stop: CancellationToken) {
        let changes = Changes::listen();
        if let Err(error) = &changes {
            tracing::debug!(%error, "no word of changed addresses: looking for them now and then");
        }
        loop {
            tokio::select! {
                () = stop.cancelled() => return,
                () = changed(changes.as_ref().ok()) => sleep(SETTLE).await,
            }
            let own = OwnEntry {
                checks: self.told.checks.clone(),
                ..own_entry(&self.config, &self.peer, &self.http)
            };
            // A host without any address for a moment is on its way to another one.
            let nowhere = own.peer_addresses.is_empty() && !self.told.peer_addresses.is_empty();
            if own == self.told || nowhere {
                continue;
            }
            tracing::info!(v4 = ?own.public_v4, v6 = ?own.public_v6, "this host has other addresses");
            self.told = own.clone();
            if self.commands.send(Command::Input(Input::Own(Box::new(own)))).await.is_err() {
                return;
            }
        }
    }
}

async fn changed(changes: Option<&Changes>) {
    let Some(changes) = changes else { return sleep(LOOK_PERIOD).await };
    if changes.next().await.is_err() {
        sleep(LOOK_PERIOD).await;
    }
}
