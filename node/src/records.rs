//! Heads on the disk: what the machine wants kept, and what it is started from.

use godwit_core::record::{Key, Record};
use godwit_core::wire;
use godwit_store::{RecordChange, Space, Store, StoreError};

/// Where heads are kept in the store: by the wire form of their key.
const HEADS: Space = Space(1);

/// Where versions held whole are kept: see [`crate::held`].
pub(crate) const HELD: Space = Space(2);

/// Where the last entries of members are kept, for their addresses: a member that starts anew
/// finds its peers even when those of its join token are gone.
const ENTRIES: Space = Space(3);

/// The heads of one member on its disk.
#[derive(Clone)]
pub(crate) struct Records {
    store: Store,
}

impl Records {
    pub(crate) fn new(store: Store) -> Records {
        Records { store }
    }

    /// The heads kept by earlier runs. What cannot be read is left out and told: peers have it too.
    /// Blocks.
    pub(crate) fn load(&self) -> Result<Vec<Record>, StoreError> {
        let mut records = Vec::new();
        let heads = self.store.records(HEADS)?;
        for (_, value) in heads.into_iter().chain(self.store.records(ENTRIES)?) {
            match wire::decode(&value, wire::RECORD_LEN_MAX) {
                Ok(record) => records.push(record),
                Err(error) => tracing::warn!(%error, "a head on the disk cannot be read and is left out"),
            }
        }
        Ok(records)
    }

    /// Puts `heads` in place of those with their keys and removes those with the keys `gone`.
    /// Durable when it returns.
    pub(crate) async fn write(
        &self,
        heads: impl Iterator<Item = &Record>,
        gone: &[Key],
    ) -> Result<(), StoreError> {
        let change = |key: &Key, value| change(HEADS, key, value);
        let puts = heads.map(|head| change(&head.key(), Some(wire::encode(head))));
        let changes: Vec<_> = gone.iter().map(|key| change(key, None)).chain(puts).collect();
        self.store.change_records(changes).await
    }

    /// Keeps entries of members for their addresses. That they are not durable costs little, so a
    /// failure is only told.
    pub(crate) async fn write_entries(&self, entries: Vec<Record>) {
        let change = |entry: &Record| change(ENTRIES, &entry.key(), Some(wire::encode(entry)));
        if let Err(error) = self.store.change_records(entries.iter().map(change).collect()).await {
            tracing::debug!(%error, "addresses of members could not be kept");
        }
    }
}

fn change(space: Space, key: &Key, value: Option<Vec<u8>>) -> RecordChange {
    RecordChange { space, key: wire::encode(key), value }
}
