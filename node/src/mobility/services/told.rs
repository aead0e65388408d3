//! What can be told of the services.

use super::{Served, Services, State};
use crate::mobility::serving::Serving;
use godwit_core::binding::HomeAddress;
use godwit_core::name::SiteName;
use godwit_core::time::Time;
use std::collections::BTreeSet;
use std::sync::atomic::Ordering;

/// What can be told of one service.
#[derive(Clone, Debug)]
pub(in crate::mobility) struct Told {
    pub(in crate::mobility) name: SiteName,
    pub(in crate::mobility) serving: Serving,
    pub(in crate::mobility) homes: BTreeSet<HomeAddress>,
    pub(in crate::mobility) granted: bool,
    pub(in crate::mobility) works: Option<bool>,
    pub(in crate::mobility) state: State,
    pub(in crate::mobility) problem: Option<String>,
    pub(in crate::mobility) open: u64,
    pub(in crate::mobility) begun: u64,
    pub(in crate::mobility) failed: u64,
}

impl Services {
    /// What can be told of the services.
    pub(in crate::mobility) fn told(&self, now: Time) -> Vec<Told> {
        let told = |(name, served): (&SiteName, &Served)| Told {
            name: name.clone(),
            serving: served.serving.clone(),
            homes: self.homes_of(name),
            granted: self.known.granted.contains_key(name),
            works: served.works(),
            state: Services::state(served, now),
            problem: served.listening.values().find_map(|listening| listening.problem.clone()),
            open: served.forwarded.open.load(Ordering::Relaxed),
            begun: served.forwarded.begun.load(Ordering::Relaxed),
            failed: served.forwarded.failed.load(Ordering::Relaxed)
                + served.forwarded.refused.load(Ordering::Relaxed),
        };
        self.served.iter().map(told).collect()
    }
}
