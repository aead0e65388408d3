//! From a request to a response.
//!
//! A request names a site (host) and a path. The site's version was chosen for the connection
//! ([`super::sites`]); from its root the path leads through directory blocks to a file, and
//! everything under a root is immutable, so one response never mixes versions whatever is published
//! meanwhile. Blocks and bytes that are not here are pulled from the nearest holder by
//! [`Content`], which also replaces what the disk has damaged.

use super::body::{self, Body};
use super::host::{Hosts, NoSite};
use super::media::content_type;
use super::moved::Plan;
use super::path::{BadPath, SitePath};
use super::precondition::{Validators, Verdict, evaluate};
use super::sending::{AllSending, Sending};
use super::sites::{Pins, Served, Sites};
use crate::content::{Absent, Content, Origin};
use crate::metrics::HttpMetrics;
use bytes::Bytes;
use godwit_core::content::object::OBJECT_LEN_MAX;
use godwit_core::content::tree::{Body as FileBody, File, List, Resolve, Step};
use godwit_core::content::{ObjectId, VersionNumber};
use godwit_core::name::SiteName;
use http::{HeaderValue, Method, Request, Response, StatusCode, Version, header};
use std::collections::HashMap;
use std::io;
use std::ops::Range;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime};
use tokio_util::task::TaskTracker;

/// Bodies up to this are read at once and sent whole; larger ones are read as the client takes them.
const WHOLE_MAX: u64 = 64 * 1024;

/// Bytes read from the disk at a time, and so the memory of one response.
const PORTION: u64 = 256 * 1024;

/// Paths whose files are remembered: 100 to 300 bytes each.
const FOUND_MAX: usize = 16 * 1024;

/// Clients are asked to come again after so many seconds when no holder can be reached: failed
/// members leave the map within three.
const RETRY_AFTER_SECS: &str = "3";

/// For what may be otherwise at any moment.
const NO_STORE: HeaderValue = HeaderValue::from_static("no-store");

/// Answers requests.
pub(crate) struct Server {
    pub(super) hosts: Hosts,
    pub(super) sites: Arc<Sites>,
    pub(super) content: Arc<Content>,
    pub(super) metrics: Arc<HttpMetrics>,
    /// This member's name, for `Godwit-Node`.
    pub(super) node: HeaderValue,
    pub(super) cache_control: HeaderValue,
    pub(super) found: FoundCache,
    /// Whether each HTTP/1 connection is to end with its next response.
    pub(super) last: AtomicBool,
    /// Requests whose response has not begun.
    pub(super) answering: TaskTracker,
    pub(super) sending: AllSending,
}

/// What a path leads to.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Found {
    File(File),
    Directory,
    Nothing,
}

/// Remembers where paths lead. Keyed by the root, so nothing in it is ever out of date.
#[derive(Default)]
pub(crate) struct FoundCache {
    files: Mutex<HashMap<(ObjectId, SitePath), File>>,
}

impl FoundCache {
    fn get(&self, key: &(ObjectId, SitePath)) -> Option<File> {
        self.files.lock().unwrap_or_else(PoisonError::into_inner).get(key).cloned()
    }

    fn insert(&self, key: (ObjectId, SitePath), file: File) {
        let mut files = self.files.lock().unwrap_or_else(PoisonError::into_inner);
        // Starting anew costs a walk per path and needs no order of use to be kept.
        if files.len() >= FOUND_MAX {
            files.clear();
        }
        files.insert(key, file);
    }
}

/// One request being answered.
struct Exchange<'a> {
    server: &'a Server,
    method: &'a Method,
    served: Arc<Served>,
    started: Instant,
    /// Whether something had to be fetched from another member.
    pulled: Arc<AtomicBool>,
    /// Of what the response is made, for connections that can move.
    plan: Option<&'a Mutex<Option<Plan>>>,
}

impl Server {
    /// Answers one request of a connection.
    pub(super) async fn respond<B>(&self, pins: &Mutex<Pins>, request: &Request<B>) -> Response<Body> {
        self.respond_telling(pins, request, None).await
    }

