//! What stands at a name: the map's names and the configuration's, as one tree.
//!
//! A name exists when something stands at it or below it. A name that does not is answered by the
//! wildcard below its closest encloser, the longest of its ancestors that exists, and by no other
//! (RFC 4592, 3.3.1): where `www` is a site, `*` answers for `x` and not for `x.www`.

use crate::view::View;
use crate::zone::{Node, Path};
use godwit_map::{HomeInput, MemberInput, SiteRef};
use hickory_server::proto::rr::Name;

/// The label below a site's name that asks for reasons.
pub(crate) const WHY_LABEL: &str = "why";

/// What the map has at a name.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Built<'a> {
    /// The zone's own name.
    Apex,
    /// A site's name; of an apex and of an alias see [`Found::site`].
    Site,
    /// The name of a home address.
    Home(&'a HomeInput),
    /// A member's name.
    Member(&'a MemberInput),
    /// A region's name.
    Region,
    /// The reasons for the choice of this site.
    Why(SiteRef),
    /// Nothing: a name that exists only because of what is below it, or only by configuration.
    Nothing,
}

/// A name that exists, or that a wildcard answers for.
#[derive(Clone, Copy)]
pub(crate) struct Found<'a> {
    pub(crate) built: Built<'a>,
    /// What the configuration has here.
    pub(crate) node: Option<&'a Node>,
    /// Values of a challenge.
    pub(crate) challenges: &'a [String],
    /// The site that answers here, where one does and the map has it.
    pub(crate) site: Option<SiteRef>,
}

impl Found<'_> {
    /// Whether nothing stands here, only below.
    pub(crate) fn is_empty(&self) -> bool {
        matches!(self.built, Built::Nothing) && self.node.is_none() && self.challenges.is_empty()
    }
}

/// What stands at `name`, which is in the zone; `None` when there is no such name.
pub(crate) fn find<'v>(view: &'v View, name: &Name) -> Option<Found<'v>> {
    find_at(view, &Path::of(name, view.zone.labels())?)
}

/// What stands at a path below the zone.
pub(crate) fn find_at<'v>(view: &'v View, path: &Path) -> Option<Found<'v>> {
    if let Some(found) = exact(view, path) {
        return Some(found);
    }
    let encloser = (0..path.labels()).rev().find(|labels| exact(view, &path.cut(*labels)).is_some())?;
    let mut wildcard = path.cut(encloser);
    wildcard.push(b"*")?;
    let node = view.zone.contents().nodes.get(wildcard.key(wildcard.labels()))?;
    let site = node.site.as_deref().and_then(|site| view.generation.site_ref(site));
    Some(Found { built: Built::Nothing, node: Some(node), challenges: &[], site })
}

/// Whether this very name exists, and not by a wildcard: of such names there are only so many.
pub(crate) fn exists(view: &View, name: &Name) -> bool {
    Path::of(name, view.zone.labels()).is_some_and(|path| exact(view, &path).is_some())
}

/// What stands at this very name.
pub(crate) fn exact<'v>(view: &'v View, path: &Path) -> Option<Found<'v>> {
    let (zone, generation) = (&view.zone, &view.generation);
    let key = path.key(path.labels());
    let node = zone.contents().nodes.get(key);
    let challenges = zone.challenges_at(key);
    let label = |at| path.label(at).unwrap_or_default();
    let built = match (path.labels(), label(0)) {
        (0, _) => Some(Built::Apex),
        (1, "node" | "region") => Some(Built::Nothing),
        (2, "node") => generation.member_named(label(1)).map(Built::Member),
        (2, "region") => generation.region(label(1)).map(|_| Built::Region),
        (_, "node" | "region") => return None,
        // Should a site have the name too, the home address has it: the authority's word counts for more.
        (1, name) => match generation.home(name) {
            Some(home) => Some(Built::Home(home)),
            None => generation.site_ref(name).map(|_| Built::Site),
        },
        _ => None,
    };
    let site = match (node.and_then(|node| node.site.as_deref()), built) {
        (Some(site), _) => Some(site),
        (None, Some(Built::Apex)) => zone.contents().apex.as_deref(),
        (None, Some(Built::Site)) => path.label(0),
        _ => None,
    };
    let site = site.and_then(|site| generation.site_ref(site));
    let found = |built| Some(Found { built, node, challenges, site });
    if let Some(built) = built {
        return found(built);
    }
    if let Some(site) = why(view, path) {
        return found(Built::Why(site));
    }
    let below = || zone.contents().has_at_or_below(key) || zone.has_challenges_under(key);
    if node.is_some() || below() { found(Built::Nothing) } else { None }
}

/// The site whose reasons a name asks for: its leftmost label is `why`, and a site answers at its
/// parent. Not below wildcards, whose names are without number.
fn why(view: &View, path: &Path) -> Option<SiteRef> {
    let labels = path.labels().checked_sub(1)?;
    if !view.zone.contents().why || path.label(labels) != Some(WHY_LABEL) {
        return None;
    }
    exact(view, &path.cut(labels))?.site
}
