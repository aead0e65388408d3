//! Bit rot, lost files and cut files: nothing wrong is ever given out, and what is gone is named.

use crate::kit::{block_on, body, check_all, ids, object, objects, open, put};
use godwit_core::content::ObjectId;
use godwit_store::{NewObject, Space, Store};
use rand::{Rng, SeedableRng};
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

const SPACE: Space = Space(1);

/// A store with objects, records and a little history, closed.
fn filled(dir: &Path) -> Vec<NewObject> {
    let (store, _) = open(dir);
    let objects = objects(200);
    for objects in objects.chunks(20) {
        put(&store, objects);
    }
    for i in 0..100u8 {
        block_on(store.put_record(SPACE, &[i], &[0; 50])).unwrap();
        block_on(store.put_record(SPACE, &[i], &body(u64::from(i), 10 + usize::from(i) * 60))).unwrap();
    }
    block_on(store.remove_record(SPACE, &[99])).unwrap();
    objects
}

fn check_records(store: &Store) {
    for i in 0..99u8 {
        let expected = body(u64::from(i), 10 + usize::from(i) * 60);
        assert_eq!(store.record(SPACE, &[i]).unwrap().unwrap(), expected);
    }
    assert_eq!(store.records(SPACE).unwrap().len(), 99);
    assert_eq!(store.stats().records, 99);
}

fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap().map(Result::unwrap) {
        let target = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy(&entry.path(), &target);
        } else {
            std::fs::copy(entry.path(), target).unwrap();
        }
    }
}

fn flip(path: &Path, bit: u64) {
    let mut bytes = std::fs::read(path).unwrap();
    bytes[(bit / 8) as usize] ^= 1 << (bit % 8);
    std::fs::write(path, bytes).unwrap();
}

fn files(dir: &Path) -> Vec<PathBuf> {
    let mut files: Vec<PathBuf> = std::fs::read_dir(dir)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.is_file())
        .collect();
    files.sort();
    files
}

#[test]
fn a_flipped_bit_in_the_index_costs_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let whole = dir.path().join("whole");
    let objects = filled(&whole);
    let mut random = rand::rngs::StdRng::seed_from_u64(3);
    let mut rebuilt = 0;
    for round in 0..24 {
        let damaged = dir.path().join(format!("round-{round}"));
        copy(&whole, &damaged);
        let candidates = files(&damaged.join("index"));
        let path = &candidates[random.random_range(0..candidates.len())];
        let len = std::fs::metadata(path).unwrap().len();
        // Most of the log is padding: where it has content, a flip tells more.
        let content: Vec<u64> = std::fs::read(path)
            .unwrap()
            .iter()
            .zip(0..len)
            .filter(|(b, _)| **b != 0)
            .map(|(_, i)| i)
            .collect();
        if content.is_empty() {
            continue;
        }
        let bit = content[random.random_range(0..content.len())] * 8 + random.random_range(0..8);
        flip(path, bit);
        let (store, report) = open(&damaged);
        rebuilt += u32::from(report.rebuilt.is_some());
        assert_eq!(report.lost, [], "bit {bit} of {}: {report:?}", path.display());
        check_all(&store, &objects);
        check_records(&store);
        put(&store, &[object(1000, 5000)]);
        drop(store);
        let (store, report) = open(&damaged);
        assert!(report.rebuilt.is_none(), "{report:?}");
        check_all(&store, &objects);
        drop(store);
        std::fs::remove_dir_all(damaged).unwrap();
    }
    println!("24 flipped bits, {rebuilt} rebuilds, nothing lost");
    assert!(rebuilt > 0);
}

#[test]
fn an_index_that_is_gone_is_made_again() {
    let dir = tempfile::tempdir().unwrap();
    let objects = filled(dir.path());
    let (store, _) = open(dir.path());
    let gone = ids(&objects[..50]);
    block_on(store.delete(gone.clone())).unwrap();
    block_on(store.sync()).unwrap();
    let left: Vec<_> = objects[50..].iter().filter(|o| !gone.contains(&o.named.id)).cloned().collect();
    let stats = store.stats();
    drop(store);
    std::fs::remove_dir_all(dir.path().join("index")).unwrap();
    let (store, report) = open(dir.path());
    assert!(report.rebuilt.is_some());
    assert_eq!((report.lost.len(), report.skipped_bytes), (0, 0));
    check_all(&store, &left);
    check_records(&store);
    assert!(gone.iter().all(|id| !store.has(id).unwrap()), "what was deleted stays deleted");
    assert_eq!((store.stats().objects, store.stats().bytes), (stats.objects, stats.bytes));
}

#[test]
fn an_index_that_does_not_open_is_set_aside() {
    let dir = tempfile::tempdir().unwrap();
    let objects = filled(dir.path());
    for round in 0..3 {
        let log = dir.path().join("index").join("db");
        std::fs::remove_file(&log).unwrap();
        std::fs::create_dir(&log).unwrap();
        let (store, report) = open(dir.path());
        let aside = report.rebuilt.unwrap().set_aside.unwrap();
        assert!(aside.exists(), "round {round}");
        check_all(&store, &objects);
        check_records(&store);
    }
    let kept = std::fs::read_dir(dir.path()).unwrap().map(|entry| entry.unwrap().file_name());
    assert_eq!(kept.filter(|name| name.to_string_lossy().contains("damaged")).count(), 1);
}

