//! UDP datagrams: each client has a session, which is a socket of its own to the program, so that
//! answers find their way back.

use super::{Counted, Forwarded, bind};
use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::{AsFd, OwnedFd};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::net::UdpSocket;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

/// Sessions of one service and port at once: each has a socket and a task.
const SESSIONS_MAX: usize = 4096;

/// A session without datagrams in either direction for so long ends (RFC 4787, 4.3 asks for two minutes
/// of whoever translates).
const IDLE_MAX: Duration = Duration::from_secs(120);

/// Answers that are passed back before others get their turn.
const TURN_MAX: usize = 32;

/// The longest datagram.
const DATAGRAM_MAX: usize = 65_535;

/// Passes datagrams that come to `outside`, at a home address, on to `to`, until `end`; with the sessions
/// that another process left. After `stop` no session is begun.
pub(in crate::mobility) fn forward_udp(
    outside: Outside,
    to: SocketAddr,
    forwarded: Arc<Forwarded>,
    stop: CancellationToken,
    end: CancellationToken,
) -> io::Result<(Arc<Sessions>, impl Future<Output = ()> + Send + use<>)> {
    let home = outside.socket.local_addr()?;
    let open = Mutex::default();
    let sessions =
        Arc::new(Sessions { outside: Arc::new(outside.socket), to, forwarded, open, end: end.clone() });
    for (client, inside) in outside.sessions.into_iter().take(SESSIONS_MAX) {
        sessions.open_session(client, inside);
    }
    let told = sessions.clone();
    Ok((told, async move {
        let mut datagram = vec![0; DATAGRAM_MAX];
        loop {
            let received = tokio::select! {
                biased;
                () = end.cancelled() => return,
                received = sessions.outside.recv_from(&mut datagram) => received,
            };
            match received {
                Ok((len, client)) => sessions.pass_in(client, &datagram[..len], !stop.is_cancelled()).await,
                // What went wrong is what was sent before; the socket is as good as ever.
                Err(error) => {
                    tracing::debug!(%home, %error, "a datagram could not be delivered");
                    tokio::task::yield_now().await;
                }
            }
        }
    }))
}

/// A socket at a home address, and the sockets of its clients' sessions, by client.
#[derive(Debug)]
pub(in crate::mobility) struct Outside {
    pub(in crate::mobility) socket: UdpSocket,
    pub(in crate::mobility) sessions: Vec<(SocketAddr, UdpSocket)>,
}

impl Outside {
    /// One at `home` without a session.
    pub(in crate::mobility) fn bind(home: SocketAddr) -> io::Result<Outside> {
        let socket = UdpSocket::from_std(bind(socket2::Type::DGRAM, home)?.into())?;
        Ok(Outside { socket, sessions: Vec::new() })
    }
}

/// The sessions at one home address and port.
pub(in crate::mobility) struct Sessions {
    outside: Arc<UdpSocket>,
    to: SocketAddr,
    forwarded: Arc<Forwarded>,
    open: Mutex<HashMap<SocketAddr, Arc<Session>>>,
    end: CancellationToken,
}

struct Session {
    inside: UdpSocket,
    begun: Instant,
    /// Milliseconds after its beginning when a datagram came last.
    used: AtomicU64,
}

impl Session {
    fn touch(&self) {
        self.used.store(self.begun.elapsed().as_millis() as u64, Ordering::Relaxed);
    }

    fn idle_until(&self) -> Instant {
        self.begun + Duration::from_millis(self.used.load(Ordering::Relaxed)) + IDLE_MAX
    }
}

impl Sessions {
    async fn pass_in(self: &Arc<Self>, client: SocketAddr, datagram: &[u8], may_begin: bool) {
        let known = self.open().get(&client).cloned();
        let session = match known {
            Some(session) => session,
            None if may_begin => match self.begin(client).await {
                Ok(session) => session,
                Err(error) => {
                    self.forwarded.refused.fetch_add(1, Ordering::Relaxed);
                    tracing::debug!(%error, "no session for a client");
                    return;
                }
            },
            None => return,
        };
        session.touch();
        if session.inside.send(datagram).await.is_err() {
            self.forwarded.failed.fetch_add(1, Ordering::Relaxed);
        }
    }