    /// The same; `plan` is told of what the response is made, if of a file.
    pub(super) async fn respond_telling<B>(
        &self,
        pins: &Mutex<Pins>,
        request: &Request<B>,
        plan: Option<&Mutex<Option<Plan>>>,
    ) -> Response<Body> {
        let started = Instant::now();
        let _answering = self.answering.token();
        let mut response = match self.route(pins, request, started, plan).await {
            Ok(response) => response,
            Err(response) => *response,
        };
        response.headers_mut().insert("godwit-node", self.node.clone());
        if self.last.load(Ordering::Relaxed) && request.version() <= Version::HTTP_11 {
            response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
        }
        self.metrics.answered(response.status(), started.elapsed());
        response
    }

    /// Asks clients to make a new connection for their next request.
    pub(crate) fn last_requests(&self) {
        self.last.store(true, Ordering::Relaxed);
    }

    /// Waits until every request that has come is answered, but for bytes of files; and holds those
    /// open, so that they are sent without the store.
    pub(crate) async fn let_go(&self, at_most: Duration) {
        self.answering.close();
        if tokio::time::timeout(at_most, self.answering.wait()).await.is_err() {
            tracing::warn!(requests = self.answering.len(), "some requests will not be answered");
        }
        self.sending.hold_open(&self.content).await;
    }

    /// Of which version a request is for a file that is not here; none where it is, or where there is no
    /// file. Looks at nothing but this node's own store.
    pub(super) async fn lacks<B>(&self, request: &Request<B>) -> Option<(SiteName, VersionNumber)> {
        let site = self.hosts.site(request.version(), request.uri(), request.headers()).ok()?;
        let served = self.sites.get(&site)?;
        let path = SitePath::parse(request.uri().path()).ok()?;
        let path = if path.is_directory() { path.index() } else { path };
        let lacks = Some((site, served.number));
        let mut resolve = Resolve::new(served.root, path.as_str());
        let file = loop {
            match resolve.step() {
                Step::NeedBlock(id) => {
                    let Some(block) = self.content.here(id).await else { return lacks };
                    resolve.feed(&block.read(0..block.len()).await.ok()?).ok()?;
                }
                Step::File(file) => break file,
                Step::Directory(_) | Step::NotFound => return None,
            }
        };
        // Of a file in several objects, the list tells: who has it was sent the file.
        let (FileBody::Object(id) | FileBody::List(id)) = file.body;
        if self.content.here(id).await.is_some() { None } else { lacks }
    }

    /// What is still to be sent of a response that began elsewhere, from the octet `next` of its file.
    pub(super) fn parts_of(&self, plan: &Plan, objects: Vec<ObjectId>, next: u64) -> Parts {
        let served = self.sites.get(&plan.site).filter(|served| served.number == plan.number);
        let sending = Arc::new(Sending::new(objects));
        self.sending.add(&sending);
        Parts {
            content: self.content.clone(),
            metrics: self.metrics.clone(),
            origin: Origin { site: plan.site.clone(), number: plan.number, pulled: Arc::default() },
            sending,
            file_len: plan.file_len,
            range: next..plan.end,
            _served: served,
        }
    }

    async fn route<B>(
        &self,
        pins: &Mutex<Pins>,
        request: &Request<B>,
        started: Instant,
        plan: Option<&Mutex<Option<Plan>>>,
    ) -> Result<Response<Body>, Box<Response<Body>>> {
        let site = self.hosts.site(request.version(), request.uri(), request.headers());
        let site = site.map_err(|problem| match problem {
            NoSite::Malformed => plain(StatusCode::BAD_REQUEST, "the request needs one valid Host"),
            NoSite::Unknown => misdirected(),
        })?;
        check_method(request.method())?;
        let current = self.sites.get(&site).ok_or_else(misdirected)?;
        let afresh = request.headers().get("sec-fetch-mode").is_some_and(|mode| mode == "navigate");
        let served = pins.lock().unwrap_or_else(PoisonError::into_inner).choose(current, afresh);
        let number = served.number.0;
        let pulled = Arc::new(AtomicBool::new(false));
        let exchange = Exchange { server: self, method: request.method(), served, started, pulled, plan };
        let mut response = exchange.answer(request).await.unwrap_or_else(|absent| unavailable(&absent));
        let headers = response.headers_mut();
        headers.insert("godwit-version", HeaderValue::from(number));
        if let Ok(timing) = HeaderValue::try_from(exchange.timing()) {
            headers.insert("server-timing", timing);
        }
        Ok(response)
    }
}

