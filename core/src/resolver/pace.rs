//! How gently resolvers are measured.

use std::time::Duration;

/// How often strangers are bothered. The defaults are what the guide promises them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pace {
    /// At least so long between any two probes of this node.
    pub gap: Duration,
    /// At least so long between two probes of one prefix by this node.
    pub again: Duration,
    /// So long at the most between two probes of one that does not answer.
    pub backoff_max: Duration,
}

impl Default for Pace {
    fn default() -> Pace {
        Pace {
            gap: Duration::from_secs(1),
            again: Duration::from_secs(600),
            backoff_max: Duration::from_secs(24 * 3600),
        }
    }
}

impl Pace {
    /// The pause after so many probes in a row without an answer. The first silence costs nothing
    /// more: the next probe is of the other kind; then the pause doubles each time.
    pub(super) fn pause(&self, silent: u32) -> Duration {
        let factor = 1u32.checked_shl(silent.saturating_sub(1)).unwrap_or(u32::MAX);
        self.again.saturating_mul(factor).min(self.backoff_max.max(self.again))
    }
}
