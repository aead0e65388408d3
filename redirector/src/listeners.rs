//! The addresses that are listened on, and how they change while queries come.
//!
//! What is new is bound and answers before anything is closed, and when any of it cannot be, nothing
//! changes. Then what is not wanted any more leaves: its UDP sockets let nothing more in and answer
//! what is queued, its TCP listener serves who is connected, and its connections end once they are
//! quiet. A new address may overlap one that leaves (all addresses of the host, and one of them): the
//! two share the port for that moment.
//!
//! Left as it is until a restart: what a service manager holds, and the number of UDP sockets of an
//! address that stays.

use crate::capture::Engine;
use crate::config::Config;
use crate::connections::Connections;
use crate::doq;
use crate::limit::Limiter;
use crate::sockets::{self, Bound, Open, Purpose, StartError};
use crate::stream::Service;
use crate::tcp::{Acceptor, Speaks};
use crate::tls::{Certificates, TlsError};
use crate::udp::{Compiler, Threads};
use futures::FutureExt;
use futures::future::BoxFuture;
use socket2::Socket;
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio_util::task::TaskTracker;

/// Why a listener ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Stop {
    /// The redirector stops; its sockets may be another process's too.
    Ends,
    /// Its address is not wanted any more.
    Leaves,
}

/// Tells a listener and its connections when to stop.
#[derive(Clone)]
pub(crate) struct Stopped {
    all: watch::Receiver<()>,
    this: watch::Receiver<()>,
}

impl Stopped {
    /// Waits for it.
    pub(crate) async fn changed(&mut self) -> Stop {
        // Without a sender it is over as well.
        tokio::select! {
            biased;
            _ = self.all.changed() => Stop::Ends,
            _ = self.this.changed() => Stop::Leaves,
        }
    }
}

/// Descriptors of all sockets, by listener: what a successor gets.
pub(crate) type Descriptors = Arc<Mutex<BTreeMap<u64, Open>>>;

/// What is spoken, whatever the address.
pub(crate) struct Speakers {
    pub(crate) engine: Engine,
    pub(crate) service: Service,
    pub(crate) compiler: Compiler,
    pub(crate) limiter: Arc<Limiter>,
    pub(crate) plain: Arc<Connections>,
    pub(crate) encrypted: Arc<Connections>,
    pub(crate) certificates: Option<Arc<Certificates>>,
    pub(crate) doh_path: Arc<str>,
    pub(crate) fast_path: bool,
    /// Those that read QUIC.
    pub(crate) quic: TaskTracker,
}

/// Everything that is listened on.
pub(crate) struct Listeners {
    pub(crate) speakers: Speakers,
    open: Vec<Listener>,
    next: u64,
    descriptors: Descriptors,
    stopped: watch::Receiver<()>,
}

struct Listener {
    id: u64,
    purpose: Purpose,
    asked: SocketAddr,
    address: SocketAddr,
    held: bool,
    /// Dropped, it tells the listener to leave.
    _leave: watch::Sender<()>,
}

