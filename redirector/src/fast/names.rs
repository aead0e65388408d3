//! Names as they stand in packets, found without regard to case.
//!
//! A name is copied once with its letters made small, eight octets at a time, and hashed on the way.
//! Octets that tell lengths of labels are below 64 and so never taken for letters.

use godwit_map::SiteRef;

/// RFC 1035, 2.3.4: 255 octets, up to the next multiple of eight.
const LEN_MAX: usize = 256;

/// A name with small letters, and its hash.
pub(crate) struct Folded {
    /// Zeros beyond the name.
    words: [u64; LEN_MAX / 8],
    len: usize,
    pub(crate) hash: u64,
}

impl Folded {
    /// Of a name in wire form, at most 255 octets.
    pub(crate) fn new(name: &[u8]) -> Folded {
        let mut folded = Folded { words: [0; LEN_MAX / 8], len: name.len(), hash: name.len() as u64 };
        let (words, rest) = name.as_chunks::<8>();
        for (word, place) in words.iter().zip(&mut folded.words) {
            *place = small(u64::from_le_bytes(*word));
            folded.hash = stir(folded.hash ^ *place);
        }
        if let Some(place) = folded.words.get_mut(words.len()).filter(|_| !rest.is_empty()) {
            let mut last = [0; 8];
            last[..rest.len()].copy_from_slice(rest);
            *place = small(u64::from_le_bytes(last));
            folded.hash = stir(folded.hash ^ *place);
        }
        folded
    }

    /// Whether these octets, small letters, are its last.
    pub(crate) fn ends_with(&self, end: &[u8]) -> bool {
        let Some(start) = self.len.checked_sub(end.len()) else { return false };
        let octets = |at: usize| (self.words[at / 8] >> (at % 8 * 8)) as u8;
        end.iter().zip(start..).all(|(octet, at)| *octet == octets(at))
    }

    /// As words, the last one filled up with zeros.
    pub(crate) fn words(&self) -> &[u64] {
        &self.words[..self.len.div_ceil(8)]
    }
}

/// Makes capital letters small, in eight octets at once.
fn small(word: u64) -> u64 {
    const fn all(octet: u64) -> u64 {
        octet * 0x0101_0101_0101_0101
    }
    let low = word & all(0x7f);
    // The high bit of an octet tells whether its lower seven are at least 'A', or beyond 'Z'.
    let from_a = low + all(0x80 - b'A' as u64);
    let beyond_z = low + all(0x80 - b'Z' as u64 - 1);
    let capital = from_a & !beyond_z & !word & all(0x80);
    word | capital >> 2
}

/// Folded multiplication: every bit of the result depends on every bit of the word.
pub(crate) fn stir(word: u64) -> u64 {
    let product = u128::from(word ^ 0x9e37_79b9_7f4a_7c15) * 0xd6e8_feb8_6659_fd93;
    product as u64 ^ (product >> 64) as u64
}

/// The names that exist, some with the site that is told there. Made once, then only read.
#[derive(Debug)]
pub(crate) struct Names {
    /// Open addressing; a quarter of the places is free at least, and there is one.
    places: Box<[Place]>,
    /// The names, one after another.
    words: Vec<u64>,
    /// The sites; a place has the number of its own.
    sites: Vec<SiteRef>,
}

/// What is known of a name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Known {
    /// It exists, and has the addresses of this site.
    Site(SiteRef),
    /// It exists.
    Name,
    /// It does not exist, unless a wildcard answers for it or something above it exists.
    Nothing,
}

#[derive(Clone, Copy, Debug)]
struct Place {
    /// The upper half of the hash.
    tag: u32,
    /// Where the name begins; [`FREE`] of a free place.
    start: u32,
    /// The number of its site; [`FREE`] for none.
    site: u32,
}

const FREE: u32 = u32::MAX;

impl Names {
    /// Of the names in wire form that `each` gives. Of equal ones the first counts.
    pub(crate) fn new(each: impl FnOnce(&mut dyn FnMut(&[u8], Option<SiteRef>))) -> Names {
        let (mut words, mut sites, mut given) = (Vec::new(), Vec::new(), Vec::new());
        each(&mut |name, site| {
            let name = Folded::new(name);
            if let Some(site) = site.filter(|site| sites.last() != Some(site)) {
                sites.push(site);
            }
            let site = site.map_or(FREE, |_| sites.len() as u32 - 1);
            let start = words.len();
            words.extend(name.words());
            given.push((name.hash, start..words.len(), site));
        });
        let free = Place { tag: 0, start: FREE, site: FREE };
        let places = vec![free; (given.len() * 4 / 3 + 1).next_power_of_two()].into();
        words.shrink_to_fit();
        let mut names = Names { places, words, sites };
        for (hash, at, site) in given {
            if let Err(free) = names.find(hash, &names.words[at.clone()]) {
                names.places[free] = Place { tag: (hash >> 32) as u32, start: at.start as u32, site };
            }
        }
        names
    }

    /// The sites of all names.
    pub(crate) fn sites(&self) -> &[SiteRef] {
        &self.sites
    }

    /// What is known of a name.
    pub(crate) fn get(&self, name: &Folded) -> Known {
        match self.find(name.hash, name.words()) {
            Ok(at) => {
                self.sites.get(self.places[at].site as usize).map_or(Known::Name, |site| Known::Site(*site))
            }
            Err(_) => Known::Nothing,
        }
    }

    /// Where a name is, or else where it would be put.
    fn find(&self, hash: u64, name: &[u64]) -> Result<usize, usize> {
        let mask = self.places.len() - 1;
        let mut at = hash as usize & mask;
        // A quarter of them is free.
        loop {
            let place = &self.places[at];
            if place.start == FREE {
                return Err(at);
            }
            let words = self.words.get(place.start as usize..).unwrap_or_default();
            if place.tag == (hash >> 32) as u32 && words.starts_with(name) {
                return Ok(at);
            }
            at = (at + 1) & mask;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn letters_and_nothing_else_become_small() {
        for octet in 0..=255u8 {
            let word = u64::from_le_bytes([octet, 0, b'Z', 255, octet, b'@', b'[', octet]);
            let expected = word.to_le_bytes().map(|octet| octet.to_ascii_lowercase());
            assert_eq!(small(word).to_le_bytes(), expected, "{octet}");
        }
    }

    #[test]
    fn names_differ_by_octets_and_length_but_not_by_case() {
        let hash = |name: &[u8]| Folded::new(name).hash;
        assert_eq!(hash(b"\x03wWw\x07ExampLE\0"), hash(b"\x03www\x07example\0"));
        assert_ne!(hash(b"\x03wwx\x07example\0"), hash(b"\x03www\x07example\0"));
        assert_ne!(hash(b"\x01a\0"), hash(b"\x01a\0\0"));
        assert_eq!(Folded::new(&[b'A'; 255]).words().len(), 32);
    }

    #[test]
    fn names_are_found_and_others_not() {
        let name = |n: u32| format!("\x06x{n:05}\x03org\0").into_bytes();
        let names = Names::new(|see| (0..5000).chain(0..10).for_each(|n| see(&name(n), None)));
        assert_eq!(names.places.len(), 8192);
        assert!((0..5000).all(|n| names.get(&Folded::new(&name(n).to_ascii_uppercase())) == Known::Name));
        assert!((5000..9000).all(|n| names.get(&Folded::new(&name(n))) == Known::Nothing));
        let none = Names::new(|_| {});
        assert_eq!(none.get(&Folded::new(b"\0")), Known::Nothing);
    }
}
