//! A full disk: reading goes on, writing is refused, and it works again when there is space.
//!
//! The test proper runs in a process of its own, in a mount namespace with a small tmpfs.

use crate::kit::{self, block_on, check_all, object, put};
use godwit_store::{NewObject, Options, Space, Store, StoreError};
use std::path::Path;
use std::process::Command;

const DIR: &str = "GODWIT_STORE_FULL_DIR";

fn open(dir: &Path) -> Store {
    let options = Options { reserve_bytes: None, ..kit::options() };
    Store::open(dir, options).unwrap().0
}

#[test]
#[ignore = "the test below runs it in a namespace of its own"]
fn child() {
    let Ok(dir) = std::env::var(DIR) else { return };
    let dir = Path::new(&dir).join("store");
    let store = open(&dir);
    let mut kept: Vec<NewObject> = Vec::new();
    let refused = loop {
        let next = object(kept.len() as u64, 200_000);
        match block_on(store.put_objects(vec![next.clone()])) {
            Ok(()) => kept.push(next),
            Err(error) => break error,
        }
    };
    assert!(matches!(refused, StoreError::Full { .. }), "{refused:?}");
    assert!(kept.len() > 50 && store.stats().full, "{} kept, {refused:?}, {:?}", kept.len(), store.stats());
    check_all(&store, &kept);
    let whole = object(9000, 300_000);
    let begun = store.begin(whole.named.id, whole.named.len, whole.named.groups.clone());
    assert!(matches!(begun, Err(StoreError::Full { .. })));
    // Heads are small and matter more: they may use half of the reserve.
    block_on(store.put_record(Space(1), b"head", b"value")).unwrap();
    // Somebody else takes the rest, to the last byte.
    let hog = dir.with_file_name("hog");
    let mut file = std::fs::File::create(&hog).unwrap();
    while std::io::Write::write_all(&mut file, &[1; 4096]).is_ok() {}
    drop(file);
    check_all(&store, &kept);
    let refused = block_on(store.put_record(Space(1), b"head", b"other"));
    assert!(matches!(refused, Err(StoreError::Full { .. })), "{refused:?}");
    assert_eq!(store.record(Space(1), b"head").unwrap().unwrap(), b"value");
    // It opens on the full disk, by giving back its ballast.
    drop(store);
    let store = open(&dir);
    check_all(&store, &kept);
    assert_eq!(store.record(Space(1), b"head").unwrap().unwrap(), b"value");
    // Space returns, and all is well by itself.
    std::fs::remove_file(hog).unwrap();
    let some: Vec<_> = kept.iter().take(40).map(|object| object.named.id).collect();
    block_on(store.delete(some)).unwrap();
    block_on(store.sync()).unwrap();
    put(&store, &[object(9001, 100_000)]);
    assert!(!store.stats().full);
    block_on(store.put_record(Space(1), b"head", b"other")).unwrap();
    drop(store);
    let store = open(&dir);
    check_all(&store, &kept[40..]);
    assert_eq!(store.record(Space(1), b"head").unwrap().unwrap(), b"other");
    println!("went through");
}

#[test]
fn a_full_disk_refuses_writes_and_nothing_else() {
    let dir = tempfile::tempdir().unwrap();
    let script =
        "mount -t tmpfs -o size=48m tmpfs \"$1\" && exec \"$2\" full::child --exact --ignored --nocapture";
    let mut command = Command::new("unshare");
    command.args(["--user", "--map-root-user", "--mount", "sh", "-c", script, "sh"]);
    command.arg(dir.path()).arg(std::env::current_exe().unwrap()).env(DIR, dir.path());
    match command.output() {
        Err(error) => eprintln!("SKIPPED: the full disk, because unshare(1) does not run: {error}"),
        Ok(output) => {
            let (out, err) =
                (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
            if !out.contains("running 1 test") {
                eprintln!("SKIPPED: the full disk, because no tmpfs can be mounted in a namespace: {err}");
                return;
            }
            assert!(output.status.success() && out.contains("went through"), "{out}\n{err}");
        }
    }
}
