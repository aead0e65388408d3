//! From a directory to a signed version, in steps that each can fail alone:
//!
//! 1. [`walk`]: which files there are, and everything that is wrong with them, at once;
//! 2. [`scan`]: each file is read once and named by hash, on several threads, and the tree is built;
//! 3. [`upload`]: what the member does not hold is read a second time, named again, and sent;
//! 4. the version is signed and given to the member, which spreads it;
//! 5. [`wait`]: until as many regions hold it as were asked for.
//!
//! Until step 4 nothing can be seen from outside, and repeating a failed publish sends only what is
//! still missing. A file that changes between steps 1 and 3 is noticed and ends the publish.

pub(crate) mod scan;
pub(crate) mod upload;
pub(crate) mod wait;
pub(crate) mod walk;

use crate::failure::{Exit, Failure};
use std::fmt;
use std::path::{Path, PathBuf};

/// At most so many problems are told; a person fixes a few, or the one cause of all.
const PROBLEMS_MAX: usize = 20;

/// What is wrong with the directory to publish.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Problems {
    told: Vec<(PathBuf, String)>,
    more: usize,
}

impl Problems {
    /// Adds one. `path` is relative to the directory.
    pub(crate) fn add(&mut self, path: impl Into<PathBuf>, problem: impl fmt::Display) {
        if self.told.len() < PROBLEMS_MAX {
            self.told.push((path.into(), problem.to_string()));
        } else {
            self.more += 1;
        }
    }

    /// The failure, if there is any problem.
    pub(crate) fn check(mut self) -> Result<(), Failure> {
        if self.told.is_empty() {
            return Ok(());
        }
        // Threads find them in any order.
        self.told.sort();
        let advice = "nothing was published, the site is as before: mend the directory and run this again";
        Err(Failure::new(Exit::Failed, anyhow::anyhow!("{self}")).advise(advice))
    }
}

impl fmt::Display for Problems {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the directory cannot be published:")?;
        for (path, problem) in &self.told {
            let path = if path.as_os_str().is_empty() { Path::new(".") } else { path };
            // Debug form: names may have line breaks and bytes that are no text.
            write!(f, "\n  {path:?}: {problem}")?;
        }
        if self.more > 0 {
            write!(f, "\n  … and {} more", self.more)?;
        }
        Ok(())
    }
}
