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
//!
//! In place of a point a run may have a rule ([`crate::rules`]): then regions are listed, not found.

use crate::mmdb;
use crate::range::{Bits, Ranges};
use crate::rules::{Rule, RuleId, Rules, RulesError};
use godwit_core::geo::Coordinates;
use godwit_core::name::RegionName;
use ipnet::IpNet;
use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::net::IpAddr;
use std::path::Path;
use std::sync::Arc;

/// The largest database that is read, bytes: the largest city databases have 150 MB.
const FILE_LEN_MAX: u64 = 512 * 1024 * 1024;

/// Where addresses are. Cheap to clone.
#[derive(Clone)]
pub struct GeoDb(Arc<Data>);

struct Data {
    places: Vec<Place>,
    rules: Vec<Rule>,
    default: Option<RuleId>,
    at_most: BTreeMap<RegionName, usize>,
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
    /// It is sound but says nowhere in which country or on which continent an address is.
    #[error("the GeoIP database has no countries: a Country or City database is needed")]
    NoAreas,
    /// The rules contradict each other.
    #[error(transparent)]
    Rules(#[from] RulesError),
}

impl GeoDb {
    /// A database that knows no address.
    pub fn empty() -> GeoDb {
        Builder::default().finish()
    }

    /// Reads and verifies the database at `path`. Blocks; takes about a second per million networks.
    pub fn open(path: &Path) -> Result<GeoDb, GeoError> {
        GeoDb::from_bytes(read_file(path)?)
    }

    /// Verifies the database in `bytes`.
    pub fn from_bytes(bytes: Vec<u8>) -> Result<GeoDb, GeoError> {
        // The reader is not ours: whatever a damaged file makes it do ends here.
        caught(|| {
            let mut builder = Builder::default();
            mmdb::read_places(bytes, &mut builder)?;
            Ok(builder.finish())
        })
    }

    /// Where addresses are by `rules`; areas and geography are those of the database at `path`.
    /// Blocks.
    pub fn by_rules(rules: Rules, path: Option<&Path>) -> Result<GeoDb, GeoError> {
        let bytes = path.filter(|_| rules.need_geoip()).map(read_file).transpose()?;
        caught(move || {
            let (list, default) = (rules.rules().to_vec(), rules.default_rule());
            let at_most = rules.at_most().clone();
            let mut builder = Builder { rules: list, default, at_most, ..Builder::default() };
            let numbers: Vec<PlaceId> = (0..builder.rules.len() as u32)
                .map(|number| builder.add_place(Place::Rule(RuleId(number))))
                .collect();
            let place = |rule: RuleId| numbers[rule.0 as usize];
            if let Some(bytes) = bytes {
                mmdb::read_areas(bytes, &rules, &place, &mut builder)?;
            }
            let otherwise = rules.default_rule().map_or(PlaceId::NONE, place);
            let runs = rules.into_runs(place)?;
            let choose = |known: PlaceId, listed: PlaceId| match (listed, known) {
                (PlaceId::NONE, PlaceId::NONE) => otherwise,
                (PlaceId::NONE, known) => known,
                (listed, _) => listed,
            };
            builder.v4 = builder.v4.combine(&runs.v4, choose);
            builder.v6 = builder.v6.combine(&runs.v6, choose);
            Ok(builder.finish())
        })
    }

    /// A database made of `networks`, which do not overlap; for tests, benches and simulations.
    pub fn from_networks(networks: impl IntoIterator<Item = (IpNet, Coordinates)>) -> GeoDb {
        let mut builder = Builder::default();
        let mut networks: Vec<_> = networks.into_iter().collect();
        networks.sort();
        for (network, coordinates) in networks {
            let place = builder.point(coordinates);
            builder.push(network, place);
        }
        builder.finish()
    }

    /// Where `address` is, and the widest prefix around it that is in one place.
    pub fn lookup(&self, address: IpAddr) -> Option<(IpNet, Coordinates)> {
        let (place, scope) = self.place(address);
        let Some(Place::Point(point)) = self.0.places.get(place.index()) else { return None };
        Some((IpNet::new(address, scope).ok()?.trunc(), point.coordinates))
    }

    /// The rule for `address`, and the widest prefix around it that is under it.
    pub fn rule(&self, address: IpAddr) -> Option<(IpNet, &Rule)> {
        let (place, scope) = self.place(address);
        let Some(Place::Rule(rule)) = self.0.places.get(place.index()) else { return None };
        Some((IpNet::new(address, scope).ok()?.trunc(), self.numbered(*rule)?))
    }

    /// How many distinct places and rules there are.
    pub fn places(&self) -> usize {
        self.0.places.len()
    }

    /// How many runs of addresses there are, IPv4 and IPv6 together.
    pub fn runs(&self) -> usize {
        self.0.v4.len() + self.0.v6.len()
    }

