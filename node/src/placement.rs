//! Which nodes keep a site, computed from what this member knows of its network.

use crate::snapshot::Snapshot;
use godwit_core::certificate::Role;
use godwit_core::content::{Replicas, SiteVersion};
use godwit_core::key::MemberId;
use godwit_core::name::SiteName;
use godwit_core::placement::{Candidate, site_holders};
use std::collections::BTreeSet;

/// The nodes that keep the site of `version`.
pub(crate) fn wanted(snapshot: &Snapshot, version: &SiteVersion) -> BTreeSet<MemberId> {
    keepers(snapshot, &version.site, version.policy.replicas)
}

/// The nodes that keep `site` with so many `replicas`. Every node has the same weight, for now.
pub(crate) fn keepers(snapshot: &Snapshot, site: &SiteName, replicas: Replicas) -> BTreeSet<MemberId> {
    let candidate = |(id, known): (&MemberId, &crate::snapshot::Known)| Candidate {
        id: *id,
        region: known.certificate.grant().region.clone(),
        weight: 1,
    };
    let nodes: Vec<Candidate> = snapshot.nodes().map(candidate).collect();
    site_holders(site, replicas, &nodes).into_iter().collect()
}

/// Whether `own` is a node that keeps the site of `version`.
pub(crate) fn keeps(snapshot: &Snapshot, own: &MemberId, version: &SiteVersion) -> bool {
    will_keep(snapshot, own, &version.site, version.policy.replicas)
}

/// Whether `own` is a node that keeps `site` with so many `replicas`.
pub(crate) fn will_keep(snapshot: &Snapshot, own: &MemberId, site: &SiteName, replicas: Replicas) -> bool {
    let known = snapshot.members.get(own);
    known.is_some_and(|known| known.certificate.has_role(Role::Node))
        && keepers(snapshot, site, replicas).contains(own)
}
