//! Question and client in, records out.

mod find;
mod names;
mod why;

pub use why::client_prefix;

use crate::view::View;
use crate::zone::{Binding, CHAIN_MAX, Checked, Node, Path};
pub(crate) use find::exists;
use find::{Built, Found, find, find_at};
use godwit_core::name::SiteName;
use godwit_core::time::Time;
use godwit_map::{Answer, MemberInput, SiteRef};
use hickory_server::proto::op::ResponseCode;
use hickory_server::proto::rr::rdata::{A, AAAA, HINFO, NS, SOA, TXT};
use hickory_server::proto::rr::{DNSClass, Name, RData, Record, RecordType};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::Duration;

/// More name servers than this do not help anybody and do not fit a small reply.
const NAME_SERVERS_MAX: usize = 13;

/// How answers are made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Options {
    /// How long an answer that the map chose may be kept: how long a dead replica is believed in.
    /// 5 s by default. Negative answers use it too, so that a site just published is soon seen.
    pub ttl: Duration,
    /// How long what rarely changes may be kept: name servers, members' names. 60 s by default.
    pub ttl_static: Duration,
}

impl Default for Options {
    fn default() -> Options {
        Options { ttl: Duration::from_secs(5), ttl_static: Duration::from_secs(60) }
    }
}

/// What a reply depends on beside the question and the view it is made from: whether it may be kept
/// and repeated to others.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cache {
    /// On the client only through the map's choice for it at the [`Answerer::subject`] of the name:
    /// clients with the same choice get the same records. The scope is the client's own.
    Choice,
    /// On nothing: the same for every client, with scope 0.
    Shared,
    /// On more than that, or it is not worth keeping (names that do not exist are without number).
    Never,
}

/// Whose choice in the map decides the answer at a name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Subject {
    /// The one for this site of the view's generation.
    Choice(SiteRef),
    /// Nobody's: the answer is the same for everybody.
    Nobody,
}

/// The records of a reply.
#[derive(Clone, Debug, PartialEq)]
pub struct Reply {
    /// Response code.
    pub code: ResponseCode,
    /// Whether it is from the zone's authority: everything but a refusal.
    pub authoritative: bool,
    /// Answer section. What follows the first may be left out.
    pub answers: Vec<Record>,
    /// Authority section.
    pub authority: Vec<Record>,
    /// Additional section, without OPT. May be left out.
    pub additional: Vec<Record>,
    /// The widest prefix length around the client for which the reply holds; 0 when it is the same
    /// for everybody.
    pub scope: u8,
    /// Whether it must not be worth forging a query for: over UDP, unless the source is proved by a
    /// cookie, it goes truncated when it is longer than other replies are let be.
    pub modest: bool,
    /// Whether it may be repeated to others.
    pub cache: Cache,
    /// The site whose choice in the map decided; `None` where none did.
    pub decided: Option<SiteRef>,
    /// Until when it may be repeated: signatures are replaced and keys change. [`Time::NEVER`] when
    /// nothing in it ages.
    pub until: Time,
}

impl Reply {
    /// Without records and authority.
    pub(crate) fn empty() -> Reply {
        Reply::refused(ResponseCode::NoError)
    }

    fn refused(code: ResponseCode) -> Reply {
        let (answers, authority, additional) = (Vec::new(), Vec::new(), Vec::new());
        Reply {
            code,
            authoritative: false,
            answers,
            authority,
            additional,
            scope: 0,
            modest: false,
            cache: Cache::Never,
            decided: None,
            until: Time::NEVER,
        }
    }
}

/// Answers questions in one zone. A pure function of the view it is given.
#[derive(Clone, Copy)]
pub struct Answerer<'a> {
    view: &'a View,
}

impl<'v> Answerer<'v> {
    /// From this view.
    pub fn new(view: &'v View) -> Answerer<'v> {
        Answerer { view }
    }

    /// Answers a question for `client`: the address whose replica is wanted. An IPv4 client is
    /// given as IPv4, never mapped into IPv6.
    pub fn answer(&self, question: &Question<'_>) -> Reply {
        let Question { name, kind, class, client } = *question;
        let zone = &*self.view.zone;
        if !matches!(class, DNSClass::IN | DNSClass::ANY) || !zone.origin().zone_of(name) {
            return Reply::refused(ResponseCode::Refused);
        }
        match kind {
            // RFC 5936, 2.2.1: transfers are not allowed to anybody.
            RecordType::AXFR | RecordType::IXFR => return Reply::refused(ResponseCode::Refused),
            // RFC 6891, 6.1.1: OPT is no type to ask for.
            RecordType::OPT => return Reply::refused(ResponseCode::FormErr),
            // RFC 6895, 3.1: the other types from 128 to 254 are about messages, not about names.
            other if (128..255).contains(&u16::from(other)) => return Reply::refused(ResponseCode::NotImp),
            _ => {}
        }
        self.draft(name, kind).at(find(self.view, name), client, CHAIN_MAX)
    }

    fn draft<'a>(&self, name: &'a Name, kind: RecordType) -> Draft<'a>
    where
        'v: 'a,
    {
        Draft { view: self.view, name, asked: name, kind }
    }