    /// A digest of what it says: databases that say the same of every address have the same one,
    /// whatever their files look like. Takes about as long as reading the file does.
    pub fn digest(&self) -> [u8; 32] {
        let mut hasher = blake3::Hasher::new();
        let places: Vec<[u8; 32]> = self.0.places.iter().map(|place| self.digest_of(place)).collect();
        let place = |id: PlaceId| places.get(id.index()).copied().unwrap_or_default();
        let mut said = |start: u128, id: PlaceId| {
            hasher.update(&start.to_be_bytes());
            hasher.update(&place(id));
        };
        self.0.v4.runs().for_each(|(start, id)| said(start.into(), id));
        self.0.v6.runs().for_each(|(start, id)| said(start, id));
        *hasher.finalize().as_bytes()
    }

    fn digest_of(&self, place: &Place) -> [u8; 32] {
        let text = match place {
            Place::Point(point) => format!("{} {}", point.coordinates.lat(), point.coordinates.lon()),
            Place::Rule(rule) => self.numbered(*rule).map(Rule::to_string).unwrap_or_default(),
        };
        *blake3::hash(text.as_bytes()).as_bytes()
    }

    fn place(&self, address: IpAddr) -> (PlaceId, u8) {
        match address {
            IpAddr::V4(address) => self.0.v4.get(address.into()),
            IpAddr::V6(address) => self.0.v6.get(address.into()),
        }
    }

    /// What is known of where `address` is.
    pub(crate) fn whereabouts(&self, address: IpAddr) -> Option<&Place> {
        self.0.places.get(self.place(address).0.index())
    }

    /// Places by number.
    pub(crate) fn whole(&self) -> &[Place] {
        &self.0.places
    }

    pub(crate) fn numbered(&self, rule: RuleId) -> Option<&Rule> {
        self.0.rules.get(rule.0 as usize)
    }

    pub(crate) fn default_rule(&self) -> Option<&Rule> {
        self.numbered(self.0.default?)
    }

    /// How many addresses of a region clients under a rule are told at most, where that is said.
    pub(crate) fn at_most(&self) -> &BTreeMap<RegionName, usize> {
        &self.0.at_most
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

/// What is known of where a run of addresses is.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Place {
    /// Somewhere on Earth.
    Point(Point),
    /// Under a rule.
    Rule(RuleId),
}

/// A place of a [`GeoDb`], by number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct PlaceId(pub(crate) u32);

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

fn read_file(path: &Path) -> Result<Vec<u8>, GeoError> {
    let unreadable = |error| GeoError::Read(path.display().to_string(), error);
    let len = std::fs::metadata(path).map_err(unreadable)?.len();
    if len > FILE_LEN_MAX {
        return Err(GeoError::TooLarge(len));
    }
    std::fs::read(path).map_err(unreadable)
}

/// The reader is not ours: whatever a damaged file makes it do ends here.
fn caught(read: impl FnOnce() -> Result<GeoDb, GeoError>) -> Result<GeoDb, GeoError> {
    std::panic::catch_unwind(std::panic::AssertUnwindSafe(read)).unwrap_or_else(|_| {
        Err(GeoError::Damaged("the reader of MaxMind databases gave up on it".to_owned()))
    })
}

/// Collects places and runs.
pub(crate) struct Builder {
    places: Vec<Place>,
    numbers: HashMap<Coordinates, PlaceId>,
    rules: Vec<Rule>,
    default: Option<RuleId>,
    at_most: BTreeMap<RegionName, usize>,
    v4: Ranges<u32, PlaceId>,
    v6: Ranges<u128, PlaceId>,
}

impl Default for Builder {
    fn default() -> Builder {
        let (v4, v6) = (Ranges::builder(PlaceId::NONE), Ranges::builder(PlaceId::NONE));
        let (places, rules) = (Vec::new(), Vec::new());
        let at_most = BTreeMap::new();
        Builder { places, numbers: HashMap::new(), rules, default: None, at_most, v4, v6 }
    }
}

impl Builder {
    /// The number of a point.
    pub(crate) fn point(&mut self, coordinates: Coordinates) -> PlaceId {
        if let Some(number) = self.numbers.get(&coordinates) {
            return *number;
        }
        let number = self.add_place(Place::Point(Point::new(coordinates)));
        self.numbers.insert(coordinates, number);
        number
    }

    fn add_place(&mut self, place: Place) -> PlaceId {
        let number = PlaceId(self.places.len() as u32);
        self.places.push(place);
        number
    }

    /// Whether it has no place and no rule.
    pub(crate) fn is_empty(&self) -> bool {
        self.places.is_empty()
    }

    /// Adds a network. They come in ascending order, as the tree is walked from the left.
    pub(crate) fn push(&mut self, network: IpNet, place: PlaceId) {
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
        let Builder { places, rules, default, at_most, mut v4, mut v6, .. } = self;
        v4.shrink();
        v6.shrink();
        GeoDb(Arc::new(Data { places, rules, default, at_most, v4, v6 }))
    }
}

fn add<B: Bits>(ranges: &mut Ranges<B, PlaceId>, low: B, len: u8, place: PlaceId) {
    let (low, high) = low.block(len);
    ranges.push(low, place);
    if let Some(next) = high.next() {
        ranges.push(next, PlaceId::NONE);
    }
}
