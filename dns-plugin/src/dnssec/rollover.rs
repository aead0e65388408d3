//! Changing keys without anybody noticing.
//!
//! An order writes times into key files; what follows happens by itself, but for the one thing that
//! is not ours: the DS record in the parent zone.
//!
//! CSK and KSK: double signature (RFC 6781, 4.1.2 and 4.1.3).
//!
//! ```text
//!  order             +propagation +TTL of DNSKEY     the parent's DS seen    +TTL of DS +propagation
//!    │                         │                            │                        │
//!    ├── new key published, signs beside the old one ───────┼────────────────────────┼──────────▶
//!    │                         ├── CDS asks for the new one ┼────────────────────────┼──────────▶
//!    └── old key signs ────────┴────────────────────────────┴────────────────────────┘ removed
//! ```
//!
//! ZSK: pre-publication (RFC 6781, 4.1.1.1), which ends by itself.
//!
//! ```text
//!  order             +propagation +TTL of DNSKEY          +propagation +longest TTL
//!    ├── new key published     ├── signs ────────────────────────────┼──────────▶
//!    └── old key signs ────────┴── retired: only published ──────────┘ removed
//! ```

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

/// Why there is no rollover. Nothing was changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RollError {
    /// No key of this role signs now.
    #[error("no {0} is active")]
    NoneActive(Role),
    /// Another rollover of this role has not ended.
    #[error("a rollover of the {0} is under way: see `godwit dnssec status`")]
    UnderWay(Role),
    /// Nothing waits for the parent's DS record.
    #[error("no rollover waits for the DS record of the parent")]
    NothingWaits,
    /// The new key's DS record is not asked for yet: validators may not have seen its DNSKEY.
    #[error("the new DS record may not be used before {}: some validators do not know its key yet", super::date::Date(*.0))]
    TooEarly(Time),
}

/// The times of a new key of role `role`, and those of `keys`, which are all keys there are, are
/// changed to make place for it.
pub fn start(now: Time, role: Role, waits: &Waits, keys: &mut [(Role, Times)]) -> Result<Times, RollError> {
    let current: Vec<usize> =
        (0..keys.len()).filter(|at| keys[*at].0 == role && keys[*at].1.phase(now) < Phase::Retired).collect();
    let [old] = current[..] else {
        return Err(if current.is_empty() { RollError::NoneActive(role) } else { RollError::UnderWay(role) });
    };
    let old = &mut keys[old].1;
    if old.phase(now) != Phase::Active {
        return Err(RollError::NoneActive(role));
    }
    let known = now + waits.propagation + waits.dnskey_ttl;
    let first = Times { ds_from: None, ..Times::first(now, role) };
    if role.is_entry() {
        old.ds_until = Some(known);
        return Ok(Times { ds_from: Some(known), ..first });
    }
    old.retired = Some(known);
    old.removed = Some(known + waits.propagation + waits.zone_ttl_max);
    Ok(Times { active: known, ..first })
}

/// The parent has the new DS record, and it only: the old key ends when nobody can have the old DS
/// record any more. Gives when that is.
pub fn ds_seen(now: Time, waits: &Waits, keys: &mut [(Role, Times)]) -> Result<Time, RollError> {
    let waits_for_ds = |(role, times): &&mut (Role, Times)| {
        role.is_entry()
            && times.ds_until.is_some()
            && times.retired.is_none()
            && times.phase(now) == Phase::Active
    };
    let (_, old) = keys.iter_mut().find(waits_for_ds).ok_or(RollError::NothingWaits)?;
    if let Some(known) = old.ds_until.filter(|known| now < *known) {
        return Err(RollError::TooEarly(known));
    }
    let end = now + waits.ds_ttl + waits.propagation;
    old.retired = Some(end);
    old.removed = Some(end);
    Ok(end)
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
