//! The connections there are: bounded per source prefix and overall, and the newest always gets in.
//!
//! When a limit is reached, the connection that has been without progress for longest ends in favour
//! of the new one: of the same source prefix when its limit is reached, of all otherwise. *Progress*
//! is a whole query answered (or a message of a transfer taken by the peer); octets are none. So ten
//! thousand clients that connect and send half a query take each other's places, and an honest one
//! has its place until as many new ones as the limit allows have come after it, which is longer than
//! its query takes. A refusal of the newest would do the opposite: whoever came first, and sits there,
//! would keep everybody else out. The limit of a source comes first, so that one source cannot use up
//! what is for all.
//!
//! Plain and encrypted connections are counted apart (see [`Config`](crate::Config)): a flood of one
//! kind takes nothing from the other.

use crate::limit::prefix;
use crate::metrics::{Drop, Metrics, Transport};
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use tokio::task::AbortHandle;

/// A table of connections.
pub(crate) struct Connections {
    table: Mutex<Table>,
    max: AtomicUsize,
    max_per_prefix: AtomicUsize,
    metrics: Arc<Metrics>,
}

/// Every connection stands in each of the three. A *turn* is a number that only grows: the lower,
/// the longer ago the connection made progress.
#[derive(Default)]
struct Table {
    turns: u64,
    by_id: BTreeMap<u64, Entry>,
    by_turn: BTreeMap<u64, u64>,
    by_prefix: BTreeMap<u64, BTreeSet<u64>>,
}

struct Entry {
    prefix: u64,
    turn: u64,
    since: Instant,
    /// Ends the task that serves it; there once the task is.
    task: Option<AbortHandle>,
}

/// A place among the connections; given back when dropped.
pub(crate) struct Place {
    connections: Arc<Connections>,
    transport: Transport,
    id: u64,
}

impl Connections {
    pub(crate) fn new(max: usize, max_per_prefix: usize, metrics: Arc<Metrics>) -> Arc<Connections> {
        let connections = Connections {
            table: Mutex::default(),
            max: AtomicUsize::new(0),
            max_per_prefix: AtomicUsize::new(0),
            metrics,
        };
        connections.limit(max, max_per_prefix);
        Arc::new(connections)
    }

    /// Sets the limits anew. Connections beyond a lower one end as new ones come.
    pub(crate) fn limit(&self, max: usize, max_per_prefix: usize) {
        self.max.store(max.max(1), Ordering::Relaxed);
        self.max_per_prefix.store(max_per_prefix.max(1), Ordering::Relaxed);
    }

    /// A place for a connection from `source`, at the cost of those longest without progress where
    /// there is no room.
    pub(crate) fn admit(this: &Arc<Connections>, source: IpAddr, transport: Transport) -> Place {
        let prefix = prefix(source);
        let mut table = this.table();
        let max_per_prefix = this.max_per_prefix.load(Ordering::Relaxed);
        while table.by_prefix.get(&prefix).is_some_and(|turns| turns.len() >= max_per_prefix) {
            let oldest = table.by_prefix.get(&prefix).and_then(|turns| turns.first().copied());
            this.evict(&mut table, oldest, Drop::ConnectionsOfSource);
        }
        while table.by_id.len() >= this.max.load(Ordering::Relaxed) {
            let oldest = table.by_turn.keys().next().copied();
            this.evict(&mut table, oldest, Drop::Connections);
        }
        let turn = table.next_turn();
        let entry = Entry { prefix, turn, since: Instant::now(), task: None };
        table.insert(turn, entry);
        this.metrics.connections(transport).inc();
        Place { connections: this.clone(), transport, id: turn }
    }

    /// Tells which task serves the connection. One that has lost its place meanwhile ends at once.
    pub(crate) fn attach(&self, id: u64, task: AbortHandle) {
        match self.table().by_id.get_mut(&id) {
            Some(entry) => entry.task = Some(task),
            None => task.abort(),
        }
    }

    /// Ends some of those longest without progress, because the process has no descriptor left;
    /// whether there were any.
    pub(crate) fn make_room(&self) -> bool {
        let mut table = self.table();
        let some = table.by_id.len().div_ceil(16);
        for _ in 0..some {
            let oldest = table.by_turn.keys().next().copied();
            self.evict(&mut table, oldest, Drop::Descriptors);
        }
        some > 0
    }

    /// How many there are.
    pub(crate) fn len(&self) -> usize {
        self.table().by_id.len()
    }

    /// Whether more than half of the places are taken.
    pub(crate) fn is_crowded(&self) -> bool {
        self.len() * 2 > self.max.load(Ordering::Relaxed)
    }

    fn evict(&self, table: &mut Table, turn: Option<u64>, reason: Drop) {
        let id = turn.and_then(|turn| table.by_turn.get(&turn).copied());
        if let Some(Entry { task: Some(task), .. }) = id.and_then(|id| table.remove(id)) {
            task.abort();
        }
        self.metrics.dropped(reason);
    }

