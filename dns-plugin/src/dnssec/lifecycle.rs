//! What a key is for, and when: published, active, retired, removed.
//!
//! ```text
//!   planned ──published──▶ published ──active──▶ active ──retired──▶ retired ──removed──▶ removed
//!                          in DNSKEY             and signs           in DNSKEY only
//! ```
//!
//! All of it are times, written down when a rollover is ordered. So a redirector needs no memory and
//! no restart to change over, and several with the same files change over together. What happens at
//! a given time is a pure function of these.

use godwit_core::time::Time;
use std::fmt;
use std::str::FromStr;

/// What a key signs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Role {
    /// Everything: a combined signing key, the usual one. A DS record points at it.
    Csk,
    /// The DNSKEY, CDS and CDNSKEY records. A DS record points at it.
    Ksk,
    /// Everything else.
    Zsk,
}

impl Role {
    /// The flags of its DNSKEY record (RFC 4034, 2.1.1).
    pub fn flags(self) -> u16 {
        match self {
            Role::Csk | Role::Ksk => 257,
            Role::Zsk => 256,
        }
    }

    /// Whether a DS record points at it.
    pub fn is_entry(self) -> bool {
        matches!(self, Role::Csk | Role::Ksk)
    }

    /// Whether it signs what is not about keys.
    pub fn signs_zone(self) -> bool {
        matches!(self, Role::Csk | Role::Zsk)
    }

    /// The name in files and on the command line.
    pub fn as_str(self) -> &'static str {
        match self {
            Role::Csk => "csk",
            Role::Ksk => "ksk",
            Role::Zsk => "zsk",
        }
    }
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for Role {
    type Err = String;
    fn from_str(text: &str) -> Result<Role, String> {
        [Role::Csk, Role::Ksk, Role::Zsk]
            .into_iter()
            .find(|role| role.as_str() == text)
            .ok_or_else(|| format!("{text:?} is no role: write csk, ksk or zsk"))
    }
}

/// When a key does what. A time that is not set never comes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Times {
    /// From then on it is among the DNSKEY records.
    pub published: Time,
    /// From then on it signs.
    pub active: Time,
    /// From then on CDS and CDNSKEY ask the parent for its DS record (RFC 7344).
    pub ds_from: Option<Time>,
    /// From then on they no longer do: a successor's is asked for.
    pub ds_until: Option<Time>,
    /// From then on it signs no more.
    pub retired: Option<Time>,
    /// From then on it is no longer among the DNSKEY records, and its files may be deleted.
    pub removed: Option<Time>,
    /// From then on CDS and CDNSKEY ask the parent to take away every DS record of the zone (RFC 8078,
    /// 4): the zone is to be unsigned.
    pub ds_delete: Option<Time>,
}

/// How far a key is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Phase {
    /// Not to be seen yet.
    Planned,
    /// Seen, and does not sign yet.
    Published,
    /// Signs.
    Active,
    /// Seen, and signs no more.
    Retired,
    /// Gone.
    Removed,
}

impl fmt::Display for Phase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Phase::Planned => "planned",
            Phase::Published => "published",
            Phase::Active => "active",
            Phase::Retired => "retired",
            Phase::Removed => "removed",
        })
    }
}

impl Times {
    /// Of a zone's first key: all at once, as there is nothing in any cache.
    pub fn first(now: Time, role: Role) -> Times {
        let ds_from = role.is_entry().then_some(now);
        let never = None;
        Times {
            published: now,
            active: now,
            ds_from,
            ds_until: never,
            retired: never,
            removed: never,
            ds_delete: never,
        }
    }

    /// How far the key is.
    pub fn phase(&self, now: Time) -> Phase {
        let passed = |time: Option<Time>| time.is_some_and(|time| time <= now);
        if passed(self.removed) {
            Phase::Removed
        } else if passed(self.retired) {
            Phase::Retired
        } else if self.active.max(self.published) <= now {
            Phase::Active
        } else if self.published <= now {
            Phase::Published
        } else {
            Phase::Planned
        }
    }

    /// Whether CDS and CDNSKEY name it.
    pub fn wants_ds(&self, now: Time) -> bool {
        let seen = matches!(self.phase(now), Phase::Published | Phase::Active);
        let from = self.ds_from.is_some_and(|time| time <= now);
        seen && from && self.ds_until.is_none_or(|time| now < time)
    }

    /// Whether CDS and CDNSKEY ask for no DS record at all.
    pub fn wants_no_ds(&self, now: Time) -> bool {
        self.ds_delete.is_some_and(|time| time <= now) && self.phase(now) < Phase::Removed
    }

    /// Every time at which something changes.
    pub(crate) fn changes(&self) -> impl Iterator<Item = Time> + use<> {
        let Times { published, active, ds_from, ds_until, retired, removed, ds_delete } = *self;
        [Some(published), Some(active), ds_from, ds_until, retired, removed, ds_delete].into_iter().flatten()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_goes_through_its_phases_once() {
        let at = Time::from_secs;
        let times = Times {
            published: at(10),
            active: at(20),
            ds_from: Some(at(15)),
            ds_until: Some(at(25)),
            retired: Some(at(30)),
            removed: Some(at(40)),
            ds_delete: Some(at(35)),
        };
        let phases: Vec<Phase> = [9, 10, 19, 20, 29, 30, 39, 40].map(|now| times.phase(at(now))).to_vec();
        use Phase::*;
        assert_eq!(phases, [Planned, Published, Published, Active, Active, Retired, Retired, Removed]);
        let ds: Vec<u64> = (0..50).filter(|now| times.wants_ds(at(*now))).collect();
        assert_eq!(ds, (15..25).collect::<Vec<u64>>());
        let none: Vec<u64> = (0..50).filter(|now| times.wants_no_ds(at(*now))).collect();
        assert_eq!(none, (35..40).collect::<Vec<u64>>());
        assert_eq!(Times::first(at(5), Role::Csk).phase(at(5)), Active);
        assert!(!Times::first(at(5), Role::Zsk).wants_ds(at(5)));
    }
}
