//! The server's side of the control endpoint: sockets, routes, errors as JSON.

use super::api::{self, Code, Error};
use super::host::{Host, Question};
use super::{report, upload};
use crate::collect::{Collector, NotCollected};
use crate::content::Content;
use crate::driver::{Command, Failure};
use crate::held::Held;
use crate::http::{Body, full};
use crate::metrics::Metrics;
use crate::mobility::Mobility;
use crate::snapshot::Snapshot;
use bytes::Bytes;
use godwit_core::content::{ObjectId, SiteVersion, VersionNumber};
use godwit_core::key::{MemberId, NetworkId};
use godwit_core::member::SubmitError;
use godwit_core::name::{SiteName, ZoneName};
use godwit_core::record::Record;
use godwit_core::wire;
use godwit_map::Shared;
use http::{HeaderValue, Method, Request, Response, StatusCode, header};
use http_body_util::{BodyExt, Limited};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::collections::BTreeMap;
use std::convert::Infallible;
use std::future::poll_fn;
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, UnixListener};
use tokio::sync::{Semaphore, mpsc, oneshot, watch};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// Connections at once. Operators and monitors are few; a script gone wild is held back.
const CONNECTIONS_MAX: usize = 64;

/// The longest JSON request: [`api::OBJECTS_MAX`] names are 2.2 MB.
const JSON_LEN_MAX: usize = 4 * 1024 * 1024;

/// A request's header must come within this.
const HEADER_TIMEOUT: Duration = Duration::from_secs(10);

/// Everything that the endpoint tells and asks.
pub(crate) struct Control {
    pub(crate) network: NetworkId,
    pub(crate) zone: ZoneName,
    pub(crate) own: MemberId,
    pub(crate) incarnation: u64,
    pub(crate) started: Instant,
    pub(crate) snapshots: watch::Receiver<Arc<Snapshot>>,
    pub(crate) commands: mpsc::Sender<Command>,
    pub(crate) content: Arc<Content>,
    pub(crate) held: Arc<Held>,
    pub(crate) collector: Arc<Collector>,
    pub(crate) generation: Shared,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) uploads: Semaphore,
    pub(crate) stop: CancellationToken,
    /// The process around the runtime, once it is there.
    pub(crate) host: Arc<OnceLock<Arc<dyn Host>>>,
    /// Home addresses at this node, where it may serve some.
    pub(crate) mobility: Option<Mobility>,
}

/// How much of the endpoint a listener offers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Scope {
    /// All of it: the unix socket.
    Everything,
    /// `/livez`, `/readyz` and `/metrics`: a TCP address.
    Monitoring,
}

/// Serves the unix socket until the daemon stops.
pub(crate) async fn serve_unix(listener: Arc<UnixListener>, control: Arc<Control>, tasks: TaskTracker) {
    let stop = control.stop.clone();
    let accept = |context: &mut Context<'_>| listener.poll_accept(context).map_ok(|(stream, _)| stream);
    serve(accept, Member { control, scope: Scope::Everything }, stop, tasks).await;
}

/// Serves a TCP address for monitors until `stop`.
pub(crate) async fn serve_tcp(
    listener: Arc<TcpListener>,
    control: Arc<Control>,
    stop: CancellationToken,
    tasks: TaskTracker,
) {
    let accept = |context: &mut Context<'_>| listener.poll_accept(context).map_ok(|(stream, _)| stream);
    serve(accept, Member { control, scope: Scope::Monitoring }, stop, tasks).await;
}

/// Serves a unix socket until `stop`.
pub(super) async fn serve_on(
    listener: UnixListener,
    answers: impl Answers,
    stop: CancellationToken,
    tasks: TaskTracker,
) {
    let accept = |context: &mut Context<'_>| listener.poll_accept(context).map_ok(|(stream, _)| stream);
    serve(accept, answers, stop, tasks).await;
}

/// Who answers the requests of an endpoint.
pub(super) trait Answers: Clone + Send + Sync + 'static {
    /// Answers one.
    fn answer(
        &self,
        request: Request<Incoming>,
    ) -> impl Future<Output = Result<Response<Body>, Error>> + Send;
}

