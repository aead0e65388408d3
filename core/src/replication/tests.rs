//! The machine against a small world: a store, holders that have some of the objects, lose batches
//! and break off, and trees of any shape.

use super::*;
use crate::content::tree::{Body, Entry, File, Kind, build_directory};
use crate::upload::{Coming, Intent, Plan};
use bytes::Bytes;
use proptest::prelude::*;
use std::time::Duration;

/// Deterministic choices from a seed.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % sides
    }
}

type Objects = BTreeMap<ObjectId, Bytes>;

fn member(number: u8) -> MemberId {
    MemberId::from_bytes([number; 32])
}

fn site(name: &str) -> SiteName {
    name.parse().unwrap()
}

/// A tree as paths and contents; returns its root and adds its objects to `objects`.
fn publish(objects: &mut Objects, files: &BTreeMap<String, String>) -> ObjectId {
    let mut entries = Vec::new();
    let mut directories: BTreeMap<&str, BTreeMap<String, String>> = BTreeMap::new();
    for (path, content) in files {
        match path.split_once('/') {
            Some((directory, rest)) => {
                directories.entry(directory).or_default().insert(rest.to_owned(), content.clone());
            }
            None => {
                let bytes = Bytes::from(content.clone());
                let (id, len) = (ObjectId::of(&bytes), bytes.len() as u64);
                objects.insert(id, bytes);
                let file = File { len, modified: 0, body: Body::Object(id) };
                entries.push(Entry { name: path.clone(), kind: Kind::File(file) });
            }
        }
    }
    for (name, files) in directories {
        let root = publish(objects, &files);
        entries.push(Entry { name: name.to_owned(), kind: Kind::Directory(root) });
    }
    let built = build_directory(entries).unwrap();
    objects.extend(built.blocks);
    built.root
}

fn flat(count: usize, mark: &str) -> BTreeMap<String, String> {
    (0..count).map(|i| (format!("d{}/e{}/f{i}", i % 7, i % 3), format!("{mark}{i}"))).collect()
}

/// A node's machine, its store and everybody else.
struct World {
    machine: Replication,
    now: Time,
    store: Objects,
    holders: BTreeMap<MemberId, Objects>,
    dice: Dice,
    /// One batch in so many fails, if any.
    trouble: Option<u64>,
    fetched: Vec<ObjectId>,
    batches: BTreeMap<MemberId, usize>,
    in_flight: BTreeMap<BatchId, (MemberId, Vec<Wanted>)>,
    complete: Vec<(SiteName, VersionNumber)>,
    demanded: Vec<(ObjectId, bool)>,
    notes: Vec<Event>,
}

impl World {
    fn new(seed: u64) -> World {
        World {
            machine: Replication::new(),
            now: Time::from_secs(1),
            store: Objects::new(),
            holders: BTreeMap::new(),
            dice: Dice(seed),
            trouble: None,
            fetched: Vec::new(),
            batches: BTreeMap::new(),
            in_flight: BTreeMap::new(),
            complete: Vec::new(),
            demanded: Vec::new(),
            notes: Vec::new(),
        }
    }

    fn holder(&mut self, number: u8, objects: Objects) -> &mut World {
        self.holders.insert(member(number), objects);
        self.feed(Input::PeerUp { peer: member(number) });
        self
    }

    fn want(&mut self, name: &str, number: u64, root: ObjectId) {
        self.feed(Input::Want { site: site(name), number: VersionNumber(number), root });
        let holders = self.holders.keys().copied().collect();
        self.feed(Input::Holders { site: site(name), holders });
    }

    fn feed(&mut self, input: Input) {
        self.machine.handle(self.now, input);
        while let Some(output) = self.machine.poll_output() {
            match output {
                Output::Look(looks) => {
                    let found = looks.into_iter().map(|look| self.look(look)).collect();
                    self.machine.handle(self.now, Input::Looked { found });
                }
                Output::Fetch { batch, holder, objects, .. } => {
                    assert!(objects.len() <= BATCH_OBJECTS && !objects.is_empty());
                    *self.batches.entry(holder).or_insert(0) += 1;
                    self.in_flight.insert(batch, (holder, objects));
                    assert!(self.in_flight.len() <= 24);
                }
                Output::Cancel { batch } => drop(self.in_flight.remove(&batch)),
                Output::Complete { site, number } => self.complete.push((site, number)),
                Output::Doubtful { .. } => {}
                Output::Demanded { id, found } => self.demanded.push((id, found)),
                Output::Note(event) => self.notes.push(event),
            }
        }
    }

