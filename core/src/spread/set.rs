//! The record set: the highest-ranked record of each key, and sums that tell two sets apart.
//!
//! - *Merge law.* Within a key the higher [`Rank`] wins; ranks are total. Merging is therefore
//!   commutative, associative and idempotent, and sets that saw the same records are equal.
//! - *Lifetimes.* Soft state ends its lifetime after its *birth*: when it was first heard by
//!   anybody, as far as the age that travels with it tells. So handing a record on does not
//!   prolong it.
//! - *Floors.* Soft state that has ended leaves its rank behind for [`FLOOR_LIFETIME`]: nothing at
//!   or below comes back, by whatever way.
//! - *Sums.* Keys fall into [`BUCKETS`] by hash; each bucket sums (not XORs: a sum does not cancel
//!   when something is counted twice) the hashes of its (key, rank) pairs. Equal sums mean equal
//!   buckets.

use crate::record::{Key, Rank, Record};
use crate::time::Time;
use crate::wire;
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

/// Into how many buckets keys fall. With 256, a network of 200 members has three records in each,
/// and one of 10,000 sites forty.
pub(crate) const BUCKETS: usize = 256;

/// The longest lifetime of soft state that is accepted.
pub(crate) const LIFETIME_MAX: Duration = Duration::from_secs(300);

/// How long a floor stands: twice the longest lifetime, after which nobody holds the record.
const FLOOR_LIFETIME: Duration = Duration::from_secs(600);

/// At most this many floors are kept; the earliest to end goes first.
const FLOORS_MAX: usize = 65_536;

/// A kind of record: what bounds count.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Member,
    Revocation,
    Site,
    Order,
    Roster,
    Suspicion,
    Observations,
    Statement,
    Address,
}

impl Kind {
    pub(crate) fn of(key: &Key) -> Kind {
        match key {
            Key::Member(_) => Kind::Member,
            Key::Revocation(_) => Kind::Revocation,
            Key::Site(_) => Kind::Site,
            Key::Order(_) => Kind::Order,
            Key::Roster(_) => Kind::Roster,
            Key::Suspicion { .. } => Kind::Suspicion,
            Key::Observations(_) => Kind::Observations,
            Key::Statement { .. } => Kind::Statement,
            Key::Address(_) => Kind::Address,
        }
    }

    /// At most this many records of the kind are held. Far above what a network of a thousand
    /// members needs, low enough that a full set fits into some hundred megabytes.
    pub(crate) const fn count_max(self) -> usize {
        match self {
            Kind::Member | Kind::Order | Kind::Roster | Kind::Observations => 4096,
            Kind::Revocation => 65_536,
            // Each is looked for by every packet at a home agent. Names taken back count, too.
            Kind::Address => 512,
            Kind::Site | Kind::Suspicion | Kind::Statement => 16_384,
        }
    }
}

/// A record in the set.
#[derive(Clone, Debug)]
pub(crate) struct Held {
    pub(crate) record: Record,
    pub(crate) rank: Rank,
    /// Length of its canonical bytes.
    pub(crate) len: usize,
    /// When it was first heard by anybody, as far as is known.
    pub(crate) birth: Time,
    /// When it ends; `None` for heads.
    pub(crate) end: Option<Time>,
    bucket: u8,
    digest: u128,
}

impl Held {
    /// The bucket that its key falls into.
    pub(crate) fn bucket(&self) -> u8 {
        self.bucket
    }

    /// How old it is: what goes with it when it is handed on.
    pub(crate) fn age_ms(&self, now: Time) -> u32 {
        now.since(self.birth).as_millis().try_into().unwrap_or(u32::MAX)
    }
}

/// How a rank stands against what the set has of its key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Standing {
    /// Nothing is known of the key, or only lower things.
    Higher,
    /// The very record is held.
    Same,
    /// A higher record is held.
    Lower,
    /// It or a higher one was held and has ended.
    Ended,
}

/// The record set.
#[derive(Debug)]
pub(crate) struct RecordSet {
    held: BTreeMap<Key, Held>,
    floors: BTreeMap<Key, (Rank, Time)>,
    /// When soft state ends, and when floors do.
    ends: BTreeSet<(Time, Key)>,
    sums: Vec<u128>,
    counts: [usize; 9],
}

