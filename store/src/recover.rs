//! Opening: from what a crash, a power cut or bad sectors left to a store that works.
//!
//! 1. The index is opened and read through: every value must prove itself, and all together must
//!    come to the sum in the [`Summary`]. If not, or if sled panics or hangs, the index is set
//!    aside and a fresh one takes its place.
//! 2. Packs and journal are read from the marks in the summary on (a fresh index has them at the
//!    beginning) and what the index does not know is added. After a clean end that is nothing.
//! 3. Objects whose file is gone or too short are taken out, and reported: they are fetched again.
//!
//! So a rebuild is the normal case with marks at zero, and is tested with every crash.

use crate::disk::{self, Layout};
use crate::error::OpenError;
use crate::fill::fill;
use crate::frame::{self, SUMMARY_KEY, Summary, kind, object_of};
use crate::index::{Change, Index, SledIndex, Trouble};
use crate::journal::Journal;
use crate::options::Options;
use crate::pack::PackWriter;
use crate::place::{Place, Spot};
use crate::records;
use godwit_core::content::ObjectId;
use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Index entries read or changed at once.
pub(crate) const PAGE: usize = 1000;
/// What is kept to be given back to a disk that others have filled: the index needs some to open.
const BALLAST_LEN: u64 = 4 << 20;
/// An index that is larger than this, and than [`GROWN_RATIO`] times its content, is made anew.
const GROWN_LEN_MIN: u64 = 128 << 20;
const GROWN_RATIO: u64 = 8;
/// What an entry of the index takes, about.
const ENTRY_LEN: u64 = 128;
/// Partly received objects older than this are given up when the store opens.
const INCOMING_AGE_MAX: Duration = Duration::from_secs(7 * 24 * 3600);

/// What opening a store found and did.
#[derive(Clone, Debug, Default)]
pub struct OpenReport {
    /// How many objects it has.
    pub objects: u64,
    /// How many records it has.
    pub records: u64,
    /// The index was made anew.
    pub rebuilt: Option<Rebuilt>,
    /// Objects that the index did not know and that were found in the packs.
    pub found: u64,
    /// Objects that the index knew and whose bytes are gone: to be fetched again.
    pub lost: Vec<ObjectId>,
    /// Bytes of packs and journal in which nothing was to be read.
    pub skipped_bytes: u64,
    /// The disk was so full that the ballast had to be given back first.
    pub ballast_used: bool,
}

/// How an index was made anew.
#[derive(Clone, Debug)]
pub struct Rebuilt {
    /// What was wrong with the old one.
    pub why: String,
    /// Where the old one is now, if it is kept.
    pub set_aside: Option<PathBuf>,
}

/// An opened index with what belongs to it.
pub(crate) struct Recovered {
    pub(crate) index: Box<dyn Index>,
    pub(crate) pack: PackWriter,
    pub(crate) journal: Journal,
    pub(crate) summary: Summary,
    pub(crate) pack_live: BTreeMap<u32, u64>,
    pub(crate) counts: Counts,
    pub(crate) report: OpenReport,
}

#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Counts {
    pub(crate) objects: u64,
    pub(crate) bytes: u64,
    pub(crate) records: u64,
}

/// Opens or rebuilds the index in `layout` and brings it up to what packs and journal say.
pub(crate) fn recover(layout: &Layout, options: &Options) -> Result<Recovered, OpenError> {
    let ballast_used = give_back_ballast(layout);
    let mut report = OpenReport { ballast_used, ..OpenReport::default() };
    let dir = layout.dir();
    let (journal, entries) = Journal::open(layout).map_err(OpenError::io(&layout.records()))?;
    report.skipped_bytes += entries.skipped;
    let files = Present::list(layout).map_err(OpenError::io(dir))?;
    let mut state = match open_checked(layout, options, &files) {
        Ok(state) => state,
        Err(Trouble::Full) => return Err(full(layout)),
        Err(Trouble::Damaged(why)) => {
            let set_aside = set_aside(layout).map_err(OpenError::io(&layout.index()))?;
            report.rebuilt = Some(Rebuilt { why, set_aside });
            fresh(layout, options)?
        }
    };
    let filled = fill(&mut state, layout, options, &files, &journal, entries.entries, &mut report);
    let pack = match filled {
        Ok(pack) => pack,
        Err(Failure::Io(error)) => return Err(OpenError::io(dir)(error)),
        Err(Failure::Index(Trouble::Full)) => return Err(full(layout)),
        Err(Failure::Index(Trouble::Damaged(why))) => {
            return Err(OpenError::Index { path: layout.index(), why });
        }
    };
    let State { index, summary, mut pack_live, counts, lost } = state;
    for number in files.packs.keys() {
        pack_live.entry(*number).or_insert(0);
    }
    report.objects = counts.objects;
    report.records = counts.records;
    report.lost = lost;
    Ok(Recovered { index: Box::new(index), pack, journal, summary, pack_live, counts, report })
}

