//! How wide a tunnel's path is, found without ICMP (RFC 8899): many networks drop the errors by which
//! routers tell that a packet is too big, and then what is too big vanishes.
//!
//! Each end sends the other datagrams whose *insides* have a certain length, and is told which came:
//!
//! ```text
//!  0      1           3             5
//!  │ word │ length    │ fits        │ noughts up to that length …
//!    1 did this come?   what the sender holds to fit
//!    2 it came          (what is said back is five octets long)
//! ```
//!
//! The first datagram of a round has the length that is held to fit. When it comes, that was all, for
//! [`REST`] steps. When it does not, all lengths of the ladder are tried, and this one several times more.
//! A path is held to be narrower only when smaller ones came: one that is silent says nothing about its
//! width, and one that loses at random loses small ones too. Now and then longer ones are tried again.
//!
//! There is no clock: a step is the owner's word of liveness, three times a second.

/// Steps from the end of a round to the next: five seconds.
pub const REST: u8 = 16;
/// Each so-manieth round tries longer ones: every two minutes or so.
const RAISE_EVERY: u8 = 20;
/// So many smaller ones must have come before one is held to be too long.
const SMALLER_MIN: u8 = 2;
/// At which step a round ends without an answer: two for the answer to come back, more where the length
/// has been good before.
const JUDGED_NEW: u8 = 6;
const JUDGED_PROVED: u8 = 9;
/// Outer packets of these lengths are tried: what links and tunnels in use have.
const LADDER: [u16; 12] = [1492, 1480, 1452, 1420, 1400, 1360, 1320, 1280, 1200, 1000, 800, 700];

const MEASURE: u8 = 1;
const CAME: u8 = 2;
/// Octets of a word without the noughts.
pub const WORD_LEN: usize = 5;

/// What the ends say to each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Word {
    /// Did an inside of this length come?
    Measure {
        /// Of this very word, with its noughts.
        len: u16,
        /// What its sender sends at the most.
        fits: u16,
    },
    /// It came.
    Came {
        /// What was asked about.
        len: u16,
        /// What its sender sends at the most.
        fits: u16,
    },
}

impl Word {
    /// Writes it into an inside of the right length: see [`Word::len`].
    pub fn write(&self, inside: &mut [u8]) {
        inside.fill(0);
        let (word, len, fits) = match *self {
            Word::Measure { len, fits } => (MEASURE, len, fits),
            Word::Came { len, fits } => (CAME, len, fits),
        };
        inside[0] = word;
        inside[1..3].copy_from_slice(&len.to_be_bytes());
        inside[3..5].copy_from_slice(&fits.to_be_bytes());
    }

    /// How long its inside is.
    #[allow(clippy::len_without_is_empty, reason = "no word is empty")]
    pub fn len(&self) -> usize {
        match self {
            Word::Measure { len, .. } => usize::from(*len).max(WORD_LEN),
            Word::Came { .. } => WORD_LEN,
        }
    }

    /// Reads an inside; `None` for anything else.
    pub fn read(inside: &[u8]) -> Option<Word> {
        let number = |at: usize| Some(u16::from_be_bytes([*inside.get(at)?, *inside.get(at + 1)?]));
        let (len, fits) = (number(1)?, number(3)?);
        let word = match *inside.first()? {
            MEASURE => Word::Measure { len, fits },
            CAME => Word::Came { len, fits },
            _ => return None,
        };
        (inside.len() == word.len()).then_some(word)
    }
}

/// See the module.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Width {
    /// Nothing longer is ever wanted.
    top: u16,
    /// Octets around an inside.
    overhead: u16,
    /// What is held to fit.
    fits: u16,
    /// It was seen to.
    proved: bool,
    rest: u8,
    rounds: u8,
    /// Of this round: its step, the longest that came, and how many were too short.
    step: u8,
    longest: u16,
    shorter: u8,
}

impl Width {
    /// A path of which nothing is known; at first `top` is held to fit.
    pub fn new(top: u16, overhead: u16) -> Width {
        let (step, longest, shorter) = (0, 0, 0);
        Width { top, overhead, fits: top, proved: false, rest: 0, rounds: 0, step, longest, shorter }
    }

    /// The longest inside that is held to fit.
    pub fn fits(&self) -> u16 {
        self.fits
    }

    /// A step further: insides of these lengths are to be sent. `alive` says whether anything came from
    /// there since the step before.
    pub fn step(&mut self, alive: bool) -> Vec<u16> {
        if self.rest > 0 || !alive {
            self.rest = self.rest.saturating_sub(1);
            return Vec::new();
        }
        self.step += 1;
        match self.step {
            1 if self.fits < self.top && self.rounds.is_multiple_of(RAISE_EVERY) => self.ladder(self.fits),
            1 => vec![self.fits],
            3 | 4 => self.ladder(0),
            step if step >= self.judged_at() => {
                self.judge();
                Vec::new()
            }
            5 | 6 => vec![self.fits],
            _ => Vec::new(),
        }
    }

