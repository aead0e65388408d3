//! DNS over HTTPS (RFC 8484): GET and POST, over HTTP/2 and HTTP/1.1.
//!
//! | request | reply |
//! |---|---|
//! | `GET <path>?dns=<base64url>` | 200, `application/dns-message` |
//! | `POST <path>`, `application/dns-message` | 200, the same |
//! | another path | 404 |
//! | another method | 405, with `Allow` |
//! | another content type | 415 |
//! | a body that is too long, or none in time | 413, 408 |
//! | no query in it | 400 |
//!
//! A DNS error is an answer like others, with 200 (RFC 8484, 4.2.1). `Cache-Control` has the smallest
//! TTL as its `max-age` (5.1), and says `private`, because an answer is for the client that asked.
//!
//! Bounded: concurrent streams, header and body sizes, time for a header and a body, and time
//! without a request, as on every other transport.

use crate::edns::skip_name;
use crate::listeners::Stopped;
use crate::metrics::Drop;
use crate::stream::{Conversation, QUERY_LEN_MAX, Service};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use bytes::Bytes;
use http::{HeaderValue, Method, Request, Response, StatusCode, header};
use http_body_util::{BodyExt, Full, LengthLimitError, Limited};
use hyper::body::Body;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::{sleep, timeout};

/// Requests at a time on one connection: a browser's page of names; more than that wait.
const STREAMS_MAX: u32 = 64;
/// Octets of headers. Browsers send about one thousand; a query in the path adds up to 5,500.
const HEADERS_LEN_MAX: usize = 16 * 1024;
/// Octets of HTTP/2 frames that wait to be sent on one connection.
const SEND_BUFFER_MAX: usize = 16 * 1024;
const MEDIA_TYPE: &str = "application/dns-message";

/// Serves HTTP on one connection until it ends, was silent too long, or is asked to end.
pub(crate) async fn serve<S>(conversation: Conversation<S>, path: Arc<str>, mut stopped: Stopped)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let Conversation { stream, source, service, place, .. } = conversation;
    let (idle, metrics) = (service.idle.clone(), service.engine.metrics.clone());
    let mut builder = auto::Builder::new(TokioExecutor::new());
    builder
        .http1()
        .timer(TokioTimer::new())
        .header_read_timeout(idle.get())
        .max_buf_size(HEADERS_LEN_MAX)
        .http2()
        .timer(TokioTimer::new())
        .max_concurrent_streams(STREAMS_MAX)
        .max_header_list_size(HEADERS_LEN_MAX as u32)
        .max_send_buf_size(SEND_BUFFER_MAX)
        .initial_stream_window_size(QUERY_LEN_MAX as u32)
        .initial_connection_window_size(64 * 1024);
    let place = Arc::new(place);
    let progress = place.clone();
    let handler = hyper::service::service_fn(move |request: Request<hyper::body::Incoming>| {
        let (service, path, progress) = (service.clone(), path.clone(), progress.clone());
        async move {
            let response = answer(request, source, &path, &service).await;
            if response.status() == StatusCode::OK {
                progress.touch();
            }
            Ok::<_, std::convert::Infallible>(response)
        }
    });
    let mut connection = pin!(builder.serve_connection(TokioIo::new(stream), handler));
    let mut graceful = false;
    loop {
        let left = idle.get().saturating_sub(place.quiet());
        tokio::select! {
            // What goes wrong on a connection is between it and its client.
            _ = connection.as_mut() => return,
            () = sleep(left.max(Duration::from_millis(10))) => {
                if place.quiet() >= idle.get() {
                    return metrics.dropped(Drop::Idle);
                }
            }
            _ = stopped.changed(), if !graceful => {
                graceful = true;
                connection.as_mut().graceful_shutdown();
            }
        }
    }
}

async fn answer<B>(
    request: Request<B>,
    source: SocketAddr,
    path: &str,
    service: &Service,
) -> Response<Full<Bytes>>
where
    B: Body<Data = Bytes>,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    let idle = service.idle.get();
    match query(request, path, idle).await {
        Ok(query) => match service.reply(&query, source, crate::metrics::Transport::Https, idle).await {
            Some(reply) => message(reply),
            None => plain(StatusCode::BAD_REQUEST, "this is no query\n"),
        },
        Err(response) => *response,
    }
}

