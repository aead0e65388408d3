//! Memory that is not needed any more, or not yet.
//!
//! A program reads much when it starts and little afterwards: lists that become tables, code that runs
//! once. The allocator keeps what was freed, and the kernel keeps mapped what was once touched of the
//! program's file, with sixteen pages around each. Both are given back here.

use std::io::{self, BufRead, BufReader};
use std::sync::atomic::AtomicU64;

/// Blocks of this size are given back to the system as soon as they are freed.
#[cfg(target_env = "gnu")]
const LARGE: libc::c_int = 256 * 1024;

/// Tells the allocator that what is large is used once: lists that are read, tables that the next
/// ones take the place of. By itself it gets used to the largest block that it ever saw, and keeps
/// memory for more of them. For a program that allocates little that is large, at its start. Does
/// nothing where the C library is not glibc.
pub fn expect_large_blocks_once() {
    #[cfg(target_env = "gnu")]
    // SAFETY: mallopt(3) takes two numbers, may be called at any time, and changes nothing about
    // memory that is in use.
    unsafe {
        libc::mallopt(libc::M_MMAP_THRESHOLD, LARGE);
        libc::mallopt(libc::M_TRIM_THRESHOLD, LARGE);
    }
}

/// Gives memory that was freed back to the system, after work that needed much of it for a moment: the
/// allocator keeps it otherwise. Takes milliseconds. Does nothing where the C library is not glibc.
pub fn give_back() {
    #[cfg(target_env = "gnu")]
    // SAFETY: malloc_trim(3) takes a number of bytes to leave, may be called at any time and from any
    // thread, and frees nothing that is in use.
    unsafe {
        libc::malloc_trim(0);
    }
}

/// Counters that are all zero. Those of a large number take memory when they are first written to.
pub fn zeros(count: usize) -> Box<[AtomicU64]> {
    let zeros = Box::<[AtomicU64]>::new_zeroed_slice(count);
    // SAFETY: all bits zero is the number zero, and an AtomicU64 is in memory what a u64 is.
    unsafe { zeros.assume_init() }
}

/// A stretch of this process's memory that is a file's and is only read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Mapping {
    start: usize,
    end: usize,
}

/// Lets go of the program's own pages, and of its libraries', that are mapped from their files: those that are
/// still needed come back from the page cache when they are next touched (0.5 us for 64 KiB), and those
/// that only the start needed do not. Answers how many bytes of address space that was. Pages that
/// differ from their file, as by relocation, stay.
pub fn let_go_of_files() -> io::Result<usize> {
    let mut len = 0;
    for Mapping { start, end } in file_mappings(BufReader::new(std::fs::File::open("/proc/self/smaps")?))? {
        // SAFETY: the stretch is mapped read-only from a file and none of its pages is a private copy
        // (no anonymous memory in it, resident or swapped out), so that every page is the file's and
        // reads the same when it is mapped again: madvise(2), MADV_DONTNEED. None becomes one
        // meanwhile, as it cannot be written to. Should it have been unmapped since, the call fails;
        // nothing in this process maps other memory over its program or libraries.
        let failed = unsafe { libc::madvise(start as *mut libc::c_void, end - start, libc::MADV_DONTNEED) };
        if failed == 0 {
            len += end - start;
        }
    }
    Ok(len)
}

/// The stretches of programs and libraries in an smaps file (proc(5)) that are private, only read or run, and
/// hold no page that differs from its file.
fn file_mappings(smaps: impl BufRead) -> io::Result<Vec<Mapping>> {
    let (mut found, mut candidate) = (Vec::new(), None);
    for line in smaps.lines() {
        let line = line?;
        if let Some(next) = mapping(&line) {
            candidate = next;
        } else if let Some(("Anonymous" | "Swap", kib)) = line.split_once(':') {
            let none = kib.trim().trim_end_matches("kB").trim() == "0";
            candidate = candidate.filter(|_| none);
            // The later one of the two: of a copy that was swapped out nothing is resident.
            if line.starts_with("Swap") {
                found.extend(candidate.take());
            }
        }
    }
    Ok(found)
}

