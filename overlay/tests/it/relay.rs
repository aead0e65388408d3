//! Relays between a dialler and a listener, to move one and to fall silent.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::sync::watch;

/// Passes UDP on; the listener sees it at an address that can change.
pub struct UdpRelay {
    pub address: SocketAddr,
    outside: watch::Sender<Arc<UdpSocket>>,
    silent: Arc<AtomicBool>,
}

impl UdpRelay {
    pub async fn start(listener: SocketAddr) -> UdpRelay {
        let inside = Arc::new(UdpSocket::bind("127.0.0.1:0").await.unwrap());
        let address = inside.local_addr().unwrap();
        let (outside, mut changes) = watch::channel(connect(listener).await);
        let silent = Arc::new(AtomicBool::new(false));
        let mute = silent.clone();
        tokio::spawn(async move {
            let (mut there, mut back) = (vec![0; 65_536], vec![0; 65_536]);
            let mut dialler = None;
            loop {
                let out = changes.borrow_and_update().clone();
                tokio::select! {
                    Ok((len, from)) = inside.recv_from(&mut there) => {
                        dialler = Some(from);
                        if !mute.load(Ordering::Relaxed) {
                            out.send(&there[..len]).await.ok();
                        }
                    }
                    Ok(len) = out.recv(&mut back) => {
                        if let (Some(dialler), false) = (dialler, mute.load(Ordering::Relaxed)) {
                            inside.send_to(&back[..len], dialler).await.ok();
                        }
                    }
                    changed = changes.changed() => if changed.is_err() { return },
                }
            }
        });
        UdpRelay { address, outside, silent }
    }

    /// From now on the listener sees the dialler elsewhere.
    pub async fn relocate(&self, listener: SocketAddr) {
        self.outside.send_replace(connect(listener).await);
    }

    pub fn fall_silent(&self) {
        self.silent.store(true, Ordering::Relaxed);
    }
}

async fn connect(listener: SocketAddr) -> Arc<UdpSocket> {
    let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    socket.connect(listener).await.unwrap();
    Arc::new(socket)
}

/// Passes TCP on until it falls silent, and then keeps the connections open.
pub struct TcpRelay {
    pub address: SocketAddr,
    silent: Arc<AtomicBool>,
}

impl TcpRelay {
    pub async fn start(listener: SocketAddr) -> TcpRelay {
        let inside = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = inside.local_addr().unwrap();
        let silent = Arc::new(AtomicBool::new(false));
        let mute = silent.clone();
        tokio::spawn(async move {
            while let Ok((dialler, _)) = inside.accept().await {
                let listener = TcpStream::connect(listener).await.unwrap();
                let ((from_a, to_a), (from_b, to_b)) = (dialler.into_split(), listener.into_split());
                tokio::spawn(pass(from_a, to_b, mute.clone()));
                tokio::spawn(pass(from_b, to_a, mute.clone()));
            }
        });
        TcpRelay { address, silent }
    }

    pub fn fall_silent(&self) {
        self.silent.store(true, Ordering::Relaxed);
    }
}

async fn pass(
    mut from: tokio::net::tcp::OwnedReadHalf,
    mut to: tokio::net::tcp::OwnedWriteHalf,
    silent: Arc<AtomicBool>,
) {
    let mut bytes = vec![0; 65_536];
    loop {
        let len = match from.read(&mut bytes).await {
            Ok(0) | Err(_) => 0,
            Ok(len) => len,
        };
        if silent.load(Ordering::Relaxed) {
            std::future::pending::<()>().await; // neither bytes nor the end
        }
        if len == 0 || to.write_all(&bytes[..len]).await.is_err() {
            return;
        }
    }
}
