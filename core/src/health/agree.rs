//! What holds of a check, when several vantages have said what they find.
//!
//! A pure function of the vantages' verdicts and of what held before, so that everybody who has
//! heard the same derives the same, and a redirector that starts late derives it at once.

use super::check::Check;
use super::checker::Target;
use super::vantage::{Candidate, VANTAGES, vantages};
use super::verdict::{Failure, Opinion, Verdict};
use crate::key::MemberId;
use crate::name::RegionName;
use crate::time::Time;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// What holds of a check.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Agreed {
    /// Too few have said anything yet. Counts as up.
    #[default]
    Unknown,
    /// It works.
    Up,
    /// As many say down as must, but some of them see everything down: more likely they are cut off.
    /// Counts as up, but for services that would rather not answer than answer wrongly.
    Doubted,
    /// It does not work.
    Down,
}

/// What a vantage says of one check.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Say {
    /// Which vantage.
    pub by: MemberId,
    /// What it finds.
    pub opinion: Opinion,
    /// Since when, by its clock.
    pub since: Time,
    /// How the last failure looked.
    pub why: Option<Failure>,
    /// How long an answer takes, milliseconds.
    pub latency_ms: Option<u32>,
    /// Whether it sees every target down, and so its *down* is not counted.
    pub suspect: bool,
}

/// One vantage's voice: its opinion, and whether it is suspect.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Voice {
    /// What it finds.
    pub opinion: Opinion,
    /// Whether it sees every target down.
    pub suspect: bool,
}

/// What holds of one check, and who said what.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Agreement {
    /// What holds.
    pub state: Agreed,
    /// What the chosen vantages say, best first; those that have not spoken are unknown.
    pub says: Vec<Say>,
}

/// What is known of a member, as far as health goes.
#[derive(Clone, Copy, Debug)]
pub struct Witness<'a> {
    /// Who.
    pub id: MemberId,
    /// Where.
    pub region: &'a RegionName,
    /// Whether it can be reached, so that it may be a vantage.
    pub reached: bool,
    /// The checks that it asks for; empty for members that are not to be checked now.
    pub checks: &'a [Check],
    /// What it finds of others.
    pub verdicts: &'a [Verdict],
}

/// What holds, given the voices of all chosen vantages (also those that have not spoken) and what
/// held before. `quorums` are how many must say down and up; 0 is a majority of those chosen.
pub fn agree(voices: &[Voice], quorums: (u8, u8), before: Agreed) -> Agreed {
    let majority = voices.len() / 2 + 1;
    // No more can be asked than there are: one vantage decides alone where there is but one.
    let quorum = |asked: u8| if asked == 0 { majority } else { usize::from(asked).min(voices.len()).max(1) };
    let count = |opinion, suspects: bool| {
        voices.iter().filter(|voice| voice.opinion == opinion && (suspects || !voice.suspect)).count()
    };
    let (down, up) = (quorum(quorums.0), quorum(quorums.1));
    if count(Opinion::Down, false) >= down {
        Agreed::Down
    } else if count(Opinion::Up, true) >= up {
        Agreed::Up
    } else if before == Agreed::Down && count(Opinion::Down, false) > 0 {
        // Contested: as it was.
        Agreed::Down
    } else if count(Opinion::Down, true) >= down {
        Agreed::Doubted
    } else if before == Agreed::Unknown && count(Opinion::Up, true) == 0 {
        Agreed::Unknown
    } else {
        Agreed::Up
    }
}

