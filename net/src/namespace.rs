//! Network namespaces, held by file descriptor and never by name.
//!
//! A named namespace (`ip netns add`) is a mount that outlives a crash. A descriptor does not: when
//! the last process that holds it ends, the kernel removes the namespace and every interface in
//! it. That is the whole of the testbed's promise to leave nothing behind.
//!
//! `unshare(2)` and `setns(2)` for a network namespace work on the calling *thread*, so a
//! namespace is made on a thread that ends, and the caller's own is untouched. User and mount
//! namespaces are different: the kernel wants the process to have one thread.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::path::Path;

/// A network namespace that lives as long as this value, or anything inside it, does.
#[derive(Debug)]
pub struct NetworkNamespace {
    file: File,
}

impl NetworkNamespace {
    /// The namespace of the calling thread.
    pub fn current() -> io::Result<NetworkNamespace> {
        NetworkNamespace::open(Path::new("/proc/thread-self/ns/net"))
    }

    /// The namespace that `path` names, for example `/proc/1/ns/net`.
    pub fn open(path: &Path) -> io::Result<NetworkNamespace> {
        Ok(NetworkNamespace { file: File::open(path)? })
    }

    /// Makes a namespace and runs `setup` inside it, on a thread of its own.
    pub fn create<T: Send>(
        setup: impl FnOnce(&NetworkNamespace) -> io::Result<T> + Send,
    ) -> io::Result<(NetworkNamespace, T)> {
        on_own_thread(|| {
            // SAFETY: unshare takes flags only; CLONE_NEWNET changes the calling thread alone.
            check(unsafe { libc::unshare(libc::CLONE_NEWNET) })?;
            let namespace = NetworkNamespace::current()?;
            let made = setup(&namespace)?;
            Ok((namespace, made))
        })
    }

    /// Runs `action` inside the namespace, on a thread of its own. What it opens there, sockets
    /// for example, keeps belonging to the namespace.
    pub fn run<T: Send>(&self, action: impl FnOnce() -> io::Result<T> + Send) -> io::Result<T> {
        on_own_thread(|| {
            self.enter()?;
            action()
        })
    }

    /// Moves the calling thread into the namespace.
    pub fn enter(&self) -> io::Result<()> {
        set_namespace(self.file.as_fd(), libc::CLONE_NEWNET)
    }

    /// The number that `readlink /proc/PID/ns/net` shows for processes in this namespace.
    pub fn inode(&self) -> io::Result<u64> {
        Ok(self.file.metadata()?.ino())
    }
}

impl AsFd for NetworkNamespace {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

impl From<NetworkNamespace> for OwnedFd {
    fn from(namespace: NetworkNamespace) -> OwnedFd {
        namespace.file.into()
    }
}

/// Makes the process root in a user namespace of its own, with its own network and mounts, in
/// which it may do to networks what root may. The process must have a single thread.
pub fn become_root_in_user_namespace() -> io::Result<()> {
    // SAFETY: these calls take no arguments and cannot fail.
    let (uid, gid) = unsafe { (libc::geteuid(), libc::getegid()) };
    // SAFETY: unshare takes flags only.
    check(unsafe { libc::unshare(libc::CLONE_NEWUSER | libc::CLONE_NEWNET | libc::CLONE_NEWNS) })?;
    // Without a say over its supplementary groups the kernel would refuse the group map.
    std::fs::write("/proc/self/setgroups", "deny")?;
    std::fs::write("/proc/self/uid_map", format!("0 {uid} 1"))?;
    std::fs::write("/proc/self/gid_map", format!("0 {gid} 1"))
}

/// Whether the process has the effective user id of root, in its user namespace.
pub fn is_root() -> bool {
    // SAFETY: takes no arguments and cannot fail.
    unsafe { libc::geteuid() == 0 }
}

/// Moves the process into the user namespace that `path` names, for example `/proc/PID/ns/user`.
/// The process must have a single thread.
pub fn enter_user_namespace(path: &Path) -> io::Result<()> {
    set_namespace(File::open(path)?.as_fd(), libc::CLONE_NEWUSER)
}

/// Gives the process mounts of its own and, in these, puts the file `from` in the place of each of
/// `to`. The process must have a single thread.
pub fn with_own_mounts(binds: &[(&Path, &Path)]) -> io::Result<()> {
    // SAFETY: unshare takes flags only.
    check(unsafe { libc::unshare(libc::CLONE_NEWNS) })?;
    // Changes must not travel back to the mounts that these are a copy of.
    mount(None, Path::new("/"), libc::MS_REC | libc::MS_PRIVATE)?;
    for (from, to) in binds {
        mount(Some(from), to, libc::MS_BIND)?;
    }
    Ok(())
}

fn mount(from: Option<&Path>, to: &Path, flags: libc::c_ulong) -> io::Result<()> {
    use std::ffi::CString;
    use std::os::unix::ffi::OsStrExt;
    let c = |path: &Path| CString::new(path.as_os_str().as_bytes());
    let from = from.map(c).transpose()?;
    let to = c(to)?;
    let from = from.as_ref().map_or(std::ptr::null(), |from| from.as_ptr());
    // SAFETY: both paths are NUL-terminated or null and outlive the call; bind and propagation
    // mounts read neither a file system type nor data.
    check(unsafe { libc::mount(from, to.as_ptr(), std::ptr::null(), flags, std::ptr::null()) })
}

fn set_namespace(namespace: BorrowedFd<'_>, kind: libc::c_int) -> io::Result<()> {
    // SAFETY: the descriptor is open for the duration of the call.
    check(unsafe { libc::setns(namespace.as_raw_fd(), kind) })
}

fn on_own_thread<T: Send>(action: impl FnOnce() -> io::Result<T> + Send) -> io::Result<T> {
    std::thread::scope(|scope| {
        scope.spawn(action).join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })
}

pub(crate) fn check(result: libc::c_int) -> io::Result<()> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}
