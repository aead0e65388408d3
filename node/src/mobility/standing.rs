//! How this node stands to a name that it is to serve: bound, or what keeps it from that, and what to look
//! at. For whoever says `serve`, and for a node that is to move the name here.

use super::{Mobility, Order};
use godwit_core::binding::HomeAddress;
use godwit_core::key::MemberId;
use godwit_core::mobility::Standing;
use godwit_core::name::SiteName;
use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

/// How often it is looked at while somebody waits: between two binding updates.
const LOOK_PERIOD: Duration = Duration::from_millis(50);

/// What mends itself within seconds is waited for so long: a program that is being started is looked at six
/// times, and a member that has just started hears of the others.
const PATIENCE: Duration = Duration::from_secs(3);

/// See the module.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Stands {
    /// It does not serve it.
    Unserved,
    /// No home address of this name is known.
    Ungranted,
    /// The authority does not let this member serve it.
    Forbidden,
    /// Nothing listens, for this reason.
    Deaf(String),
    /// Nobody has looked yet whether the program works.
    Unlooked,
    /// The program does not work.
    Failed,
    /// It was moved away, or this member stops.
    Drained,
    /// No home agent is known.
    Alone,
    /// A home agent of this name says that this member may not serve it.
    Refused(String),
    /// None of these home agents sends packets here for all its addresses.
    Unbound(Vec<String>),
    /// These home agents do, under these names.
    Bound(BTreeMap<MemberId, String>),
}

impl Stands {
    /// As it is told to other members.
    pub(super) fn told(&self) -> Standing {
        match self {
            Stands::Unserved | Stands::Ungranted | Stands::Forbidden => Standing::Unserved,
            Stands::Deaf(_) | Stands::Failed => Standing::Failed,
            Stands::Drained => Standing::Drained,
            Stands::Unlooked | Stands::Alone | Stands::Refused(_) | Stands::Unbound(_) => Standing::Unbound,
            Stands::Bound(agents) => Standing::Bound(agents.keys().copied().collect()),
        }
    }

    /// What keeps it from being bound, if something does.
    pub(crate) fn problem(&self) -> Option<String> {
        let problem = match self {
            Stands::Unserved => "it is not served here".to_owned(),
            Stands::Ungranted => "no home address of this name is known here".to_owned(),
            Stands::Forbidden => "the authority does not let this member serve it".to_owned(),
            Stands::Deaf(problem) => format!("nothing can listen: {problem}"),
            Stands::Unlooked => "nobody has looked yet whether its program works".to_owned(),
            Stands::Failed => "its program does not work".to_owned(),
            Stands::Drained => "this member takes no new flows for it".to_owned(),
            Stands::Alone => "no home agent is known".to_owned(),
            Stands::Refused(agent) => format!("{agent} says that this member may not serve it"),
            Stands::Unbound(agents) => format!("no packets for it come yet from {}", agents.join(", ")),
            Stands::Bound(_) => return None,
        };
        Some(problem)
    }

    /// What to do or to look at.
    pub(crate) fn next(&self, name: &SiteName) -> Option<String> {
        let next = match self {
            Stands::Unserved => format!("godwit serve {name}"),
            Stands::Ungranted => {
                format!("godwit address add {name}: it is served here as soon as it is granted")
            }
            Stands::Forbidden => "`godwit address list` shows who may serve it".to_owned(),
            Stands::Deaf(_) | Stands::Unlooked => "the log of the daemon".to_owned(),
            Stands::Failed => {
                "start the program where `--to` says, or at the home address with `--local`: it is \
                 bound within a second then"
                    .to_owned()
            }
            Stands::Drained => "godwit status".to_owned(),
            Stands::Alone => "invite a member with the role home-agent (docs/home-addresses.md)".to_owned(),
            Stands::Refused(_) => {
                "a grant spreads within seconds: say it again, or see `godwit address list` there".to_owned()
            }
            Stands::Unbound(_) => {
                "is the home agent up, and is UDP port 4191 open between it and this host? `godwit status` \
                 shows each binding"
                    .to_owned()
            }
            Stands::Bound(_) => return None,
        };
        Some(next)
    }

    /// Where it is bound.
    pub(crate) fn bound_at(&self) -> Vec<String> {
        match self {
            Stands::Bound(agents) => agents.values().cloned().collect(),
            _ => Vec::new(),
        }
    }

    /// How long after it was asked for it may stand like this, and still change by itself.
    fn patience(&self) -> Duration {
        match self {
            Stands::Bound(_) | Stands::Unserved | Stands::Forbidden | Stands::Drained => Duration::ZERO,
            Stands::Ungranted | Stands::Deaf(_) | Stands::Failed | Stands::Alone => PATIENCE,
            Stands::Unlooked | Stands::Refused(_) | Stands::Unbound(_) => Duration::MAX,
        }
    }
}

impl Mobility {
    /// Waits until this node is bound to a name, or it is clear why not, and `wait` at the most: how it
    /// stands to it then, and the home addresses that it may serve. `None` when the member stops.
    pub(crate) async fn until_bound(
        &self,
        name: &SiteName,
        wait: Duration,
    ) -> Option<(Stands, BTreeSet<HomeAddress>)> {
        let begun = Instant::now();
        loop {
            let (stands, homes) = self.ask(|reply| Order::Stand(name.clone(), reply)).await?;
            if begun.elapsed() >= wait.min(stands.patience()) {
                return Some((stands, homes));
            }
            tokio::time::sleep(LOOK_PERIOD).await;
        }
    }
}