/// A listener and what it does, not begun.
type Prepared = (Listener, Open, Vec<BoxFuture<'static, ()>>);

impl Listeners {
    pub(crate) fn new(speakers: Speakers, stopped: watch::Receiver<()>) -> Listeners {
        Listeners { speakers, open: Vec::new(), next: 0, descriptors: Descriptors::default(), stopped }
    }

    /// What a successor gets besides: sockets of others in this process.
    pub(crate) fn pass_on(&mut self, beside: Open) {
        self.table().insert(u64::MAX, beside);
    }

    /// What a successor gets, now and later.
    pub(crate) fn descriptors(&self) -> Descriptors {
        self.descriptors.clone()
    }

    /// Where it is listened for a purpose, in the order of the configuration.
    pub(crate) fn addresses(&self, purpose: Purpose) -> Vec<SocketAddr> {
        self.open.iter().filter(|one| one.purpose == purpose).map(|one| one.address).collect()
    }

    /// Begins to answer on these sockets.
    pub(crate) fn start(&mut self, bound: Vec<Bound>, tasks: &mut JoinSet<()>) -> Result<(), StartError> {
        let prepared = bound.into_iter().map(|bound| self.prepare(bound)).collect::<Result<Vec<_>, _>>()?;
        for (listener, open, work) in prepared {
            self.table().insert(listener.id, open);
            self.open.push(listener);
            work.into_iter().for_each(|work| drop(tasks.spawn(work)));
        }
        Ok(())
    }

    /// Listens where `config` says from now on, and nowhere else. An error leaves everything as it was.
    pub(crate) fn change(&mut self, config: &Config, tasks: &mut JoinSet<()>) -> Result<(), StartError> {
        let wanted = self.wanted(config);
        if !wanted.iter().any(|want| want.purpose == Purpose::Dns) {
            return Err(StartError::NoAddress);
        }
        let stays = |listener: &Listener| wanted.iter().any(|want| want.open == Some(listener.id));
        let leaving: Vec<u64> =
            self.open.iter().filter(|listener| !stays(listener)).map(|listener| listener.id).collect();
        let shared = self.duplicates(&leaving);
        let bind = |want: &Wanted| sockets::bind(want.purpose, want.asked, config.workers(), &shared);
        let bound =
            wanted.iter().filter(|want| want.open.is_none()).map(bind).collect::<Result<Vec<_>, _>>()?;
        // Only what listens keeps a socket open.
        drop(shared);
        let (came, left) = (bound.len(), leaving.len());
        self.start(bound, tasks)?;
        self.open.retain(|listener| !leaving.contains(&listener.id));
        self.table().retain(|id, _| !leaving.contains(id));
        let place = |listener: &Listener| {
            let is = |want: &Wanted| want.purpose == listener.purpose && want.is(listener);
            wanted.iter().position(is).unwrap_or(wanted.len())
        };
        self.open.sort_by_key(place);
        if came + left > 0 {
            let addresses: Vec<_> = self.open.iter().map(|one| (one.purpose, one.address)).collect();
            tracing::info!(came, left, ?addresses, "listens on other addresses");
        }
        Ok(())
    }

    /// The addresses of `config`, each with the listener that has it.
    fn wanted(&self, config: &Config) -> Vec<Wanted> {
        let mut wanted: Vec<Wanted> = Vec::new();
        for purpose in Purpose::ALL {
            let of_purpose = || self.open.iter().filter(|listener| listener.purpose == purpose);
            if of_purpose().any(|listener| listener.held) {
                wanted.extend(of_purpose().map(|listener| Wanted {
                    purpose,
                    asked: listener.asked,
                    open: Some(listener.id),
                }));
                continue;
            }
            for asked in purpose.addresses(config) {
                let mut want = Wanted { purpose, asked: *asked, open: None };
                let free = |id: u64| wanted.iter().all(|other| other.open != Some(id));
                want.open = of_purpose().find(|one| want.is(one) && free(one.id)).map(|one| one.id);
                wanted.push(want);
            }
        }
        wanted
    }

    fn duplicates(&self, ids: &[u64]) -> Vec<Socket> {
        let table = self.table();
        let sockets = ids.iter().filter_map(|id| table.get(id)).flatten();
        // One that cannot be duplicated is not shared with, and binding tells.
        sockets.filter_map(|(_, socket)| socket.try_clone().ok()).collect()
    }

    fn table(&self) -> std::sync::MutexGuard<'_, BTreeMap<u64, Open>> {
        self.descriptors.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn prepare(&mut self, bound: Bound) -> Result<Prepared, StartError> {
        let open = bound.duplicate().map_err(|error| StartError::Listen(bound.address, error))?;
        let Bound { purpose, asked, address, held, udp, tcp } = bound;
        let (leave, this) = watch::channel(());
        let stopped = Stopped { all: self.stopped.clone(), this };
        let speakers = &self.speakers;
        let mut work = Vec::new();
        if purpose == Purpose::Doq {
            let certificates = speakers.certificates()?;
            for socket in udp {
                let (service, connections) = (speakers.service.clone(), speakers.encrypted.clone());
                let listener = doq::Listener::new(socket, certificates, service, connections)?;
                work.push(speakers.quic.track_future(listener.run(stopped.clone())).boxed());
            }
        } else if !udp.is_empty() {
            let threads = speakers.answer(udp);
            let threads = threads.map_err(|error| StartError::Runtime("UDP", error))?;
            work.push(threads.run(stopped.clone()).boxed());
        }
        if let Some(tcp) = tcp {
            work.push(speakers.accept(purpose, tcp)?.run(stopped).boxed());
        }
        self.next += 1;
        Ok((Listener { id: self.next, purpose, asked, address, held, _leave: leave }, open, work))
    }
}

impl Speakers {
    fn certificates(&self) -> Result<&Arc<Certificates>, TlsError> {
        self.certificates.as_ref().ok_or(TlsError::Missing("certificate"))
    }

    fn answer(&self, udp: Vec<std::net::UdpSocket>) -> std::io::Result<Threads> {
        Threads::start(udp, &self.engine, &self.compiler, &self.limiter, self.fast_path)
    }

    fn accept(&self, purpose: Purpose, tcp: std::net::TcpListener) -> Result<Acceptor, StartError> {
        let speaks = match purpose {
            Purpose::Dot => Speaks::Tls(self.certificates()?.dot()?),
            Purpose::Doh => Speaks::Https(self.certificates()?.https()?, self.doh_path.clone()),
            // Of the others no listener is ever made here: `Purpose::ALL` has none of them.
            Purpose::Dns | Purpose::Doq | Purpose::Http | Purpose::Metrics | Purpose::Control => Speaks::Dns,
        };
        let connections = if purpose == Purpose::Dns { &self.plain } else { &self.encrypted };
        let listener = TcpListener::from_std(tcp).map_err(|error| StartError::Runtime("TCP", error))?;
        Ok(Acceptor { listener, service: self.service.clone(), connections: connections.clone(), speaks })
    }
}

/// An address that a configuration has, and who listens there already.
struct Wanted {
    purpose: Purpose,
    asked: SocketAddr,
    open: Option<u64>,
}

impl Wanted {
    /// Whether a listener is what is wanted: asked for in the same words, or the same in effect. Port 0
    /// is content with any.
    fn is(&self, listener: &Listener) -> bool {
        let any = self.asked.port() == 0 && self.asked.ip() == listener.address.ip();
        listener.asked == self.asked || listener.address == self.asked || any
    }
}
