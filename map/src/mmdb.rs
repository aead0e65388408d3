//! Reading MaxMind's format: the only place that knows the foreign library.
//!
//! Many networks share a record, so each record is decoded once, and only the few fields that
//! matter.

use crate::geo::{Builder, GeoError, PlaceId};
use crate::rules::{Codes, RuleId, Rules};
use godwit_core::geo::Coordinates;
use ipnet::IpNet;
use maxminddb::{LookupResult, MaxMindDbError, PathElement, Reader, WithinOptions};
use std::collections::HashMap;

/// At most so many networks are walked: the largest city databases have about 6 million.
const NETWORKS_MAX: usize = 32 * 1024 * 1024;

/// A network's record.
type Record<'a> = LookupResult<'a, Vec<u8>>;

/// Reads where networks are.
pub(crate) fn read_places(bytes: Vec<u8>, builder: &mut Builder) -> Result<(), GeoError> {
    walk(bytes, builder, |record, builder| {
        Ok(coordinates(record)?.map_or(PlaceId::NONE, |coordinates| builder.point(coordinates)))
    })?;
    if builder.is_empty() { Err(GeoError::NoPlaces) } else { Ok(()) }
}

/// Reads under which rule networks are by their areas, and where they are when geography is heeded.
pub(crate) fn read_areas(
    bytes: Vec<u8>,
    rules: &Rules,
    place: &impl Fn(RuleId) -> PlaceId,
    builder: &mut Builder,
) -> Result<(), GeoError> {
    let (mut areas, mut points) = (false, false);
    walk(bytes, builder, |record, builder| {
        let codes = codes(record)?;
        areas |= codes.country.is_some() || codes.continent.is_some();
        if let Some(rule) = rules.of_areas(&codes) {
            return Ok(place(rule));
        }
        let coordinates = if rules.heed_geography() { coordinates(record)? } else { None };
        points |= coordinates.is_some();
        Ok(coordinates.map_or(PlaceId::NONE, |coordinates| builder.point(coordinates)))
    })?;
    if rules.have_areas() && !areas {
        return Err(GeoError::NoAreas);
    }
    if rules.heed_geography() && !rules.have_areas() && !points {
        return Err(GeoError::NoPlaces);
    }
    Ok(())
}

fn walk(
    bytes: Vec<u8>,
    builder: &mut Builder,
    mut place: impl FnMut(&Record<'_>, &mut Builder) -> Result<PlaceId, GeoError>,
) -> Result<(), GeoError> {
    let reader = Reader::from_source(bytes).map_err(damaged)?;
    reader.verify().map_err(damaged)?;
    let mut known: HashMap<usize, PlaceId> = HashMap::new();
    for (count, found) in reader.networks(WithinOptions::default()).map_err(damaged)?.enumerate() {
        if count >= NETWORKS_MAX {
            return Err(GeoError::Damaged(format!("more than {NETWORKS_MAX} networks")));
        }
        let found = found.map_err(damaged)?;
        let Some(offset) = found.offset() else { continue };
        let place = match known.get(&offset) {
            Some(place) => *place,
            None => *known.entry(offset).or_insert(place(&found, builder)?),
        };
        let network = found.network().map_err(damaged)?;
        let network = IpNet::new(network.ip(), network.prefix())
            .map_err(|_| GeoError::Damaged("a network with an impossible prefix".to_owned()))?;
        builder.push(network, place);
    }
    Ok(())
}

fn coordinates(record: &Record<'_>) -> Result<Option<Coordinates>, GeoError> {
    let degrees = |field| {
        let path = [PathElement::Key("location"), PathElement::Key(field)];
        record.decode_path::<f64>(&path).map_err(damaged)
    };
    let (Some(lat), Some(lon)) = (degrees("latitude")?, degrees("longitude")?) else { return Ok(None) };
    match Coordinates::new(lat, lon) {
        Ok(coordinates) => Ok(Some(coordinates)),
        Err(_) => Err(GeoError::Damaged(format!("{lat},{lon} is no place on Earth"))),
    }
}

fn codes(record: &Record<'_>) -> Result<Codes, GeoError> {
    let code = |path: &[PathElement<'_>]| record.decode_path::<String>(path).map_err(damaged);
    use PathElement::{Index, Key};
    Ok(Codes {
        continent: code(&[Key("continent"), Key("code")])?,
        country: code(&[Key("country"), Key("iso_code")])?,
        subdivision: code(&[Key("subdivisions"), Index(0), Key("iso_code")])?,
    })
}

fn damaged(error: MaxMindDbError) -> GeoError {
    GeoError::Damaged(error.to_string())
}
