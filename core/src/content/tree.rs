//! Directories as objects.
//!
//! A directory is a tree of [`Block`]s, each an object of its own. Entries are sorted by name;
//! an entries block holds about [`build::ENTRIES_TARGET`] of them, and where a directory needs more
//! blocks than one, index blocks stand above them:
//!
//! ```text
//!                 Index  ["a" -> 1, "k" -> 2, "t" -> 3]            <- the directory's root
//!                /            |             \
//!   Entries "a".."j"   Entries "k".."s"   Entries "t".."z"
//!                         |
//!                         "pictures" -> root of another directory
//! ```
//!
//! Where one block ends is decided by the hash of an entry's *name*, not by counting: adding,
//! changing or removing a file rewrites the block it is in and the blocks above it, and nothing
//! else. So publishing a version with one changed file moves as many blocks as the tree is deep.
//!
//! - [`block`]: what a block is on the wire, and the checks that every decoded one has passed.
//! - [`build`]: from entries to blocks.
//! - [`resolve`]: from a path to a file, as a step machine that asks for blocks.
//! - [`walk`]: from a root to every object under it, asking for blocks, in bounded memory.

pub mod block;
pub mod build;
pub mod resolve;
pub mod walk;

pub use block::{
    BLOCK_ITEMS_MAX, BLOCK_LEN_MAX, BadBlock, BadName, Block, Body, Entry, File, Kind, LIST_LEN_MAX,
    LIST_OBJECTS_MAX, List, NAME_LEN_MAX, Reference, Role, check_name, references,
};
pub use build::{BuildError, Built, build_directory, case_clash};
pub use resolve::{Resolve, Step};
pub use walk::{Walk, WalkError};