    fn look(&self, look: Look) -> Found {
        let bytes = self.store.get(&look.id);
        let len = bytes.map(|bytes| bytes.len() as u64);
        let bytes = bytes.filter(|bytes| look.bytes_max.is_some_and(|max| bytes.len() as u64 <= max));
        Found { id: look.id, len, bytes: bytes.cloned() }
    }

    /// Lets one batch in flight, or else the clock, go on. False when nothing more will happen.
    fn step(&mut self) -> bool {
        if self.in_flight.is_empty() {
            let Some(deadline) = self.machine.next_deadline() else { return false };
            self.now = self.now.max(deadline) + Duration::from_millis(1);
            self.feed(Input::Timer);
            return true;
        }
        let turn = self.dice.roll(self.in_flight.len() as u64) as usize;
        let batch = *self.in_flight.keys().nth(turn).unwrap();
        let (holder, objects) = self.in_flight.remove(&batch).unwrap();
        let breaks = self.trouble.is_some_and(|sides| self.dice.roll(sides) == 0);
        let brought = if breaks { self.dice.roll(objects.len() as u64) as usize } else { objects.len() };
        let (mut ids, mut missing) = (Vec::new(), Vec::new());
        for wanted in &objects[..brought] {
            match self.holders[&holder].get(&wanted.id) {
                Some(bytes) => {
                    self.store.insert(wanted.id, bytes.clone());
                    ids.push(wanted.id);
                }
                None => missing.push(wanted.id),
            }
        }
        self.fetched.extend(&ids);
        self.feed(Input::Stored { batch: Some(batch), ids });
        if breaks && self.dice.roll(3) == 0 {
            // It says nothing more: time alone ends it.
            self.now = self.now + SILENCE_MAX;
            self.feed(Input::Timer);
        } else {
            let failed = breaks.then(|| "broke off".to_owned());
            self.feed(Input::Ended { batch, missing, failed });
        }
        true
    }

    fn run(&mut self) {
        for _ in 0..100_000 {
            if !self.step() {
                return;
            }
        }
        panic!("it never comes to rest");
    }

    /// Runs until the site's version is complete, and checks that it is.
    fn run_to_complete(&mut self, name: &str, number: u64, objects: &Objects) {
        let goal = (site(name), VersionNumber(number));
        for _ in 0..100_000 {
            if self.complete.contains(&goal) {
                break;
            }
            assert!(self.step(), "at rest, and not complete: {:?}", self.machine.progress(&site(name)));
        }
        assert!(self.complete.contains(&goal), "not complete: {:?}", self.machine.progress(&site(name)));
        objects.iter().for_each(|(id, bytes)| assert_eq!(self.store.get(id), Some(bytes)));
    }
}

#[test]
fn a_tree_comes_whole_and_nothing_twice() {
    let mut objects = Objects::new();
    let root = publish(&mut objects, &flat(3000, "a"));
    let mut world = World::new(1);
    world.holder(1, objects.clone()).want("www", 1, root);
    world.run_to_complete("www", 1, &objects);
    assert_eq!(world.fetched.len(), objects.len());
    assert!(world.machine.progress(&site("www")).unwrap().complete);
}

#[test]
fn what_is_here_is_not_fetched() {
    let mut objects = Objects::new();
    let root = publish(&mut objects, &flat(1000, "a"));
    let mut world = World::new(1);
    world.store = objects.clone();
    world.want("www", 1, root);
    assert_eq!(world.complete, [(site("www"), VersionNumber(1))]);
    assert_eq!(world.fetched, []);
}

