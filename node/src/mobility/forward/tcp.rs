//! TCP connections.
//!
//! A connection ends at both ends as it ended at one: politely, or by a reset. It is made so that closing
//! it resets, until both have said that they are done: so a client does not take what is cut off for the
//! end where the program fails, the service is stopped, or this process is killed.

use super::{Counted, Forwarded};
use crate::mobility::proxy;
use socket2::{SockRef, TcpKeepalive};
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;
use tokio::io::AsyncWriteExt;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

/// Connections of one service and port at once: each has two sockets and 16 KiB.
const CONNECTIONS_MAX: usize = 4096;

/// A program on this host or near it answers within this, or it does not work.
const CONNECT_MAX: Duration = Duration::from_secs(3);

/// A client that was silent for so long is asked whether it is there, and so often; then it is not.
const KEEPALIVE: Duration = Duration::from_secs(120);
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(15);

/// After an error of `accept`, such as running out of descriptors: it does not pass by trying again.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Passes connections that come to `listener`, at `home`, on to `to`, until `stop`; connections that were
/// begun go on until `end`.
pub(in crate::mobility) fn forward_tcp(
    listener: TcpListener,
    to: SocketAddr,
    tells_client: bool,
    forwarded: Arc<Forwarded>,
    stop: CancellationToken,
    end: CancellationToken,
) -> io::Result<impl Future<Output = ()> + Send + use<>> {
    let home = listener.local_addr()?;
    let places = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    Ok(async move {
        loop {
            let accepted = tokio::select! {
                biased;
                () = stop.cancelled() => return,
                accepted = listener.accept() => accepted,
            };
            let (stream, client) = match accepted {
                Ok(accepted) => accepted,
                Err(error) => {
                    tracing::warn!(%home, %error, "accepting a connection failed");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                    continue;
                }
            };
            reset_when_closed(&stream);
            let Ok(place) = places.clone().try_acquire_owned() else {
                forwarded.refused.fetch_add(1, Ordering::Relaxed);
                continue;
            };
            let (forwarded, end) = (forwarded.clone(), end.clone());
            tokio::spawn(async move {
                let _counted = Counted::begin(&forwarded);
                let passed = tokio::select! {
                    () = end.cancelled() => Ok(()),
                    passed = pass(stream, client, home, to, tells_client, &forwarded) => passed,
                };
                if let Err(error) = passed {
                    tracing::debug!(%home, %to, %error, "a forwarded connection ended early");
                }
                drop(place);
            });
        }
    })
}

async fn pass(
    mut stream: TcpStream,
    client: SocketAddr,
    home: SocketAddr,
    to: SocketAddr,
    tells_client: bool,
    forwarded: &Forwarded,
) -> io::Result<()> {
    let connected = tokio::time::timeout(CONNECT_MAX, TcpStream::connect(to)).await;
    let mut program = match connected.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into())) {
        Ok(program) => program,
        Err(error) => {
            // The client is reset, as by a host without the program.
            forwarded.failed.fetch_add(1, Ordering::Relaxed);
            return Err(error);
        }
    };
    stream.set_nodelay(true)?;
    program.set_nodelay(true)?;
    reset_when_closed(&program);
    let keepalive = TcpKeepalive::new().with_time(KEEPALIVE).with_interval(KEEPALIVE_INTERVAL);
    SockRef::from(&stream).set_tcp_keepalive(&keepalive)?;
    if tells_client {
        program.write_all(&proxy::header(client, home)).await?;
    }
    tokio::io::copy_bidirectional(&mut stream, &mut program).await?;
    // Both ends are shut down: what is still to be sent is sent.
    for ended in [&stream, &program] {
        SockRef::from(ended).set_linger(None)?;
    }
    Ok(())
}

