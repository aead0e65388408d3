//! Keeps the map: a new generation after each change, saved for the next start.
//!
//! One task waits for a new snapshot, a new GeoIP file or a reload, and computes on a blocking
//! thread, so that a large network never holds up the machine. While it computes, further changes
//! wait; then one more generation takes them all in. What the last map was made of is saved every
//! few seconds and at the end: a redirector that starts without peers answers from it.

use crate::config::MapConfig;
use crate::datadir::DataDir;
use crate::metrics::Metrics;
use crate::snapshot::Snapshot;
use godwit_core::health::Target;
use godwit_core::key::MemberId;
use godwit_core::name::{SiteName, ZoneName};
use godwit_core::time::Time;
use godwit_map::{Exploration, Generation, GeoDb, Health, Inputs, Shared};
use std::fs::Metadata;
use std::os::unix::fs::MetadataExt;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

/// Inputs are saved at most this often: a map a few seconds old is as good at start-up.
const SAVE_PERIOD: Duration = Duration::from_secs(5);

/// How often it is looked whether the GeoIP file is another one.
const GEOIP_PERIOD: Duration = Duration::from_secs(2);

/// A daemon is young for so long: time to connect with members and to hear what they say of
/// themselves. Until then silence means nothing.
const YOUNG: Duration = Duration::from_secs(10);

/// Keeps the map of one daemon.
pub(crate) struct Keeper {
    shared: Shared,
    zone: ZoneName,
    dir: DataDir,
    config: MapConfig,
    /// The sites that are to be closed when the checks of all members fail.
    closed: Vec<SiteName>,
    geo: GeoDb,
    /// What was found when the file was last tried: nothing, or a file that looked like this.
    tried: Option<Option<Fingerprint>>,
    /// Why what was tried last is not in use.
    trouble: Option<String>,
    started: Instant,
    number: u64,
    metrics: Arc<Metrics>,
    unsaved: bool,
    /// Told which database is in use.
    database: watch::Sender<[u8; 32]>,
}

/// Asks for the GeoIP file to be read again; told why it is not in use, if it is not.
pub(crate) type Reload = oneshot::Sender<Option<String>>;

/// Tells one GeoIP file from another without reading it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Fingerprint {
    inode: u64,
    len: u64,
    modified: (i64, i64),
}

impl Keeper {
    /// Loads what was saved at the last run and makes the first generation of it. Blocks.
    pub(crate) fn load(
        zone: ZoneName,
        dir: DataDir,
        config: MapConfig,
        closed: Vec<SiteName>,
        metrics: Arc<Metrics>,
    ) -> Keeper {
        let mut keeper = Keeper {
            shared: Arc::new(arc_swap::ArcSwap::from_pointee(Generation::empty(zone.clone()))),
            zone,
            dir,
            config,
            closed,
            geo: GeoDb::empty(),
            tried: None,
            trouble: None,
            started: Instant::now(),
            number: 0,
            metrics,
            unsaved: false,
            database: watch::Sender::new([0; 32]),
        };
        keeper.metrics.geoip_fresh.set(1);
        keeper.reload();
        if let Some(mut inputs) = keeper.saved() {
            inputs.closed.clone_from(&keeper.closed);
            tracing::info!(
                generation = inputs.number,
                members = inputs.members.len(),
                sites = inputs.sites.len(),
                "answering from the map of the last run until members are heard"
            );
            keeper.number = inputs.number;
            keeper.shared.store(Arc::new(Generation::compute(&inputs, &keeper.geo, None)));
        }
        keeper
    }

    /// A digest of the database in use, as it changes.
    pub(crate) fn database(&self) -> watch::Receiver<[u8; 32]> {
        self.database.subscribe()
    }

    /// The present generation, for whoever answers from it.
    pub(crate) fn shared(&self) -> Shared {
        self.shared.clone()
    }

