//! One packet, one reply.

use crate::capture::Engine;
use crate::fast::compiled::{A_LEN, AAAA_LEN, Compiled};
use crate::fast::learned::{Block, Key, Learned, Topic};
use crate::fast::names::{Folded, Known};
use crate::metrics::{Decision, Transport};
use godwit_core::time::Time;
use godwit_dns_plugin::screen::{HEADER_LEN, Opt, Query, Screened, Silence, reject, screen};
use godwit_dns_plugin::{
    Answerer, Cache, OPTIONS_LEN_MAX, Replied, Said, Shape, Subject, client, compact, opt_head,
};
use godwit_map::SiteRef;
use hickory_server::proto::op::{Message, ResponseCode};
use hickory_server::proto::rr::RecordType;
use std::net::SocketAddr;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

/// Names with more labels go the general way: there is a limit to what hickory compresses.
const LABELS_MAX: usize = 48;
const CLASS_IN: u16 = 1;
/// Pointers have 14 bits.
const POINTER: u16 = 0xc000;
/// AA in the third octet of a header.
const AUTHORITATIVE: u8 = 0x04;

/// Answers packets from a compiled view.
pub(crate) struct Responder {
    engine: Engine,
    compiled: Arc<Compiled>,
    learned: Learned,
    /// Whether the general path is asked only where it must be.
    quick: bool,
}

/// When a packet is answered; read once for a batch.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Moment {
    pub(crate) time: Time,
}

/// What became of a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// It deserves no reply.
    Silent(Silence),
    /// It is malformed or of a kind that is not for us.
    Rejected(Sent),
    /// It is answered.
    Answered(Sent),
    /// It is answered, and counted already.
    Counted {
        /// Octets of the reply.
        len: usize,
    },
    /// What answers packets panicked.
    Failed,
}

/// A reply that stands in the buffer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Sent {
    /// Octets.
    pub(crate) len: usize,
    /// QTYPE, if it was read.
    pub(crate) kind: Option<u16>,
    pub(crate) code: ResponseCode,
    /// Whether the client has shown that it is where it claims to be.
    pub(crate) proven: bool,
    /// Whether the general path was not asked.
    pub(crate) fast: bool,
    /// Why the map told what it told, where it decided.
    pub(crate) decided: Option<Decision>,
}

/// The records of a reply, to be written.
struct Records<'a> {
    code: ResponseCode,
    authoritative: bool,
    counts: [u16; 3],
    octets: &'a [u8],
    scope: u8,
}

impl Responder {
    pub(crate) fn new(engine: Engine, compiled: Arc<Compiled>) -> Responder {
        Responder { engine, compiled, learned: Learned::new(), quick: true }
    }

    /// The same by the general path alone.
    pub(crate) fn without_fast_path(self) -> Responder {
        Responder { quick: false, ..self }
    }

    /// Answers from `compiled` from now on.
    pub(crate) fn renew(&mut self, compiled: &Arc<Compiled>) {
        if !Arc::ptr_eq(&self.compiled, compiled) {
            self.compiled = compiled.clone();
            self.learned.clear();
        }
    }

    /// Answers a packet: the reply, if any, stands at the beginning of `out`.
    pub(crate) fn respond(
        &mut self,
        now: Moment,
        packet: &[u8],
        source: SocketAddr,
        out: &mut [u8],
    ) -> Outcome {
        match screen(packet) {
            Screened::Silent(silence) => Outcome::Silent(silence),
            Screened::Reject { code, edns } => Outcome::Rejected(rejected(packet, code, edns, out)),
            Screened::Pass(query) => {
                let asked = Asked { now, packet, source, query: &query, said: self.say(now, &query, source) };
                match self.quick(&asked, out) {
                    Some(sent) => Outcome::Answered(sent),
                    // A panic of what is not ours must not take the thread with it.
                    None => {
                        catch_unwind(AssertUnwindSafe(|| self.general(&asked, out))).unwrap_or_else(|_| {
                            self.learned.clear();
                            Outcome::Failed
                        })
                    }
                }
            }
        }
    }

    fn say(&self, now: Moment, query: &Query, source: SocketAddr) -> Option<Said> {
        let manners = self.engine.handler().manners();
        query.edns.as_ref().map(|opt| manners.say(now.secs(), opt, source.ip()))
    }

