//! From a path to a file.
//!
//! A step machine: [`Resolve::step`] says what is known or which block it takes to know more, and
//! [`Resolve::feed`] gives it that block. The caller fetches blocks however it likes.

use super::block::{BadBlock, Block, Entry, File, INDEX_DEPTH_MAX, Kind, check_name};
use crate::content::ObjectId;

/// How far a path is resolved.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// This block has to be fed before it goes on.
    NeedBlock(ObjectId),
    /// The path names this file.
    File(File),
    /// The path names this directory, by its root block.
    Directory(ObjectId),
    /// The path names nothing.
    NotFound,
}

/// One path on its way through a tree.
#[derive(Clone, Debug)]
pub struct Resolve {
    /// What is still to be found, the next segment last.
    segments: Vec<String>,
    /// Whether the path ended in a slash: only a directory will do.
    directory: bool,
    /// How many index blocks of the present directory were passed.
    depth: usize,
    step: Step,
}

impl Resolve {
    /// Starts at the directory `root` to look for `path`: segments between slashes, already
    /// percent-decoded. One leading slash is ignored; one at the end asks for a directory. A path
    /// with a segment that [`check_name`] refuses names nothing.
    pub fn new(root: ObjectId, path: &str) -> Resolve {
        let path = path.strip_prefix('/').unwrap_or(path);
        let (path, directory) = match path.strip_suffix('/') {
            Some(path) => (path, true),
            None => (path, false),
        };
        let mut resolve = Resolve { segments: Vec::new(), directory, depth: 0, step: Step::NotFound };
        if path.is_empty() && !directory {
            resolve.step = Step::Directory(root);
        } else if path.split('/').all(|segment| check_name(segment).is_ok()) {
            resolve.segments = path.rsplit('/').map(str::to_owned).collect();
            resolve.step = Step::NeedBlock(root);
        }
        resolve
    }

    /// How far it is.
    pub fn step(&self) -> Step {
        self.step.clone()
    }

    /// Takes the bytes of the block that [`Step::NeedBlock`] asked for.
    pub fn feed(&mut self, bytes: &[u8]) -> Result<(), BadBlock> {
        let Some(segment) = self.segments.last() else { return Ok(()) };
        self.step = match Block::decode(bytes)? {
            Block::Index(_) if self.depth >= INDEX_DEPTH_MAX => return Err(BadBlock::TooDeep),
            Block::Index(children) => {
                self.depth += 1;
                // The child that begins at or before the name is the only one that may have it.
                let after = children.partition_point(|(first, _)| first <= segment);
                match after.checked_sub(1) {
                    Some(index) => Step::NeedBlock(children[index].1),
                    None => Step::NotFound,
                }
            }
            Block::Entries(mut entries) => {
                match entries.binary_search_by(|entry| entry.name.as_str().cmp(segment)) {
                    Ok(index) => self.descend(entries.swap_remove(index)),
                    Err(_) => Step::NotFound,
                }
            }
        };
        Ok(())
    }

    fn descend(&mut self, entry: Entry) -> Step {
        self.segments.pop();
        self.depth = 0;
        let last = self.segments.is_empty();
        match entry.kind {
            Kind::Directory(root) if last => Step::Directory(root),
            Kind::Directory(root) => Step::NeedBlock(root),
            Kind::File(file) if last && !self.directory => Step::File(file),
            Kind::File(_) => Step::NotFound,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Body, build_directory};
    use super::*;
    use bytes::Bytes;
    use std::collections::BTreeMap;

    /// `/index.html` and `/docs/a.txt`.
    fn tree() -> (ObjectId, BTreeMap<ObjectId, Bytes>) {
        let file = |name: &str| Entry {
            name: name.into(),
            kind: Kind::File(File { len: 1, modified: 0, body: Body::Object(ObjectId::of(b"x")) }),
        };
        let docs = build_directory(vec![file("a.txt")]).unwrap();
        let directory = Entry { name: "docs".into(), kind: Kind::Directory(docs.root) };
        let root = build_directory(vec![file("index.html"), directory]).unwrap();
        (root.root, docs.blocks.into_iter().chain(root.blocks).collect())
    }

    fn check(path: &str, expected: &str) {
        let (root, blocks) = tree();
        let mut resolve = Resolve::new(root, path);
        let found = loop {
            match resolve.step() {
                Step::NeedBlock(id) => resolve.feed(&blocks[&id]).unwrap(),
                Step::File(_) => break "file",
                Step::Directory(id) if id == root => break "root",
                Step::Directory(_) => break "directory",
                Step::NotFound => break "nothing",
            }
        };
        assert_eq!(found, expected, "{path:?}");
    }

    #[test]
    fn paths_name_files_and_directories() {
        check("", "root");
        check("/", "root");
        check("/index.html", "file");
        check("index.html", "file");
        check("/index.html/", "nothing");
        check("/docs", "directory");
        check("/docs/", "directory");
        check("/docs/a.txt", "file");
        check("/docs/b.txt", "nothing");
        check("/index.html/a", "nothing");
    }

    #[test]
    fn odd_paths_name_nothing() {
        for path in ["//", "//docs", "/docs//a.txt", "/../docs", "/docs/..", "/docs/./a.txt", "/docs\0"] {
            check(path, "nothing");
        }
    }
}
