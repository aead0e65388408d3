//! The sixteen octets before what is sealed: who may open it, and what to know before.
//!
//! ```text
//!  0        1        2                 4                          8                         16
//!  ┌────────┬────────┬─────────────────┬──────────────────────────┬──────────────────────────┐
//!  │ kind   │ flags  │ owner before    │ key                      │ counter                  │ sealed … tag
//!  └────────┴────────┴─────────────────┴──────────────────────────┴──────────────────────────┘
//! ```
//!
//! All of it is authenticated with what follows. The counter is the nonce: it is used once under a
//! key, in each direction. Flags and kinds that are not known here are refused, so that later
//! versions can give them a meaning.

use super::KeyId;
use serde::{Deserialize, Serialize};

/// Octets before what is sealed.
pub const HEADER_LEN: usize = 16;
/// Octets after it: the tag of either cipher.
pub const TAG_LEN: usize = 16;
/// What a tunnel adds to a packet over IPv4: IP, UDP, header, tag.
pub const OVERHEAD_V4: u16 = 20 + 8 + HEADER_LEN as u16 + TAG_LEN as u16;
/// And over IPv6.
pub const OVERHEAD_V6: u16 = OVERHEAD_V4 + 20;
/// The inner packet that fits where Ethernet's packets fit, over either family.
pub const INNER_MTU: u16 = 1500 - OVERHEAD_V6;

const PACKET: u8 = 0x11;
const CONTROL: u8 = 0x12;
const WIDTH: u8 = 0x13;

const RELAYED: u8 = 0x01;
const CHACHA: u8 = 0x02;
const UNSUMMED: u8 = 0x04;
const BEFORE: u8 = 0x08;
const KNOWN: u8 = RELAYED | CHACHA | UNSUMMED | BEFORE;

/// What is sealed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Kind {
    /// An IP packet.
    Packet,
    /// A [`super::Control`].
    Control,
    /// A [`super::width::Word`], of tunnels' ends among themselves.
    Width,
}

/// How it is sealed. Each sender chooses one for each key and stays with it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Cipher {
    /// AES-256-GCM (RFC 5116, 5.2): the faster one where the processor has instructions for it.
    Aes256Gcm,
    /// ChaCha20-Poly1305 (RFC 8439): the faster one elsewhere.
    ChaCha20Poly1305,
}

/// What stands before what is sealed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// What is sealed.
    pub kind: Kind,
    /// How.
    pub cipher: Cipher,
    /// A node has passed it on already: it is never passed on again, but for what is given back.
    pub relayed: bool,
    /// The checksum of TCP or UDP inside covers the pseudo-header only, as the sending kernel left
    /// it; the receiving kernel is told so. The seal guards the rest.
    pub unsummed: bool,
    /// Who owned the client's flows before the choice changed: the number of a member. A node that
    /// does not know the flow passes the packet on to that one, once: the second chance. In a packet that
    /// was passed on it says that this is what it came for, and that it may be given back, without it
    /// ([`crate::flow::chance`]).
    pub before: Option<u16>,
    /// Under which key.
    pub key: KeyId,
    /// Never used twice under it.
    pub counter: u64,
}

/// Why octets are no tunnel packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum HeaderError {
    /// Shorter than a header and a tag.
    #[error("shorter than a header and a tag")]
    Short,
    /// Of a kind that this version does not know, or nothing of ours.
    #[error("kind {0:#x}")]
    Kind(u8),
    /// With flags that this version does not know, or that contradict each other.
    #[error("flags {0:#x}")]
    Flags(u8),
}

