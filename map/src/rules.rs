//! Rules: who goes where by decision instead of by distance.
//!
//! A rule is an ordered list of regions for the clients of an area (a continent, a country, a part
//! of one, by a GeoIP database) or of a prefix. It takes the place of coordinates: a run of
//! addresses in a [`GeoDb`](crate::GeoDb) is either somewhere on Earth, or under a rule, or unknown.
//! Everything behind it is the same for both: who is eligible, how equal answers merge, which scope
//! they have, and what `why` tells.
//!
//! Of several rules that could hold for a client the most particular one does: the longest prefix,
//! then the part of a country, the country, the continent, then geography where that is asked for,
//! then the default.
//!
//! A list is complete only with what follows it: when no replica is left in the regions of a rule,
//! those of the default follow, and then all others, so that an answer is never empty while
//! anybody can serve. All addresses of the region that is chosen are told together, in the order of
//! the members' names, at most [`TOLD_MAX`] of each family; or of a region of which fewer are to be told
//! ([`Rules::tell_at_most`]) so many, and clients are divided among them by their weights.

use crate::geo::PlaceId;
use crate::inputs::Inputs;
use crate::locality::Family;
use crate::range::{Bits, Ranges};
use godwit_core::name::RegionName;
use ipnet::IpNet;
use std::collections::BTreeMap;
use std::fmt;

pub use crate::told::PICKS_MAX as TOLD_MAX;

/// At most so many rules: every subdivision on Earth, and every list of a prefix file that a person
/// could have thought of.
const RULES_MAX: usize = 1 << 16;

/// An area of a GeoIP database, by its codes in capital letters.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Area {
    /// A continent: `EU`.
    Continent(String),
    /// A country by ISO 3166-1: `DE`.
    Country(String),
    /// A part of a country by ISO 3166-2: `US-CA`.
    Subdivision(String),
}

/// What a rule holds for.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum For {
    /// The clients of an area.
    Area(Area),
    /// The clients of prefixes that were listed one by one.
    Prefix,
    /// Everybody else.
    Default,
}

/// An ordered list of regions, and for whom.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Rule {
    /// For whom.
    pub held_for: For,
    /// The regions, the best first.
    pub regions: Vec<RegionName>,
}

/// A rule by number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct RuleId(pub(crate) u32);

/// All rules of a zone.
#[derive(Clone, Debug, Default)]
pub struct Rules {
    rules: Vec<Rule>,
    numbers: BTreeMap<Rule, RuleId>,
    areas: BTreeMap<Area, RuleId>,
    v4: Vec<Prefix<u32>>,
    v6: Vec<Prefix<u128>>,
    default: Option<RuleId>,
    geography: bool,
    at_most: BTreeMap<RegionName, usize>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Prefix<B> {
    low: B,
    len: u8,
    rule: RuleId,
}

/// Why rules cannot be.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RulesError {
    /// There are two for one area.
    #[error("there are two rules for {0}")]
    AreaTwice(Area),
    /// There are two different ones for one prefix.
    #[error("there are two rules for {0}")]
    PrefixTwice(IpNet),
    /// There are more than can be numbered.
    #[error("there are more than {RULES_MAX} different rules")]
    TooMany,
}

impl Rules {
    /// None.
    pub fn new() -> Rules {
        Rules::default()
    }

    /// Sends the clients of `area` to `regions`.
    pub fn send_area(&mut self, area: Area, regions: Vec<RegionName>) -> Result<(), RulesError> {
        let rule = self.number(Rule { held_for: For::Area(area.clone()), regions })?;
        match self.areas.insert(area.clone(), rule) {
            None => Ok(()),
            Some(_) => Err(RulesError::AreaTwice(area)),
        }
    }

    /// Sends the clients of `prefix` to `regions`. Prefixes may nest; the longer one holds.
    pub fn send_prefix(&mut self, prefix: IpNet, regions: &[RegionName]) -> Result<(), RulesError> {
        let rule = self.number(Rule { held_for: For::Prefix, regions: regions.to_vec() })?;
        let len = prefix.prefix_len();
        match prefix {
            IpNet::V4(net) => self.v4.push(Prefix { low: net.network().into(), len, rule }),
            IpNet::V6(net) => self.v6.push(Prefix { low: net.network().into(), len, rule }),
        }
        Ok(())
    }

