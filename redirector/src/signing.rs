//! Keeping the zone signed: keys from their directory into the view, and read again when they change.
//!
//! Keys are changed by `godwit dnssec` or by copying files, and both replace files whole. So it is
//! enough to look at the names and times of the files now and then; what is read is checked before
//! it is put in place, and while it is wrong the keys before stay.

mod config;
mod metrics;

pub use config::DnssecConfig;

use crate::SharedView;
use godwit_core::name::ZoneName;
use godwit_dns_plugin::Clock;
use godwit_dns_plugin::dnssec::{Directory, DirectoryError, Gap, Options, Signer, Store, ZoneKey};
use metrics::Gauges;
use prometheus_client::registry::Registry;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};
use tokio::task::JoinHandle;

/// How often the directory is looked at. A rollover waits at least an hour for others anyway.
const LOOK_PERIOD: Duration = Duration::from_secs(10);

/// Why the zone cannot be signed. Nothing was changed.
#[derive(Debug, thiserror::Error)]
pub enum SigningError {
    /// The directory cannot be read, or a file in it.
    #[error("cannot read the keys")]
    Directory(#[from] DirectoryError),
    /// There is no key of the zone.
    #[error("{directory} has no key of the zone {zone}: make one with `godwit dnssec generate`")]
    None {
        /// The directory.
        directory: String,
        /// The zone.
        zone: ZoneName,
    },
    /// The keys leave a time at which nobody signs.
    #[error("the keys do not suffice")]
    Gap(#[from] Gap),
}

/// A zone that is signed. The directory is watched until this is dropped.
pub struct Signing {
    state: Arc<State>,
    watcher: JoinHandle<()>,
}

struct State {
    directory: Directory,
    zone: ZoneName,
    options: Options,
    clock: Clock,
    store: Arc<Store>,
    view: SharedView,
    /// The newest change that was looked at.
    seen: Mutex<Option<Stamp>>,
    /// Whether the keys in force are those in the directory.
    current: AtomicBool,
}

/// Names, lengths and times of the files in a directory.
type Stamp = Vec<(std::ffi::OsString, u64, SystemTime)>;

impl Signing {
    /// Signs the zone of `view` with the keys in the directory that `config` names; `None` when it
    /// names none. Has to be called in a tokio runtime. Its metrics go into `registry`.
    pub fn start(
        config: &DnssecConfig,
        view: &SharedView,
        registry: &mut Registry,
    ) -> Result<Option<Signing>, SigningError> {
        Signing::start_at(Clock::default(), config, view, registry)
    }

    /// The same by another clock.
    pub fn start_at(
        clock: Clock,
        config: &DnssecConfig,
        view: &SharedView,
        registry: &mut Registry,
    ) -> Result<Option<Signing>, SigningError> {
        let Some(path) = &config.keys else { return Ok(None) };
        let options = config.options();
        let state = Arc::new(State {
            directory: Directory::new(path),
            zone: view.load().generation.zone().clone(),
            options,
            clock,
            store: Store::new(&options),
            view: view.clone(),
            seen: Mutex::default(),
            current: AtomicBool::new(false),
        });
        state.read()?;
        registry
            .sub_registry_with_prefix("dns")
            .register_collector(Box::new(Gauges { state: state.clone() }));
        let watcher = tokio::spawn(state.clone().watch());
        Ok(Some(Signing { state, watcher }))
    }

    /// Reads the keys again now.
    pub fn reload(&self) -> Result<(), SigningError> {
        self.state.read()
    }

    /// Signatures made and counted.
    pub fn store(&self) -> &Arc<Store> {
        &self.state.store
    }
}

impl Drop for Signing {
    fn drop(&mut self) {
        self.watcher.abort();
    }
}

impl State {
    /// Reads the keys and puts them into the view.
    fn read(&self) -> Result<(), SigningError> {
        // Before the files: a change in between is seen the next time.
        let stamp = self.stamp();
        let result = self.signer().map(|signer| {
            let signer = Arc::new(signer);
            self.view.update(|zone| Some(zone.clone().with_signer(Some(signer.clone()))));
        });
        *self.seen.lock().unwrap_or_else(PoisonError::into_inner) = stamp;
        self.current.store(result.is_ok(), Ordering::Relaxed);
        result
    }

    fn signer(&self) -> Result<Signer, SigningError> {
        let keys: Vec<ZoneKey> =
            self.directory.read(&self.zone)?.into_iter().map(|stored| stored.key).collect();
        if keys.is_empty() {
            let directory = self.directory.path().display().to_string();
            return Err(SigningError::None { directory, zone: self.zone.clone() });
        }
        let now = self.clock.now();
        for key in &keys {
            let public = key.public();
            tracing::info!(zone = %self.zone, tag = public.tag(), algorithm = %public.algorithm, role = %key.role,
                phase = %key.times.phase(now), "key");
        }
        let origin = self.view.load().zone.origin().clone();
        Ok(Signer::new(now, &origin, keys, self.options, self.store.clone())?)
    }

    async fn watch(self: Arc<State>) {
        loop {
            tokio::time::sleep(LOOK_PERIOD).await;
            let stamp = self.stamp();
            if stamp == *self.seen.lock().unwrap_or_else(PoisonError::into_inner) {
                continue;
            }
            let state = self.clone();
            // A few small files; but a disk may hang.
            match tokio::task::spawn_blocking(move || state.read()).await {
                Ok(Ok(())) => tracing::info!(zone = %self.zone, "keys were read again"),
                Ok(Err(error)) => {
                    let error: &dyn std::error::Error = &error;
                    tracing::error!(zone = %self.zone, error, "the keys stay as they were");
                }
                Err(error) => tracing::error!(%error, "reading keys failed"),
            }
        }
    }

    /// What the directory looks like; `None` when it cannot be read.
    fn stamp(&self) -> Option<Stamp> {
        let entries = std::fs::read_dir(self.directory.path()).ok()?;
        let mut stamp: Stamp = entries
            .filter_map(|entry| {
                let entry = entry.ok()?;
                let metadata = entry.metadata().ok()?;
                Some((entry.file_name(), metadata.len(), metadata.modified().ok()?))
            })
            .filter(|(name, ..)| name.to_str().is_some_and(|name| name.starts_with('K')))
            .collect();
        stamp.sort();
        Some(stamp)
    }
}
