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

impl Agreed {
    /// As it is written in reports and metrics.
    pub const fn as_str(self) -> &'static str {
        match self {
            Agreed::Unknown => "unknown",
            Agreed::Up => "up",
            Agreed::Doubted => "doubted",
            Agreed::Down => "down",
        }
    }
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
    /// Whether as many say so as must. What is not decided is as it was, or up: who has just
    /// started and has not heard everybody yet rather takes what it knew before.
    pub decided: bool,
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

/// What holds, and whether that is decided, given the voices of all chosen vantages (also of those
/// that have not spoken) and what held before. `quorums` are how many must say down and up; 0 is a
/// majority of those chosen.
pub fn agree(voices: &[Voice], quorums: (u8, u8), before: Agreed) -> (Agreed, bool) {
    let majority = voices.len() / 2 + 1;
    // No more can be asked than there are: one vantage decides alone where there is but one.
    let quorum = |asked: u8| if asked == 0 { majority } else { usize::from(asked).min(voices.len()).max(1) };
    let count = |opinion, suspects: bool| {
        voices.iter().filter(|voice| voice.opinion == opinion && (suspects || !voice.suspect)).count()
    };
    let (downs, ups, all_downs) =
        (count(Opinion::Down, false), count(Opinion::Up, true), count(Opinion::Down, true));
    let (down, up) = (quorum(quorums.0), quorum(quorums.1));
    if downs >= down {
        (Agreed::Down, true)
    } else if ups >= up {
        (Agreed::Up, true)
    } else if before == Agreed::Down && downs > 0 {
        // Contested: as it was.
        (Agreed::Down, false)
    } else if all_downs >= down {
        (Agreed::Doubted, true)
    } else if ups == 0 && (all_downs == 0 || before == Agreed::Unknown) {
        (Agreed::Unknown, false)
    } else {
        (Agreed::Up, false)
    }
}

/// What holds of every check of every member; remembers who checks whom and what held before.
#[derive(Clone, Debug, Default)]
pub struct Judge {
    candidates: Vec<Candidate>,
    /// Who checks each target, best first: chosen again when the candidates change.
    chosen: BTreeMap<MemberId, Vec<MemberId>>,
    states: BTreeMap<Target, Agreed>,
}

/// What a [`Judge`] has found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Judgement {
    /// What holds of each check.
    pub agreements: BTreeMap<Target, Agreement>,
    /// What holds otherwise than before: which check, what held, what holds.
    pub turned: Vec<(Target, Agreed, Agreed)>,
}

impl Judge {
    /// Judges all checks of `members`.
    pub fn judge(&mut self, members: &[Witness<'_>]) -> Judgement {
        self.choose(members);
        let by_id: BTreeMap<MemberId, &Witness<'_>> =
            members.iter().map(|member| (member.id, member)).collect();
        let suspect: BTreeMap<MemberId, bool> =
            members.iter().map(|member| (member.id, sees_all_down(member.verdicts))).collect();
        let mut judgement = Judgement::default();
        for member in members {
            let chosen = self.chosen.get(&member.id).map_or(&[][..], Vec::as_slice);
            for check in member.checks {
                let target = Target { member: member.id, check: check.name.clone() };
                let witness = |by: &MemberId| {
                    let verdicts = by_id.get(by).map_or(&[][..], |witness| witness.verdicts);
                    say(*by, suspect.get(by).copied().unwrap_or(false), &target, verdicts)
                };
                let says: Vec<Say> = chosen.iter().map(witness).collect();
                let voices: Vec<Voice> =
                    says.iter().map(|say| Voice { opinion: say.opinion, suspect: say.suspect }).collect();
                let before = self.states.get(&target).copied().unwrap_or_default();
                let quorums = (check.pace.down_quorum, check.pace.up_quorum);
                let (state, decided) = agree(&voices, quorums, before);
                if state != before {
                    judgement.turned.push((target.clone(), before, state));
                }
                judgement.agreements.insert(target, Agreement { state, decided, says });
            }
        }
        self.states =
            judgement.agreements.iter().map(|(target, agreed)| (target.clone(), agreed.state)).collect();
        judgement
    }

    /// Who checks `target`.
    pub fn vantages(&self, target: &MemberId) -> &[MemberId] {
        self.chosen.get(target).map_or(&[], Vec::as_slice)
    }

    fn choose(&mut self, members: &[Witness<'_>]) {
        let reached = members.iter().filter(|member| member.reached);
        let candidates: Vec<Candidate> =
            reached.map(|member| Candidate { id: member.id, region: member.region.clone() }).collect();
        if candidates != self.candidates {
            self.candidates = candidates;
            self.chosen.clear();
        }
        for member in members.iter().filter(|member| !member.checks.is_empty()) {
            let choose = || vantages(member.id, &self.candidates, VANTAGES);
            self.chosen.entry(member.id).or_insert_with(choose);
        }
    }
}

/// What a vantage says of a check, going by its verdicts.
fn say(by: MemberId, suspect: bool, target: &Target, verdicts: &[Verdict]) -> Say {
    let verdict =
        verdicts.iter().find(|verdict| verdict.target == target.member && verdict.check == target.check);
    Say {
        by,
        opinion: verdict.map_or(Opinion::Unknown, |verdict| verdict.opinion),
        since: verdict.map_or(Time::default(), |verdict| verdict.since),
        why: verdict.and_then(|verdict| verdict.why),
        latency_ms: verdict.and_then(|verdict| verdict.latency_ms),
        suspect,
    }
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
        assert_eq!(agree(&voices(text), (0, 0), before).0, expected, "{text} after {before:?}");
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
        check("---", Up, Unknown);
        check("d--", Unknown, Unknown);
        check("u--", Unknown, Up);
        // One liar does not decide, nor two that see everything down.
        check("duu", Up, Up);
        check("DDu", Up, Doubted);
        check("dDu", Up, Doubted);
        check("ddD", Up, Down);
        // Nobody left who says down: verdicts have ended.
        check("---", Down, Unknown);
        // Where there are fewer.
        check("d", Up, Down);
        check("du", Up, Up);
        check("dd", Up, Down);
        check("", Up, Unknown);
        check("", Unknown, Unknown);
    }

    #[test]
    fn quorums_can_be_set_and_never_exceed_who_is_there() {
        assert_eq!(agree(&voices("duu"), (1, 0), Agreed::Up), (Agreed::Down, true));
        assert_eq!(agree(&voices("ddu"), (3, 0), Agreed::Up), (Agreed::Up, false));
        assert_eq!(agree(&voices("d"), (3, 0), Agreed::Up), (Agreed::Down, true));
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
        let mut judge = Judge::default();
        let judgement = judge.judge(&witnesses);
        let (found, agreement) = judgement.agreements.iter().next().unwrap();
        assert_eq!((agreement.state, agreement.decided, agreement.says.len()), (Agreed::Down, true, 3));
        assert!(agreement.says.iter().all(|say| say.by != target && !say.suspect));
        assert_eq!(judgement.turned, [(found.clone(), Agreed::Unknown, Agreed::Down)]);
        assert_eq!(judge.vantages(&target), chosen);
        assert!(judge.judge(&witnesses).turned.is_empty());
    }
}