impl RecordSet {
    pub(crate) fn new() -> RecordSet {
        RecordSet {
            held: BTreeMap::new(),
            floors: BTreeMap::new(),
            ends: BTreeSet::new(),
            sums: vec![0; BUCKETS],
            counts: [0; 9],
        }
    }

    pub(crate) fn get(&self, key: &Key) -> Option<&Held> {
        self.held.get(key)
    }

    /// All records, in the order of their keys.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (&Key, &Held)> {
        self.held.iter()
    }

    /// The records that say who is a member.
    pub(crate) fn heads_of_membership(&self) -> impl Iterator<Item = (&Key, &Held)> {
        // They come first in the order of keys.
        self.held.iter().take_while(|(key, _)| matches!(key, Key::Member(_) | Key::Revocation(_)))
    }

    pub(crate) fn count(&self, kind: Kind) -> usize {
        self.counts[kind as usize]
    }

    pub(crate) fn standing(&self, key: &Key, rank: Rank) -> Standing {
        if let Some((floor, _)) = self.floors.get(key)
            && rank <= *floor
        {
            return Standing::Ended;
        }
        match self.held.get(key).map(|held| rank.cmp(&held.rank)) {
            None | Some(std::cmp::Ordering::Greater) => Standing::Higher,
            Some(std::cmp::Ordering::Equal) => Standing::Same,
            Some(std::cmp::Ordering::Less) => Standing::Lower,
        }
    }

    /// Puts in a record that stands [`Standing::Higher`]; returns what it replaced.
    pub(crate) fn insert(
        &mut self,
        key: Key,
        record: Record,
        rank: Rank,
        len: usize,
        birth: Time,
    ) -> Option<Held> {
        let previous = self.take(&key);
        let end = record.lifetime().map(|lifetime| birth + lifetime);
        if let Some(end) = end {
            self.ends.insert((end, key.clone()));
        }
        let (bucket, digest) = (bucket_of(&key), digest_of(&key, rank));
        self.sums[usize::from(bucket)] = self.sums[usize::from(bucket)].wrapping_add(digest);
        self.counts[Kind::of(&key) as usize] += 1;
        self.held.insert(key, Held { record, rank, len, birth, end, bucket, digest });
        previous
    }

    /// Takes out a record that does not hold any more. Soft state leaves a floor.
    pub(crate) fn remove(&mut self, now: Time, key: &Key) -> Option<Held> {
        let held = self.take(key)?;
        if held.end.is_some() {
            self.set_floor(key.clone(), held.rank, now + FLOOR_LIFETIME);
        }
        Some(held)
    }

    /// Takes out the soft state whose lifetime is over.
    pub(crate) fn expire(&mut self, now: Time) -> Vec<(Key, Held)> {
        let mut ended = Vec::new();
        while let Some((at, key)) = self.ends.first().cloned() {
            if at > now {
                break;
            }
            self.ends.pop_first();
            if self.held.get(&key).is_some_and(|held| held.end == Some(at)) {
                ended.extend(self.remove(now, &key).map(|held| (key, held)));
            } else if self.floors.get(&key).is_some_and(|(_, end)| *end == at) {
                self.floors.remove(&key);
            }
        }
        ended
    }

    /// When [`RecordSet::expire`] has something to do.
    pub(crate) fn next_end(&self) -> Option<Time> {
        self.ends.first().map(|(at, _)| *at)
    }

    /// The sum of each bucket.
    pub(crate) fn sums(&self) -> &[u128] {
        &self.sums
    }

    /// The sum of all.
    pub(crate) fn sum(&self) -> u128 {
        self.sums.iter().fold(0, |sum, bucket| sum.wrapping_add(*bucket))
    }

    /// The records in these buckets, in the order of their keys.
    pub(crate) fn in_buckets<'a>(
        &'a self,
        buckets: &'a BTreeSet<u8>,
    ) -> impl Iterator<Item = (&'a Key, &'a Held)> {
        self.held.iter().filter(|(_, held)| buckets.contains(&held.bucket))
    }

    fn take(&mut self, key: &Key) -> Option<Held> {
        let held = self.held.remove(key)?;
        if let Some(end) = held.end {
            self.ends.remove(&(end, key.clone()));
        }
        let sum = &mut self.sums[usize::from(held.bucket)];
        *sum = sum.wrapping_sub(held.digest);
        self.counts[Kind::of(key) as usize] -= 1;
        Some(held)
    }

    fn set_floor(&mut self, key: Key, rank: Rank, until: Time) {
        if self.floors.len() >= FLOORS_MAX
            && let Some((_, oldest)) =
                self.ends.iter().find(|(_, key)| self.floors.contains_key(key)).cloned()
        {
            self.drop_floor(&oldest);
        }
        self.drop_floor(&key);
        self.ends.insert((until, key.clone()));
        self.floors.insert(key, (rank, until));
    }

    fn drop_floor(&mut self, key: &Key) {
        if let Some((_, end)) = self.floors.remove(key) {
            self.ends.remove(&(end, key.clone()));
        }
    }
}

