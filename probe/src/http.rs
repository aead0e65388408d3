//! One HTTP/1.1 request on a connection of its own.

use crate::tls::{Trust, server_name};
use crate::{Fault, connect};
use bytes::{Bytes, BytesMut};
use godwit_core::health::{Failure, HttpProbe, Method, Tls};
use http::{HeaderMap, HeaderName, HeaderValue, header};
use http_body_util::{BodyExt, Empty};
use hyper_util::rt::TokioIo;
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};
use tokio::io::{AsyncRead, AsyncWrite};

/// At most so much of a body is read: what a check looks for stands at the beginning.
pub const BODY_READ_MAX: usize = 64 * 1024;

/// At most so much of a header is read.
const HEADER_MAX: usize = 32 * 1024;

/// What is asked.
#[derive(Clone, Debug)]
pub struct Request {
    /// Whether and how TLS is spoken.
    pub tls: Option<Tls>,
    /// The method.
    pub method: Method,
    /// The path, from its slash, with the query if any.
    pub path: String,
    /// `Host`, and the name that the certificate must be for; not set: the address.
    pub host: Option<String>,
    /// Further fields.
    pub fields: HeaderMap,
}

/// What came.
#[derive(Clone, Debug)]
pub struct Answer {
    /// The status code.
    pub status: u16,
    /// The header.
    pub fields: HeaderMap,
    /// The body, at most [`BODY_READ_MAX`] bytes of it.
    pub body: Bytes,
    /// How long all of it took, from the first packet on.
    pub took: Duration,
}

impl Request {
    /// A GET of `path`.
    pub fn get(path: impl Into<String>) -> Request {
        Request { tls: None, method: Method::Get, path: path.into(), host: None, fields: HeaderMap::new() }
    }

    /// What a check asks.
    pub fn of(probe: &HttpProbe) -> Request {
        let (tls, method) = (probe.tls.clone(), probe.method);
        Request { tls, method, path: probe.path.clone(), host: probe.host.clone(), fields: HeaderMap::new() }
    }
}

/// Whether an answer is what a check calls right.
pub fn judge(probe: &HttpProbe, answer: &Answer) -> Result<Duration, Failure> {
    if !probe.accepts(answer.status) {
        return Err(Failure::Status(answer.status));
    }
    let Some(text) = &probe.body else { return Ok(answer.took) };
    let found = answer.body.windows(text.len()).any(|window| window == text.as_bytes());
    if found { Ok(answer.took) } else { Err(Failure::Body) }
}

pub(crate) async fn exchange(trust: &Trust, address: SocketAddr, request: &Request) -> Result<Answer, Fault> {
    let started = Instant::now();
    let message = message(address, request)?;
    // Before anything is sent: a vantage that cannot verify asks nothing.
    let connector = match &request.tls {
        Some(tls) => Some((trust.connector(tls)?, server_name(request.host.as_deref(), address.ip())?)),
        None => None,
    };
    let stream = connect(address).await?;
    let answer = match connector {
        None => talk(stream, message).await,
        Some((connector, name)) => {
            let stream = connector.connect(name, stream).await.map_err(|_| Failure::Tls)?;
            talk(stream, message).await
        }
    };
    let (status, fields, body) = answer?;
    Ok(Answer { status, fields, body, took: started.elapsed() })
}

fn message(address: SocketAddr, request: &Request) -> Result<http::Request<Empty<Bytes>>, Fault> {
    let host = match &request.host {
        Some(host) => host.clone(),
        None => match (address.ip(), address.port()) {
            (IpAddr::V4(ip), 80) => ip.to_string(),
            (IpAddr::V6(ip), 80) => format!("[{ip}]"),
            _ => address.to_string(),
        },
    };
    let here = |error: http::Error| Fault::Here(error.to_string());
    let mut message = http::Request::builder()
        .method(request.method.as_str())
        .uri(&request.path)
        .header(header::HOST, host)
        .header(header::USER_AGENT, concat!("godwit-probe/", env!("CARGO_PKG_VERSION")))
        .header(header::CONNECTION, "close")
        .body(Empty::new())
        .map_err(here)?;
    let fields =
        request.fields.iter().map(|(name, value): (&HeaderName, &HeaderValue)| (name.clone(), value.clone()));
    message.headers_mut().extend(fields);
    Ok(message)
}

async fn talk<S>(stream: S, message: http::Request<Empty<Bytes>>) -> Result<(u16, HeaderMap, Bytes), Failure>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let mut builder = hyper::client::conn::http1::Builder::new();
    let made = builder.max_buf_size(HEADER_MAX).handshake(TokioIo::new(stream)).await;
    let (mut sender, connection) = made.map_err(|error| failure(&error))?;
    // The connection moves only while it is polled, and ends when this function does. It may end
    // before what it has received was taken from it.
    let mut connection = std::pin::pin!(connection);
    let mut asked = std::pin::pin!(sender.send_request(message));
    let mut open = true;
    let mut cause = None;
    let response = loop {
        tokio::select! {
            biased;
            response = &mut asked => break response.map_err(|error| cause.unwrap_or_else(|| failure(&error)))?,
            ended = &mut connection, if open => {
                open = false;
                cause = ended.err().map(|error| failure(&error));
            }
        }
    };
    let (head, mut body) = response.into_parts();
    let mut bytes = BytesMut::new();
    while bytes.len() < BODY_READ_MAX {
        let frame = tokio::select! {
            biased;
            frame = body.frame() => frame,
            _ = &mut connection, if open => {
                open = false;
                continue;
            }
        };
        let Some(frame) = frame else { break };
        if let Ok(data) = frame.map_err(|error| failure(&error))?.into_data() {
            bytes.extend_from_slice(&data[..data.len().min(BODY_READ_MAX - bytes.len())]);
        }
    }
    Ok((head.status.as_u16(), head.headers, bytes.freeze()))
}

fn failure(error: &hyper::Error) -> Failure {
    if error.is_parse() || error.is_parse_too_large() {
        return Failure::Malformed;
    }
    Failure::Closed
}
