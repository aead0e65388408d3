//! Who may serve a site, and why the others may not.
//!
//! Each member is held against the rules in one order and keeps the first one it breaks as its
//! reason. When nobody passes, the rules give way step by step ([`Tier`]), the least harmful first,
//! so that a site with any node has an answer: *fail static* rather than fail empty. Suspicion
//! alone rules nobody out; only confirmed unreachability does, and it too gives way when it hits
//! everybody (then it is more likely that this host is the one cut off).
//!
//! # The budget of monitors
//!
//! Monitors (peers that find a member out of reach, vantages whose checks fail) may keep out at most
//! half of the members that would serve a name without them, rounded down. Beyond that the worst
//! evidence counts first and the others are *spared*: they serve on. So a monitor gone wrong costs a
//! name half of its replicas and never sends all clients to one. Three things are no opinion of a
//! monitor and have no budget: what a member says of itself, what an operator says, and silence: a
//! member that is out of reach and does not answer although most doubt it (nobody can bring that about
//! for another, see `godwit_core::roster`), or whose own word has lapsed. When monitors object to everybody,
//! they are not believed at all ([`Tier::Static`]); and a site that is to be closed rather than
//! answered wrongly has no budget.

use crate::inputs::{Health, Hosting, Inputs, MemberInput, SiteInput};
use godwit_core::certificate::Role;
use godwit_core::content::VersionNumber;
use godwit_core::name::SiteName;
use serde::Serialize;

/// A member that tells this load is full: its clients spill over to the next. It says so itself until
/// it is well below, so that all maps take it back at once.
const FULL_PERMILLE: u16 = 1000;

/// Why a member is not among the replicas of a site.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Exclusion {
    /// Its certificate is revoked or out of time.
    Uncertified,
    /// It does not have the role *node*.
    NotANode,
    /// The service does not run on it.
    NotItsService,
    /// It has no address for clients.
    NoAddress,
    /// It is confirmed out of reach.
    Unreachable,
    /// It has not been heard of since this host started.
    Unheard,
    /// It says that it cannot serve.
    NotReady,
    /// Vantages agree that its service does not work.
    Failing,
    /// It holds no version of the site whole.
    NotHeld,
    /// It holds another version than the current one.
    Stale,
    /// An operator drains it.
    Draining,
    /// It is at its capacity.
    Full,
}

/// How many rules had to give way until somebody was left.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Tier {
    /// None: healthy holders of the current version with capacity.
    Healthy,
    /// All of those are full: full ones share the load.
    Full,
    /// Only draining members hold the current version.
    Draining,
    /// Nobody in reach holds the current version: the newest version that is held.
    Stale,
    /// Nobody in reach holds any version: any healthy node, which fetches it on demand.
    Unheld,
    /// Nobody is in reach: the last known holders, as if nothing had happened.
    Static,
    /// Every node that could serve fails its checks, and the site is to be closed then: nobody.
    Closed,
    /// There is no node at all.
    Empty,
}

/// The outcome for one site.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Eligible {
    pub(crate) tier: Tier,
    /// Members by number, ascending.
    pub(crate) members: Vec<u32>,
    /// Of these, those that monitors object to beyond their budget.
    pub(crate) spared: Vec<u32>,
}

impl Eligible {
    /// Nobody at all.
    pub(crate) fn nobody() -> Eligible {
        Eligible { tier: Tier::Empty, members: Vec::new(), spared: Vec::new() }
    }
}

/// What members are held against: a site, or a name that is no site's, for which only checks of
/// everything count.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Wanted<'a> {
    pub(crate) site: Option<&'a SiteName>,
    pub(crate) number: VersionNumber,
    pub(crate) hosting: &'a Hosting,
}

impl<'a> From<&'a SiteInput> for Wanted<'a> {
    fn from(input: &'a SiteInput) -> Wanted<'a> {
        Wanted { site: Some(&input.site), number: input.number, hosting: &input.hosting }
    }
}

impl Wanted<'_> {
    /// Whether it is to be closed rather than answered wrongly.
    fn closes(&self, inputs: &Inputs) -> bool {
        self.site.is_some_and(|site| inputs.closed.binary_search(site).is_ok())
    }
}

/// The first rule that a member breaks; `full` as [`is_full`] says.
pub(crate) fn exclusion<'a>(
    member: &MemberInput,
    wanted: impl Into<Wanted<'a>>,
    full: bool,
) -> Option<Exclusion> {
    exclusion_by(member, wanted.into(), full, true)
}