    /// Sends everybody for whom nothing else holds to `regions`.
    pub fn send_others(&mut self, regions: Vec<RegionName>) -> Result<(), RulesError> {
        self.default = Some(self.number(Rule { held_for: For::Default, regions })?);
        Ok(())
    }

    /// Tells clients of at most so many addresses of a region, in each family: which ones, their hash
    /// decides, by the weights of the members ([`godwit_core::demand::Capacity::weight_percent`]).
    pub fn tell_at_most(&mut self, region: RegionName, count: usize) {
        self.at_most.insert(region, count.max(1));
    }

    pub(crate) fn at_most(&self) -> &BTreeMap<RegionName, usize> {
        &self.at_most
    }

    /// Whether clients without a rule, but with a place in the GeoIP database, go where it is near.
    pub fn set_geography(&mut self, on: bool) {
        self.geography = on;
    }

    /// Whether a GeoIP database is of any use.
    pub fn need_geoip(&self) -> bool {
        self.geography || !self.areas.is_empty()
    }

    pub(crate) fn heed_geography(&self) -> bool {
        self.geography
    }

    pub(crate) fn have_areas(&self) -> bool {
        !self.areas.is_empty()
    }

    pub(crate) fn default_rule(&self) -> Option<RuleId> {
        self.default
    }

    /// The rule for a record of a GeoIP database: the most particular one. A subdivision is given
    /// without its country.
    pub(crate) fn of_areas(&self, codes: &Codes) -> Option<RuleId> {
        let get = |area: Area| self.areas.get(&area).copied();
        let part = codes.country.as_ref().zip(codes.subdivision.as_ref());
        part.and_then(|(country, part)| get(Area::Subdivision(format!("{country}-{part}"))))
            .or_else(|| get(Area::Country(codes.country.clone()?)))
            .or_else(|| get(Area::Continent(codes.continent.clone()?)))
    }

    fn number(&mut self, rule: Rule) -> Result<RuleId, RulesError> {
        if let Some(number) = self.numbers.get(&rule) {
            return Ok(*number);
        }
        if self.rules.len() >= RULES_MAX {
            return Err(RulesError::TooMany);
        }
        let number = RuleId(self.rules.len() as u32);
        self.numbers.insert(rule.clone(), number);
        self.rules.push(rule);
        Ok(number)
    }

    /// The prefixes as runs, and the rules by number.
    pub(crate) fn into_runs(self, place: impl Fn(RuleId) -> PlaceId) -> Result<Runs, RulesError> {
        let twice = |low: u32, len| IpNet::new_assert(std::net::Ipv4Addr::from(low).into(), len);
        let v4 = runs(self.v4, &place).map_err(|(low, len)| RulesError::PrefixTwice(twice(low, len)))?;
        let twice = |low: u128, len| IpNet::new_assert(std::net::Ipv6Addr::from(low).into(), len);
        let v6 = runs(self.v6, &place).map_err(|(low, len)| RulesError::PrefixTwice(twice(low, len)))?;
        Ok(Runs { v4, v6 })
    }

    pub(crate) fn rules(&self) -> &[Rule] {
        &self.rules
    }
}

/// The codes that a record of a GeoIP database has.
#[derive(Clone, Debug, Default)]
pub(crate) struct Codes {
    pub(crate) continent: Option<String>,
    pub(crate) country: Option<String>,
    pub(crate) subdivision: Option<String>,
}

/// Listed prefixes as runs of addresses; [`PlaceId::NONE`] between them.
pub(crate) struct Runs {
    pub(crate) v4: Ranges<u32, PlaceId>,
    pub(crate) v6: Ranges<u128, PlaceId>,
}

