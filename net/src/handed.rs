//! Descriptors that a service manager opened before it started this process (sd_listen_fds(3)).
//!
//! They are the numbers from 3 up, `LISTEN_FDS` of them, for the process `LISTEN_PID`, named by
//! `LISTEN_FDNAMES`. A child of ours inherits the variables but has another number, and so finds none.

use crate::namespace::check;
use std::os::fd::{FromRawFd, OwnedFd, RawFd};
use std::sync::atomic::{AtomicBool, Ordering};

/// The first descriptor (SD_LISTEN_FDS_START).
const FIRST: RawFd = 3;
/// More than this no unit passes.
const COUNT_MAX: RawFd = 4096;

/// Whether they were taken already.
static TAKEN: AtomicBool = AtomicBool::new(false);

/// A descriptor with its name: `FileDescriptorName=` of the unit, or the unit's own name.
#[derive(Debug)]
pub struct Handed {
    /// The name; empty where none was told.
    pub name: String,
    /// The descriptor, closed in programs that this one starts.
    pub descriptor: OwnedFd,
}

/// Takes the descriptors that were passed to this process: once, then there are none left.
pub fn take() -> Vec<Handed> {
    let number = |name: &str| std::env::var(name).ok()?.parse::<i64>().ok();
    let ours = number("LISTEN_PID") == Some(std::process::id().into());
    let count = number("LISTEN_FDS").filter(|_| ours).unwrap_or(0);
    if count <= 0 || TAKEN.swap(true, Ordering::SeqCst) {
        return Vec::new();
    }
    let names = std::env::var("LISTEN_FDNAMES").unwrap_or_default();
    let mut names = names.split(':');
    let numbers = FIRST..FIRST + RawFd::try_from(count).unwrap_or(COUNT_MAX).min(COUNT_MAX);
    let take = |number: RawFd| {
        let name = names.next().unwrap_or_default().to_owned();
        // SAFETY: F_SETFD reads and writes no memory of ours; a number that is not open is an error.
        check(unsafe { libc::fcntl(number, libc::F_SETFD, libc::FD_CLOEXEC) }).ok()?;
        // SAFETY: the number is open, it was passed to this process for its use, nothing else in the
        // process knows it, and TAKEN lets only one caller come here.
        let descriptor = unsafe { OwnedFd::from_raw_fd(number) };
        Some(Handed { name, descriptor })
    };
    numbers.filter_map(take).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn without_a_service_manager_there_are_none() {
        assert!(take().is_empty());
    }
}
