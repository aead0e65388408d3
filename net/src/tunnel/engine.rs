//! The engine: its threads, and what its owner says to it.

use super::count::{Counters, Counts, Reason, add};
use super::device::Tun;
use super::key::{InstallError, KeyLeft, Keys};
use super::send::Outbox;
use super::socket::Sockets;
use super::widths::Widths;
use super::{Config, Event, Kept, Left, Side, Steer, Way, inward, outward};
use crate::poll::{Doorbell, Poll};
use godwit_core::tunnel::header::{Cipher, HEADER_LEN, Kind, TAG_LEN};
use godwit_core::tunnel::{Control, Header, KeyId, TunnelKey};
use godwit_core::wire;
use std::io::{self, IoSlice};
use std::net::{SocketAddr, UdpSocket};
use std::os::fd::BorrowedFd;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering, fence};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};
use tokio::sync::mpsc;

/// So many events wait for the owner. More are lost and counted: what they say is said again.
const EVENTS_MAX: usize = 1024;
/// Errors to senders of packets that are too big: as many at once, and in a second.
const ERRORS_MAX: f64 = 100.0;
/// How long a barrier looks again before it lets others run.
const BARRIER_PAUSE: Duration = Duration::from_micros(20);
/// A device that is down is looked at again after this.
const DOWN_PAUSE: Duration = Duration::from_millis(50);

/// What the threads have in common.
pub(super) struct Shared {
    pub(super) tun: Arc<Tun>,
    pub(super) sockets: Sockets,
    pub(super) steer: Arc<dyn Steer>,
    pub(super) side: Side,
    pub(super) batching: bool,
    pub(super) keys: Keys,
    pub(super) widths: Widths,
    pub(super) counters: Counters,
    pub(super) stop: Stop,
    events: mpsc::Sender<Event>,
    errors: Mutex<(f64, Instant)>,
}

impl Shared {
    pub(super) fn tell(&self, event: Event) {
        if self.events.try_send(event).is_err() {
            add(&self.counters.events_lost, 1);
        }
    }

    /// Whether another error may be sent now (RFC 1812, 4.3.2.8; RFC 4443, 2.4 f).
    pub(super) fn may_send_error(&self) -> bool {
        let mut errors = self.errors.lock().unwrap_or_else(PoisonError::into_inner);
        let (left, at) = &mut *errors;
        let now = Instant::now();
        *left = (*left + now.duration_since(*at).as_secs_f64() * ERRORS_MAX).min(ERRORS_MAX);
        *at = now;
        let may = *left >= 1.0;
        if may {
            *left -= 1.0;
        }
        may
    }
}

/// Ends the threads.
pub(super) struct Stop {
    stopped: AtomicBool,
    bell: Doorbell,
}

/// One thread's count of batches: odd while it has one in hand.
#[derive(Default)]
pub(super) struct Worker {
    epoch: AtomicU64,
}

impl Worker {
    /// Calls `batch` as long as it brings packets, waits for `descriptor` when it does not, and ends
    /// when the engine stops. `None`: there will be nothing for a while.
    pub(super) fn run(
        &self,
        descriptor: BorrowedFd<'_>,
        stop: &Stop,
        mut batch: impl FnMut() -> Option<usize>,
    ) {
        let poll = Poll::new().and_then(|poll| {
            poll.add(descriptor, 0)?;
            poll.add(std::os::fd::AsFd::as_fd(&stop.bell), 1)?;
            Ok(poll)
        });
        let Ok(mut poll) = poll else { return };
        while !stop.stopped.load(Ordering::Relaxed) {
            self.epoch.fetch_add(1, Ordering::SeqCst);
            // Either the barrier sees that we are at work, or we see what its caller did before.
            fence(Ordering::SeqCst);
            let count = batch();
            self.epoch.fetch_add(1, Ordering::SeqCst);
            match count {
                Some(0) => drop(poll.wait().map(|ready| ready.count())),
                Some(_) => {}
                None => thread::sleep(DOWN_PAUSE),
            }
        }
    }

    fn wait(&self, seen: u64) {
        while seen % 2 == 1 && self.epoch.load(Ordering::SeqCst) == seen {
            thread::sleep(BARRIER_PAUSE);
        }
    }
}

