//! What the fast path knows of a view before the first query.
//!
//! For each table of the map and each of its choices, the address records as they stand in a reply:
//! their owner is a pointer to the question, so the same octets serve every name of the table. And
//! the names of all sites, with their site. A view is compiled in one go, beside the queries, and
//! swapped in whole.

use crate::capture::Engine;
use crate::fast::names::{Folded, Known, Names};
use crate::fast::respond::Negative;
use crate::metrics::Transport;
use godwit_dns_plugin::screen::{HEADER_LEN, Screened, screen};
use godwit_dns_plugin::{Answerer, View};
use godwit_map::{Choice, ChoiceKey, SiteRef};
use hickory_server::proto::op::ResponseCode;
use hickory_server::proto::serialize::binary::BinEncodable;
use std::net::Ipv4Addr;
use std::sync::Arc;

/// RFC 1035, 4.1.4: a pointer to the name after the header.
const QUESTION_POINTER: [u8; 2] = [0xc0, 12];
/// Of an A record with a pointer for its owner.
pub(crate) const A_LEN: usize = 2 + 10 + 4;
/// Of an AAAA record.
pub(crate) const AAAA_LEN: usize = 2 + 10 + 16;

/// A view and what was made of it.
pub(crate) struct Compiled {
    pub(crate) view: Arc<View>,
    /// The zone's name in wire form, small letters.
    pub(crate) zone: Vec<u8>,
    pub(crate) names: Names,
    /// Whether a wildcard stands right below the zone's name.
    pub(crate) has_wildcard: bool,
    /// How names that do not exist are answered, where that is the same for all and unsigned.
    pub(crate) negative: Option<Negative>,
    /// By table, then by choice.
    tables: Vec<Vec<Blocks>>,
    octets: Vec<u8>,
}

/// Address records of one choice.
#[derive(Clone, Copy, Debug, Default)]
struct Blocks {
    a: Block,
    aaaa: Block,
}

#[derive(Clone, Copy, Debug, Default)]
struct Block {
    start: u32,
    len: u32,
}

impl Compiled {
    /// Compiles a view; `engine` makes samples.
    pub(crate) fn new(engine: &Engine, view: Arc<View>) -> Compiled {
        let zone = view.zone.origin().to_lowercase().to_bytes().unwrap_or_default();
        let (mut tables, mut octets) = (Vec::new(), Vec::new());
        let names = Names::new(|see| Answerer::new(&view).names(see));
        for site in names.sites() {
            if tables.len() <= site.table() {
                tables.resize_with(site.table() + 1, Vec::new);
            }
            if tables[site.table()].is_empty() {
                let encode = |key| encode(&view, *site, key, &mut octets);
                tables[site.table()] = view.generation.choices(*site).map(encode).collect();
            }
        }
        let has_wildcard = names.get(&Folded::new(&[b"\x01*", &zone[..]].concat())) != Known::Nothing;
        let negative = negative(engine, &view, &zone);
        Compiled { view, zone, names, has_wildcard, negative, tables, octets }
    }

    /// The records that those with this choice are told of a site, one after another, all equally
    /// long; empty when there are none, or the type is not one of addresses.
    pub(crate) fn records(&self, site: SiteRef, key: ChoiceKey, kind: u16) -> &[u8] {
        let blocks = self.tables.get(site.table()).and_then(|table| table.get(key.index()));
        let block = match kind {
            1 => blocks.map(|blocks| blocks.a),
            28 => blocks.map(|blocks| blocks.aaaa),
            _ => None,
        };
        let Some(Block { start, len }) = block else { return &[] };
        &self.octets[start as usize..][..len as usize]
    }
}

/// Has two names that hardly exist answered, and compares.
fn negative(engine: &Engine, view: &View, zone: &[u8]) -> Option<Negative> {
    let sample = |label: &[u8]| {
        let question = [&[label.len() as u8][..], label, zone, &[0, 1, 0, 1]].concat();
        let packet = [&[0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0][..], &question].concat();
        let source = (Ipv4Addr::LOCALHOST, 53).into();
        let Screened::Pass(query) = screen(&packet) else { return None };
        let replied = engine.respond(0, view, &packet, &query, source, Transport::Udp)?;
        let counts = replied.bytes.get(4..HEADER_LEN)?;
        let one_soa = replied.code == ResponseCode::NXDomain && counts == [0, 1, 0, 0, 0, 1, 0, 0];
        let octets = replied.bytes.get(packet.len()..)?.to_vec();
        one_soa.then_some((octets, HEADER_LEN + 1 + label.len(), replied.shape?))
    };
    let (a, b) = (sample(b"no-such-name")?, sample(b"no-such-name-either")?);
    Negative::common((&a.0, a.1), (&b.0, b.1), a.2)
}

fn encode(view: &View, site: SiteRef, key: ChoiceKey, octets: &mut Vec<u8>) -> Blocks {
    let told = view.generation.told(site, Choice { key, scope: 0 });
    // RFC 2181, 8: a TTL has 31 bits.
    let ttl = u32::try_from(view.zone.options().ttl.as_secs()).unwrap_or(u32::MAX).min(i32::MAX as u32);
    let mut block = |kind: u8, addresses: &mut dyn Iterator<Item = Vec<u8>>| {
        let start = octets.len();
        for address in addresses {
            octets.extend(QUESTION_POINTER);
            octets.extend([0, kind, 0, 1]);
            octets.extend(ttl.to_be_bytes());
            octets.extend([0, address.len() as u8]);
            octets.extend(address);
        }
        Block { start: start as u32, len: (octets.len() - start) as u32 }
    };
    Blocks {
        a: block(1, &mut told.v4().map(|(_, address)| address.octets().to_vec())),
        aaaa: block(28, &mut told.v6().map(|(_, address)| address.octets().to_vec())),
    }
}
