//! From packs, own files and journal into the index: what it does not know yet.

use crate::disk::Layout;
use crate::extent::{self, Bodies};
use crate::frame::{Summary, object_key};
use crate::index::{Change, Index, Trouble};
use crate::journal::{self, Journal};
use crate::options::Options;
use crate::pack::PackWriter;
use crate::place::{Place, Spot};
use crate::records;
use crate::recover::{Failure, OpenReport, PAGE, Present, Rebuilt, State};
use godwit_core::content::ObjectId;
use std::collections::BTreeMap;
use std::fs::File;

/// Adds to the index what packs, own files and journal have beyond its marks, takes out what is
/// lost, and returns the pack to go on with.
pub(crate) fn fill(
    state: &mut State,
    layout: &Layout,
    options: &Options,
    files: &Present,
    journal: &Journal,
    entries: Vec<(u64, journal::Entry)>,
    report: &mut OpenReport,
) -> Result<PackWriter, Failure> {
    let marks = state.summary;
    let gone: Vec<Change> = state.lost.iter().map(|id| (object_key(id), None)).collect();
    for page in gone.chunks(PAGE) {
        state.apply(page.to_vec())?;
    }
    let (number, end) = fill_from_packs(state, layout, files, report)?;
    fill_from_own_files(state, layout, files, report)?;
    fill_from_journal(state, entries, marks.journal)?;
    if (report.found > 0 || state.counts.records > 0) && marks == Summary::default() {
        report.rebuilt.get_or_insert(Rebuilt { why: "it was not there".into(), set_aside: None });
    }
    let pack = PackWriter::open(layout.clone(), options.pack_len, number, end)?;
    (state.summary.pack, state.summary.offset) = (number, end);
    state.summary.journal = journal.sequence();
    if state.summary != marks {
        state.apply(Vec::new())?;
        state.index.sync()?;
    }
    Ok(pack)
}

/// Returns the number of the pack to go on with, and where.
fn fill_from_packs(
    state: &mut State,
    layout: &Layout,
    files: &Present,
    report: &mut OpenReport,
) -> Result<(u32, u64), Failure> {
    let marks = state.summary;
    let newest = files.packs.keys().next_back().copied().unwrap_or(0);
    // Unless a pack is found to be gone on with: the next number, never one that was used.
    let mut position = (marks.pack + 1, 0);
    for (&number, &len) in files.packs.range(marks.pack..) {
        let start = if number == marks.pack { marks.offset } else { 0 };
        if len < start {
            // It was cut short from outside: what stands at its end may be half an extent, and
            // nothing may be written behind that.
            position = (number + 1, 0);
            continue;
        }
        let rebuilding = marks == Summary::default() && number != newest;
        let bodies = if rebuilding { Bodies::AfterDamage } else { Bodies::All };
        let scan = extent::scan(&File::open(layout.pack(number))?, start, bodies)?;
        report.skipped_bytes += scan.skipped;
        let found = scan.found.iter().map(|found| {
            let spot = Spot::Pack { number, offset: found.offset };
            (found.header.id, Place { len: found.header.len, spot })
        });
        report.found += add(state, found.collect())?;
        position = (number, scan.end);
    }
    Ok(position)
}

fn fill_from_own_files(
    state: &mut State,
    layout: &Layout,
    files: &Present,
    report: &mut OpenReport,
) -> Result<(), Failure> {
    let mut found = Vec::new();
    for (id, len) in &files.own {
        if state.payload(&object_key(id))?.is_some() {
            continue;
        }
        match extent::Header::read(&File::open(layout.own(id))?, 0, *len)? {
            Some((header, _)) if header.id == *id => {
                found.push((*id, Place { len: header.len, spot: Spot::Own }));
            }
            _ => {
                report.skipped_bytes += len;
                std::fs::remove_file(layout.own(id))?;
            }
        }
    }
    report.found += add(state, found)?;
    Ok(())
}

/// Adds the places of objects that the index does not know; returns how many.
fn add(state: &mut State, found: Vec<(ObjectId, Place)>) -> Result<u64, Trouble> {
    let mut new: BTreeMap<ObjectId, Place> = BTreeMap::new();
    for (id, place) in found {
        if state.payload(&object_key(&id))?.is_none() {
            new.entry(id).or_insert(place);
        }
    }
    let count = new.len() as u64;
    let new: Vec<(ObjectId, Place)> = new.into_iter().collect();
    for page in new.chunks(PAGE) {
        page.iter().for_each(|(id, place)| state.count(*id, place));
        state.lost.retain(|lost| !page.iter().any(|(id, _)| id == lost));
        state.apply(page.iter().map(|(id, place)| (object_key(id), Some(place.encode()))).collect())?;
    }
    Ok(count)
}

fn fill_from_journal(
    state: &mut State,
    entries: Vec<(u64, journal::Entry)>,
    mark: u64,
) -> Result<(), Trouble> {
    for (sequence, entry) in entries.into_iter().filter(|(sequence, _)| *sequence > mark) {
        let old = state.payload(&records::part_key(entry.space, &entry.key, 0))?;
        let (was_there, changes) = records::changes(&entry, sequence, old.as_deref());
        state.apply(changes)?;
        state.counts.records += u64::from(entry.value.is_some());
        state.counts.records -= u64::from(was_there);
    }
    Ok(())
}