    fn quick(&self, asked: &Asked<'_>, out: &mut [u8]) -> Option<Sent> {
        let query = asked.query;
        if query.extra || !self.quick {
            return None;
        }
        if let Some(Opt { version: 1.., .. }) = query.edns {
            return asked.write_version(out);
        }
        let about_messages = query.kind == 41 || (128..256).contains(&query.kind);
        if query.class != CLASS_IN || about_messages {
            return None;
        }
        let name = Folded::new(asked.packet.get(HEADER_LEN..)?.get(..query.name_len)?);
        let Some(zone_at) = self.zone_at(asked, &name)? else {
            let refused = Records {
                code: ResponseCode::Refused,
                authoritative: false,
                counts: [0; 3],
                octets: &[],
                scope: 0,
            };
            return self.write(asked, refused, out);
        };
        let opt = query.edns.as_ref();
        let signed = self.compiled.view.zone.signer().is_some() && opt.is_some_and(|opt| opt.dnssec_ok);
        let known = self.compiled.names.get(&name);
        if let Known::Site(site) = known
            && !signed
            && matches!(query.kind, 1 | 28)
        {
            let choice = self.compiled.view.generation.choose(site, client(opt, asked.source.ip()));
            let octets = self.compiled.records(site, choice.key, query.kind);
            if !octets.is_empty() {
                let sent = self.addresses(asked, octets, choice.scope, out);
                return sent.map(|sent| self.decided(asked, site, sent));
            }
            // Those told have addresses of the other family only.
            if !self.compiled.records(site, choice.key, 1 + 28 - query.kind).is_empty() {
                let sent = self.negative(asked, zone_at, ResponseCode::NoError, choice.scope, out);
                return sent.map(|sent| self.decided(asked, site, sent));
            }
        }
        // Of names that do not exist nothing is learned.
        if known == Known::Nothing && !signed && self.is_absent(asked, zone_at) {
            return self.negative(asked, zone_at, ResponseCode::NXDomain, 0, out);
        }
        let topic = self.learned.topic(&name, query.kind)?;
        self.learned(asked, topic, out)
    }

    /// Where the zone's name begins in the packet: `Some(None)` when the question is not in the zone,
    /// `None` when the name has too many labels.
    fn zone_at(&self, asked: &Asked<'_>, name: &Folded) -> Option<Option<usize>> {
        let zone = &self.compiled.zone;
        let Some(start) = asked.query.name_len.checked_sub(zone.len()) else { return Some(None) };
        let question = &asked.packet[HEADER_LEN..];
        let (mut at, mut labels) = (0, 0);
        while at < start {
            at += 1 + usize::from(*question.get(at)?);
            labels += 1;
        }
        let inside = at == start && name.ends_with(zone);
        if labels > LABELS_MAX { None } else { Some(inside.then_some(HEADER_LEN + start)) }
    }

    /// RFC 1035 address records, the best first, as many as fit: what `fit` of the general path does.
    fn addresses(&self, asked: &Asked<'_>, octets: &[u8], scope: u8, out: &mut [u8]) -> Option<Sent> {
        let record = if asked.query.kind == 1 { A_LEN } else { AAAA_LEN };
        let bounds = self.bounds(asked, true);
        let mut len = octets.len();
        while len > record && bounds.fixed + len > bounds.modest() {
            len -= record;
        }
        if bounds.fixed + len > bounds.payload {
            return None;
        }
        let counts = [(len / record) as u16, 0, 0];
        let code = ResponseCode::NoError;
        self.write(asked, Records { code, authoritative: true, counts, octets: &octets[..len], scope }, out)
    }

    fn learned(&self, asked: &Asked<'_>, topic: Topic, out: &mut [u8]) -> Option<Sent> {
        let opt = asked.query.edns.as_ref();
        let generation = &self.compiled.view.generation;
        let choice = topic.site.map(|site| generation.choose(site, client(opt, asked.source.ip())));
        let block = self.learned.get(&Key::new(topic, self.flags(opt), choice.map(|choice| choice.key)))?;
        let timely = block.until == Time::NEVER || (block.since..block.until).contains(&asked.now.time);
        let name = &asked.packet[HEADER_LEN..][..asked.query.name_len];
        if block.spelt.as_ref().is_some_and(|spelt| **spelt != *name) {
            return None;
        }
        if !timely || !self.bounds(asked, block.authoritative).admit(block.shape) {
            return None;
        }
        let records = Records {
            code: block.code,
            authoritative: block.authoritative,
            counts: block.counts,
            octets: &block.octets,
            scope: choice.map_or(0, |choice| choice.scope),
        };
        let sent = self.write(asked, records, out)?;
        Some(topic.site.map_or(sent, |site| self.decided(asked, site, sent)))
    }