/// A running engine. It stops when this is dropped.
pub struct Engine {
    shared: Arc<Shared>,
    workers: Arc<Vec<Worker>>,
    threads: Mutex<Vec<JoinHandle<()>>>,
    outbox: Mutex<Outbox>,
}

impl Engine {
    /// Starts threads that carry packets between `tun` and `sockets`, which are bound: best to an
    /// address, as a socket on the unspecified one answers from whichever address the route has.
    pub fn start(
        config: Config,
        tun: Arc<Tun>,
        sockets: Vec<UdpSocket>,
        steer: Arc<dyn Steer>,
    ) -> io::Result<(Engine, mpsc::Receiver<Event>)> {
        Engine::resume(config, tun, sockets, steer, Vec::new())
    }

    /// The same, and goes on with the keys that another process left.
    pub fn resume(
        config: Config,
        tun: Arc<Tun>,
        sockets: Vec<UdpSocket>,
        steer: Arc<dyn Steer>,
        keys: Vec<KeyLeft>,
    ) -> io::Result<(Engine, mpsc::Receiver<Event>)> {
        let (events, receiver) = mpsc::channel(EVENTS_MAX);
        let shared = Arc::new(Shared {
            sockets: Sockets::take_over(sockets, config.batching)?,
            tun,
            steer,
            side: config.side,
            batching: config.batching,
            keys: Keys::resumed(keys),
            widths: Widths::default(),
            counters: Counters::default(),
            stop: Stop { stopped: AtomicBool::new(false), bell: Doorbell::new()? },
            events,
            errors: Mutex::new((ERRORS_MAX, Instant::now())),
        });
        let queues = shared.tun.queues();
        let workers: Vec<Worker> = (0..queues + shared.sockets.len()).map(|_| Worker::default()).collect();
        let engine = Engine {
            outbox: Mutex::new(Outbox::new(config.batching)),
            shared,
            workers: Arc::new(workers),
            threads: Mutex::default(),
        };
        for number in 0..engine.workers.len() {
            let (shared, workers) = (engine.shared.clone(), engine.workers.clone());
            let (name, run): (_, fn(&Shared, &Worker, usize)) = match number.checked_sub(queues) {
                None => (format!("tunnel-out-{number}"), outward::run),
                Some(socket) => (format!("tunnel-in-{socket}"), inward::run),
            };
            let own = number.checked_sub(queues).unwrap_or(number);
            let thread =
                thread::Builder::new().name(name).spawn(move || run(&shared, &workers[number], own))?;
            engine.threads().push(thread);
        }
        Ok((engine, receiver))
    }

    /// Ends the threads, and gives what another process needs to go on where they stopped. What comes from
    /// now on waits in the device and the sockets, as long as somebody has them open. Afterwards this engine
    /// carries nothing. With an error nothing was changed.
    pub fn leave(&self) -> io::Result<Left> {
        let (device, sockets) = (self.shared.tun.duplicate()?, self.shared.sockets.duplicate()?);
        self.stop();
        // Nobody is sealing any more who has seen a key.
        let _outbox = self.outbox();
        Ok(Left { keys: self.shared.keys.leave(), device, sockets })
    }

    fn stop(&self) {
        self.shared.stop.stopped.store(true, Ordering::Relaxed);
        self.shared.stop.bell.ring();
        for thread in std::mem::take(&mut *self.threads()) {
            // A thread that panicked has nothing left to end.
            let _ = thread.join();
        }
    }

    fn threads(&self) -> std::sync::MutexGuard<'_, Vec<JoinHandle<()>>> {
        self.threads.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Accepts packets under `key` and may seal with it. `side` is ours in this tunnel: who gave the
    /// key is the home agent, also among nodes (there the one that receives relayed packets gave it,
    /// and is the node: it opens what is sealed "to node"). `mtu` is the largest inner packet. Said
    /// again of the same key it changes nothing, but may lower the MTU.
    pub fn install(&self, key: TunnelKey, side: Side, cipher: Cipher, mtu: u16) -> Result<(), InstallError> {
        self.shared.keys.install(key, side, cipher, mtu)
    }

    /// Accepts nothing more under a key, and never again.
    pub fn retire(&self, key: KeyId) {
        self.shared.keys.retire(key);
    }

