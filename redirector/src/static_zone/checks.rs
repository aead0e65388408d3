//! Checks of a static zone's addresses, made from here.
//!
//! There are no other vantages to agree with, so what is found here holds, with one exception: when
//! *every* address is down the fault is more likely here, and nobody is left out of the answers. A
//! service with `when_all_down = "closed"` is not answered then.
//!
//! Before anything is answered there is a first round ([`Checks::first_round`]): every address is
//! asked, and waited for no longer than [`FIRST_ROUND_MAX`]. What is not known by then counts as up.

use super::problem::Problem;
use futures::FutureExt;
use futures::future::BoxFuture;
use godwit_core::health::{
    Agreed, Check, Failure, Opinion, Pace, Probe, TARGETS_MAX, Target, Verdict, Voice, agree,
};
use godwit_core::key::MemberId;
use godwit_core::time::Time;
use godwit_map::{CheckInput, Inputs, MemberInput};
use godwit_probe::http::{Request, judge};
use godwit_probe::{Fault, Prober, Report, Runner, Vantage};
use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};
use tokio::sync::watch;
use tokio_util::sync::{CancellationToken, DropGuard};

/// A first round takes no longer than this: two timeouts and what lies between, by default. Longer,
/// and a start would be an outage.
pub(crate) const FIRST_ROUND_MAX: Duration = Duration::from_secs(5);

/// What is to be checked.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct CheckPlan {
    targets: Vec<(MemberId, Check)>,
    addresses: BTreeMap<MemberId, (IpAddr, String)>,
}

impl CheckPlan {
    /// Every check of every address.
    pub(crate) fn new(path: &Path, checks: &[Check], members: &[MemberInput]) -> Result<CheckPlan, Problem> {
        let count = checks.len() * members.len();
        if count > TARGETS_MAX {
            let text = format!("{count} checks of addresses: one redirector makes at most {TARGETS_MAX}");
            return Err(Problem::with(path, text));
        }
        let address = |member: &MemberInput| {
            let ip = member.public_v4.map(IpAddr::V4).or(member.public_v6.map(IpAddr::V6));
            ip.map(|ip| (member.id, (ip, member.name.to_string())))
        };
        let of =
            |member: &MemberInput| checks.iter().map(|check| (member.id, check.clone())).collect::<Vec<_>>();
        Ok(CheckPlan {
            targets: members.iter().flat_map(of).collect(),
            addresses: members.iter().filter_map(address).collect(),
        })
    }

    /// Begins to check; `None` when there is nothing to. Within a Tokio runtime.
    pub(crate) fn start(&self) -> Option<Checks> {
        if self.targets.is_empty() {
            return None;
        }
        let stop = CancellationToken::new();
        let (_, targets) = watch::channel(self.targets.clone());
        let (report, reports) = watch::channel(Arc::new(Report::default()));
        let vantage = Arc::new(Local { prober: Prober::new(), addresses: self.addresses.clone() });
        // Not a secret, and different enough between two starts: it only spreads probes.
        let seed = std::process::id().into();
        let runner = Runner { vantage, clock, seed, targets, report, stop: stop.clone() };
        // The targets never change: a file that was read again makes new checks.
        tokio::spawn(runner.run());
        Some(Checks { reports, count: self.targets.len(), _stop: stop.drop_guard() })
    }
}

/// Checks that are being made; dropping them ends it.
pub(crate) struct Checks {
    reports: watch::Receiver<Arc<Report>>,
    count: usize,
    _stop: DropGuard,
}

impl Checks {
    /// Waits until something is known of every address, or for [`FIRST_ROUND_MAX`].
    pub(crate) async fn first_round(&mut self) {
        let count = self.count;
        let all = self.reports.wait_for(|report| report.verdicts.len() >= count);
        if tokio::time::timeout(FIRST_ROUND_MAX, all).await.is_err() {
            tracing::warn!("not all addresses were checked in the first round; the others count as up");
        }
    }

    /// Waits until an opinion differs from those in `known`.
    pub(crate) async fn changed(&mut self, known: &[Verdict]) {
        let differs = |report: &Arc<Report>| opinions(&report.verdicts) != opinions(known);
        if self.reports.wait_for(differs).await.is_err() {
            // It has ended, and nothing will change any more.
            std::future::pending::<()>().await;
        }
    }

    /// What is found now.
    pub(crate) fn verdicts(&self) -> Vec<Verdict> {
        self.reports.borrow().verdicts.clone()
    }
}

fn opinions(verdicts: &[Verdict]) -> Vec<(MemberId, &str, Opinion)> {
    verdicts.iter().map(|verdict| (verdict.target, verdict.check.as_str(), verdict.opinion)).collect()
}

