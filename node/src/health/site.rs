//! The probe of the data path: a file of a site, fetched from a member as a client would.
//!
//! The vantage knows the signed version of each site, and can read its tree (pulling the few blocks
//! that it lacks). So it knows which bytes are right without asking the one that it checks. It asks
//! for the first 2 KiB of `/index.html` and compares the member's name, the version, the entity tag
//! and the bytes. What it cannot know (it has not heard of the version yet, or gets no blocks) it
//! does not compare.

use crate::content::{Content, Origin};
use crate::snapshot::{Known, Snapshot};
use bytes::Bytes;
use godwit_core::content::object::OBJECT_LEN_MAX;
use godwit_core::content::tree::{Body, Resolve, Step};
use godwit_core::content::{ObjectId, SiteVersion, VersionNumber};
use godwit_core::health::{Failure, Method};
use godwit_core::key::MemberId;
use godwit_core::name::{SiteName, ZoneName};
use godwit_probe::http::{Answer, Request};
use godwit_probe::{Fault, Prober};
use http::{HeaderValue, header};
use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::sync::watch;

/// So much of a file is asked for and compared: three vantages and a probe every four seconds come
/// to 2 KB a second.
const PREFIX: u64 = 2048;

/// Of larger files only the entity tag is compared: nobody pulls them to check a peer.
const FILE_MAX: u64 = 1024 * 1024;

/// What is right for so many versions is remembered; each is at most `PREFIX` bytes.
const EXPECTED_MAX: usize = 256;

/// Finding out what is right may take so long; otherwise it is done without.
const LOOK_UP_MAX: Duration = Duration::from_secs(5);

/// The file that is asked for.
const PATH: &str = "/index.html";

/// Another site is asked for after so long, where a member holds several.
const TURN: Duration = Duration::from_secs(30);

/// What is right for a version.
struct Expected {
    /// The entity tag and the length of the file; `None` when there is none in this version.
    file: Option<(HeaderValue, u64)>,
    /// The first bytes, where they are known.
    prefix: Option<Bytes>,
}

/// Makes probes of the data path.
pub(crate) struct SiteProbes {
    zone: ZoneName,
    prober: Prober,
    content: Arc<Content>,
    snapshots: watch::Receiver<Arc<Snapshot>>,
    expected: Mutex<HashMap<(SiteName, ObjectId), Arc<Expected>>>,
}

impl SiteProbes {
    pub(crate) fn new(
        zone: ZoneName,
        prober: Prober,
        content: Arc<Content>,
        snapshots: watch::Receiver<Arc<Snapshot>>,
    ) -> SiteProbes {
        SiteProbes { zone, prober, content, snapshots, expected: Mutex::default() }
    }

    /// Probes the data path of a member.
    pub(crate) async fn probe(&self, member: MemberId, timeout: Duration) -> Result<Duration, Fault> {
        let snapshot = self.snapshots.borrow().clone();
        let here = |what: &str| Fault::Here(what.to_owned());
        let known = snapshot.members.get(&member).ok_or_else(|| here("not a member any more"))?;
        let address = http_address(known).ok_or_else(|| here("no public address"))?;
        let name = known.certificate.grant().name.clone();
        let Some((site, held)) = turn(&snapshot, known) else {
            // It holds nothing: that it answers for itself is all there is to see.
            let request = Request { host: Some(format!("{name}.node.{}", self.zone)), ..Request::get("/") };
            let answer =
                self.prober.http(address, &Request { method: Method::Head, ..request }, timeout).await?;
            return Ok(is_from(&answer, name.as_str())?);
        };
        let current = snapshot.sites.get(&site);
        let expected = match current {
            Some(version) => self.expected(version).await,
            None => None,
        };
        let mut request = Request { host: Some(format!("{site}.{}", self.zone)), ..Request::get(PATH) };
        match expected.as_deref() {
            Some(Expected { file: Some((_, 1..)), .. }) => {
                let range = HeaderValue::try_from(format!("bytes=0-{}", PREFIX - 1));
                request.fields.extend(range.map(|range| (header::RANGE, range)));
            }
            _ => request.method = Method::Head,
        }
        let answer = self.prober.http(address, &request, timeout).await?;
        let took = is_from(&answer, name.as_str())?;
        let served = version_of(&answer).ok_or(Failure::Status(answer.status))?;
        if served < held {
            return Err(Failure::Stale.into());
        }
        match (expected, current) {
            (Some(expected), Some(version)) if served == version.number => compare(&expected, &answer)?,
            // Another version than the one known here: only that it is given can be seen.
            _ if answer.status < 500 => {}
            _ => return Err(Failure::Status(answer.status).into()),
        }
        Ok(took)
    }

    /// What is right for a version, found out once.
    async fn expected(&self, version: &SiteVersion) -> Option<Arc<Expected>> {
        let key = (version.site.clone(), version.root);
        if let Some(expected) = self.lock().get(&key) {
            return Some(expected.clone());
        }
        let found = tokio::time::timeout(LOOK_UP_MAX, self.look_up(version)).await.ok()??;
        let mut all = self.lock();
        // Finding out again is a walk of a few blocks; no order of use is worth keeping.
        if all.len() >= EXPECTED_MAX {
            all.clear();
        }
        Some(all.entry(key).or_insert(Arc::new(found)).clone())
    }

