//! Keys: what signs, and what the world sees of it.
//!
//! Signatures are made by aws-lc, which the transports link anyway: 53,000 with P-256 and 97,000 with
//! Ed25519 a second and processor where `ring` makes 46,000 and 33,000, and the crate `p256` 6,000. Private keys travel as
//! PKCS#8 in PEM, which `openssl` reads and writes as well.

use aws_lc_rs::digest;
use aws_lc_rs::encoding::{AsBigEndian, Curve25519SeedBin, EcPrivateKeyBin};
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, Ed25519KeyPair, KeyPair};
use data_encoding::BASE64;
use std::fmt;
use std::str::FromStr;
use zeroize::Zeroizing;

/// Octets of a signature: of both algorithms.
pub(crate) const SIGNATURE_LEN: usize = 64;
/// A PEM file is never longer, octets; a real one has 250.
pub(crate) const PEM_LEN_MAX: usize = 8 * 1024;

const PEM_HEAD: &str = "-----BEGIN PRIVATE KEY-----";
const PEM_TAIL: &str = "-----END PRIVATE KEY-----";

/// With what is signed (RFC 8624, 3.1: the two that are recommended).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Algorithm {
    /// ECDSA on P-256 with SHA-256, number 13 (RFC 6605): what every validator knows.
    #[default]
    EcdsaP256,
    /// Ed25519, number 15 (RFC 8080): signs twice as fast here, and old validators take it as unsigned.
    Ed25519,
}

impl Algorithm {
    /// The number in DNSKEY, DS and RRSIG records.
    pub fn number(self) -> u8 {
        match self {
            Algorithm::EcdsaP256 => 13,
            Algorithm::Ed25519 => 15,
        }
    }

    /// The name in files and on the command line.
    pub fn as_str(self) -> &'static str {
        match self {
            Algorithm::EcdsaP256 => "ecdsa-p256",
            Algorithm::Ed25519 => "ed25519",
        }
    }
}

impl fmt::Display for Algorithm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for Algorithm {
    type Err = KeyError;
    fn from_str(text: &str) -> Result<Algorithm, KeyError> {
        [Algorithm::EcdsaP256, Algorithm::Ed25519]
            .into_iter()
            .find(|algorithm| algorithm.as_str() == text)
            .ok_or_else(|| KeyError::UnknownAlgorithm(text.to_owned()))
    }
}

/// Why there is no key. Trying again does not help, but for [`KeyError::Library`].
#[derive(Debug, thiserror::Error)]
pub enum KeyError {
    /// Neither `ecdsa-p256` nor `ed25519`.
    #[error("{0:?} is no algorithm: write ecdsa-p256 or ed25519")]
    UnknownAlgorithm(String),
    /// Not a private key in PEM.
    #[error("it is not a PEM file with a private key (PKCS#8, not encrypted)")]
    Pem,
    /// PKCS#8, but of another algorithm, or damaged.
    #[error("its private key is not one of algorithm {0}")]
    Rejected(Algorithm),
    /// The cryptographic library failed: out of memory or of randomness.
    #[error("the cryptographic library failed")]
    Library,
}

/// A private key that signs.
pub struct SigningKey {
    algorithm: Algorithm,
    pair: Pair,
    /// As in a DNSKEY record: the point without its leading 4 (RFC 6605, 4), or the 32 octets of
    /// Ed25519 (RFC 8080, 3).
    public: Vec<u8>,
}

enum Pair {
    EcdsaP256(EcdsaKeyPair),
    Ed25519(Ed25519KeyPair),
}

