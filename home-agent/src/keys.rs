//! The keys of each binding: which are in force, and which of two to seal with.
//!
//! A new key travels to the node over the members' stream, which takes longer than the next packet
//! through the tunnel. So packets are sealed with the key before until something came under the new one.

use godwit_core::binding::Anchor;
use godwit_core::tunnel::KeyId;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
struct Held {
    key: KeyId,
    /// Whether the node has shown that it has it.
    heard: bool,
}

/// The keys in force.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(crate) struct Keys {
    /// Of each binding, the oldest first: two as a rule at the most.
    by_anchor: BTreeMap<Anchor, Vec<Held>>,
    anchors: BTreeMap<KeyId, Anchor>,
}

impl Keys {
    /// A key was given to a node.
    pub(crate) fn installed(&mut self, anchor: Anchor, key: KeyId) {
        self.anchors.insert(key, anchor);
        self.by_anchor.entry(anchor).or_default().push(Held { key, heard: false });
    }

    /// A key is not accepted any more.
    pub(crate) fn retired(&mut self, key: KeyId) {
        let Some(anchor) = self.anchors.remove(&key) else { return };
        if let Some(keys) = self.by_anchor.get_mut(&anchor) {
            keys.retain(|held| held.key != key);
            if keys.is_empty() {
                self.by_anchor.remove(&anchor);
            }
        }
    }

    /// Something came under a key; whether another key is sealed with from now on.
    pub(crate) fn heard(&mut self, key: KeyId) -> bool {
        let Some(anchor) = self.anchors.get(&key).copied() else { return false };
        let before = self.to_seal_with(&anchor);
        for held in self.by_anchor.get_mut(&anchor).into_iter().flatten() {
            held.heard |= held.key == key;
        }
        self.to_seal_with(&anchor) != before
    }

    /// The newest key that the node is known to have, or else the newest.
    pub(crate) fn to_seal_with(&self, anchor: &Anchor) -> Option<KeyId> {
        let keys = self.by_anchor.get(anchor)?;
        let known = keys.iter().rev().find(|held| held.heard).or(keys.last());
        known.map(|held| held.key)
    }

    /// All keys of a binding.
    pub(crate) fn of(&self, anchor: &Anchor) -> impl Iterator<Item = KeyId> + '_ {
        self.by_anchor.get(anchor).into_iter().flatten().map(|held| held.key)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use godwit_core::binding::BindingId;
    use godwit_core::key::MemberId;

    #[test]
    fn a_new_key_is_used_when_the_node_is_known_to_have_it() {
        let anchor = Anchor { member: MemberId::from_bytes([1; 32]), id: BindingId(0) };
        let mut keys = Keys::default();
        keys.installed(anchor, KeyId(5));
        assert_eq!(keys.to_seal_with(&anchor), Some(KeyId(5)));
        assert!(!keys.heard(KeyId(5)));
        keys.installed(anchor, KeyId(6));
        assert_eq!(keys.to_seal_with(&anchor), Some(KeyId(5)));
        assert!(!keys.heard(KeyId(5)) && keys.heard(KeyId(6)) && !keys.heard(KeyId(6)));
        assert_eq!(keys.to_seal_with(&anchor), Some(KeyId(6)));
        assert_eq!(keys.of(&anchor).count(), 2);
        keys.retired(KeyId(5));
        keys.retired(KeyId(6));
        assert_eq!((keys.to_seal_with(&anchor), keys.of(&anchor).count()), (None, 0));
        assert!(!keys.heard(KeyId(6)));
    }
}
