//! What a member can say before its store is open: names, from the map of the last run.
//!
//! A store needs some room on its disk to open. A redirector that is started again while there is none
//! (a log has filled it, say) has all that it answers from in its saved map, so it answers, and the
//! member behind it is started when there is room. Until then nothing is taken, acknowledged or told to
//! anybody: there is no member, only its names.

use crate::config::Config;
use crate::datadir::DataDir;
use crate::generation::Keeper;
use crate::metrics::{Metrics, SharedRegistry};
use crate::runtime::StartError;
use godwit_store::{Store, StoreError};
use std::path::PathBuf;
use std::sync::Arc;

/// The map of the last run, and the metrics of the member that will go on with it.
pub struct Early {
    pub(crate) keeper: Keeper,
    pub(crate) metrics: Arc<Metrics>,
}

impl Early {
    /// Reads the map that the member in `data_dir` saved. Nothing is written.
    pub async fn load(data_dir: impl Into<PathBuf>, config: &Config) -> Result<Early, StartError> {
        config.check()?;
        let dir = DataDir::new(data_dir);
        let zone = dir.identity()?.certificate.grant().zone.clone();
        let (map, closed) = (config.map.clone(), config.closed());
        let metrics = Arc::new(Metrics::new());
        let load = {
            let metrics = metrics.clone();
            move || Keeper::load(zone, dir, map, closed, metrics)
        };
        let failed = |error: tokio::task::JoinError| StoreError::Io {
            what: "reading the saved map".into(),
            why: error.to_string(),
        };
        let keeper = tokio::task::spawn_blocking(load).await.map_err(failed)?;
        Ok(Early { keeper, metrics })
    }

    /// Where the map is, now and when the member runs.
    pub fn generation(&self) -> godwit_map::Shared {
        self.keeper.shared()
    }

    /// Where metrics are registered, now and when the member runs.
    pub fn registry(&self) -> SharedRegistry {
        self.metrics.registry()
    }

    /// Whether the disk of `data_dir` has the room that the store needs to open.
    pub fn has_room(data_dir: impl Into<PathBuf>) -> bool {
        Store::has_room(&DataDir::new(data_dir).store())
    }
}