    async fn begin(self: &Arc<Self>, client: SocketAddr) -> io::Result<Arc<Session>> {
        if self.open().len() >= SESSIONS_MAX {
            return Err(io::Error::other("too many clients at once"));
        }
        let any: IpAddr =
            if self.to.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
        let inside = UdpSocket::bind((any, 0)).await?;
        inside.connect(self.to).await?;
        Ok(self.open_session(client, inside))
    }

    /// More descriptors of all sockets, for another process: the one at the home address, and those of the
    /// sessions.
    pub(in crate::mobility) fn duplicate(&self) -> io::Result<(OwnedFd, Vec<(SocketAddr, OwnedFd)>)> {
        let outside = self.outside.as_fd().try_clone_to_owned()?;
        let open = self.open();
        let sessions =
            open.iter().map(|(client, session)| Ok((*client, session.inside.as_fd().try_clone_to_owned()?)));
        Ok((outside, sessions.collect::<io::Result<_>>()?))
    }

    fn open_session(self: &Arc<Self>, client: SocketAddr, inside: UdpSocket) -> Arc<Session> {
        let session = Arc::new(Session { inside, begun: Instant::now(), used: AtomicU64::new(0) });
        self.open().insert(client, session.clone());
        let (sessions, answered) = (self.clone(), session.clone());
        tokio::spawn(async move {
            let _counted = Counted::begin(&sessions.forwarded);
            sessions.pass_out(client, &answered).await;
            sessions.open().remove(&client);
        });
        session
    }

    /// Passes answers back until the session has been idle for long.
    async fn pass_out(&self, client: SocketAddr, session: &Session) {
        loop {
            let until = session.idle_until();
            tokio::select! {
                () = self.end.cancelled() => return,
                _ = session.inside.readable() => self.pass_out_now(client, session),
                () = tokio::time::sleep_until(until) => if session.idle_until() <= Instant::now() { return },
            }
        }
    }

    /// Passes back what is there. Not a future, so that idle sessions have no room for a datagram.
    fn pass_out_now(&self, client: SocketAddr, session: &Session) {
        let mut datagram = [0; DATAGRAM_MAX];
        for _ in 0..TURN_MAX {
            match session.inside.try_recv(&mut datagram) {
                Ok(len) => {
                    session.touch();
                    // A client that cannot be reached asks again or goes.
                    let _ = self.outside.try_send_to(&datagram[..len], client);
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
                // Nobody listens there: an error message came back.
                Err(_) => {
                    self.forwarded.failed.fetch_add(1, Ordering::Relaxed);
                }
            }
        }
    }

    fn open(&self) -> MutexGuard<'_, HashMap<SocketAddr, Arc<Session>>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn each_client_gets_its_own_answers_from_the_home_address() {
        let program = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let home = UdpSocket::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
        let forwarded = Arc::new(Forwarded::default());
        let (stop, end) = (CancellationToken::new(), CancellationToken::new());
        let to = program.local_addr().unwrap();
        let outside = Outside::bind(home).unwrap();
        tokio::spawn(forward_udp(outside, to, forwarded.clone(), stop.clone(), end.clone()).unwrap().1);
        tokio::spawn(async move {
            let mut datagram = [0; 64];
            while let Ok((len, from)) = program.recv_from(&mut datagram).await {
                let answer = [&datagram[..len], b"!"].concat();
                program.send_to(&answer, from).await.unwrap();
            }
        });
        let (a, b) = (client(home).await, client(home).await);
        for round in 0..3u8 {
            for (client, name) in [(&a, b'a'), (&b, b'b')] {
                assert_eq!(ask(client, &[name, round]).await, [name, round, b'!']);
            }
        }
        assert_eq!(forwarded.begun.load(Ordering::Relaxed), 2);
        // Old sessions go on, new ones are not begun.
        stop.cancel();
        assert_eq!(ask(&a, b"x").await, b"x!");
        let c = client(home).await;
        c.send(b"c").await.unwrap();
        assert_eq!(ask(&a, b"y").await, b"y!");
        assert_eq!(forwarded.begun.load(Ordering::Relaxed), 2);
        end.cancel();
    }

    async fn client(home: SocketAddr) -> UdpSocket {
        let client = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        client.connect(home).await.unwrap();
        client
    }

    async fn ask(client: &UdpSocket, words: &[u8]) -> Vec<u8> {
        client.send(words).await.unwrap();
        let mut answer = [0; 64];
        let len =
            tokio::time::timeout(Duration::from_secs(30), client.recv(&mut answer)).await.unwrap().unwrap();
        answer[..len].to_vec()
    }
}
