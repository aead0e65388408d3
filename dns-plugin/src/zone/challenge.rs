//! The values that prove to a certificate authority that a name is held (RFC 8555, 8.4).
//!
//! They come and go within minutes, several may stand at one name (a wildcard and its base name are
//! proved at the same one), and whoever sets them does so for all redirectors. Here is only what a
//! zone answers; how they spread is the network's business.

use super::owner::{Owner, Path};
use hickory_server::proto::rr::Name;
use std::collections::BTreeMap;

/// The label that such names begin with.
pub const CHALLENGE_LABEL: &str = "_acme-challenge";

/// At most so many values at one name: more than any authority looks at.
pub const CHALLENGES_AT_NAME_MAX: usize = 16;

/// The longest value, octets: one character string of a TXT record. Real ones have 43.
pub const CHALLENGE_LEN_MAX: usize = 255;

/// Values by name.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Challenges(pub(crate) BTreeMap<Owner, Vec<String>>);

impl Challenges {
    /// Of these names (in the zone `origin`) and values. What is no such name, or too much, is left
    /// out: it has been checked where it was set, and what is here may come from elsewhere.
    pub(crate) fn new<'a>(origin: &Name, values: impl IntoIterator<Item = (&'a str, &'a str)>) -> Challenges {
        let labels = origin.iter().count();
        let mut challenges = Challenges::default();
        for (name, value) in values {
            let Some(path) = Name::from_ascii(format!("{}.", name.trim_end_matches('.')))
                .ok()
                .filter(|name| origin.zone_of(name))
                .and_then(|name| Path::of(&name, labels))
            else {
                continue;
            };
            let leftmost = path.labels().checked_sub(1).and_then(|at| path.label(at));
            if leftmost != Some(CHALLENGE_LABEL) || value.len() > CHALLENGE_LEN_MAX {
                continue;
            }
            let values = challenges.0.entry(path.owner()).or_default();
            if values.len() < CHALLENGES_AT_NAME_MAX && !values.iter().any(|there| there == value) {
                values.push(value.to_owned());
            }
        }
        challenges.0.values_mut().for_each(|values| values.sort_unstable());
        challenges
    }
}
