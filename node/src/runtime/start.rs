//! Everything started, in order.

use super::follow::Follow;
use super::hands::Hands;
use super::listen::{Listeners, Sockets, addresses_of, take_admin};
use super::own::{first_admission, own_entry};
use super::tell::{Clients, tell_clients};
use super::{Monitored, Runtime, Settings, StartError, Stops};
use crate::admin::{self, Control};
use crate::agreement;
use crate::clock;
use crate::collect::Collector;
use crate::config::Config;
use crate::content::Content;
use crate::datadir::{DataDir, Identity};
use crate::driver::{Command, Driver};
use crate::early::Early;
use crate::fetch::{Fetcher, StoreHolder};
use crate::generation::Keeper;
use crate::health::{self, SiteProbes, Vantages};
use crate::held::Held;
use crate::homes::Homes;
use crate::http::{self, Asked, Door, Rtts, Server, Sites};
use crate::metrics::Metrics;
use crate::mobility::{self, Mobility, ServeSites};
use crate::moves::{Moves, Tell};
use crate::receiving::Receiving;
use crate::recent::Recent;
use crate::records::Records;
use crate::repair;
use crate::replicate::Replicator;
use crate::resolvers::Measuring;
use crate::snapshot::Snapshot;
use godwit_core::certificate::Role;
use godwit_core::health::Judge;
use godwit_core::member::{Input, Member, OwnEntry};
use godwit_core::mobility::Message;
use godwit_overlay::{Limits, Paths};
use godwit_probe::Prober;
use godwit_store::{Options, Store, StoreError};
use std::net::IpAddr;
use std::sync::{Arc, Mutex, OnceLock};
use std::time::{Duration, Instant};
use tokio::sync::{Notify, Semaphore, mpsc, watch};
use tokio_util::task::TaskTracker;

/// Commands waiting for the machine; it takes one in microseconds.
const COMMANDS_MAX: usize = 1024;

/// Join requests waiting for it.
const SPONSORS_MAX: usize = 16;

/// Messages about moving connections that wait for whoever moves them; then peers wait.
const MOVES_MAX: usize = 256;

/// Uploads at once, each with some megabytes, and a whole object of up to 64 MiB, in memory.
const UPLOADS_MAX: usize = 8;

impl Runtime {
    /// Starts the member. When this returns it listens, and answers from what it knew before.
    pub async fn start(settings: Settings) -> Result<Runtime, StartError> {
        Runtime::start_on(Sockets::default(), settings).await
    }

    /// The same on these sockets, where there are some.
    pub async fn start_on(sockets: Sockets, settings: Settings) -> Result<Runtime, StartError> {
        Runtime::start_after(None, sockets, settings).await
    }

