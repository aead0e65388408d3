//! Where addresses are: a GeoIP database, read once into sorted address runs.
//!
//! A database in MaxMind's format is a search tree over address bits with a record at each leaf.
//! Nothing of it is kept: the file is read whole (never mapped: a file changed in place under a
//! mapping is undefined behaviour), verified, and walked; each leaf's coordinates become a number,
//! and neighbouring leaves of one place become one run. So a lookup is a binary search over `u32`
//! or `u128`, runs are wider than the database's own networks, and a damaged file is found at
//! load, never by a query. The reader's panics, should it have any left, end at [`GeoDb::open`].
//!
//! A place is a point to a thousandth of a degree. Databases with tens of thousands of places cost
//! each generation that many rankings per distinct set of replicas; countries or coarser cities
//! are quite enough for a *short list*, which is all that geography decides here.

use crate::range::{Bits, Ranges};
use godwit_core::geo::Coordinates;
use ipnet::IpNet;
use maxminddb::{MaxMindDbError, PathElement, Reader, WithinOptions};
use std::collections::HashMap;
use std::fmt;
use std::net::IpAddr;
use std::path::Path;
use std::sync::Arc;

/// The largest database that is read, bytes: the largest city databases have 150 MB.
const FILE_LEN_MAX: u64 = 512 * 1024 * 1024;
/// At most so many networks are walked: the largest city databases have about 6 million.
const NETWORKS_MAX: usize = 32 * 1024 * 1024;

/// Where addresses are. Cheap to clone.
#[derive(Clone)]
pub struct GeoDb(Arc<Data>);

#[derive(PartialEq)]
struct Data {
    places: Vec<Point>,
    v4: Ranges<u32, PlaceId>,
    v6: Ranges<u128, PlaceId>,
}

/// Why a database is not used. The one before stays in use.
#[derive(Debug, thiserror::Error)]
pub enum GeoError {
    /// It cannot be read.
    #[error("the GeoIP database {0} cannot be read")]
    Read(String, #[source] std::io::Error),
    /// It is larger than any such database.
    #[error("the GeoIP database has {0} bytes; at most {FILE_LEN_MAX} are read")]
    TooLarge(u64),
    /// It is no MaxMind database, or a damaged one.
    #[error("the GeoIP database is damaged or in another format: {0}")]
    Damaged(String),
    /// It is sound but says nowhere where an address is (a country or ASN database).
    #[error("the GeoIP database has no coordinates: a City database is needed")]
    NoPlaces,
}

impl GeoDb {
    /// A database that knows no address.
    pub fn empty() -> GeoDb {
        GeoDb(Arc::new(Data {
            places: Vec::new(),
            v4: Ranges::all(PlaceId::NONE),
            v6: Ranges::all(PlaceId::NONE),
        }))
    }

    /// Reads and verifies the database at `path`. Blocks; takes about a second per million networks.
    pub fn open(path: &Path) -> Result<GeoDb, GeoError> {
        let unreadable = |error| GeoError::Read(path.display().to_string(), error);
        let len = std::fs::metadata(path).map_err(unreadable)?.len();
        if len > FILE_LEN_MAX {
            return Err(GeoError::TooLarge(len));
        }
        GeoDb::from_bytes(std::fs::read(path).map_err(unreadable)?)
    }

    /// Verifies the database in `bytes`.
    pub fn from_bytes(bytes: Vec<u8>) -> Result<GeoDb, GeoError> {
        // The reader is not ours: whatever a damaged file makes it do ends here.
        std::panic::catch_unwind(|| read(bytes)).unwrap_or_else(|_| {
            Err(GeoError::Damaged("the reader of MaxMind databases gave up on it".to_owned()))
        })
    }

    /// A database made of `networks`, which do not overlap; for tests, benches and simulations.
    pub fn from_networks(networks: impl IntoIterator<Item = (IpNet, Coordinates)>) -> GeoDb {
        let mut builder = Builder::default();
        let mut networks: Vec<_> = networks.into_iter().collect();
        networks.sort();
        for (network, coordinates) in networks {
            let place = builder.place(coordinates);
            builder.push(network, place);
        }
        builder.finish()
    }

    /// Where `address` is, and the widest prefix around it that is in one place.
    pub fn lookup(&self, address: IpAddr) -> Option<(IpNet, Coordinates)> {
        let (place, scope) = match address {
            IpAddr::V4(address) => self.0.v4.get(address.into()),
            IpAddr::V6(address) => self.0.v6.get(address.into()),
        };
        let point = self.point(place)?;
        Some((IpNet::new(address, scope).ok()?.trunc(), point.coordinates))
    }

    /// How many distinct places there are.
    pub fn places(&self) -> usize {
        self.0.places.len()
    }

    /// How many runs of addresses there are, IPv4 and IPv6 together.
    pub fn runs(&self) -> usize {
        self.0.v4.len() + self.0.v6.len()
    }

    pub(crate) fn points(&self) -> &[Point] {
        &self.0.places
    }

    pub(crate) fn point(&self, place: PlaceId) -> Option<&Point> {
        self.0.places.get(place.0 as usize)
    }

