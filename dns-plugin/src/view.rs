//! What a reply is made of, as one thing.
//!
//! A reply depends on the map (which replicas) and on the zone's own contents (which names beside
//! the sites, how long an answer may be kept). The two change at different times and for different
//! reasons: the map when a member says something, the zone when a person edits a file or a
//! certificate is being issued. A query must see one state of both, so they are held together in an
//! immutable [`View`], and what is current is one pointer.
//!
//! The map's side is published by whoever computes generations, into its own pointer
//! ([`godwit_map::Shared`]). [`SharedView::load`] compares that pointer with the one in the view it
//! holds and composes a new view when they differ: so whoever answers from here answers from a new
//! generation with the very next query, without a task that has to run in between, and a daemon that
//! is stuck elsewhere cannot leave the zone behind. A redirector's UDP threads answer from what was
//! compiled from a view, and follow when the next one is compiled.

use crate::zone::Zone;
use arc_swap::{ArcSwap, Guard};
use godwit_map::{Generation, Shared};
use std::sync::{Arc, Mutex, PoisonError};

/// Everything that a reply is made of.
#[derive(Clone)]
pub struct View {
    /// The map.
    pub generation: Arc<Generation>,
    /// What the zone holds beside it.
    pub zone: Arc<Zone>,
    /// The zone's serial (RFC 1035, 3.3.13), see [`View::serial`].
    serial: u32,
}

impl View {
    /// Of these two.
    pub fn new(generation: Arc<Generation>, zone: Arc<Zone>) -> View {
        let serial = heads(&generation).wrapping_add(zone.revision());
        View { generation, zone, serial }
    }

    /// The zone's serial: it counts heads (versions of sites, members) and the zone's revision, so
    /// that it grows with each of them and is the same on every redirector that knows the same.
    pub fn serial(&self) -> u32 {
        self.serial
    }
}

/// Sums the versions of sites, the serials of members and the sequences of home addresses.
fn heads(generation: &Generation) -> u32 {
    let versions = generation.sites().map(|site| site.number.0);
    let members = generation.members().iter().map(|member| member.serial.0);
    // Those taken back count on, so that the sum never falls.
    let homes = generation.inputs().homes.iter().map(|home| home.number);
    // RFC 1982: serials live modulo 2^32.
    versions.chain(members).chain(homes).fold(1, |sum, number| sum.wrapping_add(number as u32))
}

/// The current view. Cheap to clone; all clones are one.
#[derive(Clone)]
pub struct SharedView(Arc<Inner>);

struct Inner {
    current: ArcSwap<View>,
    generations: Shared,
    /// Held while a new view is composed: two composers must not undo each other.
    composing: Mutex<()>,
}

impl SharedView {
    /// Of the generations in `generations` and of `zone` until another is set.
    pub fn new(generations: Shared, zone: Zone) -> SharedView {
        let view = View::new(generations.load_full(), Arc::new(zone));
        let current = ArcSwap::from_pointee(view);
        SharedView(Arc::new(Inner { current, generations, composing: Mutex::new(()) }))
    }

    /// The current view: two pointer loads when nothing has changed.
    pub fn load(&self) -> Guard<Arc<View>> {
        let view = self.0.current.load();
        if Arc::ptr_eq(&view.generation, &self.0.generations.load()) {
            return view;
        }
        drop(view);
        self.update(|_| None);
        self.0.current.load()
    }

    /// The current view, to keep.
    pub fn load_full(&self) -> Arc<View> {
        Guard::into_inner(self.load())
    }

    /// Puts another zone in place: the next query is answered from it.
    pub fn set_zone(&self, zone: Zone) {
        self.update(|_| Some(zone));
    }

    /// Puts another generation and another zone in place at once: no query sees one without the
    /// other.
    pub fn set(&self, generation: Arc<Generation>, zone: Zone) {
        // Who sees the new generation before the view is composed waits for the lock.
        let _composing = self.0.composing.lock().unwrap_or_else(PoisonError::into_inner);
        self.0.generations.store(generation.clone());
        self.0.current.store(Arc::new(View::new(generation, Arc::new(zone))));
    }

    /// Puts what `change` makes of the current zone in its place; `None` leaves it. No other change
    /// comes between. A zone without a signer gets the one before.
    pub fn update(&self, change: impl FnOnce(&Zone) -> Option<Zone>) {
        let _composing = self.0.composing.lock().unwrap_or_else(PoisonError::into_inner);
        let current = self.0.current.load_full();
        let generation = self.0.generations.load_full();
        // A zone that nobody signs would be bogus to all who validate because contents were read again:
        // whoever signs it goes on, until another does.
        let signed = |zone: Zone| match zone.signer() {
            Some(_) => zone,
            None => zone.with_signer(current.zone.signer().cloned()),
        };
        let zone = change(&current.zone).map_or_else(|| current.zone.clone(), |zone| Arc::new(signed(zone)));
        if Arc::ptr_eq(&generation, &current.generation) && Arc::ptr_eq(&zone, &current.zone) {
            return;
        }
        self.0.current.store(Arc::new(View::new(generation, zone)));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Options;
    use godwit_core::name::ZoneName;
    use godwit_map::{GeoDb, Inputs};
    use std::time::Duration;

    #[test]
    fn a_new_generation_and_a_new_zone_are_in_the_next_view() {
        let name: ZoneName = "edge.example.org".parse().unwrap();
        let generations: Shared = Arc::new(ArcSwap::from_pointee(Generation::empty(name.clone())));
        let shared = SharedView::new(generations.clone(), Zone::new(&name, Options::default()));
        let first = shared.load_full();
        assert!(Arc::ptr_eq(&first, &shared.load_full()), "nothing changed");
        let inputs = Inputs { number: 7, ..Inputs::new(name.clone()) };
        generations.store(Arc::new(Generation::compute(&inputs, &GeoDb::empty(), None)));
        let second = shared.load_full();
        assert_eq!(second.generation.number(), 7);
        assert!(Arc::ptr_eq(&first.zone, &second.zone));
        let options = Options { ttl: Duration::from_secs(9), ..Options::default() };
        shared.set_zone(Zone::new(&name, options));
        let third = shared.load_full();
        assert_eq!(third.zone.options().ttl, Duration::from_secs(9));
        assert!(Arc::ptr_eq(&second.generation, &third.generation));
    }
}
