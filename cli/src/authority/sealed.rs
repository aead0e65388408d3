//! Secret keys in files, sealed with a passphrase or plain.
//!
//! A plain key file holds the key's 32 bytes as 64 hexadecimal digits. A sealed one is text, too:
//!
//! ```text
//! godwit sealed key 1
//! argon2id memory_kib=65536 passes=3 lanes=1
//! salt 0b3c…                 16 bytes
//! nonce 77e0…                12 bytes
//! key 5f02…                  the 32 bytes and a 16 byte tag, ChaCha20-Poly1305
//! ```
//!
//! The first four lines are authenticated with the key, so that nobody can lower the cost of
//! guessing without being noticed, and costs beyond [`MEMORY_KIB_MAX`] are refused before memory is
//! taken. Either form is readable by its owner only.

use anyhow::{Context, bail};
use argon2::{Algorithm, Argon2, Params, Version};
use chacha20poly1305::aead::{Aead, Payload};
use chacha20poly1305::{ChaCha20Poly1305, KeyInit};
use godwit_core::key::SecretKey;
use std::fmt::Write;
use zeroize::Zeroizing;

/// First line of a sealed key; the number is the version of the form.
const HEADING: &str = "godwit sealed key 1";

/// More memory than this is never spent on a key file, whatever it asks for.
const MEMORY_KIB_MAX: u32 = 1024 * 1024;

/// What guessing one passphrase costs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Cost {
    memory_kib: u32,
    passes: u32,
    lanes: u32,
}

impl Cost {
    /// RFC 9106, 4: the second recommended setting (64 MiB, 3 passes), with one lane in place of
    /// four, since here one thread does the work. About 0.2 s.
    pub(crate) const DEFAULT: Cost = Cost { memory_kib: 64 * 1024, passes: 3, lanes: 1 };
}

/// The text of a file that holds `key` as it is.
pub(crate) fn plain(key: &SecretKey) -> Zeroizing<String> {
    Zeroizing::new(format!("{}\n", hex::encode(*key.to_seed())))
}

/// The text of a file that holds `key` sealed with `passphrase`. `salt` and `nonce` are fresh and
/// random.
pub(crate) fn seal(
    key: &SecretKey,
    passphrase: &str,
    cost: Cost,
    salt: &[u8; 16],
    nonce: &[u8; 12],
) -> anyhow::Result<String> {
    let Cost { memory_kib, passes, lanes } = cost;
    let mut text = format!("{HEADING}\nargon2id memory_kib={memory_kib} passes={passes} lanes={lanes}\n");
    writeln!(text, "salt {}\nnonce {}", hex::encode(salt), hex::encode(nonce))?;
    let seed = key.to_seed();
    let payload = Payload { msg: seed.as_slice(), aad: text.as_bytes() };
    let sealed = cipher(passphrase, cost, salt)?
        .encrypt(nonce.into(), payload)
        .map_err(|_| anyhow::anyhow!("the key could not be sealed"))?;
    writeln!(text, "key {}", hex::encode(sealed))?;
    Ok(text)
}

/// Whether the text of a key file needs a passphrase.
pub(crate) fn is_sealed(text: &str) -> bool {
    text.starts_with("godwit sealed key")
}

/// Reads a plain key file.
pub(crate) fn read_plain(text: &str) -> anyhow::Result<SecretKey> {
    let mut seed = Zeroizing::new([0; 32]);
    hex::decode_to_slice(text.trim(), &mut *seed).context("a key file holds 64 hexadecimal digits")?;
    Ok(SecretKey::from_seed(&seed))
}

/// Reads a sealed key file. A wrong passphrase and an edited file cannot be told apart.
pub(crate) fn open(text: &str, passphrase: &str) -> anyhow::Result<SecretKey> {
    let lines: Vec<&str> = text.lines().collect();
    let [heading, cost_line, salt_line, nonce_line, key_line] = lines[..] else {
        bail!("a sealed key file has five lines, this one has {}", lines.len());
    };
    if heading != HEADING {
        bail!("the key file was made by another version of godwit: {heading:?}");
    }
    let cost = parse_cost(cost_line).context("the second line of the key file is damaged")?;
    let salt: [u8; 16] = field(salt_line, "salt")?;
    let nonce: [u8; 12] = field(nonce_line, "nonce")?;
    let sealed: [u8; 48] = field(key_line, "key")?;
    let authenticated = format!("{heading}\n{cost_line}\n{salt_line}\n{nonce_line}\n");
    let payload = Payload { msg: &sealed, aad: authenticated.as_bytes() };
    let seed = cipher(passphrase, cost, &salt)?
        .decrypt(&nonce.into(), payload)
        .map_err(|_| anyhow::anyhow!("the passphrase is wrong, or the key file was edited"))?;
    let seed = Zeroizing::new(seed);
    let seed: &[u8; 32] = seed.as_slice().try_into().context("a key has 32 bytes")?;
    Ok(SecretKey::from_seed(seed))
}