/// A member, as far as a listener offers it.
#[derive(Clone)]
struct Member {
    control: Arc<Control>,
    scope: Scope,
}

impl Answers for Member {
    async fn answer(&self, request: Request<Incoming>) -> Result<Response<Body>, Error> {
        self.control.route(request, self.scope).await
    }
}

async fn serve<S>(
    mut accept: impl FnMut(&mut Context<'_>) -> Poll<std::io::Result<S>>,
    answers: impl Answers,
    stop: CancellationToken,
    tasks: TaskTracker,
) where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let places = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    loop {
        let Ok(place) = places.clone().acquire_owned().await else { return };
        let accepted = tokio::select! {
            () = stop.cancelled() => return,
            accepted = poll_fn(&mut accept) => accepted,
        };
        if let Some(stream) = accepted_or_pause(accepted).await {
            let (answers, stop) = (answers.clone(), stop.clone());
            tasks.spawn(async move {
                connection(stream, answers, stop).await;
                drop(place);
            });
        }
    }
}

async fn accepted_or_pause<T>(accepted: std::io::Result<T>) -> Option<T> {
    match accepted {
        Ok(accepted) => Some(accepted),
        Err(error) => {
            tracing::warn!(%error, "accepting a control connection failed");
            tokio::time::sleep(Duration::from_millis(100)).await;
            None
        }
    }
}

async fn connection<S>(stream: S, answers: impl Answers, stop: CancellationToken)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let service = service_fn(move |request| {
        let answers = answers.clone();
        async move {
            let answer = answers.answer(request).await;
            Ok::<_, Infallible>(answer.unwrap_or_else(|error| json(error.code.status(), &error)))
        }
    });
    let mut builder = hyper::server::conn::http1::Builder::new();
    builder.timer(TokioTimer::new()).header_read_timeout(HEADER_TIMEOUT).keep_alive(true);
    let mut connection = std::pin::pin!(builder.serve_connection(TokioIo::new(stream), service));
    let ended = tokio::select! {
        ended = connection.as_mut() => ended,
        () = stop.cancelled() => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(error) = ended {
        tracing::debug!(%error, "a control connection ended early");
    }
}

impl Control {
    async fn route(&self, request: Request<Incoming>, scope: Scope) -> Result<Response<Body>, Error> {
        let path = request.uri().path().to_owned();
        let segments: Vec<&str> = path.trim_start_matches('/').split('/').collect();
        let query = query(request.uri().query().unwrap_or_default());
        let segments = segments.as_slice();
        match (request.method().clone(), segments) {
            (Method::GET, ["livez"]) => Ok(text(StatusCode::OK, "live\n")),
            (Method::GET, ["readyz"]) => Ok(self.readyz()),
            (Method::GET, ["metrics"]) => self.metrics_text(),
            _ if scope == Scope::Monitoring => Err(unknown(&path)),
            (Method::GET, ["v1", "status"]) => Ok(ok(&report::status(self))),
            (Method::GET, ["v1", "why"]) => self.why(&query),
            (Method::GET, ["v1", "explain"]) => self.explain(&query),
            (Method::GET, ["v1", "home"]) => Ok(ok(&self.host()?.home().await?)),
            (Method::GET, ["v1", "home", "flows"]) => Ok(ok(&self.host()?.home_flows(most(&query)?).await?)),
            (Method::POST, ["v1", "reload"]) => self.reload().await,
            (Method::GET, ["v1", "acme"]) => Ok(ok(&self.challenges())),
            (Method::POST, ["v1", "acme"]) => Ok(ok(&self.challenge(body(request).await?).await?)),
            (Method::GET, ["v1", "sites", site]) => Ok(ok(&report::site(self, &site_name(site)?)?)),
            (Method::GET, ["v1", "sites", site, "progress"]) => self.progress(&site_name(site)?, &query),
            (Method::POST, ["v1", "objects", "missing"]) => self.missing(request).await,
            (Method::PUT, ["v1", "objects"]) => {
                let intent = query.get("intent").map(String::as_str);
                Ok(ok(&upload::take(self, intent, request.into_body()).await?))
            }
            (Method::POST, ["v1", "records"]) => self.submit(request).await,
            (Method::POST, ["v1", "collect"]) => self.collect().await,
            (Method::POST, ["v1", "serve"]) => Ok(ok(&self.serve(body(request).await?).await?)),
            (Method::POST, ["v1", "move"]) => Ok(ok(&self.move_to(body(request).await?).await?)),
            (
                _,
                ["livez" | "readyz" | "metrics"]
                | [
                    "v1",
                    "status" | "why" | "objects" | "records" | "collect" | "explain" | "reload" | "acme"
                    | "serve" | "move" | "home",
                ],
            )
            | (_, ["v1", "objects", "missing"] | ["v1", "sites", _] | ["v1", "sites", _, "progress"]) => {
                Err(Error::new(Code::Malformed, format!("{} is not a method of {path}", request.method())))
            }
            _ => Err(unknown(&path)),
        }
    }