    async fn look_up(&self, version: &SiteVersion) -> Option<Expected> {
        let origin = Origin { site: version.site.clone(), number: version.number, pulled: Arc::default() };
        let mut resolve = Resolve::new(version.root, PATH);
        let file = loop {
            match resolve.step() {
                Step::NeedBlock(id) => {
                    let block = self.content.open(&origin, id).await.ok()?;
                    let bytes = block.read(0..block.len()).await.ok()?;
                    resolve.feed(&bytes).ok()?;
                }
                Step::File(file) => break file,
                Step::Directory(_) | Step::NotFound => return Some(Expected { file: None, prefix: None }),
            }
        };
        let (Body::Object(named) | Body::List(named)) = file.body;
        let tag = HeaderValue::try_from(format!("\"{named}\"")).ok()?;
        let expected = Expected { file: Some((tag, file.len)), prefix: None };
        if file.len > FILE_MAX.min(OBJECT_LEN_MAX) || matches!(file.body, Body::List(_)) {
            return Some(expected);
        }
        let object = self.content.open(&origin, named).await.ok()?;
        let prefix = object.read(0..object.len().min(PREFIX)).await.ok()?;
        Some(Expected { prefix: Some(prefix), ..expected })
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<(SiteName, ObjectId), Arc<Expected>>> {
        self.expected.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Where clients reach its HTTP.
fn http_address(known: &Known) -> Option<SocketAddr> {
    let entry = known.entry.as_ref()?;
    Some(SocketAddr::new(public_address(known)?, entry.http_port?))
}

/// Where clients reach it: over IPv4 where it has that, which more vantages have.
pub(super) fn public_address(known: &Known) -> Option<IpAddr> {
    let entry = known.entry.as_ref()?;
    entry.public_v4.map(IpAddr::V4).or(entry.public_v6.map(IpAddr::V6))
}

/// The site whose turn it is, and the version that the member says it holds.
fn turn(snapshot: &Snapshot, known: &Known) -> Option<(SiteName, VersionNumber)> {
    let held = &known.entry.as_ref()?.held;
    let turn = (snapshot.time.as_millis() / TURN.as_millis() as u64) as usize;
    held.get(turn % held.len().max(1)).cloned()
}

fn is_from(answer: &Answer, name: &str) -> Result<Duration, Failure> {
    match answer.fields.get("godwit-node") {
        Some(node) if node.as_bytes() == name.as_bytes() => Ok(answer.took),
        _ => Err(Failure::WrongNode),
    }
}

fn version_of(answer: &Answer) -> Option<VersionNumber> {
    answer.fields.get("godwit-version")?.to_str().ok()?.parse().ok().map(VersionNumber)
}

/// Whether an answer is what the publisher signed.
fn compare(expected: &Expected, answer: &Answer) -> Result<(), Failure> {
    let Some((tag, _)) = &expected.file else {
        return if answer.status == 404 { Ok(()) } else { Err(Failure::Status(answer.status)) };
    };
    if answer.status != 200 && answer.status != 206 {
        return Err(Failure::Status(answer.status));
    }
    if answer.fields.get(header::ETAG) != Some(tag) {
        return Err(Failure::WrongBytes);
    }
    match &expected.prefix {
        Some(prefix) if !answer.body.is_empty() && answer.body != *prefix => Err(Failure::WrongBytes),
        Some(prefix) if answer.body.is_empty() && !prefix.is_empty() => Err(Failure::WrongBytes),
        Some(_) | None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::HeaderMap;

    fn answer(status: u16, fields: &[(&'static str, &'static str)], body: &'static [u8]) -> Answer {
        let mut map = HeaderMap::new();
        for (name, value) in fields {
            map.insert(*name, HeaderValue::from_static(value));
        }
        Answer { status, fields: map, body: Bytes::from_static(body), took: Duration::from_millis(3) }
    }

    #[test]
    fn what_came_is_held_against_what_was_signed() {
        let tag = HeaderValue::from_static("\"abc\"");
        let expected = Expected { file: Some((tag, 5)), prefix: Some(Bytes::from_static(b"hello")) };
        let etag = [("etag", "\"abc\"")];
        assert_eq!(compare(&expected, &answer(206, &etag, b"hello")), Ok(()));
        assert_eq!(compare(&expected, &answer(200, &etag, b"hullo")), Err(Failure::WrongBytes));
        assert_eq!(compare(&expected, &answer(200, &etag, b"")), Err(Failure::WrongBytes));
        assert_eq!(
            compare(&expected, &answer(200, &[("etag", "\"abd\"")], b"hello")),
            Err(Failure::WrongBytes)
        );
        assert_eq!(compare(&expected, &answer(503, &etag, b"hello")), Err(Failure::Status(503)));
        let none = Expected { file: None, prefix: None };
        assert_eq!(compare(&none, &answer(404, &[], b"")), Ok(()));
        assert_eq!(compare(&none, &answer(200, &etag, b"x")), Err(Failure::Status(200)));
    }

    #[test]
    fn an_answer_says_whose_it_is_and_which_version() {
        let ours = answer(200, &[("godwit-node", "n1"), ("godwit-version", "7")], b"");
        assert_eq!(is_from(&ours, "n1"), Ok(Duration::from_millis(3)));
        assert_eq!(is_from(&ours, "n2"), Err(Failure::WrongNode));
        assert_eq!(is_from(&answer(200, &[], b""), "n1"), Err(Failure::WrongNode));
        assert_eq!(version_of(&ours), Some(VersionNumber(7)));
        assert_eq!(version_of(&answer(200, &[("godwit-version", "seven")], b"")), None);
    }
}
