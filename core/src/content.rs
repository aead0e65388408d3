//! Content: immutable, named by its hash.
//!
//! - [`object`]: a run of bytes named by its BLAKE3 root, with the group hashes that let any
//!   16 KiB of it be verified alone.
//! - [`tree`]: directories as objects, in blocks of bounded fan-out, so that a change of one file
//!   moves only the blocks on its path.
//! - [`version`]: the signed head of a site: *this tree is version N*.

pub mod object;
pub mod tree;
pub mod version;

pub use object::{GROUP_LEN, GroupHash, OBJECT_LEN_MAX, ObjectId};
pub use version::{Policy, Replicas, SiteVersion, VersionNumber};