/// A line that begins a mapping: `start-end permissions offset device inode path`. `None` for any other
/// line; `Some(None)` when it is none of those looked for.
fn mapping(line: &str) -> Option<Option<Mapping>> {
    let mut words = line.split_ascii_whitespace();
    let (start, end) = words.next()?.split_once('-')?;
    let address = |text| usize::from_str_radix(text, 16).ok();
    let mapping = Mapping { start: address(start)?, end: address(end)? };
    let (permissions, inode) = (words.next()?, words.nth(2)?);
    // Data files that are mapped may be shared or written by others; programs and libraries have code.
    let is_read = matches!(permissions, "r--p" | "r-xp");
    Some((is_read && inode != "0" && mapping.start < mapping.end).then_some(mapping))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::Ordering;

    #[test]
    fn what_is_in_use_stays() {
        expect_large_blocks_once();
        let kept: Vec<u64> = (0..100_000).collect();
        drop(vec![1u8; 1 << 20]);
        give_back();
        assert_eq!(kept.iter().sum::<u64>(), 4_999_950_000);
    }

    #[test]
    fn zeros_are_zero() {
        let zeros = zeros(100_000);
        assert!(zeros.iter().all(|zero| zero.load(Ordering::Relaxed) == 0));
        zeros[99_999].store(7, Ordering::Relaxed);
        assert_eq!(zeros[99_999].load(Ordering::Relaxed), 7);
        assert!(super::zeros(0).is_empty());
    }

    #[test]
    fn a_program_runs_on_without_the_pages_it_had() {
        let before = format!("{:?} {}", std::env::current_dir(), f64::sqrt(2.0));
        assert!(let_go_of_files().unwrap() > 0, "this program is mapped from its file");
        let threads: Vec<_> = (0..4).map(|n| std::thread::spawn(move || vec![n; 1000].len())).collect();
        threads.into_iter().for_each(|thread| assert_eq!(thread.join().unwrap(), 1000));
        assert_eq!(before, format!("{:?} {}", std::env::current_dir(), f64::sqrt(2.0)));
    }

    #[test]
    fn only_clean_private_files_are_let_go_of() {
        let smaps = "\
5564a0358000-5564a0635000 r--p 00000000 fe:00 123   /usr/bin/godwit
Rss:                1056 kB
Anonymous:             0 kB
Swap:                  0 kB
SwapPss:               0 kB
5564a0635000-5564a0e5f000 r-xp 002dd000 fe:00 123   /usr/bin/godwit
Anonymous:             4 kB
Swap:                  0 kB
5564a0e5f000-5564a0ea6000 r--p 00b07000 fe:00 123   /usr/bin/godwit
Anonymous:             0 kB
Swap:                284 kB
5564a0ea6000-5564a0ea7000 rw-p 00b4e000 fe:00 123   /usr/bin/godwit
Anonymous:             0 kB
Swap:                  0 kB
5564d7622000-5564d7fd7000 r--p 00000000 00:00 0     [vvar]
Anonymous:             0 kB
Swap:                  0 kB
7f93f36d3000-7f93f36f9000 r--s 00000000 fe:00 9     /var/lib/shared
Anonymous:             0 kB
Swap:                  0 kB
7f93f36f9000-7f93f384f000 r-xp 00026000 fe:00 7     /usr/lib/libc.so.6
Anonymous:             0 kB
Swap:                  0 kB
VmFlags: rd ex mr mw me
";
        let found = file_mappings(smaps.as_bytes()).unwrap();
        let starts: Vec<usize> = found.iter().map(|mapping| mapping.start).collect();
        assert_eq!(starts, [0x5564_a035_8000, 0x7f93_f36f_9000]);
    }
}
