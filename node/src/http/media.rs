//! The media type of a file, by its name.

use http::HeaderValue;

/// The `Content-Type` of a file of this name.
///
/// Text is labelled UTF-8: publishing refuses other names, and a site in another encoding says so
/// in its documents. What is unknown is a stream of bytes, which browsers save and do not guess at.
pub(crate) fn content_type(file_name: &str) -> HeaderValue {
    let guess = mime_guess::from_path(file_name).first_raw().unwrap_or("application/octet-stream");
    let textual = guess.starts_with("text/") || guess == "application/javascript";
    let value = if textual { format!("{guess}; charset=utf-8") } else { guess.to_owned() };
    HeaderValue::try_from(value).unwrap_or_else(|_| HeaderValue::from_static("application/octet-stream"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn types_come_from_names_and_text_has_a_charset() {
        for (name, expected) in [
            ("index.html", "text/html; charset=utf-8"),
            ("a.CSS", "text/css; charset=utf-8"),
            ("notes.txt", "text/plain; charset=utf-8"),
            ("a.js", "text/javascript; charset=utf-8"),
            ("a.json", "application/json"),
            ("a.png", "image/png"),
            ("a.svg", "image/svg+xml"),
            ("a.wasm", "application/wasm"),
            ("release.tar.gz", "application/gzip"),
            ("README", "application/octet-stream"),
            ("a.unheard-of", "application/octet-stream"),
        ] {
            assert_eq!(content_type(name), expected, "{name}");
        }
    }
}
