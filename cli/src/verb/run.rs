//! `godwit run`: runs this member.
//!
//! Composition and nothing else: the configuration is read, the node's runtime started, and the
//! redirector started beside it on the same map where the certificate allows that; before it where the
//! disk has no room for the member. Then signals are waited for.

mod full_disk;

use super::config::FileArguments;
use crate::config::{File, LogFormat};
use crate::failure::{Classify, Exit, Failure, Outcome};
use crate::zone::{self, ReloadRequest};
use crate::{home, remember, supervisor};
use anyhow::Context;
use clap::Args;
use full_disk::{FullDisk, StartedNames};
use godwit_core::certificate::Role;
use godwit_node::datadir::DataDirError;
use godwit_node::{Early, Leaving, Runtime, Settings, SharedRegistry, Sockets, StartError};
use godwit_redirector::{
    Inherited, Purpose, Redirector, Running, SharedView, Signing, Succession, Successors,
};
use prometheus_client::metrics::gauge::Gauge;
use std::io::IsTerminal;
use std::path::{Path, PathBuf};
use std::pin::pin;
use std::sync::{Arc, PoisonError};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::{mpsc, watch};
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{EnvFilter, Layer, Registry, reload};

/// Run this member with every role that its certificate holds
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  godwit run
  godwit run --data-dir /srv/godwit --config /etc/godwit/godwit.toml --log debug

It logs to standard error and stays in the foreground. SIGTERM and Ctrl-C stop it in order, a second
one at once. SIGHUP and `godwit reload` read configuration and GeoIP database again; a wrong file
changes nothing.")]
pub(crate) struct Run {
    #[command(flatten)]
    file: FileArguments,
    /// What to log, in place of RUST_LOG and the configuration: a level, or targets with levels
    #[arg(long, value_name = "FILTER")]
    log: Option<String>,
    /// How to log, in place of the configuration
    #[arg(long, value_name = "FORMAT")]
    log_format: Option<LogFormat>,
}

/// Changes what is logged while running.
pub(crate) type LogHandle = reload::Handle<EnvFilter, Registry>;

impl Run {
    pub(crate) fn run(self) -> Outcome {
        let path = self.file.path()?;
        let zone = self.file.data_dir.dir()?.identity().ok();
        let zone = zone.as_ref().map(|identity| &identity.certificate.grant().zone);
        let config = File::read_for(path.as_deref(), zone)?;
        let log = self.start_logging(&config)?;
        tracing::info!(version = env!("CARGO_PKG_VERSION"), config = ?path, "starting");
        let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
        let result = runtime.block_on(self.serve(config, path, &log));
        // Blocking work that nobody waits for any more (a GeoIP file being read) does not hold up
        // the end.
        runtime.shutdown_background();
        result
    }

