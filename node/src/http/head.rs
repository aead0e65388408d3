//! What the head of a request says of its connection, and the head as octets again.

use bytes::Bytes;
use http::{HeaderMap, Request, Version, header};

/// Whether a connection ends with this request (RFC 9112, 9.3).
pub(super) fn ends(version: Version, headers: &HeaderMap) -> bool {
    says(headers, "close") || version < Version::HTTP_11 && !says(headers, "keep-alive")
}

/// Whether `Connection` has this option.
pub(super) fn says(headers: &HeaderMap, option: &str) -> bool {
    let lists = headers.get_all(header::CONNECTION).iter().filter_map(|value| value.to_str().ok());
    lists.flat_map(|list| list.split(',')).any(|item| item.trim().eq_ignore_ascii_case(option))
}

/// A request's head, for somebody else to read.
pub(super) fn head_of<B>(request: &Request<B>) -> Bytes {
    let mut head = Vec::with_capacity(512);
    let target = request.uri().path_and_query().map_or("/", |target| target.as_str());
    let target = if request.uri().scheme().is_some() { request.uri().to_string() } else { target.to_owned() };
    let version = if request.version() < Version::HTTP_11 { "HTTP/1.0" } else { "HTTP/1.1" };
    head.extend(format!("{} {target} {version}\r\n", request.method()).bytes());
    for (name, value) in request.headers() {
        head.extend(name.as_str().bytes());
        head.extend(b": ");
        head.extend(value.as_bytes());
        head.extend(b"\r\n");
    }
    head.extend(b"\r\n");
    head.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_head_is_read_as_it_was() {
        let request =
            Request::get("/a/b?c=d").header("host", "www").header("range", "bytes=1-").body(()).unwrap();
        let expected = "GET /a/b?c=d HTTP/1.1\r\nhost: www\r\nrange: bytes=1-\r\n\r\n";
        assert_eq!(head_of(&request), expected);
    }

    #[test]
    fn rfc9112_9_3_a_connection_ends_when_it_is_said() {
        let headers = |value: &str| HeaderMap::from_iter([(header::CONNECTION, value.parse().unwrap())]);
        for (version, value, expected) in [
            (Version::HTTP_11, "upgrade", false),
            (Version::HTTP_11, "x, Close", true),
            (Version::HTTP_10, "x", true),
            (Version::HTTP_10, "keep-alive", false),
        ] {
            assert_eq!(ends(version, &headers(value)), expected, "{version:?} {value}");
        }
        assert!(ends(Version::HTTP_10, &HeaderMap::new()));
    }
}