    /// The same reply, with why the map told what it told.
    fn decided(&self, asked: &Asked<'_>, site: SiteRef, sent: Sent) -> Sent {
        let client = client(asked.query.edns.as_ref(), asked.source.ip());
        Sent { decided: Some(Decision::of(&self.compiled.view.generation, site, client)), ..sent }
    }

    /// Whether a name that is not among those that exist does not exist: RFC 4592, 3.3.1.
    fn is_absent(&self, asked: &Asked<'_>, zone_at: usize) -> bool {
        let below = &asked.packet[HEADER_LEN..zone_at];
        let mut at = HEADER_LEN;
        loop {
            at += 1 + usize::from(asked.packet[at]);
            if at >= zone_at {
                break;
            }
            let above = Folded::new(&asked.packet[at..HEADER_LEN + asked.query.name_len]);
            if self.compiled.names.get(&above) != Known::Nothing {
                // Below names there may be a wildcard, or what is never listed.
                let subject =
                    Answerer::new(&self.compiled.view).subject_below(below, asked.query.kind.into());
                return subject.is_none();
            }
        }
        !self.compiled.has_wildcard
    }

    /// RFC 2308, 2: nothing but the SOA.
    fn negative(
        &self,
        asked: &Asked<'_>,
        zone_at: usize,
        code: ResponseCode,
        scope: u8,
        out: &mut [u8],
    ) -> Option<Sent> {
        let negative = self.compiled.negative.as_ref()?;
        let below = &asked.packet[HEADER_LEN..zone_at];
        if !self.bounds(asked, true).admit(negative.shape) || is_contact(below) {
            return None;
        }
        let mut octets = [0; NEGATIVE_LEN_MAX];
        let octets = negative.at(zone_at, &mut octets);
        self.write(asked, Records { code, authoritative: true, counts: [0, 1, 0], octets, scope }, out)
    }

    /// Asks the general path, and learns from it.
    fn general(&mut self, asked: &Asked<'_>, out: &mut [u8]) -> Outcome {
        let Asked { now, packet, source, query, .. } = *asked;
        let compiled = self.compiled.clone();
        if query.extra {
            // Signed by its sender, perhaps.
            let reply = self.engine.reply_from(now.secs(), &compiled.view, packet, source, Transport::Udp);
            return Outcome::Counted { len: reply.map_or(0, |reply| copy(&reply, out)) };
        }
        let replied = self.engine.respond(now.secs(), &compiled.view, packet, query, source, Transport::Udp);
        let Some(replied) = replied else {
            return Outcome::Rejected(rejected(packet, ResponseCode::FormErr, false, out));
        };
        if self.quick {
            let _ = self.learn(asked, &replied);
        }
        let proven = asked.said.is_some_and(|said| said.proven);
        let len = copy(&replied.bytes, out);
        let sent =
            Sent { len, kind: Some(query.kind), code: replied.code, proven, fast: false, decided: None };
        Outcome::Answered(replied.decided.map_or(sent, |site| self.decided(asked, site, sent)))
    }

    fn learn(&mut self, asked: &Asked<'_>, replied: &Replied) -> Option<()> {
        let (query, compiled) = (asked.query, self.compiled.clone());
        let shape = replied.shape?;
        if replied.cache == Cache::Never || query.class != CLASS_IN || replied.code.high() != 0 {
            return None;
        }
        let wire = &asked.packet[HEADER_LEN..][..query.name_len];
        let below = wire.get(..query.name_len.checked_sub(compiled.zone.len())?)?;
        if is_contact(below) {
            return None;
        }
        let name = Folded::new(wire);
        let opt = query.edns.as_ref();
        let topic = match self.learned.topic(&name, query.kind) {
            Some(topic) => topic,
            None => {
                let subject = Answerer::new(&compiled.view).subject_below(below, query.kind.into())?;
                let site = match (replied.cache, subject) {
                    (Cache::Choice, Subject::Choice(site)) => Some(site),
                    _ => None,
                };
                self.learned.begin(&name, query.kind, site)?
            }
        };
        let choice =
            topic.site.map(|site| compiled.view.generation.choose(site, client(opt, asked.source.ip())));
        let authoritative = replied.bytes.get(2)? & AUTHORITATIVE != 0;
        let end = replied.bytes.len() - opt.map_or(0, |opt| self.opt_len(asked, opt, authoritative));
        let octets = replied.bytes.get(HEADER_LEN + query.name_len + 4..end)?;
        let count = |at: usize| Some(u16::from_be_bytes(*replied.bytes.get(at..)?.first_chunk()?));
        let additional = count(10)?.checked_sub(u16::from(opt.is_some()))?;
        self.learned.keep(Block {
            key: Key::new(topic, self.flags(opt), choice.map(|choice| choice.key)),
            code: replied.code,
            authoritative,
            counts: [count(6)?, count(8)?, additional],
            shape,
            since: asked.now.time,
            until: replied.until,
            octets: octets.into(),
            spelt: leads_elsewhere(&replied.bytes)?.then(|| wire.into()),
        });
        Some(())
    }

