//! Hand-off, composed: the HTTP server's connections, and who keeps their packets away.

use crate::handoff::{Handoffs, Packets, Program, Shell, Told};
use crate::http::{Door, Moving, Taking};
use std::sync::Arc;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// What it takes to let connections move.
pub(super) struct Hands {
    pub(super) door: Arc<Door>,
    /// Where tasks of connections are counted.
    pub(super) clients: TaskTracker,
    pub(super) tasks: TaskTracker,
    /// Ends serving.
    pub(super) serving: CancellationToken,
    /// Ends everything.
    pub(super) all: CancellationToken,
}

impl Hands {
    /// Lets HTTP connections at home addresses move; `None` when they can already.
    pub(super) fn move_connections<P: Packets>(
        &self,
        packets: Arc<P>,
        mut programs: Vec<Arc<dyn Program>>,
        tell: Told,
    ) -> Option<Handoffs> {
        programs.push(Arc::new(Taking(self.door.clone())));
        let (shell, handoffs) = Shell::new(packets.clone(), programs, tell);
        let moving = Moving {
            handoffs: handoffs.clone(),
            packets,
            tasks: self.clients.clone(),
            stop: self.serving.clone(),
        };
        self.door.move_with(moving).then(|| {
            self.tasks.spawn(shell.run(self.all.clone()));
            handoffs
        })
    }
}
