//! Well-known cities, so that a region's name can tell where it is.
//!
//! A region is usually called after the city that its hosts stand in: `ap-tokyo`, `us-new-york`,
//! `fra`. [`of_region`] reads the place from such a name, and an operator types coordinates only
//! for the others. The table holds the cities where hosting is commonly offered; one decimal of a
//! degree (11 km) would be enough for it, since what counts is which continent and which coast.

use super::Coordinates;
use std::fmt;

/// A city of the table.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct City {
    /// Its name as a DNS label, for example `new-york`.
    pub name: &'static str,
    /// The three letters that hosters use for it, mostly an airport's, for example `nyc`.
    pub code: &'static str,
    lat: f64,
    lon: f64,
}

impl City {
    /// Where it is.
    pub fn place(&self) -> Coordinates {
        Coordinates::new(self.lat, self.lon).expect("every city of the table is on the globe: tested")
    }
}

impl fmt::Display for City {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name)
    }
}

/// All cities, sorted by name.
pub fn all() -> &'static [City] {
    CITIES
}

/// The city with this name or code.
pub fn find(name: &str) -> Option<&'static City> {
    CITIES.iter().find(|city| city.name == name || city.code == name)
}

/// The city after which a region is called: the longest end of `region` that names one, from the
/// start of the name or after a hyphen. A number at the end does not matter: `eu-paris-2`.
pub fn of_region(region: &str) -> Option<&'static City> {
    let name = match region.rsplit_once('-') {
        Some((name, number)) if number.bytes().all(|b| b.is_ascii_digit()) => name,
        _ => region.trim_end_matches(|c: char| c.is_ascii_digit()),
    };
    let starts = std::iter::once(0).chain(name.match_indices('-').map(|(at, _)| at + 1));
    starts.map(|at| &name[at..]).find_map(find)
}

const fn city(name: &'static str, code: &'static str, lat: f64, lon: f64) -> City {
    City { name, code, lat, lon }
}

