//! A connection as it travels, and how the octets in flight are made anew.
//!
//! What is in flight ends with octets of a file, which every replica has. Before them there may be a head,
//! and the end of a response before that: few octets, which are taken along. So a window of megabytes
//! travels as the name of a file and two numbers.

use super::parts::Parts;
use crate::content::{Absent, Content};
use bytes::Bytes;
use godwit_core::content::object::OBJECT_LEN_MAX;
use godwit_core::content::tree::{Body as FileBody, List};
use godwit_core::content::{ObjectId, VersionNumber};
use godwit_core::handoff::{Kept, STATE_LEN_MAX};
use godwit_core::name::SiteName;
use godwit_core::wire::{self, DecodeError};
use serde::{Deserialize, Serialize};
use std::sync::Arc;

/// The form of [`Packed`].
const VERSION: u8 = 1;

/// Octets in flight that are of no file and travel themselves, at most: a head takes some 400, and what is
/// left of [`STATE_LEN_MAX`] is for requests that came and were not read.
const LITERAL_MAX: usize = 1000;

/// The octets that a response is made of.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Plan {
    /// Where the file can be had.
    pub(super) site: SiteName,
    /// In this version.
    pub(super) number: VersionNumber,
    /// Its content.
    pub(super) body: FileBody,
    /// Its length.
    pub(super) file_len: u64,
    /// The first octet of it that is sent.
    pub(super) start: u64,
    /// The first that is not.
    pub(super) end: u64,
}

/// What is still to be written of a response.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Rest {
    /// Of what.
    pub(super) plan: Plan,
    /// The octet of the file that is next.
    pub(super) next: u64,
}

/// Where a connection goes on.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Left {
    /// First this is written.
    pub(super) rest: Option<Rest>,
    /// Then it ends.
    pub(super) close: bool,
    /// Or these octets are read before others.
    pub(super) unparsed: Bytes,
    /// It was handed over for its first request: it stays where it is.
    pub(super) passed: bool,
}

/// The same with what is in flight, between nodes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Packed {
    version: u8,
    rest: Option<Rest>,
    close: bool,
    passed: bool,
    /// The first octets in flight; what follows is of the file.
    literal: Vec<u8>,
    unparsed: Vec<u8>,
}