/// `inputs` with what `checks` have found.
pub(crate) fn apply(inputs: &mut Inputs, checks: &[Check], verdicts: &[Verdict]) {
    let several = inputs.members.len() > 1;
    for check in checks {
        let of_check: BTreeMap<MemberId, &Verdict> =
            verdicts.iter().filter(|verdict| verdict.check == check.name).map(|v| (v.target, v)).collect();
        let down = |member: &MemberInput| {
            of_check.get(&member.id).is_some_and(|verdict| verdict.opinion == Opinion::Down)
        };
        let suspect = several && inputs.members.iter().all(down);
        for member in &mut inputs.members {
            let verdict = of_check.get(&member.id);
            let opinion = verdict.map_or(Opinion::Unknown, |verdict| verdict.opinion);
            let (state, _) = agree(&[Voice { opinion, suspect }], (0, 0), Agreed::Unknown);
            member.checks.push(CheckInput {
                name: check.name.clone(),
                state,
                why: verdict.and_then(|verdict| verdict.why),
                sites: check.sites.clone(),
            });
        }
    }
}

/// The pace of a static zone's checks where they say nothing else.
pub(crate) fn pace() -> Pace {
    Pace::default()
}

struct Local {
    prober: Prober,
    addresses: BTreeMap<MemberId, (IpAddr, String)>,
}

impl Vantage for Local {
    fn probe(&self, target: &Target, check: &Check) -> BoxFuture<'static, Result<Duration, Fault>> {
        let (prober, timeout, probe) = (self.prober.clone(), check.pace.timeout, check.probe.clone());
        let ip = self.addresses.get(&target.member).map(|(ip, _)| *ip);
        async move {
            let ip = ip.ok_or_else(|| Fault::Here("no address".into()))?;
            match probe {
                Probe::Tcp { port } => prober.tcp(SocketAddr::new(ip, port), timeout).await,
                Probe::Http(http) => {
                    let address = SocketAddr::new(ip, http.port);
                    let answer = prober.http(address, &Request::of(&http), timeout).await?;
                    Ok(judge(&http, &answer)?)
                }
                // Only members of a network have sites whose bytes are known.
                Probe::Site => Err(Fault::Here("no site is known here".into())),
            }
        }
        .boxed()
    }

    fn ended(&self, _target: &Target, _check: &Check, _outcome: &Result<Duration, Fault>) {}

    fn turned(&self, target: &Target, from: Opinion, to: Opinion, why: Option<Failure>) {
        let address = self.addresses.get(&target.member);
        let (address, name) = address.map_or((None, ""), |(ip, name)| (Some(*ip), name.as_str()));
        let (check, why) = (&target.check, why.map(|why| why.to_string()));
        match (from, to) {
            (Opinion::Unknown, Opinion::Up) => tracing::debug!(name, ?address, %check, "a service works"),
            (_, Opinion::Down) => tracing::warn!(name, ?address, %check, why, "a service is down"),
            _ => tracing::info!(name, ?address, %check, "a service works again"),
        }
    }
}

/// A clock that never runs backwards; only differences count here.
fn clock() -> Time {
    static START: OnceLock<Instant> = OnceLock::new();
    let elapsed = START.get_or_init(Instant::now).elapsed();
    Time::from_secs(1) + elapsed
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::static_zone::plan::Plan;

    #[test]
    fn what_is_down_is_told_to_the_map_but_not_that_everything_is() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("zone.toml");
        let text = "origin = \"svc.example.org\"\n[[region]]\nname = \"eu\"\n\
                    addresses = [\"192.0.2.1\", \"192.0.2.2\"]\n[[check]]\nname = \"web\"\nkind = \"http\"\n";
        std::fs::write(&path, text).unwrap();
        let plan = Plan::read(&path).unwrap();
        let found = |opinions: [Opinion; 2]| {
            let verdicts: Vec<Verdict> = opinions
                .iter()
                .zip(&plan.inputs().members)
                .map(|(opinion, member)| Verdict {
                    target: member.id,
                    check: "web".parse().unwrap(),
                    opinion: *opinion,
                    since: Time::default(),
                    why: None,
                    latency_ms: None,
                })
                .collect();
            let mut inputs = plan.inputs().clone();
            apply(&mut inputs, plan.checks(), &verdicts);
            inputs.members.iter().map(|member| member.checks[0].state).collect::<Vec<_>>()
        };
        use Opinion::{Down, Unknown, Up};
        assert_eq!(found([Up, Down]), [Agreed::Up, Agreed::Down]);
        assert_eq!(found([Unknown, Down]), [Agreed::Unknown, Agreed::Down]);
        assert_eq!(found([Down, Down]), [Agreed::Doubted, Agreed::Doubted]);
    }
}
