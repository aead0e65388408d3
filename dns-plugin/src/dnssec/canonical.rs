//! Canonical forms (RFC 4034, 6): what a signature is made over.

use hickory_server::proto::ProtoError;
use hickory_server::proto::rr::{Name, RData, Record, RecordType};
use hickory_server::proto::serialize::binary::{BinEncodable, BinEncoder};

/// Class IN, the only one there is here.
const CLASS_IN: [u8; 2] = [0, 1];

/// Octets of a signer's name before an RRset.
pub(crate) const SIGNER_LEN: usize = 8;

/// An RRset in canonical form: equal for equal sets, in whatever order and case they come. Whose
/// signature is wanted stands before it, so that the whole is the key of a cache of signatures.
///
/// ```text
///  signer (8) | owner | type (2) | TTL (4) | { length (2) | RDATA } …    RDATA ascending, none twice
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct RrSet {
    bytes: Vec<u8>,
    /// Where the owner ends.
    owner_end: usize,
}

/// A name in canonical wire form: no compression, lower case (RFC 4034, 6.2).
pub(crate) fn name(name: &Name) -> Vec<u8> {
    let mut wire = Vec::with_capacity(name.len() + 1);
    push_name(&mut wire, name);
    wire
}

fn push_name(wire: &mut Vec<u8>, name: &Name) {
    for label in name.iter() {
        // A label has at most 63 octets.
        wire.push(label.len() as u8);
        wire.extend(label.iter().map(u8::to_ascii_lowercase));
    }
    wire.push(0);
}

impl RrSet {
    /// Of records that share owner, type and TTL; the first one's are taken for all. Fails when a
    /// record cannot be encoded.
    pub(crate) fn new(records: &[Record]) -> Result<RrSet, ProtoError> {
        let mut bytes = Vec::with_capacity(128);
        bytes.extend([0; SIGNER_LEN]);
        let Some(first) = records.first() else { return Ok(RrSet { bytes, owner_end: SIGNER_LEN }) };
        push_name(&mut bytes, &first.name);
        let owner_end = bytes.len();
        bytes.extend(u16::from(first.record_type()).to_be_bytes());
        bytes.extend(first.ttl.to_be_bytes());
        if let [record] = records {
            push_data(&mut bytes, &record.data)?;
            return Ok(RrSet { bytes, owner_end });
        }
        let mut all = Vec::with_capacity(records.len());
        for record in records {
            let mut data = Vec::new();
            push_data(&mut data, &record.data)?;
            all.push(data);
        }
        // RFC 4034, 6.3: by RDATA as octets. The length stands before it here, so compare without.
        all.sort_unstable_by(|a, b| a[2..].cmp(&b[2..]));
        all.dedup();
        all.iter().for_each(|data| bytes.extend(data));
        Ok(RrSet { bytes, owner_end })
    }

    /// Says whose signature is wanted.
    pub(crate) fn set_signer(&mut self, signer: [u8; SIGNER_LEN]) {
        self.bytes[..SIGNER_LEN].copy_from_slice(&signer);
    }

    /// The key in a cache.
    pub(crate) fn key(&self) -> &[u8] {
        &self.bytes
    }

    fn owner(&self) -> &[u8] {
        &self.bytes[SIGNER_LEN..self.owner_end]
    }

    /// RFC 4034, 3.1.3: labels of the owner, without the root and without a leading asterisk.
    pub(crate) fn labels(&self) -> u8 {
        let mut rest = self.owner();
        let mut labels = 0;
        if let Some(below) = rest.strip_prefix(b"\x01*") {
            rest = below;
        }
        while let [len, tail @ ..] = rest
            && *len > 0
        {
            labels += 1;
            rest = tail.get(usize::from(*len)..).unwrap_or_default();
        }
        labels
    }

    /// The type and the TTL.
    pub(crate) fn kind_and_ttl(&self) -> ([u8; 2], [u8; 4]) {
        let part = self.bytes[self.owner_end..].first_chunk::<6>().copied().unwrap_or_default();
        ([part[0], part[1]], [part[2], part[3], part[4], part[5]])
    }

    /// What is signed (RFC 4034, 3.1.8.1): the RRSIG's RDATA up to the signature, then each record.
    pub(crate) fn signed_bytes(&self, rrsig: &[u8]) -> Vec<u8> {
        let (kind, ttl) = self.kind_and_ttl();
        let mut message = Vec::with_capacity(rrsig.len() + 2 * self.bytes.len());
        message.extend(rrsig);
        let mut rest = self.bytes.get(self.owner_end + 6..).unwrap_or_default();
        while let Some((len, tail)) = rest.split_first_chunk::<2>() {
            let (data, tail) = tail.split_at(usize::from(u16::from_be_bytes(*len)).min(tail.len()));
            message.extend(self.owner());
            message.extend(kind);
            message.extend(CLASS_IN);
            message.extend(ttl);
            message.extend(len);
            message.extend(data);
            rest = tail;
        }
        message
    }
}