#[test]
fn one_changed_file_costs_its_path() {
    let (mut first, mut second) = (Objects::new(), Objects::new());
    let mut files = flat(5000, "a");
    let root = publish(&mut first, &files);
    files.insert("d3/e1/f10".into(), "changed".into());
    let next = publish(&mut second, &files);
    let mut world = World::new(1);
    world.holder(1, first.clone()).want("www", 1, root);
    world.run_to_complete("www", 1, &first);
    world.fetched.clear();
    world.holder(1, second.clone()).want("www", 2, next);
    world.run_to_complete("www", 2, &second);
    // The file, and on each of three levels a block and two of index at most.
    assert!((4..=10).contains(&world.fetched.len()), "{}", world.fetched.len());
}

#[test]
fn unchanged_subtrees_are_not_even_looked_up() {
    let mut objects = Objects::new();
    let mut files = flat(5000, "a");
    let root = publish(&mut objects, &files);
    let mut world = World::new(1);
    world.store = objects.clone();
    world.want("www", 1, root);
    files.insert("d3/e1/f10".into(), "changed".into());
    let next = publish(&mut world.store, &files);
    let mut looks = 0;
    let input = Input::Want { site: site("www"), number: VersionNumber(2), root: next };
    world.machine.handle(world.now, input);
    while let Some(output) = world.machine.poll_output() {
        let Output::Look(asked) = output else { continue };
        looks += asked.len();
        let found = asked.into_iter().map(|look| world.look(look)).collect();
        world.machine.handle(world.now, Input::Looked { found });
    }
    assert!(world.machine.progress(&site("www")).unwrap().complete);
    assert!(looks < 700, "{looks} of {} objects", world.store.len());
}

#[test]
fn a_newer_version_puts_an_end_to_the_older() {
    let (mut first, mut second) = (Objects::new(), Objects::new());
    let root = publish(&mut first, &flat(3000, "a"));
    let next = publish(&mut second, &flat(10, "b"));
    let mut world = World::new(1);
    let all = first.clone().into_iter().chain(second.clone()).collect();
    world.holder(1, all).want("www", 1, root);
    (0..3).for_each(|_| assert!(world.step()));
    world.want("www", 2, next);
    world.run();
    assert_eq!(world.complete, [(site("www"), VersionNumber(2))]);
    assert!(world.fetched.len() < first.len() / 2, "{}", world.fetched.len());
}

#[test]
fn batches_are_spread_over_holders() {
    let mut objects = Objects::new();
    let root = publish(&mut objects, &flat(6000, "a"));
    let mut world = World::new(1);
    world.holder(1, objects.clone()).holder(2, objects.clone()).holder(3, objects.clone());
    world.want("www", 1, root);
    world.run_to_complete("www", 1, &objects);
    assert_eq!(world.batches.len(), 3, "{:?}", world.batches);
    assert!(world.batches.values().all(|count| *count >= 5), "{:?}", world.batches);
}

#[test]
fn a_malicious_tree_is_refused_and_not_tried_again() {
    let mut objects = Objects::new();
    let junk = Bytes::from_static(b"\xffnot a block");
    let root = ObjectId::of(&junk);
    objects.insert(root, junk);
    let mut world = World::new(1);
    world.holder(1, objects).want("www", 1, root);
    world.run();
    assert!(matches!(world.notes[..], [Event::Refused { .. }]), "{:?}", world.notes);
    // A length that is not the object's.
    let mut objects = Objects::new();
    let body = Bytes::from_static(b"five!");
    let file = File { len: 6, modified: 0, body: Body::Object(ObjectId::of(&body)) };
    let built = build_directory(vec![Entry { name: "a".into(), kind: Kind::File(file) }]).unwrap();
    objects.insert(ObjectId::of(&body), body);
    objects.extend(built.blocks);
    let mut world = World::new(1);
    world.holder(1, objects).want("www", 1, built.root);
    world.run();
    assert!(matches!(world.notes[..], [Event::Refused { .. }]), "{:?}", world.notes);
    assert_eq!(world.complete, []);
}