impl SigningKey {
    /// A new key, from the system's randomness.
    pub fn generate(algorithm: Algorithm) -> Result<SigningKey, KeyError> {
        let library = |_| KeyError::Library;
        let pair = match algorithm {
            Algorithm::EcdsaP256 => {
                Pair::EcdsaP256(EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING).map_err(library)?)
            }
            Algorithm::Ed25519 => Pair::Ed25519(Ed25519KeyPair::generate().map_err(library)?),
        };
        Ok(SigningKey::new(algorithm, pair))
    }

    /// Reads PKCS#8 in PEM.
    pub fn from_pem(algorithm: Algorithm, text: &str) -> Result<SigningKey, KeyError> {
        let body = text.trim().strip_prefix(PEM_HEAD).and_then(|rest| rest.strip_suffix(PEM_TAIL));
        let body = body.ok_or(KeyError::Pem)?;
        let base64: Zeroizing<String> = Zeroizing::new(body.split_ascii_whitespace().collect());
        let der = Zeroizing::new(BASE64.decode(base64.as_bytes()).map_err(|_| KeyError::Pem)?);
        let rejected = |_| KeyError::Rejected(algorithm);
        let pair = match algorithm {
            Algorithm::EcdsaP256 => Pair::EcdsaP256(
                EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, &der).map_err(rejected)?,
            ),
            // OpenSSL writes Ed25519 keys without the public half: it follows from the private one.
            Algorithm::Ed25519 => {
                Pair::Ed25519(Ed25519KeyPair::from_pkcs8_maybe_unchecked(&der).map_err(rejected)?)
            }
        };
        Ok(SigningKey::new(algorithm, pair))
    }

    fn new(algorithm: Algorithm, pair: Pair) -> SigningKey {
        let public = match &pair {
            Pair::EcdsaP256(pair) => pair.public_key().as_ref().get(1..).unwrap_or_default().to_vec(),
            Pair::Ed25519(pair) => pair.public_key().as_ref().to_vec(),
        };
        SigningKey { algorithm, pair, public }
    }

    /// PKCS#8 in PEM, as `openssl pkey` reads it. A secret.
    pub fn to_pem(&self) -> Result<Zeroizing<String>, KeyError> {
        let library = |_| KeyError::Library;
        let der = match &self.pair {
            Pair::EcdsaP256(pair) => pair.to_pkcs8v1().map_err(library)?,
            Pair::Ed25519(pair) => pair.to_pkcs8v1().map_err(library)?,
        };
        let base64 = Zeroizing::new(BASE64.encode(der.as_ref()));
        let mut text = Zeroizing::new(format!("{PEM_HEAD}\n"));
        // RFC 7468, 2: lines of 64 characters. What is encoded is ASCII.
        for line in base64.as_bytes().chunks(64) {
            text.push_str(&String::from_utf8_lossy(line));
            text.push('\n');
        }
        text.push_str(PEM_TAIL);
        text.push('\n');
        Ok(text)
    }

    /// The private half as BIND, ldns and PowerDNS write it in files of their own. A secret.
    pub fn to_private_key_text(&self) -> Result<Zeroizing<String>, KeyError> {
        let library = |_| KeyError::Library;
        let (name, scalar) = match &self.pair {
            Pair::EcdsaP256(pair) => {
                let scalar: EcPrivateKeyBin<'_> = pair.private_key().as_be_bytes().map_err(library)?;
                ("ECDSAP256SHA256", Zeroizing::new(scalar.as_ref().to_vec()))
            }
            Pair::Ed25519(pair) => {
                let seed = pair.seed().map_err(library)?;
                let seed: Curve25519SeedBin<'_> = seed.as_be_bytes().map_err(library)?;
                ("ED25519", Zeroizing::new(seed.as_ref().to_vec()))
            }
        };
        let base64 = Zeroizing::new(BASE64.encode(&scalar));
        let number = self.algorithm.number();
        Ok(Zeroizing::new(format!(
            "Private-key-format: v1.2\nAlgorithm: {number} ({name})\nPrivateKey: {}\n",
            *base64
        )))
    }

    /// With what it signs.
    pub fn algorithm(&self) -> Algorithm {
        self.algorithm
    }

    /// Signs.
    pub(crate) fn sign(&self, message: &[u8]) -> Result<[u8; SIGNATURE_LEN], KeyError> {
        let made = match &self.pair {
            Pair::EcdsaP256(pair) => pair.sign(&SystemRandom::new(), message),
            Pair::Ed25519(pair) => pair.try_sign(message),
        };
        made.map_err(|_| KeyError::Library)?.as_ref().try_into().map_err(|_| KeyError::Library)
    }

    /// The public half with the flags of a DNSKEY record.
    pub fn public(&self, flags: u16) -> PublicKey {
        PublicKey { flags, algorithm: self.algorithm, key: self.public.clone() }
    }
}

impl fmt::Debug for SigningKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SigningKey({}, {:?})", self.algorithm, self.public)
    }
}

/// A key as a DNSKEY record shows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PublicKey {
    /// 257 for a key that a DS record points at, 256 for one that only signs the zone (RFC 4034,
    /// 2.1.1).
    pub flags: u16,
    /// With what it signs.
    pub algorithm: Algorithm,
    /// The key itself, in the form of its algorithm.
    pub key: Vec<u8>,
}

impl PublicKey {
    /// RDATA of its DNSKEY and CDNSKEY records (RFC 4034, 2.1).
    ///
    /// ```text
    ///  0        2          3           4
    ///  +--------+----------+-----------+-------------
    ///  | flags  | 3        | algorithm | public key …
    ///  +--------+----------+-----------+-------------
    /// ```
    pub fn dnskey(&self) -> Vec<u8> {
        let mut data = self.flags.to_be_bytes().to_vec();
        data.extend([3, self.algorithm.number()]);
        data.extend(&self.key);
        data
    }

