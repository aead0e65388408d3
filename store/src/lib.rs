//! The disk: records in sled, bytes in append-only extents, durable when acknowledged.
//!
//! ```no_run
//! # async fn example(owner: godwit_core::key::MemberId) -> Result<(), Box<dyn std::error::Error>> {
//! use godwit_store::{NewObject, Options, Space, Store};
//!
//! let (store, report) = Store::open("/var/lib/godwit/store".as_ref(), Options::new(owner))?;
//! if let Some(rebuilt) = report.rebuilt {
//!     eprintln!("the index was rebuilt: {}", rebuilt.why);
//! }
//! let object = NewObject::of("hello".into());
//! let id = object.named.id;
//! store.put_objects(vec![object]).await?; // on the disk when this returns
//! store.put_record(Space(1), b"www", b"version 1").await?;
//! let object = store.get(&id)?.expect("it was just put");
//! assert_eq!(object.bytes(0..5)?, "hello");
//! # Ok(())
//! # }
//! ```
//!
//! # Who keeps what
//!
//! *Bytes* lie in extents: append-only packs, and files of their own for large objects. An extent
//! says all that the index knows of it. *Records* lie in sled, and every change of one also in a
//! journal. So sled is an index: fast, and dispensable. When it is damaged it is set aside and
//! made again from extents and journal, at start or while running, and nothing that was
//! acknowledged is lost with it. What the extents lost is named, to be fetched from peers.
//!
//! # What a crash leaves behind
//!
//! A write is acknowledged after its extents and journal entries were synced (`fdatasync`), and
//! after the index that names them was flushed *and* synced; see `writer`. Killed or cut off
//! before, the store opens with or without the write; afterwards, with it.
//!
//! # Trade-offs
//!
//! - Small objects lie in packs like the rest, not in sled: a read costs one more `pread` from the
//!   page cache, and sled stays small (it takes 2.7 times what it is given, and about a
//!   millisecond per thousand entries to open).
//! - Space comes back by punching holes and by deleting packs in which all is dead; live extents
//!   are never moved. A file system without holes gives space back only per pack.
//! - Reading calls block, for a look into the index and a `pread`, and [`Store::get`] for the
//!   length of the object when it is read for the first time since the start. Call them from a
//!   blocking thread where that matters. Writing calls are `async` and need no particular runtime.

#![cfg_attr(test, allow(clippy::unwrap_used, reason = "a test may panic"))]

mod commit;
mod disk;
mod error;
mod extent;
mod fill;
mod frame;
mod incoming;
mod index;
mod journal;
mod object;
mod options;
mod owner;
mod pack;
mod place;
mod records;
mod recover;
mod shared;
mod store;
mod types;
mod writer;

pub use error::{OpenError, StoreError};
pub use incoming::Incoming;
pub use object::Object;
pub use options::Options;
pub use records::{KEY_LEN_MAX, VALUE_LEN_MAX};
pub use recover::{OpenReport, Rebuilt};
pub use store::Store;
pub use types::{NewObject, RecordChange, Scrubbed, Space, Stats};