    /// Whose choice decides what is answered to a question: what a cache of replies must know before
    /// it asks. `None` when the name does not exist.
    pub fn subject(&self, name: &Name, kind: RecordType) -> Option<Subject> {
        let (origin, labels) = (self.view.zone.origin(), self.view.zone.labels());
        let path = origin.zone_of(name).then(|| Path::of(name, labels))??;
        self.subject_of(&path, kind)
    }

    /// The same for a name as it stands in a packet, without the labels of the zone, which it is in.
    /// Nothing is allocated.
    pub fn subject_below(&self, labels: &[u8], kind: RecordType) -> Option<Subject> {
        self.subject_of(&Path::of_wire(labels)?, kind)
    }

    fn subject_of(&self, path: &Path, kind: RecordType) -> Option<Subject> {
        let own = find_at(self.view, path)?;
        // A CNAME exists, whatever its target does.
        let Some(found) = self.target(own, kind) else { return Some(Subject::Nobody) };
        let binding = found.node.and_then(|node| node.bindings().iter().find(|binding| binding.kind == kind));
        let site = match binding {
            Some(binding) => self.view.generation.site_ref(&binding.site),
            None => found.site,
        };
        Some(site.map_or(Subject::Nobody, Subject::Choice))
    }

    /// The region whose name this is.
    pub(crate) fn region(&self, name: &Name) -> Option<String> {
        let found = find(self.view, name)?;
        let label = || name.iter().next().map(|label| String::from_utf8_lossy(label).to_ascii_lowercase());
        matches!(found.built, Built::Region).then(label)?
    }

    /// The home address whose name this is.
    pub(crate) fn home(&self, name: &Name) -> Option<SiteName> {
        match find(self.view, name)?.built {
            Built::Home(home) => Some(home.name.clone()),
            _ => None,
        }
    }

    /// Gives every name that exists, in wire form with small letters, and some more than once: with a
    /// site where its A and AAAA records are what the map tells of that site, with the TTL of
    /// [`Options::ttl`], and nothing beside them. A wildcard is given with its asterisk and without a
    /// site. Of the names of reasons, of members and of regions only those above them are given.
    pub fn names(&self, see: &mut dyn FnMut(&[u8], Option<SiteRef>)) {
        names::each(self.view, see);
    }