impl Header {
    /// As octets.
    pub fn encode(&self) -> [u8; HEADER_LEN] {
        let mut bytes = [0; HEADER_LEN];
        bytes[0] = match self.kind {
            Kind::Packet => PACKET,
            Kind::Control => CONTROL,
            Kind::Width => WIDTH,
        };
        let flag = |on: bool, flag: u8| if on { flag } else { 0 };
        bytes[1] = flag(self.relayed, RELAYED)
            | flag(self.cipher == Cipher::ChaCha20Poly1305, CHACHA)
            | flag(self.unsummed, UNSUMMED)
            | flag(self.before.is_some(), BEFORE);
        bytes[2..4].copy_from_slice(&self.before.unwrap_or(0).to_be_bytes());
        bytes[4..8].copy_from_slice(&self.key.0.to_be_bytes());
        bytes[8..].copy_from_slice(&self.counter.to_be_bytes());
        bytes
    }

    /// Reads the header of a whole datagram; nothing of it is believed before it was opened.
    pub fn decode(datagram: &[u8]) -> Result<Header, HeaderError> {
        if datagram.len() < HEADER_LEN + TAG_LEN {
            return Err(HeaderError::Short);
        }
        let kind = match datagram[0] {
            PACKET => Kind::Packet,
            CONTROL => Kind::Control,
            WIDTH => Kind::Width,
            other => return Err(HeaderError::Kind(other)),
        };
        let flags = datagram[1];
        let before = u16::from_be_bytes([datagram[2], datagram[3]]);
        let has_before = flags & BEFORE != 0;
        if flags & !KNOWN != 0 || !has_before && before != 0 {
            return Err(HeaderError::Flags(flags));
        }
        let [key, high, low] = [4, 8, 12].map(|at| {
            u32::from_be_bytes([datagram[at], datagram[at + 1], datagram[at + 2], datagram[at + 3]])
        });
        Ok(Header {
            kind,
            cipher: if flags & CHACHA != 0 { Cipher::ChaCha20Poly1305 } else { Cipher::Aes256Gcm },
            relayed: flags & RELAYED != 0,
            unsummed: flags & UNSUMMED != 0,
            before: has_before.then_some(before),
            key: KeyId(key),
            counter: u64::from(high) << 32 | u64::from(low),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_octets_are_these() {
        let header = Header {
            kind: Kind::Packet,
            cipher: Cipher::ChaCha20Poly1305,
            relayed: true,
            unsummed: true,
            before: Some(0x0102),
            key: KeyId(0x0304_0506),
            counter: 0x0708_090a_0b0c_0d0e,
        };
        let bytes = header.encode();
        assert_eq!(bytes, [0x11, 0x0f, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14]);
        let plain = Header { kind: Kind::Control, cipher: Cipher::Aes256Gcm, before: None, ..header };
        assert_eq!(plain.encode()[..4], [0x12, 0x05, 0, 0]);
    }

    #[test]
    fn what_is_not_known_is_refused() {
        assert_eq!(Header::decode(&[0x11; 31]), Err(HeaderError::Short));
        let mut datagram = [0; 32];
        for kind in (0..=255).filter(|kind| ![PACKET, CONTROL, WIDTH].contains(kind)) {
            datagram[0] = kind;
            assert_eq!(Header::decode(&datagram), Err(HeaderError::Kind(kind)));
        }
        datagram[0] = PACKET;
        for flags in 0x10..=255 {
            datagram[1] = flags;
            assert_eq!(Header::decode(&datagram), Err(HeaderError::Flags(flags)));
        }
        (datagram[1], datagram[3]) = (0, 1);
        assert_eq!(Header::decode(&datagram), Err(HeaderError::Flags(0)), "an owner without its flag");
    }

    proptest! {
        #[test]
        fn read_back_as_written(bytes in prop::collection::vec(any::<u8>(), 0..40), packet: bool, flags in 0u8..32) {
            let mut bytes = bytes;
            if bytes.len() > 2 {
                bytes[0] = if packet { PACKET } else { CONTROL };
                bytes[1] = flags;
            }
            if let Ok(header) = Header::decode(&bytes) {
                prop_assert_eq!(&header.encode()[..], &bytes[..HEADER_LEN]);
            }
        }
    }
}
