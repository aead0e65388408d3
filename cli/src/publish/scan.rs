//! Reads every file once, names it by hash, and builds the tree.
//!
//! Several threads take files in turn; a file of up to 64 MiB is one object, a longer one a list of
//! such objects, hashed as they pass through a 1 MiB buffer. So memory is bounded by the number of
//! files (some 200 bytes each), never by their size.

use super::Problems;
use super::walk::{Directory, Found, Walked, modified};
use anyhow::Context;
use bytes::Bytes;
use godwit_core::content::ObjectId;
use godwit_core::content::object::{Namer, OBJECT_LEN_MAX};
use godwit_core::content::tree::{Body, Entry, File, Kind, LIST_OBJECTS_MAX, List, build_directory};
use indicatif::ProgressBar;
use std::collections::BTreeMap;
use std::fs;
use std::io::Read;
use std::path::PathBuf;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

/// What is read at once: large enough for a disk, small enough for a cache.
const BUFFER_LEN: usize = 1024 * 1024;

/// More threads than this wait for the disk, not for the hash.
const THREADS_MAX: usize = 16;

/// Where the bytes of an object can be read again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Source {
    /// A block of the tree, or a list: here.
    Memory(Bytes),
    /// A part of a file.
    File {
        /// Which, as a position in [`Walked::files`].
        file: usize,
        /// Where the object starts in it.
        offset: u64,
        /// The object's length, bytes.
        len: u64,
    },
}

impl Source {
    /// The object's length, bytes.
    pub(crate) fn object_len(&self) -> u64 {
        match self {
            Source::Memory(bytes) => bytes.len() as u64,
            Source::File { len, .. } => *len,
        }
    }
}

/// A directory, named.
#[derive(Debug)]
pub(crate) struct Scanned {
    /// Root block of the tree.
    pub(crate) root: ObjectId,
    /// Every object of it, and where its bytes are.
    pub(crate) objects: BTreeMap<ObjectId, Source>,
    /// How many files there are.
    pub(crate) files: u64,
    /// How many bytes they have.
    pub(crate) bytes: u64,
}

/// Names everything that was found. Problems are gathered; with any, there is no result.
pub(crate) fn scan(
    walked: &Walked,
    progress: &ProgressBar,
    problems: &mut Problems,
) -> anyhow::Result<Option<Scanned>> {
    let Some(named) = name_all(&walked.files, progress, problems) else { return Ok(None) };
    let mut objects = BTreeMap::new();
    let mut files = Vec::with_capacity(named.len());
    for (index, (found, parts)) in walked.files.iter().zip(named).enumerate() {
        for (position, id) in parts.iter().enumerate() {
            let offset = position as u64 * OBJECT_LEN_MAX;
            let len = List::object_len(found.len, position);
            objects.entry(*id).or_insert(Source::File { file: index, offset, len });
        }
        let body = match parts[..] {
            [id] => Body::Object(id),
            _ => {
                let bytes = List { objects: parts }.encode();
                let id = ObjectId::of(&bytes);
                objects.insert(id, Source::Memory(bytes));
                Body::List(id)
            }
        };
        files.push(Some(File { len: found.len, modified: found.modified, body }));
    }
    let root = build(&walked.root, &mut files, &mut objects)?;
    let bytes = walked.files.iter().map(|file| file.len).sum();
    Ok(Some(Scanned { root, objects, files: walked.files.len() as u64, bytes }))
}

fn build(
    directory: &Directory,
    files: &mut Vec<Option<File>>,
    objects: &mut BTreeMap<ObjectId, Source>,
) -> anyhow::Result<ObjectId> {
    let mut entries = Vec::with_capacity(directory.files.len() + directory.directories.len());
    for (name, index) in &directory.files {
        let file = files.get_mut(*index).and_then(Option::take).context("a file is in one directory")?;
        entries.push(Entry { name: name.clone(), kind: Kind::File(file) });
    }
    for (name, inner) in &directory.directories {
        let root = build(inner, files, objects)?;
        entries.push(Entry { name: name.clone(), kind: Kind::Directory(root) });
    }
    let built = build_directory(entries)?;
    objects.extend(built.blocks.into_iter().map(|(id, bytes)| (id, Source::Memory(bytes))));
    Ok(built.root)
}

