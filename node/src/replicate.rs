//! Keeps the sites that are placed on this member whole.
//!
//! One task owns the replication machine of `core`. It tells it what each new snapshot means
//! (which versions are wanted here, who holds them, who can be reached), looks into the store and
//! fetches as the machine says, and makes known what is held when a version is complete.
//!
//! It also says what the HTTP role serves: the newest version held whole; before the first one is
//! whole, and on nodes where the site is not placed, the network's newest version, pulled as
//! clients ask.

use crate::clock;
use crate::collect::Retain;
use crate::driver::Arrived;
use crate::fetch::{Brought, Chain, FetchEvent, Fetcher, Purpose};
use crate::held::Held;
use crate::http::Sites;
use crate::placement;
use crate::recent::Recent;
use crate::snapshot::Snapshot;
use godwit_core::content::{ObjectId, SiteVersion, VersionNumber};
use godwit_core::key::MemberId;
use godwit_core::member::State;
use godwit_core::name::SiteName;
use godwit_core::replication::{BatchId, Event, Found, Input, Look, Output, Replication, Wanted};
use godwit_core::upload::Arrivals;
use godwit_store::{Store, StoreError};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{Notify, mpsc, watch};
use tokio::task::{AbortHandle, JoinSet};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

/// Reports of fetches and lookups waiting for the machine; who reports waits for room.
const REPORTS_MAX: usize = 256;

/// A version in which damage was found is claimed for so long while it is repaired: to be asked
/// for again by every client for the sake of one object in a thousand helps nobody. What is
/// damaged is never served, whatever is claimed.
const REPAIR_MAX: Duration = Duration::from_secs(10);

/// After the store failed to look or to write, it is tried again after this.
const AGAIN: Duration = Duration::from_secs(1);

/// What the task works with.
pub(crate) struct Replicator {
    pub(crate) own: MemberId,
    pub(crate) store: Store,
    pub(crate) fetcher: Arc<Fetcher>,
    pub(crate) held: Arc<Held>,
    pub(crate) sites: Arc<Sites>,
    pub(crate) snapshots: watch::Receiver<Arc<Snapshot>>,
    pub(crate) recent: Arc<Recent>,
    /// Objects of versions that are being published elsewhere.
    pub(crate) arrivals: mpsc::Receiver<Arrived>,
    /// Asks before objects are deleted.
    pub(crate) collecting: mpsc::Receiver<Retain>,
    /// Tells that the store lost objects.
    pub(crate) damaged: Arc<Notify>,
    pub(crate) stop: CancellationToken,
}

/// What looks and fetches report.
enum Report {
    Looked(Vec<Found>),
    Fetch(BatchId, FetchEvent),
    Ended(BatchId, Brought),
}

/// The machine, and what it was told.
struct Running {
    shell: Replicator,
    machine: Replication,
    reports: mpsc::Sender<Report>,
    /// Looks and fetches; they end with the task.
    tasks: JoinSet<()>,
    batches: BTreeMap<BatchId, AbortHandle>,
    wanted: BTreeMap<SiteName, SiteVersion>,
    holders: BTreeMap<SiteName, Vec<MemberId>>,
    up: BTreeSet<MemberId>,
    /// Complete, and still to be written down.
    complete: BTreeMap<SiteName, VersionNumber>,
    /// Being checked again, since then.
    doubtful: BTreeMap<SiteName, (VersionNumber, Instant)>,
}

impl Replicator {
    /// Says what clients are served, from what is known at the start.
    pub(crate) fn serve_now(&self) {
        self.serve();
    }

