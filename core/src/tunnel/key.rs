//! What a tunnel is sealed with.
//!
//! Keys are derived from a secret that the home agent draws when it starts and never tells, and
//! from a number that it never uses twice; they travel in acknowledgements, over a stream that both
//! sides' identities protect.

use crate::binding::Anchor;
use serde::{Deserialize, Serialize};
use std::fmt;

/// What the home agent draws when it starts.
pub type Secret = [u8; 32];

/// Names a key in each tunnel packet. A home agent uses each once in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct KeyId(pub u32);

/// The keys of one binding, one for each direction, so that no nonce is ever used twice under one.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TunnelKey {
    /// How packets name it.
    pub id: KeyId,
    /// Seals what the home agent sends.
    pub to_node: [u8; 32],
    /// Seals what the node sends.
    pub from_node: [u8; 32],
}

impl TunnelKey {
    /// The key with this number for `anchor`.
    pub fn derive(secret: &Secret, anchor: &Anchor, number: u32) -> TunnelKey {
        let part =
            |direction: u8| *hash(secret, "key", anchor, number).update(&[direction]).finalize().as_bytes();
        TunnelKey { id: KeyId(number), to_node: part(0), from_node: part(1) }
    }
}

impl fmt::Debug for TunnelKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "TunnelKey({})", self.id.0)
    }
}

/// What follows from the secret for this purpose and number, and nobody else can know.
pub(super) fn hash(secret: &Secret, purpose: &str, anchor: &Anchor, number: u32) -> blake3::Hasher {
    let mut hasher = blake3::Hasher::new_keyed(secret);
    hasher.update(b"godwit tunnel v1\0").update(purpose.as_bytes()).update(&[0]);
    hasher.update(anchor.member.as_bytes()).update(&[anchor.id.0]).update(&number.to_le_bytes());
    hasher
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::binding::BindingId;
    use crate::key::MemberId;
    use crate::tunnel::Cookie;
    use std::collections::BTreeSet;

    #[test]
    fn no_two_keys_or_cookies_are_alike() {
        let mut seen = BTreeSet::new();
        for (member, id, number) in [(1, 0, 1), (1, 0, 2), (1, 1, 1), (2, 0, 1)] {
            let anchor = Anchor { member: MemberId::from_bytes([member; 32]), id: BindingId(id) };
            let key = TunnelKey::derive(&[5; 32], &anchor, number);
            assert!(seen.insert(key.to_node[..16].to_vec()));
            assert!(seen.insert(key.from_node[..16].to_vec()));
            assert!(seen.insert(Cookie::derive(&[5; 32], &anchor, number).0.to_vec()));
            assert!(seen.insert(Cookie::derive(&[6; 32], &anchor, number).0.to_vec()));
        }
    }

    #[test]
    fn keys_are_not_printed() {
        let anchor = Anchor { member: MemberId::from_bytes([1; 32]), id: BindingId(0) };
        assert_eq!(format!("{:?}", TunnelKey::derive(&[5; 32], &anchor, 3)), "TunnelKey(3)");
    }
}
