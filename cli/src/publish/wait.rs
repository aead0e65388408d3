//! Gives a signed version to the member and waits until enough regions hold it on disk.

use crate::failure::{Exit, Failure, Outcome};
use crate::terminal::count;
use godwit_core::certificate::Role;
use godwit_core::content::{Replicas, SiteVersion};
use godwit_core::record::Record;
use godwit_node::admin::{Client, api};
use indicatif::ProgressBar;
use std::collections::BTreeSet;
use std::fmt;
use std::str::FromStr;
use std::time::{Duration, Instant};

/// How often the member is asked. It answers from memory.
const POLL_EVERY: Duration = Duration::from_millis(100);

/// How many regions have to hold a version before a publish counts as done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Wait {
    /// So many.
    Regions(usize),
    /// Every node that is to keep it.
    All,
}

impl FromStr for Wait {
    type Err = String;
    fn from_str(text: &str) -> Result<Wait, String> {
        match (text, text.parse()) {
            ("all", _) => Ok(Wait::All),
            (_, Ok(count)) if (1..=10_000).contains(&count) => Ok(Wait::Regions(count)),
            _ => Err(format!("{text:?} is neither `all` nor a number of regions")),
        }
    }
}

impl fmt::Display for Wait {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Wait::All => f.write_str("all"),
            Wait::Regions(count) => write!(f, "{count}"),
        }
    }
}

impl Wait {
    fn is_met(self, progress: &api::Progress) -> bool {
        let (done, all) = self.measure(progress);
        all > 0 && done >= all
    }

    /// Whether so many regions can go on holding a site that is kept so often.
    pub(crate) fn check(self, replicas: Replicas) -> Outcome {
        match (self, replicas) {
            (Wait::Regions(regions), Replicas::Count(count)) if regions > usize::from(count) => {
                let text = format!("{regions} regions cannot hold a site of which {count} are kept");
                Err(Failure::usage(text).advise("ask for less with --wait, or for more with --replicas"))
            }
            (Wait::Regions(_) | Wait::All, _) => Ok(()),
        }
    }

    /// Whether there are so many regions with nodes at all. Those that are away for the moment count:
    /// whoever wants to wait for them may.
    pub(crate) fn check_regions(self, status: &api::Status) -> Outcome {
        let Wait::Regions(asked) = self else { return Ok(()) };
        let lasts = |member: &&api::Member| !matches!(member.state.as_str(), "revoked" | "expired");
        let nodes = status.members.iter().filter(lasts);
        let nodes = nodes.filter(|member| member.roles.iter().any(|role| role == Role::Node.as_str()));
        let regions: BTreeSet<&str> = nodes.map(|node| node.region.as_str()).collect();
        if asked <= regions.len() {
            return Ok(());
        }
        let named: Vec<&str> = regions.iter().copied().take(10).collect();
        let text = format!(
            "{asked} regions cannot hold it: the network has nodes in {} ({})",
            count(regions.len() as u64, "region"),
            named.join(", ")
        );
        Err(Failure::usage(text).advise("ask for less with --wait, or for what there is with --wait all"))
    }

    /// Whether waiting on is of no use: fewer regions are to keep it now than were asked for, and
    /// these have it.
    fn is_hopeless(self, progress: &api::Progress) -> bool {
        match self {
            Wait::Regions(asked) => lasting(progress) < asked && progress.held == progress.wanted,
            Wait::All => false,
        }
    }

    /// How far it is, and where it ends. Who was sent a site that is to be kept elsewhere counts
    /// until it is whole there, but not beyond: then it is given up.
    fn measure(self, progress: &api::Progress) -> (u64, u64) {
        match self {
            Wait::Regions(count) => (progress.regions.len().min(lasting(progress)) as u64, count as u64),
            Wait::All => (progress.held, progress.wanted),
        }
    }
}

/// How many regions will hold the version when all that are to keep it do.
fn lasting(progress: &api::Progress) -> usize {
    let wanted = progress.members.iter().filter(|member| member.wanted);
    wanted.map(|member| &member.region).collect::<BTreeSet<_>>().len()
}

/// How a wait ended.
#[derive(Debug)]
pub(crate) struct Waited {
    /// Who holds the version.
    pub(crate) progress: api::Progress,
    /// Why it is not as durable as asked for; `None` when it is.
    pub(crate) not_yet: Option<Failure>,
}

