//! The node that serves a region is killed, and comes back.

use super::Teller;
use super::client::{Clients, Seen, Watch};
use crate::control::{Request, ask};
use crate::options::Fault;
use crate::probe::{Look, Sight, now_ms};
use crate::state::{RunDir, State};
use crate::topology::Role;
use anyhow::Context;
use serde::Serialize;
use std::net::IpAddr;
use std::time::{Duration, Instant};

/// Longer than this, and the demo goes on without: the promise is 5 s.
const CHANGE_WAIT_MAX: Duration = Duration::from_secs(15);

/// How long the watching client watches at most.
const WATCH_SECONDS: f64 = 60.0;

/// What came of it.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Crash {
    /// The region whose client watched.
    pub(crate) region: String,
    /// The node that was killed.
    pub(crate) killed: String,
    /// The node that served the region afterwards.
    pub(crate) then: Option<String>,
    /// From the kill to the first answer without the dead node, seconds.
    pub(crate) answers_changed_s: Option<f64>,
    /// From the kill to the first page that came again, seconds.
    pub(crate) served_again_s: Option<f64>,
    /// Fetches that failed meanwhile.
    pub(crate) failed_fetches: usize,
    /// Answers without any address, at any time: must be none.
    pub(crate) empty_answers: usize,
    /// From the start to the first page that the node served again, seconds.
    pub(crate) back_s: Option<f64>,
}

pub(super) fn play(
    teller: &Teller,
    state: &State,
    clients: &Clients<'_>,
    looks: &[Seen<Look>],
) -> anyhow::Result<Crash> {
    let (region, killed) = choose(state, looks).context("no client was served by a node of this testbed")?;
    teller.step(&format!("Killing {killed} (kill -9), which serves the client in {region}."));
    let watch = clients.watch(&region, WATCH_SECONDS)?;
    let dir = RunDir::new(Some(&state.dir))?;
    let address: IpAddr = state.find(&killed)?.addr4.parse()?;
    let mut crash = Crash {
        region,
        killed: killed.clone(),
        then: None,
        answers_changed_s: None,
        served_again_s: None,
        failed_fetches: 0,
        empty_answers: 0,
        back_s: None,
    };
    // Killed in the middle of being used.
    next(&watch, Instant::now() + CHANGE_WAIT_MAX);
    let at_ms = now_ms();
    ask(&dir, &Request::Fault(Fault::Kill { host: killed.clone() }))?;
    let until = Instant::now() + CHANGE_WAIT_MAX;
    while let Some(sight) = next(&watch, until) {
        crash.empty_answers += usize::from(sight.address.is_none());
        if sight.address.is_some_and(|now| now != address) && sight.at_ms >= at_ms {
            crash.answers_changed_s.get_or_insert(seconds(at_ms, sight.at_ms));
        }
        if sight.at_ms >= at_ms && sight.error.is_some() {
            crash.failed_fetches += 1;
        }
        if sight.node.is_some() && sight.node.as_ref() != Some(&killed) {
            crash.served_again_s = Some(seconds(at_ms, sight.at_ms));
            crash.then = sight.node;
            break;
        }
    }
    teller.say(&told(&crash));

    teller.step(&format!("Starting {killed} again."));
    let at_ms = now_ms();
    ask(&dir, &Request::Fault(Fault::Start { host: killed.clone() }))?;
    let until = Instant::now() + CHANGE_WAIT_MAX;
    while let Some(sight) = next(&watch, until) {
        crash.empty_answers += usize::from(sight.address.is_none());
        if sight.node.as_ref() == Some(&killed) {
            crash.back_s = Some(seconds(at_ms, sight.at_ms));
            break;
        }
    }
    teller.say(&match crash.back_s {
        Some(back) => format!("It serves {} again after {back:.1} s.", crash.region),
        None => {
            format!("{} is still served by another node after {} s.", crash.region, CHANGE_WAIT_MAX.as_secs())
        }
    });
    Ok(crash)
}

/// A region with a node of its own that serves it; not the first one, from which the demo publishes.
fn choose(state: &State, looks: &[Seen<Look>]) -> Option<(String, String)> {
    let nodes: Vec<_> = state.hosts.iter().filter(|host| host.role == Role::Node).collect();
    let publisher = nodes.first()?;
    let served = |look: &&Seen<Look>| {
        let node = look.what.node.as_ref();
        node.is_some_and(|node| nodes.iter().any(|host| host.name == *node) && *node != publisher.name)
    };
    let own = |look: &&Seen<Look>| look.what.node.as_ref().is_some_and(|node| node.starts_with(&look.region));
    let found = looks.iter().filter(served).find(own).or_else(|| looks.iter().find(served))?;
    Some((found.region.clone(), found.what.node.clone()?))
}

fn next(watch: &Watch, until: Instant) -> Option<Sight> {
    watch.sights.recv_timeout(until.saturating_duration_since(Instant::now())).ok()
}

fn told(crash: &Crash) -> String {
    match (&crash.then, crash.answers_changed_s, crash.served_again_s) {
        (Some(then), Some(changed), Some(served)) => format!(
            "Its DNS answers changed after {changed:.1} s; pages came again after {served:.1} s, from {then}. \
             {} fetches failed in between.",
            crash.failed_fetches
        ),
        _ => format!("No other node took over within {} s.", CHANGE_WAIT_MAX.as_secs()),
    }
}

fn seconds(from_ms: u64, to_ms: u64) -> f64 {
    to_ms.saturating_sub(from_ms) as f64 / 1000.0
}
