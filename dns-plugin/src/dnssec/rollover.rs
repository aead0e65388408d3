//! Changing keys without anybody noticing.
//!
//! An order writes times into key files; what follows happens by itself, but for the one thing that
//! is not ours: the DS record in the parent zone.
//!
//! CSK and KSK: double signature (RFC 6781, 4.1.2 and 4.1.3; the Double-KSK method of RFC 7583, 3.3.1).
//!
//! ```text
//!  order             +propagation +TTL of DNSKEY     the parent's DS seen    +TTL of DS +propagation
//!    │                         │                            │                        │
//!    ├── new key published, signs beside the old one ───────┼────────────────────────┼──────────▶
//!    │                         ├── CDS asks for the new one ┼────────────────────────┼──────────▶
//!    └── old key signs ────────┴────────────────────────────┴────────────────────────┘ removed
//! ```
//!
//! The old key of a zone's records stays longer than drawn when answers that it alone has signed may
//! be kept longer: until the longest TTL after the order.
//!
//! ZSK: pre-publication (RFC 6781, 4.1.1.1), which ends by itself.
//!
//! ```text
//!  order             +propagation +TTL of DNSKEY          +propagation +longest TTL
//!    ├── new key published     ├── signs ────────────────────────────┼──────────▶
//!    └── old key signs ────────┴── retired: only published ──────────┘ removed
//! ```
//!
//! [`convert`] makes a CSK of KSK and ZSK and back, [`emergency`] replaces all keys at once, [`unsign`]
//! ends signing. That no validator finds the zone bogus at any time is tested with every state that
//! caches can be in (`caches.rs`) and with real validators.

pub mod convert;
pub mod emergency;
pub mod unsign;

#[cfg(test)]
mod caches;

use super::lifecycle::{Phase, Role, Times};
use godwit_core::time::Time;
use std::time::Duration;

/// How long others take to hear of a change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Waits {
    /// Until every redirector has a changed file.
    pub propagation: Duration,
    /// TTL of DNSKEY, CDS and CDNSKEY.
    pub dnskey_ttl: Duration,
    /// The longest TTL in the zone.
    pub zone_ttl_max: Duration,
    /// TTL of the zone's DS records in the parent zone.
    pub ds_ttl: Duration,
}

impl Default for Waits {
    /// An hour to copy files, an hour for DNSKEY, a day for the zone and for the parent's DS (most
    /// registries have an hour to a day).
    fn default() -> Waits {
        Waits {
            propagation: Duration::from_secs(3600),
            dnskey_ttl: Duration::from_secs(3600),
            zone_ttl_max: Duration::from_secs(86_400),
            ds_ttl: Duration::from_secs(86_400),
        }
    }
}

impl Waits {
    /// For a new key of another algorithm: the parent may point at it only when no answer is kept any
    /// more that has no signature of that algorithm (RFC 6781, 4.1.4; RFC 4035, 2.2).
    pub fn for_another_algorithm(self) -> Waits {
        Waits { dnskey_ttl: self.dnskey_ttl.max(self.zone_ttl_max), ..self }
    }

    /// When every cache knows the DNSKEY records that are told from `now` on.
    fn known(&self, now: Time) -> Time {
        now + self.propagation + self.dnskey_ttl
    }

    /// When no cache has an answer any more that was signed without the keys that sign since `since`.
    fn forgotten(&self, since: Time) -> Time {
        since + self.propagation + self.zone_ttl_max.max(self.dnskey_ttl)
    }
}

/// Why there is no rollover. Nothing was changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RollError {
    /// No key of this role signs now.
    #[error("no {0} is active")]
    NoneActive(Role),
    /// Another rollover has not ended.
    #[error("a rollover of the {0} is under way: see `godwit dnssec status`")]
    UnderWay(Role),
    /// Nothing waits for the parent's DS record.
    #[error("no rollover waits for the DS record of the parent")]
    NothingWaits,
    /// The new key's DS record is not asked for yet: validators may not have seen its DNSKEY.
    #[error("the new DS record may not be used before {}: some validators do not know its key yet", super::date::Date(*.0))]
    TooEarly(Time),
    /// The keys are already as they are asked to be.
    #[error("the zone's keys are already so")]
    Already,
    /// The zone is about to be unsigned, or not.
    #[error("the zone is about to be unsigned: see `godwit dnssec unsign`")]
    Unsigning,
    /// The end of signing was not ordered.
    #[error("the zone is not about to be unsigned")]
    NotUnsigning,
}

