//! `godwit redirector --static`: serves a zone from one file, without a network of members.

use super::run::{Asked, Signals, start_logging};
use crate::config::LogFormat;
use crate::failure::{Classify, Exit, Failure, Outcome};
use crate::static_host::StaticHost;
use crate::{supervisor, terminal};
use anyhow::Context;
use clap::Args;
use godwit_node::admin::ZoneEndpoint;
use godwit_redirector::static_zone::{Control, ControlSocket, Prepared, StaticZone};
use godwit_redirector::{Config, Monitor, Redirector as Daemon, Running, Signing, Succession};
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

/// Answer for a zone from one file, without a network of members
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  godwit redirector --static zone.toml --check
  godwit redirector --static zone.toml
  godwit drain eu --static zone.toml
  godwit status --static zone.toml
  godwit why www --client 203.0.113.9 --static zone.toml
  godwit reload --static zone.toml
  godwit acme set www gfj9Xq...Rg85nM --static zone.toml

These ask it at its control socket: `admin.socket` of the file, or beside the file with the ending
`sock` (zone.sock). It logs to standard error and stays in the foreground. SIGTERM and Ctrl-C stop
it, SIGHUP and `godwit reload` read the file and everything it names again; a wrong file, or an
address that cannot be had, changes nothing. docs/static.md tells every key.")]
pub(crate) struct Redirector {
    /// The zone's file
    #[arg(long = "static", value_name = "FILE")]
    file: PathBuf,
    /// Only tell what is wrong with it; exits with 2 when something is
    #[arg(long)]
    check: bool,
    /// What to log, in place of RUST_LOG: a level, or targets with levels [default: info]
    #[arg(long, value_name = "FILTER")]
    log: Option<String>,
    /// How to log
    #[arg(long, value_name = "FORMAT", default_value = "text")]
    log_format: LogFormat,
}

impl Redirector {
    pub(crate) fn run(self) -> Outcome {
        if self.check {
            let zone = StaticZone::open(&self.file).or_exit(Exit::Usage)?;
            let generation = zone.generation();
            let services = terminal::count(generation.sites().count() as u64, "service");
            let (file, zone) = (self.file.display(), generation.zone());
            return terminal::print(&format!("{file} is right: {zone} with {services}"));
        }
        start_logging(self.log.as_deref(), "info", self.log_format)?;
        let prepared = Prepared::read(&self.file).or_exit(Exit::Usage)?;
        let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
        let result = runtime.block_on(serve(&self.file, prepared));
        runtime.shutdown_background();
        result
    }
}

async fn serve(path: &Path, prepared: Prepared) -> Outcome {
    let mut signals = Signals::new()?;
    let (config, dnssec) = (prepared.config().clone(), prepared.dnssec().clone());
    let (metrics_listen, socket) = (prepared.metrics_listen(), prepared.control_socket().clone());
    let zone = StaticZone::compile(prepared).or_exit(Exit::Usage)?;
    tracing::info!(version = env!("CARGO_PKG_VERSION"), zone = ?zone.generation(), "starting");
    let (view, mut keeper) = zone.into_view();
    let mut registry = Registry::with_prefix("godwit");
    keeper.register(&mut registry);
    let reloaded = reload_gauge(&mut registry);
    // Before anything is answered: the first answer shall not name an address that is down.
    keeper.first_round().await;
    let signing = Signing::start(&dnssec, &view, &mut registry)
        .context("the zone cannot be signed")
        .or_exit(Exit::Usage)?;
    let running = Daemon::start(config.clone(), view.clone(), &mut registry).await;
    let running = running.context("the redirector cannot start")?;
    let registry = Arc::new(registry);
    let mut monitoring = Monitoring { registry: registry.clone(), listen: None, running: JoinSet::new() };
    monitoring.take(monitoring.listen(metrics_listen).await?, metrics_listen);
    let control = keeper.control();
    let (reloads, mut asked_to_reload) = mpsc::channel(1);
    let host = StaticHost::new(control.clone(), view, reloads, registry);
    let stop = CancellationToken::new();
    let endpoint = endpoint(&socket)?.map(|it| tokio::spawn(it.serve(Arc::new(host), stop.clone())));
    let keeper = tokio::spawn(keeper.run());
    let path = path.to_owned();
    let mut served = Served { path, running, signing, control, monitoring, config, socket };
    supervisor::ready();
    loop {
        let asked = tokio::select! {
            asked = signals.next() => asked,
            succession = served.running.succession() => Asked::Succession(succession),
            Some(reply) = asked_to_reload.recv() => Asked::Reload(Some(reply)),
        };
        match asked {
            Asked::Stop | Asked::Succession(Succession::Done) => break,
            // Nothing is held that the one who follows could need.
            Asked::Succession(Succession::Wanted(let_go)) => let_go.done(),
            Asked::Succession(Succession::Heir(_)) => {}
            Asked::Succession(Succession::Failed) => {
                tracing::warn!("the process that was to follow is gone: going on");
            }
            Asked::Reload(reply) => {
                supervisor::reloading();
                let read = served.reload().await;
                reloaded.set(i64::from(read.is_ok()));
                let told = read.map(|()| Vec::new()).map_err(|failure| {
                    tracing::error!("the zone stays as it was: {failure}");
                    failure.to_string()
                });
                // Whoever asked may have gone.
                reply.map(|reply| reply.send(told));
                supervisor::ready();
            }
        }
    }
    supervisor::stopping();
    keeper.abort();
    stop.cancel();
    served.running.shutdown().await;
    if let Some(endpoint) = endpoint {
        // It ends by itself within moments.
        let _ = endpoint.await;
    }
    Ok(())
}