#[rustfmt::skip]
const CITIES: &[City] = &[
    city("amsterdam", "ams", 52.37, 4.90),
    city("athens", "ath", 37.98, 23.73),
    city("atlanta", "atl", 33.75, -84.39),
    city("auckland", "akl", -36.85, 174.76),
    city("baghdad", "bgw", 33.31, 44.36),
    city("bangalore", "blr", 12.97, 77.59),
    city("bangkok", "bkk", 13.75, 100.50),
    city("barcelona", "bcn", 41.39, 2.16),
    city("beijing", "pek", 39.90, 116.41),
    city("beirut", "bey", 33.89, 35.50),
    city("belgrade", "beg", 44.79, 20.46),
    city("berlin", "ber", 52.52, 13.40),
    city("bogota", "bog", 4.71, -74.07),
    city("boston", "bos", 42.36, -71.06),
    city("bratislava", "bts", 48.15, 17.11),
    city("brisbane", "bne", -27.47, 153.03),
    city("brussels", "bru", 50.85, 4.35),
    city("bucharest", "otp", 44.43, 26.10),
    city("budapest", "bud", 47.50, 19.04),
    city("buenos-aires", "eze", -34.60, -58.38),
    city("cairo", "cai", 30.04, 31.24),
    city("calgary", "yyc", 51.05, -114.07),
    city("cape-town", "cpt", -33.92, 18.42),
    city("caracas", "ccs", 10.48, -66.90),
    city("casablanca", "cmn", 33.57, -7.59),
    city("chennai", "maa", 13.08, 80.27),
    city("chicago", "ord", 41.88, -87.63),
    city("copenhagen", "cph", 55.68, 12.57),
    city("dakar", "dkr", 14.72, -17.47),
    city("dallas", "dfw", 32.78, -96.80),
    city("delhi", "del", 28.61, 77.21),
    city("denver", "den", 39.74, -104.99),
    city("dhaka", "dac", 23.81, 90.41),
    city("doha", "doh", 25.29, 51.53),
    city("dubai", "dxb", 25.20, 55.27),
    city("dublin", "dub", 53.35, -6.26),
    city("dusseldorf", "dus", 51.23, 6.78),
    city("edinburgh", "edi", 55.95, -3.19),
    city("falkenstein", "fks", 50.48, 12.37),
    city("frankfurt", "fra", 50.11, 8.68),
    city("geneva", "gva", 46.20, 6.14),
    city("hamburg", "ham", 53.55, 9.99),
    city("hanoi", "han", 21.03, 105.85),
    city("helsinki", "hel", 60.17, 24.94),
    city("hong-kong", "hkg", 22.32, 114.17),
    city("honolulu", "hnl", 21.31, -157.86),
    city("houston", "iah", 29.76, -95.37),
    city("hyderabad", "hyd", 17.39, 78.49),
    city("istanbul", "ist", 41.01, 28.98),
    city("jakarta", "cgk", -6.21, 106.85),
    city("johannesburg", "jnb", -26.20, 28.05),
    city("karachi", "khi", 24.86, 67.01),
    city("kuala-lumpur", "kul", 3.139, 101.687),
    city("kyiv", "kbp", 50.45, 30.52),
    city("lagos", "los", 6.52, 3.38),
    city("las-vegas", "las", 36.17, -115.14),
    city("lima", "lim", -12.05, -77.04),
    city("lisbon", "lis", 38.72, -9.14),
    city("london", "lhr", 51.51, -0.13),
    city("los-angeles", "lax", 34.05, -118.24),
    city("luxembourg", "lux", 49.61, 6.13),
    city("madrid", "mad", 40.42, -3.70),
    city("manchester", "man", 53.48, -2.24),
    city("manila", "mnl", 14.60, 120.98),
    city("marseille", "mrs", 43.30, 5.37),
    city("medellin", "mde", 6.24, -75.58),
    city("melbourne", "mel", -37.81, 144.96),
    city("mexico-city", "mex", 19.43, -99.13),
    city("miami", "mia", 25.76, -80.19),
    city("milan", "mxp", 45.46, 9.19),
    city("minneapolis", "msp", 44.98, -93.27),
    city("montevideo", "mvd", -34.90, -56.16),
    city("montreal", "yul", 45.50, -73.57),
    city("moscow", "svo", 55.76, 37.62),
    city("mumbai", "bom", 19.08, 72.88),
    city("munich", "muc", 48.14, 11.58),
    city("nairobi", "nbo", -1.29, 36.82),
    city("new-york", "nyc", 40.71, -74.01),
    city("nuremberg", "nue", 49.45, 11.08),
    city("osaka", "kix", 34.69, 135.50),
    city("oslo", "osl", 59.91, 10.75),
    city("paris", "cdg", 48.86, 2.35),
    city("perth", "per", -31.95, 115.86),
    city("phoenix", "phx", 33.45, -112.07),
    city("portland", "pdx", 45.52, -122.68),
    city("prague", "prg", 50.08, 14.44),
    city("queretaro", "qro", 20.59, -100.39),
    city("quito", "uio", -0.18, -78.47),
    city("reykjavik", "kef", 64.15, -21.94),
    city("riga", "rix", 56.95, 24.11),
    city("rio-de-janeiro", "gig", -22.91, -43.17),
    city("riyadh", "ruh", 24.71, 46.68),
    city("rome", "fco", 41.90, 12.50),
    city("salt-lake-city", "slc", 40.76, -111.89),
    city("san-francisco", "sfo", 37.77, -122.42),
    city("san-jose", "sjc", 37.34, -121.89),
    city("santiago", "scl", -33.45, -70.67),
    city("sao-paulo", "gru", -23.55, -46.63),
    city("seattle", "sea", 47.61, -122.33),
    city("seoul", "icn", 37.57, 126.98),
    city("shanghai", "sha", 31.23, 121.47),
    city("singapore", "sin", 1.35, 103.82),
    city("sofia", "sof", 42.70, 23.32),
    city("stockholm", "sto", 59.33, 18.07),
    city("sydney", "syd", -33.87, 151.21),
    city("taipei", "tpe", 25.03, 121.57),
    city("tallinn", "tll", 59.44, 24.75),
    city("tashkent", "tas", 41.30, 69.24),
    city("tbilisi", "tbs", 41.72, 44.83),
    city("tel-aviv", "tlv", 32.09, 34.78),
    city("tokyo", "nrt", 35.69, 139.69),
    city("toronto", "yyz", 43.65, -79.38),
    city("tunis", "tun", 36.81, 10.18),
    city("vancouver", "yvr", 49.28, -123.12),
    city("vienna", "vie", 48.21, 16.37),
    city("vilnius", "vno", 54.69, 25.28),
    city("virginia", "iad", 38.95, -77.45),
    city("warsaw", "waw", 52.23, 21.01),
    city("washington", "was", 38.90, -77.04),
    city("wellington", "wlg", -41.29, 174.78),
    city("zagreb", "zag", 45.81, 15.98),
    city("zurich", "zrh", 47.37, 8.54),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_city_is_on_the_globe_and_can_be_told_from_the_others() {
        assert!(CITIES.is_sorted_by(|a, b| a.name < b.name));
        for city in CITIES {
            assert!(city.place().lat().abs() <= 90.0);
            assert_eq!(find(city.name), Some(city));
            assert_eq!(find(city.code), Some(city), "{city}: its code belongs to another");
            assert!(city.name.parse::<crate::name::RegionName>().is_ok(), "{city}");
        }
    }

    #[test]
    fn a_region_is_called_after_its_city() {
        let city_of = |region| of_region(region).map(|city| city.name);
        assert_eq!(city_of("ap-tokyo"), Some("tokyo"));
        assert_eq!(city_of("us-new-york"), Some("new-york"));
        assert_eq!(city_of("fra"), Some("frankfurt"));
        assert_eq!(city_of("eu-paris-2"), Some("paris"));
        assert_eq!(city_of("paris2"), Some("paris"));
        assert_eq!(city_of("r1"), None);
        assert_eq!(city_of("york"), None);
        assert_eq!(city_of("-"), None);
        assert_eq!(city_of(""), None);
    }
}
