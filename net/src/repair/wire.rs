//! A state as octets, between members.
//!
//! ```text
//!  0        1      2    4           5        9         13         17      21         25       45
//!  │version │flags │mss │scales 4+4 │written │received │in flight │unsent │timestamp │windows │len u16, unread
//! ```
//!
//! All numbers are big-endian. What the flags say is absent is zero.

use super::{IN_FLIGHT_MAX, State, UNREAD_MAX, Window};

/// The version that is written, and the only one that is read.
const VERSION: u8 = 1;
const SELECTIVE: u8 = 1;
const SCALED: u8 = 2;
const STAMPED: u8 = 4;

/// Windows are shifted by at most so many bits (RFC 7323, 2.3).
const SCALE_MAX: u8 = 14;
/// No segment is smaller (`TCP_MIN_MSS` of the kernel).
const MSS_MIN: u16 = 88;

/// Octets of a state beside its unread ones.
pub const STATE_LEN_FIXED: usize = 47;

/// Why octets are no state.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    /// They are fewer or more than the state says.
    #[error("a state of another length")]
    Length,
    /// Written by a newer member.
    #[error("a state of version {0}, not {VERSION}")]
    Version(u8),
    /// A field that cannot be.
    #[error("impossible {0}")]
    Field(&'static str),
}

impl State {
    /// The octets that stand for it.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(STATE_LEN_FIXED + self.unread.len());
        let flag = |set: bool, flag: u8| if set { flag } else { 0 };
        let (send, receive) = self.scale.unwrap_or_default();
        let flags = flag(self.selective, SELECTIVE)
            | flag(self.scale.is_some(), SCALED)
            | flag(self.timestamp.is_some(), STAMPED);
        out.extend([VERSION, flags]);
        out.extend(self.mss.to_be_bytes());
        out.push(send << 4 | receive & 15);
        let Window { told_at, send, send_max, receive, receive_at } = self.window;
        let words = [self.written, self.received, self.in_flight, self.unsent];
        let stamp = [self.timestamp.unwrap_or_default()];
        let windows = [told_at, send, send_max, receive, receive_at];
        for word in words.iter().chain(&stamp).chain(&windows) {
            out.extend(word.to_be_bytes());
        }
        out.extend((self.unread.len() as u16).to_be_bytes());
        out.extend(&self.unread);
        out
    }

    /// Reads a state from the front of `bytes`; the rest comes back.
    pub fn decode(bytes: &[u8]) -> Result<(State, &[u8]), DecodeError> {
        if let Some(version) = bytes.first().filter(|version| **version != VERSION) {
            return Err(DecodeError::Version(*version));
        }
        let (fixed, rest) = bytes.split_first_chunk::<STATE_LEN_FIXED>().ok_or(DecodeError::Length)?;
        let half = |at: usize| u16::from_be_bytes([fixed[at], fixed[at + 1]]);
        let word = |number: usize| {
            let at = 5 + 4 * number;
            u32::from_be_bytes([fixed[at], fixed[at + 1], fixed[at + 2], fixed[at + 3]])
        };
        let (flags, scales) = (fixed[1], fixed[4]);
        let (unread, rest) = rest.split_at_checked(half(45).into()).ok_or(DecodeError::Length)?;
        let state = State {
            written: word(0),
            received: word(1),
            in_flight: word(2),
            unsent: word(3),
            mss: half(2),
            selective: flags & SELECTIVE != 0,
            scale: (flags & SCALED != 0).then_some((scales >> 4, scales & 15)),
            timestamp: (flags & STAMPED != 0).then_some(word(4)),
            window: Window {
                told_at: word(5),
                send: word(6),
                send_max: word(7),
                receive: word(8),
                receive_at: word(9),
            },
            unread: unread.to_vec(),
        };
        let absent = state.scale.is_none() && scales != 0 || state.timestamp.is_none() && word(4) != 0;
        let (send, receive) = state.scale.unwrap_or_default();
        let wrong = [
            (flags & !(SELECTIVE | SCALED | STAMPED) != 0 || absent, "flags"),
            (state.mss < MSS_MIN, "segment size"),
            (send > SCALE_MAX || receive > SCALE_MAX, "window scale"),
            (state.in_flight > IN_FLIGHT_MAX || state.unsent > state.in_flight, "octets in flight"),
            (state.window.send > state.window.send_max, "window"),
            (state.unread.len() > UNREAD_MAX, "unread octets"),
        ];
        match wrong.iter().find(|(wrong, _)| *wrong) {
            Some((_, field)) => Err(DecodeError::Field(field)),
            None => Ok((state, rest)),
        }
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    pub(crate) fn sample() -> State {
        State {
            written: 0xffff_fff0,
            received: 7,
            in_flight: 20,
            unsent: 4,
            mss: 1360,
            selective: true,
            scale: Some((7, 9)),
            timestamp: Some(99),
            window: Window { told_at: 3, send: 60_000, send_max: 65_000, receive: 64_000, receive_at: 6 },
            unread: b"GET /".to_vec(),
        }
    }

    #[test]
    fn a_state_is_read_as_it_was_written_and_no_part_of_it_is() {
        let plain = State { selective: false, scale: None, timestamp: None, unread: Vec::new(), ..sample() };
        for state in [sample(), plain] {
            let bytes = state.encode();
            assert_eq!(bytes.len(), STATE_LEN_FIXED + state.unread.len());
            assert_eq!(State::decode(&bytes), Ok((state, &[][..])));
            for len in 0..bytes.len() {
                assert_eq!(State::decode(&bytes[..len]), Err(DecodeError::Length));
            }
            let longer = [&bytes[..], b"more"].concat();
            assert_eq!(State::decode(&longer).map(|(_, rest)| rest), Ok(&b"more"[..]));
        }
        const { assert!(STATE_LEN_FIXED < 100) };
    }

    #[test]
    fn what_cannot_be_is_an_error() {
        let check = |change: fn(&mut State), field| {
            let mut state = sample();
            change(&mut state);
            assert_eq!(State::decode(&state.encode()), Err(DecodeError::Field(field)));
        };
        check(|state| state.mss = 10, "segment size");
        check(|state| state.scale = Some((15, 0)), "window scale");
        check(|state| state.unsent = 21, "octets in flight");
        check(|state| state.in_flight = IN_FLIGHT_MAX + 1, "octets in flight");
        check(|state| state.window.send = 65_001, "window");
        check(|state| state.unread = vec![0; UNREAD_MAX + 1], "unread octets");
        let mut bytes = sample().encode();
        bytes[1] |= 0x80;
        assert_eq!(State::decode(&bytes), Err(DecodeError::Field("flags")));
        bytes[0] = 2;
        assert_eq!(State::decode(&bytes), Err(DecodeError::Version(2)));
    }

    #[test]
    fn arbitrary_octets_are_never_a_panic() {
        // An xorshift of its own: the crate has no other use of random numbers.
        let mut x = 88_172_645_463_325_252_u64;
        let mut next = || {
            x ^= x << 13;
            x ^= x >> 7;
            x ^= x << 17;
            x
        };
        for _ in 0..20_000 {
            let mut bytes = sample().encode();
            for _ in 0..next() % 4 {
                let at = next() as usize % bytes.len();
                bytes[at] = next() as u8;
            }
            bytes.truncate(next() as usize % (bytes.len() + 1));
            if let Ok((state, rest)) = State::decode(&bytes) {
                assert_eq!([state.encode(), rest.to_vec()].concat(), bytes);
            }
        }
    }
}
