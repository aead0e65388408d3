//! Whose directory it is, and whether a running process has it.

use crate::disk::{self, Layout};
use crate::error::OpenError;
use godwit_core::key::MemberId;
use std::fs::{File, OpenOptions, TryLockError};
use std::io;

/// The first line of the owner file: the form of the whole directory.
const FORM: &str = "godwit store 1";

/// Takes the lock of the directory, which the kernel gives back when the process ends, however.
pub(crate) fn lock(layout: &Layout) -> Result<File, OpenError> {
    let path = layout.lock();
    let open = OpenOptions::new().write(true).create(true).truncate(false).open(&path);
    let file = open.map_err(OpenError::io(&path))?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => Err(OpenError::Locked(layout.dir().to_owned())),
        Err(TryLockError::Error(source)) => Err(OpenError::Io { path, source }),
    }
}

/// Checks that the directory is `ours`, and makes it so when it is nobody's.
pub(crate) fn check(layout: &Layout, ours: MemberId) -> Result<(), OpenError> {
    let path = layout.owner();
    let found = match std::fs::read_to_string(&path) {
        Ok(found) => found,
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            let text = format!("{FORM}\n{ours}\n");
            return disk::write_whole(&path, text.as_bytes()).map_err(OpenError::io(&path));
        }
        Err(source) => return Err(OpenError::Io { path, source }),
    };
    match found.lines().collect::<Vec<_>>()[..] {
        [FORM, member] => match member.parse::<MemberId>() {
            Ok(theirs) if theirs == ours => Ok(()),
            Ok(theirs) => Err(OpenError::OtherMember { path: layout.dir().to_owned(), theirs, ours }),
            Err(_) => Err(OpenError::Format { path, found }),
        },
        _ => Err(OpenError::Format { path, found }),
    }
}