    fn table(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Table {
    fn next_turn(&mut self) -> u64 {
        self.turns += 1;
        self.turns
    }

    fn insert(&mut self, id: u64, entry: Entry) {
        self.by_turn.insert(entry.turn, id);
        self.by_prefix.entry(entry.prefix).or_default().insert(entry.turn);
        self.by_id.insert(id, entry);
    }

    fn remove(&mut self, id: u64) -> Option<Entry> {
        let entry = self.by_id.remove(&id)?;
        self.by_turn.remove(&entry.turn);
        if let Some(turns) = self.by_prefix.get_mut(&entry.prefix) {
            turns.remove(&entry.turn);
            if turns.is_empty() {
                self.by_prefix.remove(&entry.prefix);
            }
        }
        Some(entry)
    }
}

impl Place {
    /// Names the place for [`Connections::attach`].
    pub(crate) fn id(&self) -> u64 {
        self.id
    }

    /// The connection made progress.
    pub(crate) fn touch(&self) {
        let mut table = self.connections.table();
        if let Some(mut entry) = table.remove(self.id) {
            entry.turn = table.next_turn();
            entry.since = Instant::now();
            table.insert(self.id, entry);
        }
    }

    /// How long the connection has been without progress; for ever when its place is lost.
    pub(crate) fn quiet(&self) -> Duration {
        self.connections.table().by_id.get(&self.id).map_or(Duration::MAX, |entry| entry.since.elapsed())
    }
}

impl std::ops::Drop for Place {
    fn drop(&mut self) {
        self.connections.table().remove(self.id);
        self.connections.metrics.connections(self.transport).dec();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use prometheus_client::registry::Registry;

    fn connections(max: usize, max_per_prefix: usize) -> Arc<Connections> {
        Connections::new(max, max_per_prefix, Arc::new(Metrics::register(&mut Registry::default())))
    }

    fn admit(connections: &Arc<Connections>, source: [u8; 4]) -> Place {
        Connections::admit(connections, source.into(), Transport::Tcp)
    }

    fn lives(place: &Place) -> bool {
        place.quiet() < Duration::MAX
    }

    #[test]
    fn the_newest_takes_the_place_of_who_made_no_progress_for_longest() {
        let connections = connections(3, 3);
        let a = admit(&connections, [192, 0, 2, 1]);
        let b = admit(&connections, [198, 51, 100, 1]);
        let c = admit(&connections, [203, 0, 113, 1]);
        a.touch();
        let d = admit(&connections, [203, 0, 113, 2]);
        assert_eq!([&a, &b, &c, &d].map(lives), [true, false, true, true]);
        drop(b);
        assert_eq!(connections.len(), 3, "a lost place is not given back twice");
        drop(c);
        let e = admit(&connections, [192, 0, 2, 9]);
        assert_eq!([&a, &d, &e].map(lives), [true; 3]);
    }

    #[test]
    fn a_source_displaces_its_own_first() {
        let connections = connections(4, 2);
        let honest = admit(&connections, [192, 0, 2, 1]);
        let flood: Vec<Place> = (0..100).map(|n| admit(&connections, [198, 51, 100, n])).collect();
        assert!(lives(&honest));
        assert_eq!(flood.iter().filter(|place| lives(place)).count(), 2);
        connections.limit(4, 1);
        let last = admit(&connections, [198, 51, 100, 1]);
        assert!(lives(&last) && !flood.iter().any(lives), "a lower limit takes effect with the next");
    }

    #[test]
    fn empty_tables_hold_nothing() {
        let connections = connections(1000, 1000);
        let places: Vec<Place> = (0..=255).map(|n| admit(&connections, [192, 0, n, 1])).collect();
        places.iter().for_each(Place::touch);
        drop(places);
        let table = connections.table();
        assert!(table.by_id.is_empty() && table.by_turn.is_empty() && table.by_prefix.is_empty());
    }

    #[tokio::test]
    async fn a_task_that_lost_its_place_ends() {
        let connections = connections(1, 1);
        let place = admit(&connections, [192, 0, 2, 1]);
        let id = place.id();
        let task = tokio::spawn(async move {
            let _place = place;
            std::future::pending::<()>().await
        });
        // Before it was attached.
        let second = admit(&connections, [192, 0, 2, 1]);
        connections.attach(id, task.abort_handle());
        assert!(task.await.unwrap_err().is_cancelled());
        let id = second.id();
        let task = tokio::spawn(async move {
            let _place = second;
            std::future::pending::<()>().await
        });
        connections.attach(id, task.abort_handle());
        let _third = admit(&connections, [192, 0, 2, 1]);
        assert!(task.await.unwrap_err().is_cancelled());
    }
}