#[test]
fn a_demand_is_met_once_for_all_and_said_to_be_hopeless_when_it_is() {
    let bytes = Bytes::from_static(b"wanted now");
    let id = ObjectId::of(&bytes);
    let mut world = World::new(1);
    world.holder(1, Objects::new()).holder(2, Objects::from([(id, bytes)]));
    let holders = vec![member(1), member(2)];
    for _ in 0..3 {
        world.feed(Input::Demand { id, len: 0, holders: holders.clone() });
    }
    world.run();
    assert_eq!(world.fetched, [id]);
    assert_eq!(world.demanded, [(id, true)]);
    let nowhere = ObjectId::of(b"nowhere");
    world.feed(Input::Demand { id: nowhere, len: 0, holders });
    world.run();
    assert_eq!(world.demanded[1..], [(nowhere, false)]);
    world.feed(Input::Demand { id: nowhere, len: 0, holders: vec![member(9)] });
    assert_eq!(world.demanded[2..], [(nowhere, false)]);
}

#[test]
fn a_demand_overtakes_a_site() {
    let mut objects = Objects::new();
    let root = publish(&mut objects, &flat(6000, "a"));
    let mut world = World::new(1);
    world.holder(1, objects.clone()).want("www", 1, root);
    (0..4).for_each(|_| assert!(world.step()));
    let last = ObjectId::of(b"a5999");
    world.feed(Input::Demand { id: last, len: 5, holders: vec![member(1)] });
    let urgent = world.in_flight.values().any(|(_, objects)| objects.iter().any(|wanted| wanted.id == last));
    assert!(urgent || world.store.contains_key(&last), "it is under way at once");
    world.run_to_complete("www", 1, &objects);
    let times = world.fetched.iter().filter(|id| **id == last).count();
    assert_eq!(times, 1);
}

#[test]
fn objects_lost_from_the_store_are_fetched_again() {
    let mut objects = Objects::new();
    let root = publish(&mut objects, &flat(500, "a"));
    let mut world = World::new(1);
    world.holder(1, objects.clone()).want("www", 1, root);
    world.run_to_complete("www", 1, &objects);
    world.fetched.clear();
    world.complete.clear();
    let lost: Vec<ObjectId> = objects.keys().copied().step_by(50).collect();
    lost.iter().for_each(|id| drop(world.store.remove(id)));
    world.feed(Input::Lost);
    world.run_to_complete("www", 1, &objects);
    world.fetched.sort();
    assert_eq!(world.fetched, lost);
}

#[test]
fn blocks_that_do_not_stay_whole_are_looked_under_again() {
    let mut objects = Objects::new();
    let root = publish(&mut objects, &flat(500, "a"));
    let mut world = World::new(1);
    world.holder(1, objects.clone()).want("www", 1, root);
    world.run_to_complete("www", 1, &objects);
    let mut later = objects.clone();
    let other = publish(&mut later, &flat(10, "b"));
    world.holder(1, later.clone()).want("www", 2, other);
    world.run();
    // The first version was collected, and is published once more.
    world.feed(Input::Retain { blocks: BTreeSet::from([other]) });
    world.store.retain(|id, _| !objects.contains_key(id));
    world.fetched.clear();
    world.want("www", 3, root);
    world.run_to_complete("www", 3, &objects);
    assert_eq!(world.fetched.len(), objects.len());
}

#[test]
fn many_sites_take_turns_and_all_are_done() {
    let mut objects = Objects::new();
    let mut world = World::new(1);
    let roots: Vec<ObjectId> = (0..20).map(|i| publish(&mut objects, &flat(50, &format!("{i}-")))).collect();
    world.holder(1, objects.clone());
    for (i, root) in roots.iter().enumerate() {
        world.want(&format!("s{i}"), 1, *root);
    }
    world.run();
    assert_eq!(world.complete.len(), 20);
    assert_eq!(world.store.len(), objects.len());
}