    /// Runs until the daemon stops.
    pub(crate) async fn run(self) {
        let (reports, mut reported) = mpsc::channel(REPORTS_MAX);
        let mut held = self.held.subscribe();
        let mut running = Running {
            shell: self,
            machine: Replication::new(),
            reports,
            tasks: JoinSet::new(),
            batches: BTreeMap::new(),
            wanted: BTreeMap::new(),
            holders: BTreeMap::new(),
            up: BTreeSet::new(),
            complete: BTreeMap::new(),
            doubtful: BTreeMap::new(),
        };
        let mut again = tokio::time::interval(AGAIN);
        let (stop, damaged) = (running.shell.stop.clone(), running.shell.damaged.clone());
        let mut news = true;
        loop {
            if std::mem::take(&mut news) {
                let snapshot = running.shell.snapshots.borrow_and_update().clone();
                running.shell.settle(&snapshot).await;
                running.shell.serve();
                running.tell(&snapshot);
            }
            running.drain();
            let deadline = running.machine.next_deadline().map(clock::instant_of);
            tokio::select! {
                () = stop.cancelled() => return,
                changed = running.shell.snapshots.changed() => match changed {
                    Ok(()) => news = true,
                    Err(_) => return,
                },
                _ = held.changed() => news = true,
                Some(report) = reported.recv() => running.report(report),
                Some((from, arrivals)) = running.shell.arrivals.recv() => {
                    running.announced(from, arrivals);
                }
                () = damaged.notified() => running.feed(Input::Lost),
                Some(Retain { blocks, wanted }) = running.shell.collecting.recv() => {
                    running.feed(Input::Retain { blocks });
                    // Who asked may have gone, when the daemon stops.
                    let _ = wanted.send(running.wanted.values().cloned().collect());
                }
                () = tokio::time::sleep_until(deadline.unwrap_or_else(Instant::now)), if deadline.is_some() => {
                    running.feed(Input::Timer);
                }
                Some(_) = running.tasks.join_next() => {}
                _ = again.tick() => running.give_up_doubtful().await,
            }
            running.drain();
            running.write_down().await;
        }
    }

    /// Drops what is not held after all: versions that lost their number, and sites that are placed
    /// elsewhere and whole there.
    async fn settle(&self, snapshot: &Snapshot) {
        for held in self.held.newest_of_all() {
            let Some(current) = snapshot.sites.get(&held.site) else { continue };
            let lost = held.number == current.number && held.hash() != current.hash();
            let result = if lost {
                tracing::warn!(site = %held.site, version = %held.number, "another version has this number");
                self.held.drop_version(&held).await
            } else if self.may_release(snapshot, current) {
                tracing::info!(site = %held.site, "the site is kept elsewhere now");
                self.held.release(&held.site).await
            } else {
                Ok(())
            };
            if let Err(error) = result {
                tracing::warn!(site = %held.site, %error, "what is held could not be written down");
            }
        }
    }

    /// Whether every node that should keep the site, and this one should not, can be reached and
    /// holds the newest version.
    fn may_release(&self, snapshot: &Snapshot, current: &SiteVersion) -> bool {
        let wanted = placement::wanted(snapshot, current);
        let holds = |id: &MemberId| {
            let known = snapshot.members.get(id).filter(|known| known.state == State::Alive);
            known.and_then(|known| known.held(&current.site)).is_some_and(|held| held >= current.number)
        };
        !wanted.is_empty() && !wanted.contains(&self.own) && wanted.iter().all(holds)
    }

    /// Says what clients are served, as far as is known when nobody else says it.
    fn serve(&self) {
        self.sites.replace(|| {
            let snapshot = self.snapshots.borrow().clone();
            let serves = |(site, current): (&SiteName, &SiteVersion)| match self.held.newest(site) {
                Some(held) if self.wants(&snapshot, current) || held.number >= current.number => held,
                _ => current.clone(),
            };
            snapshot.sites.iter().map(serves).collect()
        });
    }

    fn wants(&self, snapshot: &Snapshot, version: &SiteVersion) -> bool {
        placement::keeps(snapshot, &self.own, version)
    }
}

impl Running {
    fn feed(&mut self, input: Input) {
        self.machine.handle(clock::now(), input);
    }