    /// What stands at the end of the CNAMEs that a question of this type follows.
    fn target(&self, mut found: Found<'v>, kind: RecordType) -> Option<Found<'v>> {
        let origin = self.view.zone.origin();
        for _ in 0..CHAIN_MAX {
            match found.node.and_then(Node::cname) {
                Some((_, target)) if follows(kind) && origin.zone_of(target) => {
                    found = find(self.view, target)?
                }
                _ => break,
            }
        }
        Some(found)
    }

    /// The types that `name` has for some client, without those of DNSSEC: what a denial of the
    /// others lists (RFC 4034, 4.1.2), less the type that is being denied. `None` when the name does
    /// not exist; none of them when it only has names below it.
    pub fn types_at(&self, name: &Name) -> Option<Vec<RecordType>> {
        use RecordType::{A, AAAA, HTTPS, NS, SOA, TXT};
        self.view.zone.origin().zone_of(name).then_some(())?;
        let found = find(self.view, name)?;
        if found.node.and_then(Node::cname).is_some() {
            return Some(vec![RecordType::CNAME]);
        }
        let mut types = Vec::new();
        let mut addresses = |members: &mut dyn Iterator<Item = &MemberInput>| {
            members.for_each(|member| {
                types.extend(member.public_v4.map(|_| A));
                types.extend(member.public_v6.map(|_| AAAA));
            });
        };
        match found.built {
            Built::Member(member) => addresses(&mut std::iter::once(member)),
            Built::Home(home) => {
                types.extend(home.v4.map(|_| A));
                types.extend(home.v6.map(|_| AAAA));
            }
            Built::Region => addresses(&mut self.view.generation.members().iter()),
            _ if found.site.is_some() => addresses(&mut self.view.generation.members().iter()),
            _ => {}
        }
        match found.built {
            Built::Apex => types.extend([NS, SOA]),
            Built::Why(_) => types.push(TXT),
            _ => {}
        }
        if let Some(node) = found.node {
            types.extend(node.records().iter().map(Record::record_type));
            types.extend(node.bindings().iter().map(|binding| binding.kind));
        }
        if self.service(&found).is_some() {
            types.push(HTTPS);
        }
        if !found.challenges.is_empty() {
            types.push(TXT);
        }
        types.sort_by_key(|kind| u16::from(*kind));
        types.dedup();
        Some(types)
    }

    fn service(&self, found: &Found<'_>) -> Option<&'v Checked> {
        let site = self.view.generation.site_at(found.site?)?;
        self.view.zone.contents().https(site.site.as_str())
    }
}

/// RFC 1034, 3.6.2: every question follows a CNAME but the one for it.
fn follows(kind: RecordType) -> bool {
    !matches!(kind, RecordType::CNAME | RecordType::ANY)
}

/// A question.
#[derive(Clone, Copy, Debug)]
pub struct Question<'a> {
    /// QNAME in the case it was asked in.
    pub name: &'a Name,
    /// QTYPE.
    pub kind: RecordType,
    /// QCLASS.
    pub class: DNSClass,
    /// Whom the answer is for.
    pub client: IpAddr,
}

struct Draft<'a> {
    view: &'a View,
    name: &'a Name,
    /// The question's name.
    asked: &'a Name,
    kind: RecordType,
}