impl Exchange<'_> {
    async fn answer<B>(&self, request: &Request<B>) -> Result<Response<Body>, Absent> {
        let path = match SitePath::parse(request.uri().path()) {
            Ok(path) => path,
            Err(BadPath::TooLong) => return Ok(*plain(StatusCode::URI_TOO_LONG, "the path is too long")),
            Err(BadPath::Malformed) => return Ok(*plain(StatusCode::BAD_REQUEST, "the path is malformed")),
            Err(BadPath::Nothing) => return self.not_found().await,
        };
        let path = if path.is_directory() { path.index() } else { path };
        match self.find(&path).await? {
            Found::File(file) => self.file(request, &path, file).await,
            Found::Directory => Ok(self.redirect(&path, request.uri().query())),
            Found::Nothing => self.not_found().await,
        }
    }

    /// Where a path leads in this version.
    async fn find(&self, path: &SitePath) -> Result<Found, Absent> {
        let key = (self.served.root, path.clone());
        if let Some(file) = self.server.found.get(&key) {
            return Ok(Found::File(file));
        }
        let mut resolve = Resolve::new(self.served.root, path.as_str());
        loop {
            match resolve.step() {
                Step::NeedBlock(id) => {
                    let bytes = self.object(id).await?;
                    resolve.feed(&bytes).map_err(|error| Absent::Malformed(id, error.to_string()))?;
                }
                Step::File(file) => {
                    self.server.found.insert(key, file.clone());
                    return Ok(Found::File(file));
                }
                Step::Directory(_) => return Ok(Found::Directory),
                Step::NotFound => return Ok(Found::Nothing),
            }
        }
    }

    /// A file, as far as the request's preconditions and range want it.
    async fn file<B>(
        &self,
        request: &Request<B>,
        path: &SitePath,
        file: File,
    ) -> Result<Response<Body>, Absent> {
        let (FileBody::Object(object) | FileBody::List(object)) = file.body;
        let validators = Validators { object, modified: file.modified, len: file.len };
        let now = SystemTime::now();
        let verdict = evaluate(self.method, request.headers(), validators, now);
        let (status, range) = match verdict {
            Verdict::Whole => (StatusCode::OK, 0..file.len),
            Verdict::Part(range) => (StatusCode::PARTIAL_CONTENT, range),
            Verdict::NotModified => (StatusCode::NOT_MODIFIED, 0..0),
            Verdict::PreconditionFailed => {
                return Ok(*plain(StatusCode::PRECONDITION_FAILED, "the file is another one by now"));
            }
            Verdict::Unsatisfiable => return Ok(unsatisfiable(file.len)),
        };
        let sends = self.method != Method::HEAD && status != StatusCode::NOT_MODIFIED;
        let body = if sends { self.body(&file, range.clone()).await? } else { body::empty() };
        let mut response = Response::new(body);
        *response.status_mut() = status;
        let headers = response.headers_mut();
        if let Ok(tag) = HeaderValue::try_from(validators.entity_tag()) {
            headers.insert(header::ETAG, tag);
        }
        if let Ok(date) = HeaderValue::try_from(httpdate::fmt_http_date(validators.modified_at(now))) {
            headers.insert(header::LAST_MODIFIED, date);
        }
        headers.insert(header::CACHE_CONTROL, self.server.cache_control.clone());
        headers.insert(header::ACCEPT_RANGES, HeaderValue::from_static("bytes"));
        if status == StatusCode::NOT_MODIFIED {
            return Ok(response);
        }
        headers.insert(header::CONTENT_TYPE, content_type(path.file_name()));
        headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
        headers.insert(header::CONTENT_LENGTH, HeaderValue::from(range.end - range.start));
        if status == StatusCode::PARTIAL_CONTENT {
            let value = format!("bytes {}-{}/{}", range.start, range.end.saturating_sub(1), file.len);
            headers.extend(HeaderValue::try_from(value).map(|value| (header::CONTENT_RANGE, value)));
        }
        Ok(response)
    }

    /// The bytes `range` of a file. The first of them are there when this returns, so that a file
    /// that cannot be had is a 503 and not a broken 200.
    async fn body(&self, file: &File, range: Range<u64>) -> Result<Body, Absent> {
        let objects = match file.body {
            FileBody::Object(id) => vec![id],
            FileBody::List(id) => {
                let bytes = self.object(id).await?;
                let list = List::decode(&bytes, file.len);
                list.map_err(|error| Absent::Malformed(id, error.to_string()))?.objects
            }
        };
        let (start, end) = (range.start, range.end);
        let mut parts = Parts {
            content: self.server.content.clone(),
            metrics: self.server.metrics.clone(),
            origin: self.origin(),
            sending: Arc::new(Sending::new(objects)),
            file_len: file.len,
            range,
            _served: Some(self.served.clone()),
        };
        let first = parts.next().await?;
        if let Some(plan) = self.plan {
            let (site, number) = (self.served.site.clone(), self.served.number);
            let made = Plan { site, number, body: file.body, file_len: file.len, start, end };
            *plan.lock().unwrap_or_else(PoisonError::into_inner) = Some(made);
        }
        if parts.range.is_empty() {
            return Ok(body::full(first.unwrap_or_default()));
        }
        self.server.sending.add(&parts.sending);
        let first = futures::stream::iter(first.map(Ok));
        let rest = futures::stream::try_unfold(parts, |mut parts| async move {
            let bytes = parts.next().await.map_err(|absent| {
                tracing::warn!(%absent, "a response was broken off");
                io::Error::other(absent.to_string())
            })?;
            Ok(bytes.map(|bytes| (bytes, parts)))
        });
        Ok(body::streamed(futures::StreamExt::chain(first, rest)))
    }

    async fn object(&self, id: ObjectId) -> Result<Bytes, Absent> {
        let origin = self.origin();
        let object = self.server.content.open(&origin, id).await?;
        object.read(0..object.len()).await
    }

    fn origin(&self) -> Origin {
        Origin { site: self.served.site.clone(), number: self.served.number, pulled: self.pulled.clone() }
    }

    /// 404, with the site's own page for it if there is one.
    async fn not_found(&self) -> Result<Response<Body>, Absent> {
        let fallback = || *plain(StatusCode::NOT_FOUND, "there is no such file");
        let Ok(path) = SitePath::parse("/404.html") else { return Ok(fallback()) };
        let Found::File(file) = self.find(&path).await? else { return Ok(fallback()) };
        let body = match *self.method {
            Method::HEAD => body::empty(),
            _ => self.body(&file, 0..file.len).await?,
        };
        let mut response = Response::new(body);
        *response.status_mut() = StatusCode::NOT_FOUND;
        response.headers_mut().insert(header::CONTENT_TYPE, content_type(path.file_name()));
        response.headers_mut().insert(header::CONTENT_LENGTH, HeaderValue::from(file.len));
        // A cache may keep a 404 that says nothing, and the file may be there in the next version.
        response.headers_mut().insert(header::CACHE_CONTROL, NO_STORE);
        Ok(response)
    }

    fn redirect(&self, path: &SitePath, query: Option<&str>) -> Response<Body> {
        let mut response = *plain(StatusCode::MOVED_PERMANENTLY, "this is a directory");
        let location = HeaderValue::try_from(path.directory_location(query));
        response.headers_mut().extend(location.map(|location| (header::LOCATION, location)));
        response.headers_mut().insert(header::CACHE_CONTROL, self.server.cache_control.clone());
        response
    }

    /// For `Server-Timing`: how long it took until the response could begin, and whether content
    /// came from this node or was pulled from another.
    fn timing(&self) -> String {
        let source = if self.pulled.load(Ordering::Relaxed) { "pulled" } else { "local" };
        format!("{source};dur={:.3}", self.started.elapsed().as_secs_f64() * 1000.0)
    }
}