    /// What of the client's EDNS flags can make the records others.
    fn flags(&self, opt: Option<&Opt>) -> u8 {
        match opt {
            Some(opt) if self.compiled.view.zone.signer().is_some() => {
                u8::from(opt.dnssec_ok) | u8::from(opt.compact_ok) << 1
            }
            _ => 0,
        }
    }

    fn said(&self, asked: &Asked<'_>, authoritative: bool) -> Option<Said> {
        asked.said.map(|said| if authoritative { said } else { said.briefly() })
    }

    fn bounds(&self, asked: &Asked<'_>, authoritative: bool) -> godwit_dns_plugin::Bounds {
        let said = self.said(asked, authoritative);
        self.engine.handler().manners().bounds(asked.packet.len(), asked.query, said.as_ref())
    }

    fn opt_len(&self, asked: &Asked<'_>, opt: &Opt, authoritative: bool) -> usize {
        let said = self.said(asked, authoritative);
        let options = said.map_or(0, |said| self.engine.handler().manners().options_len(opt, &said));
        opt_head(0, 0, 0).len() + options
    }

    /// Writes a reply: header, question, records, OPT.
    fn write(&self, asked: &Asked<'_>, records: Records<'_>, out: &mut [u8]) -> Option<Sent> {
        let mut writer = Writer { out, len: 0 };
        asked.begin(&records, &mut writer)?;
        writer.put(records.octets)?;
        let opt = asked.query.edns.as_ref().zip(self.said(asked, records.authoritative));
        if let Some((opt, said)) = opt {
            let mut options = [0; OPTIONS_LEN_MAX];
            let len = self.engine.handler().manners().options(opt, &said, records.scope, &mut options);
            let compact = compact(&self.compiled.view, opt);
            let flags = u8::from(opt.dnssec_ok) << 7 | u8::from(compact) << 6;
            writer.put(&opt_head(records.code.high(), flags, len))?;
            writer.put(&options[..len])?;
        }
        Some(asked.sent(writer.len, records.code))
    }
}

/// A question with what is known of it.
struct Asked<'a> {
    now: Moment,
    packet: &'a [u8],
    source: SocketAddr,
    query: &'a Query,
    said: Option<Said>,
}

impl Asked<'_> {
    /// Header and question. RD and CD come back as they were (RFC 1035, 4.1.1; RFC 4035, 3.1.6).
    fn begin(&self, records: &Records<'_>, writer: &mut Writer<'_>) -> Option<()> {
        let [answers, authority, additional] = records.counts;
        let additional = additional + u16::from(self.query.edns.is_some());
        let authoritative = if records.authoritative { AUTHORITATIVE } else { 0 };
        let mut header = [0; HEADER_LEN];
        header[..2].copy_from_slice(&self.packet[..2]);
        header[2] = 0x80 | authoritative | self.packet[2] & 0x01;
        header[3] = self.packet[3] & 0x10 | records.code.low();
        header[5] = 1;
        for (at, count) in [(6, answers), (8, authority), (10, additional)] {
            header[at..at + 2].copy_from_slice(&count.to_be_bytes());
        }
        writer.put(&header)?;
        writer.put(self.packet.get(HEADER_LEN..HEADER_LEN + self.query.name_len + 4)?)
    }

    /// RFC 6891, 6.1.3: another version is answered with ours.
    fn write_version(&self, out: &mut [u8]) -> Option<Sent> {
        let code = ResponseCode::BADVERS;
        let mut writer = Writer { out, len: 0 };
        let records = Records { code, authoritative: false, counts: [0; 3], octets: &[], scope: 0 };
        self.begin(&records, &mut writer)?;
        writer.put(&opt_head(code.high(), 0, 0))?;
        Some(self.sent(writer.len, code))
    }

    fn sent(&self, len: usize, code: ResponseCode) -> Sent {
        let proven = self.said.is_some_and(|said| said.proven);
        Sent { len, kind: Some(self.query.kind), code, proven, fast: true, decided: None }
    }
}

