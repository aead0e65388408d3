//! Which version of each site is served here at this moment, and which one a connection is served.

use super::asked::Tally;
use godwit_core::content::{ObjectId, SiteVersion, VersionNumber};
use godwit_core::name::SiteName;
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::{Duration, Instant};

/// A connection that began with a version keeps it for so long after another took its place: a
/// page and what it refers to are fetched within seconds, slow phones included.
pub(super) const PIN_MAX: Duration = Duration::from_secs(60);

/// The sites that clients can be served, replaced whole when anything changes.
#[derive(Default)]
pub(crate) struct Sites {
    table: arc_swap::ArcSwap<BTreeMap<SiteName, Arc<Served>>>,
    /// Held while the table is changed. In it: every version that somebody may still be served.
    changing: Mutex<Vec<Weak<Served>>>,
}

/// A version that clients are served.
#[derive(Debug)]
pub(crate) struct Served {
    /// The site.
    pub(crate) site: SiteName,
    /// The version.
    pub(crate) number: VersionNumber,
    /// The root of its tree.
    pub(crate) root: ObjectId,
    /// Since when it is the one that new connections are served.
    pub(crate) since: Instant,
}

impl Sites {
    /// What new connections are served for a site.
    pub(crate) fn get(&self, site: &SiteName) -> Option<Arc<Served>> {
        self.table.load().get(site).cloned()
    }

    /// Serves these versions from now on, one per site. They are asked for when nobody else
    /// changes what is served, so that what is asked last is what counts.
    pub(crate) fn replace(&self, versions: impl FnOnce() -> Vec<SiteVersion>) {
        let mut all = self.changing.lock().unwrap_or_else(PoisonError::into_inner);
        let old = self.table.load_full();
        let table = versions().iter().map(|version| serve(&old, version, &mut all)).collect();
        self.table.store(Arc::new(table));
        all.retain(|served| served.strong_count() > 0);
    }

    /// Serves this version from now on, unless a newer one of the site is.
    pub(crate) fn advance(&self, version: &SiteVersion) {
        let mut all = self.changing.lock().unwrap_or_else(PoisonError::into_inner);
        let old = self.table.load_full();
        if old.get(&version.site).is_some_and(|old| old.number > version.number) {
            return;
        }
        let mut table = (*old).clone();
        table.extend([serve(&old, version, &mut all)]);
        self.table.store(Arc::new(table));
    }

    /// The versions that new connections are served, and those that open ones still are.
    pub(crate) fn in_use(&self) -> Vec<Arc<Served>> {
        let all = self.changing.lock().unwrap_or_else(PoisonError::into_inner);
        all.iter().filter_map(Weak::upgrade).collect()
    }
}

fn serve(
    old: &BTreeMap<SiteName, Arc<Served>>,
    version: &SiteVersion,
    all: &mut Vec<Weak<Served>>,
) -> (SiteName, Arc<Served>) {
    if let Some(same) =
        old.get(&version.site).filter(|old| (old.number, old.root) == (version.number, version.root))
    {
        return (version.site.clone(), same.clone());
    }
    let served = Arc::new(Served {
        site: version.site.clone(),
        number: version.number,
        root: version.root,
        since: Instant::now(),
    });
    all.push(Arc::downgrade(&served));
    (version.site.clone(), served)
}

/// The versions that one connection has been served, and how much of each site it asked for.
#[derive(Default)]
pub(super) struct Pins {
    tally: Tally,
    served: BTreeMap<SiteName, Arc<Served>>,
}

/// At most this many sites are pinned per connection; HTTP/2 clients may ask for many.
const PINS_MAX: usize = 8;

impl Pins {
    /// Of a new connection.
    pub(super) fn new(tally: Tally) -> Pins {
        Pins { tally, served: BTreeMap::new() }
    }

    /// What this connection is served now, when new ones are served `current`. A request that
    /// begins a new page (`afresh`) takes the current version; others stay with the page's.
    pub(super) fn choose(&mut self, current: Arc<Served>, afresh: bool) -> Arc<Served> {
        self.tally.count(&current.site);
        if let Some(pinned) = self.served.get(&current.site) {
            let stays = pinned.number == current.number && pinned.root == current.root
                || !afresh && current.since.elapsed() < PIN_MAX;
            if stays {
                return pinned.clone();
            }
        }
        if self.served.len() >= PINS_MAX && !self.served.contains_key(&current.site) {
            self.served.clear();
        }
        self.served.insert(current.site.clone(), current.clone());
        current
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn served(number: u64, age: Duration) -> Arc<Served> {
        Arc::new(Served {
            site: "www".parse().unwrap(),
            number: VersionNumber(number),
            root: ObjectId::of(&number.to_le_bytes()),
            since: Instant::now().checked_sub(age).unwrap(),
        })
    }

    #[test]
    fn a_connection_keeps_its_version_until_a_new_page_or_a_minute() {
        let fresh = Duration::ZERO;
        let mut pins = Pins::default();
        assert_eq!(pins.choose(served(1, fresh), false).number.0, 1);
        assert_eq!(pins.choose(served(2, fresh), false).number.0, 1);
        assert_eq!(pins.choose(served(2, PIN_MAX), false).number.0, 2);
        assert_eq!(pins.choose(served(3, fresh), true).number.0, 3);
        assert_eq!(pins.choose(served(4, fresh), false).number.0, 3);
    }
}
