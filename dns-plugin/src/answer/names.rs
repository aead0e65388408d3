//! All names, for whoever encodes answers before they are asked for: which exist, and at which of
//! them the map's addresses stand and no others.

use super::find::{Built, WHY_LABEL, exact};
use crate::view::View;
use crate::zone::{Node, Path};
use godwit_map::SiteRef;
use hickory_server::proto::rr::RecordType;
use hickory_server::proto::serialize::binary::BinEncodable;
use std::borrow::Borrow;

/// Gives every name and those above it in the zone, with the site of those that are plain: see
/// [`super::Answerer::names`].
pub(crate) fn each(view: &View, see: &mut dyn FnMut(&[u8], Option<SiteRef>)) {
    let zone = view.zone.origin().to_lowercase().to_bytes().unwrap_or_default();
    let mut wire = Vec::with_capacity(256);
    let mut tell = |path: &Path| {
        wire.clear();
        for at in (0..path.labels()).rev() {
            wire.extend(path.label_wire(at));
        }
        let below = wire.len();
        wire.extend(&zone);
        if exact(view, path).is_some() {
            see(&wire, plain_site(view, path));
        }
        let mut at = 0;
        for labels in (1..path.labels()).rev() {
            at += 1 + usize::from(wire[at]);
            debug_assert!(at < below);
            see(&wire[at..], plain_site(view, &path.cut(labels)));
        }
    };
    tell(&Path::root());
    // What the map has at the top; below `node` and `region` it has more.
    let built = [&b"node"[..], b"region", WHY_LABEL.as_bytes()].into_iter();
    let sites = view.generation.sites().map(|site| site.site.as_str().as_bytes());
    let homes = view.generation.homes().map(|home| home.name.as_str().as_bytes());
    built.chain(sites).chain(homes).filter_map(|label| of_labels([label])).for_each(|path| tell(&path));
    let nodes = view.zone.contents().nodes.keys().map(Borrow::borrow);
    let owners = nodes.chain(view.zone.challenge_owners());
    owners.filter_map(|owner| of_labels(labels(owner))).for_each(|path| tell(&path));
}

/// The site at a plain name.
fn plain_site(view: &View, path: &Path) -> Option<SiteRef> {
    // A wildcard stands for other names.
    if path.key(path.labels()).windows(2).any(|pair| pair == b"\x01*") {
        return None;
    }
    let found = exact(view, path)?;
    let plain = matches!(found.built, Built::Apex | Built::Site | Built::Nothing);
    let own = |node: &Node| {
        let addresses = |kind| matches!(kind, RecordType::A | RecordType::AAAA);
        node.cname().is_some()
            || node.records().iter().any(|record| addresses(record.record_type()))
            || node.bindings().iter().any(|binding| addresses(binding.kind))
    };
    found.site.filter(|_| plain && !found.node.is_some_and(own))
}

fn of_labels<'a>(labels: impl IntoIterator<Item = &'a [u8]>) -> Option<Path> {
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