    /// Follows `snapshots` until `stop`; looks at the GeoIP file from time to time and when told to.
    pub(crate) async fn run(
        mut self,
        mut snapshots: watch::Receiver<Arc<Snapshot>>,
        mut reloads: mpsc::Receiver<Reload>,
        stop: CancellationToken,
    ) {
        let mut save_at = Instant::now() + SAVE_PERIOD;
        let mut look_at = tokio::time::interval(GEOIP_PERIOD);
        let mut changed = false;
        loop {
            if std::mem::take(&mut changed) {
                let snapshot = snapshots.borrow_and_update().clone();
                self = self.compute(snapshot).await;
            }
            tokio::select! {
                () = stop.cancelled() => break,
                told = snapshots.changed() => match told {
                    Ok(()) => changed = true,
                    Err(_) => break,
                },
                Some(reply) = reloads.recv() => {
                    self.tried = None;
                    (self, changed) = blocking(self, Keeper::reload).await;
                    // Whoever asked may have gone.
                    let _ = reply.send(self.trouble.clone());
                }
                _ = look_at.tick() => (self, changed) = blocking(self, Keeper::reload).await,
                () = tokio::time::sleep_until(save_at), if self.unsaved => {
                    self = self.save().await;
                    save_at = Instant::now() + SAVE_PERIOD;
                }
            }
        }
        self.save().await;
    }

    async fn compute(self, snapshot: Arc<Snapshot>) -> Keeper {
        let compute = move |keeper: &mut Keeper| {
            let started = std::time::Instant::now();
            keeper.number += 1;
            let previous = keeper.shared.load_full();
            let mut inputs = snapshot.inputs(&keeper.zone, keeper.number);
            inputs.exploration = keeper.exploration(inputs.time);
            let young = keeper.started.elapsed() < YOUNG;
            inputs.closed.clone_from(&keeper.closed);
            remember(&mut inputs, previous.inputs(), |id| snapshot.is_heard(id), young);
            if young {
                remember_checks(&mut inputs, previous.inputs(), |target| snapshot.is_decided(target));
            }
            let generation = Generation::compute(&inputs, &keeper.geo, Some(&previous));
            keeper.metrics.map.decided(generation.decisions());
            keeper.shared.store(Arc::new(generation));
            let took = started.elapsed();
            keeper.metrics.generation_seconds.observe(took.as_secs_f64());
            keeper.metrics.generation.set(i64::try_from(keeper.number).unwrap_or(i64::MAX));
            tracing::debug!(generation = keeper.number, ?took, "a new generation of the map");
            keeper.unsaved = true;
        };
        blocking(self, compute).await.0
    }

    /// Who explores at `now`. All members' clocks agree well enough: for as long as they do not,
    /// redirectors send different clients to try a replica, and no harm is done.
    fn exploration(&self, now: Time) -> Option<Exploration> {
        let period = u64::from(self.config.explore_epoch_secs.max(1)) * 1000;
        let exploration =
            Exploration { epoch: now.as_millis() / period, permille: self.config.explore_permille };
        (exploration.permille > 0).then_some(exploration)
    }

    /// Loads the GeoIP file if it is another one than the last that was tried; whether a new one
    /// is in use.
    fn reload(&mut self) -> bool {
        let Some(path) = self.config.geoip.clone() else { return false };
        let found = std::fs::metadata(&path).map(|metadata| Fingerprint::of(&metadata)).ok();
        if self.tried == Some(found) {
            return false;
        }
        self.tried = Some(found);
        match GeoDb::open(&path) {
            Ok(geo) => {
                tracing::info!(path = %path.display(), places = geo.places(), runs = geo.runs(), "GeoIP loaded");
                self.database.send_replace(geo.digest());
                self.geo = geo;
                self.metrics.geoip_fresh.set(1);
                self.trouble = None;
                true
            }
            Err(error) => {
                tracing::error!(%error, "the GeoIP database was not loaded; the one before stays in use");
                self.metrics.geoip_fresh.set(0);
                let error = crate::fetch::Chain(&error);
                self.trouble = Some(format!("the GeoIP database stays as it was: {error}"));
                false
            }
        }
    }