fn full(layout: &Layout) -> OpenError {
    OpenError::Io { path: layout.index(), source: io::ErrorKind::StorageFull.into() }
}

/// The files that are there, with their lengths.
pub(crate) struct Present {
    pub(crate) packs: BTreeMap<u32, u64>,
    pub(crate) own: BTreeMap<ObjectId, u64>,
}

impl Present {
    fn list(layout: &Layout) -> io::Result<Present> {
        let mut packs = BTreeMap::new();
        for number in disk::numbers(&layout.packs(), "pack")? {
            packs.insert(number, std::fs::metadata(layout.pack(number))?.len());
        }
        Ok(Present { packs, own: disk::objects_in(&layout.own_dir())? })
    }

    /// Whether the file of object `id` is long enough to have it.
    fn has(&self, id: ObjectId, place: &Place) -> bool {
        let end = place.body_offset(id) + place.len;
        let len = match place.spot {
            Spot::Pack { number, .. } => self.packs.get(&number),
            Spot::Own => self.own.get(&id),
        };
        len.is_some_and(|len| end <= *len)
    }
}

/// An index while it is brought up.
pub(crate) struct State {
    pub(crate) index: SledIndex,
    pub(crate) summary: Summary,
    pub(crate) pack_live: BTreeMap<u32, u64>,
    pub(crate) counts: Counts,
    pub(crate) lost: Vec<ObjectId>,
}

pub(crate) enum Failure {
    Io(io::Error),
    Index(Trouble),
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Failure {
        Failure::Io(error)
    }
}

impl From<Trouble> for Failure {
    fn from(trouble: Trouble) -> Failure {
        Failure::Index(trouble)
    }
}

impl State {
    fn new(index: SledIndex) -> State {
        State {
            index,
            summary: Summary::default(),
            pack_live: BTreeMap::new(),
            counts: Counts::default(),
            lost: Vec::new(),
        }
    }

    pub(crate) fn count(&mut self, id: ObjectId, place: &Place) {
        self.counts.objects += 1;
        self.counts.bytes += place.len;
        if let Spot::Pack { number, .. } = place.spot {
            *self.pack_live.entry(number).or_insert(0) += place.header(id).extent_len();
        }
    }

    pub(crate) fn payload(&self, key: &[u8]) -> Result<Option<Vec<u8>>, Trouble> {
        let Some(value) = self.index.get(key)? else { return Ok(None) };
        let opened = frame::open(key, &value).map(|(payload, _)| payload.to_vec());
        opened.map(Some).map_err(|_| Trouble::Damaged("a value is not what was written".into()))
    }

    /// Makes changes of payloads, with the summary.
    pub(crate) fn apply(&mut self, payloads: Vec<Change>) -> Result<(), Trouble> {
        let mut changes = Vec::with_capacity(payloads.len() + 1);
        for (key, payload) in payloads {
            if let Some(old) = self.payload(&key)? {
                self.summary.remove(frame::digest(&key, &old));
            }
            if let Some(new) = &payload {
                self.summary.add(frame::digest(&key, new));
            }
            let value = payload.map(|payload| frame::seal(&key, &payload));
            changes.push((key, value));
        }
        changes.push(self.summary.change());
        self.index.apply(changes)
    }
}