    /// What is announced of a site that is not to be kept here is nothing to this node.
    fn announced(&mut self, from: MemberId, arrivals: Box<Arrivals>) {
        let snapshot = self.shell.snapshots.borrow().clone();
        let (own, intent) = (&self.shell.own, &arrivals.intent);
        if placement::will_keep(&snapshot, own, &intent.site, intent.policy.replicas) {
            self.feed(Input::Arrived { from, arrivals });
        }
    }

    /// Tells the machine what a snapshot means for it.
    fn tell(&mut self, snapshot: &Snapshot) {
        let up: BTreeSet<MemberId> = snapshot.reachable().into_iter().map(|(id, _)| id).collect();
        for peer in self.up.difference(&up).copied().collect::<Vec<_>>() {
            self.feed(Input::PeerDown { peer });
        }
        for peer in up.difference(&self.up).copied().collect::<Vec<_>>() {
            self.feed(Input::PeerUp { peer });
        }
        self.up = up;
        let wanted: BTreeMap<SiteName, SiteVersion> = snapshot
            .sites
            .iter()
            .filter(|(_, version)| self.shell.wants(snapshot, version))
            .map(|(site, version)| (site.clone(), version.clone()))
            .collect();
        let gone: Vec<SiteName> =
            self.wanted.keys().filter(|site| !wanted.contains_key(*site)).cloned().collect();
        for site in gone {
            self.holders.remove(&site);
            self.complete.remove(&site);
            self.doubtful.remove(&site);
            self.feed(Input::Unwant { site });
        }
        for (site, version) in &wanted {
            let holders = snapshot.holders(site, version.number);
            if self.holders.get(site) != Some(&holders) {
                self.holders.insert(site.clone(), holders.clone());
                self.feed(Input::Holders { site: site.clone(), holders });
            }
            if self.wanted.get(site).map(SiteVersion::hash) != Some(version.hash()) {
                self.doubtful.remove(site);
                self.complete.remove(site);
                let (number, root) = (version.number, version.root);
                self.feed(Input::Want { site: site.clone(), number, root });
            }
        }
        self.wanted = wanted;
    }

    /// Does what the machine wants.
    fn drain(&mut self) {
        while let Some(output) = self.machine.poll_output() {
            match output {
                Output::Look(looks) => self.look(looks),
                Output::Fetch { batch, holder, objects, urgent: _ } => self.fetch(batch, holder, &objects),
                Output::Cancel { batch } => {
                    if let Some(task) = self.batches.remove(&batch) {
                        task.abort();
                    }
                }
                Output::Complete { site, number } => {
                    self.doubtful.remove(&site);
                    self.complete.insert(site, number);
                }
                Output::Doubtful { site, number } => {
                    self.doubtful.insert(site, (number, Instant::now()));
                }
                // Clients' pulls go their own way: see `content`.
                Output::Demanded { .. } => {}
                Output::Note(event) => note(&event),
            }
        }
    }

    fn look(&mut self, looks: Vec<Look>) {
        let (store, reports) = (self.shell.store.clone(), self.reports.clone());
        let recent = self.shell.recent.clone();
        self.tasks.spawn(async move {
            loop {
                recent.touch(looks.iter().map(|look| &look.id)).await;
                let (store, looks) = (store.clone(), looks.clone());
                let found = tokio::task::spawn_blocking(move || look_all(&store, &looks)).await;
                match found.map_err(|_| StoreError::Closed).flatten() {
                    Ok(found) => {
                        // The machine has gone when the daemon stops.
                        let _ = reports.send(Report::Looked(found)).await;
                        return;
                    }
                    Err(StoreError::Closed) => return,
                    Err(error) => {
                        tracing::warn!(%error, "the store cannot be looked into");
                        tokio::time::sleep(AGAIN).await;
                    }
                }
            }
        });
    }

