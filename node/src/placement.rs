//! Which nodes keep a site, computed from what this member knows of its network.

use crate::snapshot::Snapshot;
use godwit_core::certificate::Role;
use godwit_core::content::SiteVersion;
use godwit_core::key::MemberId;
use godwit_core::placement::{Candidate, holders};
use std::collections::BTreeSet;

/// The nodes that keep the site of `version`. Every node has the same weight, for now.
pub(crate) fn wanted(snapshot: &Snapshot, version: &SiteVersion) -> BTreeSet<MemberId> {
    let candidate = |(id, known): (&MemberId, &crate::snapshot::Known)| Candidate {
        id: *id,
        region: known.certificate.grant().region.clone(),
        weight: 1,
    };
    let nodes: Vec<Candidate> = snapshot.nodes().map(candidate).collect();
    holders(version, &nodes).into_iter().collect()
}

/// Whether `own` is a node that keeps the site of `version`.
pub(crate) fn keeps(snapshot: &Snapshot, own: &MemberId, version: &SiteVersion) -> bool {
    let known = snapshot.members.get(own);
    known.is_some_and(|known| known.certificate.has_role(Role::Node))
        && wanted(snapshot, version).contains(own)
}