/// Opens the index that is there and reads it through.
fn open_checked(layout: &Layout, options: &Options, files: &Present) -> Result<State, Trouble> {
    let index = SledIndex::open(&layout.index(), options.cache_bytes, options.open_limit)?;
    let mut state = State::new(index);
    let mut said = None;
    let mut seen = Summary::default();
    let mut from = Vec::new();
    loop {
        let page = state.index.range(&from, PAGE)?;
        let full = page.len() == PAGE;
        for (key, value) in page {
            let damaged = |_| Trouble::Damaged("a value is not what was written".into());
            let (payload, digest) = frame::open(&key, &value).map_err(damaged)?;
            if key == SUMMARY_KEY {
                said = Some(Summary::decode(payload).map_err(damaged)?);
            } else {
                seen.add(digest);
                state.note(&key, payload, files);
            }
            from = [&key[..], &[0]].concat();
        }
        if !full {
            break;
        }
    }
    let said = said.unwrap_or_default();
    if (said.count, said.sum) != (seen.count, seen.sum) {
        let why = format!("it has {} values where {} were written", seen.count, said.count);
        return Err(Trouble::Damaged(why));
    }
    let len = state.index.disk_len()?;
    if len > GROWN_LEN_MIN && len > GROWN_RATIO * ENTRY_LEN * seen.count {
        return Err(Trouble::Damaged(format!("it has grown to {len} bytes for {} values", seen.count)));
    }
    state.summary = said;
    Ok(state)
}

impl State {
    /// Counts a value that was read; notes an object whose file cannot have it.
    fn note(&mut self, key: &[u8], payload: &[u8], files: &Present) {
        if let Some(id) = object_of(key) {
            match Place::decode(payload) {
                Some(place) if files.has(id, &place) => self.count(id, &place),
                _ => self.lost.push(id),
            }
        } else if records::is_first_part(key) {
            self.counts.records += 1;
        }
    }
}

fn fresh(layout: &Layout, options: &Options) -> Result<State, OpenError> {
    match SledIndex::open(&layout.index(), options.cache_bytes, options.open_limit) {
        Ok(index) => Ok(State::new(index)),
        Err(Trouble::Full) => Err(full(layout)),
        Err(Trouble::Damaged(why)) => Err(OpenError::Index { path: layout.index(), why }),
    }
}

/// Renames the index out of the way; only the newest one set aside is kept, for whoever wants to
/// know what happened.
fn set_aside(layout: &Layout) -> io::Result<Option<PathBuf>> {
    let name = |number: u32| layout.dir().join(format!("index.damaged-{number}"));
    let mut number = 0;
    for entry in std::fs::read_dir(layout.dir())?.flatten() {
        let file_name = entry.file_name().to_string_lossy().into_owned();
        let old = file_name.strip_prefix("index.damaged-").and_then(|number| number.parse().ok());
        if let Some(old) = old {
            number = number.max(old);
            std::fs::remove_dir_all(entry.path())?;
        }
    }
    if !layout.index().exists() {
        return Ok(None);
    }
    let aside = name(number + 1);
    std::fs::rename(layout.index(), &aside)?;
    disk::sync_dir(layout.dir())?;
    Ok(Some(aside))
}

/// Gives the ballast back when the disk has less than that free.
fn give_back_ballast(layout: &Layout) -> bool {
    let short = layout.space().is_ok_and(|(free, _)| free < BALLAST_LEN);
    short && std::fs::remove_file(layout.ballast()).is_ok()
}

/// Whether the index has the space that it needs to open, or ballast to give for it.
pub(crate) fn has_room(layout: &Layout) -> bool {
    layout.ballast().exists() || layout.space().map_or(true, |(free, _)| free >= BALLAST_LEN)
}

/// Takes the ballast again when the disk has room for it.
pub(crate) fn restore_ballast(layout: &Layout, options: &Options) {
    if layout.ballast().exists() {
        return;
    }
    if let Ok((free, size)) = layout.space()
        && free > options.reserve(size) + 2 * BALLAST_LEN
        && let Err(error) = disk::reserve(&layout.ballast(), BALLAST_LEN)
    {
        // Without it a full disk keeps the store from opening; nothing else depends on it.
        tracing::warn!(%error, "no ballast could be put by");
        let _ = std::fs::remove_file(layout.ballast());
    }
}

/// Removes what earlier attempts at receiving left and nobody took up.
pub(crate) fn clean_incoming(dir: &Path) -> io::Result<()> {
    for entry in std::fs::read_dir(dir)?.flatten() {
        let named = entry.file_name().to_str().is_some_and(|name| name.parse::<ObjectId>().is_ok());
        let age = entry.metadata()?.modified().ok().and_then(|modified| modified.elapsed().ok());
        if !named || age.is_some_and(|age| age > INCOMING_AGE_MAX) {
            std::fs::remove_file(entry.path())?;
        }
    }
    Ok(())
}

const _: () = assert!(kind::META < kind::OBJECT && kind::OBJECT < kind::RECORD, "one key space");
