//! Replies that the general path made, kept to be repeated.
//!
//! What is kept is the *block*: the records after the question, with their counts and the response
//! code. It is found by name and type (a *topic*), by what the client understands, and by the map's
//! choice; pointers in it reach into the question, whose length is the name's. So signed answers,
//! negative ones and the zone's own records cost a look-up when they were asked for before.
//!
//! Each worker has its own, so nothing is shared or locked. It belongs to one view and is emptied with
//! it. Names that do not exist are never kept, as they are without number.

use crate::fast::names::{Folded, stir};
use godwit_core::time::Time;
use godwit_dns_plugin::Shape;
use godwit_map::{ChoiceKey, SiteRef};
use hickory_server::proto::op::ResponseCode;
use std::collections::HashMap;
use std::hash::{BuildHasher, BuildHasherDefault, Hasher, RandomState};

/// So many blocks are kept: 10,000 names for 8 choices each, and room to miss each other.
const PLACES: usize = 1 << 17;
/// Octets of all blocks of a worker: 100,000 signed answers.
const OCTETS_MAX: usize = 32 * 1024 * 1024;
/// So many names and types are told apart; a wildcard has any number of them.
const TOPICS_MAX: usize = 1 << 16;

/// What was learned of a question: its number, and whose choice decides the answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Topic {
    number: u32,
    pub(crate) site: Option<SiteRef>,
}

/// What a block is found by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Key {
    topic: u32,
    /// Bits of the client's EDNS flags that matter.
    flags: u8,
    choice: u32,
}

/// A block.
#[derive(Debug)]
pub(crate) struct Block {
    pub(crate) key: Key,
    pub(crate) code: ResponseCode,
    pub(crate) authoritative: bool,
    /// Of answers, authority and additional records.
    pub(crate) counts: [u16; 3],
    pub(crate) shape: Shape,
    /// When it was learned. A clock that was set back is before it: signatures of a future that does
    /// not come so soon are not given.
    pub(crate) since: Time,
    /// Until when it may be repeated.
    pub(crate) until: Time,
    pub(crate) octets: Box<[u8]>,
    /// The question's name in the case in which alone it may be repeated; `None` for any.
    pub(crate) spelt: Option<Box<[u8]>>,
}

/// Blocks that were learned.
pub(crate) struct Learned {
    topics: HashMap<u64, Known, BuildHasherDefault<Hashed>>,
    places: Vec<Option<Box<Block>>>,
    octets: usize,
    /// Which names fall together is not for others to guess.
    seed: u64,
}

/// The name and type of a topic, to be sure.
struct Known {
    name: Box<[u64]>,
    kind: u16,
    topic: Topic,
}

/// Takes what is a hash already for one.
#[derive(Default)]
struct Hashed(u64);

impl Hasher for Hashed {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, octets: &[u8]) {
        octets.iter().for_each(|octet| self.0 = stir(self.0 ^ u64::from(*octet)));
    }

    fn write_u64(&mut self, hash: u64) {
        self.0 = hash;
    }
}

impl Key {
    pub(crate) fn new(topic: Topic, flags: u8, choice: Option<ChoiceKey>) -> Key {
        let choice = choice.map_or(u32::MAX, |choice| choice.index() as u32);
        Key { topic: topic.number, flags, choice }
    }

    /// The two places where its block may be.
    fn places(&self) -> [usize; 2] {
        let hash = stir(u64::from(self.topic) << 32 | u64::from(self.choice)) ^ stir(self.flags.into());
        [hash as usize % PLACES, (hash >> 32) as usize % PLACES]
    }
}

impl Learned {
    pub(crate) fn new() -> Learned {
        let seed = RandomState::new().hash_one(0);
        Learned { topics: HashMap::default(), places: Vec::new(), octets: 0, seed }
    }

    /// Forgets everything: the view has changed, or there is too much.
    pub(crate) fn clear(&mut self) {
        self.topics.clear();
        self.places.clear();
        self.octets = 0;
    }

