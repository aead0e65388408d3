//! Where each service stands: whether it takes new flows, keeps old ones, or is only there.

use super::{Finding, Served, Services};
use crate::mobility::bindings::Homes;
use godwit_core::name::SiteName;
use godwit_core::time::Time;
use std::time::Duration;

/// A service that failed keeps its old flows for so long; then nothing is led here for it.
const FAILED_MAX: Duration = Duration::from_secs(30);

/// Where a service stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::mobility) enum State {
    Open,
    Draining,
    Kept,
}

impl State {
    pub(in crate::mobility) fn name(self) -> &'static str {
        match self {
            State::Open => "open",
            State::Draining => "draining",
            State::Kept => "not bound",
        }
    }
}

impl Services {
    /// Where a service stands.
    pub(super) fn state(served: &Served, now: Time) -> State {
        let failed_for = served.failed_at.map(|at| now.since(at));
        match (served.serving.moved_away, served.works()) {
            (_, None) => State::Kept,
            (true, Some(true)) if served.drain_until.is_some_and(|until| now < until) => State::Draining,
            (true, _) => State::Kept,
            (false, Some(true)) => State::Open,
            (false, Some(false)) if failed_for.is_some_and(|long| long < FAILED_MAX) => State::Draining,
            (false, Some(false)) => State::Kept,
        }
    }

    /// What is to be bound now.
    pub(in crate::mobility) fn homes(&self, now: Time) -> Homes {
        let mut homes = Homes::default();
        for (name, served) in &self.served {
            let set = match Services::state(served, now) {
                State::Open if self.leaving => &mut homes.draining,
                State::Open => &mut homes.open,
                State::Draining => &mut homes.draining,
                State::Kept => &mut homes.kept,
            };
            set.extend(self.homes_of(name));
            let deaf = served.listening.iter().filter(|(_, listening)| listening.problem.is_some());
            for (home, _) in deaf {
                homes.open.remove(home);
                homes.draining.remove(home);
                homes.kept.insert(*home);
            }
        }
        homes
    }

    /// When [`Services::homes`] changes without anything else happening.
    pub(in crate::mobility) fn next_deadline(&self, now: Time) -> Option<Time> {
        let ends = self.served.values().flat_map(|served| {
            served.drain_until.into_iter().chain(served.failed_at.map(|at| at + FAILED_MAX))
        });
        ends.filter(|end| *end > now).min()
    }

    /// A health check has found something else than before.
    pub(in crate::mobility) fn found(&mut self, now: Time, finding: &Finding) {
        let Some(served) = self.served.get_mut(&finding.name) else { return };
        if served.works != Some(finding.works) {
            tracing::info!(name = %finding.name, works = finding.works, "a service at a home address");
        }
        served.failed_at = if finding.works { None } else { served.failed_at.or(Some(now)) };
        served.works = Some(finding.works);
    }

    /// Takes no new flows for a name; old ones until then.
    pub(in crate::mobility) fn drain(&mut self, name: &SiteName, until: Time) {
        if let Some(served) = self.served.get_mut(name) {
            served.drain_until = Some(until);
            served.serving.moved_away = true;
        }
    }

    /// The member stops: what is served takes no new flows.
    pub(in crate::mobility) fn begin_to_stop(&mut self) {
        self.leaving = true;
    }
}