/// Flattens nested prefixes. The error is a prefix that has two rules.
fn runs<B: Bits>(
    mut prefixes: Vec<Prefix<B>>,
    place: impl Fn(RuleId) -> PlaceId,
) -> Result<Ranges<B, PlaceId>, (B, u8)> {
    prefixes.sort_unstable();
    let mut runs = Ranges::builder(PlaceId::NONE);
    // The prefixes around the place that was reached, the widest first.
    let mut open: Vec<(B, PlaceId)> = Vec::new();
    let close = |open: &mut Vec<(B, PlaceId)>, runs: &mut Ranges<B, PlaceId>, until: Option<B>| {
        while let Some((high, _)) = open.last().copied()
            && until.is_none_or(|until| high < until)
        {
            open.pop();
            if let Some(next) = high.next() {
                runs.push(next, open.last().map_or(PlaceId::NONE, |(_, place)| *place));
            }
        }
    };
    let mut last: Option<Prefix<B>> = None;
    for prefix in prefixes {
        if let Some(last) = last
            && (last.low, last.len) == (prefix.low, prefix.len)
        {
            if last.rule == prefix.rule {
                continue;
            }
            return Err((prefix.low, prefix.len));
        }
        close(&mut open, &mut runs, Some(prefix.low));
        let (low, high) = prefix.low.block(prefix.len);
        runs.push(low, place(prefix.rule));
        open.push((high, place(prefix.rule)));
        last = Some(prefix);
    }
    close(&mut open, &mut runs, None);
    Ok(runs)
}

/// `members` in the order of a rule: by the place of their region in it, then in the default, then
/// the others.
pub(crate) fn order(
    inputs: &Inputs,
    members: &[u32],
    rule: &Rule,
    default: Option<&Rule>,
) -> Vec<(usize, u32)> {
    let listed: Vec<&RegionName> =
        rule.regions.iter().chain(default.map_or(&[][..], |default| &default.regions)).collect();
    let mut order: Vec<(usize, u32)> = members
        .iter()
        .map(|member| {
            let region = &inputs.members[*member as usize].region;
            (listed.iter().position(|listed| *listed == region).unwrap_or(listed.len()), *member)
        })
        .collect();
    order.sort_by_key(|(place, member)| {
        let member = &inputs.members[*member as usize];
        (*place, &member.region, &member.name)
    });
    order
}

/// Members, the first one first, and the weight of the clients that are told of them.
pub(crate) type Share = (Vec<u32>, u32);

/// What clients under a rule are told, in each family: all members of the first region that has any, as
/// one share; or, where fewer are told, a share for each member, with those after it.
pub(crate) fn tell(
    inputs: &Inputs,
    order: &[(usize, u32)],
    at_most: &BTreeMap<RegionName, usize>,
) -> [Vec<Share>; 2] {
    [Family::V4, Family::V6].map(|family| {
        let mut serving = order.iter().filter(|(_, member)| family.serves(inputs, *member)).peekable();
        let Some((_, first)) = serving.peek().copied() else { return Vec::new() };
        let region = &inputs.members[*first as usize].region;
        let all: Vec<u32> = serving
            .take_while(|(_, member)| inputs.members[*member as usize].region == *region)
            .map(|(_, member)| *member)
            .collect();
        match at_most.get(region) {
            Some(count) if *count < all.len() => shares(inputs, &all, *count),
            _ => vec![(all, 1)],
        }
    })
}

/// A share for each of `all`, by weight, that is told of it and of those after it, `count` together.
fn shares(inputs: &Inputs, all: &[u32], count: usize) -> Vec<Share> {
    let weight = |member: u32| u32::from(inputs.members[member as usize].capacity.weight_percent());
    let largest = all.iter().fold(0, |divisor, member| common(divisor, weight(*member)));
    let share = |(at, member): (usize, &u32)| {
        let told = all.iter().cycle().skip(at).take(count).copied().collect();
        // In small numbers: with none above 0 all weigh the same.
        (told, weight(*member).checked_div(largest).unwrap_or(1))
    };
    all.iter().enumerate().map(share).filter(|(_, weight)| *weight > 0).collect()
}

/// The greatest common divisor.
fn common(a: u32, b: u32) -> u32 {
    if b == 0 { a } else { common(b, a % b) }
}

