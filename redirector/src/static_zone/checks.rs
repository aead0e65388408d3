//! Checks of a static zone's addresses, made from here.
//!
//! There are no other vantages to agree with, so what is found here holds, with one exception: when
//! *every* address is down the fault is more likely here, and nobody is left out of the answers. A
//! service with `when_all_down = "closed"` is not answered then.
//!
//! Before anything is answered there is a first round ([`Checks::first_round`]): every address is
//! asked, and waited for no longer than [`FIRST_ROUND_MAX`]. What is not known by then counts as up.
//! The same holds before a file that was read again is put in place, for what is new in it.

use super::health::{HealthMetrics, TargetLabels};
use super::problem::Problem;
use arc_swap::ArcSwap;
use futures::FutureExt;
use futures::future::BoxFuture;
use godwit_core::certificate::Role;
use godwit_core::content::ObjectId;
use godwit_core::health::{
    Agreed, Check, Failure, Opinion, Pace, Probe, TARGETS_MAX, Target, Verdict, Voice, agree,
};
use godwit_core::key::{MemberId, PublicKey};
use godwit_core::name::CheckName;
use godwit_core::time::Time;
use godwit_map::{CheckInput, Hosting, Inputs, MemberInput, SiteInput};
use godwit_probe::http::{Request, judge};
use godwit_probe::{Fault, Prober, Report, Runner, Vantage};
use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};
use tokio::sync::watch;
use tokio_util::sync::{CancellationToken, DropGuard};

/// A first round takes no longer than this: two timeouts and what lies between, by default. Longer,
/// and a start would be an outage.
pub(crate) const FIRST_ROUND_MAX: Duration = Duration::from_secs(5);

/// What is to be checked.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct CheckPlan {
    targets: Vec<(MemberId, Check)>,
    probed: BTreeMap<MemberId, Probed>,
}

/// An address to probe. Its key is made of name and address, so that what was found of one address is
/// never taken for another's of the same name.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Probed {
    member: MemberId,
    address: IpAddr,
    name: String,
    region: String,
}

impl Probed {
    fn of(member: &MemberInput) -> Option<(MemberId, Probed)> {
        let address = member.public_v4.map(IpAddr::V4).or(member.public_v6.map(IpAddr::V6))?;
        let key = ObjectId::of(format!("static check {} {address}", member.name).as_bytes());
        let (name, region) = (member.name.to_string(), member.region.to_string());
        Some((PublicKey::from_bytes(*key.as_bytes()), Probed { member: member.id, address, name, region }))
    }

    fn labels(&self, check: &CheckName) -> TargetLabels {
        let (address, region) = (self.address.to_string(), self.region.clone());
        TargetLabels { address, region, check: check.to_string() }
    }
}

impl CheckPlan {
    /// Every check of every address that a service it is about runs on.
    pub(crate) fn new(path: &Path, checks: &[Check], inputs: &Inputs) -> Result<CheckPlan, Problem> {
        let mut plan = CheckPlan::default();
        for member in inputs.members.iter().filter(|member| member.has_role(Role::Node)) {
            let Some((key, probed)) = Probed::of(member) else { continue };
            let concerns = |check: &&Check| {
                let runs = |site: &&SiteInput| match &site.hosting {
                    Hosting::Service(service) => service.runs_on(member),
                    // A static zone has no home addresses.
                    Hosting::Content | Hosting::Home(_) => true,
                };
                let mut sites = inputs.sites.iter().filter(|site| check.sites.contains(&site.site));
                check.sites.is_empty() || sites.any(|site| runs(&site))
            };
            let of_it: Vec<_> = checks.iter().filter(concerns).map(|check| (key, check.clone())).collect();
            if !of_it.is_empty() {
                plan.probed.insert(key, probed);
            }
            plan.targets.extend(of_it);
        }
        let count = plan.targets.len();
        if count > TARGETS_MAX {
            let text = format!("{count} checks of addresses: one redirector makes at most {TARGETS_MAX}");
            return Err(Problem::with(path, text));
        }
        Ok(plan)
    }

