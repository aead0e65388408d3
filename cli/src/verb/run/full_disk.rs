//! A redirector that is started while its disk is full: it answers names from the map of the last
//! run, says loudly what is wrong, and waits for room before anything of the member is started.

use super::{Asked, Signals, start_redirector};
use crate::config::File;
use crate::failure::Outcome;
use crate::{supervisor, zone};
use godwit_node::Early;
use godwit_node::datadir::DataDir;
use godwit_redirector::{Inherited, Running, SharedView, Signing, Succession};
use std::path::Path;
use std::time::{Duration, Instant};

/// How often it is looked whether there is room.
const LOOK_EVERY: Duration = Duration::from_secs(2);

/// How often it is said that there is none.
const SAY_EVERY: Duration = Duration::from_secs(60);

/// A member that cannot start for want of room.
pub(super) struct FullDisk<'a> {
    pub(super) config: &'a File,
    pub(super) path: Option<&'a Path>,
    pub(super) dir: &'a DataDir,
}

/// A redirector that answers before its member runs.
pub(super) struct StartedNames {
    pub(super) view: SharedView,
    pub(super) running: Box<Running>,
    pub(super) signing: Option<Signing>,
}

impl FullDisk<'_> {
    /// Answers until there is room; `None` when it was asked to stop before.
    pub(super) async fn answer(
        &self,
        inherited: Inherited,
        early: &Early,
        signals: &mut Signals,
    ) -> Outcome<Option<StartedNames>> {
        let view = zone::view(self.config, self.path, early.generation())?;
        let started = start_redirector(inherited, self.config, early.registry(), view.clone());
        let (mut running, signing) = started.await?;
        // For a service manager it has started: names are answered, and to start it again would not help.
        supervisor::ready();
        let mut said = None::<Instant>;
        while !Early::has_room(self.dir.path()) {
            if said.is_none_or(|said| said.elapsed() > SAY_EVERY) {
                said = Some(Instant::now());
                tracing::error!(
                    dir = %self.dir.path().display(),
                    "the disk is full: names are answered from the map of the last run, and nothing else \
                     runs until there is room"
                );
            }
            let asked = tokio::select! {
                () = tokio::time::sleep(LOOK_EVERY) => continue,
                asked = signals.next() => asked,
                succession = running.succession() => Asked::Succession(succession),
            };
            match asked {
                Asked::Stop | Asked::Succession(Succession::Done) => {
                    supervisor::stopping();
                    running.shutdown().await;
                    return Ok(None);
                }
                // There is no member that it could wait for.
                Asked::Succession(Succession::Wanted(let_go)) => let_go.done(),
                // Nothing else is held.
                Asked::Succession(Succession::Heir(_)) => {}
                Asked::Succession(Succession::Failed) => {
                    tracing::warn!("the process that was to take over ended before it could: going on");
                }
                Asked::Reload(_) => {
                    tracing::warn!("the configuration is read again when there is room on the disk");
                }
            }
        }
        tracing::info!("the disk has room again: starting the member");
        Ok(Some(StartedNames { view, running: Box::new(running), signing }))
    }
}
