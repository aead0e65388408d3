//! What was chosen in the last minutes.
//!
//! A *choice* is all that decides where new flows go: for each home address the ranks of the map and
//! the nodes that are bound and take new flows. The newest decides. The one before it is the second
//! chance of flows that began under it. Those of the last minutes say whose a flow may be that nobody
//! has bound by name ([`Choices::chose`]): an owner may bind its flow for as long as that was the
//! choice lately, and nobody else may.
//!
//! Changes come in bursts (a node that dies, and what the map makes of it), so a choice that lasted
//! for less than [`LASTING`] is no predecessor: the second chance stays with the one that clients had
//! time to begin flows under.

use godwit_core::binding::HomeAddress;
use godwit_core::flow::Row;
use godwit_core::flow::chance::SEEN_FOR;
use godwit_core::flow::select::owner;
use godwit_core::key::MemberId;
use godwit_core::time::Time;
use godwit_map::HomeRanks;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

/// How long the owner of a flow has to say that it is its own after the choice moved on: nodes hear of
/// changes within seconds.
const REMEMBERED: Duration = Duration::from_secs(180);
/// So many choices are remembered at the most; each holds some kilobytes and shares the rest.
const REMEMBERED_MAX: usize = 64;
/// A choice that lasted for less has hardly any flows.
const LASTING: Duration = Duration::from_secs(2);

/// Where new flows to one home address go.
#[derive(Clone, Debug, Default)]
pub(crate) struct Choice {
    /// The map's word; `None` as long as it has none.
    pub(crate) ranks: Option<Arc<HomeRanks>>,
    /// The nodes that are bound, up, and take new flows.
    pub(crate) open: BTreeSet<MemberId>,
    /// Those that are bound and up, and take none: better than nobody.
    pub(crate) draining: BTreeSet<MemberId>,
}

impl Choice {
    /// Whom new flows of `client` go to.
    pub(crate) fn owner(&self, home: HomeAddress, client: IpAddr) -> Option<MemberId> {
        let row = Row::of(home, client);
        self.among(row, client, &self.open).or_else(|| self.among(row, client, &self.draining))
    }

    fn among(&self, row: Row, client: IpAddr, nodes: &BTreeSet<MemberId>) -> Option<MemberId> {
        let classes = self.ranks.as_ref().map_or(&[][..], |ranks| ranks.classes(client));
        let ranked = owner(classes.iter().map(Vec::as_slice), row, |member| nodes.contains(member));
        // The map may be behind: whoever the authority lets serve, and is bound, is better than nobody.
        ranked.or_else(|| {
            let nodes: Vec<MemberId> = nodes.iter().copied().collect();
            owner([nodes.as_slice()], row, |_| true)
        })
    }

    fn same(&self, other: &Choice) -> bool {
        let ranks = match (&self.ranks, &other.ranks) {
            (Some(a), Some(b)) => Arc::ptr_eq(a, b) || a == b,
            (None, None) => true,
            _ => false,
        };
        ranks && self.open == other.open && self.draining == other.draining
    }
}

/// Where new flows go, by home address.
pub(crate) type ByHome = BTreeMap<HomeAddress, Choice>;

/// The choices of the last minutes.
#[derive(Debug, Default)]
pub(crate) struct Choices {
    /// When each began, the newest first.
    all: VecDeque<(Time, Arc<ByHome>)>,
}

impl Choices {
    /// This holds from now on; whether it is another than before.
    pub(crate) fn set(&mut self, now: Time, choice: ByHome) -> bool {
        let same = self.all.front().is_some_and(|(_, last)| {
            last.len() == choice.len()
                && last.iter().zip(&choice).all(|((a, one), (b, other))| a == b && one.same(other))
        });
        if same {
            return false;
        }
        self.all.push_front((now, Arc::new(choice)));
        // The last one that is older holds until then.
        while self.all.len() > REMEMBERED_MAX
            || self.all.len() > 2
                && self.all.get(self.all.len() - 2).is_some_and(|(since, _)| old(now, *since))
        {
            self.all.pop_back();
        }
        true
    }

    /// The newest.
    pub(crate) fn now(&self) -> Arc<ByHome> {
        self.all.front().map(|(_, choice)| choice.clone()).unwrap_or_default()
    }

