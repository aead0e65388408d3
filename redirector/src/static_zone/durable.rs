//! Small files that must not be lost once they were written: whole or not at all, also when the power
//! goes.

use super::problem::Problem;
use std::fs::File;
use std::io::{self, Write};
use std::path::Path;

/// Whoever changes files in a folder by reading and writing them, one after the other: this process
/// and a command beside it. Free again when dropped.
pub(crate) struct Turn {
    _folder: File,
}

impl Turn {
    /// Waits for the turn in the folder of `path`.
    pub(crate) fn take(path: &Path) -> Result<Turn, Problem> {
        let take = || -> io::Result<File> {
            let folder = File::open(folder(path))?;
            folder.lock()?;
            Ok(folder)
        };
        take().map(|folder| Turn { _folder: folder }).map_err(|error| failed(path, &error))
    }
}

/// Puts `text` in the place of what the file held. It is on the disk when this returns; who reads
/// meanwhile finds the one or the other.
pub(crate) fn replace(_turn: &Turn, path: &Path, text: &str) -> Result<(), Problem> {
    let mut beside = path.as_os_str().to_owned();
    beside.push(".new");
    let write = || -> io::Result<()> {
        let mut file = File::create(&beside)?;
        file.write_all(text.as_bytes())?;
        file.sync_all()?;
        std::fs::rename(&beside, path)?;
        File::open(folder(path))?.sync_all()
    };
    write().map_err(|error| failed(path, &error))
}

fn failed(path: &Path, error: &io::Error) -> Problem {
    Problem::with(path, format!("cannot be written: {error}"))
}

/// Of a relative name without a folder it is the present one.
fn folder(path: &Path) -> &Path {
    path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."))
}