/// The objects of each file, in order; nothing when a file could not be read.
fn name_all(files: &[Found], progress: &ProgressBar, problems: &mut Problems) -> Option<Vec<Vec<ObjectId>>> {
    let next = AtomicUsize::new(0);
    let results = Mutex::new(Vec::with_capacity(files.len()));
    let work = || {
        let mut buffer = vec![0; BUFFER_LEN];
        let mut mine = Vec::new();
        loop {
            let index = next.fetch_add(1, Ordering::Relaxed);
            let Some(file) = files.get(index) else { break };
            mine.push((index, name_one(file, &mut buffer, progress)));
        }
        // A poisoned lock would mean that another thread panicked, which ends the scope anyway.
        if let Ok(mut results) = results.lock() {
            results.append(&mut mine);
        }
    };
    let threads = std::thread::available_parallelism().map_or(2, usize::from).clamp(2, THREADS_MAX);
    std::thread::scope(|scope| (0..threads).for_each(|_| drop(scope.spawn(work))));
    let mut named = vec![Vec::new(); files.len()];
    let mut whole = true;
    for (index, result) in results.into_inner().ok()? {
        match result {
            Ok(parts) => named[index] = parts,
            Err(problem) => {
                problems.add(files[index].path.clone(), problem);
                whole = false;
            }
        }
    }
    whole.then_some(named)
}

fn name_one(found: &Found, buffer: &mut [u8], progress: &ProgressBar) -> Result<Vec<ObjectId>, String> {
    let changed = || "changed while it was being read: publish when nobody writes to it".to_owned();
    if found.len > OBJECT_LEN_MAX * LIST_OBJECTS_MAX as u64 {
        return Err("is larger than a file can be (1 TiB)".into());
    }
    let mut file = fs::File::open(&found.source).map_err(|error| format!("cannot be opened: {error}"))?;
    let mut parts = Vec::new();
    let mut left = found.len;
    loop {
        let mut part = left.min(OBJECT_LEN_MAX);
        let mut namer = Namer::new();
        while part > 0 {
            let want = buffer.len().min(usize::try_from(part).unwrap_or(usize::MAX));
            let count = file.read(&mut buffer[..want]).map_err(|error| format!("cannot be read: {error}"))?;
            if count == 0 {
                return Err(changed());
            }
            namer.update(&buffer[..count]);
            progress.inc(count as u64);
            part -= count as u64;
            left -= count as u64;
        }
        parts.push(namer.finish().id);
        if left == 0 {
            break;
        }
    }
    let after = file.metadata().map_err(|error| format!("cannot be looked at: {error}"))?;
    if after.len() != found.len || modified(&after) != found.modified {
        return Err(changed());
    }
    Ok(parts)
}

/// Reads an object again and checks that it still is what it was.
pub(crate) fn read_again(
    walked: &Walked,
    id: &ObjectId,
    source: &Source,
) -> Result<Bytes, (PathBuf, String)> {
    let (file, offset, len) = match source {
        Source::Memory(bytes) => return Ok(bytes.clone()),
        Source::File { file, offset, len } => (&walked.files[*file], *offset, *len),
    };
    let read = || -> std::io::Result<Vec<u8>> {
        use std::os::unix::fs::FileExt;
        // At most OBJECT_LEN_MAX, by construction.
        let mut bytes = vec![0; usize::try_from(len).unwrap_or(0)];
        fs::File::open(&file.source)?.read_exact_at(&mut bytes, offset)?;
        Ok(bytes)
    };
    let bytes = read().map_err(|error| (file.path.clone(), format!("cannot be read again: {error}")))?;
    if ObjectId::of(&bytes) != *id {
        return Err((file.path.clone(), "changed while it was being published".into()));
    }
    Ok(bytes.into())
}

