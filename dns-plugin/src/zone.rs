//! What the zone holds beside the map.

use crate::answer::Options;
use crate::dnssec::Signer;
use godwit_core::name::ZoneName;
use hickory_server::proto::rr::{Name, Record};
use std::sync::Arc;

/// The zone's checked contents beside the map: immutable, and cheap to clone.
#[derive(Clone, Debug)]
pub struct Zone {
    origin: Name,
    labels: usize,
    options: Options,
    revision: u32,
    signer: Option<Arc<Signer>>,
}

impl Zone {
    /// The zone `name` without anything beside the map.
    pub fn new(name: &ZoneName, options: Options) -> Zone {
        // A zone name is letters, digits and hyphens in labels of at most 63: always a domain name.
        let origin = Name::from_ascii(format!("{name}.")).unwrap_or_default();
        let labels = origin.iter().count();
        Zone { origin, labels, options, revision: 0, signer: None }
    }

    /// The same zone, signed by `signer`, or by nobody.
    pub fn with_signer(self, signer: Option<Arc<Signer>>) -> Zone {
        Zone { signer, ..self }
    }

    /// Who signs the zone's answers.
    pub fn signer(&self) -> Option<&Arc<Signer>> {
        self.signer.as_ref()
    }

    /// The zone's name.
    pub fn origin(&self) -> &Name {
        &self.origin
    }

    /// How many labels the zone's name has, without the root.
    pub fn labels(&self) -> usize {
        self.labels
    }

    /// How answers are made.
    pub fn options(&self) -> &Options {
        &self.options
    }

    /// What the contents add to the zone's serial.
    pub fn revision(&self) -> u32 {
        self.revision
    }

    /// The records that are the same for every client and come from the configuration: what a
    /// secondary may hold. Without SOA and NS of the apex, which the map knows.
    pub fn static_records(&self) -> Vec<Record> {
        Vec::new()
    }
}