#[test]
fn rotten_objects_are_never_given_out_and_are_told() {
    let dir = tempfile::tempdir().unwrap();
    let objects = filled(dir.path());
    let mut random = rand::rngs::StdRng::seed_from_u64(4);
    for path in files(&dir.path().join("packs")).iter().chain(&files(&dir.path().join("own"))) {
        let len = std::fs::metadata(path).unwrap().len();
        for _ in 0..if len > 0 { 5 } else { 0 } {
            flip(path, random.random_range(0..len * 8));
        }
    }
    let (store, report) = open(dir.path());
    assert!(report.rebuilt.is_none(), "bodies are looked at when they are read: {report:?}");
    let mut missing = BTreeSet::new();
    for NewObject { named, bytes } in &objects {
        match store.get(&named.id).unwrap() {
            Some(found) => {
                assert_eq!(found.bytes(0..named.len).unwrap(), *bytes);
                assert_eq!(found.groups().unwrap(), named.groups);
            }
            None => drop(missing.insert(named.id)),
        }
    }
    assert!(!missing.is_empty());
    let told: BTreeSet<ObjectId> = block_on(store.lost()).into_iter().collect();
    assert_eq!(told, missing);
    assert!(missing.iter().all(|id| !store.has(id).unwrap()));
    // Fetched again, they are there again.
    put(&store, &objects);
    check_all(&store, &objects);
    drop(store);
    let (store, report) = open(dir.path());
    assert!(report.rebuilt.is_none() && report.lost.is_empty(), "{report:?}");
    check_all(&store, &objects);
}

#[test]
fn scrubbing_finds_rot_in_what_was_read_before() {
    let dir = tempfile::tempdir().unwrap();
    let (store, _) = open(dir.path());
    let objects: Vec<_> = (0..30).map(|seed| object(seed, 20_000)).collect();
    put(&store, &objects);
    check_all(&store, &objects);
    flip(&files(&dir.path().join("packs"))[0], 200_000 * 8);
    let (mut damaged, mut checked, mut after) = (Vec::new(), 0, None);
    loop {
        let scrubbed = store.scrub(after, 100_000).unwrap();
        damaged.extend(scrubbed.damaged);
        checked += scrubbed.objects;
        after = scrubbed.next;
        if after.is_none() {
            break;
        }
    }
    assert_eq!((damaged.len(), checked), (1, 30));
    assert!(!store.has(&damaged[0]).unwrap());
    assert_eq!(block_on(store.lost()), damaged);
}

#[test]
fn objects_of_a_pack_that_was_cut_short_or_is_gone_are_named() {
    for gone in [false, true] {
        let dir = tempfile::tempdir().unwrap();
        let objects = filled(dir.path());
        let packs = files(&dir.path().join("packs"));
        assert!(packs.len() >= 3);
        for pack in [&packs[0], packs.last().unwrap()] {
            if gone {
                std::fs::remove_file(pack).unwrap();
            } else {
                let file = std::fs::OpenOptions::new().write(true).open(pack).unwrap();
                file.set_len(file.metadata().unwrap().len() / 2).unwrap();
            }
        }
        let (store, report) = open(dir.path());
        assert!(report.rebuilt.is_none() && !report.lost.is_empty(), "{report:?}");
        let lost: BTreeSet<ObjectId> = report.lost.into_iter().collect();
        let (missing, there): (Vec<_>, Vec<_>) =
            objects.iter().cloned().partition(|object| lost.contains(&object.named.id));
        check_all(&store, &there);
        assert!(missing.iter().all(|object| !store.has(&object.named.id).unwrap()));
        put(&store, &missing);
        check_all(&store, &objects);
        // What was written after the cut survives the loss of the index as well.
        drop(store);
        std::fs::remove_dir_all(dir.path().join("index")).unwrap();
        let (store, _) = open(dir.path());
        check_all(&store, &objects);
    }
}

#[test]
fn headers_that_rot_are_found_out_when_the_index_is_gone_too() {
    let dir = tempfile::tempdir().unwrap();
    let (store, _) = open(dir.path());
    let objects: Vec<_> = (0..20).map(|seed| object(seed, 5000)).collect();
    put(&store, &objects);
    drop(store);
    let pack = &files(&dir.path().join("packs"))[0];
    flip(pack, 40 * 8);
    std::fs::remove_dir_all(dir.path().join("index")).unwrap();
    let (store, report) = open(dir.path());
    assert_eq!((report.objects, report.found), (19, 19));
    assert!(report.skipped_bytes > 0);
    let there: Vec<_> = objects.into_iter().filter(|o| store.has(&o.named.id).unwrap()).collect();
    check_all(&store, &there);
}
