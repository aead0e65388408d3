//! Metrics for monitors where no member's control endpoint is: `/metrics`, `/livez` and `/readyz`
//! over HTTP/1.1, apart from what clients ask.

use bytes::Bytes;
use http::{Method, Request, Response, StatusCode, header};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper_util::rt::{TokioIo, TokioTimer};
use prometheus_client::registry::Registry;
use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;

/// Monitors at a time: a few of them, each with a connection or two.
const CONNECTIONS_MAX: usize = 32;
/// How long a monitor may take to ask, and how long its whole connection may last: they come anew
/// for each scrape, or ask again within this.
const CONNECTION_MAX: Duration = Duration::from_secs(120);
const HEADER_MAX: Duration = Duration::from_secs(10);
/// How long not to accept after an error that is not of one connection.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Serves metrics on one address.
pub struct Monitor {
    listener: TcpListener,
    registry: Arc<Registry>,
}

impl Monitor {
    /// Listens on `address`.
    ///
    /// # Errors
    /// When the address cannot be listened on.
    pub async fn listen(address: SocketAddr, registry: Arc<Registry>) -> std::io::Result<Monitor> {
        Ok(Monitor { listener: TcpListener::bind(address).await?, registry })
    }

    /// Where it listens; with the real port where port 0 was asked for.
    ///
    /// # Errors
    /// When the system does not say.
    pub fn address(&self) -> std::io::Result<SocketAddr> {
        self.listener.local_addr()
    }

    /// Answers for ever; ends when dropped.
    pub async fn run(self) {
        let places = Arc::new(Semaphore::new(CONNECTIONS_MAX));
        loop {
            let Ok(place) = places.clone().acquire_owned().await else { return };
            match self.listener.accept().await {
                Ok((stream, _)) => {
                    let registry = self.registry.clone();
                    tokio::spawn(async move {
                        // One that hangs is cut off, and what else goes wrong is the monitor's to tell.
                        let _ = tokio::time::timeout(CONNECTION_MAX, connection(stream, registry)).await;
                        drop(place);
                    });
                }
                Err(error) => {
                    tracing::debug!(%error, "cannot accept a monitor's connection");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    }
}

async fn connection(stream: TcpStream, registry: Arc<Registry>) -> hyper::Result<()> {
    let service = hyper::service::service_fn(move |request| {
        let reply = answer(&request, &registry);
        async move { Ok::<_, Infallible>(reply) }
    });
    let mut builder = hyper::server::conn::http1::Builder::new();
    builder.timer(TokioTimer::new()).header_read_timeout(HEADER_MAX);
    builder.serve_connection(TokioIo::new(stream), service).await
}

fn answer(request: &Request<Incoming>, registry: &Registry) -> Response<Full<Bytes>> {
    const OPEN_METRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";
    let plain = |code, text: &str| reply(code, "text/plain; charset=utf-8", text.to_owned());
    if !matches!(*request.method(), Method::GET | Method::HEAD) {
        return plain(StatusCode::METHOD_NOT_ALLOWED, "GET and HEAD only\n");
    }
    match request.uri().path() {
        // A static zone is compiled before it is listened for: whoever answers is ready.
        "/livez" | "/readyz" => plain(StatusCode::OK, "ok\n"),
        "/metrics" => {
            let mut text = String::new();
            match prometheus_client::encoding::text::encode(&mut text, registry) {
                Ok(()) => reply(StatusCode::OK, OPEN_METRICS, text),
                Err(_) => plain(StatusCode::INTERNAL_SERVER_ERROR, "metrics cannot be written\n"),
            }
        }
        _ => plain(StatusCode::NOT_FOUND, "/metrics, /livez, /readyz\n"),
    }
}

fn reply(code: StatusCode, media: &'static str, text: String) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::from(text));
    *response.status_mut() = code;
    response.headers_mut().insert(header::CONTENT_TYPE, header::HeaderValue::from_static(media));
    response
}

#[cfg(test)]
mod tests {
    use super::*;
    use prometheus_client::metrics::counter::Counter;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    async fn get(address: SocketAddr, path: &str) -> String {
        let mut stream = TcpStream::connect(address).await.unwrap();
        let request = format!("GET {path} HTTP/1.1\r\nHost: m\r\nConnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut text = String::new();
        stream.read_to_string(&mut text).await.unwrap();
        text
    }

    #[tokio::test]
    async fn metrics_are_read_and_nothing_else_is() {
        let mut registry = Registry::with_prefix("godwit");
        let counter = Counter::<u64>::default();
        registry.register("dns_made_up", "A counter", counter.clone());
        counter.inc_by(7);
        let monitor = Monitor::listen((std::net::Ipv4Addr::LOCALHOST, 0).into(), Arc::new(registry));
        let monitor = monitor.await.unwrap();
        let address = monitor.address().unwrap();
        let running = tokio::spawn(monitor.run());
        assert!(get(address, "/metrics").await.contains("\ngodwit_dns_made_up_total 7\n"));
        assert!(get(address, "/readyz").await.starts_with("HTTP/1.1 200 "));
        assert!(get(address, "/etc/passwd").await.starts_with("HTTP/1.1 404 "));
        running.abort();
    }
}
