//! Processes that belong to their parent: they end with it, whatever ends it.

use crate::namespace::{NetworkNamespace, check};
use std::io;
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::process::CommandExt;
use std::process::Command;

/// What a child process is to be born with.
#[derive(Debug, Default)]
pub struct Birth<'a> {
    /// The network namespace it starts in; the parent's when absent.
    pub namespace: Option<&'a NetworkNamespace>,
    /// It gets a session of its own, so that Ctrl-C in the parent's terminal is not its business.
    pub own_session: bool,
    /// It is killed when the *thread* that starts it ends: start it from one that lasts.
    pub dies_with_parent: bool,
}

/// Makes `command` start as `birth` says, with no signal blocked. The namespace must stay open until it is started.
pub fn prepare(command: &mut Command, birth: &Birth<'_>) {
    let namespace = birth.namespace.map(|namespace| namespace.as_fd().as_raw_fd());
    let (own_session, dies_with_parent) = (birth.own_session, birth.dies_with_parent);
    let parent = std::process::id() as libc::pid_t;
    let before_exec = move || {
        // A child would inherit that signals wait for our EndSignals.
        unblock_signals()?;
        if own_session {
            // SAFETY: takes no arguments.
            check(unsafe { libc::setsid() })?;
        }
        if let Some(namespace) = namespace {
            // SAFETY: takes plain numbers; a descriptor that is no longer open is an error.
            check(unsafe { libc::setns(namespace, libc::CLONE_NEWNET) })?;
        }
        if dies_with_parent {
            // SAFETY: takes plain numbers.
            check(unsafe { libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) })?;
            // The parent may have ended before the kernel was told.
            // SAFETY: takes no arguments.
            if unsafe { libc::getppid() } != parent {
                return Err(io::Error::from_raw_os_error(libc::ESRCH));
            }
        }
        Ok(())
    };
    // SAFETY: between fork and exec the closure only makes system calls that are safe in a signal
    // handler, and allocates nothing.
    unsafe { command.pre_exec(before_exec) };
}

fn unblock_signals() -> io::Result<()> {
    // SAFETY: sigset_t is plain data; sigemptyset initialises it.
    let mut none: libc::sigset_t = unsafe { std::mem::zeroed() };
    // SAFETY: `none` outlives the call.
    unsafe { libc::sigemptyset(&mut none) };
    // SAFETY: `none` is initialised; no old mask is asked for.
    match unsafe { libc::pthread_sigmask(libc::SIG_SETMASK, &none, std::ptr::null_mut()) } {
        0 => Ok(()),
        error => Err(io::Error::from_raw_os_error(error)),
    }
}

/// A signal that a person or a parent sends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Signal {
    /// Asks the process to end.
    Terminate,
    /// Ends the process.
    Kill,
}

/// Sends a signal to a process.
pub fn send_signal(pid: u32, signal: Signal) -> io::Result<()> {
    let signal = match signal {
        Signal::Terminate => libc::SIGTERM,
        Signal::Kill => libc::SIGKILL,
    };
    let pid = libc::pid_t::try_from(pid).ok().filter(|pid| *pid > 1);
    let pid = pid.ok_or_else(|| io::Error::from_raw_os_error(libc::ESRCH))?;
    // SAFETY: takes plain numbers; the number is one process, not a group or all.
    check(unsafe { libc::kill(pid, signal) })
}

/// Whether a process with this number exists.
pub fn exists(pid: u32) -> bool {
    libc::pid_t::try_from(pid).is_ok_and(|pid| {
        // SAFETY: signal 0 sends nothing.
        pid > 0
            && (unsafe { libc::kill(pid, 0) } == 0
                || io::Error::last_os_error().raw_os_error() == Some(libc::EPERM))
    })
}

/// Lets the calling thread run before every ordinary one (SCHED_FIFO). Fails without the
/// privilege, which a user namespace does not give.
pub fn run_first() -> io::Result<()> {
    // Above ordinary threads, far below the kernel's own.
    let parameter = libc::sched_param { sched_priority: 10 };
    // SAFETY: the parameter outlives the call; 0 names the calling thread.
    check(unsafe { libc::sched_setscheduler(0, libc::SCHED_FIFO | libc::SCHED_RESET_ON_FORK, &parameter) })
}

/// The signals that ask this process to end, taken out of their usual way: from now on they wait
/// for [`EndSignals::wait`]. Must be made before the process has a second thread.
#[derive(Debug)]
pub struct EndSignals(libc::sigset_t);

impl EndSignals {
    /// Takes over SIGINT, SIGTERM and SIGHUP.
    pub fn take_over() -> io::Result<EndSignals> {
        // SAFETY: sigset_t is plain data; sigemptyset initialises it.
        let mut set: libc::sigset_t = unsafe { std::mem::zeroed() };
        // SAFETY: `set` outlives the calls; the numbers are signals.
        unsafe {
            libc::sigemptyset(&mut set);
            for signal in [libc::SIGINT, libc::SIGTERM, libc::SIGHUP] {
                libc::sigaddset(&mut set, signal);
            }
        }
        // SAFETY: `set` is initialised; no old mask is asked for.
        match unsafe { libc::pthread_sigmask(libc::SIG_BLOCK, &set, std::ptr::null_mut()) } {
            0 => Ok(EndSignals(set)),
            error => Err(io::Error::from_raw_os_error(error)),
        }
    }

    /// Whether one of them has come.
    pub fn has_come(&self) -> bool {
        let now = libc::timespec { tv_sec: 0, tv_nsec: 0 };
        // SAFETY: the set is initialised, `now` outlives the call, no details are asked for.
        unsafe { libc::sigtimedwait(&self.0, std::ptr::null_mut(), &now) > 0 }
    }

    /// Waits for one of them.
    pub fn wait(&self) -> io::Result<()> {
        let mut signal = 0;
        // SAFETY: the set is initialised and `signal` outlives the call.
        match unsafe { libc::sigwait(&self.0, &mut signal) } {
            0 => Ok(()),
            error => Err(io::Error::from_raw_os_error(error)),
        }
    }
}
