//! The directory: where everything lies, and the few file operations that need care.
//!
//! ```text
//! store/
//!   lock                  held by the running process
//!   owner                 the form of the store, and whose it is
//!   ballast               space to give back when the disk is full and the index must open
//!   index/                sled: records, and where each object lies
//!   index.damaged-N/      the last index that was set aside
//!   records/N.log         the journal of records
//!   packs/N.pack          extents, one after another
//!   own/ID                one extent: an object large enough for a file of its own
//!   incoming/ID           the same while it is being received
//! ```

use godwit_core::content::ObjectId;
use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

/// Where everything lies.
#[derive(Clone, Debug)]
pub(crate) struct Layout {
    dir: PathBuf,
}

impl Layout {
    pub(crate) fn new(dir: &Path) -> Layout {
        Layout { dir: dir.to_owned() }
    }

    pub(crate) fn dir(&self) -> &Path {
        &self.dir
    }

    pub(crate) fn lock(&self) -> PathBuf {
        self.dir.join("lock")
    }

    pub(crate) fn owner(&self) -> PathBuf {
        self.dir.join("owner")
    }

    pub(crate) fn ballast(&self) -> PathBuf {
        self.dir.join("ballast")
    }

    pub(crate) fn index(&self) -> PathBuf {
        self.dir.join("index")
    }

    pub(crate) fn records(&self) -> PathBuf {
        self.dir.join("records")
    }

    pub(crate) fn journal(&self, number: u32) -> PathBuf {
        self.records().join(format!("{number:08}.log"))
    }

    pub(crate) fn packs(&self) -> PathBuf {
        self.dir.join("packs")
    }

    pub(crate) fn pack(&self, number: u32) -> PathBuf {
        self.packs().join(format!("{number:08}.pack"))
    }

    pub(crate) fn own_dir(&self) -> PathBuf {
        self.dir.join("own")
    }

    pub(crate) fn own(&self, id: &ObjectId) -> PathBuf {
        self.own_dir().join(id.to_string())
    }

    pub(crate) fn incoming_dir(&self) -> PathBuf {
        self.dir.join("incoming")
    }

    pub(crate) fn incoming(&self, id: &ObjectId) -> PathBuf {
        self.incoming_dir().join(id.to_string())
    }

    /// Makes the directories that are not there.
    pub(crate) fn create(&self) -> io::Result<()> {
        for dir in [self.records(), self.packs(), self.own_dir(), self.incoming_dir()] {
            std::fs::create_dir_all(dir)?;
        }
        sync_dir(&self.dir)?;
        let parent = self.dir.parent().filter(|parent| !parent.as_os_str().is_empty());
        sync_dir(parent.unwrap_or(Path::new(".")))
    }

    /// Bytes free for us on the file system, and its size.
    pub(crate) fn space(&self) -> io::Result<(u64, u64)> {
        let stat = rustix::fs::statvfs(&self.dir)?;
        Ok((stat.f_bavail.saturating_mul(stat.f_frsize), stat.f_blocks.saturating_mul(stat.f_frsize)))
    }
}

/// The numbers of the files `NUMBER.extension` in `dir`, ascending.
pub(crate) fn numbers(dir: &Path, extension: &str) -> io::Result<Vec<u32>> {
    let mut numbers = Vec::new();
    for entry in std::fs::read_dir(dir)? {
        let path = entry?.path();
        let stem = path.file_stem().and_then(|stem| stem.to_str());
        if path.extension().is_some_and(|found| found == extension)
            && let Some(Ok(number)) = stem.map(str::parse)
        {
            numbers.push(number);
        }
    }
    numbers.sort_unstable();
    Ok(numbers)
}

