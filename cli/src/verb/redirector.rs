//! `godwit redirector --static`: serves a zone from one file, without a network of members.

use super::run::{Asked, Signals, start_logging};
use crate::config::LogFormat;
use crate::failure::{Classify, Exit, Outcome};
use crate::terminal;
use anyhow::Context;
use clap::Args;
use godwit_redirector::static_zone::StaticZone;
use godwit_redirector::{Monitor, Redirector as Daemon, Signing, Succession};
use prometheus_client::registry::Registry;
use std::path::PathBuf;
use std::sync::Arc;
use tokio::task::JoinSet;

/// Answer for a zone from one file, without a network of members
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  godwit redirector --static zone.toml --check
  godwit redirector --static zone.toml
  godwit drain eu --static zone.toml
  godwit why www --client 203.0.113.9 --static zone.toml

It logs to standard error and stays in the foreground. SIGTERM and Ctrl-C stop it, SIGHUP reads the
file and everything it names again; a wrong file changes nothing. docs/static.md tells every key.")]
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
            return terminal::print(&format!("{}: {:?}\n", self.file.display(), zone.generation()));
        }
        start_logging(self.log.as_deref(), "info", self.log_format)?;
        let zone = StaticZone::open(&self.file).or_exit(Exit::Usage)?;
        tracing::info!(version = env!("CARGO_PKG_VERSION"), zone = ?zone.generation(), "starting");
        let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
        let result = runtime.block_on(serve(zone));
        runtime.shutdown_background();
        result
    }
}

async fn serve(zone: StaticZone) -> Outcome {
    let mut signals = Signals::new()?;
    let (config, dnssec) = (zone.config().clone(), zone.dnssec().clone());
    let metrics_listen = zone.metrics_listen();
    let (view, mut keeper) = zone.into_view();
    // Before anything is answered: the first answer shall not name an address that is down.
    keeper.first_round().await;
    let (reload, mut settings) = (keeper.reload(), keeper.settings());
    let mut registry = Registry::with_prefix("godwit");
    let signing = Signing::start(&dnssec, &view, &mut registry)
        .context("the zone cannot be signed")
        .or_exit(Exit::Usage)?;
    let running = Daemon::start(config, view, &mut registry).await;
    let mut running = running.context("the redirector cannot start")?;
    let mut monitor = JoinSet::new();
    if let Some(address) = metrics_listen {
        let listening = Monitor::listen(address, Arc::new(registry)).await;
        let listening =
            listening.with_context(|| format!("admin.metrics_listen: cannot listen on {address}"))?;
        tracing::info!(address = ?listening.address()?, "metrics");
        monitor.spawn(listening.run());
    }
    let keeper = tokio::spawn(keeper.run());
    loop {
        let asked = tokio::select! {
            asked = signals.next() => asked,
            succession = running.succession() => Asked::Succession(succession),
            Ok(()) = settings.changed() => {
                let config = settings.borrow_and_update().clone();
                if let Err(error) = running.reload(&config) {
                    tracing::error!("[redirector] stays as it was: {:#}", anyhow::Error::new(error));
                }
                continue;
            }
        };
        match asked {
            Asked::Stop | Asked::Succession(Succession::Done) => break,
            // Nothing is held that the one who follows could need.
            Asked::Succession(Succession::Wanted(let_go)) => let_go.done(),
            Asked::Succession(Succession::Failed) => {
                tracing::warn!("the process that was to follow is gone: going on");
            }
            Asked::Reload(_) => {
                reload.now();
                if let Some(Err(error)) = signing.as_ref().map(Signing::reload) {
                    tracing::error!("the keys stay as they were: {:#}", anyhow::Error::new(error));
                }
            }
        }
    }
    keeper.abort();
    monitor.abort_all();
    running.shutdown().await;
    Ok(())
}
