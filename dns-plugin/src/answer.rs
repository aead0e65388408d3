//! Question and client in, records out.

use crate::view::View;
use godwit_core::time::Time;
use godwit_map::{Generation, Health, MemberInput, SiteRef};
use hickory_server::proto::op::ResponseCode;
use hickory_server::proto::rr::rdata::{A, AAAA, HINFO, NS, SOA};
use hickory_server::proto::rr::{DNSClass, Name, RData, Record, RecordType};
use std::net::IpAddr;
use std::time::Duration;

/// A region's name is answered with so many nodes at most.
const REGION_PICKS_MAX: usize = 3;
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
    /// Whether it may be repeated to others.
    pub cache: Cache,
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
        let (scope, cache, until) = (0, Cache::Never, Time::NEVER);
        Reply { code, authoritative: false, answers, authority, additional, scope, cache, until }
    }
}

/// Answers questions in one zone. A pure function of the view it is given.
#[derive(Clone, Copy)]
pub struct Answerer<'a> {
    view: &'a View,
}

/// What a name in the zone stands for.
enum Target<'a> {
    Apex,
    Site(String),
    Member(&'a MemberInput),
    Region(Vec<&'a MemberInput>),
    /// A name that exists only because there are names below it.
    Empty,
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
        let draft = Draft { view: self.view, name, zone: name.trim_to(zone.labels()), kind };
        match self.target(name) {
            None => Reply { cache: Cache::Never, ..draft.negative(ResponseCode::NXDomain) },
            Some(target) => draft.positive(target, client),
        }
    }

    /// Whose choice decides what is answered at `name`: what a cache of replies must know before it
    /// asks. `None` when the name does not exist.
    pub fn subject(&self, name: &Name) -> Option<Subject> {
        self.view.zone.origin().zone_of(name).then_some(())?;
        Some(match self.target(name)? {
            Target::Site(site) => Subject::Choice(self.view.generation.site_ref(&site)?),
            Target::Apex | Target::Member(_) | Target::Region(_) | Target::Empty => Subject::Nobody,
        })
    }

    /// The types that `name` has for some client, without those of DNSSEC: what a denial of the
    /// others lists (RFC 4034, 4.1.2), less the type that is being denied. `None` when the name does
    /// not exist; none of them when it only has names below it.
    pub fn types_at(&self, name: &Name) -> Option<Vec<RecordType>> {
        use RecordType::{A, AAAA, NS, SOA};
        self.view.zone.origin().zone_of(name).then_some(())?;
        let addresses = |members: &mut dyn Iterator<Item = &MemberInput>| {
            let (mut v4, mut v6) = (false, false);
            members.for_each(|member| {
                v4 |= member.public_v4.is_some();
                v6 |= member.public_v6.is_some();
            });
            [(v4, A), (v6, AAAA)].into_iter().filter_map(|(has, kind)| has.then_some(kind)).collect()
        };
        Some(match self.target(name)? {
            Target::Apex => vec![NS, SOA],
            Target::Site(_) => addresses(&mut self.view.generation.members().iter()),
            Target::Member(member) => addresses(&mut std::iter::once(member)),
            Target::Region(members) => addresses(&mut members.into_iter()),
            Target::Empty => Vec::new(),
        })
    }

    fn target(&self, name: &Name) -> Option<Target<'v>> {
        let generation: &'v Generation = &self.view.generation;
        let count = name.iter().count();
        let label = |at: usize| {
            let label = name.iter().nth(at)?;
            Some(std::str::from_utf8(label).ok()?.to_ascii_lowercase())
        };
        match count.checked_sub(self.view.zone.labels())? {
            0 => Some(Target::Apex),
            1 => match label(0)?.as_str() {
                "node" | "region" => Some(Target::Empty),
                site => generation.site(site).map(|_| Target::Site(site.to_owned())),
            },
            2 => match label(1)?.as_str() {
                "node" => generation.member_named(&label(0)?).map(Target::Member),
                "region" => Some(Target::Region(generation.region(&label(0)?)?.collect())),
                _ => None,
            },
            _ => None,
        }
    }
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
    /// The zone in the case that the question wrote it in: so it is compressed in the reply.
    zone: Name,
    kind: RecordType,
}

