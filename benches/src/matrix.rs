//! Measured round-trip times between places.

use anyhow::{Context, bail};
use clap::ValueEnum;
use godwit_core::geo::Coordinates;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// A measured data set.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Source {
    /// 241 cities, WonderNetwork, November 2018.
    Wonder2018,
    /// 69 cloud regions, Skyplane, April 2022.
    Cloud2022,
    /// 32 AWS regions, medians of a year to May 2025.
    Aws2025,
}

/// Places and the round-trip times between them.
pub(crate) struct Matrix {
    pub(crate) places: Vec<Place>,
    /// Milliseconds, row by row; `None` where nothing was measured.
    rtts: Vec<Option<f64>>,
    /// The same of single pings, where they are known; empty where no pair's are.
    spreads: Vec<Option<Spread>>,
}

/// What the pings of a pair came to, ms.
#[derive(Clone, Copy)]
pub(crate) struct Spread {
    pub(crate) min: f64,
    pub(crate) avg: f64,
    pub(crate) max: f64,
    pub(crate) mdev: f64,
}

/// A place.
pub(crate) struct Place {
    pub(crate) name: String,
    pub(crate) coordinates: Coordinates,
}

impl Matrix {
    /// Reads a data set.
    pub(crate) fn read(source: Source) -> anyhow::Result<Matrix> {
        let data = data()?;
        match source {
            Source::Wonder2018 => pairs(&data, "wonder2018_cities.csv", (0, 1, 4, 5), "wonder2018_rtt.csv"),
            Source::Cloud2022 => pairs(&data, "cloud2022_regions.csv", (0, 0, 3, 4), "cloud2022_rtt.csv"),
            Source::Aws2025 => square(&data),
        }
    }

    /// Round-trip time in ms: the mean of both directions, or the one that was measured.
    pub(crate) fn rtt(&self, a: usize, b: usize) -> Option<f64> {
        let one = |a: usize, b: usize| self.rtts[a * self.places.len() + b];
        match (one(a, b), one(b, a)) {
            (Some(there), Some(back)) => Some((there + back) / 2.0),
            (there, back) => there.or(back),
        }
    }

    /// Whether it tells more than one number of a pair.
    pub(crate) fn has_spreads(&self) -> bool {
        !self.spreads.is_empty()
    }

    /// How the pings of a pair differed: the means of both directions, or the one that was measured.
    pub(crate) fn spread(&self, a: usize, b: usize) -> Option<Spread> {
        let one = |a: usize, b: usize| self.spreads.get(a * self.places.len() + b).copied().flatten();
        match (one(a, b), one(b, a)) {
            (Some(there), Some(back)) => Some(Spread {
                min: (there.min + back.min) / 2.0,
                avg: (there.avg + back.avg) / 2.0,
                max: (there.max + back.max) / 2.0,
                mdev: (there.mdev + back.mdev) / 2.0,
            }),
            (there, back) => there.or(back),
        }
    }
}

/// People nearer than this to a place count as its clients, km.
const NEAR_KM: f64 = 250.0;
/// People at a place near which no large city is, millions.
const FEW: f64 = 0.1;

impl Matrix {
    /// People near each place, millions: of every city above 400,000, at the nearest place.
    pub(crate) fn population(&self) -> anyhow::Result<Vec<f64>> {
        let mut population = vec![FEW; self.places.len()];
        for line in lines(&data()?.join("cities_geonames.csv"))? {
            // Names may hold commas: the numbers are the last three fields.
            let number = |from_end: usize| -> anyhow::Result<f64> {
                Ok(field(&line, line.len().saturating_sub(from_end))?.parse()?)
            };
            let city = Coordinates::new(number(3)?, number(2)?)?;
            let km = self.places.iter().map(|place| place.coordinates.distance_km(city));
            let nearest = km.enumerate().min_by(|a, b| a.1.total_cmp(&b.1));
            if let Some((place, _)) = nearest.filter(|(_, km)| *km < NEAR_KM) {
                population[place] += number(1)? / 1e6;
            }
        }
        Ok(population)
    }
}

/// How round-trip times of real pairs of end hosts went up and down over three hours: 40 hosts,
/// 172 frames.
pub(crate) struct Series {
    /// By pair, a factor on its median for each frame.
    pairs: Vec<Vec<f64>>,
}

