//! Why each address is told what it is told, compiled: so that every answer can be counted by its
//! reason when it is given, as quickly as it is found.
//!
//! What an answer is, and how far around the client it is the same, is the [`crate::table`]'s; two
//! neighbours that are told the same for different reasons must not get a narrower scope for it. So the
//! reasons have runs of their own. They follow places and prefixes, and there are as few as these
//! differ: with rules alone there is one.

use crate::decisions::Because;
use crate::index::Indexed;
use crate::told::Told;

/// What decides for a locality.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Ground {
    /// Nothing is known of it.
    Hash,
    /// A rule.
    Rule,
    /// Estimates.
    Ranked {
        /// The value that its clients have who do not explore.
        usual: u32,
        favourites: Favourites,
    },
}

/// Who has reasons to be told first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Favourites {
    /// The nearest member that serves them.
    pub(crate) nearest: Option<u32>,
    /// Who has them already and may keep them.
    pub(crate) keeper: Option<u32>,
}

/// The grounds of a table.
#[derive(Debug)]
pub(crate) struct Grounds {
    pub(crate) grounds: Vec<Ground>,
    /// Runs of their numbers.
    pub(crate) v4: Indexed<u32, u32>,
    pub(crate) v6: Indexed<u128, u32>,
}

impl Ground {
    /// Why a client with this value is told this.
    pub(crate) fn because(self, value: u32, told: &Told) -> Because {
        match (self, told.first()) {
            (Ground::Rule, _) => Because::Rule,
            (Ground::Hash, _) | (_, None) => Because::Hash,
            (Ground::Ranked { usual, .. }, _) if usual != value => Because::Exploration,
            (Ground::Ranked { favourites, .. }, Some(first)) => favourites.because(first),
        }
    }
}

impl Favourites {
    /// Why this one is told first to clients who do not explore.
    pub(crate) fn because(self, first: u32) -> Because {
        match self {
            Favourites { nearest: None, .. } => Because::Nearest,
            Favourites { nearest, .. } if nearest == Some(first) => Because::Nearest,
            Favourites { keeper, .. } if keeper == Some(first) => Because::Kept,
            Favourites { .. } => Because::Overflow,
        }
    }
}
