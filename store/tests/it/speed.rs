//! How fast it is, printed: run with `--ignored --nocapture`, and in release for figures.

use crate::kit::{block_on, object};
use godwit_store::{NewObject, Options, Store};
use std::time::Instant;

#[test]
#[ignore = "it measures and checks nothing"]
fn ten_thousand_files_of_fifty_kilobytes() {
    let dir = tempfile::tempdir().unwrap();
    let (store, _) = Store::open(dir.path(), Options::new(crate::kit::owner())).unwrap();
    let objects: Vec<NewObject> = (0..10_000).map(|seed| object(seed, 50_000)).collect();
    let batch = 80;
    let start = Instant::now();
    block_on(async {
        for objects in objects.chunks(batch) {
            store.put_objects(objects.to_vec()).await.unwrap();
        }
    });
    let took = start.elapsed();
    let mb = 500.0 / took.as_secs_f64();
    println!("put, one batch of 4 MB after another: {mb:.0} MB/s, {} commits", store.stats().commits);
    let start = Instant::now();
    for object in &objects {
        assert!(store.get(&object.named.id).unwrap().is_some());
    }
    let each = start.elapsed().as_secs_f64() * 1e6 / 10_000.0;
    println!("get, not read: {each:.1} µs each");
    drop(store);
    let start = Instant::now();
    let (store, report) = Store::open(dir.path(), Options::new(crate::kit::owner())).unwrap();
    println!("open: {:?}, {} objects", start.elapsed(), report.objects);
    let start = Instant::now();
    for object in &objects {
        assert!(store.get(&object.named.id).unwrap().is_some());
    }
    let each = start.elapsed().as_secs_f64() * 1e6 / 10_000.0;
    println!("first get after opening, verified: {each:.1} µs each");
}
