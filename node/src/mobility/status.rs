//! What can be told of home addresses at a node: for `status`, and for monitors.

use super::bindings;
use super::services::Services;
use super::serving::Mode;
use super::steer::NodeSteer;
use crate::admin::api;
use godwit_core::binding::CareOf;
use godwit_core::time::Time;
use godwit_net::tunnel::Counts;
use std::sync::atomic::Ordering;

/// See the module.
#[derive(Clone, Debug, Default)]
pub(crate) struct Told {
    pub(crate) services: Vec<api::HomeService>,
    pub(crate) bindings: Vec<api::HomeBinding>,
    pub(crate) counts: Counts,
    pub(crate) decided: DecidedCounts,
}

/// What the node itself decided about packets.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct DecidedCounts {
    pub(crate) second_chances: u64,
    pub(crate) given_back: u64,
    pub(crate) passed_on: u64,
    pub(crate) relayed_here: u64,
    pub(crate) no_relay: u64,
    pub(crate) moving: u64,
    pub(crate) given: u64,
}

impl Told {
    pub(super) fn of_services(services: &Services, now: Time) -> Told {
        let told = services.told(now).into_iter().map(|one| api::HomeService {
            name: one.name.to_string(),
            addresses: one.homes.iter().map(|home| home.0).collect(),
            by: match one.serving.mode {
                Mode::Sites => "sites".to_owned(),
                Mode::Local => "local".to_owned(),
                Mode::To { address, proxy_protocol: false } => address.to_string(),
                Mode::To { address, proxy_protocol: true } => format!("{address} (PROXY protocol)"),
            },
            state: one.state.name().to_owned(),
            works: one.works,
            moved_away: one.serving.moved_away,
            problem: match (one.granted, one.homes.is_empty(), one.problem) {
                (_, _, Some(problem)) => Some(problem),
                (false, ..) => Some("no home address of this name is known".to_owned()),
                (true, true, _) => Some("this member may not serve it".to_owned()),
                (true, false, None) => None,
            },
            forwarded: one.open,
            forwarded_total: one.begun,
            failed_total: one.failed,
        });
        Told { services: told.collect(), ..Told::default() }
    }

    pub(super) fn add_bindings(&mut self, services: &Services, bindings: &[bindings::Told]) {
        let told = |one: &bindings::Told| api::HomeBinding {
            home: one.home.0,
            care_of: match one.care_of {
                CareOf::At(address) => address.to_string(),
                CareOf::Observed => "observed".to_owned(),
            },
            home_agent: services.name_of(&one.agent),
            state: one.state.to_owned(),
            draining: one.draining,
            replies: if one.direct { "direct" } else { "tunnel" }.to_owned(),
        };
        self.bindings = bindings.iter().map(told).collect();
    }

    pub(super) fn add_counts(&mut self, counts: &Counts, steer: &NodeSteer) {
        self.counts.clone_from(counts);
        let read = |counter: &std::sync::atomic::AtomicU64| counter.load(Ordering::Relaxed);
        let sizes = steer.filter.sizes();
        self.decided = DecidedCounts {
            second_chances: read(&steer.decided.second_chances),
            given_back: read(&steer.decided.given_back),
            passed_on: read(&steer.decided.passed_on),
            relayed_here: read(&steer.decided.relayed_here),
            no_relay: read(&steer.decided.no_relay),
            moving: sizes.moving as u64,
            given: sizes.given as u64,
        };
    }
}