    pub(crate) fn v4(&self) -> &Ranges<u32, PlaceId> {
        &self.0.v4
    }

    pub(crate) fn v6(&self) -> &Ranges<u128, PlaceId> {
        &self.0.v6
    }
}

impl fmt::Debug for GeoDb {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "GeoDb({} runs in {} places)", self.runs(), self.places())
    }
}

/// A place of a [`GeoDb`], by number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct PlaceId(u32);

impl PlaceId {
    /// Nowhere known.
    pub(crate) const NONE: PlaceId = PlaceId(u32::MAX);

    pub(crate) fn index(self) -> usize {
        self.0 as usize
    }
}

/// Coordinates with their unit vector, so that distances to many others are cheap.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Point {
    pub(crate) coordinates: Coordinates,
    vector: [f64; 3],
}

impl Point {
    pub(crate) fn new(coordinates: Coordinates) -> Point {
        let (lat, lon) = (coordinates.lat().to_radians(), coordinates.lon().to_radians());
        Point { coordinates, vector: [lat.cos() * lon.cos(), lat.cos() * lon.sin(), lat.sin()] }
    }

    /// Great-circle distance in km: from the chord, which is exact for near and far.
    pub(crate) fn distance_km(&self, other: &Point) -> f64 {
        let square = |i: usize| (self.vector[i] - other.vector[i]).powi(2);
        let chord = (square(0) + square(1) + square(2)).sqrt();
        2.0 * 6371.0 * (chord / 2.0).min(1.0).asin()
    }
}

fn read(bytes: Vec<u8>) -> Result<GeoDb, GeoError> {
    let damaged = |error: MaxMindDbError| GeoError::Damaged(error.to_string());
    let reader = Reader::from_source(bytes).map_err(damaged)?;
    reader.verify().map_err(damaged)?;
    let mut builder = Builder::default();
    // Many networks share a record: each is decoded once.
    let mut known: HashMap<usize, PlaceId> = HashMap::new();
    for (count, found) in reader.networks(WithinOptions::default()).map_err(damaged)?.enumerate() {
        if count >= NETWORKS_MAX {
            return Err(GeoError::Damaged(format!("more than {NETWORKS_MAX} networks")));
        }
        let found = found.map_err(damaged)?;
        let Some(offset) = found.offset() else { continue };
        let place = match known.get(&offset) {
            Some(place) => *place,
            None => {
                let degrees = |field| {
                    let path = [PathElement::Key("location"), PathElement::Key(field)];
                    found.decode_path::<f64>(&path).map_err(damaged)
                };
                let place = match (degrees("latitude")?, degrees("longitude")?) {
                    (Some(lat), Some(lon)) => builder.place(
                        Coordinates::new(lat, lon)
                            .map_err(|_| GeoError::Damaged(format!("{lat},{lon} is no place on Earth")))?,
                    ),
                    _ => PlaceId::NONE,
                };
                known.insert(offset, place);
                place
            }
        };
        let network = found.network().map_err(damaged)?;
        let network = IpNet::new(network.ip(), network.prefix())
            .map_err(|_| GeoError::Damaged("a network with an impossible prefix".to_owned()))?;
        builder.push(network, place);
    }
    if builder.places.is_empty() {
        return Err(GeoError::NoPlaces);
    }
    Ok(builder.finish())
}

struct Builder {
    places: Vec<Point>,
    numbers: HashMap<Coordinates, PlaceId>,
    v4: Ranges<u32, PlaceId>,
    v6: Ranges<u128, PlaceId>,
}

impl Default for Builder {
    fn default() -> Builder {
        let (v4, v6) = (Ranges::builder(PlaceId::NONE), Ranges::builder(PlaceId::NONE));
        Builder { places: Vec::new(), numbers: HashMap::new(), v4, v6 }
    }
}

impl Builder {
    fn place(&mut self, coordinates: Coordinates) -> PlaceId {
        let next = PlaceId(self.places.len() as u32);
        *self.numbers.entry(coordinates).or_insert_with(|| {
            self.places.push(Point::new(coordinates));
            next
        })
    }

    /// Adds a network. They come in ascending order, as the tree is walked from the left.
    fn push(&mut self, network: IpNet, place: PlaceId) {
        match network {
            IpNet::V4(network) => add(&mut self.v4, network.network().into(), network.prefix_len(), place),
            IpNet::V6(network) => {
                let low = u128::from(network.network());
                // A record above the IPv4 part of an IPv6 tree holds for all of IPv4.
                if low == 0 && network.prefix_len() <= 96 {
                    self.v4 = Ranges::all(place);
                }
                add(&mut self.v6, low, network.prefix_len(), place);
            }
        }
    }

    fn finish(self) -> GeoDb {
        GeoDb(Arc::new(Data { places: self.places, v4: self.v4, v6: self.v6 }))
    }
}

fn add<B: Bits>(ranges: &mut Ranges<B, PlaceId>, low: B, len: u8, place: PlaceId) {
    let (low, high) = low.block(len);
    ranges.push(low, place);
    if let Some(next) = high.next() {
        ranges.push(next, PlaceId::NONE);
    }
}
