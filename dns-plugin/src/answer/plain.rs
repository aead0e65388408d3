//! The names at which the map's addresses stand and no others: what may be encoded before it is
//! asked for.

use super::find::{Built, exact};
use crate::view::View;
use crate::zone::{Node, Path};
use godwit_map::SiteRef;
use hickory_server::proto::rr::RecordType;
use hickory_server::proto::serialize::binary::BinEncodable;
use std::borrow::Borrow;

/// Every such name with its site: in wire form, small letters.
pub(crate) fn names(view: &View) -> Vec<(Vec<u8>, SiteRef)> {
    let zone = view.zone.origin().to_lowercase().to_bytes().unwrap_or_default();
    let sites = view.generation.sites().filter_map(|site| path([site.site.as_str().as_bytes()]));
    let aliases = view.zone.contents().nodes.iter().filter(|(_, node)| node.site.is_some());
    let aliases = aliases.filter_map(|(owner, _)| path(labels(owner.borrow())));
    let all = sites.chain(aliases).chain([Path::root()]);
    all.filter_map(|path| Some((wire(&path, &zone), site_at(view, &path)?))).collect()
}

fn site_at(view: &View, path: &Path) -> Option<SiteRef> {
    let labels = path.key(path.labels());
    // A wildcard stands for other names.
    if labels.windows(2).any(|pair| pair == b"\x01*") {
        return None;
    }
    let found = exact(view, path)?;
    let plain = matches!(found.built, Built::Apex | Built::Site | Built::Nothing);
    let own = |node: &Node| {
        let addresses = |kind| matches!(kind, RecordType::A | RecordType::AAAA);
        node.cname().is_some()
            || node.records.iter().any(|record| addresses(record.record_type()))
            || node.bindings.iter().any(|binding| addresses(binding.kind))
    };
    found.site.filter(|_| plain && !found.node.is_some_and(own))
}

fn path<'a>(labels: impl IntoIterator<Item = &'a [u8]>) -> Option<Path> {
    let mut path = Path::root();
    labels.into_iter().try_for_each(|label| path.push(label))?;
    Some(path)
}

/// The labels of an owner, from the zone downwards.
fn labels(mut owner: &[u8]) -> impl Iterator<Item = &[u8]> {
    std::iter::from_fn(move || {
        let (len, rest) = owner.split_first()?;
        let (label, rest) = rest.split_at_checked(usize::from(*len))?;
        owner = rest;
        Some(label)
    })
}

/// A path as a name: its labels upwards, then the zone.
fn wire(path: &Path, zone: &[u8]) -> Vec<u8> {
    let labels: Vec<&[u8]> = labels(path.key(path.labels())).collect();
    let mut name = Vec::with_capacity(path.key(path.labels()).len() + zone.len());
    for label in labels.into_iter().rev() {
        name.push(label.len() as u8);
        name.extend(label);
    }
    name.extend(zone);
    name
}