impl Series {
    /// Reads the data set.
    pub(crate) fn read() -> anyhow::Result<Series> {
        let mut by_pair: BTreeMap<(usize, usize), Vec<f64>> = BTreeMap::new();
        for line in lines(&data()?.join("seattle_series.csv"))? {
            let source: usize = field(&line, 1)?.parse()?;
            for (target, ms) in line.iter().skip(2).enumerate().filter(|(target, _)| *target != source) {
                // A blank cell is a frame without a measurement.
                if let Ok(ms) = ms.parse() {
                    by_pair.entry((source, target)).or_default().push(ms);
                }
            }
        }
        let relative = |series: Vec<f64>| -> Option<Vec<f64>> {
            let mut sorted = series.clone();
            sorted.sort_by(f64::total_cmp);
            let median = *sorted.get(sorted.len() / 2)?;
            (median > 0.0).then(|| series.iter().map(|ms| ms / median).collect())
        };
        Ok(Series { pairs: by_pair.into_values().filter_map(relative).collect() })
    }

    /// The factor of a pair at a time between 0 and 1.
    pub(crate) fn factor(&self, pair: usize, time: f64) -> f64 {
        let series = &self.pairs[pair % self.pairs.len()];
        series[((time * series.len() as f64) as usize).min(series.len() - 1)]
    }
}

fn data() -> anyhow::Result<PathBuf> {
    let beside = concat!(env!("CARGO_MANIFEST_DIR"), "/../../shared");
    let root = std::env::var_os("GODWIT_SHARED").map_or_else(|| PathBuf::from(beside), PathBuf::from);
    let data = root.join("data");
    if !data.is_dir() {
        bail!(
            "the measured data sets are not in {}: set GODWIT_SHARED to the folder with `data`",
            data.display()
        );
    }
    Ok(data)
}

fn lines(path: &Path) -> anyhow::Result<Vec<Vec<String>>> {
    let text = std::fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
    Ok(text.lines().skip(1).map(|line| line.split(',').map(str::to_owned).collect()).collect())
}

fn field(line: &[String], at: usize) -> anyhow::Result<&str> {
    Ok(line.get(at).with_context(|| format!("no field {at} in {line:?}"))?)
}

/// A file of places (columns: key, name, latitude, longitude) and one of ordered pairs, whose
/// third to sixth columns are minimum, average, maximum and deviation.
fn pairs(
    data: &Path,
    places: &str,
    columns: (usize, usize, usize, usize),
    rtts: &str,
) -> anyhow::Result<Matrix> {
    let mut matrix = Matrix { places: Vec::new(), rtts: Vec::new(), spreads: Vec::new() };
    let mut numbers = BTreeMap::new();
    for line in lines(&data.join(places))? {
        numbers.insert(field(&line, columns.0)?.to_owned(), matrix.places.len());
        let (lat, lon) = (field(&line, columns.2)?.parse()?, field(&line, columns.3)?.parse()?);
        matrix.places.push(Place {
            name: field(&line, columns.1)?.to_owned(),
            coordinates: Coordinates::new(lat, lon)?,
        });
    }
    matrix.rtts = vec![None; numbers.len() * numbers.len()];
    matrix.spreads = vec![None; numbers.len() * numbers.len()];
    for line in lines(&data.join(rtts))? {
        let (from, to) = (numbers.get(field(&line, 0)?), numbers.get(field(&line, 1)?));
        if let (Some(from), Some(to)) = (from, to) {
            let number = |at: usize| -> anyhow::Result<f64> { Ok(field(&line, at)?.parse()?) };
            let spread = Spread { min: number(2)?, avg: number(3)?, max: number(4)?, mdev: number(5)? };
            matrix.rtts[from * numbers.len() + to] = Some(spread.avg);
            matrix.spreads[from * numbers.len() + to] = Some(spread);
        }
    }
    Ok(matrix)
}

fn square(data: &Path) -> anyhow::Result<Matrix> {
    let mut matrix = Matrix { places: Vec::new(), rtts: Vec::new(), spreads: Vec::new() };
    for line in lines(&data.join("aws2025_regions.csv"))? {
        let (lat, lon) = (field(&line, 3)?.parse()?, field(&line, 4)?.parse()?);
        matrix
            .places
            .push(Place { name: field(&line, 0)?.to_owned(), coordinates: Coordinates::new(lat, lon)? });
    }
    for (line, place) in lines(&data.join("aws2025_rtt_p50.csv"))?.iter().zip(&matrix.places) {
        anyhow::ensure!(field(line, 0)? == place.name, "rows and regions differ at {}", place.name);
        for at in 1..=matrix.places.len() {
            matrix.rtts.push(Some(field(line, at)?.parse()?));
        }
    }
    Ok(matrix)
}