    /// Begins to check. Within a Tokio runtime.
    pub(crate) fn start(&self, metrics: &HealthMetrics) -> Checks {
        let stop = CancellationToken::new();
        let (tell, targets) = watch::channel(self.targets.clone());
        let (report, reports) = watch::channel(Arc::new(Report::default()));
        let probed = Arc::new(ArcSwap::from_pointee(self.probed.clone()));
        metrics.watch(self.targets.len(), []);
        let vantage = Local { prober: Prober::new(), probed: probed.clone(), metrics: metrics.clone() };
        // Not a secret, and different enough between two starts: it only spreads probes.
        let seed = std::process::id().into();
        let runner = Runner { vantage: Arc::new(vantage), clock, seed, targets, report, stop: stop.clone() };
        tokio::spawn(runner.run());
        Checks { targets: tell, probed, reports, metrics: metrics.clone(), _stop: stop.drop_guard() }
    }

    /// What is found of the plan's own targets, with the members that they are of.
    pub(crate) fn of_members(&self, verdicts: &[Verdict]) -> Vec<Verdict> {
        let of_member = |verdict: &Verdict| {
            let member = self.probed.get(&verdict.target)?.member;
            Some(Verdict { target: member, ..verdict.clone() })
        };
        verdicts.iter().filter_map(of_member).collect()
    }

    /// The members that a check is made of.
    fn checked(&self, check: &CheckName) -> BTreeSet<MemberId> {
        let of_check = self.targets.iter().filter(|(_, other)| other.name == *check);
        of_check.filter_map(|(key, _)| Some(self.probed.get(key)?.member)).collect()
    }

    fn labels(&self) -> BTreeSet<TargetLabels> {
        let labels = |(key, check): &(MemberId, Check)| Some(self.probed.get(key)?.labels(&check.name));
        self.targets.iter().filter_map(labels).collect()
    }
}

/// Checks that are being made; dropping them ends it.
pub(crate) struct Checks {
    targets: watch::Sender<Vec<(MemberId, Check)>>,
    probed: Arc<ArcSwap<BTreeMap<MemberId, Probed>>>,
    reports: watch::Receiver<Arc<Report>>,
    metrics: HealthMetrics,
    _stop: DropGuard,
}

impl Checks {
    /// Checks what `plan` has, beside what is checked now, and waits until something is known of all of
    /// it, or for [`FIRST_ROUND_MAX`]. What was known before stays known.
    pub(crate) async fn first_round(&mut self, plan: &CheckPlan) {
        let mut probed = BTreeMap::clone(&self.probed.load());
        probed.extend(plan.probed.clone());
        self.probed.store(Arc::new(probed));
        self.targets.send_if_modified(|targets| {
            let new: Vec<_> =
                plan.targets.iter().filter(|target| !targets.contains(target)).cloned().collect();
            // Another definition of a check takes the place of the one before.
            let is_same = |(key, check): &(MemberId, Check)| {
                new.iter().any(|(other, by)| other == key && by.name == check.name)
            };
            targets.retain(|target| !is_same(target));
            targets.extend(new.iter().cloned());
            !new.is_empty()
        });
        let known = |report: &Arc<Report>| {
            plan.targets.iter().all(|(key, check)| {
                // By its definition: what was found by another one says nothing.
                report.watched.iter().any(|(target, by, seen)| {
                    target.member == *key && by == check && seen.opinion != Opinion::Unknown
                })
            })
        };
        if tokio::time::timeout(FIRST_ROUND_MAX, self.reports.wait_for(known)).await.is_err() {
            tracing::warn!("not all addresses were checked in the first round; the others count as up");
        }
    }

    /// Checks what `plan` has and nothing else.
    pub(crate) fn follow(&self, plan: &CheckPlan, before: &CheckPlan) {
        self.targets.send_replace(plan.targets.clone());
        self.probed.store(Arc::new(plan.probed.clone()));
        self.metrics.watch(plan.targets.len(), before.labels().difference(&plan.labels()).cloned());
    }