    /// Everything known now.
    pub(super) fn snapshot(&self) -> Arc<Snapshot> {
        self.snapshots.borrow().clone()
    }

    pub(super) fn is_ready(&self) -> bool {
        self.metrics.ready.get() == 1 && !self.stop.is_cancelled()
    }

    fn readyz(&self) -> Response<Body> {
        let snapshot = self.snapshot();
        let draining = snapshot.members.get(&self.own).is_some_and(|known| known.draining);
        match (self.is_ready(), draining) {
            (true, false) => text(StatusCode::OK, "ready\n"),
            (true, true) => text(StatusCode::SERVICE_UNAVAILABLE, "draining\n"),
            (false, _) => text(StatusCode::SERVICE_UNAVAILABLE, "not ready\n"),
        }
    }

    fn metrics_text(&self) -> Result<Response<Body>, Error> {
        self.metrics.store(self.content.figures());
        let encoded = self.metrics.encode().map_err(|e| Error::new(Code::Unavailable, e.to_string()))?;
        Ok(metrics(encoded))
    }

    fn why(&self, query: &BTreeMap<String, String>) -> Result<Response<Body>, Error> {
        let site = site_name(parameter(query, "site")?)?;
        let client = parameter(query, "client")?;
        let client = client
            .parse()
            .map_err(|_| Error::new(Code::Malformed, format!("{client:?} is no IP address")))?;
        let why = self.generation.load().why(client, &site);
        why.map(|why| ok(&why)).ok_or_else(|| no_site(&site))
    }

    fn host(&self) -> Result<&Arc<dyn Host>, Error> {
        self.host.get().ok_or_else(|| Error::new(Code::Unavailable, "the daemon is still starting"))
    }

    fn explain(&self, query: &BTreeMap<String, String>) -> Result<Response<Body>, Error> {
        Ok(ok(&self.host()?.explain(&question(query)?)?))
    }

    async fn reload(&self) -> Result<Response<Body>, Error> {
        let kept = self.host()?.reload().await?;
        Ok(ok(&api::Reloaded { accepted: true, kept }))
    }

    fn progress(&self, site: &SiteName, query: &BTreeMap<String, String>) -> Result<Response<Body>, Error> {
        let number = match query.get("version") {
            None => None,
            Some(text) => Some(VersionNumber(
                text.parse().map_err(|_| Error::new(Code::Malformed, "version is a number"))?,
            )),
        };
        let hash = match query.get("hash") {
            None => None,
            Some(text) => Some(text.parse::<ObjectId>().map_err(|e| Error::new(Code::Malformed, e))?),
        };
        Ok(ok(&report::progress(self, site, number, hash)?))
    }

    async fn missing(&self, request: Request<Incoming>) -> Result<Response<Body>, Error> {
        let asked: api::Objects = body(request).await?;
        if asked.objects.len() > api::OBJECTS_MAX {
            let problem = format!("at most {} objects are asked about at once", api::OBJECTS_MAX);
            return Err(Error::new(Code::TooLarge, problem));
        }
        let parse =
            |name: &String| name.parse().map_err(|e| Error::new(Code::Malformed, format!("{name:?}: {e}")));
        let ids: Vec<ObjectId> = asked.objects.iter().map(parse).collect::<Result<_, _>>()?;
        let missing = self.content.missing(ids).await.map_err(|error| not_stored(&error))?;
        Ok(ok(&api::Objects { objects: missing.iter().map(ObjectId::to_string).collect() }))
    }

