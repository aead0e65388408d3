//! Which files a directory has, and everything that is wrong with it.
//!
//! Links are followed to files inside of the directory only: what is published is what lies there,
//! and nothing that a link happens to point at. Links to directories are refused, since they make
//! loops and twins. All problems are gathered before anything is read, so that a person mends a
//! directory once and not once for each.

use super::Problems;
use godwit_core::content::tree::{case_clash, check_name};
use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::UNIX_EPOCH;

/// More files than this are refused: the names alone would take a gigabyte here and on every node.
pub(crate) const FILES_MAX: usize = 4_000_000;

/// Directories in directories: deeper ones are loops of mounts, or somebody's joke.
pub(crate) const DEPTH_MAX: usize = 100;

/// A file to publish.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Found {
    /// Where it is, relative to the directory.
    pub(crate) path: PathBuf,
    /// What lies there, or what a link there points at: absolute.
    pub(crate) source: PathBuf,
    /// Its length, bytes.
    pub(crate) len: u64,
    /// Its time, seconds since the Unix epoch.
    pub(crate) modified: u64,
}

/// A directory and what is in it, by name.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Directory {
    /// Its files, as positions in [`Walked::files`].
    pub(crate) files: BTreeMap<String, usize>,
    /// Its directories.
    pub(crate) directories: BTreeMap<String, Directory>,
}

/// What [`walk`] found.
#[derive(Debug, Default)]
pub(crate) struct Walked {
    pub(crate) root: Directory,
    pub(crate) files: Vec<Found>,
    /// Names that are published, but rarely on purpose.
    pub(crate) surprises: Vec<PathBuf>,
}

/// What to do with names that differ in case only.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum CaseClash {
    Refuse,
    Allow,
}

/// Walks the directory. An error is about the directory itself; problems with what is in it are
/// gathered.
pub(crate) fn walk(directory: &Path, clash: CaseClash, problems: &mut Problems) -> io::Result<Walked> {
    // A directory may be named by a link; what is in it is judged by where it really is.
    let root = directory.canonicalize()?;
    let entries = fs::read_dir(&root)?;
    let mut walk = Walk { root, clash, problems, walked: Walked::default() };
    let directory = walk.directory(entries, Path::new(""), 0);
    Ok(Walked { root: directory, ..walk.walked })
}

struct Walk<'a> {
    root: PathBuf,
    clash: CaseClash,
    problems: &'a mut Problems,
    walked: Walked,
}

impl Walk<'_> {
    fn directory(&mut self, entries: fs::ReadDir, path: &Path, depth: usize) -> Directory {
        let mut directory = Directory::default();
        if depth > DEPTH_MAX {
            self.problems.add(path, format!("more than {DEPTH_MAX} directories in one another"));
            return directory;
        }
        let mut names = Vec::new();
        for entry in entries {
            match entry {
                Ok(entry) => names.push(entry.file_name()),
                Err(error) => self.problems.add(path, format!("cannot be listed: {error}")),
            }
        }
        // In order, so that the same directory always gives the same report.
        names.sort();
        for name in names {
            let path = path.join(&name);
            let Some(name) = name.to_str() else {
                self.problems.add(path, "its name is not UTF-8: rename it");
                continue;
            };
            if let Err(problem) = check_name(name) {
                self.problems.add(path, problem);
                continue;
            }
            if matches!(name, ".git" | ".hg" | ".svn" | ".env" | ".ssh" | ".htpasswd") {
                self.walked.surprises.push(path.clone());
            }
            self.entry(&mut directory, name, &path, depth);
        }
        if self.clash == CaseClash::Refuse {
            let names = directory.files.keys().chain(directory.directories.keys());
            if let Some((one, other)) = case_clash(names.map(String::as_str)) {
                let problem = format!(
                    "{one:?} and {other:?} differ in case only: rename one, or allow it with --allow-case-clash"
                );
                self.problems.add(path, problem);
            }
        }
        directory
    }

    fn entry(&mut self, directory: &mut Directory, name: &str, path: &Path, depth: usize) {
        let source = self.root.join(path);
        let metadata = match fs::symlink_metadata(&source) {
            Ok(metadata) => metadata,
            Err(error) => return self.problems.add(path, format!("cannot be looked at: {error}")),
        };
        if metadata.is_dir() {
            match fs::read_dir(&source) {
                Ok(entries) => {
                    let inner = self.directory(entries, path, depth + 1);
                    directory.directories.insert(name.to_owned(), inner);
                }
                Err(error) => self.problems.add(path, format!("cannot be listed: {error}")),
            }
        } else if metadata.is_file() {
            self.file(directory, name, path, source, &metadata);
        } else if metadata.is_symlink() {
            self.link(directory, name, path, &source);
        } else {
            self.problems.add(path, "is neither a file nor a directory (a socket, a pipe or a device)");
        }
    }

    fn file(
        &mut self,
        directory: &mut Directory,
        name: &str,
        path: &Path,
        source: PathBuf,
        metadata: &fs::Metadata,
    ) {
        if self.walked.files.len() >= FILES_MAX {
            return self.problems.add(path, format!("a site has at most {FILES_MAX} files"));
        }
        directory.files.insert(name.to_owned(), self.walked.files.len());
        let found =
            Found { path: path.to_owned(), source, len: metadata.len(), modified: modified(metadata) };
        self.walked.files.push(found);
    }

    fn link(&mut self, directory: &mut Directory, name: &str, path: &Path, link: &Path) {
        let target = match link.canonicalize() {
            Ok(target) => target,
            Err(error) => return self.problems.add(path, format!("is a link that leads nowhere: {error}")),
        };
        if !target.starts_with(&self.root) {
            let problem = format!("is a link out of the directory, to {}", target.display());
            return self.problems.add(path, problem);
        }
        match fs::symlink_metadata(&target) {
            Ok(metadata) if metadata.is_file() => self.file(directory, name, path, target, &metadata),
            Ok(_) => {
                self.problems
                    .add(path, "is a link to something that is not a file: only files may be linked");
            }
            Err(error) => self.problems.add(path, format!("is a link that leads nowhere: {error}")),
        }
    }
}

