//! Canonical bytes of the things that are signed, sent and stored.
//!
//! One encoding for all: postcard, over types whose fields are only integers, byte strings, text,
//! sequences and tagged unions in a fixed order, and never a map. Such a value has exactly one
//! encoding, so equal values have equal bytes and equal hashes. [`decode`] refuses what is longer
//! than the caller's bound before it allocates, and refuses bytes left over.

use serde::Serialize;
use serde::de::DeserializeOwned;

/// The longest encoded record: what one member may make another hold for one key, bytes.
pub const RECORD_LEN_MAX: usize = 32 * 1024;

/// The longest message between members, bytes. Larger sets of records travel in several.
pub const MESSAGE_LEN_MAX: usize = 256 * 1024;

/// Why bytes are not a value.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    /// More bytes than the bound; nothing was read.
    #[error("{len} bytes where at most {max} are allowed")]
    TooLong {
        /// What came.
        len: usize,
        /// What is allowed.
        max: usize,
    },
    /// The bytes do not have the form of the value.
    #[error("malformed: {0}")]
    Malformed(String),
    /// The value ends before the bytes do.
    #[error("{0} bytes too many after the value")]
    Trailing(usize),
}

/// The canonical bytes of `value`.
pub fn encode<T: Serialize>(value: &T) -> Vec<u8> {
    postcard::to_stdvec(value).expect("values of wire types always encode into a growing vector")
}

/// The value that `bytes`, at most `max` of them, begin with. For what later versions may append to.
pub fn decode_start<T: DeserializeOwned>(bytes: &[u8], max: usize) -> Result<T, DecodeError> {
    if bytes.len() > max {
        return Err(DecodeError::TooLong { len: bytes.len(), max });
    }
    let (value, _) =
        postcard::take_from_bytes(bytes).map_err(|error| DecodeError::Malformed(error.to_string()))?;
    Ok(value)
}

/// The value that `bytes`, at most `max` of them, stand for.
pub fn decode<T: DeserializeOwned>(bytes: &[u8], max: usize) -> Result<T, DecodeError> {
    if bytes.len() > max {
        return Err(DecodeError::TooLong { len: bytes.len(), max });
    }
    match postcard::take_from_bytes(bytes) {
        Ok((value, [])) => Ok(value),
        Ok((_, rest)) => Err(DecodeError::Trailing(rest.len())),
        Err(error) => Err(DecodeError::Malformed(error.to_string())),
    }
}