    fn saved(&self) -> Option<Inputs> {
        let bytes = match std::fs::read(self.dir.generation()) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return None,
            Err(error) => {
                tracing::warn!(%error, "the saved map cannot be read");
                return None;
            }
        };
        match Inputs::from_bytes(&bytes) {
            Ok(inputs) if inputs.zone == self.zone => Some(inputs),
            Ok(inputs) => {
                tracing::warn!(zone = %inputs.zone, "the saved map is of another zone and is not used");
                None
            }
            Err(error) => {
                tracing::warn!(%error, "the saved map is not used");
                None
            }
        }
    }

    async fn save(self) -> Keeper {
        if !self.unsaved {
            return self;
        }
        let save = |keeper: &mut Keeper| {
            let bytes = keeper.shared.load().inputs().to_bytes();
            match keeper.dir.replace("generation.bin", &bytes) {
                Ok(()) => keeper.unsaved = false,
                Err(error) => tracing::warn!(%error, "the map could not be saved"),
            }
        };
        blocking(self, save).await.0
    }
}

/// Fills in from the last generation what is not known (any more) of members that are silent:
/// where they are reached and what they hold. So a map is never emptier than the one before it for
/// want of news. In a `young` daemon, members and sites not heard of yet are as they were.
fn remember(inputs: &mut Inputs, last: &Inputs, is_heard: impl Fn(&MemberId) -> bool, young: bool) {
    for member in inputs.members.iter_mut().filter(|member| !is_heard(&member.id)) {
        let Some(known) = last.members.iter().find(|known| known.id == member.id) else { continue };
        member.ready = known.ready;
        member.public_v4 = known.public_v4;
        member.public_v6 = known.public_v6;
        member.http_port = known.http_port;
        member.capacity = known.capacity;
        member.held.clone_from(&known.held);
        member.checks.clone_from(&known.checks);
        member.peer_rtts.clone_from(&known.peer_rtts);
        if young && member.state == Health::Unknown {
            member.state = known.state;
        }
    }
    if young {
        let missing = last.members.iter().filter(|known| inputs.members.iter().all(|m| m.id != known.id));
        let missing: Vec<_> = missing.cloned().collect();
        inputs.members.extend(missing);
        let missing = last.sites.iter().filter(|known| inputs.sites.iter().all(|s| s.site != known.site));
        let missing: Vec<_> = missing.cloned().collect();
        inputs.sites.extend(missing);
        if inputs.observations.is_empty() {
            inputs.observations.clone_from(&last.observations);
        }
        if inputs.probed.is_empty() {
            inputs.probed.clone_from(&last.probed);
        }
        if inputs.demands.is_empty() {
            inputs.demands.clone_from(&last.demands);
        }
    }
}

/// Takes from the last generation what was agreed about services of which too little was heard yet
/// to agree on anything: a verdict that held when this daemon stopped holds when it starts.
fn remember_checks(inputs: &mut Inputs, last: &Inputs, is_decided: impl Fn(&Target) -> bool) {
    for member in &mut inputs.members {
        let Some(known) = last.members.iter().find(|known| known.id == member.id) else { continue };
        for check in &mut member.checks {
            let target = Target { member: member.id, check: check.name.clone() };
            let known = known.checks.iter().find(|known| known.name == check.name);
            if let Some(known) = known.filter(|_| !is_decided(&target)) {
                (check.state, check.why) = (known.state, known.why);
            }
        }
    }
}

/// Does `work` on a thread that may block.
async fn blocking<T: Send + 'static>(
    mut keeper: Keeper,
    work: impl FnOnce(&mut Keeper) -> T + Send + 'static,
) -> (Keeper, T) {
    let done = tokio::task::spawn_blocking(move || {
        let result = work(&mut keeper);
        (keeper, result)
    });
    match done.await {
        Ok(done) => done,
        Err(error) => match error.try_into_panic() {
            Ok(panic) => std::panic::resume_unwind(panic),
            // The runtime ends, and drops who waits here, too.
            Err(_) => std::future::pending().await,
        },
    }
}

