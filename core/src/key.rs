//! Keys, signatures and the identities made of them.
//!
//! All signatures are Ed25519 (RFC 8032) over a domain prefix and the canonical bytes of the thing
//! signed, so that a signature made for one kind of thing is never valid for another. Keys are made
//! from 32 random bytes that the caller brings: nothing here draws randomness.

use ed25519_dalek::{Signer, SigningKey};
use serde::{Deserialize, Serialize};
use std::fmt;
use std::str::FromStr;
use zeroize::Zeroizing;

/// What kind of thing a signature is for. The text goes before the signed bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Domain {
    /// A grant, signed by the network authority.
    Grant,
    /// What a join token holds beside its grant, signed by the network authority.
    Token,
    /// A redemption of a join token, signed by the token's one-time key.
    Redemption,
    /// A sponsorship of a redemption, signed by a member.
    Sponsorship,
    /// A publisher certificate, signed by the network authority.
    Publisher,
    /// A revocation, signed by the network authority.
    Revocation,
    /// A site version, signed by a publisher.
    SiteVersion,
    /// What a publisher is about to send, signed by it.
    Intent,
    /// An operator's order, signed by a publisher certificate that may operate.
    Order,
    /// A grant of a home address, signed by the network authority.
    Address,
    /// Soft state, signed by the member that it is about or from.
    SoftState,
}

impl Domain {
    fn prefix(self) -> &'static [u8] {
        match self {
            Domain::Grant => b"godwit grant v1\0",
            Domain::Token => b"godwit token v1\0",
            Domain::Redemption => b"godwit redemption v1\0",
            Domain::Sponsorship => b"godwit sponsorship v1\0",
            Domain::Publisher => b"godwit publisher v1\0",
            Domain::Revocation => b"godwit revocation v1\0",
            Domain::SiteVersion => b"godwit site version v1\0",
            Domain::Intent => b"godwit intent v1\0",
            Domain::Order => b"godwit order v1\0",
            Domain::Address => b"godwit address v1\0",
            Domain::SoftState => b"godwit soft state v1\0",
        }
    }

    fn message(self, bytes: &[u8]) -> Vec<u8> {
        [self.prefix(), bytes].concat()
    }
}

/// A signature does not belong to these bytes and this key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the signature does not match")]
pub struct BadSignature;

/// A text is not a key in hexadecimal.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a key is 64 hexadecimal digits")]
pub struct BadKey;

/// An Ed25519 secret key. Its memory is cleared when it is dropped.
#[derive(Clone)]
pub struct SecretKey(SigningKey);

impl SecretKey {
    /// The key made from 32 random bytes.
    pub fn from_seed(seed: &[u8; 32]) -> SecretKey {
        SecretKey(SigningKey::from_bytes(seed))
    }

    /// The 32 bytes that [`SecretKey::from_seed`] takes.
    pub fn to_seed(&self) -> Zeroizing<[u8; 32]> {
        Zeroizing::new(self.0.to_bytes())
    }

    /// The public half.
    pub fn public(&self) -> PublicKey {
        PublicKey(self.0.verifying_key().to_bytes())
    }

    /// Signs `bytes` as a thing of kind `domain`.
    pub fn sign(&self, domain: Domain, bytes: &[u8]) -> Signature {
        Signature(self.0.sign(&domain.message(bytes)).to_bytes())
    }
}

impl fmt::Debug for SecretKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SecretKey(of {})", self.public())
    }
}

/// An Ed25519 public key, as its 32 bytes.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct PublicKey([u8; 32]);

impl PublicKey {
    /// The key with these bytes. Whether they are a point on the curve shows when it verifies.
    pub const fn from_bytes(bytes: [u8; 32]) -> PublicKey {
        PublicKey(bytes)
    }

    /// The 32 bytes.
    pub const fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }

    /// Checks that `signature` is this key's for `bytes` as a thing of kind `domain`.
    pub fn verify(&self, domain: Domain, bytes: &[u8], signature: &Signature) -> Result<(), BadSignature> {
        let key = ed25519_dalek::VerifyingKey::from_bytes(&self.0).map_err(|_| BadSignature)?;
        let signature = ed25519_dalek::Signature::from_bytes(&signature.0);
        key.verify_strict(&domain.message(bytes), &signature).map_err(|_| BadSignature)
    }

    /// The first eight hexadecimal digits: enough for a person to tell two keys apart.
    pub fn short(&self) -> String {
        hex::encode(&self.0[..4])
    }
}

impl fmt::Display for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex::encode(self.0))
    }
}

impl fmt::Debug for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}…", self.short())
    }
}

impl FromStr for PublicKey {
    type Err = BadKey;
    fn from_str(text: &str) -> Result<PublicKey, BadKey> {
        let mut bytes = [0; 32];
        hex::decode_to_slice(text, &mut bytes).map_err(|_| BadKey)?;
        Ok(PublicKey(bytes))
    }
}

/// An Ed25519 signature.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Signature([u8; 64]);

impl Signature {
    /// The signature with these bytes.
    pub const fn from_bytes(bytes: [u8; 64]) -> Signature {
        Signature(bytes)
    }

    /// The 64 bytes.
    pub const fn as_bytes(&self) -> &[u8; 64] {
        &self.0
    }
}

impl fmt::Debug for Signature {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Signature({}…)", hex::encode(&self.0[..4]))
    }
}

impl Serialize for Signature {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let (left, right) = self.0.split_at(32);
        (<[u8; 32]>::try_from(left).unwrap_or_default(), <[u8; 32]>::try_from(right).unwrap_or_default())
            .serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for Signature {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Signature, D::Error> {
        let (left, right) = <([u8; 32], [u8; 32])>::deserialize(deserializer)?;
        let mut bytes = [0; 64];
        bytes[..32].copy_from_slice(&left);
        bytes[32..].copy_from_slice(&right);
        Ok(Signature(bytes))
    }
}

/// A network, named by the public key of its authority.
pub type NetworkId = PublicKey;

/// A member, named by the public key that its peers prove in the transport.
pub type MemberId = PublicKey;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_signature_is_for_one_domain_one_key_and_one_text() {
        let key = SecretKey::from_seed(&[7; 32]);
        let signature = key.sign(Domain::Grant, b"text");
        assert_eq!(key.public().verify(Domain::Grant, b"text", &signature), Ok(()));
        assert_eq!(key.public().verify(Domain::Order, b"text", &signature), Err(BadSignature));
        assert_eq!(key.public().verify(Domain::Grant, b"texT", &signature), Err(BadSignature));
        let other = SecretKey::from_seed(&[8; 32]).public();
        assert_eq!(other.verify(Domain::Grant, b"text", &signature), Err(BadSignature));
        assert_eq!(
            PublicKey::from_bytes([0xff; 32]).verify(Domain::Grant, b"text", &signature),
            Err(BadSignature)
        );
    }

    #[test]
    fn keys_read_back_what_they_print() {
        let key = SecretKey::from_seed(&[1; 32]).public();
        assert_eq!(key.to_string().parse(), Ok(key));
        assert_eq!("zz".parse::<PublicKey>(), Err(BadKey));
    }
}
