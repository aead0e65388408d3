//! The one clock of a daemon.
//!
//! It starts from the wall clock and then advances with the monotonic one, so that a machine never
//! sees time run backwards, whatever NTP or an operator does to the wall clock meanwhile.

use godwit_core::time::Time;
use std::sync::OnceLock;
use std::time::{Instant, SystemTime, UNIX_EPOCH};

static START: OnceLock<(Instant, Time)> = OnceLock::new();

/// The present time. A plain function, so that it can be handed to whoever needs a clock.
pub fn now() -> Time {
    let (instant, time) = *START.get_or_init(|| (Instant::now(), wall()));
    time + instant.elapsed()
}

/// The monotonic moment at which [`now`] will be `time`; a moment gone by when it has been.
pub(crate) fn instant_of(time: Time) -> tokio::time::Instant {
    tokio::time::Instant::now() + time.since(now())
}

fn wall() -> Time {
    // A wall clock before 1970 is a broken one; certificates then say that they are not valid yet.
    let elapsed = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    Time::from_millis(elapsed.as_millis().try_into().unwrap_or(u64::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn time_does_not_run_backwards_and_starts_from_the_wall() {
        let before = now();
        assert!(now() >= before);
        assert!(wall().since(before) < std::time::Duration::from_secs(3600));
    }
}
