//! The zone as configured, put in place while it is served; and what the control endpoint asks of
//! it.

use crate::config::File;
use crate::failure::Outcome;
use crate::home;
use anyhow::Context;
use godwit_core::agreement::Setting;
use godwit_core::name::ZoneName;
use godwit_dns_plugin::{SharedView, Zone, ZoneError, explain};
use godwit_home_agent::Viewer;
use godwit_map::Shared;
use godwit_node::Challenges;
use godwit_node::admin::{self, Pending, Question, api};
use std::path::Path;
use std::time::UNIX_EPOCH;
use tokio::sync::{mpsc, oneshot};

/// The zone `name` as `config` has it. `modified` is when its file was changed last.
pub(crate) fn configured(config: &File, name: &ZoneName, modified: u32) -> Result<Zone, ZoneError> {
    Zone::configured(name, config.redirector.options(), &config.zone, modified)
}

/// When a file was changed last, seconds since the Unix epoch modulo 2^32; 0 without one.
pub(crate) fn modified(path: Option<&Path>) -> u32 {
    let time = path.and_then(|path| std::fs::metadata(path).ok()?.modified().ok());
    time.and_then(|time| time.duration_since(UNIX_EPOCH).ok()).map_or(0, |since| since.as_secs() as u32)
}

/// A view of a member's map with the zone of `config`.
pub(crate) fn view(config: &File, path: Option<&Path>, generations: Shared) -> Outcome<SharedView> {
    let name = generations.load().zone().clone();
    let zone = configured(config, &name, modified(path)).context("the zone cannot be served")?;
    warn_of_clashes(&zone, &generations.load());
    Ok(SharedView::new(generations, zone))
}

/// What the zone's answers depend on beside the map: for the other redirectors to compare.
pub(crate) fn settings(config: &File) -> Vec<Setting> {
    // A value that cannot be written is told as nothing: it is the same on all that have it.
    let zone = serde_json::to_vec(&config.zone).unwrap_or_default();
    vec![
        Setting::new("redirector.ttl_secs", &config.redirector.ttl_secs.to_be_bytes()),
        Setting::new("redirector.ttl_static_secs", &config.redirector.ttl_static_secs.to_be_bytes()),
        Setting::new("zone", &zone),
    ]
}

/// Puts the zone of another configuration in place; the next query is answered from it.
pub(crate) fn replace(view: &SharedView, config: &File, path: Option<&Path>) -> Result<(), ZoneError> {
    let name = view.load().generation.zone().clone();
    let zone = configured(config, &name, modified(path))?;
    warn_of_clashes(&zone, &view.load().generation);
    view.update(|before| Some(zone.succeeding(before)));
    Ok(())
}

/// A site is published by others, at any time: that it is hidden must not keep a redirector from
/// starting, so it is told and nothing more.
fn warn_of_clashes(zone: &Zone, generation: &godwit_map::Generation) {
    if let Some(clash) = zone.clash(generation.sites().map(|site| site.site.as_str())) {
        tracing::warn!("{clash}; the configuration goes before it");
    }
}

/// Keeps the view's challenges those that the network knows of; ends with the member.
pub(crate) async fn follow_challenges(mut challenges: Challenges, view: SharedView) {
    while let Some(values) = challenges.next().await {
        tracing::debug!(values = values.len(), "values for certificate authorities have changed");
        view.update(|zone| {
            let pairs = values.iter().map(|value| (value.name.as_str(), value.value.as_str()));
            Some(zone.with_challenges(pairs))
        });
    }
}

/// A request to read the configuration again, and where to say how that went.
pub(crate) type ReloadRequest = oneshot::Sender<Result<Vec<String>, String>>;

/// What the control endpoint asks of this process.
pub(crate) struct Host {
    pub(crate) view: SharedView,
    pub(crate) reloads: mpsc::Sender<ReloadRequest>,
    /// The home agent beside it, if there is one.
    pub(crate) home: Option<Viewer>,
}

impl admin::Host for Host {
    fn reload(&self) -> Pending<Vec<String>> {
        reload(self.reloads.clone())
    }

    fn explain(&self, question: &Question) -> Result<serde_json::Value, api::Error> {
        explained(&self.view, question)
    }

    fn home(&self) -> Pending<serde_json::Value> {
        Box::pin(home::view(self.home.clone()))
    }

    fn home_flows(&self, max: usize) -> Pending<serde_json::Value> {
        Box::pin(home::flows(self.home.clone(), max))
    }
}

/// Asks for the configuration to be read again, and waits for how that goes.
pub(crate) fn reload(reloads: mpsc::Sender<ReloadRequest>) -> Pending<Vec<String>> {
    Box::pin(async move {
        let stopping = || api::Error::new(api::Code::Unavailable, "the daemon is stopping");
        let (reply, done) = oneshot::channel();
        reloads.send(reply).await.map_err(|_| stopping())?;
        let done = done.await.map_err(|_| stopping())?;
        done.map_err(|problem| api::Error::new(api::Code::Malformed, problem))
    })
}

/// What is answered from a view, and why.
pub(crate) fn explained(view: &SharedView, question: &Question) -> Result<serde_json::Value, api::Error> {
    let Question { name, kind, client, resolver } = question;
    let explained = explain::explain(&view.load(), name, kind.as_deref(), *client, *resolver);
    let malformed = |problem: String| api::Error::new(api::Code::Malformed, problem);
    let explanation = explained.map_err(|error| malformed(error.to_string()))?;
    serde_json::to_value(explanation).map_err(|error| malformed(error.to_string()))
}