/// Length and canonical RDATA.
fn push_data(bytes: &mut Vec<u8>, data: &RData) -> Result<(), ProtoError> {
    match data {
        RData::A(address) => {
            bytes.extend([0, 4]);
            bytes.extend(address.0.octets());
        }
        RData::AAAA(address) => {
            bytes.extend([0, 16]);
            bytes.extend(address.0.octets());
        }
        RData::Unknown { rdata, .. } => {
            let raw = &rdata.anything;
            bytes.extend(u16::try_from(raw.len()).map_err(|_| "record too long")?.to_be_bytes());
            bytes.extend(raw);
        }
        other => {
            let mut raw = Vec::new();
            let mut encoder = BinEncoder::new(&mut raw);
            encoder.set_canonical_form(true);
            other.emit(&mut encoder)?;
            bytes.extend(u16::try_from(raw.len()).map_err(|_| "record too long")?.to_be_bytes());
            bytes.extend(raw);
        }
    }
    Ok(())
}

/// A type bit map (RFC 4034, 4.1.2).
pub(crate) fn type_bitmap(kinds: impl IntoIterator<Item = RecordType>) -> Vec<u8> {
    let mut numbers: Vec<u16> = kinds.into_iter().map(u16::from).collect();
    numbers.sort_unstable();
    numbers.dedup();
    let mut bitmap = Vec::new();
    for window in numbers.chunk_by(|a, b| a >> 8 == b >> 8) {
        let mut bits = [0u8; 32];
        for number in window {
            bits[usize::from(number & 0xff) / 8] |= 0x80 >> (number % 8);
        }
        let len = bits.iter().rposition(|octet| *octet != 0).map_or(0, |at| at + 1);
        bitmap.extend([(window[0] >> 8) as u8, len as u8]);
        bitmap.extend(&bits[..len]);
    }
    bitmap
}

#[cfg(test)]
mod tests {
    use super::*;
    use hickory_server::proto::rr::rdata::{A, NS, TXT};

    fn record(name: &str, data: RData) -> Record {
        Record::from_rdata(Name::from_ascii(name).unwrap(), 60, data)
    }

    #[test]
    fn rfc4034_6_order_and_case_do_not_matter() {
        let a = record("WWW.Example.", RData::A(A::new(192, 0, 2, 9)));
        let b = record("www.example.", RData::A(A::new(10, 0, 0, 1)));
        let one = RrSet::new(&[a.clone(), b.clone()]).unwrap();
        assert_eq!(one, RrSet::new(&[b.clone(), a, b]).unwrap());
        assert_eq!(one.labels(), 2);
        assert_eq!(
            one.signed_bytes(b"<sig>"),
            b"<sig>\x03www\x07example\0\0\x01\0\x01\0\0\0\x3c\0\x04\x0a\0\0\x01\
              \x03www\x07example\0\0\x01\0\x01\0\0\0\x3c\0\x04\xc0\0\x02\x09"
        );
        let ns = record("example.", RData::NS(NS(Name::from_ascii("NS.Example.").unwrap())));
        assert!(RrSet::new(&[ns]).unwrap().key().ends_with(b"\0\x0c\x02ns\x07example\0"));
    }

    #[test]
    fn rfc4034_6_3_shorter_data_stands_before_longer_only_when_it_is_its_start() {
        let long = record("x.", RData::TXT(TXT::new(vec!["a".into(), "b".into()])));
        let short = record("x.", RData::TXT(TXT::new(vec!["b".into()])));
        let set = RrSet::new(&[short, long]).unwrap();
        assert!(set.key().ends_with(b"\0\x04\x01a\x01b\0\x02\x01b"), "{:?}", set.key());
    }

    #[test]
    fn rfc4034_3_1_3_an_asterisk_is_no_label() {
        let wild = record("*.example.", RData::A(A::new(192, 0, 2, 9)));
        assert_eq!(RrSet::new(&[wild]).unwrap().labels(), 1);
        let root = record(".", RData::A(A::new(192, 0, 2, 9)));
        assert_eq!(RrSet::new(&[root]).unwrap().labels(), 0);
    }

    #[test]
    fn rfc4034_4_3_type_bitmap() {
        let kinds = [RecordType::A, RecordType::MX, RecordType::RRSIG, RecordType::NSEC];
        let bitmap = type_bitmap(kinds.into_iter().chain([RecordType::Unknown(1234)]));
        let mut expected = vec![0, 6, 0x40, 0x01, 0, 0, 0, 0x03, 0x04, 0x1b];
        expected.extend([0; 26]);
        expected.push(0x20);
        assert_eq!(bitmap, expected);
        assert_eq!(type_bitmap([RecordType::Unknown(128)]), [[0, 17].as_slice(), &[0; 16], &[0x80]].concat());
    }
}