/// What holds of every check of every member.
pub fn agree_all(members: &[Witness<'_>], before: impl Fn(&Target) -> Agreed) -> BTreeMap<Target, Agreement> {
    let candidates: Vec<Candidate> = members
        .iter()
        .filter(|member| member.reached)
        .map(|member| Candidate { id: member.id, region: member.region.clone() })
        .collect();
    let by_id: BTreeMap<MemberId, &Witness<'_>> = members.iter().map(|member| (member.id, member)).collect();
    let suspect: BTreeMap<MemberId, bool> =
        members.iter().map(|member| (member.id, sees_all_down(member.verdicts))).collect();
    let mut agreements = BTreeMap::new();
    for member in members.iter().filter(|member| !member.checks.is_empty()) {
        let chosen = vantages(member.id, &candidates, VANTAGES);
        for check in member.checks {
            let target = Target { member: member.id, check: check.name.clone() };
            let say = |by: &MemberId| {
                let suspect = suspect.get(by).copied().unwrap_or(false);
                let verdicts = by_id.get(by).map_or(&[][..], |witness| witness.verdicts);
                let verdict = verdicts.iter().find(|v| v.target == member.id && v.check == check.name);
                Say {
                    by: *by,
                    opinion: verdict.map_or(Opinion::Unknown, |verdict| verdict.opinion),
                    since: verdict.map_or(Time::default(), |verdict| verdict.since),
                    why: verdict.and_then(|verdict| verdict.why),
                    latency_ms: verdict.and_then(|verdict| verdict.latency_ms),
                    suspect,
                }
            };
            let says: Vec<Say> = chosen.iter().map(say).collect();
            let voices: Vec<Voice> =
                says.iter().map(|say| Voice { opinion: say.opinion, suspect: say.suspect }).collect();
            let quorums = (check.pace.down_quorum, check.pace.up_quorum);
            let state = agree(&voices, quorums, before(&target));
            agreements.insert(target, Agreement { state, says });
        }
    }
    agreements
}

/// Whether a vantage has said something of two members or more, and nothing good of any.
fn sees_all_down(verdicts: &[Verdict]) -> bool {
    let first = verdicts.first().map(|verdict| verdict.target);
    let several = verdicts.iter().any(|verdict| Some(verdict.target) != first);
    several && verdicts.iter().all(|verdict| verdict.opinion == Opinion::Down)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::health::{Pace, Probe};

    /// `u`p, `d`own, `-` silent; capitals are suspect.
    fn voices(text: &str) -> Vec<Voice> {
        text.chars()
            .map(|c| Voice {
                opinion: match c.to_ascii_lowercase() {
                    'u' => Opinion::Up,
                    'd' => Opinion::Down,
                    _ => Opinion::Unknown,
                },
                suspect: c.is_ascii_uppercase(),
            })
            .collect()
    }

    #[track_caller]
    fn check(text: &str, before: Agreed, expected: Agreed) {
        assert_eq!(agree(&voices(text), (0, 0), before), expected, "{text} after {before:?}");
    }

    #[test]
    fn a_majority_decides_and_what_is_contested_stays() {
        use Agreed::{Doubted, Down, Unknown, Up};
        check("uuu", Unknown, Up);
        check("ddu", Up, Down);
        check("ddd", Up, Down);
        check("duu", Down, Up);
        check("d--", Up, Up);
        check("d-u", Up, Up);
        check("d-u", Down, Down);
        check("---", Unknown, Unknown);
        check("---", Up, Up);
        check("d--", Unknown, Unknown);
        check("u--", Unknown, Up);
        // One liar does not decide, nor two that see everything down.
        check("duu", Up, Up);
        check("DDu", Up, Doubted);
        check("dDu", Up, Doubted);
        check("ddD", Up, Down);
        // Nobody left who says down: verdicts have ended.
        check("---", Down, Up);
        // Where there are fewer.
        check("d", Up, Down);
        check("du", Up, Up);
        check("dd", Up, Down);
        check("", Up, Up);
        check("", Unknown, Unknown);
    }

    #[test]
    fn quorums_can_be_set_and_never_exceed_who_is_there() {
        assert_eq!(agree(&voices("duu"), (1, 0), Agreed::Up), Agreed::Down);
        assert_eq!(agree(&voices("ddu"), (3, 0), Agreed::Up), Agreed::Up);
        assert_eq!(agree(&voices("d"), (3, 0), Agreed::Up), Agreed::Down);
    }

    #[test]
    fn a_member_does_not_vouch_for_itself_and_strangers_are_not_heard() {
        let id = |n: u8| crate::key::SecretKey::from_seed(&[n; 32]).public();
        let region: RegionName = "r".parse().unwrap();
        let checks = [Check {
            name: "web".parse().unwrap(),
            probe: Probe::Site,
            pace: Pace::default(),
            sites: vec![],
        }];
        let says = |target: MemberId, opinion| {
            let (since, why, latency_ms) = (Time::from_secs(1), None, None);
            vec![Verdict { target, check: "web".parse().unwrap(), opinion, since, why, latency_ms }]
        };
        let all: Vec<MemberId> = (0..8).map(id).collect();
        let target = all[0];
        let candidates: Vec<Candidate> =
            all.iter().map(|id| Candidate { id: *id, region: region.clone() }).collect();
        let chosen = vantages(target, &candidates, VANTAGES);
        let verdicts: Vec<Vec<Verdict>> = all
            .iter()
            .map(|id| match chosen.contains(id) {
                true => says(target, Opinion::Down),
                // Itself, and everybody who was not chosen.
                false => says(target, Opinion::Up),
            })
            .collect();
        let witnesses: Vec<Witness<'_>> = all
            .iter()
            .zip(&verdicts)
            .map(|(id, verdicts)| Witness {
                id: *id,
                region: &region,
                reached: true,
                checks: if *id == target { &checks } else { &[] },
                verdicts,
            })
            .collect();
        let agreed = agree_all(&witnesses, |_| Agreed::Up);
        let (_, agreement) = agreed.iter().next().unwrap();
        assert_eq!((agreement.state, agreement.says.len(), agreed.len()), (Agreed::Down, 3, 1));
        assert!(agreement.says.iter().all(|say| say.by != target && !say.suspect));
    }
}