/// Why octets are no connection.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum UnpackError {
    #[error(transparent)]
    Form(#[from] DecodeError),
    #[error("version {0}, not {VERSION}")]
    Version(u8),
    #[error("impossible {0}")]
    Field(&'static str),
}

impl Left {
    /// How many of the octets in flight are of no file: the first.
    pub(super) fn literal_len(&self, in_flight: u32) -> usize {
        let sent = self.rest.as_ref().map_or(0, |rest| rest.next - rest.plan.start);
        u64::from(in_flight).saturating_sub(sent) as usize
    }

    /// The octets that stand for it. `literal` are the first in flight, as many as
    /// [`Left::literal_len`] says.
    pub(super) fn pack(&self, literal: &[u8]) -> Result<Vec<u8>, Kept> {
        if literal.len() > LITERAL_MAX || self.unparsed.len() > STATE_LEN_MAX {
            return Err(Kept::TooLarge);
        }
        let packed = Packed {
            version: VERSION,
            rest: self.rest.clone(),
            close: self.close,
            passed: self.passed,
            literal: literal.to_vec(),
            unparsed: self.unparsed.to_vec(),
        };
        Ok(wire::encode(&packed))
    }

    /// Where it goes on, and the first octets in flight.
    pub(super) fn unpack(bytes: &[u8], in_flight: u32) -> Result<(Left, Vec<u8>), UnpackError> {
        if let Some(version) = bytes.first().filter(|version| **version != VERSION) {
            return Err(UnpackError::Version(*version));
        }
        let Packed { rest, close, passed, literal, unparsed, .. } = wire::decode(bytes, STATE_LEN_MAX)?;
        if let Some(Rest { plan, next }) = &rest {
            let ordered = [plan.start, *next, plan.end, plan.file_len];
            if !ordered.is_sorted() {
                return Err(UnpackError::Field("range"));
            }
        }
        let left = Left { rest, close, unparsed: unparsed.into(), passed };
        if literal.len() != left.literal_len(in_flight) {
            return Err(UnpackError::Field("octets in flight"));
        }
        Ok((left, literal))
    }

    /// All octets in flight, made anew from what is here. Nothing is fetched: the client waits.
    pub(super) async fn in_flight(
        &self,
        content: &Arc<Content>,
        in_flight: u32,
        literal: Vec<u8>,
    ) -> Result<Vec<u8>, Absent> {
        let mut bytes = literal;
        bytes.reserve_exact((in_flight as usize).saturating_sub(bytes.len()));
        let Some(Rest { plan, next }) = &self.rest else { return Ok(bytes) };
        let objects = plan.objects_here(content).await?;
        let mut at = next - (u64::from(in_flight) - bytes.len() as u64);
        while at < *next {
            let index = (at / OBJECT_LEN_MAX) as usize;
            let (id, offset) =
                (*objects.get(index).ok_or_else(|| plan.too_short())?, index as u64 * OBJECT_LEN_MAX);
            let object = content.here(id).await.ok_or(Absent::NoHolder(id))?;
            let end = (*next - offset).min(object.len());
            if end <= at - offset {
                return Err(plan.too_short());
            }
            bytes.extend_from_slice(&object.read(at - offset..end).await?);
            at = offset + end;
        }
        Ok(bytes)
    }
}

impl Plan {
    /// The objects of the file, where it is known here which they are.
    pub(super) async fn objects_here(&self, content: &Content) -> Result<Vec<ObjectId>, Absent> {
        let id = match self.body {
            FileBody::Object(id) => return Ok(vec![id]),
            FileBody::List(id) => id,
        };
        let list = content.here(id).await.ok_or(Absent::NoHolder(id))?;
        let bytes = list.read(0..list.len()).await?;
        let list = List::decode(&bytes, self.file_len);
        Ok(list.map_err(|error| Absent::Malformed(id, error.to_string()))?.objects)
    }

    fn too_short(&self) -> Absent {
        let (FileBody::Object(id) | FileBody::List(id)) = self.body;
        Absent::Malformed(id, "it is shorter than the response".into())
    }
}

impl Rest {
    /// The same when all of it is out.
    pub(super) fn whole(self) -> Rest {
        Rest { next: self.plan.end, ..self }
    }

    /// Whether the object that is next is here.
    pub(super) async fn here(&self, content: &Content) -> Result<(), Absent> {
        let objects = self.plan.objects_here(content).await?;
        let id = *objects.get((self.next / OBJECT_LEN_MAX) as usize).ok_or_else(|| self.plan.too_short())?;
        content.here(id).await.map(drop).ok_or(Absent::NoHolder(id))
    }

    /// What is still to be read.
    pub(super) async fn parts(&self, server: &super::Server) -> Result<Parts, Absent> {
        let objects = self.plan.objects_here(&server.content).await?;
        Ok(server.parts_of(&self.plan, objects, self.next))
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    pub(crate) fn plan(len: u64) -> Plan {
        Plan {
            site: "www".parse().unwrap(),
            number: VersionNumber(3),
            body: FileBody::Object(ObjectId::of(b"file")),
            file_len: len,
            start: 0,
            end: len,
        }
    }

    fn left(next: u64) -> Left {
        let rest = Some(Rest { plan: plan(1000), next });
        Left { rest, close: true, unparsed: "GET /next".into(), passed: false }
    }

    #[test]
    fn a_connection_is_read_as_it_was_packed_and_no_part_of_it_is() {
        for (left, in_flight, literal) in [
            (left(700), 600, &b""[..]),
            (left(700), 704, b"head"),
            (Left::default(), 4, b"tail"),
            (Left::default(), 0, b""),
        ] {
            assert_eq!(left.literal_len(in_flight), literal.len());
            let packed = left.pack(literal).unwrap();
            assert!(packed.len() < 100 + left.unparsed.len() + literal.len(), "{}", packed.len());
            assert_eq!(Left::unpack(&packed, in_flight), Ok((left, literal.to_vec())));
            (0..packed.len()).for_each(|len| assert!(Left::unpack(&packed[..len], in_flight).is_err()));
            assert!(Left::unpack(&packed, in_flight + 1000).is_err());
        }
    }

    #[test]
    fn what_is_too_long_stays_and_what_cannot_be_is_an_error() {
        assert_eq!(Left::default().pack(&[0; LITERAL_MAX + 1]), Err(Kept::TooLarge));
        let long = Left { unparsed: vec![0; STATE_LEN_MAX + 1].into(), ..Left::default() };
        assert_eq!(long.pack(&[]), Err(Kept::TooLarge));
        let backward = left(1001).pack(&[]).unwrap();
        assert_eq!(Left::unpack(&backward, 0), Err(UnpackError::Field("range")));
        let mut newer = left(1).pack(&[]).unwrap();
        newer[0] = 2;
        assert_eq!(Left::unpack(&newer, 0), Err(UnpackError::Version(2)));
    }
}