/// The same, with or without what monitors say.
fn exclusion_by(member: &MemberInput, site: Wanted<'_>, full: bool, monitors: bool) -> Option<Exclusion> {
    let held = held(member, site);
    let rules = [
        (member.certified, Exclusion::Uncertified),
        (member.has_role(Role::Node), Exclusion::NotANode),
        (runs(member, site), Exclusion::NotItsService),
        (has_address(member, site), Exclusion::NoAddress),
        (member.state != Health::Silent, Exclusion::Unreachable),
        (!monitors || member.state != Health::Unreachable, Exclusion::Unreachable),
        (member.state != Health::Unknown, Exclusion::Unheard),
        (member.ready, Exclusion::NotReady),
        (!monitors || member.failing(site.site, false).is_none(), Exclusion::Failing),
        (held.is_some(), Exclusion::NotHeld),
        (held == Some(site.number), Exclusion::Stale),
        (!member.draining, Exclusion::Draining),
        (!full, Exclusion::Full),
    ];
    rules.into_iter().find(|(kept, _)| !kept).map(|(_, exclusion)| exclusion)
}

/// The version that a member has of a site: of a service everybody has the current one.
fn held(member: &MemberInput, site: Wanted<'_>) -> Option<VersionNumber> {
    match site.hosting {
        Hosting::Content => member.holds(site.site?.as_str()),
        Hosting::Service(_) | Hosting::Home(_) => Some(site.number),
    }
}

fn runs(member: &MemberInput, site: Wanted<'_>) -> bool {
    match site.hosting {
        Hosting::Content => true,
        Hosting::Service(service) | Hosting::Home(service) => service.runs_on(member),
    }
}

/// Whether clients find it: at a home address they always do.
fn has_address(member: &MemberInput, site: Wanted<'_>) -> bool {
    matches!(site.hosting, Hosting::Home(_)) || member.public_v4.is_some() || member.public_v6.is_some()
}

/// Whether a member counts as full.
pub(crate) fn is_full(member: &MemberInput) -> bool {
    member.load_permille >= FULL_PERMILLE
}

/// Those that monitors object to beyond their budget, ascending: with them the others' objections
/// still leave half.
fn spared(inputs: &Inputs, site: Wanted<'_>, full: &[bool]) -> Vec<u32> {
    let full = |index: u32| full.get(index as usize).copied().unwrap_or(false);
    let without_monitors = |(index, member): &(u32, &MemberInput)| {
        matches!(exclusion_by(member, site, full(*index), false), None | Some(Exclusion::Full))
    };
    let serving: Vec<(u32, &MemberInput)> = (0..).zip(&inputs.members).filter(without_monitors).collect();
    // The worst evidence first: no data path before a failing check; then by key, as everywhere.
    let evidence = |(index, member): &(u32, &MemberInput)| match exclusion(member, site, full(*index)) {
        Some(Exclusion::Unreachable) => Some((0, *index)),
        Some(Exclusion::Failing) => Some((1, *index)),
        _ => None,
    };
    let mut objected: Vec<(u8, u32)> = serving.iter().filter_map(evidence).collect();
    if objected.len() == serving.len() || site.closes(inputs) {
        return Vec::new();
    }
    objected.sort_unstable();
    let mut spared: Vec<u32> = objected.into_iter().skip(serving.len() / 2).map(|(_, index)| index).collect();
    spared.sort_unstable();
    spared
}

/// Who may serve what is wanted; `full[i]` tells whether member `i` is full.
pub(crate) fn eligible<'a>(inputs: &Inputs, wanted: impl Into<Wanted<'a>>, full: &[bool]) -> Eligible {
    let site = wanted.into();
    let spared = spared(inputs, site, full);
    let nodes: Vec<Node> = inputs
        .members
        .iter()
        .zip(0..)
        .filter_map(|(member, index): (_, u32)| {
            let full = full.get(index as usize).copied().unwrap_or(false);
            let is_spared = spared.binary_search(&index).is_ok();
            let exclusion = exclusion_by(member, site, full, !is_spared);
            use Exclusion::{NoAddress, NotANode, NotItsService, Uncertified};
            if matches!(exclusion, Some(Uncertified | NotANode | NotItsService | NoAddress)) {
                return None;
            }
            let present =
                (is_spared || matches!(member.state, Health::Alive | Health::Suspect)) && member.ready;
            let reached = present && exclusion != Some(Exclusion::Failing);
            Some(Node { index, held: held(member, site), exclusion, reached })
        })
        .collect();
    if is_closed(inputs, site, &nodes) {
        return Eligible { tier: Tier::Closed, members: Vec::new(), spared: Vec::new() };
    }
    let pick = |tier, keep: &dyn Fn(&Node) -> bool| {
        let members: Vec<u32> = nodes.iter().filter(|node| keep(node)).map(|node| node.index).collect();
        let among = |index: &u32| members.binary_search(index).is_ok();
        let spared = spared.iter().copied().filter(among).collect();
        (!members.is_empty()).then_some(Eligible { tier, members, spared })
    };
    let newest =
        |reached: bool| nodes.iter().filter(|node| node.reached || !reached).filter_map(|n| n.held).max();
    let (newest_reached, newest_known) = (newest(true), newest(false));
    pick(Tier::Healthy, &|node| node.exclusion.is_none())
        .or_else(|| pick(Tier::Full, &|node| node.exclusion == Some(Exclusion::Full)))
        .or_else(|| pick(Tier::Draining, &|node| node.exclusion == Some(Exclusion::Draining)))
        .or_else(|| {
            pick(Tier::Stale, &|node| node.reached && node.held.is_some() && node.held == newest_reached)
        })
        .or_else(|| pick(Tier::Unheld, &|node| node.reached))
        .or_else(|| pick(Tier::Static, &|node| node.held.is_some() && node.held == newest_known))
        .or_else(|| pick(Tier::Static, &|_| true))
        .unwrap_or_else(Eligible::nobody)
}

