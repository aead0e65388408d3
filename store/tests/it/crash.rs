//! Whatever was acknowledged is there: after kill -9, and after the power is cut.
//!
//! A child process writes and tells what was acknowledged; the parent kills it in mid-write and
//! opens what it left. For the power cut the child writes to a file system in an image file, and
//! what counts is a copy of that image: it has what reached the device, and not what only the
//! kernel knew.
//!
//! `GODWIT_STORE_KILLS` and `GODWIT_STORE_CUTS` set the number of rounds.

use crate::kit::{block_on, object, open};
use godwit_store::{NewObject, Space, Store};
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, Command, Stdio};

const DIR: &str = "GODWIT_STORE_CHILD_DIR";
const FIRST: &str = "GODWIT_STORE_CHILD_FIRST";
const SPACE: Space = Space(1);
const TASKS: u64 = 4;

fn rounds(variable: &str, default: u64) -> u64 {
    std::env::var(variable).ok().and_then(|text| text.parse().ok()).unwrap_or(default)
}

/// Object number `seed` of a child: mostly small, now and then large enough for its own file.
fn written(seed: u64) -> NewObject {
    const LENS: [usize; 7] = [50, 3000, 20_000, 4096, 70_000, 10, 300_000];
    object(seed, LENS[seed as usize % 7])
}

#[test]
#[ignore = "the crash tests run it as a process of its own"]
fn child() {
    let Ok(dir) = std::env::var(DIR) else { return };
    let first: u64 = std::env::var(FIRST).unwrap().parse().unwrap();
    let (store, _) = open(Path::new(&dir));
    block_on(async {
        let tasks = (0..TASKS).map(|task| {
            let store = store.clone();
            async move {
                for seed in (first + task..).step_by(TASKS as usize) {
                    write(&store, seed).await;
                    println!("acked {seed}");
                    std::io::stdout().flush().unwrap();
                }
            }
        });
        let tasks: Vec<_> = tasks.map(Box::pin).collect();
        join(tasks).await;
    });
}

async fn write(store: &Store, seed: u64) {
    let object = written(seed);
    let (id, value) = (object.named.id, seed.to_le_bytes());
    if seed.is_multiple_of(5) {
        let incoming = store.begin(id, object.named.len, object.named.groups.clone()).unwrap();
        for (index, group) in object.bytes.chunks(godwit_core::content::GROUP_LEN).enumerate() {
            incoming.write_group(index, group).unwrap();
        }
        incoming.commit().await.unwrap();
    } else {
        store.put_objects(vec![object]).await.unwrap();
    }
    store.put_record(SPACE, &value, &value).await.unwrap();
    if seed % 11 == 10 {
        // Object and record of an earlier number go; they stay gone.
        store.delete(vec![written(seed - 8).named.id]).await.unwrap();
    }
}

/// Polls all futures on this thread.
async fn join(mut tasks: Vec<std::pin::Pin<Box<impl Future<Output = ()>>>>) {
    std::future::poll_fn(|context| {
        tasks.retain_mut(|task| task.as_mut().poll(context).is_pending());
        if tasks.is_empty() { std::task::Poll::Ready(()) } else { std::task::Poll::Pending }
    })
    .await;
}

fn spawn(dir: &Path, first: u64) -> Child {
    Command::new(std::env::current_exe().unwrap())
        .args(["crash::child", "--exact", "--ignored", "--nocapture"])
        .env(DIR, dir)
        .env(FIRST, first.to_string())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap()
}

/// Reads acknowledgements until there are `count`, calls `then`, kills, and returns all there were.
fn kill_after(mut child: Child, count: u64, then: impl FnOnce()) -> Vec<u64> {
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let acked = |line: std::io::Result<String>| line.unwrap().strip_prefix("acked ")?.parse::<u64>().ok();
    let mut seeds = Vec::new();
    while (seeds.len() as u64) < count {
        match lines.next() {
            Some(line) => seeds.extend(acked(line)),
            None => panic!("the child ended by itself after {} writes: {:?}", seeds.len(), child.wait()),
        }
    }
    then();
    child.kill().unwrap();
    child.wait().unwrap();
    // What it still said before it died.
    seeds.extend(lines.filter_map(acked));
    seeds
}

