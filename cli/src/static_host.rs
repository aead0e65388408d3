//! What the control socket of a static zone's redirector asks of this process.

use crate::zone::{ReloadRequest, explained, reload};
use godwit_core::challenge::{Challenge, LEASE_DEFAULT};
use godwit_core::health::{Opinion, Verdict};
use godwit_dns_plugin::SharedView;
use godwit_map::{CheckInput, Health, MemberInput};
use godwit_node::admin::{Host, Pending, Question, ZoneHost, api};
use godwit_redirector::static_zone::{Control, Standing, State};
use prometheus_client::registry::Registry;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::mpsc;

/// The only vantage there is.
const HERE: &str = "here";

/// The process that serves a static zone, for its control socket.
pub(crate) struct StaticHost {
    control: Control,
    view: SharedView,
    reloads: mpsc::Sender<ReloadRequest>,
    registry: Arc<Registry>,
    started: Instant,
}

impl StaticHost {
    pub(crate) fn new(
        control: Control,
        view: SharedView,
        reloads: mpsc::Sender<ReloadRequest>,
        registry: Arc<Registry>,
    ) -> StaticHost {
        StaticHost { control, view, reloads, registry, started: Instant::now() }
    }
}

impl Host for StaticHost {
    fn reload(&self) -> Pending<Vec<String>> {
        reload(self.reloads.clone())
    }

    fn explain(&self, question: &Question) -> Result<serde_json::Value, api::Error> {
        explained(&self.view, question)
    }
}

impl ZoneHost for StaticHost {
    fn status(&self) -> Pending<api::Status> {
        let (control, view, started) = (self.control.clone(), self.view.clone(), self.started);
        Box::pin(async move {
            let standing = control.look().await.map_err(unavailable)?;
            Ok(status(&view, &standing, started.elapsed()))
        })
    }

    fn set_state(&self, asked: api::State) -> Pending<()> {
        let control = self.control.clone();
        Box::pin(async move {
            let state = match asked.state.as_str() {
                "up" => State::Up,
                "drain" => State::Drain,
                "down" => State::Down,
                other => return Err(malformed(format!("{other:?} is not `up`, `drain` or `down`"))),
            };
            control.set_state(&asked.name, state).await.map_err(malformed)
        })
    }

    fn challenges(&self) -> Pending<api::Challenges> {
        let control = self.control.clone();
        Box::pin(async move {
            let standing = control.look().await.map_err(unavailable)?;
            let at = |(name, value)| api::ChallengeAt { name, value, member: HERE.to_owned() };
            Ok(api::Challenges { challenges: standing.challenges.into_iter().map(at).collect() })
        })
    }

    fn challenge(&self, asked: api::Challenge) -> Pending<()> {
        let (control, zone) = (self.control.clone(), self.view.load().generation.zone().to_string());
        Box::pin(async move {
            let challenge = Challenge::new(&asked.name, &asked.value).map_err(malformed)?;
            if !challenge.name.ends_with(&format!(".{zone}")) {
                let problem = format!(
                    "{} is not in the zone {zone}: let a CNAME at the name lead to one that is",
                    challenge.name
                );
                return Err(malformed(problem));
            }
            let lease = asked.lease_secs.map_or(LEASE_DEFAULT, Duration::from_secs);
            control.challenge(challenge, lease).await.map_err(malformed)
        })
    }

    fn metrics(&self) -> Result<String, api::Error> {
        let mut text = String::new();
        prometheus_client::encoding::text::encode(&mut text, &self.registry)
            .map_err(|error| unavailable(error.to_string()))?;
        Ok(text)
    }
}

fn malformed(problem: String) -> api::Error {
    api::Error::new(api::Code::Malformed, problem)
}

fn unavailable(problem: String) -> api::Error {
    api::Error::new(api::Code::Unavailable, problem)
}

fn status(view: &SharedView, standing: &Standing, uptime: Duration) -> api::Status {
    let view = view.load();
    let generation = &view.generation;
    let service = |site: &godwit_map::SiteInput| api::SiteStatus {
        name: site.site.to_string(),
        version: site.number.0,
        files: 0,
        bytes: 0,
        replicas: "service".to_owned(),
        published_at_ms: 0,
        holders: Vec::new(),
        wanted: Vec::new(),
    };
    let mut members: Vec<api::Member> =
        generation.members().iter().map(|member| self::member(member, &standing.verdicts)).collect();
    members.sort_by(|a, b| a.name.cmp(&b.name));
    api::Status {
        zone: generation.zone().to_string(),
        network: String::new(),
        member: String::new(),
        name: String::new(),
        region: String::new(),
        ready: true,
        software: env!("CARGO_PKG_VERSION").to_owned(),
        incarnation: 0,
        generation: generation.number(),
        uptime_seconds: uptime.as_secs(),
        connected: 0,
        members,
        sites: generation.sites().map(service).collect(),
        addresses: Vec::new(),
        differences: Default::default(),
        home_services: Default::default(),
        home_bindings: Default::default(),
        untold_sites: Default::default(),
    }
}

/// An address, as a member.
fn member(member: &MemberInput, verdicts: &[Verdict]) -> api::Member {
    api::Member {
        name: member.name.to_string(),
        id: member.id.to_string(),
        serial: member.serial.0,
        region: member.region.to_string(),
        roles: member.roles.iter().map(ToString::to_string).collect(),
        state: if member.state == Health::Alive { "alive" } else { "unreachable" }.to_owned(),
        draining: member.draining,
        ready: member.ready,
        addresses: api::Addresses {
            peer: Vec::new(),
            v4: member.public_v4,
            v6: member.public_v6,
            http_port: member.http_port,
        },
        sites: Default::default(),
        lag: Default::default(),
        rtt_ms: None,
        load: 0.0,
        software: String::new(),
        expires_at_ms: 0,
        checks: member.checks.iter().map(|held| check(member, held, verdicts)).collect(),
    }
}

fn check(member: &MemberInput, held: &CheckInput, verdicts: &[Verdict]) -> api::CheckStatus {
    let of_it = |verdict: &&Verdict| verdict.target == member.id && verdict.check == held.name;
    let verdict = verdicts.iter().find(of_it);
    let vantage = |verdict: &Verdict| api::VantageStatus {
        name: HERE.to_owned(),
        finds: word(&verdict.opinion),
        since_ms: verdict.since.as_millis(),
        why: verdict.why.map(|why| why.to_string()),
        latency_ms: verdict.latency_ms,
        suspect: verdict.opinion == Opinion::Down && held.state != godwit_core::health::Agreed::Down,
    };
    api::CheckStatus {
        name: held.name.to_string(),
        state: word(&held.state),
        decided: verdict.is_some(),
        why: held.why.map(|why| why.to_string()),
        sites: held.sites.iter().map(ToString::to_string).collect(),
        vantages: verdict.map(vantage).into_iter().collect(),
    }
}

/// A value by the word that its JSON form has.
fn word(value: &impl serde::Serialize) -> String {
    match serde_json::to_value(value) {
        Ok(serde_json::Value::String(word)) => word,
        _ => String::new(),
    }
}