    async fn serve(&self, config: File, path: Option<PathBuf>, log: &LogHandle) -> Outcome {
        // Before anything is started: a signal that comes meanwhile is not lost.
        let mut signals = Signals::new()?;
        let dir = self.file.data_dir.dir()?;
        let granted = dir.identity().map_err(start_failure)?.certificate.grant().roles.clone();
        let roles = roles(&granted, config.roles.as_deref())?;
        let mut node = config.node_config();
        if !roles.contains(&Role::Node) {
            node.http.listen.clear();
        }
        let mut inherited = inherit(&config).await?;
        inherited.leave_estate();
        let (home_estate, node_estate) = match roles.contains(&Role::HomeAgent) {
            true => (inherited.estate(), None),
            false => (None, inherited.estate()),
        };
        let mut sockets = Sockets {
            estate: node_estate,
            http: inherited.take(Purpose::Http),
            metrics: inherited.take(Purpose::Metrics),
            control: inherited.take(Purpose::Control),
        };
        if !roles.contains(&Role::Node) {
            sockets.http.clear();
        }
        let settings = Settings::new(dir.path(), node);
        // Without room on the disk a redirector answers names from its last map, and waits for some.
        let waits = roles.contains(&Role::Redirector) && !Early::has_room(dir.path());
        let (early, answering) = match waits {
            true => {
                let early = Early::load(dir.path(), &settings.config).await.map_err(start_failure)?;
                let inherited = std::mem::replace(&mut inherited, Inherited::none());
                let waiting = FullDisk { config: &config, path: path.as_deref(), dir: &dir };
                match waiting.answer(inherited, &early, &mut signals).await? {
                    Some(answering) => (Some(early), Some(answering)),
                    None => return Ok(()),
                }
            }
            false => (None, None),
        };
        let runtime = Runtime::start_after(early, sockets, settings).await.map_err(start_failure)?;
        let sockets = runtime.sockets().context("cannot keep sockets for a successor")?;
        inherited.pass_on(Purpose::Http, sockets.http);
        // The address for monitors may change while it runs: it is not kept open for a successor.
        drop(sockets.metrics);
        inherited.pass_on(Purpose::Control, sockets.control);
        // Every member can say what the zone's redirectors answer, whether it is one or not.
        let (view, mut redirector, signing) = match (answering, roles.contains(&Role::Redirector)) {
            (Some(StartedNames { view, running, signing }), _) => (view, Answering::Names(running), signing),
            (None, true) => {
                let view = zone::view(&config, path.as_deref(), runtime.generation())?;
                let started = start_redirector(inherited, &config, runtime.registry(), view.clone());
                let (running, signing) = started.await?;
                (view, Answering::Names(Box::new(running)), signing)
            }
            (None, false) => {
                let view = zone::view(&config, path.as_deref(), runtime.generation())?;
                (view, Answering::no_names(inherited, &config).await?, None)
            }
        };
        tokio::spawn(zone::follow_challenges(runtime.challenges(), view.clone()));
        if let Some(redirector) = redirector.names() {
            runtime.answers_by(zone::settings(&config));
            count_askers(redirector, &config, &runtime);
        }
        let mut home = match roles.contains(&Role::HomeAgent) {
            true => Some(home::start(&config, &runtime, home_estate).await?),
            false => None,
        };
        if home.is_some() && roles.contains(&Role::Node) {
            tracing::warn!(
                "home agent and node are one host here: it serves names and sites, and binds no home address"
            );
        }
        let (reloads, mut asked_to_reload) = mpsc::channel(1);
        let viewer = home.as_ref().map(godwit_home_agent::Running::viewer);
        runtime.set_host(Arc::new(zone::Host { view: view.clone(), reloads, home: viewer }));
        let names: Vec<&str> = roles.iter().map(|role| role.as_str()).collect();
        tracing::info!(
            roles = names.join(","),
            dns = ?redirector.names().map(Running::addresses).unwrap_or_default(),
            http = ?runtime.http_addresses(),
            tunnel = ?home.as_ref().map(|home| home.addresses().to_vec()).unwrap_or_default(),
            peer = ?runtime.peer_addresses(),
            metrics = ?runtime.metrics_address(),
            "running"
        );
        let reloaded = reload_gauge(&runtime.registry());
        let mut current = config;
        let mut remember = pin!(remember::members(runtime.client(), dir));
        let mut revoked = pin!(runtime.revoked());
        // Not there any more once a successor has it.
        let (mut runtime, mut leaving) = (Some(runtime), None::<Leaving>);
        let mut outcome = Ok(());
        supervisor::ready();
        loop {
            let asked = tokio::select! {
                asked = signals.next() => asked,
                succession = redirector.succession() => Asked::Succession(succession),
                Some(reply) = asked_to_reload.recv() => Asked::Reload(Some(reply)),
                () = &mut remember => continue,
                () = &mut revoked, if redirector.names().is_some() || home.is_some() => {
                    // Its map is no map of the network any more; resolvers and routers have others.
                    tracing::error!("this member was revoked: it answers no names and holds no addresses any more");
                    if let Some(home) = home.take() {
                        home.shutdown().await;
                    }
                    std::mem::replace(&mut redirector, Answering::Nothing).shutdown().await;
                    continue;
                }
            };
            match asked {
                Asked::Stop => break,
                Asked::Succession(Succession::Wanted(let_go)) => {
                    tracing::info!("another process takes over: names are answered on meanwhile");
                    if let Some(home) = &home {
                        home.carry_on().await;
                    }
                    if let Some(runtime) = runtime.take() {
                        leaving = Some(runtime.hand_over().await);
                    }
                    let_go.done();
                }
                Asked::Succession(Succession::Heir(heir)) => {
                    let estate = match (home.take(), &leaving) {
                        (Some(home), _) => home.hand_over().await,
                        (None, Some(leaving)) => leaving.estate().await,
                        (None, None) => None,
                    };
                    if let Some(estate) = estate {
                        heir.leave(estate);
                    }
                }
                Asked::Succession(Succession::Done) => break,
                Asked::Succession(Succession::Failed) => {
                    outcome = Err(
                        anyhow::anyhow!("the process that was to take over ended before it could").into()
                    );
                    break;
                }
                Asked::Reload(reply) => {
                    supervisor::reloading();
                    let kept = match &runtime {
                        Some(runtime) => Vec::from_iter(runtime.reload().await),
                        None => Vec::new(),
                    };
                    let read = self.reload(&current, path.as_deref(), log, &view).and_then(|config| {
                        if let Some(signing) = &signing {
                            signing.reload().context("the keys stay as they were")?;
                        }
                        let listen = |config: &File| match &runtime {
                            Some(runtime) => runtime.listen_metrics(config.admin.metrics_listen),
                            None => Ok(()),
                        };
                        listen(&config)?;
                        if let Answering::Names(redirector) = &mut redirector
                            && let Err(error) = redirector.reload(&config.redirector_config())
                        {
                            // Nothing of a configuration that cannot be is in force.
                            listen(&current)?;
                            return Err(error.into());
                        }
                        zone::replace(&view, &config, path.as_deref()).context("the zone stays as it was")?;
                        if let (Some(runtime), Some(_)) = (&runtime, redirector.names()) {
                            runtime.answers_by(zone::settings(&config));
                        }
                        Ok(config)
                    });
                    reloaded.set(i64::from(read.is_ok()));
                    let told = match read {
                        Ok(config) => {
                            current = config;
                            Ok(kept)
                        }
                        Err(failure) => {
                            tracing::error!("the configuration stays as it was: {failure}");
                            Err(failure.to_string())
                        }
                    };
                    // Whoever asked may have gone.
                    reply.map(|reply| reply.send(told));
                    supervisor::ready();
                }
            }
        }
        tracing::info!("stopping");
        supervisor::stopping();
        let stop = async {
            // Routers are told while the tunnel still works.
            if let Some(home) = home {
                home.shutdown().await;
            }
            let runtime = async {
                if let Some(runtime) = runtime {
                    runtime.shutdown().await;
                }
                if let Some(leaving) = leaving {
                    leaving.finish().await;
                }
            };
            tokio::join!(redirector.shutdown(), runtime);
        };
        tokio::select! {
            () = stop => outcome,
            () = signals.stop() => Err(anyhow::anyhow!("asked twice to stop: some requests were cut off").into()),
        }
    }