/// What is still to be sent of a file.
pub(super) struct Parts {
    content: Arc<Content>,
    metrics: Arc<HttpMetrics>,
    origin: Origin,
    /// The file's objects; each but the last has [`OBJECT_LEN_MAX`] bytes.
    sending: Arc<Sending>,
    file_len: u64,
    range: Range<u64>,
    /// Keeps the version's objects from being collected while they are sent.
    _served: Option<Arc<Served>>,
}

impl Parts {
    /// The next bytes; none at the end. Given up, it has taken none.
    pub(super) async fn next(&mut self) -> Result<Option<Bytes>, Absent> {
        if self.range.is_empty() {
            return Ok(None);
        }
        let index = (self.range.start / OBJECT_LEN_MAX) as usize;
        let Some((id, ahead)) = self.sending.object(index) else { return Ok(None) };
        let object = match ahead {
            Some(object) => object,
            None => self.content.open(&self.origin, id).await?,
        };
        let offset = index as u64 * OBJECT_LEN_MAX;
        if object.len() != List::object_len(self.file_len, index) {
            return Err(Absent::Malformed(id, "it is not as long as the directory says".into()));
        }
        let left = self.range.end - self.range.start;
        let portion = if left <= WHOLE_MAX { left } else { PORTION };
        let start = self.range.start - offset;
        let end = (start + portion).min(self.range.end - offset).min(object.len());
        let bytes = object.read(start..end).await?;
        self.range.start += bytes.len() as u64;
        self.metrics.sent(bytes.len());
        Ok(Some(bytes))
    }
}