    /// Waits until an opinion differs from those in `known`.
    pub(crate) async fn changed(&mut self, plan: &CheckPlan, known: &[Verdict]) {
        let differs = |report: &Arc<Report>| opinions(&plan.of_members(&report.verdicts)) != opinions(known);
        if self.reports.wait_for(differs).await.is_err() {
            // It has ended, and nothing will change any more.
            std::future::pending::<()>().await;
        }
    }

    /// What is found now of what `plan` has.
    pub(crate) fn verdicts(&self, plan: &CheckPlan) -> Vec<Verdict> {
        plan.of_members(&self.reports.borrow().verdicts)
    }
}

fn opinions(verdicts: &[Verdict]) -> Vec<(MemberId, &str, Opinion)> {
    verdicts.iter().map(|verdict| (verdict.target, verdict.check.as_str(), verdict.opinion)).collect()
}

/// `inputs` with what `checks` have found of members.
pub(crate) fn apply(inputs: &mut Inputs, checks: &[Check], plan: &CheckPlan, verdicts: &[Verdict]) {
    for check in checks {
        let checked = plan.checked(&check.name);
        let of_check: BTreeMap<MemberId, &Verdict> =
            verdicts.iter().filter(|verdict| verdict.check == check.name).map(|v| (v.target, v)).collect();
        let down =
            |member: &MemberId| of_check.get(member).is_some_and(|verdict| verdict.opinion == Opinion::Down);
        let suspect = checked.len() > 1 && checked.iter().all(down);
        for member in inputs.members.iter_mut().filter(|member| checked.contains(&member.id)) {
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
    probed: Arc<ArcSwap<BTreeMap<MemberId, Probed>>>,
    metrics: HealthMetrics,
}

impl Local {
    fn labels(&self, target: &Target) -> Option<TargetLabels> {
        Some(self.probed.load().get(&target.member)?.labels(&target.check))
    }
}

impl Vantage for Local {
    fn probe(&self, target: &Target, check: &Check) -> BoxFuture<'static, Result<Duration, Fault>> {
        let (prober, timeout, probe) = (self.prober.clone(), check.pace.timeout, check.probe.clone());
        let ip = self.probed.load().get(&target.member).map(|probed| probed.address);
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

    fn ended(&self, target: &Target, _check: &Check, outcome: &Result<Duration, Fault>) {
        self.metrics.ended(self.labels(target), outcome);
    }

    fn turned(&self, target: &Target, from: Opinion, to: Opinion, why: Option<Failure>) {
        self.metrics.turned(self.labels(target), to);
        let probed = self.probed.load();
        let probed = probed.get(&target.member);
        let (address, name) = (probed.map(|probed| probed.address), probed.map_or("", |probed| &probed.name));
        let (check, why) = (&target.check, why.map(|why| why.to_string()));
        match (from, to) {
            (Opinion::Unknown, Opinion::Up) => tracing::debug!(name, ?address, %check, "a service works"),
            (_, Opinion::Down) => tracing::warn!(name, ?address, %check, why, "a service is down"),
            _ => tracing::info!(name, ?address, %check, "a service works again"),
        }
    }
}

/// A clock that never runs backwards, set by the host's at the start.
fn clock() -> Time {
    static START: OnceLock<(Instant, Duration)> = OnceLock::new();
    let start = || (Instant::now(), SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default());
    let (started, at) = START.get_or_init(start);
    Time::default() + *at + started.elapsed()
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
            apply(&mut inputs, plan.checks(), plan.check_plan(), &verdicts);
            inputs.members.iter().map(|member| member.checks[0].state).collect::<Vec<_>>()
        };
        use Opinion::{Down, Unknown, Up};
        assert_eq!(found([Up, Down]), [Agreed::Up, Agreed::Down]);
        assert_eq!(found([Unknown, Down]), [Agreed::Unknown, Agreed::Down]);
        assert_eq!(found([Down, Down]), [Agreed::Doubted, Agreed::Doubted]);
    }
}