    /// A word as it would go through the tunnel, for an owner who sends it another way; `None` when the
    /// key is not installed or used up.
    pub fn seal(&self, key: KeyId, control: Control) -> Option<Vec<u8>> {
        let inside = wire::encode(&control);
        let key = self.shared.keys.snapshot().get(&key.0).cloned()?;
        let mut datagram = vec![0; HEADER_LEN + inside.len() + TAG_LEN];
        datagram[HEADER_LEN..HEADER_LEN + inside.len()].copy_from_slice(&inside);
        if key.seal(word_under(key.id), &mut datagram).ok()? {
            self.shared.tell(Event::Worn(key.id));
        }
        Some(datagram)
    }

    /// Sends a word through the tunnel.
    pub fn send(&self, key: KeyId, to: SocketAddr, control: Control) {
        let inside = wire::encode(&control);
        let shared = &self.shared;
        let mut outbox = self.outbox();
        let Some(key) = shared.keys.snapshot().get(&key.0).cloned() else {
            return shared.counters.drop(Reason::NoKey, 1);
        };
        let len = HEADER_LEN + inside.len() + TAG_LEN;
        let room = outbox.room(len);
        room[HEADER_LEN..len - TAG_LEN].copy_from_slice(&inside);
        match key.seal(word_under(key.id), room) {
            Ok(worn) => {
                outbox.push(to, 0, len, &key);
                if matches!(control, Control::Probe(_) | Control::Alive(_)) {
                    shared.widths.step(shared, &mut outbox, &key, to);
                }
                outbox.flush(&shared.sockets, &shared.counters);
                if worn {
                    shared.tell(Event::Worn(key.id));
                }
            }
            Err(reason) => shared.counters.drop(reason, 1),
        }
    }

    /// Seals packets that were kept and sends them that way, in their order.
    pub fn pass(&self, way: &Way, packets: &[Kept]) {
        outward::seal_kept(&self.shared, &mut self.outbox(), way, packets);
    }

    /// Gives packets that were kept to the kernel, in their order.
    pub fn inject(&self, packets: &[Kept]) {
        let counters = &self.shared.counters;
        for kept in packets {
            match self.shared.tun.send(0, kept.offload, &mut [IoSlice::new(&kept.bytes)]) {
                Ok(()) => add(&counters.injected, kept.count()),
                Err(_) => counters.drop(Reason::Undelivered, kept.count()),
            }
        }
    }

    /// Returns when every packet that a thread had in hand when this was called has gone where it
    /// goes: from then on all are steered as [`Steer`] steers now. It takes as long as a batch does,
    /// well below a millisecond, and blocks.
    pub fn barrier(&self) {
        fence(Ordering::SeqCst);
        let seen: Vec<u64> = self.workers.iter().map(|worker| worker.epoch.load(Ordering::SeqCst)).collect();
        for (worker, seen) in self.workers.iter().zip(seen) {
            worker.wait(seen);
        }
    }

    /// What was counted so far.
    pub fn counts(&self) -> Counts {
        self.shared.counters.read()
    }

    /// What fits into the tunnel under this key, octets: less than was installed where the path has
    /// turned out to be narrower.
    pub fn mtu(&self, key: KeyId) -> Option<u16> {
        self.shared.keys.snapshot().get(&key.0).map(|key| key.mtu())
    }

    /// What fits into all tunnels in which words of liveness were said, in both directions; `None` while
    /// there is none.
    pub fn narrowest(&self) -> Option<u16> {
        let keys = self.shared.keys.snapshot();
        keys.values().filter(|key| key.place().is_some()).map(|key| key.narrowest()).min()
    }

    fn outbox(&self) -> std::sync::MutexGuard<'_, Outbox> {
        self.outbox.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The header of a word; what is missing comes with the seal.
fn word_under(key: KeyId) -> Header {
    Header {
        kind: Kind::Control,
        cipher: Cipher::Aes256Gcm,
        relayed: false,
        unsummed: false,
        before: None,
        key,
        counter: 0,
    }
}

impl Drop for Engine {
    fn drop(&mut self) {
        self.stop();
    }
}

impl std::fmt::Debug for Engine {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Engine")
            .field("tun", &self.shared.tun)
            .field("threads", &self.threads().len())
            .finish()
    }
}