/// The times of a new key of role `role`, and those of `keys`, which are all keys there are, are
/// changed to make place for it.
pub fn start(now: Time, role: Role, waits: &Waits, keys: &mut [(Role, Times)]) -> Result<Times, RollError> {
    refuse_when_unsigning(now, keys)?;
    // The roles that take turns with this one: a conversion has both kinds of entry for a while, and a
    // CSK beside a ZSK.
    let rivals = |other: Role| if role.is_entry() { other.is_entry() } else { other.signs_zone() };
    let current: Vec<usize> =
        (0..keys.len()).filter(|at| rivals(keys[*at].0) && keys[*at].1.phase(now) < Phase::Retired).collect();
    let of_role = current.iter().any(|at| keys[*at].0 == role);
    let [old] = current[..] else {
        return Err(if of_role { RollError::UnderWay(role) } else { RollError::NoneActive(role) });
    };
    let (old_role, old) = &mut keys[old];
    if *old_role != role || old.phase(now) != Phase::Active {
        return Err(RollError::NoneActive(role));
    }
    let known = waits.known(now);
    let first = Times { ds_from: None, ..Times::first(now, role) };
    if role.is_entry() {
        old.ds_until = Some(known);
        return Ok(Times { ds_from: Some(known), ..first });
    }
    old.retired = Some(known);
    old.removed = Some(known + waits.propagation + waits.zone_ttl_max);
    Ok(Times { active: known, ..first })
}

/// The parent has the new DS record, and it only: the old keys end when nobody can have the old DS
/// record any more, nor an answer that they alone have signed. Gives when that is.
pub fn ds_seen(now: Time, waits: &Waits, keys: &mut [(Role, Times)]) -> Result<Time, RollError> {
    refuse_when_unsigning(now, keys)?;
    let known =
        keys.iter().filter(|key| waits_for_ds(now, key)).filter_map(|(_, times)| times.ds_until).max();
    let known = known.ok_or(RollError::NothingWaits)?;
    if now < known {
        return Err(RollError::TooEarly(known));
    }
    let stays = |key: &&(Role, Times)| {
        key.1.phase(now) == Phase::Active && key.1.retired.is_none() && !waits_for_ds(now, key)
    };
    // Where a CSK takes the place of KSK and ZSK, the ZSK ends with the KSK.
    let single = keys.iter().filter(stays).any(|(role, _)| *role == Role::Csk);
    let ends = |key: &(Role, Times)| {
        waits_for_ds(now, key) || (single && key.0 == Role::Zsk && key.1.phase(now) == Phase::Active)
    };
    let since = keys.iter().filter(stays).filter(|key| key.0.signs_zone() && !ends(key));
    let since = since.map(|(_, times)| times.active).min().unwrap_or(now);
    let end = (now + waits.ds_ttl + waits.propagation).max(waits.forgotten(since));
    for key in keys.iter_mut().filter(|key| ends(key)) {
        key.1.retired = Some(end);
        key.1.removed = Some(end);
    }
    Ok(end)
}

/// Whether this key ends when the parent has the new DS record.
fn waits_for_ds(now: Time, (role, times): &(Role, Times)) -> bool {
    role.is_entry()
        && times.ds_until.is_some()
        && times.retired.is_none()
        && times.phase(now) == Phase::Active
}

fn refuse_when_unsigning(now: Time, keys: &[(Role, Times)]) -> Result<(), RollError> {
    let unsigning = keys.iter().any(|(_, times)| times.wants_no_ds(now));
    if unsigning { Err(RollError::Unsigning) } else { Ok(()) }
}

