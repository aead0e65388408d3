//! What the tests share.

use bytes::Bytes;
use godwit_core::content::ObjectId;
use godwit_core::key::{MemberId, SecretKey};
use godwit_store::{NewObject, OpenReport, Options, Store};
use std::future::Future;
use std::path::Path;

pub(crate) fn owner() -> MemberId {
    SecretKey::from_seed(&[1; 32]).public()
}

/// Small limits, so that tests come to all of them.
pub(crate) fn options() -> Options {
    Options {
        cache_bytes: 8 << 20,
        pack_len: 1 << 20,
        own_file_len: 256 << 10,
        reserve_bytes: Some(1 << 20),
        ..Options::new(owner())
    }
}

pub(crate) fn open(dir: &Path) -> (Store, OpenReport) {
    Store::open(dir, options()).unwrap()
}

/// Runs a future to its end on this thread.
pub(crate) fn block_on<F: Future>(future: F) -> F::Output {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(future)
}

/// The bytes of object number `seed`.
pub(crate) fn body(seed: u64, len: usize) -> Bytes {
    use rand::{RngCore, SeedableRng};
    let mut bytes = vec![0; len];
    rand::rngs::StdRng::seed_from_u64(seed).fill_bytes(&mut bytes);
    bytes.into()
}

pub(crate) fn object(seed: u64, len: usize) -> NewObject {
    NewObject::of(body(seed, len))
}

/// Objects of many sizes, from nothing to more than a file of its own.
pub(crate) fn objects(count: u64) -> Vec<NewObject> {
    const LENS: [usize; 9] = [0, 1, 100, 4096, 5000, 16_384, 16_385, 70_000, 300_000];
    (0..count).map(|seed| object(seed, LENS[seed as usize % 9])).collect()
}

pub(crate) fn put(store: &Store, objects: &[NewObject]) {
    block_on(store.put_objects(objects.to_vec())).unwrap();
}

/// Checks that the store has exactly these bytes for each object.
pub(crate) fn check_all(store: &Store, objects: &[NewObject]) {
    for NewObject { named, bytes } in objects {
        let object = store.get(&named.id).unwrap();
        let object =
            object.unwrap_or_else(|| panic!("object {} of {} bytes is missing", named.id, named.len));
        assert_eq!(object.len(), named.len);
        assert!(object.bytes(0..named.len).unwrap() == *bytes, "object {} has wrong bytes", named.id);
        assert_eq!(object.groups().unwrap(), named.groups);
    }
}

pub(crate) fn ids(objects: &[NewObject]) -> Vec<ObjectId> {
    objects.iter().map(|object| object.named.id).collect()
}
