//! What DNS answers for a name, and why: for a person at the control socket.
//!
//! It asks the same [`Answerer`] with the same view that queries are answered from, so that it
//! cannot say anything else than they do.

use crate::answer::{Answerer, Cache, Question, Subject, client_prefix};
use crate::view::View;
use godwit_core::name::SiteName;
use godwit_map::Why;
use hickory_server::proto::rr::{DNSClass, Name, Record, RecordType};
use serde::Serialize;
use std::net::IpAddr;

/// What DNS answers and why. The JSON form is public.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Explanation {
    /// What is answered.
    pub dns: Answered,
    /// What is answered where the resolver sends no client subnet: by its own address.
    pub without_subnet: Option<Answered>,
    /// Why the map chose as it did; none where it had no choice.
    #[serde(flatten)]
    pub why: Option<Why>,
}

/// One answer.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Answered {
    /// The whole name.
    pub name: String,
    /// The type.
    #[serde(rename = "type")]
    pub kind: String,
    /// The address that decides: the client's subnet (/24, /56) where a resolver sends it.
    pub by: IpAddr,
    /// Whether that came in a client subnet option.
    pub subnet: bool,
    /// What decides: `choice` of the map, `same-for-all`, or `client`: more than the choice.
    pub depends_on: &'static str,
    /// The site whose choice decides.
    pub site: Option<SiteName>,
    /// Response code.
    pub code: String,
    /// The records of the answer, as in a zone file.
    pub answers: Vec<String>,
    /// Those beside them.
    pub additional: Vec<String>,
    /// The scope of the answer: for how wide a prefix it holds; 0 for everybody.
    pub scope: u8,
    /// The zone's serial.
    pub serial: u32,
}

/// Why a question for an explanation has no answer.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NotExplained {
    /// The name is none.
    #[error("{0:?} is no name in the zone {1}")]
    Name(String, String),
    /// The type is none.
    #[error("{0}")]
    Kind(String),
}

/// Explains what a client is answered for `name` (the part before the zone, or all of it), for its
/// addresses or for the type `kind`. With a `resolver` the client is told by a client subnet.
pub fn explain(
    view: &View,
    name: &str,
    kind: Option<&str>,
    client: IpAddr,
    resolver: Option<IpAddr>,
) -> Result<Explanation, NotExplained> {
    let whole = whole_name(view, name)?;
    let kind = match kind {
        None if client.is_ipv4() => RecordType::A,
        None => RecordType::AAAA,
        Some(text) => crate::zone::record_type(text).map_err(NotExplained::Kind)?,
    };
    let client = client.to_canonical();
    let by = if resolver.is_some() { client_prefix(client).addr() } else { client };
    let answered = |by: IpAddr, subnet: bool| answered(view, &whole, kind, by, subnet);
    let site = site(view, &whole, kind);
    let region = Answerer::new(view).region(&whole);
    let home = Answerer::new(view).home(&whole);
    let why = match (site, region, home) {
        (Some(site), _, _) => view.generation.why(by, &site),
        (None, Some(region), _) => view.generation.why_region(by, &region),
        // Home agents see the client itself, whoever resolves for it.
        (None, None, Some(home)) => view.generation.why_home(client, &home),
        (None, None, None) => None,
    };
    Ok(Explanation {
        dns: answered(by, resolver.is_some()),
        without_subnet: resolver.map(|resolver| answered(resolver.to_canonical(), false)),
        why,
    })
}

fn whole_name(view: &View, text: &str) -> Result<Name, NotExplained> {
    let origin = view.zone.origin();
    let wrong = || NotExplained::Name(text.to_owned(), origin.to_string());
    let bare = text.trim_end_matches('.');
    if bare == "@" {
        return Ok(origin.clone());
    }
    let name = Name::from_ascii(format!("{bare}.")).map_err(|_| wrong())?;
    if origin.zone_of(&name) {
        return Ok(name);
    }
    if text.ends_with('.') {
        return Err(wrong());
    }
    Name::from_ascii(bare).and_then(|name| name.append_domain(origin)).map_err(|_| wrong())
}

fn site(view: &View, name: &Name, kind: RecordType) -> Option<SiteName> {
    match Answerer::new(view).subject(name, kind)? {
        Subject::Choice(site) => view.generation.site_at(site).map(|site| site.site.clone()),
        Subject::Nobody => None,
    }
}

fn answered(view: &View, name: &Name, kind: RecordType, by: IpAddr, subnet: bool) -> Answered {
    let question = Question { name, kind, class: DNSClass::IN, client: by };
    let reply = Answerer::new(view).answer(&question);
    let shown = |records: &[Record]| records.iter().map(Record::to_string).collect();
    Answered {
        name: name.to_string(),
        kind: kind.to_string(),
        by,
        subnet,
        depends_on: match reply.cache {
            Cache::Choice => "choice",
            Cache::Never if reply.scope > 0 => "client",
            Cache::Shared | Cache::Never => "same-for-all",
        },
        site: site(view, name, kind),
        code: reply.code.to_string(),
        answers: shown(&reply.answers),
        additional: shown(&reply.additional),
        scope: reply.scope,
        serial: view.serial(),
    }
}
