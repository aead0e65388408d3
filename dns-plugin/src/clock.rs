//! What time it is, for what ages: signatures and keys.

use godwit_core::time::Time;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::SystemTime;

/// A clock. Cheap to clone; clones of one that is set are one.
#[derive(Clone, Debug, Default)]
pub enum Clock {
    /// The host's.
    #[default]
    Host,
    /// One that somebody else sets, milliseconds since 1970: for tests.
    Set(Arc<AtomicU64>),
}

impl Clock {
    /// What time it is.
    pub fn now(&self) -> Time {
        match self {
            Clock::Host => {
                let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
                Time::from_millis(since.as_millis().try_into().unwrap_or(u64::MAX))
            }
            Clock::Set(millis) => Time::from_millis(millis.load(Ordering::Relaxed)),
        }
    }
}