/// Whether the site is one that is closed when every member that is there fails its checks. Of
/// members that are away nothing is known; with nobody there at all, the site is closed too.
fn is_closed(inputs: &Inputs, site: Wanted<'_>, nodes: &[Node]) -> bool {
    let serves = |node: &Node| {
        node.exclusion != Some(Exclusion::Unreachable)
            && node.exclusion != Some(Exclusion::NotReady)
            && inputs.members[node.index as usize].failing(site.site, true).is_none()
    };
    site.closes(inputs) && !nodes.is_empty() && !nodes.iter().any(serves)
}

struct Node {
    index: u32,
    held: Option<VersionNumber>,
    exclusion: Option<Exclusion>,
    /// Alive or suspect, and ready.
    reached: bool,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::inputs::tests::{inputs, node};
    use godwit_core::health::Agreed;

    type Change = (usize, fn(&mut MemberInput));

    /// Three healthy nodes, changed; who is left, and why.
    fn check(changes: &[Change], tier: Tier, left: &[u32]) {
        let mut inputs = inputs(vec![node(1, 0.0, 0.0), node(2, 0.0, 10.0), node(3, 0.0, 20.0)]);
        for (index, change) in changes {
            change(&mut inputs.members[*index]);
        }
        let full: Vec<bool> = inputs.members.iter().map(is_full).collect();
        let found = eligible(&inputs, &inputs.sites[0], &full);
        assert_eq!((found.tier, &found.members[..]), (tier, left));
    }

    fn holds(member: &mut MemberInput, number: u64) {
        member.held = vec![("www".parse().unwrap(), VersionNumber(number))];
    }

    #[test]
    fn each_rule_excludes() {
        check(&[], Tier::Healthy, &[0, 1, 2]);
        check(&[(0, |m| m.certified = false)], Tier::Healthy, &[1, 2]);
        check(&[(0, |m| m.roles = vec![Role::Redirector])], Tier::Healthy, &[1, 2]);
        check(&[(0, |m| (m.public_v4, m.public_v6) = (None, None))], Tier::Healthy, &[1, 2]);
        check(&[(0, |m| m.state = Health::Unreachable)], Tier::Healthy, &[1, 2]);
        check(&[(0, |m| m.state = Health::Unknown)], Tier::Healthy, &[1, 2]);
        check(&[(0, |m| m.ready = false)], Tier::Healthy, &[1, 2]);
        check(&[(0, |m| m.held.clear())], Tier::Healthy, &[1, 2]);
        check(&[(0, |m| holds(m, 0))], Tier::Healthy, &[1, 2]);
        check(&[(0, |m| m.draining = true)], Tier::Healthy, &[1, 2]);
        check(&[(0, |m| m.load_permille = 1000)], Tier::Healthy, &[1, 2]);
    }

    #[test]
    fn suspicion_alone_excludes_nobody() {
        let suspect: fn(&mut MemberInput) = |m| m.state = Health::Suspect;
        check(&[(0, suspect), (1, suspect), (2, suspect)], Tier::Healthy, &[0, 1, 2]);
    }