#[test]
fn the_same_inputs_give_the_same_outputs() {
    let trace = || {
        let mut objects = Objects::new();
        let root = publish(&mut objects, &flat(800, "a"));
        let mut world = World::new(7);
        world.trouble = Some(3);
        world.holder(1, objects.clone()).holder(2, objects.clone());
        world.want("www", 1, root);
        world.run_to_complete("www", 1, &objects);
        (world.fetched, world.now, world.notes)
    };
    assert_eq!(trace(), trace());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    /// Whatever fails: if every object is somewhere, the version comes to be complete, and nothing
    /// that was here is fetched.
    #[test]
    fn it_completes_in_the_end(
        seed in any::<u64>(), files in 1usize..700, holders in 1u8..6, trouble in 2u64..8, here in 0u64..4,
    ) {
        let mut objects = Objects::new();
        let root = publish(&mut objects, &flat(files, "a"));
        let mut world = World::new(seed);
        world.trouble = Some(trouble);
        for (id, bytes) in &objects {
            if here > 0 && world.dice.roll(4) < here {
                world.store.insert(*id, bytes.clone());
            }
        }
        let before = world.store.clone();
        let mut parts = vec![Objects::new(); usize::from(holders)];
        for (id, bytes) in &objects {
            // Everybody has most, and at least one has each.
            let sure = world.dice.roll(u64::from(holders)) as usize;
            for (number, part) in parts.iter_mut().enumerate() {
                if number == sure || world.dice.roll(3) > 0 {
                    part.insert(*id, bytes.clone());
                }
            }
        }
        for (number, part) in parts.into_iter().enumerate() {
            world.holder(number as u8 + 1, part);
        }
        world.want("www", 1, root);
        world.run_to_complete("www", 1, &objects);
        prop_assert!(world.fetched.iter().all(|id| !before.contains_key(id)));
    }

    /// Members come and go while it fetches.
    #[test]
    fn it_survives_members_that_come_and_go(seed in any::<u64>(), files in 100usize..900) {
        let mut objects = Objects::new();
        let root = publish(&mut objects, &flat(files, "a"));
        let mut world = World::new(seed);
        for number in 1..=3 {
            world.holder(number, objects.clone());
        }
        world.want("www", 1, root);
        for _ in 0..50 {
            let peer = member(world.dice.roll(3) as u8 + 1);
            if world.dice.roll(2) == 0 {
                world.feed(Input::PeerDown { peer });
                world.in_flight.retain(|_, (holder, _)| *holder != peer);
            } else {
                world.feed(Input::PeerUp { peer });
            }
            world.step();
        }
        (1..=3).for_each(|number| world.feed(Input::PeerUp { peer: member(number) }));
        world.run_to_complete("www", 1, &objects);
    }
}

/// An arrivals of `objects` by `from`, under an intent for `signed` objects of a version.
fn announced(from: u8, number: u64, signed: (u64, u64), objects: &Objects) -> Input {
    let key = crate::key::SecretKey::from_seed(&[1; 32]);
    let validity =
        crate::certificate::Validity { not_before: Time::from_secs(0), not_after: Time::from_secs(9) };
    let certificate = crate::certificate::PublisherCertificate::issue(
        &key,
        crate::certificate::Serial(1),
        key.public(),
        String::new(),
        vec![crate::certificate::Right::Publish],
        validity,
    );
    let plan = Plan {
        site: site("www"),
        number: VersionNumber(number),
        policy: crate::content::Policy::default(),
        objects: signed.0,
        bytes: signed.1,
    };
    let intent = Intent::issue(Time::from_secs(number), &key, certificate, plan);
    let objects = objects.iter().map(|(id, bytes)| Coming { id: *id, len: bytes.len() as u64 }).collect();
    Input::Arrived { from: member(from), arrivals: Box::new(Arrivals { intent, objects }) }
}

/// How many objects, and how many bytes they have.
fn sum(objects: &Objects) -> (u64, u64) {
    (objects.len() as u64, objects.values().map(|bytes| bytes.len() as u64).sum())
}

#[test]
fn what_is_announced_is_there_when_its_version_comes() {
    let mut objects = Objects::new();
    let root = publish(&mut objects, &flat(2000, "a"));
    let mut world = World::new(3);
    world.trouble = Some(5);
    world.holder(1, objects.clone());
    let half: Objects = objects.clone().into_iter().take(1000).collect();
    for part in [&half, &objects] {
        world.feed(announced(1, 1, (10_000, 1 << 20), part));
        while !world.in_flight.is_empty() {
            world.step();
        }
        world.run();
        part.keys().for_each(|id| assert!(world.store.contains_key(id)));
    }
    assert!(world.complete.is_empty(), "no version is there yet");
    let before = world.fetched.len();
    world.want("www", 1, root);
    world.run_to_complete("www", 1, &objects);
    assert_eq!(world.fetched.len(), before, "nothing had to be fetched again");
}

