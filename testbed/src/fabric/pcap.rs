//! What passed the fabric, in the classic pcap format that every analyser reads: bare IP packets
//! (LINKTYPE_RAW) with nanoseconds, each at the moment it was handed over. Checksums that a host left
//! to its interface are not filled in, as in a capture on a host with such a card.

use godwit_net::offload::Train;
use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::path::Path;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// A capture stops at this size, bytes: it is for looking at, and must not fill the disk.
const LEN_MAX: u64 = 1 << 30;

pub(super) struct Capture {
    file: BufWriter<File>,
    /// What to add to the fabric's clock to get the time of day.
    offset: Duration,
    len: u64,
}

impl Capture {
    pub(super) fn create(path: &Path, now: Duration) -> io::Result<Capture> {
        let mut file = BufWriter::new(File::create(path)?);
        // magic (nanoseconds), version 2.4, zone, accuracy, length limit, link type
        for field in [0xa1b2_3c4du32, 2 | 4 << 16, 0, 0, 65_535, 101] {
            file.write_all(&field.to_le_bytes())?;
        }
        let wall = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Ok(Capture { file, offset: wall.saturating_sub(now), len: 24 })
    }

    /// Adds what was handed over, packet by packet; errors end the capture and nothing else.
    pub(super) fn add(&mut self, now: Duration, train: Train<'_>) -> io::Result<()> {
        let mut packet = Vec::new();
        (0..train.count()).try_for_each(|number| {
            train.cut(number..number + 1, &mut packet);
            self.add_packet(now, &packet)
        })
    }

    fn add_packet(&mut self, now: Duration, packet: &[u8]) -> io::Result<()> {
        if self.len > LEN_MAX {
            return Ok(());
        }
        let at = self.offset + now;
        let len = packet.len() as u32;
        for field in [at.as_secs() as u32, at.subsec_nanos(), len, len] {
            self.file.write_all(&field.to_le_bytes())?;
        }
        self.len += 16 + u64::from(len);
        self.file.write_all(packet)
    }

    pub(super) fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_capture_has_one_header_and_every_packet() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let mut capture = Capture::create(file.path(), Duration::from_secs(5)).unwrap();
        for packet in [&[0x45; 20][..], &[0x60; 40][..]] {
            capture.add(Duration::from_secs(6), Train::single(packet)).unwrap();
        }
        capture.flush().unwrap();
        let bytes = std::fs::read(file.path()).unwrap();
        assert_eq!(bytes.len(), 24 + 16 + 20 + 16 + 40);
        assert_eq!((&bytes[..4], bytes[20]), (&[0x4d, 0x3c, 0xb2, 0xa1][..], 101));
        assert_eq!((bytes[24 + 8], &bytes[40..60]), (20, &[0x45; 20][..]));
    }
}
