//! Waiting for several things at once, to the nanosecond: epoll, an absolute timer, a doorbell.

use crate::namespace::check;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::time::Duration;

/// The time since the machine started (CLOCK_MONOTONIC): what [`Timer`] counts in.
pub fn monotonic() -> Duration {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: the kernel writes one timespec, which `time` is.
    unsafe { libc::clock_gettime(libc::CLOCK_MONOTONIC, &mut time) };
    Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
}

/// A set of descriptors to wait for, each with a number of the caller's.
#[derive(Debug)]
pub struct Poll {
    epoll: OwnedFd,
    events: Vec<libc::epoll_event>,
}

impl Poll {
    /// An empty set.
    pub fn new() -> io::Result<Poll> {
        // SAFETY: takes flags only.
        let fd = unsafe { libc::epoll_create1(libc::EPOLL_CLOEXEC) };
        check(fd)?;
        // SAFETY: `fd` was just made and belongs to nobody else.
        let epoll = unsafe { OwnedFd::from_raw_fd(fd) };
        // As many at a time as a large testbed has hosts.
        Ok(Poll { epoll, events: vec![libc::epoll_event { events: 0, u64: 0 }; 256] })
    }

    /// Adds a descriptor to wait for until it is readable. It leaves the set when it is closed.
    pub fn add(&self, descriptor: BorrowedFd<'_>, number: u64) -> io::Result<()> {
        let mut event = libc::epoll_event { events: libc::EPOLLIN as u32, u64: number };
        let epoll = self.epoll.as_raw_fd();
        // SAFETY: both descriptors are open and `event` outlives the call.
        check(unsafe { libc::epoll_ctl(epoll, libc::EPOLL_CTL_ADD, descriptor.as_raw_fd(), &mut event) })
    }

    /// Waits until a descriptor is readable; answers the numbers of those that are.
    pub fn wait(&mut self) -> io::Result<impl Iterator<Item = u64> + '_> {
        let len = self.events.len() as libc::c_int;
        // SAFETY: the pointer and length describe `events`, which outlives the call.
        let count = unsafe { libc::epoll_wait(self.epoll.as_raw_fd(), self.events.as_mut_ptr(), len, -1) };
        let count = match check(count) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => 0,
            result => result.map(|()| count as usize)?,
        };
        Ok(self.events[..count].iter().map(|event| event.u64))
    }
}

/// A timer that becomes readable at a moment of [`monotonic`] time.
#[derive(Debug)]
pub struct Timer {
    timer: OwnedFd,
    set: Option<Duration>,
}

impl Timer {
    /// A timer that is not set.
    pub fn new() -> io::Result<Timer> {
        let flags = libc::TFD_CLOEXEC | libc::TFD_NONBLOCK;
        // SAFETY: takes plain numbers.
        let fd = unsafe { libc::timerfd_create(libc::CLOCK_MONOTONIC, flags) };
        check(fd)?;
        // SAFETY: `fd` was just made and belongs to nobody else.
        Ok(Timer { timer: unsafe { OwnedFd::from_raw_fd(fd) }, set: None })
    }

    /// Sets the timer to `at`, or stops it. Costs nothing when it is already set so.
    pub fn set(&mut self, at: Option<Duration>) -> io::Result<()> {
        if self.set == at {
            return Ok(());
        }
        let zero = libc::timespec { tv_sec: 0, tv_nsec: 0 };
        let value = at.map_or(zero, |at| libc::timespec {
            tv_sec: at.as_secs() as libc::time_t,
            // All zeroes would stop the timer.
            tv_nsec: (at.subsec_nanos() as libc::c_long).max(1),
        });
        let setting = libc::itimerspec { it_interval: zero, it_value: value };
        let fd = self.timer.as_raw_fd();
        // SAFETY: the setting outlives the call; no old setting is asked for.
        check(unsafe { libc::timerfd_settime(fd, libc::TFD_TIMER_ABSTIME, &setting, std::ptr::null_mut()) })?;
        self.set = at;
        Ok(())
    }

    /// Makes a timer that went off unreadable again.
    pub fn clear(&mut self) {
        drain(self.timer.as_fd());
        self.set = None;
    }
}

impl AsFd for Timer {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.timer.as_fd()
    }
}

/// Something that another thread can ring to end a wait.
#[derive(Debug)]
pub struct Doorbell(OwnedFd);

impl Doorbell {
    /// A doorbell that has not been rung.
    pub fn new() -> io::Result<Doorbell> {
        // SAFETY: takes plain numbers.
        let fd = unsafe { libc::eventfd(0, libc::EFD_CLOEXEC | libc::EFD_NONBLOCK) };
        check(fd)?;
        // SAFETY: `fd` was just made and belongs to nobody else.
        Ok(Doorbell(unsafe { OwnedFd::from_raw_fd(fd) }))
    }

    /// Rings: the doorbell becomes readable.
    pub fn ring(&self) {
        let one = 1u64.to_ne_bytes();
        // SAFETY: the pointer and length describe `one`. A full counter is readable anyway.
        unsafe { libc::write(self.0.as_raw_fd(), one.as_ptr().cast(), one.len()) };
    }

    /// Makes it unreadable again.
    pub fn clear(&self) {
        drain(self.0.as_fd());
    }
}

impl AsFd for Doorbell {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

fn drain(descriptor: BorrowedFd<'_>) {
    let mut count = [0u8; 8];
    // SAFETY: the pointer and length describe `count`; timers and event counters answer 8 bytes.
    unsafe { libc::read(descriptor.as_raw_fd(), count.as_mut_ptr().cast(), count.len()) };
}
