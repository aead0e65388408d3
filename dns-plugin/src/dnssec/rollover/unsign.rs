//! Going unsigned.
//!
//! ```text
//!  start                    the parent has no DS record          +TTL of DS +propagation
//!    ├── CDS and CDNSKEY: delete (RFC 8078, 4) ┼─────────────────────────┤
//!    └── all keys sign ────────────────────────┴─────────────────────────┘ removed: unsigned
//! ```
//!
//! A zone that stops to sign while a DS record of it is in a cache is bogus. So the DS record goes
//! first, and the signatures stay as long as caches keep it. Until then the way back is open.

use super::{RollError, Waits};
use crate::dnssec::lifecycle::{Phase, Role, Times};
use godwit_core::time::Time;

/// From `now` on the parent is asked to take the DS records away.
pub fn start(now: Time, keys: &mut [(Role, Times)]) -> Result<(), RollError> {
    let mut live: Vec<&mut (Role, Times)> = live(now, keys).collect();
    if live.is_empty() {
        return Err(RollError::NoneActive(Role::Csk));
    }
    if live.iter().any(|(_, times)| times.ds_delete.is_some()) {
        return Err(RollError::Already);
    }
    // One that ends by itself does so within a day or two. A rollover that waits for the parent may
    // wait: whatever the parent has, its key signs.
    let ending =
        |(_, times): &&&mut (Role, Times)| times.retired.is_some() || times.phase(now) != Phase::Active;
    if let Some((role, _)) = live.iter().find(ending) {
        return Err(RollError::UnderWay(*role));
    }
    live.iter_mut().for_each(|(_, times)| times.ds_delete = Some(now));
    Ok(())
}

/// The parent has no DS record any more: the keys end when no cache has one. Gives when that is.
pub fn ds_gone(now: Time, waits: &Waits, keys: &mut [(Role, Times)]) -> Result<Time, RollError> {
    let mut ordered: Vec<_> = live(now, keys).filter(|(_, times)| times.ds_delete.is_some()).collect();
    if ordered.is_empty() {
        return Err(RollError::NotUnsigning);
    }
    if ordered.iter().any(|(_, times)| times.removed.is_some()) {
        return Err(RollError::Already);
    }
    let end = now + waits.ds_ttl + waits.propagation;
    ordered.iter_mut().for_each(|(_, times)| (times.retired, times.removed) = (Some(end), Some(end)));
    Ok(end)
}

/// The zone stays signed after all.
pub fn cancel(now: Time, keys: &mut [(Role, Times)]) -> Result<(), RollError> {
    let mut ordered: Vec<_> = live(now, keys).filter(|(_, times)| times.ds_delete.is_some()).collect();
    if ordered.is_empty() {
        return Err(RollError::NotUnsigning);
    }
    for (_, times) in &mut ordered {
        (times.ds_delete, times.retired, times.removed) = (None, None, None);
    }
    Ok(())
}

fn live(now: Time, keys: &mut [(Role, Times)]) -> impl Iterator<Item = &mut (Role, Times)> {
    keys.iter_mut().filter(move |(_, times)| times.phase(now) < Phase::Removed)
}