    #[test]
    fn rules_give_way_one_by_one() {
        let full: fn(&mut MemberInput) = |m| m.load_permille = 1200;
        let drain: fn(&mut MemberInput) = |m| m.draining = true;
        let away: fn(&mut MemberInput) = |m| m.state = Health::Unreachable;
        let old: fn(&mut MemberInput) = |m| holds(m, 0);
        let none: fn(&mut MemberInput) = |m| m.held.clear();
        check(&[(0, full), (1, full), (2, away)], Tier::Full, &[0, 1]);
        check(&[(0, full), (1, drain), (2, away)], Tier::Full, &[0]);
        check(&[(0, old), (1, drain), (2, away)], Tier::Draining, &[1]);
        check(&[(0, old), (1, none), (2, away)], Tier::Stale, &[0]);
        check(&[(0, none), (1, none), (2, away)], Tier::Unheld, &[0, 1]);
        check(&[(0, away), (1, away), (2, away)], Tier::Static, &[0, 1, 2]);
        check(
            &[(0, away), (1, |m| (m.state, m.held) = (Health::Unreachable, vec![])), (2, away)],
            Tier::Static,
            &[0, 2],
        );
        let revoked: fn(&mut MemberInput) = |m| m.certified = false;
        check(&[(0, revoked), (1, revoked), (2, revoked)], Tier::Empty, &[]);
    }

    fn fails(member: &mut MemberInput, state: Agreed) {
        let (name, why, sites) = ("web".parse().unwrap(), None, Vec::new());
        member.checks = vec![crate::inputs::CheckInput { name, state, why, sites }];
    }

    #[test]
    fn failing_checks_exclude_and_give_way_when_they_hit_everybody() {
        let down: fn(&mut MemberInput) = |m| fails(m, Agreed::Down);
        let doubted: fn(&mut MemberInput) = |m| fails(m, Agreed::Doubted);
        let away: fn(&mut MemberInput) = |m| m.state = Health::Unreachable;
        check(&[(0, down)], Tier::Healthy, &[1, 2]);
        check(&[(0, doubted)], Tier::Healthy, &[0, 1, 2]);
        check(
            &[(0, |m| (fails(m, Agreed::Down), m.checks[0].sites = vec!["docs".parse().unwrap()]).1)],
            Tier::Healthy,
            &[0, 1, 2],
        );
        check(&[(0, down), (1, down), (2, down)], Tier::Static, &[0, 1, 2]);
        check(&[(0, down), (1, down), (2, away)], Tier::Static, &[0, 1, 2]);
    }

    #[test]
    fn a_site_that_is_to_be_closed_has_nobody_when_all_fail() {
        let mut inputs = inputs(vec![node(1, 0.0, 0.0), node(2, 0.0, 10.0), node(3, 0.0, 20.0)]);
        inputs.closed = vec!["www".parse().unwrap()];
        let tier = |inputs: &Inputs| eligible(inputs, &inputs.sites[0], &[false; 3]).tier;
        fails(&mut inputs.members[0], Agreed::Down);
        fails(&mut inputs.members[1], Agreed::Doubted);
        assert_eq!(tier(&inputs), Tier::Healthy);
        inputs.members[2].state = Health::Unreachable;
        assert_eq!(tier(&inputs), Tier::Closed);
        assert!(eligible(&inputs, &inputs.sites[0], &[]).members.is_empty());
        inputs.closed.clear();
        assert_eq!(tier(&inputs), Tier::Healthy);
    }

    /// Five nodes with these objections; who is spared.
    fn check_budget(changes: &[Change], spared: &[u32]) {
        let node = |n: u8| node(n, 0.0, f64::from(n));
        let mut inputs = inputs((1..=5).map(node).collect());
        changes.iter().for_each(|(index, change)| change(&mut inputs.members[*index]));
        let found = eligible(&inputs, &inputs.sites[0], &[false; 5]);
        assert_eq!(found.spared, spared);
        for index in spared {
            assert!(found.members.contains(index));
        }
        assert!(!found.members.is_empty());
    }

    #[test]
    fn monitors_keep_out_at_most_half_the_worst_evidence_first() {
        let down: fn(&mut MemberInput) = |m| fails(m, Agreed::Down);
        let away: fn(&mut MemberInput) = |m| m.state = Health::Unreachable;
        let silent: fn(&mut MemberInput) = |m| m.state = Health::Silent;
        let drain: fn(&mut MemberInput) = |m| m.draining = true;
        check_budget(&[], &[]);
        check_budget(&[(0, down), (4, away)], &[]);
        check_budget(&[(0, down), (1, down), (4, away)], &[1]);
        check_budget(&[(0, down), (1, down), (2, away), (4, away)], &[0, 1]);
        check_budget(&[(0, away), (1, away), (2, away), (3, away)], &[2, 3]);
        // Everybody: they are not believed.
        check_budget(&[(0, down), (1, down), (2, down), (3, down), (4, away)], &[]);
        // Silence and what operators say are no opinions, and count for nobody's half.
        check_budget(&[(0, silent), (1, silent), (2, silent)], &[]);
        check_budget(&[(0, silent), (1, drain), (2, away), (3, away)], &[3]);
    }
}
