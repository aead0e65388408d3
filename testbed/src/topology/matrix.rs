//! Measured matrices from CSV files.
//!
//! Two shapes are read, told apart by the header:
//!
//! - *pairs*: `src,dst,min_ms,avg_ms,...`, one line for each direction; the column taken is
//!   `min_ms`, else `avg_ms`, else `rtt_ms`: the smallest is the path itself, without the queues of
//!   that day, which the fabric adds by itself where it has a rate;
//! - *square*: `src,a,b,c,...`, one line for each source.
//!
//! Places come from a second file beside it, with columns `id` or `region`, `city`, `lat`, `lon`:
//! `x_rtt.csv` goes with `x_cities.csv` or `x_regions.csv`.
//!
//! Measured data has holes. A missing direction is taken from the other one; a pair that is missing
//! both ways is filled by the model, and both are counted in a warning.

use super::{Region, World, model};
use anyhow::{Context, bail};
use godwit_core::geo::Coordinates;
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

/// More lines than a matrix of 1,000 places has.
const LINES_MAX: usize = 1_100_000;

/// Slower than any path on Earth, ms; a value beyond is a mistake in the file.
const RTT_MS_MAX: f64 = 10_000.0;

/// Reads a matrix and the places beside it.
pub fn load(path: &Path) -> anyhow::Result<World> {
    let text = std::fs::read_to_string(path)
        .with_context(|| format!("cannot read the matrix {}", path.display()))?;
    let places_path = places_beside(path)?;
    let places_text = std::fs::read_to_string(&places_path)
        .with_context(|| format!("cannot read the places {}", places_path.display()))?;
    let places = parse_places(&places_text).with_context(|| format!("in {}", places_path.display()))?;
    let rtts = parse_rtts(&text).with_context(|| format!("in {}", path.display()))?;
    Ok(assemble(&places, &rtts))
}

fn places_beside(path: &Path) -> anyhow::Result<PathBuf> {
    let name = path.file_name().and_then(|name| name.to_str()).context("the matrix has no file name")?;
    let stem = name.find("_rtt").map_or(name.trim_end_matches(".csv"), |at| &name[..at]);
    let candidates = ["cities", "regions"].map(|kind| path.with_file_name(format!("{stem}_{kind}.csv")));
    let found = candidates.iter().find(|candidate| candidate.exists());
    let [cities, regions] = &candidates;
    found.cloned().with_context(|| {
        format!(
            "a matrix needs the places of its regions beside it: {} or {}",
            cities.display(),
            regions.display()
        )
    })
}

/// A place as the file has it: in the file's order, by the id that the matrix uses.
struct Place {
    id: String,
    region: Region,
}

fn parse_places(text: &str) -> anyhow::Result<Vec<Place>> {
    let mut lines = numbered_lines(text);
    let (_, header) = lines.next().context("the file is empty")?;
    let columns = fields(header);
    let column = |name: &str| columns.iter().position(|c| c == name);
    let id_column = column("id").or(column("region")).context("there is no column id or region")?;
    let (lat, lon) = column("lat").zip(column("lon")).context("there are no columns lat and lon")?;
    let name_column = if column("region").is_some() { column("region") } else { column("city") };
    let mut taken = BTreeSet::new();
    let mut places = Vec::new();
    for (number, line) in lines {
        let values = fields(line);
        let value =
            |at: usize| values.get(at).map(String::as_str).with_context(|| format!("line {number} is short"));
        let degrees = |at: usize| -> anyhow::Result<f64> {
            value(at)?.parse().with_context(|| format!("line {number}: {:?} is not a number", values[at]))
        };
        let place =
            Coordinates::new(degrees(lat)?, degrees(lon)?).with_context(|| format!("line {number}"))?;
        let id = value(id_column)?.to_owned();
        let name = unique(label(value(name_column.unwrap_or(id_column))?), &mut taken);
        places.push(Place { id, region: Region { name, place } });
    }
    Ok(places)
}

/// Round-trip times by the ids of source and destination.
type Rtts = BTreeMap<(String, String), f64>;

