//! Signed messages between servers: TSIG (RFC 8945) with HMAC-SHA256.
//!
//! It works on octets: whatever part of the redirector made a reply, it is signed as it stands, and
//! a signed query is handed on as the same query without its signature. (hickory's signer wants
//! messages of its own make on both sides.)
//!
//! ```text
//!   request MAC ──┐                                   ┌── previous MAC
//!                 ▼                                   ▼
//!   first reply:  len MAC │ message │ variables       later ones: len MAC │ message │ timers
//!                                     name class TTL algorithm time fudge error other
//!                                                                 time fudge
//! ```
//!
//! A MAC that is cut short is not taken, although RFC 8945, 5.2.2.1 would let us: nobody needs it.

use crate::edns::skip_name;
use aws_lc_rs::hmac;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use std::collections::BTreeMap;
use std::sync::Arc;

const HEADER_LEN: usize = 12;
/// RFC 8945, 4.2.
const TYPE_TSIG: u16 = 250;
const CLASS_ANY: u16 = 255;
/// RFC 8945, 10: seconds that clocks may differ.
const FUDGE: u16 = 300;
/// Of HMAC-SHA256, octets.
const MAC_LEN: usize = 32;
/// `hmac-sha256.` as a name on the wire.
const ALGORITHM: &[u8] = b"\x0bhmac-sha256\x00";
/// RFC 8945, 3: the codes of TSIG, and the response code that goes with them.
const NOT_AUTH: u8 = 9;
const FORM_ERR: u8 = 1;
const BAD_SIG: u16 = 16;
const BAD_KEY: u16 = 17;
const BAD_TIME: u16 = 18;
const BAD_TRUNC: u16 = 22;
/// A name on the wire has at most 255 octets (RFC 1035, 2.3.4).
const NAME_LEN_MAX: usize = 255;
/// RFC 8945, 8: a secret is at least as long as the hash's output is worth; half is the least taken.
const SECRET_LEN_MIN: usize = 16;

/// A key shared with another server.
pub(crate) struct Key {
    /// On the wire, in lower case.
    name: Vec<u8>,
    secret: hmac::Key,
}