/// Gives the signed version to the member and waits, at most `timeout`.
pub(crate) async fn submit_and_wait(
    client: &Client,
    version: &SiteVersion,
    wait: Wait,
    timeout: Duration,
    bar: &ProgressBar,
) -> Outcome<Waited> {
    client.submit(&Record::Site(Box::new(version.clone()))).await?;
    let deadline = Instant::now() + timeout;
    loop {
        let progress = client.progress_of(version).await?;
        if progress.won == Some(false) {
            return Err(lost(version));
        }
        let (done, all) = wait.measure(&progress);
        bar.set_length(all);
        bar.set_position(done.min(all));
        if wait.is_met(&progress) {
            return Ok(Waited { progress, not_yet: None });
        }
        if Instant::now() >= deadline || wait.is_hopeless(&progress) {
            let not_yet = Some(not_yet(version, wait, &progress));
            return Ok(Waited { progress, not_yet });
        }
        tokio::time::sleep(POLL_EVERY).await;
    }
}

fn lost(version: &SiteVersion) -> Failure {
    let (site, number) = (&version.site, version.number);
    Failure::refused(format!("another publish of {site} won version {number}"))
        .advise("look at `godwit status`, then publish again: it takes the next number")
}

fn not_yet(version: &SiteVersion, wait: Wait, progress: &api::Progress) -> Failure {
    let (site, number) = (&version.site, version.number);
    let late = progress.members.iter().filter(|member| member.wanted && !member.holds);
    let late: Vec<&str> = late.map(|member| member.name.as_str()).take(10).collect();
    let (done, all) = wait.measure(progress);
    let what = match wait {
        Wait::All => "nodes",
        Wait::Regions(_) => "regions",
    };
    let mut text = format!("version {number} of {site} is on disk in {done} of {all} {what} so far");
    if !late.is_empty() {
        text += &format!("; not yet on {}", late.join(", "));
    }
    Failure::new(Exit::NotDurable, anyhow::anyhow!("{text}")).advise(
        "it is published and goes on spreading: follow it with `godwit status`, or allow more with --timeout",
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `regions` hold it; of `keepers`, by region, `held` do.
    fn progress(regions: &[&str], held: u64, keepers: &[&str]) -> api::Progress {
        let keeper = |region: &&str| api::Holder {
            name: format!("n-{region}"),
            region: (*region).to_owned(),
            wanted: true,
            version: None,
            holds: regions.contains(region),
            state: "alive".into(),
        };
        api::Progress {
            site: "www".into(),
            version: 1,
            current: 1,
            won: Some(true),
            members: keepers.iter().map(keeper).collect(),
            regions: regions.iter().map(|region| (*region).to_owned()).collect(),
            wanted: keepers.len() as u64,
            held,
        }
    }

    #[test]
    fn waiting_ends_when_enough_hold_it() {
        let six = ["a", "a", "a", "a", "a", "b"];
        assert!(Wait::Regions(2).is_met(&progress(&["a", "b"], 2, &six)));
        assert!(!Wait::Regions(2).is_met(&progress(&["a"], 3, &six)));
        assert!(Wait::All.is_met(&progress(&["a"], 6, &six)));
        assert!(!Wait::All.is_met(&progress(&["a"], 5, &six)));
        assert!(!Wait::All.is_met(&progress(&[], 0, &[])), "nobody is to hold it: nobody does");
    }

    #[test]
    fn who_will_give_it_up_does_not_make_it_durable() {
        let sent_to_c = progress(&["a", "c"], 1, &["a"]);
        assert!(Wait::Regions(1).is_met(&sent_to_c));
        assert!(!Wait::Regions(2).is_met(&sent_to_c), "c gives it up: a alone is to keep it");
        assert!(Wait::Regions(2).is_met(&progress(&["a", "c"], 1, &["a", "b"])), "c waits for b");
    }

    #[test]
    fn more_regions_than_replicas_are_refused_at_once() {
        assert!(Wait::Regions(2).check(Replicas::Count(2)).is_ok());
        assert!(Wait::Regions(9).check(Replicas::All).is_ok());
        assert!(Wait::All.check(Replicas::Count(1)).is_ok());
        assert_eq!(Wait::Regions(2).check(Replicas::Count(1)).unwrap_err().exit(), Exit::Usage);
    }

    #[test]
    fn what_no_region_can_do_any_more_is_not_waited_for() {
        assert!(!Wait::Regions(2).is_hopeless(&progress(&["a"], 1, &["a", "b"])), "b may come");
        assert!(!Wait::Regions(2).is_hopeless(&progress(&[], 0, &["a"])), "a may come");
        assert!(Wait::Regions(2).is_hopeless(&progress(&["a"], 1, &["a"])), "b was revoked meanwhile");
        assert!(!Wait::All.is_hopeless(&progress(&[], 0, &[])));
    }

    #[test]
    fn waits_read_back() {
        assert_eq!("all".parse(), Ok(Wait::All));
        assert_eq!("3".parse(), Ok(Wait::Regions(3)));
        for bad in ["0", "-1", "every", "10001"] {
            assert!(bad.parse::<Wait>().is_err(), "{bad}");
        }
    }
}