impl Draft<'_> {
    /// The reply for what was found at the name; `chain` CNAMEs may be followed.
    fn at(self, found: Option<Found<'_>>, client: IpAddr, chain: usize) -> Reply {
        let Some(found) = found else {
            return Reply { cache: Cache::Never, ..self.negative(ResponseCode::NXDomain) };
        };
        if self.kind == RecordType::ANY && !found.is_empty() {
            // RFC 8482, 4.2: a minimal answer instead of everything.
            let hinfo = HINFO::new("RFC8482".to_owned(), String::new());
            return self.reply(vec![self.record(self.options().ttl_static, RData::HINFO(hinfo))]);
        }
        if let Some((cname, target)) = found.node.and_then(Node::cname)
            && follows(self.kind)
        {
            return self.alias(cname, target, client, chain);
        }
        let mut answers = self.configured(&found);
        if !answers.is_empty() {
            return self.reply(answers);
        }
        match (found.built, self.kind) {
            (Built::Apex, RecordType::SOA) => return self.reply(vec![self.soa(self.options().ttl_static)]),
            (Built::Apex, RecordType::NS) => return self.name_servers(),
            (Built::Why(site), RecordType::TXT) => return self.why(site, client),
            (Built::Member(member), _) => {
                let ttl = self.options().ttl_static;
                answers.extend(self.address(ttl, member.public_v4, member.public_v6));
            }
            // The same for everybody: where packets to it go home agents decide.
            (Built::Home(home), _) => {
                answers.extend(self.address(self.options().ttl_static, home.v4, home.v6))
            }
            (Built::Region, RecordType::A | RecordType::AAAA) => return self.region(client),
            _ => {}
        }
        if !answers.is_empty() {
            return self.reply(answers);
        }
        if let Some(binding) = found.node.and_then(|node| self.binding(node)) {
            let site = self.view.generation.site_ref(&binding.site);
            return self.service(&binding.service, site, binding.target.clone(), client);
        }
        match (found.site, self.kind) {
            (Some(site), RecordType::A | RecordType::AAAA) => self.chosen(site, client),
            (Some(site), RecordType::HTTPS) => match Answerer::new(self.view).service(&found) {
                Some(service) => self.service(service, Some(site), Name::root(), client),
                None => self.negative(ResponseCode::NoError),
            },
            _ => self.negative(ResponseCode::NoError),
        }
    }

    /// What the configuration and challenges have here of the type.
    fn configured(&self, found: &Found<'_>) -> Vec<Record> {
        let records = found.node.map_or(&[][..], |node| node.records());
        let records = records.iter().filter(|record| record.record_type() == self.kind);
        let mut answers: Vec<Record> = records
            .map(|record| Record::from_rdata(self.name.clone(), record.ttl, record.data.clone()))
            .collect();
        if self.kind == RecordType::TXT {
            // RFC 2181, 5.2: the TTLs of a set are one.
            let ttl = answers.first().map_or(seconds(self.options().ttl), |record| record.ttl);
            answers.extend(found.challenges.iter().map(|value| {
                Record::from_rdata(self.name.clone(), ttl, RData::TXT(TXT::new(vec![value.clone()])))
            }));
        }
        answers
    }

    fn binding<'n>(&self, node: &'n Node) -> Option<&'n Binding> {
        node.bindings().iter().find(|binding| binding.kind == self.kind)
    }

    /// RFC 1034, 4.3.2, 3a: the CNAME, and what its target is answered with where that is here.
    fn alias(self, cname: &Record, target: &Name, client: IpAddr, chain: usize) -> Reply {
        let own = Record::from_rdata(self.name.clone(), cname.ttl, cname.data.clone());
        if chain == 0 || !self.view.zone.origin().zone_of(target) {
            return self.reply(vec![own]);
        }
        let next = Draft { view: self.view, name: target, asked: self.asked, kind: self.kind };
        let mut reply = next.at(find(self.view, target), client, chain - 1);
        if reply.code != ResponseCode::ServFail {
            reply.answers.insert(0, own);
        }
        reply
    }

    fn name_servers(self) -> Reply {
        let ttl = self.options().ttl_static;
        let servers = || self.view.generation.name_servers().take(NAME_SERVERS_MAX);
        let names: Vec<Name> = servers().map(|server| self.node_name(server)).collect();
        let answers: Vec<Record> =
            names.iter().map(|name| self.record(ttl, RData::NS(NS(name.clone())))).collect();
        if answers.is_empty() {
            return self.negative(ResponseCode::NoError);
        }
        let glue_v4 = servers().zip(&names).filter_map(|(server, name)| {
            Some(Record::from_rdata(name.clone(), seconds(ttl), RData::A(A(server.public_v4?))))
        });
        let glue_v6 = servers().zip(&names).filter_map(|(server, name)| {
            Some(Record::from_rdata(name.clone(), seconds(ttl), RData::AAAA(AAAA(server.public_v6?))))
        });
        let additional = glue_v4.chain(glue_v6).collect();
        Reply { additional, ..self.reply(answers) }
    }

    /// The addresses that the map chooses for the client.
    fn chosen(self, site: SiteRef, client: IpAddr) -> Reply {
        let generation = &self.view.generation;
        let answer = generation.told(site, generation.choose(site, client));
        Reply { cache: Cache::Choice, decided: Some(site), ..self.addresses(answer) }
    }

    /// Those of the region's nodes that the map chooses for the client.
    fn region(self, client: IpAddr) -> Reply {
        let region = self.name.iter().next().map(String::from_utf8_lossy).unwrap_or_default();
        match self.view.generation.region_answer(client, &region.to_ascii_lowercase()) {
            Some(answer) => {
                let cache = if answer.scope == 0 { Cache::Shared } else { Cache::Never };
                Reply { cache, ..self.addresses(answer) }
            }
            None => self.negative(ResponseCode::NXDomain),
        }
    }

    fn addresses(self, answer: Answer<'_>) -> Reply {
        if answer.is_empty() {
            // No node at all: another name server may know more, and a resolver asks it.
            return Reply::refused(ResponseCode::ServFail);
        }
        let ttl = self.options().ttl;
        let answers: Vec<Record> = match self.kind {
            RecordType::A => answer.v4().map(|(_, address)| self.record(ttl, RData::A(A(address)))).collect(),
            _ => answer.v6().map(|(_, address)| self.record(ttl, RData::AAAA(AAAA(address)))).collect(),
        };
        // Without an address, too: another client may be sent to a replica that has one.
        let reply = match answers.is_empty() {
            true => self.negative(ResponseCode::NoError),
            false => self.reply(answers),
        };
        Reply { scope: answer.scope, ..reply }
    }

    /// A service binding with the client's addresses as hints (RFC 9460, 7.3), and beside them as
    /// records of the target (4.1), which a client may use at once.
    fn service(self, service: &Checked, site: Option<SiteRef>, target: Name, client: IpAddr) -> Reply {
        let ttl = self.options().ttl;
        let site = site.filter(|_| service.hints);
        let Some(site) = site else {
            let data = service.data(self.kind, target, &[], &[]);
            return self.reply(vec![self.record(ttl, data)]);
        };
        let generation = &self.view.generation;
        let answer = generation.told(site, generation.choose(site, client));
        if answer.is_empty() {
            return Reply::refused(ResponseCode::ServFail);
        }
        let v4: Vec<Ipv4Addr> = answer.v4().map(|(_, address)| address).collect();
        let v6: Vec<Ipv6Addr> = answer.v6().map(|(_, address)| address).collect();
        let owner = if target.is_root() { self.name.clone() } else { target.clone() };
        let data = service.data(self.kind, target, &v4, &v6);
        let v4 = v4.into_iter().map(|address| RData::A(A(address)));
        let v6 = v6.into_iter().map(|address| RData::AAAA(AAAA(address)));
        let beside = |data| Record::from_rdata(owner.clone(), seconds(ttl), data);
        let additional = v4.chain(v6).map(beside).collect();
        let reply = self.reply(vec![self.record(ttl, data)]);
        Reply { additional, scope: answer.scope, cache: Cache::Choice, decided: Some(site), ..reply }
    }

    /// The reasons of a choice. They depend on more than the choice, and are long: see
    /// [`Reply::modest`].
    fn why(self, site: SiteRef, client: IpAddr) -> Reply {
        let strings = why::strings(self.view, site, client);
        if strings.is_empty() {
            return self.negative(ResponseCode::NoError);
        }
        let data = RData::TXT(TXT::new(strings));
        // RFC 7871, 7.2.1: as narrow as it was asked for.
        let scope = if client.is_ipv4() { 24 } else { 56 };
        let reply = self.reply(vec![self.record(Duration::ZERO, data)]);
        Reply { scope, modest: true, cache: Cache::Never, ..reply }
    }

    fn address(&self, ttl: Duration, v4: Option<Ipv4Addr>, v6: Option<Ipv6Addr>) -> Option<Record> {
        match self.kind {
            RecordType::A => Some(self.record(ttl, RData::A(A(v4?)))),
            RecordType::AAAA => Some(self.record(ttl, RData::AAAA(AAAA(v6?)))),
            _ => None,
        }
    }

    /// RFC 2308, 2: the SOA goes with every negative answer, and its TTL is how long that is kept.
    fn negative(&self, code: ResponseCode) -> Reply {
        let authority = vec![self.soa(self.options().ttl)];
        Reply { code, authority, ..self.reply(Vec::new()) }
    }

    fn reply(&self, answers: Vec<Record>) -> Reply {
        let (authority, additional) = (Vec::new(), Vec::new());
        let code = ResponseCode::NoError;
        Reply {
            code,
            authoritative: true,
            answers,
            authority,
            additional,
            scope: 0,
            modest: false,
            cache: Cache::Shared,
            decided: None,
            until: Time::NEVER,
        }
    }

    fn record(&self, ttl: Duration, data: RData) -> Record {
        Record::from_rdata(self.name.clone(), seconds(ttl), data)
    }

    fn soa(&self, ttl: Duration) -> Record {
        // No redirector is the primary one, so the zone's own name stands for all; it is also what
        // keeps negative answers below 3.2 times the shortest queries.
        let zone = self.zone();
        let contact = zone.prepend_label("hostmaster").unwrap_or_else(|_| zone.clone());
        let soa = SOA::new(
            zone.clone(),
            contact,
            self.view.serial(),
            3600,
            600,
            604_800,
            seconds(self.options().ttl),
        );
        Record::from_rdata(zone, seconds(ttl), RData::SOA(soa))
    }

    /// The zone in the case that the question wrote it in: so it is compressed in the reply.
    fn zone(&self) -> Name {
        self.asked.trim_to(self.view.zone.labels())
    }

    /// `<member>.node.<zone>`; the zone itself should that be too long for a name.
    fn node_name(&self, member: &MemberInput) -> Name {
        let zone = self.zone();
        let name = zone.prepend_label("node").and_then(|name| name.prepend_label(member.name.as_str()));
        name.unwrap_or(zone)
    }

    fn options(&self) -> &Options {
        self.view.zone.options()
    }
}

pub(crate) fn seconds(ttl: Duration) -> u32 {
    // RFC 2181, 8: a TTL has 31 bits.
    u32::try_from(ttl.as_secs()).unwrap_or(u32::MAX).min(i32::MAX as u32)
}