    /// The one before it under which flows may have begun.
    pub(crate) fn before(&self) -> Option<Arc<ByHome>> {
        let began = self.all.iter().map(|(since, _)| *since);
        let lasted = self.all.iter().skip(1).zip(began);
        let mut lasting = lasted
            .filter(|((since, _), until)| until.since(*since) >= LASTING)
            .map(|((_, choice), _)| choice);
        lasting.next().cloned()
    }

    /// Whether the newest has held for less than a flow of UDP is remembered without packets: until then
    /// such flows may be with the owner before.
    pub(crate) fn is_fresh(&self, now: Time) -> bool {
        self.all.front().is_some_and(|(since, _)| now.since(*since) < SEEN_FOR)
    }

    /// Whether new flows of `client` go to `node`, or did lately.
    pub(crate) fn chose(&self, now: Time, home: HomeAddress, client: IpAddr, node: &MemberId) -> bool {
        let mut until = None::<Time>;
        for (since, choice) in &self.all {
            if until.is_some_and(|until| old(now, until)) {
                return false;
            }
            if choice.get(&home).and_then(|choice| choice.owner(home, client)).as_ref() == Some(node) {
                return true;
            }
            until = Some(*since);
        }
        false
    }
}

fn old(now: Time, time: Time) -> bool {
    now.since(time) > REMEMBERED
}

#[cfg(test)]
mod tests {
    use super::*;

    const CLIENT: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(203, 0, 113, 7));

    fn member(n: u8) -> MemberId {
        MemberId::from_bytes([n; 32])
    }

    fn home() -> HomeAddress {
        HomeAddress([192, 0, 2, 1].into())
    }

    fn bound(open: &[u8], draining: &[u8]) -> ByHome {
        let set = |nodes: &[u8]| nodes.iter().map(|n| member(*n)).collect();
        let choice = Choice { ranks: None, open: set(open), draining: set(draining) };
        BTreeMap::from([(home(), choice)])
    }

    fn owner_of(choice: &ByHome) -> Option<MemberId> {
        choice[&home()].owner(home(), CLIENT)
    }

    #[test]
    fn draining_nodes_are_taken_when_there_is_nobody_else() {
        assert_eq!(owner_of(&bound(&[1], &[2])), Some(member(1)));
        assert_eq!(owner_of(&bound(&[], &[2])), Some(member(2)));
        assert_eq!(owner_of(&bound(&[], &[])), None);
    }

    #[test]
    fn the_second_chance_is_the_last_choice_that_lasted() {
        let mut choices = Choices::default();
        let at = Time::from_millis;
        assert!(choices.set(at(0), bound(&[1], &[])));
        assert!(!choices.set(at(5000), bound(&[1], &[])), "nothing changed");
        assert!(choices.before().is_none());
        assert!(choices.set(at(10_000), bound(&[2], &[])));
        assert_eq!(owner_of(&choices.before().unwrap()), Some(member(1)));
        // A moment later something else: flows began under the first.
        choices.set(at(10_500), bound(&[3], &[]));
        assert_eq!(owner_of(&choices.before().unwrap()), Some(member(1)));
        choices.set(at(20_000), bound(&[4], &[]));
        assert!(choices.is_fresh(at(79_000)) && !choices.is_fresh(at(80_000)));
        assert_eq!(owner_of(&choices.before().unwrap()), Some(member(3)));
    }

    #[test]
    fn an_owner_is_remembered_for_some_minutes_after_it_was_one() {
        let mut choices = Choices::default();
        choices.set(Time::from_secs(0), bound(&[1], &[]));
        choices.set(Time::from_secs(100), bound(&[2], &[]));
        let chose =
            |choices: &Choices, secs, n| choices.chose(Time::from_secs(secs), home(), CLIENT, &member(n));
        assert!(chose(&choices, 110, 1) && chose(&choices, 110, 2) && !chose(&choices, 110, 3));
        assert!(chose(&choices, 100 + REMEMBERED.as_secs(), 1));
        assert!(!chose(&choices, 101 + REMEMBERED.as_secs(), 1));
        assert!(chose(&choices, 99_999, 2));
    }

    #[test]
    fn what_is_remembered_is_bounded() {
        let mut choices = Choices::default();
        for n in 0..1000u64 {
            choices.set(Time::from_millis(n), bound(&[(n % 2) as u8], &[]));
        }
        assert_eq!(choices.all.len(), REMEMBERED_MAX);
        choices.set(Time::from_secs(1000), bound(&[7], &[]));
        choices.set(Time::from_secs(2000), bound(&[8], &[]));
        assert!(choices.all.len() <= 3, "{}", choices.all.len());
    }
}