/// The query in a request, or what is wrong with it.
async fn query<B>(
    request: Request<B>,
    path: &str,
    idle: Duration,
) -> Result<Vec<u8>, Box<Response<Full<Bytes>>>>
where
    B: Body<Data = Bytes>,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    let refuse = |status, text| Err(Box::new(plain(status, text)));
    if request.uri().path() != path {
        return refuse(StatusCode::NOT_FOUND, "no such path\n");
    }
    match *request.method() {
        Method::GET => {
            let parameters = request.uri().query().unwrap_or_default();
            let dns = parameters.split('&').find_map(|parameter| parameter.strip_prefix("dns="));
            // RFC 8484, 6: base64url without padding.
            match dns.map(|dns| URL_SAFE_NO_PAD.decode(dns)) {
                Some(Ok(query)) if query.len() <= QUERY_LEN_MAX => Ok(query),
                Some(Ok(_)) => refuse(StatusCode::URI_TOO_LONG, "this is no query\n"),
                _ => refuse(StatusCode::BAD_REQUEST, "expected ?dns= with a query in base64url\n"),
            }
        }
        Method::POST => {
            let kind = request.headers().get(header::CONTENT_TYPE).and_then(|kind| kind.to_str().ok());
            if !kind.is_some_and(|kind| kind.trim().eq_ignore_ascii_case(MEDIA_TYPE)) {
                return refuse(StatusCode::UNSUPPORTED_MEDIA_TYPE, "expected application/dns-message\n");
            }
            match timeout(idle, Limited::new(request.into_body(), QUERY_LEN_MAX).collect()).await {
                Ok(Ok(body)) => Ok(body.to_bytes().to_vec()),
                Ok(Err(error)) if error.is::<LengthLimitError>() => {
                    refuse(StatusCode::PAYLOAD_TOO_LARGE, "this is no query\n")
                }
                Ok(Err(_)) => refuse(StatusCode::BAD_REQUEST, "the body did not come whole\n"),
                Err(_) => refuse(StatusCode::REQUEST_TIMEOUT, "the body did not come in time\n"),
            }
        }
        _ => {
            let mut response = plain(StatusCode::METHOD_NOT_ALLOWED, "GET or POST\n");
            response.headers_mut().insert(header::ALLOW, HeaderValue::from_static("GET, POST"));
            Err(Box::new(response))
        }
    }
}

fn message(reply: Vec<u8>) -> Response<Full<Bytes>> {
    let max_age = smallest_ttl(&reply).unwrap_or(0);
    let mut response = Response::new(Full::new(Bytes::from(reply)));
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(MEDIA_TYPE));
    if let Ok(value) = HeaderValue::from_str(&format!("private, max-age={max_age}")) {
        headers.insert(header::CACHE_CONTROL, value);
    }
    response
}

fn plain(status: StatusCode, text: &'static str) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(Bytes::from_static(text.as_bytes())));
    *response.status_mut() = status;
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("text/plain"));
    response
}

/// RFC 8484, 5.1: the smallest TTL of the answer section; without one, how long a negative answer
/// may be kept (RFC 2308, 5: the SOA's TTL or its MINIMUM, whichever is less).
fn smallest_ttl(reply: &[u8]) -> Option<u32> {
    const TYPE_SOA: u16 = 6;
    let short = |at: usize| Some(u16::from_be_bytes([*reply.get(at)?, *reply.get(at + 1)?]));
    let long = |at: usize| Some(u32::from(short(at)?) << 16 | u32::from(short(at + 2)?));
    let mut at = 12;
    for _ in 0..short(4)? {
        at = skip_name(reply, at)? + 4;
    }
    let (answers, authority) = (short(6)?, short(8)?);
    let mut smallest = None;
    for number in 0..u32::from(answers) + u32::from(authority) {
        at = skip_name(reply, at)?;
        let (kind, ttl, len) = (short(at)?, long(at + 4)?, usize::from(short(at + 8)?));
        at += 10 + len;
        let ttl = match (number < u32::from(answers), kind, answers) {
            (true, ..) => ttl,
            (false, TYPE_SOA, 0) => ttl.min(long(at.checked_sub(4)?)?),
            _ => continue,
        };
        smallest = Some(smallest.map_or(ttl, |smallest: u32| smallest.min(ttl)));
    }
    smallest
}
