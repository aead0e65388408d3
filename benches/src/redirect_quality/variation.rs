//! How round-trip times vary while a set is measured.
//!
//! - *steady*: not at all;
//! - *paths*: as the path's own pings did: each pair of the matrix has a minimum, an average, a
//!   maximum and a deviation of thirty pings. What is above the minimum is drawn from a log-normal
//!   distribution with that mean and deviation, half of it (by variance) anew for each connection,
//!   half following a slow course with knots half an hour apart, the same for all networks of a
//!   city: congestion comes and goes, and whoever asks twice within it hears the same twice;
//! - *hosts*: as the times between real end hosts did over three hours (Zhu et al., ToN 2017). Very
//!   noisy, since hosts and their access lines are: the p95 of a pair is 3.5 times its median. Here
//!   that noise is laid over the whole path, and over each path by itself: hostile.
//!
//! The truth that choices are judged by is the pair's median.

use crate::matrix::{Matrix, Series, Spread};
use clap::ValueEnum;
use rand::Rng;
use rand_chacha::ChaCha8Rng;
use serde::Serialize;

/// Knots of the slow course, epochs apart: half an hour.
const KNOT_EPOCHS: f64 = 3.0;
/// The part of the variance that is slow.
const SLOW: f64 = 0.5;

/// Which kind.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum Kind {
    /// Not at all.
    Steady,
    /// As the pings of each path did.
    Paths,
    /// As times between end hosts did.
    Hosts,
}

/// Of a matrix.
pub(super) struct Variation {
    kind: Kind,
    series: Option<Series>,
    epochs: usize,
}

impl Variation {
    pub(super) fn read(kind: Kind, epochs: usize, matrix: &Matrix) -> anyhow::Result<Variation> {
        anyhow::ensure!(kind != Kind::Paths || matrix.has_spreads(), "the matrix has medians only");
        let series = if kind == Kind::Hosts { Some(Series::read()?) } else { None };
        Ok(Variation { kind, series, epochs })
    }

    pub(super) fn is_steady(&self) -> bool {
        self.kind == Kind::Steady
    }

    /// The median round-trip time of a pair, ms.
    pub(super) fn median(&self, matrix: &Matrix, a: usize, b: usize) -> Option<f64> {
        let mean = matrix.rtt(a, b)?;
        match self.kind {
            Kind::Steady | Kind::Hosts => Some(mean),
            Kind::Paths => Some(matrix.spread(a, b).map_or(mean, |spread| spread.at(0.0))),
        }
    }

    /// What a connection between a pair measures at a time, in epochs, ms.
    pub(super) fn sample(
        &self,
        matrix: &Matrix,
        (a, b): (usize, usize),
        time: f64,
        rng: &mut ChaCha8Rng,
    ) -> Option<f64> {
        let median = self.median(matrix, a, b)?;
        let pair = a * 1009 + b * 31;
        match (&self.series, self.kind) {
            (Some(series), _) => Some(median * series.factor(pair, time / (self.epochs + 1) as f64)),
            (None, Kind::Paths) => {
                let z =
                    SLOW.sqrt() * slow(pair, time) + (1.0 - SLOW).sqrt() * normal(rng.random(), rng.random());
                Some(matrix.spread(a, b).map_or(median, |spread| spread.at(z)))
            }
            (None, Kind::Steady | Kind::Hosts) => Some(median),
        }
    }
}

impl Spread {
    /// What is `z` deviations above the median, ms.
    fn at(&self, z: f64) -> f64 {
        let (mean, mdev) = (self.avg - self.min, self.mdev);
        if mean <= 0.0 || mdev <= 0.0 {
            return self.avg;
        }
        let variance = (1.0 + (mdev / mean).powi(2)).ln();
        let excess = (mean.ln() - variance / 2.0 + variance.sqrt() * z).exp();
        (self.min + excess).min(self.max.max(self.avg))
    }
}

/// The slow course of a pair: standard normal at each time, going over from knot to knot.
fn slow(pair: usize, time: f64) -> f64 {
    let at = time / KNOT_EPOCHS;
    let (knot, part) = (at.floor(), at.fract() * std::f64::consts::FRAC_PI_2);
    let value = |knot: f64| {
        let one = super::world::lot(pair.wrapping_mul(4099).wrapping_add(knot as usize));
        let uniform = |bits: u64| ((bits >> 11) as f64 + 0.5) / (1u64 << 53) as f64;
        normal(uniform(one), uniform(super::world::lot(one as usize)))
    };
    value(knot) * part.cos() + value(knot + 1.0) * part.sin()
}

/// A standard normal number from two uniform ones (Box and Muller).
fn normal(a: f64, b: f64) -> f64 {
    (-2.0 * a.max(1e-12).ln()).sqrt() * (std::f64::consts::TAU * b).cos()
}
