//! How a transfer went, as its client saw it: printed inside the host, judged outside.

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};
use std::time::{Duration, Instant};

/// Silences shorter than this are how packets come.
const SILENCE_MIN: Duration = Duration::from_millis(5);
/// Most silences that are told.
const SILENCES_MAX: usize = 20_000;
/// How far it is, is noted so often.
const NOTE_PAUSE: Duration = Duration::from_millis(50);

/// A time without an octet.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub(crate) struct Silence {
    /// When it ended, ms since 1970.
    pub(crate) until_ms: f64,
    /// How long it was, ms.
    pub(crate) ms: f64,
}

/// What a client saw of a transfer.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(crate) struct Course {
    /// Octets that came, or that were acknowledged.
    pub(crate) octets: u64,
    /// Whether each was the right one.
    pub(crate) intact: bool,
    /// Why it ended early: a reset, for example.
    pub(crate) error: Option<String>,
    /// Segments at the end, octets: those sent and those that came.
    pub(crate) segments: (u32, u32),
    pub(crate) silences: Vec<Silence>,
    /// So many octets had come when: ms since 1970.
    pub(crate) notes: Vec<(f64, u64)>,
}

/// Notes a course while it happens.
pub(crate) struct Noting {
    pub(crate) course: Course,
    last: Instant,
    noted: Option<Instant>,
}

impl Noting {
    /// Nothing has come yet.
    pub(crate) fn new() -> Noting {
        let course = Course { intact: true, ..Course::default() };
        Noting { course, last: Instant::now(), noted: None }
    }

    /// So many octets have come by now.
    pub(crate) fn at(&mut self, octets: u64) {
        if octets == self.course.octets {
            return;
        }
        let (now, silence) = (now_ms(), self.last.elapsed());
        if silence >= SILENCE_MIN && self.course.silences.len() < SILENCES_MAX {
            self.course.silences.push(Silence { until_ms: now, ms: silence.as_secs_f64() * 1e3 });
        }
        self.last = Instant::now();
        self.course.octets = octets;
        if self.noted.is_none_or(|at| at.elapsed() >= NOTE_PAUSE) {
            self.course.notes.push((now, octets));
            self.noted = Some(Instant::now());
        }
    }
}

impl Course {
    /// The longest silence that ended in this time, ms.
    pub(crate) fn silence(&self, from_ms: f64, to_ms: f64) -> f64 {
        let within = self.silences.iter().filter(|silence| (from_ms..to_ms).contains(&silence.until_ms));
        within.map(|silence| silence.ms).fold(0.0, f64::max)
    }

    /// Megabits a second between two moments.
    pub(crate) fn rate(&self, from_ms: f64, to_ms: f64) -> Result<f64> {
        let mut within = self.notes.iter().filter(|(at, _)| (from_ms..to_ms).contains(at));
        let (first, last) = (within.next(), within.next_back());
        let (first, last) = first.zip(last).context("nothing came for too long to tell a rate")?;
        Ok((last.1 - first.1) as f64 * 8e-3 / (last.0 - first.0))
    }

    /// When its first and its last octets came.
    pub(crate) fn span(&self) -> Result<(f64, f64)> {
        let ends = self.notes.first().zip(self.notes.last());
        ends.map(|(first, last)| (first.0, last.0)).context("nothing came at all")
    }
}

/// Milliseconds since 1970, the same in all hosts.
pub(crate) fn now_ms() -> f64 {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    now.map_or(0.0, |now| now.as_secs_f64() * 1e3)
}

/// What a transfer has there: no two of its thousands are alike.
pub(crate) fn octet(at: u64) -> u8 {
    (at.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 56) as u8
}

/// A part of a transfer.
pub(crate) fn octets(from: u64, to: u64) -> Vec<u8> {
    (from..to).map(octet).collect()
}

/// Whether this is what a transfer has from there on.
pub(crate) fn are_octets(bytes: &[u8], from: u64) -> bool {
    bytes.iter().zip(from..).all(|(is, at)| *is == octet(at))
}
