//! Encrypted DNS: the same answers, and the same limits.

use crate::{PATIENCE, check_www, config, inputs, read, send, shared, view, www};
use bytes::Bytes;
use godwit_redirector::{
    Config, Limits, Redirector, ReloadError, Running, StartError, Succession, TlsConfig,
};
use hickory_proto::op::Message;
use http::{Method, Request, Response, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper_util::rt::{TokioExecutor, TokioIo};
use prometheus_client::registry::Registry;
use quinn::crypto::rustls::QuicClientConfig;
use rustls::pki_types::{CertificateDer, ServerName};
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::client::TlsStream;

/// Makes a certificate in `dir`, in place of the one before.
fn make_certificate(dir: &Path) -> CertificateDer<'static> {
    let made = rcgen::generate_simple_self_signed(vec!["dns.example".to_owned()]).unwrap();
    std::fs::write(dir.join("cert.pem"), made.cert.pem()).unwrap();
    std::fs::write(dir.join("key.pem"), made.key_pair.serialize_pem()).unwrap();
    made.cert.der().clone()
}

fn tls_config(dir: &Path, limits: Limits) -> Config {
    let anywhere = || vec!["127.0.0.1:0".parse().unwrap()];
    let tls = TlsConfig {
        certificate: Some(dir.join("cert.pem")),
        key: Some(dir.join("key.pem")),
        dot: anywhere(),
        doh: anywhere(),
        doq: anywhere(),
        ..TlsConfig::default()
    };
    Config { tls, ..config(limits) }
}

struct Encrypted {
    dir: tempfile::TempDir,
    certificate: CertificateDer<'static>,
    config: Config,
    running: Running,
    registry: Registry,
}

impl Encrypted {
    async fn new(limits: Limits) -> Encrypted {
        let dir = tempfile::tempdir().unwrap();
        let certificate = make_certificate(dir.path());
        let config = tls_config(dir.path(), limits);
        let mut registry = Registry::with_prefix("godwit");
        let shared = shared(&inputs(2));
        let running = Redirector::start(config.clone(), view(&shared), &mut registry).await.unwrap();
        Encrypted { dir, certificate, config, running, registry }
    }

    fn client(&self, alpn: &[&[u8]]) -> rustls::ClientConfig {
        client(&self.certificate, alpn)
    }

    async fn dot(&self) -> TlsStream<TcpStream> {
        connect(self.running.all_addresses().dot[0], self.client(&[b"dot"])).await.unwrap()
    }

    async fn doh(&self, alpn: &[u8]) -> TlsStream<TcpStream> {
        connect(self.running.all_addresses().doh[0], self.client(&[alpn])).await.unwrap()
    }

    async fn doq(&self) -> (quinn::Endpoint, quinn::Connection) {
        let crypto = QuicClientConfig::try_from(self.client(&[b"doq"])).unwrap();
        let endpoint = quinn::Endpoint::client("127.0.0.1:0".parse().unwrap()).unwrap();
        let config = quinn::ClientConfig::new(Arc::new(crypto));
        let address = self.running.all_addresses().doq[0];
        let connecting = endpoint.connect_with(config, address, "dns.example").unwrap();
        let connection = timeout(PATIENCE, connecting).await.unwrap().unwrap();
        (endpoint, connection)
    }

    fn metrics(&self) -> String {
        let mut text = String::new();
        prometheus_client::encoding::text::encode(&mut text, &self.registry).unwrap();
        text
    }
}

fn client(root: &CertificateDer<'static>, alpn: &[&[u8]]) -> rustls::ClientConfig {
    let mut roots = rustls::RootCertStore::empty();
    roots.add(root.clone()).unwrap();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let builder = rustls::ClientConfig::builder_with_provider(provider);
    let builder = builder.with_safe_default_protocol_versions().unwrap();
    let mut config = builder.with_root_certificates(roots).with_no_client_auth();
    config.alpn_protocols = alpn.iter().map(|token| token.to_vec()).collect();
    config
}

