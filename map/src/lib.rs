//! Which replicas serve this client, best first, and why.
//!
//! The map is a pure function: [`Inputs`] (who is a member, what each holds, how it fares, which
//! round-trip times were measured) and a [`GeoDb`] (where addresses are) make a [`Generation`], an
//! immutable snapshot that answers without waiting, allocating much, or asking anybody:
//!
//! ```
//! use godwit_map::{Generation, GeoDb, Inputs};
//!
//! let inputs = Inputs::new("edge.example.org".parse().unwrap());
//! let generation = Generation::compute(&inputs, &GeoDb::empty(), None);
//! assert!(generation.answer("192.0.2.1".parse().unwrap(), "www").is_none(), "no such site yet");
//! ```
//!
//! How it thinks, in the order of the modules:
//!
//! 1. [`geo`]: a GeoIP database becomes one sorted list of address runs, each with a place, or with a
//!    rule that lists regions ([`rules`]).
//! 2. `eligible`: for each site, members are ruled out with a reason (not a node, not certified,
//!    out of reach, stale, draining, full…); when nobody is left, the rules give way one by one
//!    until somebody is: an answer is never empty while the site has any node.
//! 3. `observe` and `physics`: what members measured is gathered by client prefix and place; what
//!    light forbids is set aside, so that no member draws clients by claiming to be near them.
//!    `estimate`: measured round-trip times decide; what was not measured is estimated from what
//!    was, and from distance. `explore`: a small share of clients tries what may be better.
//!    `knowledge` puts these together: who belongs to which `locality`, and the order of replicas there.
//! 4. `table`: the choices of every run are merged where they are equal, so that a lookup is one
//!    binary search and tells the widest prefix over which the answer holds (the ECS scope of
//!    RFC 7871).
//! 5. `asked`, `division` and `spill`: what clients ask for, by locality, is divided among the replicas
//!    so that nobody gets more than it can take while others have room; `decisions` counts what came
//!    of it.
//! 6. `split`: where one answer does not suit all clients of a run, they are divided by hashing.
//! 7. `homes`: for home addresses, the nodes in classes of equals, for every client.
//! 8. [`why`]: the same functions run again for one client, and every reason is kept.
//!
//! # Trade-offs
//!
//! A generation is computed whole, not patched: O(m²) for the members' round-trip times, and for
//! each distinct set of eligible replicas O(p·r + n), with m members, p places and observed
//! prefixes, r replicas and n address runs. Sites with the same set share one table. A network of
//! tens of members and a testbed's database takes well under a millisecond; a city database with
//! millions of runs takes seconds per set and is better thinned before (see [`geo`]).
//!
//! A generation depends on its inputs alone: redirectors that have heard the same tell the same,
//! whenever they were started and in whatever order they heard it. Choices are steadied by what is in
//! the inputs: they lean on who serves a locality today, and what members tell moves by steps. Who is
//! silent about demand has no such steadying, and no clients to be moved.

#![cfg_attr(test, allow(clippy::unwrap_used, reason = "a test may panic"))]

mod asked;
mod decisions;
mod division;
mod eligible;
mod estimate;
mod explore;
pub mod export;
mod generation;
pub mod geo;
mod grounds;
mod group;
mod homes;
mod index;
mod inputs;
mod knowledge;
mod locality;
mod mmdb;
mod observe;
mod overlay;
mod physics;
mod range;
pub mod rules;
mod spill;
mod split;
mod table;
mod told;
mod whole;
pub mod why;

pub use decisions::{Because, Decisions};
pub use eligible::{Exclusion, Tier};
pub use estimate::Source;
pub use explore::{Exploration, PERMILLE_MAX};
pub use generation::{Answer, Choice, ChoiceKey, Generation, Ranked, Ranking, SiteRef};
pub use geo::{GeoDb, GeoError};
pub use homes::{HomeInput, HomeRanks};
pub use inputs::{
    CheckInput, DemandInput, Health, Hosting, Inputs, LoadError, MemberInput, Service, SiteInput,
};
pub use observe::Measurement;
pub use rules::Rules;
pub use why::{KnownBy, Why};

/// The current generation, swapped in whole: readers load it once per question and never wait.
pub type Shared = std::sync::Arc<arc_swap::ArcSwap<Generation>>;