    /// The key's tag (RFC 4034, appendix B): a hint, not a name; two keys may share one.
    pub fn tag(&self) -> u16 {
        let sum = self.dnskey().chunks(2).fold(0u32, |sum, pair| {
            sum + (u32::from(pair[0]) << 8) + u32::from(pair.get(1).copied().unwrap_or(0))
        });
        (sum + (sum >> 16)) as u16
    }

    /// RDATA of its DS and CDS records with a SHA-256 digest (RFC 4034, 5.1; RFC 4509), for a zone in
    /// canonical wire form.
    pub fn ds(&self, zone: &[u8]) -> Vec<u8> {
        let mut hash = digest::Context::new(&digest::SHA256);
        hash.update(zone);
        hash.update(&self.dnskey());
        let mut data = self.tag().to_be_bytes().to_vec();
        data.extend([self.algorithm.number(), 2]);
        data.extend(hash.finish().as_ref());
        data
    }

    /// The DS record's data as registrars want it: tag, algorithm, digest type, digest.
    pub fn ds_text(&self, zone: &[u8]) -> String {
        let data = self.ds(zone);
        let digest: String =
            data.get(4..).unwrap_or_default().iter().map(|octet| format!("{octet:02X}")).collect();
        format!("{} {} 2 {digest}", self.tag(), self.algorithm.number())
    }

    /// The DNSKEY record's data as registrars want it: flags, protocol, algorithm, key.
    pub fn dnskey_text(&self) -> String {
        format!("{} 3 {} {}", self.flags, self.algorithm.number(), BASE64.encode(&self.key))
    }

    /// What tells this key from all others, in a cache of signatures.
    pub(crate) fn fingerprint(&self) -> [u8; 8] {
        let mut short = [0; 8];
        let hash = digest::digest(&digest::SHA256, &self.dnskey());
        short.copy_from_slice(&hash.as_ref()[..8]);
        short
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use data_encoding::HEXUPPER;

    fn public(flags: u16, algorithm: Algorithm, key: &str) -> PublicKey {
        PublicKey { flags, algorithm, key: BASE64.decode(key.as_bytes()).unwrap() }
    }

    #[test]
    fn rfc6605_6_1_tag_and_ds() {
        // The RFC's own example is of SHA-256 over example.net.
        let key = public(
            257,
            Algorithm::EcdsaP256,
            "GojIhhXUN/u4v54ZQqGSnyhWJwaubCvTmeexv7bR6edbkrSqQpF64cYbcB7wNcP+e+MAnLr+Wi9xMWyQLc8NAA==",
        );
        assert_eq!(key.tag(), 55648);
        assert_eq!(
            key.ds_text(b"\x07example\x03net\0"),
            "55648 13 2 B4C8C1FE2E7477127B27115656AD6256F424625BF5C1E2770CE6D6E37DF61D17"
        );
    }

    #[test]
    fn rfc8080_6_tag_and_ds() {
        let key = public(257, Algorithm::Ed25519, "l02Woi0iS8Aa25FQkUd9RMzZHJpBoRQwAQEX1SxZJA4=");
        assert_eq!(key.tag(), 3613);
        assert_eq!(
            key.ds_text(b"\x07example\x03com\0"),
            "3613 15 2 3AA5AB37EFCE57F737FC1627013FEE07BDF241BD10F3B1964AB55C78E79A304B"
        );
        assert_eq!(HEXUPPER.encode(&key.dnskey()[..4]), "0101030F");
    }

    #[test]
    fn a_key_survives_its_file() {
        for algorithm in [Algorithm::EcdsaP256, Algorithm::Ed25519] {
            let key = SigningKey::generate(algorithm).unwrap();
            let read = SigningKey::from_pem(algorithm, &key.to_pem().unwrap()).unwrap();
            assert_eq!(read.public(257), key.public(257));
            assert_ne!(SigningKey::generate(algorithm).unwrap().public(257), key.public(257));
            assert_eq!(algorithm.to_string().parse::<Algorithm>().unwrap(), algorithm);
            let other =
                if algorithm == Algorithm::Ed25519 { Algorithm::EcdsaP256 } else { Algorithm::Ed25519 };
            assert!(matches!(
                SigningKey::from_pem(other, &key.to_pem().unwrap()),
                Err(KeyError::Rejected(_))
            ));
        }
        for text in ["", "x", "-----BEGIN PRIVATE KEY-----\n!\n-----END PRIVATE KEY-----"] {
            assert!(matches!(SigningKey::from_pem(Algorithm::EcdsaP256, text), Err(KeyError::Pem)));
        }
    }
}