#[test]
fn a_version_that_overtakes_its_announcements_shares_their_fetches() {
    for seed in 0..20 {
        let mut objects = Objects::new();
        let root = publish(&mut objects, &flat(1500, "a"));
        let mut world = World::new(seed);
        world.holder(1, objects.clone()).holder(2, objects.clone());
        world.feed(announced(1, 1, sum(&objects), &objects));
        for _ in 0..seed {
            world.step();
        }
        world.want("www", 1, root);
        // Late ones name nothing new.
        world.feed(announced(1, 1, sum(&objects), &objects));
        world.run_to_complete("www", 1, &objects);
        world.run();
        let mut fetched = world.fetched.clone();
        fetched.sort();
        fetched.dedup();
        assert_eq!(fetched.len(), world.fetched.len(), "something was fetched twice");
    }
}

#[test]
fn when_the_publishing_member_dies_what_it_announced_is_given_up() {
    let mut objects = Objects::new();
    publish(&mut objects, &flat(3000, "a"));
    let mut world = World::new(5);
    world.holder(1, objects.clone()).holder(2, objects.clone());
    world.feed(announced(1, 1, sum(&objects), &objects));
    world.step();
    world.feed(Input::PeerDown { peer: member(1) });
    assert!(world.in_flight.is_empty(), "nobody else is asked: nobody else said that it has them");
    world.run();
    assert!(world.store.len() < objects.len() && world.complete.is_empty());
    assert_eq!(world.machine.next_deadline(), None, "nothing is left of it");
    // The next version of the site is as if nothing had been.
    let mut other = Objects::new();
    let root = publish(&mut other, &flat(100, "b"));
    world.holder(2, other.clone());
    world.want("www", 1, root);
    world.run_to_complete("www", 1, &other);
}

#[test]
fn a_publish_that_falls_silent_is_given_up() {
    let mut objects = Objects::new();
    publish(&mut objects, &flat(100, "a"));
    let mut world = World::new(5);
    // It is connected and busy: nothing of what it announced can be asked for.
    world.holder(1, Objects::new());
    world.feed(announced(1, 1, sum(&objects), &objects));
    let began = world.now;
    world.run();
    assert!(world.now >= began + EARLY_MAX && world.now < began + 3 * EARLY_MAX);
    assert!(world.store.is_empty() && world.notes.is_empty());
}

#[test]
fn no_more_is_fetched_than_the_publisher_signed_for() {
    let mut objects = Objects::new();
    publish(&mut objects, &flat(1000, "a"));
    let (count, bytes) = sum(&objects);
    for signed in [(300, bytes), (count, bytes / 3), (0, 0)] {
        let mut world = World::new(5);
        world.holder(1, objects.clone());
        // Said again and again, also after it was given up.
        for _ in 0..3 {
            world.feed(announced(1, 1, signed, &objects));
            world.run();
            let (count, bytes) = sum(&world.store);
            assert!(count <= signed.0 && bytes <= signed.1, "{count} objects, {bytes} bytes of {signed:?}");
        }
        // Another signature is another publish.
        let before = world.store.len();
        world.feed(announced(1, 2, signed, &objects));
        world.run();
        assert!(world.store.len() >= before);
    }
}

#[test]
fn announcements_are_bounded_whoever_sends_them() {
    let mut world = World::new(5);
    world.holder(1, Objects::new()).holder(2, Objects::new());
    // Nobody looks: the store is slow.
    for number in 0..200u64 {
        let objects: Objects = (0..500u64)
            .map(|i| Bytes::from(format!("{number} {i}")))
            .map(|bytes| (ObjectId::of(&bytes), bytes))
            .collect();
        let Input::Arrived { from, arrivals } = announced(1, number, (u64::MAX, u64::MAX), &objects) else {
            panic!("it is an arrivals")
        };
        world.machine.handle(world.now, Input::Arrived { from, arrivals });
    }
    let mut looked = 0;
    while let Some(output) = world.machine.poll_output() {
        let Output::Look(looks) = output else { panic!("{output:?}") };
        looked += looks.len();
    }
    assert!(looked <= 8192, "{looked}");
}
