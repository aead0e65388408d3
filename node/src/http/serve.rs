//! From a request to a response.
//!
//! A request names a site (host) and a path. The site's version was chosen for the connection
//! ([`super::sites`]); from its root the path leads through directory blocks to a file, and
//! everything under a root is immutable, so one response never mixes versions whatever is published
//! meanwhile. Blocks and bytes that are not here are pulled from the nearest holder by
//! [`Content`], which also replaces what the disk has damaged.

use super::body::Body;
use super::exchange::Exchange;
use super::host::{Hosts, NoSite};
use super::moved::Plan;
use super::parts::Parts;
use super::path::SitePath;
use super::refusal::{check_method, misdirected, plain, unavailable};
use super::sending::{AllSending, Sending};
use super::sites::{Pins, Sites};
use crate::content::{Content, Origin};
use crate::metrics::HttpMetrics;
use godwit_core::content::tree::{Body as FileBody, File, Resolve, Step};
use godwit_core::content::{ObjectId, VersionNumber};
use godwit_core::name::SiteName;
use http::{HeaderValue, Request, Response, StatusCode, Version, header};
use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};
use tokio_util::task::TaskTracker;

/// Paths whose files are remembered: 100 to 300 bytes each.
const FOUND_MAX: usize = 16 * 1024;

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

/// Remembers where paths lead. Keyed by the root, so nothing in it is ever out of date.
#[derive(Default)]
pub(crate) struct FoundCache {
    files: Mutex<HashMap<(ObjectId, SitePath), File>>,
}

impl FoundCache {
    /// Where a path led before.
    pub(super) fn get(&self, key: &(ObjectId, SitePath)) -> Option<File> {
        self.files.lock().unwrap_or_else(PoisonError::into_inner).get(key).cloned()
    }

    /// A path leads there.
    pub(super) fn insert(&self, key: (ObjectId, SitePath), file: File) {
        let mut files = self.files.lock().unwrap_or_else(PoisonError::into_inner);
        // Starting anew costs a walk per path and needs no order of use to be kept.
        if files.len() >= FOUND_MAX {
            files.clear();
        }
        files.insert(key, file);
    }
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