async fn connect(to: SocketAddr, config: rustls::ClientConfig) -> std::io::Result<TlsStream<TcpStream>> {
    let stream = timeout(PATIENCE, TcpStream::connect(to)).await.unwrap()?;
    let name = ServerName::try_from("dns.example").unwrap();
    let connecting = tokio_rustls::TlsConnector::from(Arc::new(config)).connect(name, stream);
    timeout(PATIENCE, connecting).await.unwrap()
}

/// One query on a QUIC connection; gives its answer.
async fn ask_quic(connection: &quinn::Connection, query: &[u8]) -> Result<Vec<u8>, quinn::ReadToEndError> {
    let (mut sending, mut receiving) = connection.open_bi().await.unwrap();
    sending.write_all(&[&(query.len() as u16).to_be_bytes()[..], query].concat()).await.unwrap();
    sending.finish().unwrap();
    let reply = timeout(PATIENCE, receiving.read_to_end(65_537)).await.unwrap()?;
    assert_eq!(usize::from(u16::from_be_bytes([reply[0], reply[1]])), reply.len() - 2);
    Ok(reply[2..].to_vec())
}

async fn ask_https1(bench: &Encrypted, request: Request<Full<Bytes>>) -> Response<Bytes> {
    let stream = TokioIo::new(bench.doh(b"http/1.1").await);
    let (mut sender, connection) = hyper::client::conn::http1::handshake(stream).await.unwrap();
    tokio::spawn(connection);
    whole(timeout(PATIENCE, sender.send_request(request)).await.unwrap().unwrap()).await
}

async fn ask_https2(bench: &Encrypted, request: Request<Full<Bytes>>) -> Response<Bytes> {
    let stream = TokioIo::new(bench.doh(b"h2").await);
    let handshake = hyper::client::conn::http2::handshake(TokioExecutor::new(), stream);
    let (mut sender, connection) = handshake.await.unwrap();
    tokio::spawn(connection);
    whole(timeout(PATIENCE, sender.send_request(request)).await.unwrap().unwrap()).await
}

async fn whole(response: Response<hyper::body::Incoming>) -> Response<Bytes> {
    let (head, body) = response.into_parts();
    Response::from_parts(head, timeout(PATIENCE, body.collect()).await.unwrap().unwrap().to_bytes())
}

fn request(method: Method, path: &str, kind: Option<&str>, body: &[u8]) -> Request<Full<Bytes>> {
    let mut builder = Request::builder().method(method).uri(format!("https://dns.example{path}"));
    builder = builder.header("host", "dns.example");
    if let Some(kind) = kind {
        builder = builder.header("content-type", kind);
    }
    builder.body(Full::new(Bytes::copy_from_slice(body))).unwrap()
}

fn get(query: &[u8]) -> Request<Full<Bytes>> {
    use base64::Engine as _;
    let query = base64::engine::general_purpose::URL_SAFE_NO_PAD.encode(query);
    request(Method::GET, &format!("/dns-query?dns={query}"), None, b"")
}