fn bucket_of(key: &Key) -> u8 {
    blake3::hash(&wire::encode(key)).as_bytes()[0]
}

fn digest_of(key: &Key, rank: Rank) -> u128 {
    let mut digest = [0; 16];
    digest.copy_from_slice(&blake3::hash(&wire::encode(&(key, rank))).as_bytes()[..16]);
    u128::from_le_bytes(digest)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::key::SecretKey;
    use crate::record::{Signed, Suspicion};

    fn suspicion(sequence: u64) -> Record {
        let key = SecretKey::from_seed(&[1; 32]);
        let of = SecretKey::from_seed(&[2; 32]).public();
        Record::Suspicion(Signed::new(
            &key,
            Suspicion { of, incarnation: 1, unreachable: true, sequence, lifetime: Duration::from_secs(30) },
        ))
    }

    fn put(set: &mut RecordSet, record: Record, birth: Time) -> Standing {
        let bytes = wire::encode(&record);
        let (key, rank) = (record.key(), record.rank_of(&bytes));
        let standing = set.standing(&key, rank);
        if standing == Standing::Higher {
            set.insert(key, record, rank, bytes.len(), birth);
        }
        standing
    }

    #[test]
    fn the_higher_rank_stays_whatever_the_order() {
        let (mut up, mut down) = (RecordSet::new(), RecordSet::new());
        let now = Time::from_secs(100);
        for sequence in 1..=5 {
            assert_eq!(put(&mut up, suspicion(sequence), now), Standing::Higher);
        }
        for sequence in (1..=5).rev() {
            put(&mut down, suspicion(sequence), now);
        }
        assert_eq!(up.sums(), down.sums());
        assert_eq!((up.held.len(), up.count(Kind::Suspicion)), (1, 1));
        assert_eq!(put(&mut up, suspicion(5), now), Standing::Same);
        assert_eq!(put(&mut up, suspicion(4), now), Standing::Lower);
    }

    #[test]
    fn what_has_ended_does_not_come_back_but_a_newer_one_does() {
        let mut set = RecordSet::new();
        let born = Time::from_secs(100);
        put(&mut set, suspicion(5), born);
        assert_eq!(set.expire(Time::from_secs(129)).len(), 0);
        assert_eq!(set.next_end(), Some(Time::from_secs(130)));
        assert_eq!(set.expire(Time::from_secs(130)).len(), 1);
        assert_eq!(set.sum(), 0);
        assert_eq!(put(&mut set, suspicion(5), born), Standing::Ended);
        assert_eq!(put(&mut set, suspicion(3), born), Standing::Ended);
        assert_eq!(put(&mut set, suspicion(6), Time::from_secs(131)), Standing::Higher);
        set.expire(Time::from_secs(2000));
        assert_eq!((set.held.len(), set.floors.len(), set.ends.len()), (0, 1, 1));
        set.expire(Time::from_secs(5000));
        assert_eq!((set.floors.len(), set.ends.len()), (0, 0));
    }
}