/// The time of a file; one before 1970 counts as 1970.
pub(crate) fn modified(metadata: &fs::Metadata) -> u64 {
    let time = metadata.modified().ok().and_then(|time| time.duration_since(UNIX_EPOCH).ok());
    time.map_or(0, |since| since.as_secs())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::ffi::OsStr;
    use std::os::unix::ffi::OsStrExt;
    use std::os::unix::fs::symlink;

    fn walked(directory: &Path) -> (Walked, String) {
        let mut problems = Problems::default();
        let walked = walk(directory, CaseClash::Refuse, &mut problems).unwrap();
        let text = problems.check().map_or_else(|failure| failure.to_string(), |()| String::new());
        (walked, text)
    }

    #[test]
    fn files_are_found_in_order_with_links_inside_followed() {
        let temp = tempfile::tempdir().unwrap();
        fs::create_dir_all(temp.path().join("a/b")).unwrap();
        fs::create_dir(temp.path().join("empty")).unwrap();
        fs::write(temp.path().join("a/b/x.txt"), "12345").unwrap();
        fs::write(temp.path().join("index.html"), "<p>").unwrap();
        symlink("a/b/x.txt", temp.path().join("latest.txt")).unwrap();
        let (walked, problems) = walked(temp.path());
        assert_eq!(problems, "");
        let paths: Vec<&str> = walked.files.iter().map(|file| file.path.to_str().unwrap()).collect();
        assert_eq!(paths, ["a/b/x.txt", "index.html", "latest.txt"]);
        assert_eq!(walked.files[2].len, 5);
        assert_eq!(walked.root.directories["empty"], Directory::default());
        assert_eq!(walked.root.directories["a"].directories["b"].files["x.txt"], 0);
    }

    #[test]
    fn every_problem_is_told_at_once() {
        let outside = tempfile::tempdir().unwrap();
        fs::write(outside.path().join("secret"), "x").unwrap();
        let temp = tempfile::tempdir().unwrap();
        let at = |name: &str| temp.path().join(name);
        fs::write(at("good"), "x").unwrap();
        fs::write(at("two\nlines"), "x").unwrap();
        fs::write(at("Read.me"), "x").unwrap();
        fs::write(at("read.me"), "x").unwrap();
        fs::write(temp.path().join(OsStr::from_bytes(b"no-\xff-text")), "x").unwrap();
        fs::create_dir(at("dir")).unwrap();
        symlink(outside.path().join("secret"), at("stolen")).unwrap();
        symlink("../..", at("up")).unwrap();
        symlink("dir", at("twin")).unwrap();
        symlink("gone", at("broken")).unwrap();
        let _listener = std::os::unix::net::UnixListener::bind(at("socket")).unwrap();
        let (_, problems) = walked(temp.path());
        for part in [
            "\"two\\nlines\"",
            "\".\": \"Read.me\" and \"read.me\" differ in case only",
            "\"no-\\xFF-text\": its name is not UTF-8",
            "\"stolen\": is a link out of the directory",
            "\"up\": is a link out of the directory",
            "\"twin\": is a link to something that is not a file",
            "\"broken\": is a link that leads nowhere",
            "\"socket\": is neither a file nor a directory",
            "nothing was published",
        ] {
            assert!(problems.contains(part), "{part} is not in:\n{problems}");
        }
        assert!(!problems.contains("\"good\""));
    }

    #[test]
    fn only_the_first_problems_are_told() {
        let temp = tempfile::tempdir().unwrap();
        for number in 0..30 {
            fs::write(temp.path().join(format!("line\n{number:02}")), "").unwrap();
        }
        let (_, problems) = walked(temp.path());
        assert!(problems.contains("line\\n19") && !problems.contains("line\\n20"), "{problems}");
        assert!(problems.contains("and 10 more"), "{problems}");
    }

    #[test]
    fn a_missing_directory_is_an_error() {
        let temp = tempfile::tempdir().unwrap();
        let mut problems = Problems::default();
        assert!(walk(&temp.path().join("gone"), CaseClash::Refuse, &mut problems).is_err());
    }
}