    /// The same where names were answered already.
    pub async fn start_after(
        early: Option<Early>,
        mut sockets: Sockets,
        settings: Settings,
    ) -> Result<Runtime, StartError> {
        let Settings { data_dir, config, timing, programs } = settings;
        config.check()?;
        let dir = DataDir::new(data_dir);
        let identity = dir.identity()?;
        let lock = dir.lock()?;
        let grant = identity.certificate.grant().clone();
        grant.validity.check(clock::now()).map_err(StartError::Certificate)?;
        let (metrics, keeper) = match early {
            Some(Early { keeper, metrics }) => (metrics, Some(keeper)),
            None => (Arc::new(Metrics::new()), None),
        };
        let store = open_store(&dir, &config, &identity).await?;

        // Sockets before the count of starts: a port in use shall leave nothing behind.
        let control_open = std::mem::take(&mut sockets.control);
        let estate = sockets.estate.take();
        let mut listeners = Listeners::take(&config, sockets, identity.certificate.has_role(Role::Node))?;
        let incarnation = dir.next_incarnation()?;

        let records = Records::new(store.clone());
        let persisted = blocking({
            let records = Records::new(store.clone());
            move || records.load()
        })
        .await?;
        let admission = first_admission(&identity.certificate, &persisted);
        let (sponsor, sponsors) = mpsc::channel(SPONSORS_MAX);
        let (moves, said) = mpsc::channel(MOVES_MAX);
        let (connected, peers) = mpsc::channel(MOVES_MAX);
        let (overlay, events) = godwit_overlay::start(godwit_overlay::Config {
            key: identity.key.clone(),
            certificate: identity.certificate.clone(),
            epoch: incarnation,
            listen: config.overlay.listen.clone(),
            admission: admission.clone(),
            sponsor: Some(sponsor),
            holder: Some(Arc::new(StoreHolder { store: store.clone() })),
            moves: Some(moves),
            clock: Arc::new(clock::now),
            limits: Limits::default(),
            paths: Paths::default(),
        })
        .await?;

        let http_addresses = addresses_of(&listeners.http)?;
        let checks = config.health.checks(!http_addresses.is_empty())?;
        let own = OwnEntry { checks, ..own_entry(&config, overlay.addresses(), &http_addresses) };
        let follows = own.clone();
        tracing::info!(
            peer = ?overlay.addresses(), http = ?http_addresses, v4 = ?own.public_v4, v6 = ?own.public_v6,
            advertised = ?own.peer_addresses, "listening"
        );
        let public = own.public_v4.map(IpAddr::V4).into_iter().chain(own.public_v6.map(IpAddr::V6)).collect();
        let member = Member::new(
            clock::now(),
            godwit_core::member::Config {
                network: grant.network,
                zone: grant.zone.clone(),
                key: identity.key.clone(),
                certificate: identity.certificate.clone(),
                incarnation,
                seed: rand::random(),
                own,
                timing,
            },
            persisted,
        );

        let stops = Stops::default();
        let (clients, tasks, carriers) = (TaskTracker::new(), TaskTracker::new(), TaskTracker::new());
        let (commands, orders) = mpsc::channel(COMMANDS_MAX);
        let (snapshots, snapshot) =
            watch::channel(Arc::new(Snapshot::of(clock::now(), &member, &mut Judge::default()).0));
        let recent = Arc::new(Recent::new(u64::from(config.store.cache_disk_mib) << 20));
        let fetcher = Arc::new(Fetcher {
            store: store.clone(),
            overlay: overlay.clone(),
            metrics: metrics.clone(),
            recent: recent.clone(),
            receiving: Arc::new(Receiving::default()),
            partial: Mutex::default(),
        });
        let content = Arc::new(Content::new(
            store.clone(),
            fetcher.clone(),
            snapshot.clone(),
            metrics.clone(),
            recent.clone(),
        ));
        let sites = Arc::new(Sites::default());
        let held = Arc::new(
            blocking({
                let (store, commands, sites) = (store.clone(), commands.clone(), sites.clone());
                move || Held::load(store, commands, sites, config.store.keep_versions)
            })
            .await?,
        );
        let load = {
            let (zone, dir, map) = (grant.zone.clone(), dir.clone(), config.map.clone());
            let (metrics, closed) = (metrics.clone(), config.closed());
            move || Ok::<_, StoreError>(Keeper::load(zone, dir, map, closed, metrics))
        };
        let keeper = match keeper {
            Some(keeper) => keeper,
            None => blocking(load).await?,
        };
        let generation = keeper.shared();
        let database = keeper.database();

        let (arrived, arrivals) = mpsc::channel(crate::driver::ARRIVALS_MAX);
        let driver = Driver {
            member,
            key: identity.key.clone(),
            overlay: overlay.clone(),
            events,
            connected,
            commands: orders,
            sponsors,
            records,
            snapshots,
            metrics: metrics.clone(),
            admission,
            arrived,
            stop: stops.all.clone(),
            tasks: tasks.clone(),
        };
        tasks.spawn(driver.run());
        let follow = Follow {
            config: config.clone(),
            peer: overlay.addresses().to_vec(),
            http: http_addresses.clone(),
            told: follows,
            commands: commands.clone(),
        };
        tasks.spawn(follow.run(stops.all.clone()));
        let (reloads, asked) = mpsc::channel(1);
        tasks.spawn(keeper.run(snapshot.clone(), asked, stops.all.clone()));
        let (answering, told) = watch::channel(None);
        let settings = agreement::settings(&config);
        tasks.spawn(agreement::tell(settings, told, database, commands.clone(), stops.all.clone()));
        tasks.spawn(agreement::watch(snapshot.clone(), metrics.differing.clone(), stops.all.clone()));
        if config.map.probe_resolvers && !http_addresses.is_empty() {
            let measuring = Measuring {
                zone: grant.zone.clone(),
                config: config.map.clone(),
                snapshots: snapshot.clone(),
                commands: commands.clone(),
                metrics: metrics.resolvers.clone(),
                stop: stops.all.clone(),
            };
            tasks.spawn(measuring.run());
        }
        if config.health.vantage {
            let prober = Prober::new();
            let zone = grant.zone.clone();
            let sites = SiteProbes::new(zone, prober.clone(), content.clone(), snapshot.clone());
            let (sites, metrics) = (Arc::new(sites), metrics.health.clone());
            let vantages = Vantages { prober, sites, snapshots: snapshot.clone(), metrics };
            tasks.spawn(health::watch(vantages, commands.clone(), stops.all.clone()));
        }
        let damaged = Arc::new(Notify::new());
        tasks.spawn(repair::repair(
            store.clone(),
            content.clone(),
            fetcher.clone(),
            snapshot.clone(),
            damaged.clone(),
            stops.all.clone(),
        ));
        tasks.spawn(repair::scrub(store.clone(), stops.all.clone()));
        let (collect, collecting) = mpsc::channel(1);
        let replicator = Replicator {
            own: identity.key.public(),
            store: store.clone(),
            fetcher,
            held: held.clone(),
            sites: sites.clone(),
            snapshots: snapshot.clone(),
            recent: recent.clone(),
            arrivals,
            collecting,
            damaged,
            stop: stops.all.clone(),
        };
        replicator.serve_now();
        held.tell_all().await;
        tasks.spawn(replicator.run());
        let collector = Arc::new(Collector {
            own: identity.key.public(),
            store: store.clone(),
            held: held.clone(),
            sites: sites.clone(),
            content: content.clone(),
            recent,
            snapshots: snapshot.clone(),
            replication: collect,
            metrics: metrics.clone(),
            after: Duration::from_secs(config.store.collect_after_secs.into()),
            cache_bytes: u64::from(config.store.cache_disk_mib) << 20,
            turn: tokio::sync::Mutex::new(()),
            stop: stops.all.clone(),
        });
        let period = Duration::from_secs(config.store.collect_period_secs.into());
        tasks.spawn(collector.clone().run(period));

        let server = Server::new(
            grant.zone.clone(),
            &grant.name,
            &config.http,
            sites,
            content.clone(),
            metrics.http.clone(),
        );
        let (rtts, asked) = (Arc::new(Rtts::default()), Arc::new(Asked::default()));
        let door = Arc::new(Door::new(
            Arc::new(server),
            config.http.clone(),
            rtts.clone(),
            asked.clone(),
            metrics.http.clone(),
        ));
        for socket in &listeners.http {
            tasks.spawn(http::accept(socket.clone(), door.clone(), stops.serving.clone(), clients.clone()));
        }
        let clients_of = Clients { door: door.clone(), rtts, asked, capacity: config.node.capacity() };
        // What a redirector without the role *node* is asked for over HTTP is nobody's demand.
        if !http_addresses.is_empty() {
            tasks.spawn(tell_clients(clients_of, commands.clone(), stops.all.clone()));
        }

        let mut moves = Some(Moves { said, connected: peers });
        // On one host with a home agent the node would take the packets that it tunnels.
        let serves_homes =
            identity.certificate.has_role(Role::Node) && !identity.certificate.has_role(Role::HomeAgent);
        let mobility = if let Some(moves) = moves.take_if(|_| serves_homes) {
            let serve_sites: ServeSites = {
                let (door, tasks, clients) = (door.clone(), tasks.clone(), clients.clone());
                Arc::new(move |listener, stop| {
                    tasks.spawn(http::accept(Arc::new(listener), door.clone(), stop, clients.clone()));
                })
            };
            let start = mobility::Start {
                own: identity.key.public(),
                dir: dir.clone(),
                tell: Tell(overlay.clone()),
                config: config.mobility.clone(),
                serve: config.serve.clone(),
                leaving: stops.serving.clone(),
                sites: mobility::Sites { listening: http_addresses.clone(), serve: serve_sites },
                metrics: metrics.mobility.clone(),
                estate,
            };
            let homes = Homes { snapshots: snapshot.clone(), known: None };
            let (mobility, run) = Mobility::start(start, moves, homes, stops.carrying.clone());
            carriers.spawn(run);
            let tell: crate::handoff::Told = {
                let tell = Tell(overlay.clone());
                // What is lost is said again.
                Box::new(move |to, message| {
                    let _ = tell.tell(to, &Message::Handoff(message));
                })
            };
            let hands = Hands {
                door: door.clone(),
                clients: clients.clone(),
                tasks: tasks.clone(),
                serving: stops.serving.clone(),
                all: stops.all.clone(),
            };
            let part = mobility.clone();
            // Only then are there connections that could move.
            tasks.spawn(async move {
                if part.opened().await
                    && let Some(handoffs) = hands.move_connections(Arc::new(part.clone()), programs, tell)
                {
                    part.hand_over_by(handoffs).await;
                }
            });
            Some(mobility)
        } else {
            if !config.serve.is_empty() {
                tracing::error!(
                    "home addresses are not served: the certificate is that of a home agent, or of no node"
                );
            }
            None
        };

        let host = Arc::new(OnceLock::new());
        let control = Arc::new(Control {
            network: grant.network,
            zone: grant.zone.clone(),
            own: identity.key.public(),
            incarnation,
            started: Instant::now(),
            snapshots: snapshot.clone(),
            commands: commands.clone(),
            content,
            held,
            collector,
            generation: generation.clone(),
            metrics: metrics.clone(),
            uploads: Semaphore::new(UPLOADS_MAX),
            stop: stops.serving.clone(),
            host: host.clone(),
            mobility: mobility.clone(),
        });
        let admin = Arc::new(take_admin(&dir, control_open)?);
        listeners.control = Some(admin.clone());
        tasks.spawn(admin::serve_unix(admin, control.clone(), clients.clone()));
        let metrics_socket = listeners.metrics.clone();
        let monitored = Monitored {
            asked: config.admin.metrics_listen,
            address: match &metrics_socket {
                Some(socket) => addresses_of(std::slice::from_ref(socket))?.first().copied(),
                None => None,
            },
            socket: listeners.metrics.take(),
            stop: stops.serving.child_token(),
        };
        if let Some(socket) = metrics_socket {
            let stop = monitored.stop.clone();
            tasks.spawn(admin::serve_tcp(socket, control.clone(), stop, clients.clone()));
        }

        let mut bootstrap = dir.bootstrap()?;
        bootstrap.extend(&config.overlay.bootstrap);
        bootstrap.retain(|address| !overlay.addresses().contains(address));
        // The machine has just been started and its queue is empty.
        let _ = commands.send(Command::Input(Input::Bootstrap(bootstrap))).await;
        let _ = commands.send(Command::Input(Input::Ready(true))).await;
        Ok(Runtime {
            identity,
            dir,
            overlay,
            http: http_addresses,
            public,
            control,
            monitored: Mutex::new(monitored),
            generation,
            registry: metrics.registry(),
            commands,
            reloads,
            answering,
            resolvers: metrics.resolvers.clone(),
            host,
            snapshots: snapshot,
            stops,
            listeners,
            door,
            clients,
            tasks,
            carriers,
            moves: Mutex::new(moves),
            mobility,
            store,
            _lock: lock,
        })
    }
}

async fn open_store(dir: &DataDir, config: &Config, identity: &Identity) -> Result<Store, StartError> {
    let mut options = Options::new(identity.key.public());
    options.cache_bytes = u64::from(config.store.cache_mib) << 20;
    let path = dir.store();
    let opened = tokio::task::spawn_blocking(move || Store::open(&path, options)).await;
    let (store, report) = opened
        .map_err(|error| StoreError::Io { what: "opening the store".into(), why: error.to_string() })??;
    if let Some(rebuilt) = &report.rebuilt {
        tracing::warn!(why = rebuilt.why, set_aside = ?rebuilt.set_aside, "the store's index was rebuilt");
    }
    tracing::info!(objects = report.objects, lost = report.lost.len(), "the store is open");
    Ok(store)
}

async fn blocking<T: Send + 'static, E: Into<StartError> + Send + 'static>(
    work: impl FnOnce() -> Result<T, E> + Send + 'static,
) -> Result<T, StartError> {
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => result.map_err(Into::into),
        Err(error) => match error.try_into_panic() {
            Ok(panic) => std::panic::resume_unwind(panic),
            // The runtime ends, and drops who waits here, too.
            Err(_) => std::future::pending().await,
        },
    }
}
