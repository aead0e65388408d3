//! What the zone holds beside the map.
//!
//! | part | file | comes from |
//! |---|---|---|
//! | names and records | `contents.rs` | the configuration, checked whole before it is in force |
//! | challenges | `challenge.rs` | whoever proves to a certificate authority that a name is held |
//! | options | [`Options`] | the configuration |
//!
//! A zone is immutable and cheap to clone: the parts are shared, so that putting one other part in
//! place copies nothing of the rest.

mod challenge;
pub mod config;
mod contents;
mod owner;
mod rdata;
mod service;

pub use challenge::{CHALLENGE_LABEL, CHALLENGE_LEN_MAX, CHALLENGES_AT_NAME_MAX};
pub use contents::ZoneError;
pub(crate) use contents::{Binding, CHAIN_MAX, Contents, Node};
pub(crate) use owner::{Path, has_below};
pub(crate) use service::Checked;

/// A record type by its name, or `TYPEn` (RFC 3597, 5).
pub(crate) fn record_type(text: &str) -> Result<hickory_server::proto::rr::RecordType, String> {
    rdata::kind(text)
}

use crate::answer::Options;
use crate::dnssec::Signer;
use challenge::Challenges;
use config::ZoneConfig;
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
    contents: Arc<Contents>,
    challenges: Arc<Challenges>,
}

impl Zone {
    /// The zone `name` without anything beside the map.
    pub fn new(name: &ZoneName, options: Options) -> Zone {
        // A zone name is letters, digits and hyphens in labels of at most 63: always a domain name.
        let origin = Name::from_ascii(format!("{name}.")).unwrap_or_default();
        let labels = origin.iter().count();
        let (contents, challenges) = (Arc::default(), Arc::default());
        Zone { origin, labels, options, revision: 0, signer: None, contents, challenges }
    }

    /// The same zone, signed by `signer`, or by nobody.
    pub fn with_signer(self, signer: Option<Arc<Signer>>) -> Zone {
        Zone { signer, ..self }
    }

    /// Who signs the zone's answers.
    pub fn signer(&self) -> Option<&Arc<Signer>> {
        self.signer.as_ref()
    }

    /// The zone `name` with what the configuration says. `revision` is what a configuration without
    /// a serial of its own adds to the zone's serial: the file's modification time.
    pub fn configured(
        name: &ZoneName,
        options: Options,
        config: &ZoneConfig,
        revision: u32,
    ) -> Result<Zone, ZoneError> {
        let zone = Zone::new(name, options);
        let static_ttl = crate::answer::seconds(options.ttl_static);
        let contents = Arc::new(Contents::check(config, &zone.origin, static_ttl)?);
        let revision = config.serial.unwrap_or(if config.is_default() { 0 } else { revision });
        Ok(Zone { contents, revision, ..zone })
    }

    /// The same zone with these challenges instead of what it has: whole names in the zone, and
    /// values. What is no challenge's name is left out.
    #[must_use]
    pub fn with_challenges<'a>(&self, values: impl IntoIterator<Item = (&'a str, &'a str)>) -> Zone {
        Zone { challenges: Arc::new(Challenges::new(&self.origin, values)), ..self.clone() }
    }

    /// The same zone with what does not come from the configuration, challenges and signer, of the
    /// one that it takes the place of.
    #[must_use]
    pub fn succeeding(&self, before: &Zone) -> Zone {
        Zone { challenges: before.challenges.clone(), signer: before.signer.clone(), ..self.clone() }
    }

    /// What of the contents would hide one of these sites (lower case): names with addresses or a
    /// CNAME of their own.
    pub fn clash<'a>(&self, sites: impl IntoIterator<Item = &'a str>) -> Option<ZoneError> {
        self.contents.clash(sites)
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

    pub(crate) fn contents(&self) -> &Contents {
        &self.contents
    }

    /// The values at a challenge's name.
    pub(crate) fn challenges_at(&self, key: &[u8]) -> &[String] {
        self.challenges.0.get(key).map_or(&[], Vec::as_slice)
    }

    /// Where challenges stand.
    pub(crate) fn challenge_owners(&self) -> impl Iterator<Item = &[u8]> {
        self.challenges.0.keys().map(std::borrow::Borrow::borrow)
    }

    /// Whether some challenge stands at or below a name.
    pub(crate) fn has_challenges_under(&self, key: &[u8]) -> bool {
        self.challenges.0.contains_key(key) || has_below(&self.challenges.0, key)
    }

    /// The records that are the same for every client and come from the configuration, wildcards
    /// with their asterisk: what a secondary may hold. Without SOA and NS of the apex, which the map
    /// knows, and without challenges, which are gone before a secondary has them.
    pub fn static_records(&self) -> Vec<Record> {
        self.contents.nodes.values().flat_map(|node| node.records().iter().cloned()).collect()
    }
}
