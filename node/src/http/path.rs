//! From a request target to the path of a file.
//!
//! There is no file system behind a site: a path is looked up, segment by segment, among names in
//! hashed blocks, so nothing can climb out of a tree. Still, a path that *tries* to is refused
//! rather than tidied up: whoever sends one is confused or probing, and caches in between may
//! tidy differently than we would.

use percent_encoding::{AsciiSet, CONTROLS, percent_decode_str, utf8_percent_encode};

/// The longest path taken, bytes. Longer ones are answered 414.
pub(crate) const PATH_LEN_MAX: usize = 8 * 1024;

/// Characters that are percent-encoded when a segment is written into `Location`.
const SEGMENT: &AsciiSet = &CONTROLS
    .add(b' ')
    .add(b'"')
    .add(b'#')
    .add(b'%')
    .add(b'<')
    .add(b'>')
    .add(b'?')
    .add(b'[')
    .add(b'\\')
    .add(b']')
    .add(b'^')
    .add(b'`')
    .add(b'{')
    .add(b'|')
    .add(b'}');

/// The path of a file or directory in a site.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct SitePath {
    /// Decoded; begins with a slash, no segment is empty but a last one.
    decoded: String,
}

/// Why a request target is no path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum BadPath {
    /// Over [`PATH_LEN_MAX`].
    TooLong,
    /// A broken percent-encoding, bytes that are no UTF-8, or a segment that is a place and not a name.
    Malformed,
    /// Well formed, and certainly the name of nothing: an empty segment, a control character.
    Nothing,
}

impl SitePath {
    /// Reads the path of a request target, without its query.
    pub(crate) fn parse(raw: &str) -> Result<SitePath, BadPath> {
        if raw.len() > PATH_LEN_MAX {
            return Err(BadPath::TooLong);
        }
        // OPTIONS * and CONNECT have no path.
        let Some(segments) = raw.strip_prefix('/') else { return Err(BadPath::Malformed) };
        let mut decoded = String::with_capacity(raw.len());
        let mut rest = segments.split('/').peekable();
        while let Some(segment) = rest.next() {
            let segment = decode(segment)?;
            let last = rest.peek().is_none();
            if segment.is_empty() && !last || segment.contains(|c: char| c.is_control()) {
                return Err(BadPath::Nothing);
            }
            decoded.push('/');
            decoded.push_str(&segment);
        }
        Ok(SitePath { decoded })
    }

    /// The decoded path, which begins with a slash.
    pub(crate) fn as_str(&self) -> &str {
        &self.decoded
    }

    /// Whether it asks for a directory.
    pub(crate) fn is_directory(&self) -> bool {
        self.decoded.ends_with('/')
    }

    /// The index of the directory it asks for.
    pub(crate) fn index(&self) -> SitePath {
        SitePath { decoded: format!("{}index.html", self.decoded) }
    }

    /// A reference to the directory of this name, percent-encoded, with the query kept.
    pub(crate) fn directory_location(&self, query: Option<&str>) -> String {
        let mut location: String = self
            .decoded
            .split('/')
            .skip(1)
            .flat_map(|segment| ["/".into(), utf8_percent_encode(segment, SEGMENT).to_string()])
            .collect();
        location.push('/');
        if let Some(query) = query {
            location.push('?');
            location.push_str(query);
        }
        location
    }

    /// The last segment.
    pub(crate) fn file_name(&self) -> &str {
        self.decoded.rsplit('/').next().unwrap_or_default()
    }
}

fn decode(segment: &str) -> Result<String, BadPath> {
    let bytes = segment.as_bytes();
    for (index, _) in bytes.iter().enumerate().filter(|(_, byte)| **byte == b'%') {
        let digits = bytes.get(index + 1..index + 3).unwrap_or_default();
        if digits.len() != 2 || !digits.iter().all(u8::is_ascii_hexdigit) {
            return Err(BadPath::Malformed);
        }
    }
    let decoded = percent_decode_str(segment).decode_utf8().map_err(|_| BadPath::Malformed)?;
    // An encoded slash would be another path than the one that caches and filters in between saw.
    if decoded == "." || decoded == ".." || decoded.contains(['/', '\0']) {
        return Err(BadPath::Malformed);
    }
    Ok(decoded.into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(raw: &str, expected: Result<&str, BadPath>) {
        let path = SitePath::parse(raw);
        assert_eq!(path.as_ref().map(SitePath::as_str).map_err(|e| *e), expected, "{raw:?}");
    }

    #[test]
    fn rfc3986_2_1_percent_encoding_is_decoded_once() {
        check("/", Ok("/"));
        check("/a/b.html", Ok("/a/b.html"));
        check("/a%20b/", Ok("/a b/"));
        check("/%E6%9D%B1.html", Ok("/東.html"));
        check("/%2565", Ok("/%65"));
        check("/100%", Err(BadPath::Malformed));
        check("/%zz", Err(BadPath::Malformed));
        check("/%ff", Err(BadPath::Malformed));
        check("/%+1", Err(BadPath::Malformed));
    }

    #[test]
    fn nothing_climbs() {
        for raw in ["/..", "/a/../b", "/%2e%2e/x", "/.%2E", "/./a", "/a%2Fb", "/a%00b", "*", "", "a"] {
            check(raw, Err(BadPath::Malformed));
        }
        for raw in ["//", "//a", "/a//b", "/a%0Ab"] {
            check(raw, Err(BadPath::Nothing));
        }
        check(&format!("/{}", "a".repeat(PATH_LEN_MAX)), Err(BadPath::TooLong));
        // Names with dots and backslashes in them are names.
        check("/..a", Ok("/..a"));
        check("/a\\..", Ok("/a\\.."));
    }

    #[test]
    fn a_directory_is_named_with_its_slash_and_stays_on_this_host() {
        let location = |raw: &str, query| SitePath::parse(raw).unwrap().directory_location(query);
        assert_eq!(location("/docs", None), "/docs/");
        assert_eq!(location("/a%20b/c%3F", Some("x=1&y")), "/a%20b/c%3F/?x=1&y");
        assert_eq!(location("/%5Cevil.example", None), "/%5Cevil.example/");
        assert_eq!(SitePath::parse("/d/").unwrap().index().as_str(), "/d/index.html");
    }
}