    /// An inside of this length has come there.
    pub fn came(&mut self, len: u16) {
        if len > self.top {
            return;
        }
        if len >= self.fits {
            (self.fits, self.proved) = (len, true);
            if self.step > 0 {
                self.end_round();
            }
        } else if self.step > 0 {
            self.longest = self.longest.max(len);
            self.shorter = self.shorter.saturating_add(1);
        }
    }

    fn judged_at(&self) -> u8 {
        if self.proved { JUDGED_PROVED } else { JUDGED_NEW }
    }

    fn judge(&mut self) {
        if self.shorter >= SMALLER_MIN {
            (self.fits, self.proved) = (self.longest, true);
        }
        self.end_round();
    }

    fn end_round(&mut self) {
        (self.step, self.longest, self.shorter, self.rest) = (0, 0, 0, REST);
        self.rounds = self.rounds.wrapping_add(1);
    }

    /// The lengths from this one to the top.
    fn ladder(&self, from: u16) -> Vec<u16> {
        let inside = LADDER.iter().map(|outer| outer.saturating_sub(self.overhead));
        let mut lengths: Vec<u16> = inside.chain([self.fits, self.top]).collect();
        lengths.retain(|len| (from.max(WORD_LEN as u16)..=self.top).contains(len));
        lengths.sort_unstable();
        lengths.dedup();
        lengths
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const TOP: u16 = 1420;
    const OVERHEAD: u16 = 60;

    /// Goes so many steps on a path that lets insides through for which `passes` holds, answers arriving
    /// `late` steps later; gives the octets that were sent.
    fn run(width: &mut Width, steps: usize, late: usize, mut passes: impl FnMut(u16) -> bool) -> usize {
        let (mut sent, mut answers) = (0, std::collections::VecDeque::from(vec![Vec::new(); late]));
        for _ in 0..steps {
            let lengths = width.step(true);
            sent += lengths.iter().map(|len| usize::from(*len)).sum::<usize>();
            answers.push_back(lengths.into_iter().filter(|len| passes(*len)).collect());
            answers.pop_front().into_iter().flatten().for_each(|len| width.came(len));
        }
        sent
    }

    #[test]
    fn a_wide_path_costs_a_datagram_now_and_then() {
        let mut width = Width::new(TOP, OVERHEAD);
        let sent = run(&mut width, 170, 0, |_| true);
        assert_eq!((width.fits(), sent), (TOP, 10 * usize::from(TOP)));
    }

    #[test]
    fn a_narrow_path_is_found_at_once_and_wide_again_when_it_is() {
        for (path, found) in [(1400, 1340), (1280, 1220), (1456, 1392), (900, 740)] {
            let mut width = Width::new(TOP, OVERHEAD);
            run(&mut width, JUDGED_NEW.into(), 2, |len| len + OVERHEAD <= path);
            assert_eq!(width.fits(), found, "{path}");
            run(&mut width, 100, 2, |len| len + OVERHEAD <= path);
            assert_eq!(width.fits(), found, "{path}");
            run(&mut width, 500, 2, |_| true);
            assert_eq!(width.fits(), TOP);
            // It has become narrow under way.
            run(&mut width, (REST + JUDGED_PROVED).into(), 2, |len| len + OVERHEAD <= path);
            assert_eq!(width.fits(), found, "{path}");
        }
    }

    #[test]
    fn silence_and_loss_say_nothing_about_the_width() {
        let mut width = Width::new(TOP, OVERHEAD);
        run(&mut width, 1000, 0, |_| false);
        assert_eq!(width.fits(), TOP);
        assert!((0..1000).all(|_| width.step(false).is_empty()));
        // One in ten is lost, whatever its length.
        let (mut width, mut draw, mut narrow) = (Width::new(TOP, OVERHEAD), 1u32, 0);
        for _ in 0..20_000 {
            run(&mut width, 1, 0, |_| {
                draw = draw.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                draw >> 16 >= 6554
            });
            narrow += u32::from(width.fits() < TOP);
        }
        assert_eq!(narrow, 0);
    }

    proptest! {
        #[test]
        fn words_are_read_as_they_were_written(len: u16, fits: u16, came: bool) {
            let len = len.max(WORD_LEN as u16);
            let word = if came { Word::Came { len, fits } } else { Word::Measure { len, fits } };
            let mut inside = vec![9; word.len()];
            word.write(&mut inside);
            prop_assert_eq!(Word::read(&inside), Some(word));
            prop_assert_eq!(Word::read(&inside[..inside.len() - 1]), None);
        }

        #[test]
        fn nothing_that_is_read_is_beyond_the_top(inside: Vec<u8>, came: Vec<u16>) {
            let _ = Word::read(&inside);
            let mut width = Width::new(TOP, OVERHEAD);
            for len in came {
                width.step(true);
                width.came(len);
                prop_assert!(width.fits() <= TOP);
            }
        }
    }
}