    async fn submit(&self, request: Request<Incoming>) -> Result<Response<Body>, Error> {
        let submission: api::Submission = body(request).await?;
        let malformed = |problem: String| Error::new(Code::Malformed, format!("the record: {problem}"));
        let bytes = hex::decode(&submission.record).map_err(|e| malformed(e.to_string()))?;
        let record: Record =
            wire::decode(&bytes, wire::RECORD_LEN_MAX).map_err(|e| malformed(e.to_string()))?;
        let site = match &record {
            Record::Site(version) => {
                self.check_version(version).await?;
                Some((**version).clone())
            }
            _ => None,
        };
        let (reply, answer) = oneshot::channel();
        let command = Command::Submit { record: Box::new(record), reply };
        let stopping = |_| Error::new(Code::Unavailable, "the daemon is stopping");
        self.commands.send(command).await.map_err(|e| stopping(e.to_string()))?;
        answer.await.map_err(|e| stopping(e.to_string()))?.map_err(|failure| refused(&failure))?;
        if let Some(version) = site {
            tracing::info!(site = %version.site, version = %version.number, "published here");
            // The tree is whole here: others may fetch it from this member.
            self.held.hold(version).await.map_err(|error| not_stored(&error))?;
        }
        Ok(ok(&api::Accepted { accepted: true }))
    }

    async fn collect(&self) -> Result<Response<Body>, Error> {
        // In a task of its own: a client that hangs up does not stop it half-way.
        let collector = self.collector.clone();
        let collected = tokio::spawn(async move { collector.collect().await }).await;
        match collected.map_err(|e| Error::new(Code::Unavailable, e.to_string()))? {
            Ok(done) => Ok(ok(&api::Collected { objects: done.objects, bytes: done.bytes })),
            Err(error) => {
                let code = match error {
                    NotCollected::Unsure { .. } => Code::Incomplete,
                    NotCollected::Other(_) => Code::Unavailable,
                };
                Err(Error::new(code, crate::fetch::Chain(&error).to_string()))
            }
        }
    }

    /// A version must not become current before one member holds all of it: then the others could
    /// only promise what nobody has.
    async fn check_version(&self, version: &SiteVersion) -> Result<(), Error> {
        version.verify(self.network).map_err(|e| Error::new(Code::from(&e), e.to_string()))?;
        let current = self.snapshot().sites.get(&version.site).cloned();
        if let Some(current) = current.as_ref().filter(|current| current.number > version.number) {
            return Err(refused(&Failure::Refused(SubmitError::LowerVersion { current: current.number })));
        }
        let missing = self.content.missing_of(version.root).await;
        match missing.map_err(|error| not_stored(&error))? {
            Ok(None) => Ok(()),
            Ok(Some(id)) => {
                Err(Error::new(Code::Incomplete, format!("object {id} of the version's tree is not here")))
            }
            Err(error) => Err(Error::new(Code::Malformed, format!("the version's tree: {error}"))),
        }
    }
}

/// The most flows that are told of at once.
const FLOWS_MAX: usize = 4096;

fn most(query: &BTreeMap<String, String>) -> Result<usize, Error> {
    let Some(text) = query.get("max") else { return Ok(FLOWS_MAX) };
    let most: usize = text.parse().map_err(|_| Error::new(Code::Malformed, "max is a number"))?;
    Ok(most.min(FLOWS_MAX))
}

