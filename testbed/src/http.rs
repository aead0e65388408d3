//! An HTTP/1.1 client as small as can be: GET, keep-alive, bodies with a length. It times what it
//! does, and it talks to unix sockets too.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::time::{Duration, Instant};

/// The longest body taken, bytes: the demo's files and a daemon's reports are far smaller.
const BODY_LEN_MAX: u64 = 64 << 20;
/// The longest head of a response, bytes.
const HEAD_LEN_MAX: u64 = 64 << 10;

/// A response.
#[derive(Clone, Debug)]
pub struct Response {
    /// Its status.
    pub status: u16,
    /// Its fields, names in lower case.
    pub fields: Vec<(String, String)>,
    /// Its body.
    pub body: Vec<u8>,
    /// From the request's first byte to the response's.
    pub first_byte: Duration,
    /// From the request's first byte to the response's last.
    pub whole: Duration,
}

impl Response {
    /// The value of a field, named in lower case.
    pub fn field(&self, name: &str) -> Option<&str> {
        self.fields.iter().find(|(field, _)| field == name).map(|(_, value)| value.as_str())
    }
}

/// A connection that carries one request after another.
pub struct Connection<S: Read + Write> {
    stream: BufReader<S>,
}

impl<S: Read + Write> Connection<S> {
    /// Talks over `stream`, whose timeouts the caller has set.
    pub fn new(stream: S) -> Connection<S> {
        Connection { stream: BufReader::new(stream) }
    }

    /// Fetches `path` from `host`.
    pub fn get(&mut self, host: &str, path: &str) -> io::Result<Response> {
        let started = Instant::now();
        let request = format!("GET {path} HTTP/1.1\r\nHost: {host}\r\nUser-Agent: godwit-testbed\r\n\r\n");
        self.stream.get_mut().write_all(request.as_bytes())?;
        self.stream.fill_buf()?;
        let first_byte = started.elapsed();
        let (status, fields) = self.read_head()?;
        let mut response = Response { status, fields, body: Vec::new(), first_byte, whole: first_byte };
        self.read_body(&mut response)?;
        response.whole = started.elapsed();
        Ok(response)
    }

    fn read_head(&mut self) -> io::Result<(u16, Vec<(String, String)>)> {
        let mut head = (&mut self.stream).take(HEAD_LEN_MAX);
        let mut line = String::new();
        head.read_line(&mut line)?;
        let status =
            line.strip_prefix("HTTP/1.").and_then(|rest| rest.split(' ').nth(1)?.trim().parse().ok());
        let status = status.ok_or_else(|| malformed("status line"))?;
        let mut fields = Vec::new();
        loop {
            line.clear();
            if head.read_line(&mut line)? == 0 {
                return Err(malformed("header"));
            }
            let trimmed = line.trim_end();
            if trimmed.is_empty() {
                return Ok((status, fields));
            }
            let (name, value) = trimmed.split_once(':').ok_or_else(|| malformed("field"))?;
            fields.push((name.to_ascii_lowercase(), value.trim().to_owned()));
        }
    }

    fn read_body(&mut self, response: &mut Response) -> io::Result<()> {
        if matches!(response.status, 204 | 304) {
            return Ok(());
        }
        if response.field("transfer-encoding").is_some_and(|coding| coding.eq_ignore_ascii_case("chunked")) {
            return self.read_chunks(&mut response.body);
        }
        let Some(len) = response.field("content-length") else {
            (&mut self.stream).take(BODY_LEN_MAX).read_to_end(&mut response.body)?;
            return Ok(());
        };
        let len: u64 = len.parse().map_err(|_| malformed("length"))?;
        self.read_exactly(len, &mut response.body)
    }

    fn read_chunks(&mut self, body: &mut Vec<u8>) -> io::Result<()> {
        loop {
            let mut line = String::new();
            (&mut self.stream).take(64).read_line(&mut line)?;
            let digits = line.split(';').next().unwrap_or_default().trim();
            let len = u64::from_str_radix(digits, 16).map_err(|_| malformed("chunk"))?;
            self.read_exactly(len, body)?;
            (&mut self.stream).take(64).read_line(&mut String::new())?;
            if len == 0 {
                return Ok(());
            }
        }
    }

    fn read_exactly(&mut self, len: u64, body: &mut Vec<u8>) -> io::Result<()> {
        if len > BODY_LEN_MAX {
            return Err(malformed("length"));
        }
        let read = (&mut self.stream).take(len).read_to_end(body)?;
        if (read as u64) < len { Err(io::ErrorKind::UnexpectedEof.into()) } else { Ok(()) }
    }
}

fn malformed(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("the response has a malformed {what}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Cursor;

    /// Answers with what it was given, whatever is asked.
    struct Canned(Cursor<Vec<u8>>);

    impl Read for Canned {
        fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
            self.0.read(buffer)
        }
    }

    impl Write for Canned {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            Ok(bytes.len())
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn connection(text: &str) -> Connection<Canned> {
        Connection::new(Canned(Cursor::new(text.as_bytes().to_vec())))
    }

    #[test]
    fn two_responses_on_one_connection() {
        let mut connection = connection(
            "HTTP/1.1 200 OK\r\nContent-Length: 5\r\nGodwit-Node: a\r\n\r\nhello\
             HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n",
        );
        let first = connection.get("h", "/").unwrap();
        assert_eq!(
            (first.status, first.body.as_slice(), first.field("godwit-node")),
            (200, &b"hello"[..], Some("a"))
        );
        assert_eq!(connection.get("h", "/").unwrap().body, b"abc");
        assert!(connection.get("h", "/").is_err());
    }

    #[test]
    fn a_short_body_is_an_error() {
        for text in ["HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nabc", "junk\r\n\r\n", "HTTP/1.1 200 OK\r\n"]
        {
            assert!(connection(text).get("h", "/").is_err(), "{text}");
        }
    }
}
