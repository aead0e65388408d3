//! Question and client in, records out.

use godwit_core::name::ZoneName;
use godwit_map::{Generation, Health, MemberInput};
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
}

impl Reply {
    /// Without records and authority.
    pub(crate) fn empty() -> Reply {
        Reply::refused(ResponseCode::NoError)
    }

    fn refused(code: ResponseCode) -> Reply {
        let (answers, authority, additional) = (Vec::new(), Vec::new(), Vec::new());
        Reply { code, authoritative: false, answers, authority, additional, scope: 0 }
    }
}

/// Answers questions in one zone. A pure function of the generation it is given.
#[derive(Clone, Debug)]
pub struct Answerer {
    origin: Name,
    labels: usize,
    options: Options,
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

impl Answerer {
    /// For the zone `zone`.
    pub fn new(zone: &ZoneName, options: Options) -> Answerer {
        // A zone name is letters, digits and hyphens in labels of at most 63: always a domain name.
        let origin = Name::from_ascii(format!("{zone}.")).unwrap_or_default();
        let labels = origin.iter().count();
        Answerer { origin, labels, options }
    }

    /// The zone's name.
    pub fn origin(&self) -> &Name {
        &self.origin
    }

    /// Answers a question for `client`: the address whose replica is wanted. An IPv4 client is
    /// given as IPv4, never mapped into IPv6.
    pub fn answer(&self, generation: &Generation, question: &Question<'_>) -> Reply {
        let Question { name, kind, class, client } = *question;
        if !matches!(class, DNSClass::IN | DNSClass::ANY) || !self.origin.zone_of(name) {
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
        let reply =
            Draft { answerer: self, generation, name, zone: name.trim_to(self.labels), kind, scope: 0 };
        match self.target(generation, name) {
            None => reply.negative(ResponseCode::NXDomain),
            Some(target) => reply.positive(target, client),
        }
    }

    fn target<'a>(&self, generation: &'a Generation, name: &Name) -> Option<Target<'a>> {
        let count = name.iter().count();
        let label = |at: usize| {
            let label = name.iter().nth(at)?;
            Some(std::str::from_utf8(label).ok()?.to_ascii_lowercase())
        };
        match count.checked_sub(self.labels)? {
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
    answerer: &'a Answerer,
    generation: &'a Generation,
    name: &'a Name,
    /// The zone in the case that the question wrote it in: so it is compressed in the reply.
    zone: Name,
    kind: RecordType,
    scope: u8,
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
                let servers = || self.generation.name_servers().take(NAME_SERVERS_MAX);
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

    fn site(mut self, site: &str, client: IpAddr) -> Reply {
        let Some(answer) = self.generation.answer(client, site) else {
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
        if answers.is_empty() {
            return self.negative(ResponseCode::NoError);
        }
        self.scope = answer.scope;
        self.reply(answers)
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
        Reply { code, authoritative: true, answers, authority, additional, scope: self.scope }
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
            serial(self.generation),
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
        &self.answerer.options
    }
}

/// The zone's serial: it counts heads (versions of sites, members), so that it grows with each of
/// them and is the same on every redirector that knows the same.
fn serial(generation: &Generation) -> u32 {
    let versions = generation.sites().map(|site| site.number.0);
    let members = generation.members().iter().map(|member| member.serial.0);
    // RFC 1982: serials live modulo 2^32.
    versions.chain(members).fold(1, |sum, number| sum.wrapping_add(number as u32))
}

fn seconds(ttl: Duration) -> u32 {
    // RFC 2181, 8: a TTL has 31 bits.
    u32::try_from(ttl.as_secs()).unwrap_or(u32::MAX).min(i32::MAX as u32)
}
