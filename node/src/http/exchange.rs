//! One request being answered: from its path to a file, and to the part of it that is wanted.

use super::body::{self, Body};
use super::media::content_type;
use super::moved::Plan;
use super::parts::Parts;
use super::path::{BadPath, SitePath};
use super::precondition::{Validators, Verdict, evaluate};
use super::refusal::{NO_STORE, plain, unsatisfiable};
use super::sending::Sending;
use super::serve::Server;
use super::sites::Served;
use crate::content::{Absent, Origin};
use bytes::Bytes;
use godwit_core::content::ObjectId;
use godwit_core::content::tree::{Body as FileBody, File, List, Resolve, Step};
use http::{HeaderValue, Method, Request, Response, StatusCode, header};
use std::io;
use std::ops::Range;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Instant, SystemTime};

/// What a path leads to.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Found {
    File(File),
    Directory,
    Nothing,
}

/// One request being answered.
pub(super) struct Exchange<'a> {
    pub(super) server: &'a Server,
    pub(super) method: &'a Method,
    pub(super) served: Arc<Served>,
    pub(super) started: Instant,
    /// Whether something had to be fetched from another member.
    pub(super) pulled: Arc<AtomicBool>,
    /// Of what the response is made, for connections that can move.
    pub(super) plan: Option<&'a Mutex<Option<Plan>>>,
}

impl Exchange<'_> {
    /// The response, but for what is the same in all.
    pub(super) async fn answer<B>(&self, request: &Request<B>) -> Result<Response<Body>, Absent> {
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
    pub(super) fn timing(&self) -> String {
        let source = if self.pulled.load(Ordering::Relaxed) { "pulled" } else { "local" };
        format!("{source};dur={:.3}", self.started.elapsed().as_secs_f64() * 1000.0)
    }
}