/// Which of `keys` are in force, when nothing is under way: one CSK, or a KSK and a ZSK.
fn settled(now: Time, keys: &[(Role, Times)]) -> Result<Vec<usize>, RollError> {
    refuse_when_unsigning(now, keys)?;
    let live: Vec<usize> = (0..keys.len()).filter(|at| keys[*at].1.phase(now) < Phase::Removed).collect();
    let changing = |at: &&usize| {
        let times = keys[**at].1;
        times.phase(now) != Phase::Active || times.retired.is_some() || times.ds_until.is_some()
    };
    if let Some(at) = live.iter().find(changing) {
        return Err(RollError::UnderWay(keys[*at].0));
    }
    let mut roles: Vec<Role> = live.iter().map(|at| keys[*at].0).collect();
    roles.sort_unstable();
    match roles[..] {
        [Role::Csk] | [Role::Ksk, Role::Zsk] => Ok(live),
        [] => Err(RollError::NoneActive(Role::Csk)),
        [first, ..] => Err(RollError::UnderWay(first)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const WAITS: Waits = Waits {
        propagation: Duration::from_secs(10),
        dnskey_ttl: Duration::from_secs(100),
        zone_ttl_max: Duration::from_secs(1000),
        ds_ttl: Duration::from_secs(10_000),
    };

    fn at(secs: u64) -> Time {
        Time::from_secs(secs)
    }

    fn phases(now: u64, keys: &[(Role, Times)]) -> Vec<(Phase, bool)> {
        keys.iter().map(|(_, times)| (times.phase(at(now)), times.wants_ds(at(now)))).collect()
    }

    #[test]
    fn rfc6781_4_1_3_double_signature() {
        use Phase::*;
        let mut keys = vec![(Role::Csk, Times::first(at(0), Role::Csk))];
        let new = start(at(1000), Role::Csk, &WAITS, &mut keys).unwrap();
        keys.push((Role::Csk, new));
        assert_eq!(phases(999, &keys), [(Active, true), (Planned, false)]);
        assert_eq!(phases(1000, &keys), [(Active, true), (Active, false)]);
        assert_eq!(phases(1109, &keys), [(Active, true), (Active, false)]);
        assert_eq!(phases(1110, &keys), [(Active, false), (Active, true)]);
        assert_eq!(start(at(1200), Role::Csk, &WAITS, &mut keys), Err(RollError::UnderWay(Role::Csk)));
        assert_eq!(ds_seen(at(1100), &WAITS, &mut keys), Err(RollError::TooEarly(at(1110))));
        assert_eq!(phases(99_999, &keys), [(Active, false), (Active, true)], "it waits for the parent");
        assert_eq!(ds_seen(at(5000), &WAITS, &mut keys), Ok(at(15_010)));
        assert_eq!(phases(15_009, &keys), [(Active, false), (Active, true)]);
        assert_eq!(phases(15_010, &keys), [(Removed, false), (Active, true)]);
        assert_eq!(ds_seen(at(6000), &WAITS, &mut keys), Err(RollError::NothingWaits));
        assert!(start(at(20_000), Role::Csk, &WAITS, &mut keys).is_ok(), "and again");
    }

    #[test]
    fn an_old_csk_stays_as_long_as_answers_that_it_alone_has_signed() {
        let waits = Waits { ds_ttl: Duration::from_secs(1), ..WAITS };
        let mut keys = vec![(Role::Csk, Times::first(at(0), Role::Csk))];
        let new = start(at(1000), Role::Csk, &waits, &mut keys).unwrap();
        keys.push((Role::Csk, new));
        assert_eq!(ds_seen(at(1110), &waits, &mut keys), Ok(at(2010)));
    }

    #[test]
    fn rfc6781_4_1_1_1_pre_publication() {
        use Phase::*;
        let mut keys =
            vec![(Role::Ksk, Times::first(at(0), Role::Ksk)), (Role::Zsk, Times::first(at(0), Role::Zsk))];
        let new = start(at(1000), Role::Zsk, &WAITS, &mut keys).unwrap();
        keys.push((Role::Zsk, new));
        let zsk = |now| phases(now, &keys[1..]).into_iter().map(|(phase, _)| phase).collect::<Vec<_>>();
        assert_eq!(zsk(1000), [Active, Published]);
        assert_eq!(zsk(1109), [Active, Published]);
        assert_eq!(zsk(1110), [Retired, Active]);
        assert_eq!(zsk(2119), [Retired, Active]);
        assert_eq!(zsk(2120), [Removed, Active]);
        assert_eq!(ds_seen(at(5000), &WAITS, &mut keys), Err(RollError::NothingWaits));
        assert_eq!(start(at(1), Role::Csk, &WAITS, &mut keys), Err(RollError::NoneActive(Role::Csk)));
    }
}