fn check(store: &Store, acked: &[u64], context: &str) {
    let deleted: Vec<u64> = acked.iter().filter(|seed| *seed % 11 == 10).map(|seed| seed - 8).collect();
    for seed in acked {
        let value = seed.to_le_bytes();
        assert_eq!(
            store.record(SPACE, &value).unwrap().as_deref(),
            Some(&value[..]),
            "{context}: record {seed}"
        );
        // A delete that was at work may have been done before it was acknowledged.
        if deleted.contains(seed) || seed % 11 == 2 {
            continue;
        }
        let object = written(*seed);
        let found = store.get(&object.named.id).unwrap();
        let found = found.unwrap_or_else(|| panic!("{context}: object {seed} is gone"));
        assert_eq!(found.bytes(0..found.len()).unwrap(), object.bytes, "{context}: object {seed}");
    }
    for seed in deleted.iter().filter(|seed| acked.contains(seed)) {
        assert!(!store.has(&written(*seed).named.id).unwrap(), "{context}: deleted object {seed} is back");
    }
}

#[test]
fn acknowledged_writes_survive_kill_9() {
    use rand::{Rng, SeedableRng};
    let dir = tempfile::tempdir().unwrap();
    let mut random = rand::rngs::StdRng::seed_from_u64(9);
    let mut acked: Vec<u64> = Vec::new();
    let mut first = 0;
    for round in 0..rounds("GODWIT_STORE_KILLS", 12) {
        let count = random.random_range(1..60);
        let seeds = kill_after(spawn(dir.path(), first), count, || ());
        first = (seeds.iter().max().unwrap() + 100).next_multiple_of(1000);
        let (store, report) = open(dir.path());
        assert!(report.rebuilt.is_none(), "round {round}: {report:?}");
        assert_eq!(report.lost, [], "round {round}");
        check(&store, &seeds, &format!("round {round}"));
        acked.extend(seeds);
    }
    check(&open(dir.path()).0, &acked, "in the end");
    println!("{} acknowledged writes, 0 lost", acked.len());
}

/// A file system in an image file, mounted while this lives.
struct Mounted<'a> {
    at: &'a Path,
}

impl<'a> Mounted<'a> {
    fn new(image: &Path, at: &'a Path) -> Result<Mounted<'a>, String> {
        std::fs::create_dir_all(at).unwrap();
        run(Command::new("mount").args(["-o", "loop"]).args([image, at]))?;
        Ok(Mounted { at })
    }
}

impl Drop for Mounted<'_> {
    fn drop(&mut self) {
        if let Err(error) = run(Command::new("umount").arg(self.at)) {
            eprintln!("{error}");
        }
    }
}

fn run(command: &mut Command) -> Result<(), String> {
    match command.output() {
        Ok(output) if output.status.success() => Ok(()),
        Ok(output) => Err(format!("{command:?}: {}", String::from_utf8_lossy(&output.stderr).trim())),
        Err(error) => Err(format!("{command:?}: {error}")),
    }
}

#[test]
fn acknowledged_writes_survive_a_power_cut() {
    use rand::{Rng, SeedableRng};
    let dir = tempfile::tempdir().unwrap();
    let (image, cut) = (dir.path().join("image"), dir.path().join("cut"));
    let (live, after) = (dir.path().join("live"), dir.path().join("after"));
    std::fs::File::create(&image).unwrap().set_len(96 << 20).unwrap();
    let made = run(Command::new("mkfs.ext4").arg("-q").arg(&image));
    let mounted = match made.and_then(|()| Mounted::new(&image, &live)) {
        Ok(mounted) => mounted,
        Err(why) => {
            eprintln!("SKIPPED: the power cut, because no file system can be mounted here: {why}");
            return;
        }
    };
    let mut random = rand::rngs::StdRng::seed_from_u64(10);
    let mut acked: Vec<u64> = Vec::new();
    let mut first = 0;
    for round in 0..rounds("GODWIT_STORE_CUTS", 4) {
        let count = random.random_range(5..60);
        // The copy is made while the child goes on writing: what was acknowledged before must be
        // in it; what comes later may be, whole or torn.
        let before = acked.len();
        let mut at_cut = 0;
        let store_dir = live.join("store");
        let seeds = kill_after(spawn(&store_dir, first), count, || {
            at_cut = before + count as usize;
            std::fs::copy(&image, &cut).unwrap();
        });
        first = (seeds.iter().max().unwrap() + 100).next_multiple_of(1000);
        acked.extend(seeds);
        let cut_off = match Mounted::new(&cut, &after) {
            Ok(mounted) => mounted,
            Err(why) => panic!("round {round}: the copy does not mount: {why}"),
        };
        let (store, report) = open(&after.join("store"));
        check(&store, &acked[..at_cut], &format!("cut {round} ({report:?})"));
        drop(store);
        drop(cut_off);
        // The live one goes on; it was only killed.
        drop(open(&store_dir));
    }
    drop(mounted);
    println!("{} acknowledged writes, 0 lost at a power cut", acked.len());
}