/// The objects that have a file of their name in `dir`, with the files' lengths.
pub(crate) fn objects_in(dir: &Path) -> io::Result<BTreeMap<ObjectId, u64>> {
    let mut objects = BTreeMap::new();
    for entry in std::fs::read_dir(dir)? {
        let entry = entry?;
        if let Some(Ok(id)) = entry.file_name().to_str().map(str::parse) {
            objects.insert(id, entry.metadata()?.len());
        }
    }
    Ok(objects)
}

/// Makes new names in `dir` durable.
pub(crate) fn sync_dir(dir: &Path) -> io::Result<()> {
    File::open(dir)?.sync_all()
}

/// Writes a whole file, durable and all or nothing.
pub(crate) fn write_whole(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let temporary = path.with_extension("new");
    let mut file = File::create(&temporary)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    std::fs::rename(&temporary, path)?;
    path.parent().map_or(Ok(()), sync_dir)
}

/// Gives back the space of `len` bytes at `offset`; they read as zeros afterwards. Where the file
/// system cannot, the space stays taken until the whole file goes.
#[cfg(target_os = "linux")]
pub(crate) fn punch(file: &File, offset: u64, len: u64) {
    use rustix::fs::{FallocateFlags, fallocate};
    if len > 0 {
        let flags = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
        if let Err(error) = fallocate(file, flags, offset, len) {
            tracing::debug!(%error, "no hole punched");
        }
    }
}

/// Space comes back only when the whole file goes.
#[cfg(not(target_os = "linux"))]
pub(crate) fn punch(_file: &File, _offset: u64, _len: u64) {}

/// Takes `len` bytes of real space in the file `path`.
pub(crate) fn reserve(path: &Path, len: u64) -> io::Result<()> {
    let mut file = OpenOptions::new().write(true).create(true).truncate(true).open(path)?;
    // Written, not only asked for: not every file system gives what was asked for.
    let zeros = vec![0; 64 * 1024];
    for _ in 0..len.div_ceil(zeros.len() as u64) {
        file.write_all(&zeros)?;
    }
    file.sync_all()
}

/// The most files kept open for reading; a process here may have 20,000 and needs most for sockets.
const OPEN_MAX: usize = 512;

/// Which file an object lies in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum FileId {
    Pack(u32),
    Own(ObjectId),
}

/// The files that are open for reading.
pub(crate) struct Files {
    layout: Layout,
    open: Mutex<OpenFiles>,
}

#[derive(Default)]
struct OpenFiles {
    /// Counts uses.
    clock: u64,
    /// With the clock at the last use.
    files: BTreeMap<FileId, (u64, Arc<File>)>,
}

impl Files {
    pub(crate) fn new(layout: Layout) -> Files {
        Files { layout, open: Mutex::default() }
    }

    pub(crate) fn path(&self, id: FileId) -> PathBuf {
        match id {
            FileId::Pack(number) => self.layout.pack(number),
            FileId::Own(id) => self.layout.own(&id),
        }
    }

    /// The file `id`, opened if it is not.
    pub(crate) fn get(&self, id: FileId) -> io::Result<Arc<File>> {
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        let OpenFiles { clock, files } = &mut *open;
        *clock += 1;
        if let Some((used, file)) = files.get_mut(&id) {
            *used = *clock;
            return Ok(file.clone());
        }
        let file = Arc::new(File::open(self.path(id))?);
        if files.len() >= OPEN_MAX
            && let Some(oldest) = files.iter().min_by_key(|(_, (used, _))| *used).map(|(id, _)| *id)
        {
            files.remove(&oldest);
        }
        files.insert(id, (*clock, file.clone()));
        Ok(file)
    }

    /// Another file has taken the place of `id`: those who ask from now on get that one.
    pub(crate) fn replaced(&self, id: FileId) {
        self.open.lock().unwrap_or_else(PoisonError::into_inner).files.remove(&id);
    }

    /// Deletes the file `id`. Those who read it go on reading.
    pub(crate) fn remove(&self, id: FileId) -> io::Result<()> {
        self.replaced(id);
        std::fs::remove_file(self.path(id))
    }
}
