//! Somebody else may have the keys.
//!
//! Every redirector has all keys, so who has taken one has taken them all: all are replaced, those of
//! a rollover under way among them. The chain of trust is kept (RFC 6781, 4.2.1.1 and 4.2.2): the old
//! keys go on signing until nobody depends on them. To take them away at once would make the zone
//! bogus for everybody who has the old DS record in a cache, and would not stop the thief, whose
//! signatures are good as long as that DS record is.
//!
//! What can be done for speed is done by `waits`: copy the files at once and say so; and by the DS
//! record, which has to be changed as soon as the new DNSKEY records are known everywhere. The ZSK
//! goes by double signature (RFC 7583, 3.2.2) in place of pre-publication: it signs no more, and is
//! distrusted, sooner.

use super::convert::Scheme;
use super::{RollError, Waits, refuse_when_unsigning};
use crate::dnssec::lifecycle::{Phase, Role, Times};
use godwit_core::time::Time;

/// New keys in place of all of `keys`, which are changed to make place for them.
/// [`super::ds_seen`] ends the old ones that a DS record may point at; the others end by themselves.
pub fn start(now: Time, waits: &Waits, keys: &mut [(Role, Times)]) -> Result<Vec<(Role, Times)>, RollError> {
    refuse_when_unsigning(now, keys)?;
    let scheme = scheme(now, keys)?;
    let known = waits.known(now);
    for (role, times) in keys.iter_mut() {
        match times.phase(now) {
            // Nobody has seen it: nobody will.
            Phase::Planned => (times.retired, times.removed) = (Some(now), Some(now)),
            Phase::Published | Phase::Active if role.is_entry() => entry(now, known, times),
            Phase::Published => {
                // Redirectors that have not heard yet will sign with it in a while.
                let end = waits.forgotten(known);
                (times.active, times.retired, times.removed) = (end, Some(end), Some(end));
            }
            Phase::Active => {
                let end = waits.forgotten(now).max(known);
                (times.retired, times.removed) = (Some(known), times.removed.max(Some(end)));
            }
            // It signs no more: what it has signed is in caches until its end.
            Phase::Retired | Phase::Removed => {}
        }
    }
    Ok(scheme.keys(now, known))
}

/// An old key that a DS record may point at: it is not asked for once others can be.
fn entry(now: Time, known: Time, times: &mut Times) {
    if times.retired.is_some() {
        return;
    }
    times.ds_from = times.ds_from.filter(|from| *from <= now);
    // Who is no longer asked for is not asked for again.
    times.ds_until = times.ds_until.filter(|until| *until <= now).or(Some(known));
}

/// What the zone's keys are, or are about to be.
fn scheme(now: Time, keys: &[(Role, Times)]) -> Result<Scheme, RollError> {
    let live = keys.iter().filter(|(role, times)| role.is_entry() && times.phase(now) < Phase::Retired);
    let (role, _) = live.max_by_key(|(_, times)| times.published).ok_or(RollError::NoneActive(Role::Csk))?;
    Ok(if *role == Role::Csk { Scheme::Csk } else { Scheme::Split })
}
