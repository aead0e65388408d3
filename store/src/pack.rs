//! The pack that is being written.
//!
//! Extents are staged, then written with as few calls as possible and synced once per commit. A
//! pack that has reached its length is left as it is and the next one begun. When a write fails
//! the pack is cut back to where it ended; if its sync failed, nobody knows what the disk holds of
//! it, so it is not continued either.

use crate::disk::{self, Layout};
use crate::extent::{HEADER_LEN, Header};
use bytes::Bytes;
use godwit_core::content::object::Named;
use std::fs::{File, OpenOptions};
use std::io::{self, IoSlice, Seek, SeekFrom, Write};

static PADDING: [u8; HEADER_LEN] = [0; HEADER_LEN];
/// Slices per call: what Linux takes at once (IOV_MAX).
const SLICES_MAX: usize = 1024;

/// The pack being written.
pub(crate) struct PackWriter {
    layout: Layout,
    len_max: u64,
    number: u32,
    file: File,
    /// Where the durable extents end.
    end: u64,
    /// What comes after them.
    staged: Vec<Bytes>,
    staged_len: u64,
    /// Whether writing failed in a way that leaves its content uncertain.
    uncertain: bool,
}

impl PackWriter {
    /// Continues pack `number` at `end`, cutting off what is behind, or begins it.
    pub(crate) fn open(layout: Layout, len_max: u64, number: u32, end: u64) -> io::Result<PackWriter> {
        let path = layout.pack(number);
        let fresh = !path.exists();
        let file = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(path)?;
        file.set_len(end)?;
        if fresh {
            disk::sync_dir(&layout.packs())?;
        }
        let (staged, staged_len, uncertain) = (Vec::new(), 0, false);
        Ok(PackWriter { layout, len_max, number, file, end, staged, staged_len, uncertain })
    }

    /// The pack's number and where its durable extents end.
    pub(crate) fn position(&self) -> (u32, u64) {
        (self.number, self.end)
    }

    /// Stages an extent; returns its pack and offset.
    pub(crate) fn stage(&mut self, named: &Named, body: Bytes) -> (u32, u64) {
        let header = Header { id: named.id, len: named.len, live: true };
        let offset = self.end + self.staged_len;
        let padding = header.extent_len() - header.body_offset() - header.len;
        self.staged.push(header.encode(&named.groups).into());
        self.staged.push(body);
        self.staged.push(Bytes::from_static(&PADDING[..padding as usize]));
        self.staged_len += header.extent_len();
        (self.number, offset)
    }

    /// Writes and syncs what was staged. On an error none of it is there.
    pub(crate) fn commit(&mut self) -> io::Result<()> {
        if self.staged.is_empty() {
            return Ok(());
        }
        let staged = std::mem::take(&mut self.staged);
        let len = std::mem::take(&mut self.staged_len);
        if let Err(error) = self.write(&staged) {
            self.uncertain |= self.file.set_len(self.end).is_err();
            return Err(error);
        }
        if let Err(error) = self.file.sync_data() {
            self.uncertain = true;
            return Err(error);
        }
        self.end += len;
        Ok(())
    }

    /// Takes back the last commit, which ended at `end`: what was to follow it failed.
    pub(crate) fn cut(&mut self, end: u64) {
        if self.end != end {
            self.end = end;
            self.uncertain |= self.file.set_len(end).is_err();
        }
    }

    /// Begins the next pack if this one is full or uncertain. Between commits only.
    pub(crate) fn roll(&mut self) -> io::Result<()> {
        if self.end >= self.len_max || self.uncertain {
            *self = PackWriter::open(self.layout.clone(), self.len_max, self.number + 1, 0)?;
        }
        Ok(())
    }

    fn write(&mut self, staged: &[Bytes]) -> io::Result<()> {
        self.file.seek(SeekFrom::Start(self.end))?;
        for slices in staged.chunks(SLICES_MAX) {
            let mut slices: Vec<IoSlice<'_>> = slices.iter().map(|bytes| IoSlice::new(bytes)).collect();
            let mut rest = &mut slices[..];
            // Slices without bytes at the front would look like a file that takes no more.
            IoSlice::advance_slices(&mut rest, 0);
            while !rest.is_empty() {
                match self.file.write_vectored(rest) {
                    Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                    Ok(written) => IoSlice::advance_slices(&mut rest, written),
                    Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                    Err(error) => return Err(error),
                }
            }
        }
        Ok(())
    }
}