impl Fingerprint {
    fn of(metadata: &Metadata) -> Fingerprint {
        let modified = (metadata.mtime(), metadata.mtime_nsec());
        Fingerprint { inode: metadata.ino(), len: metadata.len(), modified }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use godwit_core::certificate::{Role, Serial};
    use godwit_core::content::VersionNumber;
    use godwit_core::demand::Capacity;
    use godwit_core::key::SecretKey;
    use godwit_core::time::Time;
    use godwit_map::{MemberInput, SiteInput};

    fn member(n: u8, state: Health, heard: bool) -> MemberInput {
        MemberInput {
            id: SecretKey::from_seed(&[n; 32]).public(),
            serial: Serial(u64::from(n)),
            name: format!("n{n}").parse().unwrap(),
            region: "r1".parse().unwrap(),
            place: None,
            roles: vec![Role::Node],
            state,
            draining: false,
            ready: heard,
            load_permille: 0,
            capacity: Capacity::default(),
            public_v4: heard.then(|| [192, 0, 2, n].into()),
            public_v6: None,
            http_port: heard.then_some(80),
            held: heard.then(|| ("www".parse().unwrap(), VersionNumber(1))).into_iter().collect(),
            peer_rtts: Vec::new(),
            certified: true,
            checks: Vec::new(),
        }
    }

    fn inputs(members: Vec<MemberInput>) -> Inputs {
        let zone: ZoneName = "edge.example".parse().unwrap();
        let site = SiteInput::published("www".parse().unwrap(), VersionNumber(1));
        Inputs { members, sites: vec![site], time: Time::from_secs(1), ..Inputs::new(zone) }
    }

    #[test]
    fn silence_forgets_no_address_and_means_nothing_in_a_young_daemon() {
        let last = inputs(vec![member(1, Health::Alive, true), member(2, Health::Alive, true)]);
        let silent = inputs(vec![member(1, Health::Unknown, false)]);

        let mut young = silent.clone();
        remember(&mut young, &last, |_| false, true);
        assert_eq!(young.members, last.members);

        let mut old = silent.clone();
        remember(&mut old, &last, |_| false, false);
        assert_eq!(old.members.len(), 1);
        assert_eq!((old.members[0].state, old.members[0].public_v4.is_some()), (Health::Unknown, true));

        let mut heard = silent.clone();
        remember(&mut heard, &last, |_| true, false);
        assert_eq!(heard, silent);
    }

    #[test]
    fn what_was_agreed_before_a_restart_holds_until_enough_are_heard() {
        use godwit_core::health::Agreed;
        let with = |state| {
            let (name, why, sites) = ("site".parse().unwrap(), None, Vec::new());
            let checks = vec![godwit_map::CheckInput { name, state, why, sites }];
            inputs(vec![MemberInput { checks, ..member(1, Health::Alive, true) }])
        };
        let state = |inputs: &Inputs| inputs.members[0].checks[0].state;
        let last = with(Agreed::Down);
        for heard in [Agreed::Unknown, Agreed::Up] {
            let mut undecided = with(heard);
            remember_checks(&mut undecided, &last, |_| false);
            assert_eq!(state(&undecided), Agreed::Down);
        }
        let mut decided = with(Agreed::Up);
        remember_checks(&mut decided, &last, |_| true);
        assert_eq!(state(&decided), Agreed::Up);
        // Its entry is not heard yet at all.
        let mut silent = inputs(vec![member(1, Health::Unknown, false)]);
        remember(&mut silent, &last, |_| false, true);
        assert_eq!(state(&silent), Agreed::Down);
    }

    #[test]
    fn a_broken_geoip_file_leaves_the_one_before_in_use() {
        let temp = tempfile::tempdir().unwrap();
        let path = temp.path().join("geo.mmdb");
        std::fs::write(&path, b"no database").unwrap();
        let dir = DataDir::new(temp.path());
        let zone = "edge.example".parse().unwrap();
        let metrics = Arc::new(Metrics::new());
        let config = MapConfig { geoip: Some(path.clone()), ..MapConfig::default() };
        let mut keeper = Keeper::load(zone, dir, config, Vec::new(), metrics.clone());
        assert_eq!(metrics.geoip_fresh.get(), 0);
        keeper.geo = GeoDb::from_networks([(
            "192.0.2.0/24".parse().unwrap(),
            godwit_core::geo::Coordinates::new(1.0, 2.0).unwrap(),
        )]);
        std::fs::write(&path, b"still no database").unwrap();
        assert!(!keeper.reload());
        assert_eq!(keeper.geo.places(), 1);
        assert!(keeper.trouble.is_some_and(|why| why.contains("stays as it was")));
    }
}