impl fmt::Display for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let regions: Vec<&str> = self.regions.iter().map(RegionName::as_str).collect();
        write!(f, "{}: {}", self.held_for, regions.join(", "))
    }
}

impl fmt::Display for Area {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Area::Continent(code) => write!(f, "continent {code}"),
            Area::Country(code) => write!(f, "country {code}"),
            Area::Subdivision(code) => write!(f, "subdivision {code}"),
        }
    }
}

impl fmt::Display for For {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            For::Area(area) => area.fmt(f),
            For::Prefix => f.write_str("listed prefix"),
            For::Default => f.write_str("default"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn regions(names: &[&str]) -> Vec<RegionName> {
        names.iter().map(|name| name.parse().unwrap()).collect()
    }

    fn rules(prefixes: &[(&str, &str)]) -> Rules {
        let mut rules = Rules::new();
        for (prefix, region) in prefixes {
            rules.send_prefix(prefix.parse().unwrap(), &regions(&[region])).unwrap();
        }
        rules
    }

    #[test]
    fn nested_prefixes_become_disjoint_runs() {
        let rules = rules(&[
            ("10.0.0.0/8", "a"),
            ("10.0.0.0/16", "b"),
            ("10.255.255.255/32", "b"),
            ("0.0.0.0/0", "c"),
        ]);
        let names: Vec<String> = rules.rules().iter().map(|rule| rule.regions[0].to_string()).collect();
        let runs = rules.into_runs(|rule| PlaceId(rule.0)).unwrap();
        let found: Vec<(u32, &str)> =
            runs.v4.runs().map(|(start, place)| (start, names[place.index()].as_str())).collect();
        let expected =
            [(0, "c"), (0x0a00_0000, "b"), (0x0a01_0000, "a"), (0x0aff_ffff, "b"), (0x0b00_0000, "c")];
        assert_eq!(found, expected);
        assert_eq!(runs.v6.len(), 1);
    }

    #[test]
    fn the_end_of_the_address_space_is_an_end() {
        let runs = rules(&[("255.0.0.0/8", "a"), ("255.255.0.0/16", "b")]).into_runs(|rule| PlaceId(rule.0));
        let found: Vec<u32> = runs.unwrap().v4.runs().map(|(start, _)| start).collect();
        assert_eq!(found, [0, 0xff00_0000, 0xffff_0000]);
    }

    #[test]
    fn a_prefix_has_one_rule() {
        let two = rules(&[("10.0.0.0/8", "a"), ("2001:db8::/32", "a"), ("10.0.0.0/8", "b")]);
        let error = two.into_runs(|rule| PlaceId(rule.0)).err();
        assert_eq!(error, Some(RulesError::PrefixTwice("10.0.0.0/8".parse().unwrap())));
        let same = rules(&[("10.0.0.0/8", "a"), ("10.0.0.0/8", "a")]);
        assert!(same.into_runs(|rule| PlaceId(rule.0)).is_ok());
    }

    #[test]
    fn the_most_particular_area_holds() {
        let mut rules = Rules::new();
        rules.send_area(Area::Continent("NA".into()), regions(&["x"])).unwrap();
        rules.send_area(Area::Country("US".into()), regions(&["y"])).unwrap();
        rules.send_area(Area::Subdivision("US-CA".into()), regions(&["z"])).unwrap();
        let codes = |continent: &str, country: &str, part: &str| {
            let code = |text: &str| (!text.is_empty()).then(|| text.to_owned());
            Codes { continent: code(continent), country: code(country), subdivision: code(part) }
        };
        let of =
            |codes| rules.of_areas(&codes).map(|rule| rules.rules()[rule.0 as usize].regions[0].to_string());
        assert_eq!(of(codes("NA", "US", "CA")).as_deref(), Some("z"));
        assert_eq!(of(codes("NA", "US", "NY")).as_deref(), Some("y"));
        assert_eq!(of(codes("NA", "CA", "")).as_deref(), Some("x"));
        assert_eq!(of(codes("EU", "DE", "")), None);
        let twice = rules.send_area(Area::Country("US".into()), regions(&["z"]));
        assert_eq!(twice, Err(RulesError::AreaTwice(Area::Country("US".into()))));
    }
}
