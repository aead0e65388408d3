//! From one key to two, and back.
//!
//! ```text
//!  order             +propagation +TTL of DNSKEY      the parent's DS seen       +TTL of DS +propagation
//!    ├── new KSK and ZSK (or CSK) published, sign beside the old ──┼────────────────┼──────────▶
//!    │                         ├── CDS asks for the new KSK (CSK) ─┼────────────────┼──────────▶
//!    └── old CSK (or KSK and ZSK) sign ────┴───────────────────────┴────────────────┘ removed
//! ```
//!
//! Both sets of keys sign everything in between, so that each half of the world can be behind: a
//! single-type zone is rolled by double signature (RFC 6781, 4.1.3), and nothing in that depends on
//! the roles that the new keys divide among them.

use super::{RollError, Waits, settled};
use crate::dnssec::lifecycle::{Role, Times};
use godwit_core::time::Time;
use std::fmt;
use std::str::FromStr;

/// Which keys a zone has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scheme {
    /// One that does everything.
    Csk,
    /// A KSK that the DS record points at, and a ZSK that signs the zone.
    Split,
}

impl Scheme {
    /// The roles of its keys.
    pub fn roles(self) -> &'static [Role] {
        match self {
            Scheme::Csk => &[Role::Csk],
            Scheme::Split => &[Role::Ksk, Role::Zsk],
        }
    }

    /// The name on the command line.
    pub fn as_str(self) -> &'static str {
        match self {
            Scheme::Csk => "csk",
            Scheme::Split => "split",
        }
    }

    /// The new keys, which sign from `now` on and are asked for from `known` on.
    pub(super) fn keys(self, now: Time, known: Time) -> Vec<(Role, Times)> {
        let key = |role: &Role| {
            let ds_from = role.is_entry().then_some(known);
            (*role, Times { ds_from, ..Times::first(now, *role) })
        };
        self.roles().iter().map(key).collect()
    }
}

impl fmt::Display for Scheme {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for Scheme {
    type Err = String;
    fn from_str(text: &str) -> Result<Scheme, String> {
        [Scheme::Csk, Scheme::Split]
            .into_iter()
            .find(|scheme| scheme.as_str() == text)
            .ok_or_else(|| format!("{text:?} is neither csk nor split"))
    }
}

/// The keys of `scheme`, and the times of `keys`, which are all keys there are, are changed to make
/// place for them. [`super::ds_seen`] ends the old ones.
pub fn start(
    now: Time,
    scheme: Scheme,
    waits: &Waits,
    keys: &mut [(Role, Times)],
) -> Result<Vec<(Role, Times)>, RollError> {
    let old = settled(now, keys)?;
    let single = old.iter().any(|at| keys[*at].0 == Role::Csk);
    if single == (scheme == Scheme::Csk) {
        return Err(RollError::Already);
    }
    let known = waits.known(now);
    for at in old.into_iter().filter(|at| keys[*at].0.is_entry()).collect::<Vec<_>>() {
        keys[at].1.ds_until = Some(known);
    }
    Ok(scheme.keys(now, known))
}