    /// What is known of questions for `name` and this type.
    pub(crate) fn topic(&self, name: &Folded, kind: u16) -> Option<Topic> {
        let known = self.topics.get(&self.hash(name, kind))?;
        (known.kind == kind && *known.name == *name.words()).then_some(known.topic)
    }

    /// Begins a topic. `None` when another one has its hash.
    pub(crate) fn begin(&mut self, name: &Folded, kind: u16, site: Option<SiteRef>) -> Option<Topic> {
        if self.topics.len() >= TOPICS_MAX {
            self.clear();
        }
        let number = self.topics.len() as u32;
        let hash = self.hash(name, kind);
        let topic = Topic { number, site };
        let known =
            self.topics.entry(hash).or_insert_with(|| Known { name: name.words().into(), kind, topic });
        (known.topic == topic).then_some(topic)
    }

    fn hash(&self, name: &Folded, kind: u16) -> u64 {
        stir(name.hash ^ self.seed ^ u64::from(kind) << 48)
    }

    /// The block of this key.
    pub(crate) fn get(&self, key: &Key) -> Option<&Block> {
        let place = |at: &usize| self.places.get(*at)?.as_deref().filter(|block| block.key == *key);
        key.places().iter().find_map(place)
    }

    /// Keeps a block, in the place of its predecessor or of another that is in the way.
    pub(crate) fn keep(&mut self, block: Block) {
        if self.octets >= OCTETS_MAX {
            self.places.clear();
            self.octets = 0;
        }
        self.places.resize_with(PLACES, || None);
        let [first, second] = block.key.places();
        let is_free = |at: usize| self.places[at].as_deref().is_none_or(|other| other.key == block.key);
        let at = if is_free(first) || !is_free(second) { first } else { second };
        let len = |block: &Block| size_of::<Block>() + block.octets.len();
        self.octets += len(&block);
        let before = self.places[at].replace(Box::new(block));
        self.octets -= before.as_deref().map_or(0, len);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn block(key: Key, octets: &[u8]) -> Block {
        let shape = Shape { len: octets.len(), optional: false };
        let (code, since, until) = (ResponseCode::NoError, Time::from_secs(0), Time::NEVER);
        let octets = octets.into();
        Block { key, code, authoritative: true, counts: [0; 3], shape, since, until, octets, spelt: None }
    }

    fn name(n: u32) -> Folded {
        Folded::new(&[&b"\x09"[..], format!("{n:09}").as_bytes(), &[0]].concat())
    }

    #[test]
    fn what_was_kept_is_found_by_name_type_flags_and_choice() {
        let mut learned = Learned::new();
        assert_eq!(learned.topic(&name(1), 1), None);
        let topic = learned.begin(&name(1), 1, None).unwrap();
        assert_eq!(learned.topic(&name(1), 1), Some(topic));
        assert_eq!((learned.topic(&name(1), 2), learned.topic(&name(2), 1)), (None, None));
        learned.keep(block(Key::new(topic, 0, None), b"one"));
        learned.keep(block(Key::new(topic, 1, None), b"two"));
        assert_eq!(*learned.get(&Key::new(topic, 0, None)).unwrap().octets, *b"one");
        assert_eq!(*learned.get(&Key::new(topic, 1, None)).unwrap().octets, *b"two");
        assert!(learned.get(&Key::new(topic, 2, None)).is_none());
        learned.keep(block(Key::new(topic, 0, None), b"three"));
        assert_eq!(*learned.get(&Key::new(topic, 0, None)).unwrap().octets, *b"three");
        learned.clear();
        assert!(learned.get(&Key::new(topic, 0, None)).is_none() && learned.topic(&name(1), 1).is_none());
    }

    #[test]
    fn memory_is_bounded_however_many_names_are_asked_for() {
        let mut learned = Learned::new();
        for n in 0..200_000 {
            let topic = learned.begin(&name(n), 1, None).unwrap();
            learned.keep(block(Key::new(topic, 0, None), &[0; 500]));
            assert!(learned.topics.len() <= TOPICS_MAX && learned.octets <= OCTETS_MAX + 1000);
        }
        assert!(learned.places.len() == PLACES);
    }
}