fn check_method(method: &Method) -> Result<(), Box<Response<Body>>> {
    if method == Method::GET || method == Method::HEAD {
        return Ok(());
    }
    let known = [Method::POST, Method::PUT, Method::DELETE, Method::PATCH, Method::OPTIONS, Method::TRACE];
    // RFC 9110, 9.1: unheard-of methods are not implemented, known ones are not allowed.
    let status = match known.contains(method) || method == Method::CONNECT {
        true => StatusCode::METHOD_NOT_ALLOWED,
        false => StatusCode::NOT_IMPLEMENTED,
    };
    let mut response = plain(status, "only GET and HEAD are served here");
    response.headers_mut().insert(header::ALLOW, HeaderValue::from_static("GET, HEAD"));
    Err(response)
}

fn misdirected() -> Box<Response<Body>> {
    plain(StatusCode::MISDIRECTED_REQUEST, "this host does not serve a site of that name")
}

fn unsatisfiable(len: u64) -> Response<Body> {
    let mut response = *plain(StatusCode::RANGE_NOT_SATISFIABLE, "the file has no such bytes");
    let value = HeaderValue::try_from(format!("bytes */{len}"));
    response.headers_mut().extend(value.map(|value| (header::CONTENT_RANGE, value)));
    response
}

fn unavailable(absent: &Absent) -> Response<Body> {
    tracing::warn!(%absent, "a request could not be served");
    let mut response = *plain(StatusCode::SERVICE_UNAVAILABLE, "no copy can be reached right now");
    response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from_static(RETRY_AFTER_SECS));
    response
}

/// A response for people, in one line. Never to be cached: what it says may change at once.
fn plain(status: StatusCode, text: &'static str) -> Box<Response<Body>> {
    let mut response = Response::new(body::full(format!("{status}: {text}\n")));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
    headers.insert(header::CACHE_CONTROL, NO_STORE);
    Box::new(response)
}
