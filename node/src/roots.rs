//! Where marking begins: the versions that somebody needs, or may need.

use crate::held::Held;
use crate::http::Sites;
use crate::placement;
use crate::snapshot::Snapshot;
use godwit_core::content::{ObjectId, SiteVersion};
use godwit_core::key::MemberId;
use godwit_core::name::SiteName;

/// Where marking begins.
pub(crate) struct Roots {
    /// Versions that are held, or would be lost with what is here: all of each must be found.
    pub(crate) whole: Vec<SiteVersion>,
    /// Versions that are coming in, or that open connections are served.
    pub(crate) partly: Vec<ObjectId>,
    /// Versions of which something was pulled for clients.
    pub(crate) cache: Vec<ObjectId>,
}

impl Roots {
    /// As things stand now.
    pub(crate) fn now(own: &MemberId, snapshot: &Snapshot, held: &Held, sites: &Sites) -> Roots {
        let mut whole = held.all();
        let keeps = |site: &SiteName, version: Option<&SiteVersion>| {
            whole.iter().any(|held| held.site == *site)
                || version.is_some_and(|version| placement::keeps(snapshot, own, version))
        };
        let (mut partly, mut cache) = (Vec::new(), Vec::new());
        for (site, version) in &snapshot.sites {
            let list = if keeps(site, Some(version)) { &mut partly } else { &mut cache };
            list.push(version.root);
        }
        for served in sites.in_use() {
            let kept = keeps(&served.site, snapshot.sites.get(&served.site));
            let list = if kept { &mut partly } else { &mut cache };
            list.push(served.root);
        }
        // A version that was given up for damage is here for the most part, and perhaps only here.
        whole.extend(snapshot.sites.values().filter(|version| is_sole(own, snapshot, version)).cloned());
        Roots { whole, partly, cache }
    }
}

/// Whether the version should be held here and nobody else in reach holds it.
fn is_sole(own: &MemberId, snapshot: &Snapshot, version: &SiteVersion) -> bool {
    placement::keeps(snapshot, own, version) && snapshot.holders(&version.site, version.number).is_empty()
}