fn reset_when_closed(stream: &TcpStream) {
    // A connection that ends politely instead is no harm.
    let _ = SockRef::from(stream).set_linger(Some(Duration::ZERO));
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mobility::forward::listen;
    use tokio::io::AsyncReadExt;

    struct Bench {
        home: SocketAddr,
        forwarded: Arc<Forwarded>,
        stop: CancellationToken,
        end: CancellationToken,
    }

    fn free_port() -> SocketAddr {
        std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap()
    }

    fn bench(to: SocketAddr, tells_client: bool) -> Bench {
        let (listener, forwarded) = (listen(free_port()).unwrap(), Arc::new(Forwarded::default()));
        let home = listener.local_addr().unwrap();
        let (stop, end) = (CancellationToken::new(), CancellationToken::new());
        let forwarding =
            forward_tcp(listener, to, tells_client, forwarded.clone(), stop.clone(), end.clone()).unwrap();
        tokio::spawn(forwarding);
        Bench { home, forwarded, stop, end }
    }

    #[tokio::test]
    async fn a_program_gets_the_client_and_its_bytes_and_half_closes_pass() {
        let program = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let bench = bench(program.local_addr().unwrap(), true);
        let mut client = TcpStream::connect(bench.home).await.unwrap();
        let from = client.local_addr().unwrap();
        client.write_all(b"hello").await.unwrap();
        client.shutdown().await.unwrap();
        let (mut inside, _) = program.accept().await.unwrap();
        let mut heard = Vec::new();
        inside.read_to_end(&mut heard).await.unwrap();
        assert_eq!(heard, [&proxy::header(from, bench.home)[..], b"hello"].concat());
        inside.write_all(b"bye").await.unwrap();
        drop(inside);
        let mut answer = Vec::new();
        client.read_to_end(&mut answer).await.unwrap();
        assert_eq!(answer, b"bye");
    }

    #[tokio::test]
    async fn a_port_that_the_sites_have_everywhere_is_forwarded_at_a_home_address() {
        let program = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let everywhere = crate::http::listen("0.0.0.0:0".parse().unwrap()).unwrap();
        let port = everywhere.local_addr().unwrap().port();
        let home = SocketAddr::from(([127, 80, 0, 7], port));
        let (stop, end) = (CancellationToken::new(), CancellationToken::new());
        let to = program.local_addr().unwrap();
        let listener = listen(home).unwrap();
        tokio::spawn(forward_tcp(listener, to, false, Arc::default(), stop, end).unwrap());
        let (client, accepted) = tokio::join!(TcpStream::connect(home), program.accept());
        client.unwrap();
        accepted.unwrap();
        // Another process's sites are refused all the same.
        let second = crate::http::listen(SocketAddr::from(([0, 0, 0, 0], port)));
        assert_eq!(second.unwrap_err().kind(), io::ErrorKind::AddrInUse);
    }

    #[tokio::test]
    async fn without_the_program_a_client_is_reset() {
        let bench = bench(free_port(), false);
        let mut client = TcpStream::connect(bench.home).await.unwrap();
        let error = client.read_u8().await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::ConnectionReset);
        assert_eq!(bench.forwarded.failed.load(Ordering::Relaxed), 1);
    }

    #[tokio::test]
    async fn stopping_begins_nothing_and_ending_ends_what_was_begun() {
        let program = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let bench = bench(program.local_addr().unwrap(), false);
        let mut client = TcpStream::connect(bench.home).await.unwrap();
        let (mut inside, _) = program.accept().await.unwrap();
        bench.stop.cancel();
        while TcpStream::connect(bench.home).await.is_ok() {
            tokio::task::yield_now().await;
        }
        inside.write_all(b"still").await.unwrap();
        let mut heard = [0; 5];
        client.read_exact(&mut heard).await.unwrap();
        assert_eq!(&heard, b"still");
        bench.end.cancel();
        is_reset(client).await;
        is_reset(inside).await;
    }

    async fn is_reset(mut stream: TcpStream) {
        let ended = stream.read(&mut [0; 16]).await;
        assert_eq!(ended.unwrap_err().kind(), io::ErrorKind::ConnectionReset);
    }

    #[tokio::test]
    async fn a_reset_at_one_end_is_one_at_the_other() {
        let program = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let bench = bench(program.local_addr().unwrap(), false);
        for program_fails in [true, false] {
            let mut client = TcpStream::connect(bench.home).await.unwrap();
            let (mut inside, _) = program.accept().await.unwrap();
            client.write_all(b"x").await.unwrap();
            inside.read_u8().await.unwrap();
            let (fails, other) = if program_fails { (inside, client) } else { (client, inside) };
            reset_when_closed(&fails);
            drop(fails);
            is_reset(other).await;
        }
    }

    #[tokio::test]
    async fn what_was_not_sent_yet_at_the_end_arrives() {
        const LEN: usize = 4 << 20;
        let program = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let bench = bench(program.local_addr().unwrap(), false);
        let mut client = TcpStream::connect(bench.home).await.unwrap();
        client.shutdown().await.unwrap();
        let (mut inside, _) = program.accept().await.unwrap();
        tokio::spawn(async move { inside.write_all(&vec![7; LEN]).await.unwrap() });
        let mut got = Vec::new();
        client.read_to_end(&mut got).await.unwrap();
        assert_eq!(got.len(), LEN);
    }
}