fn cipher(passphrase: &str, cost: Cost, salt: &[u8; 16]) -> anyhow::Result<ChaCha20Poly1305> {
    let params = Params::new(cost.memory_kib, cost.passes, cost.lanes, Some(32))
        .map_err(|error| anyhow::anyhow!("the cost of the key file cannot be: {error}"))?;
    let mut key = Zeroizing::new([0; 32]);
    Argon2::new(Algorithm::Argon2id, Version::V0x13, params)
        .hash_password_into(passphrase.as_bytes(), salt, &mut *key)
        .map_err(|error| anyhow::anyhow!("argon2: {error}"))?;
    Ok(ChaCha20Poly1305::new((&*key).into()))
}

fn parse_cost(line: &str) -> anyhow::Result<Cost> {
    let mut words = line.split(' ');
    if words.next() != Some("argon2id") {
        bail!("it does not name argon2id");
    }
    let mut number = |name: &str| -> anyhow::Result<u32> {
        let word = words.next().and_then(|word| word.strip_prefix(name));
        let digits = word.and_then(|word| word.strip_prefix('=')).with_context(|| format!("no {name}"))?;
        Ok(digits.parse()?)
    };
    let cost = Cost { memory_kib: number("memory_kib")?, passes: number("passes")?, lanes: number("lanes")? };
    if cost.memory_kib > MEMORY_KIB_MAX || cost.passes > 64 || cost.lanes > 16 {
        bail!("it asks for more work than any godwit asks for");
    }
    Ok(cost)
}

fn field<const LEN: usize>(line: &str, name: &str) -> anyhow::Result<[u8; LEN]> {
    let digits = line.strip_prefix(name).and_then(|rest| rest.strip_prefix(' '));
    let digits = digits.with_context(|| format!("the {name} line of the key file is missing"))?;
    let mut bytes = [0; LEN];
    hex::decode_to_slice(digits, &mut bytes)
        .with_context(|| format!("the {name} line of the key file is damaged"))?;
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    const CHEAP: Cost = Cost { memory_kib: 64, passes: 1, lanes: 1 };

    fn sealed() -> (SecretKey, String) {
        let key = SecretKey::from_seed(&[7; 32]);
        let text = seal(&key, "correct horse", CHEAP, &[1; 16], &[2; 12]).unwrap();
        (key, text)
    }

    #[test]
    fn a_sealed_key_opens_with_its_passphrase_only() {
        let (key, text) = sealed();
        assert!(is_sealed(&text) && !text.contains(&hex::encode([7; 32])));
        assert_eq!(open(&text, "correct horse").unwrap().public(), key.public());
        assert!(open(&text, "correct hors").unwrap_err().to_string().contains("passphrase is wrong"));
    }

    #[test]
    fn an_edited_file_does_not_open() {
        let (_, text) = sealed();
        for (from, to) in
            [("passes=1", "passes=2"), ("salt 01", "salt 02"), ("nonce 02", "nonce 03"), ("key 1", "key 2")]
        {
            let edited = text.replacen(from, to, 1);
            if edited != text {
                assert!(open(&edited, "correct horse").is_err(), "{from}");
            }
        }
        assert!(open(&text.replace("memory_kib=64", "memory_kib=4294967295"), "x").is_err());
        assert!(open(&text.replace("key 1", "key 9"), "x").is_err());
        assert!(open("godwit sealed key 2\n", "x").is_err());
        assert!(open("", "x").is_err());
    }

    #[test]
    fn a_plain_key_reads_back() {
        let key = SecretKey::from_seed(&[9; 32]);
        assert_eq!(read_plain(&plain(&key)).unwrap().public(), key.public());
        assert!(!is_sealed(&plain(&key)));
        assert!(read_plain("0123").is_err());
    }
}
