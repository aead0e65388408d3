//! What a process leaves to the one that follows it, at the last moment: octets, and open descriptors.

use godwit_core::time::Time;
use godwit_core::wire;
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::os::fd::OwnedFd;
use std::time::Duration;

/// Two processes' clocks differ by no more than they drift while one runs; otherwise somebody has set the
/// time, and no deadline would hold.
const CLOCKS_DIFFER_MAX: Duration = Duration::from_secs(1);

/// See the module. Whoever made it reads it.
#[derive(Debug)]
pub struct Estate {
    /// What is to be known.
    pub bytes: Vec<u8>,
    /// Open descriptors, in the order that `bytes` speaks of.
    pub descriptors: Vec<OwnedFd>,
}

/// Why nothing can be gone on with.
#[derive(Debug, thiserror::Error)]
pub enum EstateError {
    /// It was written by another version.
    #[error("it is another version's")]
    OtherVersion,
    /// It is not what it should be.
    #[error(transparent)]
    Malformed(#[from] wire::DecodeError),
    /// The times in it mean nothing here.
    #[error("the clock was set, or it came late")]
    Clock,
}

impl Estate {
    /// The longest that is taken, bytes: a home agent's flow bindings, all of them, fit.
    pub const LEN_MAX: usize = 64 << 20;
    /// Most descriptors that are taken: listening sockets, and the sessions of datagrams.
    pub const DESCRIPTORS_MAX: usize = 8192;

    /// Leaves this now; `version` changes with what `left` is made of.
    pub fn leave(now: Time, version: u8, left: &impl Serialize, descriptors: Vec<OwnedFd>) -> Estate {
        let mut bytes = vec![version];
        bytes.extend(wire::encode(&(now, left)));
        Estate { bytes, descriptors }
    }

    /// What was left in this version a moment ago, and the descriptors.
    pub fn take<T: DeserializeOwned>(
        self,
        now: Time,
        version: u8,
    ) -> Result<(T, impl Iterator<Item = OwnedFd> + use<T>), EstateError> {
        let (at, left): (Time, T) = match self.bytes.split_first() {
            Some((written, rest)) if *written == version => wire::decode(rest, Estate::LEN_MAX)?,
            _ => return Err(EstateError::OtherVersion),
        };
        if now.since(at).max(at.since(now)) > CLOCKS_DIFFER_MAX {
            return Err(EstateError::Clock);
        }
        Ok((left, self.descriptors.into_iter()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_left_is_taken_by_the_same_version_and_at_the_same_time() {
        let now = Time::from_secs(100);
        let left = || Estate::leave(now, 7, &("word", 5u32), Vec::new());
        let (taken, mut descriptors) = left().take::<(String, u32)>(now, 7).unwrap();
        assert_eq!((taken, descriptors.next().is_none()), (("word".to_owned(), 5), true));
        assert!(matches!(left().take::<(String, u32)>(now, 8), Err(EstateError::OtherVersion)));
        for then in [Time::from_secs(98), Time::from_secs(102)] {
            assert!(matches!(left().take::<(String, u32)>(then, 7), Err(EstateError::Clock)));
        }
        let cut = Estate { bytes: left().bytes[..4].to_vec(), descriptors: Vec::new() };
        assert!(matches!(cut.take::<(String, u32)>(now, 7), Err(EstateError::Malformed(_))));
    }
}
