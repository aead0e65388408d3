//! Which versions of which sites this member holds whole and durable.
//!
//! A version is written here when all its objects are on the disk, and only then told to the
//! network. Clients are served it before anybody is told: who hears that a member holds a version
//! and asks it meets no older one. The newest one of a site is what the roster entry says; those
//! before it stay for a while, for rollbacks and for clients that still read them, and keep their objects from being
//! collected.

use crate::driver::Command;
use crate::http::Sites;
use crate::records::HELD;
use godwit_core::content::{SiteVersion, VersionNumber};
use godwit_core::member::Input;
use godwit_core::name::SiteName;
use godwit_core::wire;
use godwit_store::{RecordChange, Store, StoreError};
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use tokio::sync::{mpsc, watch};

/// The versions held.
pub(crate) struct Held {
    store: Store,
    commands: mpsc::Sender<Command>,
    served: Arc<Sites>,
    /// Superseded versions kept per site.
    keep: usize,
    /// Newest first; never empty.
    sites: Mutex<BTreeMap<SiteName, Vec<SiteVersion>>>,
    /// Counts changes.
    changed: watch::Sender<u64>,
}

impl Held {
    /// What earlier runs have left. Blocks.
    pub(crate) fn load(
        store: Store,
        commands: mpsc::Sender<Command>,
        served: Arc<Sites>,
        keep: u32,
    ) -> Result<Held, StoreError> {
        let mut sites: BTreeMap<SiteName, Vec<SiteVersion>> = BTreeMap::new();
        for (_, value) in store.records(HELD)? {
            match wire::decode::<SiteVersion>(&value, wire::RECORD_LEN_MAX) {
                Ok(version) => sites.entry(version.site.clone()).or_default().push(version),
                Err(error) => tracing::warn!(%error, "a held version on the disk cannot be read"),
            }
        }
        sites.values_mut().for_each(|versions| versions.sort_by_key(|v| std::cmp::Reverse(v.number)));
        let (changed, _) = watch::channel(0);
        Ok(Held { store, commands, served, keep: keep as usize, sites: Mutex::new(sites), changed })
    }

    /// Tells the machine what is held; at the start.
    pub(crate) async fn tell_all(&self) {
        for version in self.newest_of_all() {
            self.tell(version.site, version.number).await;
        }
    }

    /// The newest version of a site that is held.
    pub(crate) fn newest(&self, site: &SiteName) -> Option<SiteVersion> {
        self.lock().get(site)?.first().cloned()
    }

    /// All versions of a site that are held, newest first.
    pub(crate) fn versions(&self, site: &SiteName) -> Vec<SiteVersion> {
        self.lock().get(site).cloned().unwrap_or_default()
    }

    /// The newest version of every site held.
    pub(crate) fn newest_of_all(&self) -> Vec<SiteVersion> {
        self.lock().values().filter_map(|versions| versions.first().cloned()).collect()
    }

    /// All versions held, of all sites.
    pub(crate) fn all(&self) -> Vec<SiteVersion> {
        self.lock().values().flatten().cloned().collect()
    }

    /// Follows changes.
    pub(crate) fn subscribe(&self) -> watch::Receiver<u64> {
        self.changed.subscribe()
    }

    /// All objects of `version` are durable here: keeps that knowledge, serves it, then tells the
    /// network.
    pub(crate) async fn hold(&self, version: SiteVersion) -> Result<(), StoreError> {
        let (site, number) = (version.site.clone(), version.number);
        let mut versions = self.versions(&site);
        let mut changes = vec![put(&version)];
        // Of two versions of one number only one counts, and this one is newer knowledge.
        versions.retain(|held| held.number != number);
        versions.push(version);
        versions.sort_by_key(|held| std::cmp::Reverse(held.number));
        changes.extend(versions.drain((self.keep + 1).min(versions.len())..).map(|held| remove(&held)));
        self.store.change_records(changes).await?;
        let newest = versions.first().cloned();
        self.lock().insert(site.clone(), versions);
        if let Some(newest) = &newest {
            self.served.advance(newest);
        }
        self.changed.send_modify(|count| *count += 1);
        self.tell(site, newest.map_or(number, |newest| newest.number)).await;
        Ok(())
    }

    /// A version turns out not to be held: another has won its number, or objects of it were lost.
    pub(crate) async fn drop_version(&self, version: &SiteVersion) -> Result<(), StoreError> {
        self.store.change_records(vec![remove(version)]).await?;
        let newest = {
            let mut sites = self.lock();
            let Some(versions) = sites.get_mut(&version.site) else { return Ok(()) };
            versions.retain(|held| held.number != version.number);
            let newest = versions.first().map(|newest| newest.number);
            if newest.is_none() {
                sites.remove(&version.site);
            }
            newest
        };
        self.changed.send_modify(|count| *count += 1);
        match newest {
            Some(number) => self.tell(version.site.clone(), number).await,
            None => self.input(Input::Release { site: version.site.clone() }).await,
        }
        Ok(())
    }

    /// This member is not to keep the site any more.
    pub(crate) async fn release(&self, site: &SiteName) -> Result<(), StoreError> {
        let changes: Vec<_> = self.versions(site).iter().map(remove).collect();
        self.store.change_records(changes).await?;
        self.lock().remove(site);
        self.changed.send_modify(|count| *count += 1);
        self.input(Input::Release { site: site.clone() }).await;
        Ok(())
    }

    async fn tell(&self, site: SiteName, version: VersionNumber) {
        self.input(Input::Hold { site, version }).await;
    }

    async fn input(&self, input: Input) {
        // The machine has ended only when the daemon stops.
        let _ = self.commands.send(Command::Input(input)).await;
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, BTreeMap<SiteName, Vec<SiteVersion>>> {
        self.sites.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn put(version: &SiteVersion) -> RecordChange {
    RecordChange { value: Some(wire::encode(version)), ..remove(version) }
}

fn remove(version: &SiteVersion) -> RecordChange {
    let key = [version.site.as_str().as_bytes(), &[0], &version.number.0.to_be_bytes()].concat();
    RecordChange { space: HELD, key, value: None }
}
