//! Each counter of a key is taken once (RFC 4303, 3.4.3), in any order within a window.
//!
//! The window is a ring of words, cleared a word at a time as it moves on (RFC 6479), so that a
//! packet costs one word whatever the window's length.

/// How far behind the newest a packet may come, at the least. At a gigabit per second of full
/// packets that is 50 ms, more than paths reorder by.
pub const WINDOW: u64 = 4096;

const WORD: u64 = 64;
/// One word more than the window: the one that is being filled.
const WORDS: usize = (WINDOW / WORD) as usize + 1;

/// Which counters of one key were taken.
#[derive(Clone, Debug)]
pub struct ReplayWindow {
    /// The highest counter taken, and one.
    next: u64,
    words: [u64; WORDS],
}

impl Default for ReplayWindow {
    fn default() -> ReplayWindow {
        ReplayWindow { next: 0, words: [0; WORDS] }
    }
}

impl ReplayWindow {
    /// One that takes nothing below `next`: all of it may have been taken.
    pub fn beginning_at(next: u64) -> ReplayWindow {
        let Some(newest) = next.checked_sub(1) else { return ReplayWindow::default() };
        let mut words = [u64::MAX; WORDS];
        // Of the word that is being filled, those up to the newest.
        words[index(newest)] = u64::MAX >> (WORD - 1 - newest % WORD);
        ReplayWindow { next, words }
    }

    /// Above every counter that was taken.
    pub fn next(&self) -> u64 {
        self.next
    }

    /// Whether a packet with this counter may still be new: asked before it is opened, which costs
    /// more.
    pub fn may_take(&self, counter: u64) -> bool {
        if counter >= self.next {
            return counter < u64::MAX;
        }
        self.next - counter <= WINDOW && !self.taken(counter)
    }

    /// Takes a counter, after its packet was found authentic; whether it was new.
    pub fn take(&mut self, counter: u64) -> bool {
        if !self.may_take(counter) {
            return false;
        }
        if counter >= self.next {
            self.move_to(counter);
        }
        self.words[index(counter)] |= bit(counter);
        true
    }

    fn taken(&self, counter: u64) -> bool {
        self.words[index(counter)] & bit(counter) != 0
    }

    /// Clears the words between the newest counter and this one.
    fn move_to(&mut self, counter: u64) {
        let newest = self.next.saturating_sub(1) / WORD;
        let fresh = (counter / WORD - newest).min(WORDS as u64);
        for word in 0..fresh {
            self.words[((counter / WORD - word) % WORDS as u64) as usize] = 0;
        }
        self.next = counter + 1;
    }
}

fn index(counter: u64) -> usize {
    (counter / WORD % WORDS as u64) as usize
}

fn bit(counter: u64) -> u64 {
    1 << (counter % WORD)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    #[test]
    fn each_once_in_any_order_within_the_window() {
        let mut window = ReplayWindow::default();
        for counter in (0..WINDOW).rev() {
            assert!(window.take(counter), "{counter}");
        }
        for counter in 0..WINDOW {
            assert!(!window.take(counter), "{counter}");
        }
        assert!(window.take(WINDOW));
        assert!(!window.may_take(0), "out of the window");
        assert!(window.take(1 << 40));
        assert!(!window.take(WINDOW + 1));
        assert!(window.take((1 << 40) - WINDOW + 1));
        assert!(!window.take(u64::MAX), "the counter must not wrap");
    }

    proptest! {
        /// The same as a set that remembers everything.
        #[test]
        fn like_a_set(steps in prop::collection::vec((0u64..3, 0u64..9000), 1..400)) {
            let (mut window, mut taken, mut newest) = (ReplayWindow::default(), BTreeSet::new(), 0u64);
            for (kind, by) in steps {
                let counter = match kind {
                    0 => newest + by % 70,
                    1 => newest + by,
                    _ => newest.saturating_sub(by),
                };
                let old = newest + 1 > counter + WINDOW && !taken.is_empty();
                let expected = !old && !taken.contains(&counter);
                prop_assert_eq!(window.may_take(counter), expected);
                prop_assert_eq!(window.take(counter), expected);
                if expected {
                    taken.insert(counter);
                    newest = newest.max(counter);
                }
            }
        }
    }

    #[test]
    fn one_that_begins_later_takes_nothing_from_before() {
        for next in [0, 1, 63, 64, 4096, 5000, 1 << 40] {
            let mut window = ReplayWindow::beginning_at(next);
            assert_eq!(window.next(), next);
            for before in next.saturating_sub(2 * WINDOW)..next {
                assert!(!window.may_take(before), "{before} of {next}");
            }
            for counter in [next + 70, next, next + 1] {
                assert!(window.take(counter) && !window.take(counter), "{counter} of {next}");
            }
            assert_eq!(window.next(), next + 71);
        }
    }
}