/// What is wrong with a key file.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("not a key as `tsig-keygen` writes it: {0}")]
pub struct KeyError(&'static str);

impl Key {
    /// Reads `key "NAME" { algorithm hmac-sha256; secret "BASE64"; };`, the form of BIND's tools.
    pub(crate) fn parse(text: &str) -> Result<Key, KeyError> {
        let words = words(text);
        let words: Vec<&str> = words.iter().map(String::as_str).collect();
        let ["key", name, "{", statements @ .., "}", ";"] = words.as_slice() else {
            return Err(KeyError("expected key \"NAME\" { … };"));
        };
        let (mut algorithm, mut secret) = (None, None);
        for statement in statements.chunks(3) {
            match statement {
                ["algorithm", value, ";"] => algorithm = Some(value.to_ascii_lowercase()),
                ["secret", value, ";"] => secret = Some(*value),
                _ => return Err(KeyError("expected algorithm and secret, each ended by a semicolon")),
            }
        }
        if algorithm.as_deref().map(|name| name.trim_end_matches('.')) != Some("hmac-sha256") {
            return Err(KeyError("the algorithm must be hmac-sha256"));
        }
        let secret = secret.ok_or(KeyError("no secret"))?;
        let secret = STANDARD.decode(secret).map_err(|_| KeyError("the secret is not base64"))?;
        Key::new(name, &secret)
    }

    fn new(name: &str, secret: &[u8]) -> Result<Key, KeyError> {
        if secret.len() < SECRET_LEN_MIN {
            return Err(KeyError("the secret is shorter than 16 octets"));
        }
        let name = to_wire(name).ok_or(KeyError("the key's name is no domain name"))?;
        Ok(Key { name, secret: hmac::Key::new(hmac::HMAC_SHA256, secret) })
    }

    /// Signs a request; what is given verifies the reply.
    pub(crate) fn sign_request(self: &Arc<Key>, now: u64, message: &mut Vec<u8>) -> Signer {
        let mut signer = Signer { key: self.clone(), prior: Vec::new(), first: true };
        signer.sign(now, message);
        signer.first = true;
        signer
    }
}

/// The words of a key file: strings without their quotes, and punctuation; without comments.
fn words(text: &str) -> Vec<String> {
    let mut words = Vec::new();
    for line in text.lines() {
        let line = line.split('#').next().unwrap_or_default();
        // `//` starts a comment where it starts a word; base64 may hold it inside of one.
        let spaced = line.replace('{', " { ").replace('}', " } ").replace(';', " ; ");
        for word in spaced.split_whitespace() {
            if word.starts_with("//") {
                break;
            }
            words.push(word.trim_matches('"').to_owned());
        }
    }
    words
}

/// A name on the wire, in lower case.
fn to_wire(name: &str) -> Option<Vec<u8>> {
    let mut wire = Vec::new();
    for label in name.trim_end_matches('.').split('.') {
        let len = u8::try_from(label.len()).ok().filter(|len| (1..=63).contains(len))?;
        wire.push(len);
        wire.extend(label.to_ascii_lowercase().bytes());
    }
    wire.push(0);
    (wire.len() <= NAME_LEN_MAX).then_some(wire)
}

/// The keys there are.
#[derive(Default)]
pub(crate) struct Keyring {
    keys: BTreeMap<Vec<u8>, Arc<Key>>,
}

/// What a packet turned out to be.
pub(crate) enum Opened {
    /// Not signed.
    Plain,
    /// Signed by who holds the key: the query without its signature, and how to sign the reply.
    Signed { query: Vec<u8>, signer: Signer },
    /// Signed, but not as it should be: the reply that says so.
    Rejected(Vec<u8>),
}

impl Keyring {
    pub(crate) fn new(keys: Vec<Key>) -> Keyring {
        Keyring { keys: keys.into_iter().map(|key| (key.name.clone(), Arc::new(key))).collect() }
    }

    /// The key called `name`.
    pub(crate) fn named(&self, name: &str) -> Option<&Arc<Key>> {
        self.keys.get(&to_wire(name)?)
    }

    /// Verifies a query (RFC 8945, 5.2) at `now`, seconds since 1970.
    pub(crate) fn open(&self, now: u64, packet: &[u8]) -> Opened {
        let signature = match Signature::find(packet) {
            Found::None => return Opened::Plain,
            Found::Malformed => return Opened::Rejected(header_only(packet, FORM_ERR)),
            Found::One(signature) => signature,
        };
        let bad = |error| {
            // RFC 8945, 5.3.2: nothing is signed with a key that is not known to be shared.
            let mut reply = header_only(packet, NOT_AUTH);
            let name = &signature.name;
            append(&mut reply, Tsig { name, time: signature.time, mac: &[], error, other: &[] });
            Opened::Rejected(reply)
        };
        let Some(key) = self.keys.get(&signature.name).filter(|_| signature.algorithm == ALGORITHM) else {
            return bad(BAD_KEY);
        };
        match signature.mac.len() {
            MAC_LEN => {}
            // RFC 8945, 5.2.2.1.
            16..MAC_LEN => return bad(BAD_TRUNC),
            _ => return Opened::Rejected(header_only(packet, FORM_ERR)),
        }
        let query = signature.unsigned(packet);
        let variables = signature.variables();
        if !verify(key, &[&query, &variables], &signature.mac) {
            return bad(BAD_SIG);
        }
        let mut signer = Signer { key: key.clone(), prior: signature.mac.clone(), first: true };
        if now.abs_diff(signature.time) > u64::from(signature.fudge) {
            // RFC 8945, 5.2.3: told with our time, and signed, as the key is the right one.
            let mut reply = header_only(packet, NOT_AUTH);
            let other = &now.to_be_bytes()[2..];
            signer.sign_as(signature.time, BAD_TIME, other, &mut reply);
            return Opened::Rejected(reply);
        }
        Opened::Signed { query, signer }
    }
}

/// Signs the messages of one exchange, each in the light of the one before.
pub(crate) struct Signer {
    key: Arc<Key>,
    prior: Vec<u8>,
    first: bool,
}

impl Signer {
    /// The key of the exchange.
    pub(crate) fn key(&self) -> &Key {
        &self.key
    }

    /// Signs the next message.
    pub(crate) fn sign(&mut self, now: u64, message: &mut Vec<u8>) {
        self.sign_as(now, 0, &[], message);
    }

    fn sign_as(&mut self, time: u64, error: u16, other: &[u8], message: &mut Vec<u8>) {
        let mut context = hmac::Context::with_key(&self.key.secret);
        if !self.prior.is_empty() {
            context.update(&(self.prior.len() as u16).to_be_bytes());
            context.update(&self.prior);
        }
        context.update(message);
        let signed = Signature {
            name: self.key.name.clone(),
            algorithm: ALGORITHM.to_vec(),
            time,
            fudge: FUDGE,
            mac: Vec::new(),
            original: 0,
            error,
            other: other.to_vec(),
            at: 0,
        };
        // RFC 8945, 5.3.1: messages after the first digest the timers alone.
        context.update(&if self.first { signed.variables() } else { signed.timers() });
        let mac = context.sign();
        append(message, Tsig { name: &self.key.name, time, mac: mac.as_ref(), error, other });
        self.prior = mac.as_ref().to_vec();
        self.first = false;
    }

    /// Whether `reply` is signed by the same key in answer to what was signed before.
    pub(crate) fn verifies(&self, now: u64, reply: &[u8]) -> bool {
        let Found::One(signature) = Signature::find(reply) else { return false };
        let len = (self.prior.len() as u16).to_be_bytes();
        let (message, variables) = (signature.unsigned(reply), signature.variables());
        signature.name == self.key.name
            && signature.algorithm == ALGORITHM
            && signature.mac.len() == MAC_LEN
            && now.abs_diff(signature.time) <= u64::from(signature.fudge)
            && verify(&self.key, &[&len, &self.prior, &message, &variables], &signature.mac)
    }
}

fn verify(key: &Key, parts: &[&[u8]], mac: &[u8]) -> bool {
    hmac::verify(&key.secret, &parts.concat(), mac).is_ok()
}

/// A TSIG record as it came.
struct Signature {
    name: Vec<u8>,
    algorithm: Vec<u8>,
    time: u64,
    fudge: u16,
    mac: Vec<u8>,
    original: u16,
    error: u16,
    other: Vec<u8>,
    /// Where the record starts in the message.
    at: usize,
}

enum Found {
    None,
    Malformed,
    One(Signature),
}

impl Signature {
    /// RFC 8945, 5.1: one TSIG at most, and the last record.
    fn find(message: &[u8]) -> Found {
        // Most queries have one additional record, OPT, or none: two octets decide.
        if message.len() < HEADER_LEN || message[10..12] == [0, 0] {
            return Found::None;
        }
        match Signature::walk(message) {
            // Not for us to say what is wrong with it.
            None => Found::None,
            Some(None) => Found::None,
            Some(Some((at, true))) => Signature::read(message, at).map_or(Found::Malformed, Found::One),
            Some(Some((_, false))) => Found::Malformed,
        }
    }

    /// Where the first TSIG record is, and whether it stands last.
    fn walk(message: &[u8]) -> Option<Option<(usize, bool)>> {
        let count = |at: usize| Some(u16::from_be_bytes([*message.get(at)?, *message.get(at + 1)?]));
        let mut at = HEADER_LEN;
        for _ in 0..count(4)? {
            at = skip_name(message, at)? + 4;
        }
        let before = u32::from(count(6)?) + u32::from(count(8)?);
        let all = before + u32::from(count(10)?);
        for number in 0..all {
            let start = at;
            at = skip_name(message, at)?;
            let kind = count(at)?;
            at += 10 + usize::from(count(at + 8)?);
            if at > message.len() {
                return None;
            }
            if kind == TYPE_TSIG {
                return Some(Some((start, number >= before && number + 1 == all && at == message.len())));
            }
        }
        Some(None)
    }

    fn read(message: &[u8], at: usize) -> Option<Signature> {
        let (name, mut rest) = name(message, at)?;
        let mut take = |len: usize| {
            let bytes = message.get(rest..rest + len)?;
            rest += len;
            Some(bytes)
        };
        let number = |bytes: &[u8]| bytes.iter().fold(0u64, |number, octet| number << 8 | u64::from(*octet));
        take(2)?;
        // RFC 8945, 4.2: class ANY, TTL 0.
        (number(take(2)?) == u64::from(CLASS_ANY)).then_some(())?;
        (number(take(4)?) == 0).then_some(())?;
        take(2)?;
        let (algorithm, next) = name_uncompressed(message, rest)?;
        rest = next;
        let mut take = |len: usize| {
            let bytes = message.get(rest..rest + len)?;
            rest += len;
            Some(bytes)
        };
        let time = number(take(6)?);
        let fudge = number(take(2)?) as u16;
        let mac_len = number(take(2)?) as usize;
        let mac = take(mac_len)?.to_vec();
        let original = number(take(2)?) as u16;
        let error = number(take(2)?) as u16;
        let other_len = number(take(2)?) as usize;
        let other = take(other_len)?.to_vec();
        (rest == message.len()).then_some(())?;
        Some(Signature { name, algorithm, time, fudge, mac, original, error, other, at })
    }

    /// The message as it was before it was signed.
    fn unsigned(&self, message: &[u8]) -> Vec<u8> {
        let mut message = message[..self.at].to_vec();
        message[..2].copy_from_slice(&self.original.to_be_bytes());
        let count = u16::from_be_bytes([message[10], message[11]]).saturating_sub(1);
        message[10..12].copy_from_slice(&count.to_be_bytes());
        message
    }

    /// RFC 8945, 4.3.3.
    fn variables(&self) -> Vec<u8> {
        let mut variables = self.name.clone();
        variables.extend(CLASS_ANY.to_be_bytes());
        variables.extend([0; 4]);
        variables.extend(&self.algorithm);
        variables.extend(self.timers());
        variables.extend(self.error.to_be_bytes());
        variables.extend((self.other.len() as u16).to_be_bytes());
        variables.extend(&self.other);
        variables
    }

    fn timers(&self) -> Vec<u8> {
        let mut timers = self.time.to_be_bytes()[2..].to_vec();
        timers.extend(self.fudge.to_be_bytes());
        timers
    }
}

/// A TSIG record to write.
struct Tsig<'a> {
    name: &'a [u8],
    time: u64,
    mac: &'a [u8],
    error: u16,
    other: &'a [u8],
}

