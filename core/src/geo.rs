//! Places on the globe.

pub mod cities;

use serde::{Deserialize, Serialize};
use std::fmt;
use std::str::FromStr;

/// A place, in thousandths of a degree (about 110 m): whole numbers, so that places compare, hash
/// and encode in one way on every machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Coordinates {
    /// Latitude, -90,000 to 90,000, north positive.
    lat_milli: i32,
    /// Longitude, -180,000 to 180,000, east positive.
    lon_milli: i32,
}

/// A text or pair of numbers is not a place.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a place is LATITUDE,LONGITUDE in degrees, -90 to 90 and -180 to 180, for example 35.68,139.69")]
pub struct BadCoordinates;

impl Coordinates {
    /// The place at `lat` and `lon` degrees.
    pub fn new(lat: f64, lon: f64) -> Result<Coordinates, BadCoordinates> {
        if !(-90.0..=90.0).contains(&lat) || !(-180.0..=180.0).contains(&lon) {
            return Err(BadCoordinates);
        }
        Ok(Coordinates { lat_milli: (lat * 1000.0).round() as i32, lon_milli: (lon * 1000.0).round() as i32 })
    }

    /// Latitude in degrees.
    pub fn lat(self) -> f64 {
        f64::from(self.lat_milli) / 1000.0
    }

    /// Longitude in degrees.
    pub fn lon(self) -> f64 {
        f64::from(self.lon_milli) / 1000.0
    }

    /// Great-circle distance in km on a sphere of 6,371 km (haversine).
    pub fn distance_km(self, other: Coordinates) -> f64 {
        let (lat1, lat2) = (self.lat().to_radians(), other.lat().to_radians());
        let dlat = lat2 - lat1;
        let dlon = (other.lon() - self.lon()).to_radians();
        let a = (dlat / 2.0).sin().powi(2) + lat1.cos() * lat2.cos() * (dlon / 2.0).sin().powi(2);
        2.0 * 6371.0 * a.sqrt().min(1.0).asin()
    }
}

impl fmt::Display for Coordinates {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{},{}", self.lat(), self.lon())
    }
}

impl FromStr for Coordinates {
    type Err = BadCoordinates;
    fn from_str(text: &str) -> Result<Coordinates, BadCoordinates> {
        let (lat, lon) = text.split_once(',').ok_or(BadCoordinates)?;
        let number = |t: &str| t.trim().parse::<f64>().map_err(|_| BadCoordinates);
        Coordinates::new(number(lat)?, number(lon)?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn distance_between_cities() {
        let paris = Coordinates::new(48.8566, 2.3522).unwrap();
        let tokyo: Coordinates = "35.6895, 139.6917".parse().unwrap();
        assert!((paris.distance_km(tokyo) - 9712.0).abs() < 15.0, "{}", paris.distance_km(tokyo));
        assert_eq!(paris.distance_km(paris), 0.0);
        assert_eq!("91,0".parse::<Coordinates>(), Err(BadCoordinates));
        assert_eq!("NaN,0".parse::<Coordinates>(), Err(BadCoordinates));
    }
}