/// What a reload is about.
struct Served {
    path: PathBuf,
    running: Running,
    signing: Option<Signing>,
    control: Control,
    monitoring: Monitoring,
    config: Config,
    socket: ControlSocket,
}

impl Served {
    /// Reads the file again and puts it in place. Whatever can fail does so before anything changes.
    async fn reload(&mut self) -> Outcome {
        let path = self.path.clone();
        let prepared = tokio::task::spawn_blocking(move || Prepared::read(&path)).await?;
        let prepared = prepared.or_exit(Exit::Usage)?;
        let (config, metrics_listen) = (prepared.config().clone(), prepared.metrics_listen());
        if !self.config.can_become(&config) || self.socket != *prepared.control_socket() {
            tracing::warn!("some of what has changed in the file takes effect at the next start");
        }
        let monitor = self.monitoring.listen(metrics_listen).await?;
        if let Some(signing) = &self.signing {
            signing.reload().context("the keys stay as they were")?;
        }
        self.running.reload(&config)?;
        self.control.put(prepared).await.map_err(Failure::usage)?;
        self.monitoring.take(monitor, metrics_listen);
        self.config = config;
        Ok(())
    }
}

/// Who tells monitors, and where.
struct Monitoring {
    registry: Arc<Registry>,
    listen: Option<SocketAddr>,
    running: JoinSet<()>,
}

impl Monitoring {
    /// Listens there, unless that is done already.
    async fn listen(&self, address: Option<SocketAddr>) -> Outcome<Option<Monitor>> {
        let Some(address) = address.filter(|_| address != self.listen) else { return Ok(None) };
        let listening = Monitor::listen(address, self.registry.clone()).await;
        let listening =
            listening.with_context(|| format!("admin.metrics_listen: cannot listen on {address}"))?;
        Ok(Some(listening))
    }

    /// Answers there from now on, and nowhere else.
    fn take(&mut self, monitor: Option<Monitor>, address: Option<SocketAddr>) {
        if address != self.listen {
            self.running.abort_all();
            self.listen = address;
        }
        if let Some(monitor) = monitor {
            tracing::info!(address = ?monitor.address().ok(), "metrics");
            self.running.spawn(monitor.run());
        }
    }
}

/// The control socket. One that nobody asked for is not worth a start that fails.
fn endpoint(socket: &ControlSocket) -> Outcome<Option<ZoneEndpoint>> {
    let path = socket.path.display();
    match ZoneEndpoint::listen(&socket.path) {
        Ok(endpoint) => {
            tracing::info!(socket = %path, "controlled");
            Ok(Some(endpoint))
        }
        Err(error) if socket.named => {
            Err(Failure::from(error)).or_advise(|| format!("admin.socket: cannot listen on {path}"))
        }
        Err(error) => {
            tracing::warn!(socket = %path, %error, "no control socket: name one by `admin.socket`");
            Ok(None)
        }
    }
}

fn reload_gauge(registry: &mut Registry) -> Gauge {
    let gauge = Gauge::default();
    gauge.set(1);
    let help = "Whether the configuration in force is the one in the file";
    registry.register("config_last_reload_successful", help, gauge.clone());
    gauge
}