fn append(message: &mut Vec<u8>, tsig: Tsig<'_>) {
    let original = [message[0], message[1]];
    message.extend(tsig.name);
    message.extend(TYPE_TSIG.to_be_bytes());
    message.extend(CLASS_ANY.to_be_bytes());
    message.extend([0; 4]);
    let len = ALGORITHM.len() + 16 + tsig.mac.len() + tsig.other.len();
    message.extend((len as u16).to_be_bytes());
    message.extend(ALGORITHM);
    message.extend(&tsig.time.to_be_bytes()[2..]);
    message.extend(FUDGE.to_be_bytes());
    message.extend((tsig.mac.len() as u16).to_be_bytes());
    message.extend(tsig.mac);
    message.extend(original);
    message.extend(tsig.error.to_be_bytes());
    message.extend((tsig.other.len() as u16).to_be_bytes());
    message.extend(tsig.other);
    let count = u16::from_be_bytes([message[10], message[11]]).saturating_add(1);
    message[10..12].copy_from_slice(&count.to_be_bytes());
}

/// The header of a packet turned into a reply with `code`, and its question when it has one.
fn header_only(packet: &[u8], code: u8) -> Vec<u8> {
    let mut reply = packet[..HEADER_LEN].to_vec();
    reply[2] = 0x80 | reply[2] & 0x79;
    reply[3] = reply[3] & 0x10 | code;
    reply[4..12].fill(0);
    if packet[4..6] == [0, 1]
        && let Some(end) = skip_name(packet, HEADER_LEN).map(|end| end + 4)
        && let Some(question) = packet.get(HEADER_LEN..end)
    {
        reply.extend(question);
        reply[5] = 1;
    }
    reply
}

