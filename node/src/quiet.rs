//! Keeps what repeats from filling the log: a revoked host that dials over and over is one line a
//! minute.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

/// The same thing is said again after so long.
const AGAIN: Duration = Duration::from_secs(60);

/// So many things are told apart; beyond it all are forgotten, which costs a line each.
const KINDS_MAX: usize = 256;

/// Decides what is worth a line.
#[derive(Debug, Default)]
pub(crate) struct Quiet {
    said: BTreeMap<String, (Instant, u64)>,
}

impl Quiet {
    /// Whether to say it now: then how often it happened since it was said last, without being said.
    pub(crate) fn say(&mut self, now: Instant, what: String) -> Option<u64> {
        if self.said.len() >= KINDS_MAX && !self.said.contains_key(&what) {
            self.said.clear();
        }
        match self.said.get_mut(&what) {
            Some((at, unsaid)) if now.duration_since(*at) < AGAIN => {
                *unsaid += 1;
                None
            }
            Some((at, unsaid)) => {
                *at = now;
                Some(std::mem::take(unsaid))
            }
            None => {
                self.said.insert(what, (now, 0));
                Some(0)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_is_said_once_a_minute_with_how_often_it_was_not() {
        let (mut quiet, start) = (Quiet::default(), Instant::now());
        let mut say = |secs, what: &str| quiet.say(start + Duration::from_secs(secs), what.to_owned());
        assert_eq!((say(0, "a"), say(1, "a"), say(59, "a"), say(2, "b")), (Some(0), None, None, Some(0)));
        assert_eq!((say(60, "a"), say(61, "a"), say(121, "a")), (Some(2), None, Some(1)));
        for n in 0..2 * KINDS_MAX {
            say(200, &n.to_string());
        }
        assert!(quiet.said.len() <= KINDS_MAX);
    }
}