fn post(query: &[u8]) -> Request<Full<Bytes>> {
    request(Method::POST, "/dns-query", Some("application/dns-message"), query)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_transport_gives_the_same_answer() {
    let bench = Encrypted::new(Limits::default()).await;
    let mut tcp = TcpStream::connect(bench.running.addresses()[0]).await.unwrap();
    send(&mut tcp, &www(0)).await;
    let expected = read(&mut tcp).await;
    check_www(&expected, 0);
    let message = |bytes: &[u8]| Message::from_vec(bytes).unwrap();
    let mut dot = bench.dot().await;
    for _ in 0..3 {
        send(&mut dot, &www(0)).await;
        assert_eq!(read(&mut dot).await, expected);
    }
    let (_endpoint, doq) = bench.doq().await;
    for _ in 0..3 {
        assert_eq!(message(&ask_quic(&doq, &www(0)).await.unwrap()), expected);
    }
    let responses = [
        ask_https1(&bench, get(&www(0))).await,
        ask_https1(&bench, post(&www(0))).await,
        ask_https2(&bench, get(&www(0))).await,
        ask_https2(&bench, post(&www(0))).await,
    ];
    for response in responses {
        assert_eq!(response.status(), StatusCode::OK);
        assert_eq!(response.headers()["content-type"], "application/dns-message");
        assert_eq!(response.headers()["cache-control"], "private, max-age=5", "the smallest TTL");
        assert_eq!(message(response.body()), expected);
    }
    let metrics = bench.metrics();
    for (transport, count) in [("tcp", 1), ("tls", 3), ("quic", 3), ("https", 4)] {
        let line = format!(r#"queries_total{{transport="{transport}",kind="A",code="NOERROR"}} {count}"#);
        assert!(metrics.contains(&line), "{line}\n{metrics}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn https_says_what_is_wrong_with_a_request() {
    let bench = Encrypted::new(Limits::default()).await;
    let mut response = www(0);
    response[2] |= 0x80;
    let dns = Some("application/dns-message");
    let cases = [
        (request(Method::GET, "/", None, b""), StatusCode::NOT_FOUND),
        (request(Method::GET, "/dns-query", None, b""), StatusCode::BAD_REQUEST),
        (request(Method::GET, "/dns-query?dns=%%%", None, b""), StatusCode::BAD_REQUEST),
        (request(Method::PUT, "/dns-query", dns, b""), StatusCode::METHOD_NOT_ALLOWED),
        (request(Method::POST, "/dns-query", None, &www(0)), StatusCode::UNSUPPORTED_MEDIA_TYPE),
        (
            request(Method::POST, "/dns-query", Some("text/plain"), &www(0)),
            StatusCode::UNSUPPORTED_MEDIA_TYPE,
        ),
        (request(Method::POST, "/dns-query", dns, &[0; 5000]), StatusCode::PAYLOAD_TOO_LARGE),
        (request(Method::POST, "/dns-query", dns, b"short"), StatusCode::BAD_REQUEST),
        (request(Method::POST, "/dns-query", dns, &response), StatusCode::BAD_REQUEST),
    ];
    for (request, status) in cases {
        let what = format!("{} {}", request.method(), request.uri());
        assert_eq!(ask_https2(&bench, request.clone()).await.status(), status, "HTTP/2 {what}");
        assert_eq!(ask_https1(&bench, request).await.status(), status, "HTTP/1.1 {what}");
    }
    // A DNS error is an answer; a negative one may be kept as long as its SOA says.
    let nothing = crate::query(0, "nothing.edge.example.org.", hickory_proto::rr::RecordType::A);
    let response = ask_https2(&bench, post(&nothing)).await;
    assert_eq!(
        (response.status(), &response.headers()["cache-control"]),
        (StatusCode::OK, &"private, max-age=5".parse().unwrap())
    );
    assert_eq!(Message::from_vec(response.body()).unwrap().metadata.response_code.low(), 3);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn quic_connections_end_when_their_rules_are_broken() {
    let bench = Encrypted::new(Limits::default()).await;
    let mut with_keepalive = Message::from_vec(&www(0)).unwrap();
    let mut edns = hickory_proto::op::Edns::new();
    edns.options_mut().insert(hickory_proto::rr::rdata::opt::EdnsOption::Unknown(11, Vec::new()));
    with_keepalive.edns = Some(edns);
    let breaches = [www(7), with_keepalive.to_vec().unwrap(), vec![0; 5000], b"short".to_vec()];
    for breach in breaches {
        let (_endpoint, connection) = bench.doq().await;
        assert!(ask_quic(&connection, &breach).await.is_err());
        match timeout(PATIENCE, connection.closed()).await.unwrap() {
            quinn::ConnectionError::ApplicationClosed(close) => assert_eq!(u64::from(close.error_code), 2),
            other => panic!("{other}"),
        }
    }
    let (_endpoint, connection) = bench.doq().await;
    check_www(&Message::from_vec(&ask_quic(&connection, &www(0)).await.unwrap()).unwrap(), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn encrypted_connections_are_capped_and_end_when_idle() {
    let limits = Limits { tcp_connections_per_prefix_max: 2, tcp_idle_secs: 2, ..Limits::default() };
    let bench = Encrypted::new(limits).await;
    // One table for all of them: the third takes the place of the first.
    let mut dot = bench.dot().await;
    send(&mut dot, &www(1)).await;
    check_www(&read(&mut dot).await, 1);
    let (_endpoint, doq) = bench.doq().await;
    ask_quic(&doq, &www(0)).await.unwrap();
    let mut doh = bench.doh(b"http/1.1").await;
    let mut rest = Vec::new();
    let _ = timeout(PATIENCE, dot.read_to_end(&mut rest)).await.unwrap();
    assert!(rest.is_empty());
    // Half a request does not keep a connection, and neither does silence.
    doh.write_all(b"GET /dns-query HTTP/1.1\r\n").await.unwrap();
    let _ = timeout(PATIENCE, doh.read_to_end(&mut rest)).await.unwrap();
    timeout(PATIENCE, doq.closed()).await.unwrap();
    // A client that never speaks TLS is none either.
    let mut mute = TcpStream::connect(bench.running.all_addresses().dot[0]).await.unwrap();
    let _ = timeout(PATIENCE, mute.read_to_end(&mut rest)).await.unwrap();
    let gone = async {
        while !["tls", "https", "quic"].iter().all(|transport| {
            bench.metrics().contains(&format!(r#"connections{{transport="{transport}"}} 0"#))
        }) {
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        }
    };
    timeout(PATIENCE, gone).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_new_certificate_is_shown_without_a_pause() {
    let mut bench = Encrypted::new(Limits::default()).await;
    let mut before = bench.dot().await;
    let second = make_certificate(bench.dir.path());
    bench.running.reload(&bench.config).unwrap();
    let address = bench.running.all_addresses().dot[0];
    let mut after = connect(address, client(&second, &[b"dot"])).await.unwrap();
    assert!(connect(address, client(&bench.certificate, &[b"dot"])).await.is_err(), "the old one is gone");
    for stream in [&mut before, &mut after] {
        send(stream, &www(1)).await;
        check_www(&read(stream).await, 1);
    }
    // A key of another certificate, and none at all, change nothing.
    let pem = std::fs::read(bench.dir.path().join("cert.pem")).unwrap();
    make_certificate(bench.dir.path());
    std::fs::write(bench.dir.path().join("cert.pem"), pem).unwrap();
    assert!(matches!(bench.running.reload(&bench.config), Err(ReloadError::Tls(_))));
    std::fs::write(bench.dir.path().join("key.pem"), "").unwrap();
    assert!(matches!(bench.running.reload(&bench.config), Err(ReloadError::Tls(_))));
    let mut still = connect(address, client(&second, &[b"dot"])).await.unwrap();
    send(&mut still, &www(2)).await;
    check_www(&read(&mut still).await, 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn encrypted_sockets_are_handed_over_too() {
    let dir = tempfile::tempdir().unwrap();
    let certificate = make_certificate(dir.path());
    let handover = Some(dir.path().join("handover"));
    let config = Config { handover, ..tls_config(dir.path(), Limits::default()) };
    let shared = shared(&inputs(2));
    let start = async || {
        let (config, mut registry) = (config.clone(), Registry::with_prefix("godwit"));
        let running = Redirector::start(config.clone(), view(&shared), &mut registry).await.unwrap();
        // Each has a directory of its own that it does not use.
        let dir = tempfile::tempdir().unwrap();
        Encrypted { dir, certificate: certificate.clone(), config, running, registry }
    };
    let mut first = start().await;
    let (mut dot, (_endpoint, doq)) = (first.dot().await, first.doq().await);
    send(&mut dot, &www(1)).await;
    check_www(&read(&mut dot).await, 1);
    ask_quic(&doq, &www(0)).await.unwrap();
    let second = start().await;
    assert_eq!(first.running.all_addresses(), second.running.all_addresses());
    assert!(matches!(timeout(PATIENCE, first.running.succession()).await.unwrap(), Succession::Done));
    // A connection of the first one is served on; QUIC's were ended in good order.
    send(&mut dot, &www(2)).await;
    check_www(&read(&mut dot).await, 2);
    match timeout(PATIENCE, doq.closed()).await.unwrap() {
        quinn::ConnectionError::ApplicationClosed(close) => assert_eq!(u64::from(close.error_code), 0),
        other => panic!("{other}"),
    }
    timeout(PATIENCE, first.running.shutdown()).await.unwrap();
    let (_endpoint, doq) = second.doq().await;
    check_www(&Message::from_vec(&ask_quic(&doq, &www(0)).await.unwrap()).unwrap(), 0);
    let mut dot = second.dot().await;
    send(&mut dot, &www(3)).await;
    check_www(&read(&mut dot).await, 3);
    assert_eq!(ask_https2(&second, get(&www(0))).await.status(), StatusCode::OK);
}

#[tokio::test]
async fn without_a_certificate_nothing_starts() {
    let dir = tempfile::tempdir().unwrap();
    let config = tls_config(dir.path(), Limits::default());
    let started = Redirector::start(config, view(&shared(&inputs(1))), &mut Registry::default()).await;
    assert!(matches!(started, Err(StartError::Tls(_))));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn encrypted_addresses_come_and_go() {
    let dir = tempfile::tempdir().unwrap();
    let certificate = make_certificate(dir.path());
    let plain = config(Limits::default());
    let mut registry = Registry::with_prefix("godwit");
    let running = Redirector::start(plain.clone(), view(&shared(&inputs(2))), &mut registry).await.unwrap();
    let config = tls_config(dir.path(), Limits::default());
    let mut bench = Encrypted { dir, certificate, config, running, registry };
    let dns = bench.running.addresses().to_vec();
    // Without a certificate nothing changes.
    let wrong = TlsConfig { certificate: None, ..bench.config.tls.clone() };
    let wrong = Config { tls: wrong, ..plain.clone() };
    assert!(matches!(bench.running.reload(&wrong), Err(ReloadError::Tls(_))));
    for _ in 0..3 {
        bench.running.reload(&bench.config).unwrap();
        assert_eq!(bench.running.addresses(), dns, "the others stay");
        let mut dot = bench.dot().await;
        send(&mut dot, &www(1)).await;
        check_www(&read(&mut dot).await, 1);
        assert_eq!(ask_https2(&bench, get(&www(0))).await.status(), StatusCode::OK);
        let (_endpoint, doq) = bench.doq().await;
        check_www(&Message::from_vec(&ask_quic(&doq, &www(0)).await.unwrap()).unwrap(), 0);
        let gone = bench.running.all_addresses().clone();
        bench.running.reload(&plain).unwrap();
        assert!(bench.running.all_addresses().dot.is_empty());
        // A connection is served until it is quiet, and told that it ends.
        send(&mut dot, &www(2)).await;
        check_www(&read(&mut dot).await, 2);
        let mut rest = Vec::new();
        timeout(PATIENCE, dot.read_to_end(&mut rest)).await.unwrap().unwrap();
        match timeout(PATIENCE, doq.closed()).await.unwrap() {
            quinn::ConnectionError::ApplicationClosed(close) => assert_eq!(u64::from(close.error_code), 0),
            other => panic!("{other}"),
        }
        // The port is free again, once the connections have ended.
        let free = async {
            while std::net::TcpListener::bind(gone.dot[0]).is_err()
                || std::net::UdpSocket::bind(gone.doq[0]).is_err()
            {
                tokio::time::sleep(std::time::Duration::from_millis(20)).await;
            }
        };
        timeout(PATIENCE, free).await.unwrap();
    }
}
