//! Responses that are no file: what was wrong, in one line for people.

use super::body::{self, Body};
use crate::content::Absent;
use http::{HeaderValue, Method, Response, StatusCode, header};

/// Clients are asked to come again after so many seconds when no holder can be reached: failed
/// members leave the map within three.
const RETRY_AFTER_SECS: &str = "3";

/// For what may be otherwise at any moment.
pub(super) const NO_STORE: HeaderValue = HeaderValue::from_static("no-store");

/// Only reading is served here.
pub(super) fn check_method(method: &Method) -> Result<(), Box<Response<Body>>> {
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

/// A request for a site that is not here.
pub(super) fn misdirected() -> Box<Response<Body>> {
    plain(StatusCode::MISDIRECTED_REQUEST, "this host does not serve a site of that name")
}

/// The file has `len` octets, and none of those that were asked for.
pub(super) fn unsatisfiable(len: u64) -> Response<Body> {
    let mut response = *plain(StatusCode::RANGE_NOT_SATISFIABLE, "the file has no such bytes");
    let value = HeaderValue::try_from(format!("bytes */{len}"));
    response.headers_mut().extend(value.map(|value| (header::CONTENT_RANGE, value)));
    response
}

/// Content is nowhere in reach.
pub(super) fn unavailable(absent: &Absent) -> Response<Body> {
    tracing::warn!(%absent, "a request could not be served");
    let mut response = *plain(StatusCode::SERVICE_UNAVAILABLE, "no copy can be reached right now");
    response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from_static(RETRY_AFTER_SECS));
    response
}

/// A response for people, in one line. Never to be cached: what it says may change at once.
pub(super) fn plain(status: StatusCode, text: &'static str) -> Box<Response<Body>> {
    let mut response = Response::new(body::full(format!("{status}: {text}\n")));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
    headers.insert(header::CACHE_CONTROL, NO_STORE);
    Box::new(response)
}