fn parse_rtts(text: &str) -> anyhow::Result<Rtts> {
    let mut lines = numbered_lines(text);
    let (_, header) = lines.next().context("the file is empty")?;
    let columns = fields(header);
    if columns.first().map(String::as_str) != Some("src") || columns.len() < 2 {
        bail!(
            "the first line must start with src: either src,dst,min_ms,... or src and a column for each region"
        );
    }
    let column = |name: &str| columns.iter().position(|c| c == name);
    let pairs = (columns[1] == "dst")
        .then(|| {
            column("min_ms")
                .or(column("avg_ms"))
                .or(column("rtt_ms"))
                .context("no column min_ms, avg_ms or rtt_ms")
        })
        .transpose()?;
    let mut rtts = Rtts::new();
    for (number, line) in lines {
        let values = fields(line);
        if values.len() != columns.len() {
            bail!("line {number} has {} fields, the first line has {}", values.len(), columns.len());
        }
        let mut add = |dst: &str, value: &str| -> anyhow::Result<()> {
            if value.is_empty() {
                return Ok(());
            }
            let rtt = value.parse::<f64>().ok().filter(|rtt| (0.0..=RTT_MS_MAX).contains(rtt));
            let rtt =
                rtt.with_context(|| format!("line {number}: {value:?} is not a round-trip time in ms"))?;
            rtts.insert((values[0].clone(), dst.to_owned()), rtt);
            Ok(())
        };
        match pairs {
            Some(at) => add(&values[1], &values[at])?,
            None => columns.iter().zip(&values).skip(1).try_for_each(|(dst, value)| add(dst, value))?,
        }
    }
    Ok(rtts)
}

fn assemble(places: &[Place], rtts: &Rtts) -> World {
    // A place without any measurement is no use in a measured world.
    let measured: BTreeSet<&str> = rtts.keys().flat_map(|(src, dst)| [src.as_str(), dst.as_str()]).collect();
    let places: Vec<&Place> = places.iter().filter(|place| measured.contains(place.id.as_str())).collect();
    let count = places.len();
    let (mut rtt_ms, mut one_way, mut modelled, mut too_fast) = (vec![0.0; count * count], 0, 0, Vec::new());
    for a in 0..count {
        for b in 0..a {
            let measured =
                |src: usize, dst: usize| rtts.get(&(places[src].id.clone(), places[dst].id.clone())).copied();
            let (from, to) = (&places[a].region, &places[b].region);
            // Both directions measure the same round trip; the smaller had less queueing.
            let rtt = match (measured(a, b), measured(b, a)) {
                (Some(there), Some(back)) => there.min(back),
                (Some(only), None) | (None, Some(only)) => {
                    one_way += 1;
                    only
                }
                (None, None) => {
                    modelled += 1;
                    model::rtt_ms_between(from.place, to.place, 1.0)
                }
            };
            let light = from.place.distance_km(to.place) * model::LIGHT_RTT_MS_PER_KM;
            // Coordinates are a city's, so neighbours may be some km nearer than they seem.
            if rtt + 0.5 < light {
                too_fast.push(format!("{} - {} ({rtt:.1} ms, light needs {light:.1})", from.name, to.name));
            }
            rtt_ms[a * count + b] = rtt;
            rtt_ms[b * count + a] = rtt;
        }
    }
    let mut warnings = Vec::new();
    if one_way + modelled > 0 {
        warnings.push(format!(
            "of {} pairs, {one_way} were measured in one direction only and {modelled} are filled by the model",
            count * count.saturating_sub(1) / 2
        ));
    }
    if let Some(first) = too_fast.first() {
        let count = too_fast.len();
        warnings.push(format!(
            "{count} pairs are faster than light in fibre, so a place is wrong: first {first}"
        ));
    }
    let regions = places.into_iter().map(|place| place.region.clone()).collect();
    World { regions, rtt_ms, warnings, curated: false }
}

fn numbered_lines(text: &str) -> impl Iterator<Item = (usize, &str)> {
    let lines = text.lines().enumerate().map(|(at, line)| (at + 1, line));
    lines.filter(|(_, line)| !line.trim().is_empty()).take(LINES_MAX)
}

/// The fields of a CSV line; a field with a comma in it stands in quotes, RFC 4180.
fn fields(line: &str) -> Vec<String> {
    let (mut fields, mut field, mut quoted) = (Vec::new(), String::new(), false);
    let mut chars = line.trim_end().chars().peekable();
    while let Some(c) = chars.next() {
        match c {
            '"' if quoted && chars.peek() == Some(&'"') => field.extend(chars.next()),
            '"' => quoted = !quoted,
            ',' if !quoted => fields.push(std::mem::take(&mut field)),
            c => field.push(c),
        }
    }
    fields.push(field);
    fields
}