impl Draft<'_> {
    fn positive(self, target: Target<'_>, client: IpAddr) -> Reply {
        if self.kind == RecordType::ANY && !matches!(target, Target::Empty) {
            // RFC 8482, 4.2: a minimal answer instead of everything.
            let hinfo = HINFO::new("RFC8482".to_owned(), String::new());
            return self.reply(vec![self.record(self.options().ttl_static, RData::HINFO(hinfo))]);
        }
        match target {
            Target::Apex => self.apex(),
            Target::Empty => self.negative(ResponseCode::NoError),
            Target::Site(site) => self.site(&site, client),
            Target::Member(member) => self.addresses(self.options().ttl_static, &[member]),
            Target::Region(members) => {
                let reached = |member: &&MemberInput| {
                    matches!(member.state, Health::Alive | Health::Suspect)
                        && member.ready
                        && !member.draining
                };
                let mut nodes: Vec<&MemberInput> = members.iter().copied().filter(reached).collect();
                if nodes.is_empty() {
                    nodes = members;
                }
                nodes.truncate(REGION_PICKS_MAX);
                self.addresses(self.options().ttl, &nodes)
            }
        }
    }

    fn apex(self) -> Reply {
        let ttl = self.options().ttl_static;
        match self.kind {
            RecordType::SOA => self.reply(vec![self.soa(ttl)]),
            RecordType::NS => {
                let servers = || self.view.generation.name_servers().take(NAME_SERVERS_MAX);
                let names: Vec<Name> = servers().map(|server| self.node_name(server)).collect();
                let answers =
                    names.iter().map(|name| self.record(ttl, RData::NS(NS(name.clone())))).collect();
                let glue_v4 = servers().zip(&names).filter_map(|(server, name)| {
                    Some(Record::from_rdata(name.clone(), seconds(ttl), RData::A(A(server.public_v4?))))
                });
                let glue_v6 = servers().zip(&names).filter_map(|(server, name)| {
                    Some(Record::from_rdata(name.clone(), seconds(ttl), RData::AAAA(AAAA(server.public_v6?))))
                });
                let additional = glue_v4.chain(glue_v6).collect();
                let reply = self.reply(answers);
                Reply { additional, ..reply }
            }
            _ => self.negative(ResponseCode::NoError),
        }
    }

    fn site(self, site: &str, client: IpAddr) -> Reply {
        let Some(answer) = self.view.generation.answer(client, site) else {
            return self.negative(ResponseCode::NXDomain);
        };
        if answer.is_empty() {
            // No node at all: another name server may know more, and a resolver asks it.
            return Reply::refused(ResponseCode::ServFail);
        }
        let ttl = self.options().ttl;
        let answers: Vec<Record> = match self.kind {
            RecordType::A => answer.v4().map(|(_, address)| self.record(ttl, RData::A(A(address)))).collect(),
            RecordType::AAAA => {
                answer.v6().map(|(_, address)| self.record(ttl, RData::AAAA(AAAA(address)))).collect()
            }
            _ => Vec::new(),
        };
        let reply = match answers.is_empty() {
            // Another client may be sent to a replica that has such an address: as narrow.
            true if matches!(self.kind, RecordType::A | RecordType::AAAA) => {
                self.negative(ResponseCode::NoError)
            }
            true => return self.negative(ResponseCode::NoError),
            false => self.reply(answers),
        };
        Reply { scope: answer.scope, cache: Cache::Choice, ..reply }
    }

    fn addresses(&self, ttl: Duration, members: &[&MemberInput]) -> Reply {
        let answers: Vec<Record> = match self.kind {
            RecordType::A => members
                .iter()
                .filter_map(|member| Some(self.record(ttl, RData::A(A(member.public_v4?)))))
                .collect(),
            RecordType::AAAA => members
                .iter()
                .filter_map(|member| Some(self.record(ttl, RData::AAAA(AAAA(member.public_v6?)))))
                .collect(),
            _ => Vec::new(),
        };
        if answers.is_empty() { self.negative(ResponseCode::NoError) } else { self.reply(answers) }
    }

    /// RFC 2308, 2: the SOA goes with every negative answer, and its TTL is how long that is kept.
    fn negative(&self, code: ResponseCode) -> Reply {
        let authority = vec![self.soa(self.options().ttl)];
        Reply { code, authority, ..self.reply(Vec::new()) }
    }

    fn reply(&self, answers: Vec<Record>) -> Reply {
        let (authority, additional) = (Vec::new(), Vec::new());
        let code = ResponseCode::NoError;
        let (scope, cache, until) = (0, Cache::Shared, Time::NEVER);
        Reply { code, authoritative: true, answers, authority, additional, scope, cache, until }
    }

    fn record(&self, ttl: Duration, data: RData) -> Record {
        Record::from_rdata(self.name.clone(), seconds(ttl), data)
    }

    fn soa(&self, ttl: Duration) -> Record {
        // No redirector is the primary one, so the zone's own name stands for all; it is also what
        // keeps negative answers below 3.2 times the shortest queries.
        let contact = self.zone.prepend_label("hostmaster").unwrap_or_else(|_| self.zone.clone());
        let soa = SOA::new(
            self.zone.clone(),
            contact,
            self.view.serial(),
            3600,
            600,
            604_800,
            seconds(self.options().ttl),
        );
        Record::from_rdata(self.zone.clone(), seconds(ttl), RData::SOA(soa))
    }

    /// `<member>.node.<zone>`; the zone itself should that be too long for a name.
    fn node_name(&self, member: &MemberInput) -> Name {
        let name = self.zone.prepend_label("node").and_then(|name| name.prepend_label(member.name.as_str()));
        name.unwrap_or_else(|_| self.zone.clone())
    }

    fn options(&self) -> &Options {
        self.view.zone.options()
    }
}

fn seconds(ttl: Duration) -> u32 {
    // RFC 2181, 8: a TTL has 31 bits.
    u32::try_from(ttl.as_secs()).unwrap_or(u32::MAX).min(i32::MAX as u32)
}
