//! Answers, good and bad, over plain TCP and TLS.

use godwit_core::health::{Failure, HttpProbe, Method, StatusRange, Tls};
use godwit_probe::http::{BODY_READ_MAX, Request, judge};
use godwit_probe::{Fault, Prober};
use rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;

/// Far more than a loaded machine takes for loopback.
const PATIENT: Duration = Duration::from_secs(30);
/// For those that never answer.
const SHORT: Duration = Duration::from_millis(300);

async fn reply(mut stream: impl AsyncRead + AsyncWrite + Unpin, answer: &[u8]) {
    let mut request = Vec::new();
    let mut byte = [0];
    while !request.ends_with(b"\r\n\r\n") && stream.read(&mut byte).await.is_ok_and(|read| read == 1) {
        request.push(byte[0]);
    }
    // Who has gone does not want it.
    let _ = stream.write_all(answer).await;
    let _ = stream.shutdown().await;
}

async fn serve(answer: Vec<u8>) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            reply(stream, &answer).await;
        }
    });
    address
}

fn probe() -> HttpProbe {
    let (tls, port, method, host) = (None, 80, Method::Get, Some("www.example.org".into()));
    HttpProbe { tls, port, method, path: "/health?x=1".into(), host, status: vec![], body: None }
}

async fn ask(address: SocketAddr, probe: &HttpProbe, timeout: Duration) -> Result<Duration, Fault> {
    let answer = Prober::new().http(address, &Request::of(probe), timeout).await?;
    Ok(judge(probe, &answer)?)
}

#[track_caller]
fn failed(result: Result<Duration, Fault>, failure: Failure) {
    assert_eq!(result.unwrap_err(), Fault::Target(failure));
}

#[tokio::test]
async fn a_right_answer_is_right_and_a_wrong_one_tells_how() {
    let ok = serve(
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nall w\r\n3\r\nell\r\n0\r\n\r\n".to_vec(),
    )
    .await;
    let text = HttpProbe { body: Some("all well".into()), ..probe() };
    ask(ok, &text, PATIENT).await.unwrap();
    failed(ask(ok, &HttpProbe { body: Some("unwell".into()), ..probe() }, PATIENT).await, Failure::Body);
    let strict = HttpProbe { status: vec![StatusRange { first: 204, last: 204 }], ..probe() };
    failed(ask(ok, &strict, PATIENT).await, Failure::Status(200));

    let broken = serve(b"HTTP/1.1 503 No\r\nContent-Length: 0\r\n\r\n".to_vec()).await;
    failed(ask(broken, &probe(), PATIENT).await, Failure::Status(503));
    // A redirect is an answer, not a way.
    let moved =
        serve(b"HTTP/1.1 302 Found\r\nLocation: http://192.0.2.1/\r\nContent-Length: 0\r\n\r\n".to_vec())
            .await;
    ask(moved, &probe(), PATIENT).await.unwrap();
}

#[tokio::test]
async fn what_is_no_answer_is_told_as_what_it_is() {
    let garbage = serve(b"220 mail.example.org ESMTP\r\n".to_vec()).await;
    failed(ask(garbage, &probe(), PATIENT).await, Failure::Malformed);
    let closes = serve(Vec::new()).await;
    failed(ask(closes, &probe(), PATIENT).await, Failure::Closed);
    let short = serve(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nabc".to_vec()).await;
    failed(ask(short, &probe(), PATIENT).await, Failure::Closed);
    let long_header =
        [b"HTTP/1.1 200 OK\r\nX: ".to_vec(), vec![b'x'; 100_000], b"\r\n\r\n".to_vec()].concat();
    failed(ask(serve(long_header).await, &probe(), PATIENT).await, Failure::Malformed);

    // Listens and never answers: the kernel completes the handshake.
    let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = silent.local_addr().unwrap();
    failed(ask(address, &probe(), SHORT).await, Failure::Timeout);
    Prober::new().tcp(address, PATIENT).await.unwrap();
    drop(silent);
    failed(ask(address, &probe(), PATIENT).await, Failure::Refused);
    failed(Prober::new().tcp(address, PATIENT).await, Failure::Refused);
}

#[tokio::test]
async fn no_more_is_read_than_is_looked_at() {
    let long = [b"HTTP/1.1 200 OK\r\n\r\n".to_vec(), vec![b'x'; 4 * BODY_READ_MAX]].concat();
    let answer = Prober::new().http(serve(long).await, &Request::get("/"), PATIENT).await.unwrap();
    assert_eq!(answer.body.len(), BODY_READ_MAX);
}

#[tokio::test]
async fn certificates_are_judged_by_what_the_check_says() {
    let issued = rcgen::generate_simple_self_signed(vec!["www.example.org".into()]).unwrap();
    let der = issued.cert.der().clone();
    let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(issued.key_pair.serialize_der()));
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![der.clone()], key)
        .unwrap();
    let acceptor = TlsAcceptor::from(Arc::new(config));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            if let Ok(stream) = acceptor.accept(stream).await {
                reply(stream, b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok").await;
            }
        }
    });
    let with = |tls: Tls, host: &str| HttpProbe { tls: Some(tls), host: Some(host.into()), ..probe() };
    let own = || Tls::Authority(der.to_vec());
    ask(address, &with(own(), "www.example.org"), PATIENT).await.unwrap();
    ask(address, &with(own(), "www.example.org:8443"), PATIENT).await.unwrap();
    ask(address, &with(Tls::Unverified, "other.example.org"), PATIENT).await.unwrap();
    failed(ask(address, &with(own(), "other.example.org"), PATIENT).await, Failure::Tls);
    // Not one of the host's roots; a host that has none blames nobody.
    match ask(address, &with(Tls::Roots, "www.example.org"), PATIENT).await {
        Err(Fault::Target(Failure::Tls) | Fault::Here(_)) => {}
        other => panic!("{other:?}"),
    }
    match ask(address, &with(Tls::Authority(vec![1, 2, 3]), "www.example.org"), PATIENT).await {
        Err(Fault::Here(why)) => assert!(why.contains("authority"), "{why}"),
        other => panic!("{other:?}"),
    }
    // TLS to a server that speaks none, and speaks first.
    let plain = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = plain.local_addr().unwrap();
    tokio::spawn(async move {
        let (mut stream, _) = plain.accept().await.unwrap();
        stream.write_all(b"220 mail.example.org ESMTP\r\n").await.unwrap();
        // Stays until the other side goes.
        let _ = stream.read_to_end(&mut Vec::new()).await;
    });
    failed(ask(address, &with(Tls::Unverified, "www.example.org"), PATIENT).await, Failure::Tls);
}
