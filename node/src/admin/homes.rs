//! Home addresses at this node, at the control endpoint.

use super::api::{self, Code, Error};
use super::server::Control;
use crate::mobility::{Mobility, ServeConfig};
use godwit_core::name::SiteName;
use std::time::Duration;

/// Nobody waits longer until a node is bound.
const BOUND_WAIT_MAX: Duration = Duration::from_secs(60);

/// The longest drain: a day.
const DEADLINE_MAX: u64 = 86_400;

impl Control {
    fn homes(&self) -> Result<&Mobility, Error> {
        self.mobility.as_ref().ok_or_else(|| {
            let why = "this member is a home agent or no node: it serves no home addresses";
            Error::new(Code::NotAllowed, why)
        })
    }

    pub(super) async fn serve(&self, asked: api::Serve) -> Result<api::Served, Error> {
        let (mobility, name) = (self.homes()?, name_of(&asked.name)?);
        if asked.stop {
            let stopped = mobility.stop(name).await;
            return Ok(api::Served { stopped, ..api::Served::default() });
        }
        let api::Serve { to, proxy_protocol, local, wait_ms, .. } = asked;
        let config = ServeConfig { name: name.clone(), to, proxy_protocol, local };
        config.check().map_err(|problem| Error::new(Code::Malformed, problem))?;
        mobility.serve(config).await.map_err(|problem| Error::new(Code::Unavailable, problem))?;
        let wait = Duration::from_millis(wait_ms).min(BOUND_WAIT_MAX);
        let stopping = || Error::new(Code::Unavailable, "the daemon is stopping");
        let (stands, homes) = mobility.until_bound(&name, wait).await.ok_or_else(stopping)?;
        Ok(api::Served {
            addresses: homes.iter().map(|home| home.0).collect(),
            stopped: false,
            bound_at: stands.bound_at(),
            problem: stands.problem(),
            next: stands.next(&name),
        })
    }

    pub(super) async fn move_to(&self, asked: api::Move) -> Result<api::Moved, Error> {
        let (mobility, name) = (self.homes()?.clone(), name_of(&asked.name)?);
        let deadline = Duration::from_secs(asked.deadline_secs.min(DEADLINE_MAX));
        // In a task of its own: a client that hangs up does not stop it half-way.
        let moving = tokio::spawn(async move { mobility.move_to(name, asked.to, deadline).await });
        let moved = moving.await.map_err(|e| Error::new(Code::Unavailable, e.to_string()))?;
        let moved = moved.map_err(|problem| Error::new(Code::NotFound, problem))?;
        let count = |count: usize| count as u64;
        Ok(api::Moved {
            connections_moved: count(moved.connections),
            connections_drained: count(moved.drained),
            connections_lost: count(moved.lost),
            udp_flows_moved: count(moved.udp_flows),
            packets_lost: moved.packets_lost,
            gap_ms: moved.gap.as_secs_f64() * 1000.0,
            switched_ms: moved.switched.as_secs_f64() * 1000.0,
            kept: moved.why.into_iter().map(|(why, kept)| (why, count(kept))).collect(),
        })
    }
}

fn name_of(text: &str) -> Result<SiteName, Error> {
    text.parse().map_err(|e| Error::new(Code::Malformed, format!("{text:?} is no name: {e}")))
}