/// A name as a DNS label: lower case, anything else than letters and digits becomes one hyphen.
/// At most 40 characters, so that a host's name made of it is a label too.
fn label(text: &str) -> String {
    let mut label = String::new();
    for c in text.chars().flat_map(char::to_lowercase) {
        match c {
            'a'..='z' | '0'..='9' => label.push(c),
            _ if label.ends_with('-') || label.is_empty() => {}
            _ => label.push('-'),
        }
    }
    label.truncate(40);
    let label = label.trim_end_matches('-');
    if label.is_empty() { "place".into() } else { label.into() }
}

fn unique(name: String, taken: &mut BTreeSet<String>) -> String {
    let mut candidate = name.clone();
    let mut number = 2;
    while !taken.insert(candidate.clone()) {
        candidate = format!("{name}-{number}");
        number += 1;
    }
    candidate
}

#[cfg(test)]
mod tests {
    use super::*;

    const PLACES: &str = "id,city,country,continent,lat,lon\n0,Paris,France,Europe,48.86,2.35\n\
        1,\"São Paulo, SP\",Brazil,South America,-23.55,-46.63\n2,Paris,United States,North America,33.66,-95.55\n";

    fn world(rtts: &str) -> World {
        assemble(&parse_places(PLACES).unwrap(), &parse_rtts(rtts).unwrap())
    }

    #[test]
    fn pairs_with_holes() {
        let world = world("src,dst,min_ms,avg_ms\n0,1,200,210\n1,0,190,300\n0,2,120,120\n");
        let names: Vec<_> = world.regions.iter().map(|region| region.name.as_str()).collect();
        assert_eq!(names, ["paris", "s-o-paulo-sp", "paris-2"]);
        assert_eq!((world.rtt(0, 1), world.rtt(1, 0), world.rtt(2, 0)), (190.0, 190.0, 120.0));
        assert!(world.rtt(1, 2) > 100.0, "filled by the model");
        assert!(
            world.warnings[0].contains("1 were measured in one direction only and 1 are filled"),
            "{:?}",
            world.warnings
        );
    }

    #[test]
    fn square_and_faster_than_light() {
        let world = world("src,0,1\n0,1.5,12\n1,12,2\n");
        assert_eq!(world.regions.len(), 2, "a place without measurements is left out");
        assert_eq!(world.rtt(1, 0), 12.0);
        assert!(
            world.warnings.iter().any(|warning| warning.contains("faster than light")),
            "{:?}",
            world.warnings
        );
    }

    #[test]
    fn mistakes_name_their_line() {
        for (text, expected) in [
            ("", "empty"),
            ("a,b\n", "must start with src"),
            ("src,dst,foo\n", "no column"),
            ("src,dst,min_ms\n0,1\n", "line 2 has 2 fields"),
            ("src,dst,min_ms\n0,1,abc\n", "line 2: \"abc\""),
            ("src,dst,min_ms\n0,1,-3\n", "line 2: \"-3\""),
            ("src,dst,min_ms\n0,1,NaN\n", "line 2"),
        ] {
            let error = format!("{:#}", parse_rtts(text).unwrap_err());
            assert!(error.contains(expected), "{text:?}: {error}");
        }
        assert!(format!("{:#}", parse_places("id,lat,lon\n0,91,0\n").err().unwrap()).contains("line 2"));
    }

    #[test]
    fn measured_matrices_are_read() {
        let beside = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../shared");
        let shared = std::env::var_os("GODWIT_SHARED").map_or(beside, PathBuf::from);
        if !shared.join("data").exists() {
            eprintln!("SKIPPED: measured_matrices_are_read: there is no data in {}", shared.display());
            return;
        }
        for (file, regions, holes) in [
            ("wonder2018_rtt.csv", 241, true),
            ("cloud2022_rtt.csv", 69, true),
            ("aws2025_rtt_p50.csv", 32, false),
        ] {
            let matrix = Some(shared.join("data").join(file));
            let world = load(matrix.as_deref().unwrap()).unwrap();
            assert_eq!(world.regions.len(), regions, "{file}");
            assert_eq!(
                world.warnings.iter().any(|warning| warning.contains("filled by the model")),
                holes,
                "{file}"
            );
            let options =
                crate::UpOptions { regions: 20, client_regions: 10, matrix, ..crate::UpOptions::default() };
            let topology = crate::topology::Topology::build(&options).unwrap();
            assert_eq!(topology.regions.len(), 30);
        }
    }

    #[test]
    fn labels_are_labels() {
        assert_eq!(label("aws:ap-northeast-1"), "aws-ap-northeast-1");
        assert_eq!(label("Łódź"), "d");
        assert_eq!(label("--"), "place");
    }
}