#[cfg(test)]
mod tests {
    use super::super::walk::{CaseClash, walk};
    use super::*;
    use godwit_core::content::tree::{Resolve, Step};
    use std::path::Path;

    fn scanned(directory: &Path) -> (Walked, Scanned) {
        let mut problems = Problems::default();
        let walked = walk(directory, CaseClash::Refuse, &mut problems).unwrap();
        let scanned = scan(&walked, &ProgressBar::hidden(), &mut problems).unwrap();
        problems.check().unwrap();
        (walked, scanned.unwrap())
    }

    fn find(walked: &Walked, scanned: &Scanned, path: &str) -> Step {
        let mut resolve = Resolve::new(scanned.root, path);
        loop {
            match resolve.step() {
                Step::NeedBlock(id) => {
                    resolve.feed(&read_again(walked, &id, &scanned.objects[&id]).unwrap()).unwrap();
                }
                done => return done,
            }
        }
    }

    #[test]
    fn a_tree_leads_to_every_file() {
        let temp = tempfile::tempdir().unwrap();
        fs::create_dir_all(temp.path().join("docs/deep")).unwrap();
        fs::write(temp.path().join("index.html"), "hello").unwrap();
        fs::write(temp.path().join("empty"), "").unwrap();
        fs::write(temp.path().join("docs/deep/a"), vec![7; 100_000]).unwrap();
        let (walked, scanned) = scanned(temp.path());
        assert_eq!((scanned.files, scanned.bytes), (3, 100_005));
        let expected =
            [("index.html", b"hello".to_vec()), ("docs/deep/a", vec![7; 100_000]), ("empty", vec![])];
        for (path, bytes) in expected {
            let Step::File(file) = find(&walked, &scanned, path) else { panic!("{path} is not found") };
            let Body::Object(id) = file.body else { panic!("{path} is a list") };
            assert_eq!(read_again(&walked, &id, &scanned.objects[&id]).unwrap(), bytes);
        }
        assert!(matches!(find(&walked, &scanned, "docs"), Step::Directory(_)));
    }

    #[test]
    fn equal_files_are_one_object() {
        let temp = tempfile::tempdir().unwrap();
        fs::write(temp.path().join("a"), "same").unwrap();
        fs::write(temp.path().join("b"), "same").unwrap();
        let (_, scanned) = scanned(temp.path());
        assert_eq!(scanned.objects.len(), 2, "the content and the directory");
    }

    #[test]
    fn a_file_above_the_largest_object_is_a_list() {
        let temp = tempfile::tempdir().unwrap();
        let file = fs::File::create(temp.path().join("large")).unwrap();
        file.set_len(OBJECT_LEN_MAX + 3).unwrap();
        let (walked, scanned) = scanned(temp.path());
        let Step::File(found) = find(&walked, &scanned, "large") else { panic!("not found") };
        let Body::List(id) = found.body else { panic!("not a list") };
        let bytes = read_again(&walked, &id, &scanned.objects[&id]).unwrap();
        assert_eq!(List::decode(&bytes, found.len).unwrap().objects[1], ObjectId::of(&[0; 3]));
    }

    #[test]
    fn a_file_that_changes_is_noticed() {
        let temp = tempfile::tempdir().unwrap();
        fs::write(temp.path().join("a"), "before").unwrap();
        let (walked, scanned) = scanned(temp.path());
        let content = |(_, source): &(&ObjectId, &Source)| matches!(source, Source::File { .. });
        let (id, source) = scanned.objects.iter().find(content).unwrap();
        fs::write(temp.path().join("a"), "after!").unwrap();
        let (path, problem) = read_again(&walked, id, source).unwrap_err();
        assert_eq!(path, Path::new("a"));
        assert!(problem.contains("changed"), "{problem}");
        fs::write(temp.path().join("a"), "x").unwrap();
        assert!(read_again(&walked, id, source).unwrap_err().1.contains("cannot be read again"));

        let mut problems = Problems::default();
        assert!(scan(&walked, &ProgressBar::hidden(), &mut problems).unwrap().is_none());
        assert!(problems.check().unwrap_err().to_string().contains("changed while it was being read"));
    }
}