impl Moment {
    fn secs(self) -> u32 {
        self.time.as_secs() as u32
    }
}

/// Writes as long as there is room.
struct Writer<'a> {
    out: &'a mut [u8],
    len: usize,
}

impl Writer<'_> {
    fn put(&mut self, octets: &[u8]) -> Option<()> {
        self.out.get_mut(self.len..self.len + octets.len())?.copy_from_slice(octets);
        self.len += octets.len();
        Some(())
    }
}

fn rejected(packet: &[u8], code: ResponseCode, edns: bool, out: &mut [u8]) -> Sent {
    let len = reject(packet, code, edns).map_or(0, |reply| copy(&reply, out));
    Sent { len, kind: None, code, proven: false, fast: true, decided: None }
}

/// Copies a reply; one that is too long for any client is none.
fn copy(reply: &[u8], out: &mut [u8]) -> usize {
    match out.get_mut(..reply.len()) {
        Some(place) => {
            place.copy_from_slice(reply);
            reply.len()
        }
        None => 0,
    }
}

/// Whether answers hold names of the configuration that can be compressed: hickory points to the
/// question only where it is spelt alike, so that the octets depend on its case.
fn leads_elsewhere(reply: &[u8]) -> Option<bool> {
    let answers = Message::from_vec(reply).ok()?.answers;
    let kinds = [RecordType::CNAME, RecordType::MX, RecordType::PTR];
    Some(answers.iter().any(|record| kinds.contains(&record.record_type())))
}

/// Whether a name, given without the labels of the zone, is or is below that of the contact in the
/// SOA: then this points to the question, if that is spelt alike.
fn is_contact(below: &[u8]) -> bool {
    const CONTACT: &[u8] = b"\x0ahostmaster";
    let label = below.len().checked_sub(CONTACT.len()).map(|at| &below[at..]);
    label.is_some_and(|label| label.eq_ignore_ascii_case(CONTACT))
}

/// Longer negative answers are not compiled.
const NEGATIVE_LEN_MAX: usize = 128;

/// The records of NXDOMAIN: the same for all names, but for where the zone's name is.
#[derive(Debug)]
pub(crate) struct Negative {
    octets: Vec<u8>,
    /// Where pointers to the zone's name are in it.
    pointers: Vec<usize>,
    pub(crate) shape: Shape,
}

impl Negative {
    /// What two replies to names that do not exist have in common, given their records and where the
    /// zone's name is in each; `None` when there is more to it than that.
    pub(crate) fn common(a: (&[u8], usize), b: (&[u8], usize), shape: Shape) -> Option<Negative> {
        let pointer = |at: usize| (POINTER | at as u16).to_be_bytes();
        let ((a, a_at), (b, b_at)) = (a, b);
        if a.len() != b.len() || a.len() > NEGATIVE_LEN_MAX || a_at == b_at {
            return None;
        }
        let here = |at: &usize| a[*at..].starts_with(&pointer(a_at)) && b[*at..].starts_with(&pointer(b_at));
        let pointers: Vec<usize> = (0..a.len()).filter(here).collect();
        let negative = Negative { octets: a.to_vec(), pointers, shape };
        (negative.at(b_at, &mut [0; NEGATIVE_LEN_MAX]) == b).then_some(negative)
    }

    /// The records for a question in which the zone's name is at `zone_at`.
    fn at<'o>(&self, zone_at: usize, out: &'o mut [u8; NEGATIVE_LEN_MAX]) -> &'o [u8] {
        let out = &mut out[..self.octets.len()];
        out.copy_from_slice(&self.octets);
        for at in &self.pointers {
            out[*at..*at + 2].copy_from_slice(&(POINTER | zone_at as u16).to_be_bytes());
        }
        out
    }
}
