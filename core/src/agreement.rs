//! Whether redirectors decide by the same settings.
//!
//! Redirectors that have heard the same decide the same: the map is a function of its inputs. Some
//! inputs are no soft state but stand in each redirector's own files (who explores, the GeoIP
//! database, records of the zone), and nothing makes two files equal. So each redirector tells, as a
//! statement of [`KIND`], a digest of every such setting under its name; whoever sees two that differ
//! can say which, and of whom ([`differences`]). Digests, not values: a file path or a key is nobody
//! else's business.

use crate::key::MemberId;
use crate::wire;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};

/// The kind of statement.
pub const KIND: u16 = 7;
/// At most so many settings are told: some 3 KiB.
pub const SETTINGS_MAX: usize = 64;
/// The longest name of a setting, octets.
pub const NAME_LEN_MAX: usize = 48;

/// The version of the form.
const VERSION: u8 = 1;

/// A setting that answers depend on, and what it is.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Setting {
    /// Its name, as in the configuration: `map.explore_permille`.
    pub name: String,
    /// Of its value: the beginning of a BLAKE3 hash.
    pub digest: u64,
}

impl Setting {
    /// With the digest of a value's bytes. Longer names are cut.
    pub fn new(name: &str, value: &[u8]) -> Setting {
        let end = (0..=name.len().min(NAME_LEN_MAX)).rev().find(|end| name.is_char_boundary(*end));
        let hash = blake3::hash(value);
        let digest = hash.as_bytes().first_chunk().map_or(0, |bytes| u64::from_le_bytes(*bytes));
        Setting { name: name[..end.unwrap_or(0)].to_owned(), digest }
    }
}

/// A setting that redirectors have different values of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Difference {
    /// Its name.
    pub name: String,
    /// Who has the same value, by value; the largest group first. Who tells of no such setting (it is
    /// of another version, perhaps) is a group of its own.
    pub groups: Vec<Vec<MemberId>>,
}

/// The form that is signed and sent: sorted by name, each once, at most [`SETTINGS_MAX`].
pub fn encode(settings: &[Setting]) -> Vec<u8> {
    let mut settings = settings.to_vec();
    settings.sort_unstable();
    settings.dedup_by(|a, b| a.name == b.name);
    settings.truncate(SETTINGS_MAX);
    let mut bytes = vec![VERSION];
    bytes.extend(wire::encode(&settings));
    bytes
}

/// Reads what [`encode`] of this or a later version wrote; `None` for anything else.
pub fn decode(bytes: &[u8]) -> Option<Vec<Setting>> {
    let (version, fields) = bytes.split_first()?;
    let settings: Vec<Setting> = wire::decode_start(fields, wire::RECORD_LEN_MAX).ok()?;
    let holds = *version >= VERSION
        && settings.len() <= SETTINGS_MAX
        && settings.is_sorted_by(|a, b| a.name < b.name)
        && settings.iter().all(|setting| setting.name.len() <= NAME_LEN_MAX);
    holds.then_some(settings)
}

/// The settings that not all of these have alike, by name.
pub fn differences<'a>(told: impl IntoIterator<Item = (MemberId, &'a [Setting])>) -> Vec<Difference> {
    let told: BTreeMap<MemberId, BTreeMap<&str, u64>> = told
        .into_iter()
        .map(|(by, settings)| (by, settings.iter().map(|one| (one.name.as_str(), one.digest)).collect()))
        .collect();
    let names: BTreeSet<&str> = told.values().flat_map(|settings| settings.keys().copied()).collect();
    let difference = |name: &str| {
        let mut groups: BTreeMap<Option<u64>, Vec<MemberId>> = BTreeMap::new();
        for (by, settings) in &told {
            groups.entry(settings.get(name).copied()).or_default().push(*by);
        }
        let mut groups: Vec<Vec<MemberId>> = groups.into_values().collect();
        groups.sort_by_key(|members| (std::cmp::Reverse(members.len()), members.first().copied()));
        (groups.len() > 1).then(|| Difference { name: name.to_owned(), groups })
    };
    names.into_iter().filter_map(difference).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::key::SecretKey;

    fn id(n: u8) -> MemberId {
        SecretKey::from_seed(&[n; 32]).public()
    }

    #[test]
    fn what_differs_is_named_with_who_has_what() {
        let ours = [Setting::new("map.geoip", b"x"), Setting::new("map.explore_permille", &[20])];
        let theirs = [Setting::new("map.geoip", b"x"), Setting::new("map.explore_permille", &[0])];
        let older = [Setting::new("map.explore_permille", &[20])];
        assert_eq!(differences([(id(1), &ours[..]), (id(2), &ours)]), []);
        assert_eq!(differences([(id(1), &ours[..])]), []);
        let found = differences([(id(1), &ours[..]), (id(2), &ours), (id(3), &theirs)]);
        let mut ours_by = vec![id(1), id(2)];
        ours_by.sort_unstable();
        let groups = vec![ours_by, vec![id(3)]];
        assert_eq!(found, [Difference { name: "map.explore_permille".into(), groups }]);
        let found = differences([(id(1), &ours[..]), (id(2), &older)]);
        assert_eq!(found.len(), 1);
        assert_eq!(found[0].name, "map.geoip");
    }

    #[test]
    fn what_is_read_is_what_was_written_and_in_bounds() {
        let setting = |n: usize| Setting::new(&format!("{n:03}{}", "ä".repeat(40)), &[1]);
        let many: Vec<Setting> = (0..=SETTINGS_MAX).map(setting).collect();
        let bytes = encode(&many);
        assert_eq!(decode(&bytes).unwrap(), many[..SETTINGS_MAX]);
        assert!(many[0].name.len() <= NAME_LEN_MAX);
        assert!(bytes.len() < wire::RECORD_LEN_MAX - 256);
        for end in 0..bytes.len() {
            assert_eq!(decode(&bytes[..end]), None, "{end}");
        }
        let mut twice = vec![VERSION];
        twice.extend(wire::encode(&vec![setting(1), setting(1)]));
        assert_eq!(decode(&twice), None);
    }
}
