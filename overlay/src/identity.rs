//! A member's key as libp2p's identity, and back.
//!
//! Both are the same Ed25519 key. libp2p names a peer by the protobuf form of its public key, whole
//! (an "identity multihash"), so the two names convert without a table.

use godwit_core::key::{MemberId, SecretKey};
use libp2p::PeerId;
use libp2p::identity::{self, Keypair, ed25519};

/// The key pair for TLS and Noise.
pub(crate) fn keypair(key: &SecretKey) -> Result<Keypair, identity::DecodingError> {
    let mut seed = *key.to_seed();
    let secret = ed25519::SecretKey::try_from_bytes(&mut seed)?; // clears `seed`
    Ok(Keypair::from(ed25519::Keypair::from(secret)))
}

/// libp2p's name of a member. `None` when the bytes are no point on the curve.
pub(crate) fn peer_id(member: &MemberId) -> Option<PeerId> {
    let key = ed25519::PublicKey::try_from_bytes(member.as_bytes()).ok()?;
    Some(identity::PublicKey::from(key).to_peer_id())
}

/// The member with this libp2p name. `None` when its key is not Ed25519.
pub(crate) fn member_id(peer: &PeerId) -> Option<MemberId> {
    // 0x00 identity hash, 0x24 length | 0x08 0x01 key type Ed25519, 0x12 0x20 length | 32 bytes
    const PREFIX: [u8; 6] = [0x00, 0x24, 0x08, 0x01, 0x12, 0x20];
    let bytes = peer.to_bytes();
    let key = bytes.strip_prefix(&PREFIX)?;
    Some(MemberId::from_bytes(key.try_into().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_convert_both_ways() {
        let key = SecretKey::from_seed(&[5; 32]);
        let peer = keypair(&key).unwrap().public().to_peer_id();
        assert_eq!(peer_id(&key.public()), Some(peer));
        assert_eq!(member_id(&peer), Some(key.public()));
        // About half of all byte strings are no point on the curve.
        assert!((0..64).any(|n| peer_id(&MemberId::from_bytes([n; 32])).is_none()));
    }
}