/// A name at `at` in lower case and uncompressed, and where it ends.
fn name(message: &[u8], at: usize) -> Option<(Vec<u8>, usize)> {
    let end = skip_name(message, at)?;
    let (mut name, mut at) = (Vec::new(), at);
    // Each label is at least two octets long, and pointers only point back: it ends.
    loop {
        match *message.get(at)? {
            0 => {
                name.push(0);
                return Some((name, end));
            }
            len @ 1..=63 => {
                let label = message.get(at + 1..at + 1 + usize::from(len))?;
                name.push(len);
                name.extend(label.to_ascii_lowercase());
                at += usize::from(len) + 1;
            }
            high @ 192.. => {
                let target = usize::from(high & 0x3f) << 8 | usize::from(*message.get(at + 1)?);
                at = (target < at).then_some(target)?;
            }
            _ => return None,
        }
        (name.len() < NAME_LEN_MAX).then_some(())?;
    }
}

fn name_uncompressed(message: &[u8], at: usize) -> Option<(Vec<u8>, usize)> {
    let (name, end) = name(message, at)?;
    (end - at == name.len()).then_some((name, end))
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: u64 = 1_800_000_000;

    fn key() -> Key {
        Key::parse(
            "# made by tsig-keygen\nkey \"Transfer.Example\" {\n\talgorithm hmac-sha256;\n\
             \tsecret \"c2VjcmV0IHNlY3JldCBzZWNyZXQgc2VjcmV0IQ==\"; // ours\n};\n",
        )
        .unwrap()
    }

    fn query() -> Vec<u8> {
        let mut query = vec![0x12, 0x34, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0];
        query.extend(b"\x04edge\x07example\x03org\x00\x00\x06\x00\x01");
        query
    }

    fn rejected(ring: &Keyring, packet: &[u8]) -> (u8, u16) {
        let Opened::Rejected(reply) = ring.open(NOW, packet) else { panic!("taken") };
        let error = match Signature::find(&reply) {
            Found::One(signature) => signature.error,
            _ => 0,
        };
        (reply[3] & 15, error)
    }

    #[test]
    fn a_request_and_its_replies_verify() {
        let ring = Keyring::new(vec![key()]);
        let key = ring.named("transfer.example.").unwrap();
        let mut packet = query();
        let client = key.sign_request(NOW, &mut packet);
        let Opened::Signed { query: unsigned, mut signer } = ring.open(NOW + 300, &packet) else {
            panic!("not taken")
        };
        assert_eq!(unsigned, query());
        let mut reply = query();
        reply[2] |= 0x80;
        let mut second = reply.clone();
        signer.sign(NOW, &mut reply);
        assert!(client.verifies(NOW, &reply) && !client.verifies(NOW + 301, &reply));
        signer.sign(NOW, &mut second);
        assert!(!client.verifies(NOW, &second), "the second message hangs on the first");
        reply[20] ^= 1;
        assert!(!client.verifies(NOW, &reply));
    }

    #[test]
    fn what_is_not_signed_well_is_told_so() {
        let ring = Keyring::new(vec![key()]);
        assert!(matches!(ring.open(NOW, &query()), Opened::Plain));
        let signed = |now| {
            let mut packet = query();
            ring.named("transfer.example").unwrap().sign_request(now, &mut packet);
            packet
        };
        assert_eq!(rejected(&ring, &signed(NOW - 301)), (NOT_AUTH, BAD_TIME));
        assert_eq!(rejected(&ring, &signed(NOW + 301)), (NOT_AUTH, BAD_TIME));
        let mut forged = signed(NOW);
        forged[13] ^= 1;
        assert_eq!(rejected(&ring, &forged), (NOT_AUTH, BAD_SIG));
        assert_eq!(rejected(&Keyring::default(), &signed(NOW)), (NOT_AUTH, BAD_KEY));
        let mut not_last = signed(NOW);
        not_last[11] = 2;
        not_last.extend([0, 0, 41, 4, 208, 0, 0, 0, 0, 0, 0]);
        assert_eq!(rejected(&ring, &not_last), (FORM_ERR, 0));
        // A MAC cut short: 16 octets fewer.
        let mut short = signed(NOW);
        let len = short.len();
        short.drain(len - 6 - 16..len - 6);
        let mac_size = len - 6 - 32 - 1;
        short[mac_size] = 16;
        let rdlen = mac_size - 9 - ALGORITHM.len() - 1;
        short[rdlen] -= 16;
        assert_eq!(rejected(&ring, &short), (NOT_AUTH, BAD_TRUNC));
    }

    #[test]
    fn nothing_cut_short_or_garbled_panics() {
        let ring = Keyring::new(vec![key()]);
        let mut packet = query();
        ring.named("transfer.example").unwrap().sign_request(NOW, &mut packet);
        for len in 0..packet.len() {
            ring.open(NOW, &packet[..len]);
        }
        for at in 0..packet.len() {
            for octet in [0, 1, 0x3f, 0xc0, 0xff] {
                let mut garbled = packet.clone();
                garbled[at] = octet;
                let same = garbled == packet;
                assert!(same || !matches!(ring.open(NOW, &garbled), Opened::Signed { .. }) || at < 2);
            }
        }
    }

    #[test]
    fn key_files_that_are_none() {
        for text in [
            "",
            "key x { algorithm hmac-sha256; };",
            "key x { algorithm hmac-md5; secret \"c2VjcmV0IHNlY3JldCBzZWNyZXQgc2VjcmV0IQ==\"; };",
            "key x { algorithm hmac-sha256; secret \"c2hvcnQ=\"; };",
            "key x { algorithm hmac-sha256; secret \"%%%\"; };",
            "key x..y { algorithm hmac-sha256; secret \"c2VjcmV0IHNlY3JldCBzZWNyZXQgc2VjcmV0IQ==\"; };",
        ] {
            assert!(Key::parse(text).is_err(), "{text}");
        }
    }
}