    fn fetch(&mut self, batch: BatchId, holder: MemberId, objects: &[Wanted]) {
        let (fetcher, reports) = (self.shell.fetcher.clone(), self.reports.clone());
        let addresses = self.shell.snapshots.borrow().addresses(&holder);
        let ids: Vec<ObjectId> = objects.iter().map(|object| object.id).collect();
        let task = self.tasks.spawn(async move {
            let (events, mut happened) = mpsc::channel(16);
            let relay = async {
                while let Some(event) = happened.recv().await {
                    let _ = reports.send(Report::Fetch(batch, event)).await;
                }
            };
            let fetch = fetcher.fetch(holder, &addresses, &ids, Purpose::Keep, Some(events));
            let (brought, ()) = tokio::join!(fetch, relay);
            let _ = reports.send(Report::Ended(batch, brought)).await;
        });
        self.batches.insert(batch, task);
    }

    fn report(&mut self, report: Report) {
        match report {
            Report::Looked(found) => self.feed(Input::Looked { found }),
            Report::Fetch(batch, FetchEvent::Came) => self.feed(Input::Progress { batch }),
            Report::Fetch(batch, FetchEvent::Stored(ids)) => {
                self.feed(Input::Stored { batch: Some(batch), ids });
            }
            Report::Ended(batch, brought) => {
                self.batches.remove(&batch);
                let failed = brought.failure.as_ref().map(|failure| Chain(failure).to_string());
                self.feed(Input::Ended { batch, missing: brought.missing, failed });
            }
        }
    }

    /// Writes down and tells what is complete; what cannot be written is tried again.
    async fn write_down(&mut self) {
        for (site, number) in std::mem::take(&mut self.complete) {
            let Some(version) = self.wanted.get(&site).filter(|version| version.number == number) else {
                continue;
            };
            if self.shell.held.newest(&site).is_some_and(|held| held.hash() == version.hash()) {
                continue;
            }
            match self.shell.held.hold(version.clone()).await {
                Ok(()) => tracing::info!(%site, version = %number, "held whole"),
                Err(error) => {
                    tracing::warn!(%site, version = %number, %error, "what is held could not be written down");
                    self.complete.insert(site, number);
                    tokio::time::sleep(AGAIN).await;
                }
            }
        }
    }

    /// What could not be repaired in time is not claimed any longer.
    async fn give_up_doubtful(&mut self) {
        let old = |since: &Instant| since.elapsed() > REPAIR_MAX;
        let given_up: Vec<SiteName> =
            self.doubtful.iter().filter(|(_, (_, since))| old(since)).map(|(site, _)| site.clone()).collect();
        for site in given_up {
            let Some((number, _)) = self.doubtful.remove(&site) else { continue };
            let Some(held) = self.shell.held.newest(&site).filter(|held| held.number == number) else {
                continue;
            };
            tracing::warn!(%site, version = %number, "damage could not be repaired yet");
            if let Err(error) = self.shell.held.drop_version(&held).await {
                tracing::warn!(%site, %error, "what is held could not be written down");
            }
        }
    }
}

fn look_all(store: &Store, looks: &[Look]) -> Result<Vec<Found>, StoreError> {
    let look = |look: &Look| {
        let absent = Found { id: look.id, len: None, bytes: None };
        let Some(len) = store.len_of(&look.id)? else { return Ok(absent) };
        if look.bytes_max.is_none_or(|max| len > max) {
            return Ok(Found { len: Some(len), ..absent });
        }
        let Some(object) = store.get(&look.id)? else { return Ok(absent) };
        match object.bytes(0..len) {
            Ok(bytes) => Ok(Found { len: Some(len), bytes: Some(bytes), ..absent }),
            Err(_) => Ok(absent),
        }
    };
    looks.iter().map(look).collect()
}

fn note(event: &Event) {
    match event {
        Event::Refused { site, number, why } => {
            tracing::error!(%site, version = %number, why, "the version's tree is wrong; it is not replicated");
        }
        Event::HolderFailed { holder, why, times } => {
            tracing::info!(holder = holder.short(), why, times, "a holder failed to deliver");
        }
        Event::NobodyHas { id } => tracing::debug!(%id, "no holder has this object at present"),
    }
}