/// What a failed submission is told.
fn refused(failure: &Failure) -> Error {
    let (code, text) = match failure {
        Failure::NotDurable(why) => (Code::NotDurable, format!("it could not be made durable: {why}")),
        Failure::Refused(error) => {
            let code = match error {
                SubmitError::LowerVersion { .. } | SubmitError::Outdated => Code::LowerVersion,
                SubmitError::Conflict { .. } => Code::Lost,
                SubmitError::NameTaken { .. } | SubmitError::AddressTaken { .. } => Code::Taken,
                SubmitError::NotAllowed(invalid) => Code::from(invalid),
                SubmitError::TooLarge { .. } => Code::TooLarge,
                SubmitError::Full => Code::Full,
                SubmitError::NotAHead => Code::Malformed,
            };
            match error {
                SubmitError::NotAllowed(invalid) => (code, format!("{error}: {invalid}")),
                _ => (code, error.to_string()),
            }
        }
    };
    Error::new(code, text)
}

/// What a failure of the store is told.
pub(super) fn not_stored(error: &godwit_store::StoreError) -> Error {
    let code = match error {
        godwit_store::StoreError::Full { .. } => Code::Full,
        godwit_store::StoreError::Closed => Code::Unavailable,
        _ => Code::NotDurable,
    };
    Error::new(code, error.to_string())
}

pub(super) fn no_site(site: &SiteName) -> Error {
    Error::new(Code::NotFound, format!("no version of a site {site} is known here"))
}

pub(super) fn unknown(path: &str) -> Error {
    Error::new(Code::NotFound, format!("there is nothing at {path}"))
}

fn site_name(text: &str) -> Result<SiteName, Error> {
    text.parse().map_err(|e| Error::new(Code::Malformed, format!("{text:?} is no site: {e}")))
}

pub(super) fn parameter<'a>(query: &'a BTreeMap<String, String>, name: &str) -> Result<&'a str, Error> {
    let missing = || Error::new(Code::Malformed, format!("the parameter {name} is missing"));
    query.get(name).map(String::as_str).ok_or_else(missing)
}

pub(super) fn question(query: &BTreeMap<String, String>) -> Result<Question, Error> {
    let address = |text: &str| {
        text.parse().map_err(|_| Error::new(Code::Malformed, format!("{text:?} is no IP address")))
    };
    Ok(Question {
        name: parameter(query, "name")?.to_owned(),
        kind: query.get("type").cloned(),
        client: address(parameter(query, "client")?)?,
        resolver: query.get("resolver").map(|text| address(text)).transpose()?,
    })
}

pub(super) fn query(text: &str) -> BTreeMap<String, String> {
    let pairs = text.split('&').filter_map(|pair| pair.split_once('='));
    let decode = |text: &str| percent_encoding::percent_decode_str(text).decode_utf8_lossy().into_owned();
    pairs.map(|(name, value)| (decode(name), decode(value))).collect()
}

pub(super) async fn body<T: DeserializeOwned>(request: Request<Incoming>) -> Result<T, Error> {
    let body = Limited::new(request.into_body(), JSON_LEN_MAX).collect().await;
    let bytes: Bytes = body.map_err(|e| Error::new(Code::TooLarge, e.to_string()))?.to_bytes();
    serde_json::from_slice(&bytes).map_err(|e| Error::new(Code::Malformed, e.to_string()))
}

pub(super) fn ok<T: Serialize>(value: &T) -> Response<Body> {
    json(StatusCode::OK, value)
}

pub(super) fn metrics(encoded: String) -> Response<Body> {
    let mut response = text(StatusCode::OK, encoded);
    let kind = "application/openmetrics-text; version=1.0.0; charset=utf-8";
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(kind));
    response
}

fn json<T: Serialize>(status: StatusCode, value: &T) -> Response<Body> {
    match serde_json::to_vec(value) {
        Ok(bytes) => {
            let mut response = Response::new(full(bytes));
            *response.status_mut() = status;
            response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
            response
        }
        Err(error) => text(StatusCode::INTERNAL_SERVER_ERROR, error.to_string()),
    }
}

pub(super) fn text(status: StatusCode, text: impl Into<Bytes>) -> Response<Body> {
    let mut response = Response::new(full(text));
    *response.status_mut() = status;
    let kind = HeaderValue::from_static("text/plain; charset=utf-8");
    response.headers_mut().insert(header::CONTENT_TYPE, kind);
    response
}