    /// Reads the file again and applies what can be; gives what is in force from now on.
    fn reload(
        &self,
        current: &File,
        path: Option<&Path>,
        log: &LogHandle,
        view: &SharedView,
    ) -> Outcome<File> {
        let config = File::read_for(path, Some(view.load().generation.zone()))?;
        if config.log.level != current.log.level {
            log.reload(self.filter(&config)?).context("cannot change what is logged")?;
        }
        let as_before = File {
            log: current.log.clone(),
            admin: current.admin.clone(),
            redirector: current.redirector.clone(),
            zone: current.zone.clone(),
            ..config.clone()
        };
        if as_before != *current
            || config.log.format != current.log.format
            || !current.redirector_config().can_become(&config.redirector_config())
        {
            tracing::warn!(
                "the configuration was read again; some of what has changed takes effect at the next start"
            );
        } else {
            tracing::info!("the configuration was read again");
        }
        Ok(config)
    }

    fn filter(&self, config: &File) -> Outcome<EnvFilter> {
        filter(self.log.as_deref(), &config.log.level)
    }

    fn start_logging(&self, config: &File) -> Outcome<LogHandle> {
        let format = self.log_format.unwrap_or(config.log.format);
        start_logging(self.log.as_deref(), &config.log.level, format)
    }
}

/// What to log: as asked for, or as the environment says, or `otherwise`.
fn filter(asked: Option<&str>, otherwise: &str) -> Outcome<EnvFilter> {
    let environment = std::env::var("RUST_LOG").ok().filter(|filter| !filter.is_empty());
    let filter = asked.map(str::to_owned).or(environment).unwrap_or_else(|| otherwise.to_owned());
    filter.parse().with_context(|| format!("{filter:?} does not say what to log")).or_exit(Exit::Usage)
}

/// Logs to standard error from now on.
pub(crate) fn start_logging(asked: Option<&str>, otherwise: &str, format: LogFormat) -> Outcome<LogHandle> {
    let (filter, handle) = reload::Layer::new(filter(asked, otherwise)?);
    let lines = tracing_subscriber::fmt::layer().with_writer(std::io::stderr);
    let lines = match format {
        LogFormat::Json => lines.json().boxed(),
        LogFormat::Text => lines.with_ansi(std::io::stderr().is_terminal()).boxed(),
    };
    tracing_subscriber::registry().with(filter).with(lines).try_init()?;
    Ok(handle)
}

/// The roles to run: those granted, or those of them that the configuration names.
fn roles(granted: &[Role], asked: Option<&[Role]>) -> Outcome<Vec<Role>> {
    let Some(asked) = asked else { return Ok(granted.to_vec()) };
    match asked.iter().find(|role| !granted.contains(role)) {
        Some(role) => Err(Failure::usage(format!("this member's certificate does not hold the role {role}"))
            .advise(format!(
                "leave it out of `roles` in the configuration, or invite this host with --role {role}"
            ))),
        None => Ok(asked.to_vec()),
    }
}

/// Takes over the sockets of a service manager, or of the process that runs this member now, which
/// answers names on, sends what it began to send, and lets go of everything else.
async fn inherit(config: &File) -> Outcome<Inherited> {
    let mut inherited =
        Inherited::find(config.handover()).await.context("cannot ask the running process for its sockets")?;
    inherited.prepare().await.context("the running process does not let go")?;
    Ok(inherited)
}

/// What of this process another one can take over besides the runtime.
enum Answering {
    /// A redirector.
    Names(Box<Running>),
    /// No names; another process may take over all the same.
    Others(Successors),
    /// Nothing.
    Nothing,
}

impl Answering {
    /// For a member without a redirector.
    async fn no_names(inherited: Inherited, config: &File) -> Outcome<Answering> {
        let Some(path) = config.handover() else { return Ok(Answering::Nothing) };
        let successors = Successors::listen(path, inherited).await;
        let successors =
            successors.with_context(|| format!("cannot hand sockets over at {}", path.display()))?;
        Ok(Answering::Others(successors))
    }

    fn names(&self) -> Option<&Running> {
        match self {
            Answering::Names(running) => Some(running),
            Answering::Others(_) | Answering::Nothing => None,
        }
    }

    /// What a successor wants next.
    async fn succession(&mut self) -> Succession {
        match self {
            Answering::Names(running) => running.succession().await,
            Answering::Others(successors) => successors.next().await,
            Answering::Nothing => std::future::pending().await,
        }
    }

    async fn shutdown(self) {
        if let Answering::Names(running) = self {
            running.shutdown().await;
        }
    }
}

#[allow(
    clippy::await_holding_lock,
    reason = "starting only registers and binds, and nobody else starts anything at this moment"
)]
async fn start_redirector(
    inherited: Inherited,
    config: &File,
    registry: SharedRegistry,
    view: SharedView,
) -> Outcome<(Running, Option<Signing>)> {
    let mut registry = registry.lock().unwrap_or_else(PoisonError::into_inner);
    let signing = Signing::start(&config.dnssec, &view, &mut registry)
        .context("the zone cannot be signed")
        .or_exit(Exit::Usage)?;
    let started = Redirector::start_on(inherited, config.redirector_config(), view, &mut registry).await;
    Ok((started.context("the redirector cannot start")?, signing))
}

/// Has the resolvers that ask here measured, where that is wanted.
fn count_askers(redirector: &Running, config: &File, runtime: &Runtime) {
    if config.map.probe_resolvers {
        let (lists, told) = watch::channel(Vec::new());
        tokio::spawn(redirector.asking().run(config.map.probe_rules(), lists));
        runtime.ask_for_resolvers(told);
    }
}

fn reload_gauge(registry: &SharedRegistry) -> Gauge {
    let gauge = Gauge::default();
    gauge.set(1);
    registry.lock().unwrap_or_else(PoisonError::into_inner).register(
        "config_last_reload_successful",
        "Whether the configuration in force is the one in the file",
        gauge.clone(),
    );
    gauge
}

fn start_failure(error: impl Into<StartError>) -> Failure {
    let error = error.into();
    let (exit, advice) = match &error {
        StartError::Config(_) => (Exit::Usage, None),
        StartError::Certificate(_) => {
            (Exit::Refused, Some("check this host's clock; if it is right, invite the host again"))
        }
        StartError::DataDir(DataDirError::Locked(_)) => {
            (Exit::Failed, Some("stop that one, or name another directory with --data-dir DIR"))
        }
        _ => (Exit::Failed, None),
    };
    let failure = Failure::new(exit, error);
    match advice {
        Some(advice) => failure.advise(advice),
        None => failure,
    }
}

/// What a signal asks for.
pub(crate) enum Asked {
    Stop,
    /// By a signal, or at the control endpoint, which is to be told.
    Reload(Option<ReloadRequest>),
    Succession(Succession),
}

/// The signals that a daemon hears.
pub(crate) struct Signals {
    terminate: Signal,
    interrupt: Signal,
    hangup: Signal,
}

impl Signals {
    pub(crate) fn new() -> Outcome<Signals> {
        Ok(Signals {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
            hangup: signal(SignalKind::hangup())?,
        })
    }

    pub(crate) async fn next(&mut self) -> Asked {
        tokio::select! {
            _ = self.terminate.recv() => Asked::Stop,
            _ = self.interrupt.recv() => Asked::Stop,
            _ = self.hangup.recv() => Asked::Reload(None),
        }
    }

    /// Waits for another request to stop.
    async fn stop(&mut self) {
        while !matches!(self.next().await, Asked::Stop) {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_configuration_only_takes_roles_away() {
        let granted = [Role::Node, Role::Redirector];
        assert_eq!(roles(&granted, None).unwrap(), granted);
        assert_eq!(roles(&granted, Some(&[Role::Redirector])).unwrap(), [Role::Redirector]);
        let failure = roles(&[Role::Node], Some(&[Role::Redirector])).unwrap_err();
        assert_eq!(failure.exit(), Exit::Usage);
    }
}
