//! What the handle, the driver and the admissions in progress all see.

use crate::config::{Clock, Config, Limits, SponsorRequest};
use crate::event::{Counters, Direction, TransportKind};
use crate::link::Links;
use godwit_core::admission::{Admission, Answer, Confirmation, Hello, Refusal};
use godwit_core::certificate::{Invalid, MemberCertificate, Revocation};
use godwit_core::key::MemberId;
use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};
use tokio::sync::{Notify, mpsc};

/// So many bits of an epoch count a member's moves since its start: 65,536, one a second for 18 hours.
const MOVES_BITS: u32 = 16;

/// Verdicts waiting for the driver; further ones are only counted.
pub(crate) const VERDICTS_MAX: usize = 64;

/// Admissions whose connection the swarm has not claimed. More than could be in progress at once:
/// when there are more, the oldest were abandoned.
const ADMITTED_MAX: usize = 1024;

pub(crate) struct Shared {
    pub(crate) me: MemberId,
    pub(crate) limits: Limits,
    pub(crate) clock: Clock,
    pub(crate) sponsor: Option<mpsc::Sender<SponsorRequest>>,
    pub(crate) links: Links,
    pub(crate) counters: Arc<Counts>,
    /// Something in here asks for the driver's attention.
    pub(crate) attention: Notify,
    certificate: Box<MemberCertificate>,
    /// What this member shows as its epoch: the start, and the moves since.
    epoch: AtomicU64,
    admission: RwLock<Arc<Admission>>,
    unwanted: Mutex<BTreeSet<MemberId>>,
    /// The highest epoch among the live connections of each peer; kept by the driver.
    epochs: Mutex<BTreeMap<MemberId, u64>>,
    admitted: Mutex<BTreeMap<u64, Admitted>>,
    next_connection: AtomicU64,
    verdicts: mpsc::Sender<Verdict>,
}

/// What admission learnt about a connection; the swarm's behaviour claims it.
#[derive(Clone)]
pub(crate) struct Admitted {
    pub(crate) peer: MemberId,
    pub(crate) certificate: MemberCertificate,
    pub(crate) epoch: u64,
    pub(crate) address: SocketAddr,
    pub(crate) transport: TransportKind,
    pub(crate) quic: Option<quinn::Connection>,
}

/// A refusal, for the owner to hear about.
#[derive(Clone, Debug)]
pub(crate) struct Verdict {
    pub(crate) address: SocketAddr,
    pub(crate) direction: Direction,
    pub(crate) why: String,
    /// What the other side showed for it, if anything.
    pub(crate) revocation: Option<Box<Revocation>>,
}

/// Why a peer is refused: as it is told, and as the owner is.
#[derive(Clone, Debug)]
pub(crate) struct Refused {
    pub(crate) refusal: Refusal,
    /// The statement that the peer is shown instead.
    pub(crate) revocation: Option<Box<Revocation>>,
    pub(crate) why: String,
}

impl Refused {
    pub(crate) fn new(refusal: Refusal, why: impl Into<String>) -> Refused {
        Refused { refusal, revocation: None, why: why.into() }
    }

    /// As a listener says it.
    pub(crate) fn answer(&self) -> Answer {
        match &self.revocation {
            Some(revocation) => Answer::Revoked(revocation.clone()),
            None => Answer::Refused(self.refusal),
        }
    }

    /// As a dialler says it.
    pub(crate) fn confirmation(&self) -> Confirmation {
        match &self.revocation {
            Some(revocation) => Confirmation::Revoked(revocation.clone()),
            None => Confirmation::Refused(self.refusal),
        }
    }
}

impl From<Refusal> for Refused {
    fn from(refusal: Refusal) -> Refused {
        Refused::new(refusal, refusal.to_string())
    }
}

impl Shared {
    pub(crate) fn new(config: &Config, verdicts: mpsc::Sender<Verdict>) -> Shared {
        Shared {
            me: config.key.public(),
            limits: config.limits.clone(),
            clock: config.clock.clone(),
            sponsor: config.sponsor.clone(),
            links: Links::default(),
            counters: Arc::default(),
            attention: Notify::new(),
            certificate: Box::new(config.certificate.clone()),
            epoch: AtomicU64::new(config.epoch << MOVES_BITS),
            admission: RwLock::new(Arc::new(config.admission.clone())),
            unwanted: Mutex::default(),
            epochs: Mutex::default(),
            admitted: Mutex::default(),
            next_connection: AtomicU64::new(1),
            verdicts,
        }
    }

    /// What this member says first.
    pub(crate) fn hello(&self) -> Hello {
        let epoch = self.epoch.load(Ordering::Relaxed);
        Hello::Member { certificate: self.certificate.clone(), epoch }
    }

    /// This member is at another address: its connections are dead, and what it shows from now on has
    /// peers close theirs.
    pub(crate) fn rehomed(&self) {
        self.epoch.fetch_add(1, Ordering::Relaxed);
        let connected = self.links.infos().into_iter().map(|info| info.peer);
        lock(&self.unwanted).extend(connected);
        self.attention.notify_one();
    }

    pub(crate) fn admission(&self) -> Arc<Admission> {
        self.admission.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(crate) fn set_admission(&self, admission: Admission) {
        *self.admission.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(admission);
        self.attention.notify_one();
    }

    pub(crate) fn ask_to_disconnect(&self, peer: MemberId) {
        lock(&self.unwanted).insert(peer);
        self.attention.notify_one();
    }

    pub(crate) fn take_unwanted(&self) -> BTreeSet<MemberId> {
        std::mem::take(&mut lock(&self.unwanted))
    }

    /// Judges what `peer`, who has proved its key, said first.
    pub(crate) fn judge(
        &self,
        peer: MemberId,
        certificate: &MemberCertificate,
        epoch: u64,
    ) -> Result<(), Refused> {
        if peer == self.me {
            return Err(Refused::new(Refusal::Invalid, "it is this member itself"));
        }
        let admission = self.admission();
        admission.admit((self.clock)(), peer, certificate).map_err(|invalid| {
            let why = format!("the certificate shown by {peer:?} does not admit it: {invalid}");
            let shown = (invalid == Invalid::Revoked).then(|| admission.revocation(certificate)).flatten();
            Refused { revocation: shown.cloned().map(Box::new), ..Refused::new(Refusal::from(&invalid), why) }
        })?;
        match lock(&self.epochs).get(&peer) {
            Some(live) if epoch < *live => Err(Refusal::Stale.into()),
            _ => Ok(()),
        }
    }

    pub(crate) fn set_epoch(&self, peer: MemberId, epoch: Option<u64>) {
        match epoch {
            Some(epoch) => lock(&self.epochs).insert(peer, epoch),
            None => lock(&self.epochs).remove(&peer),
        };
    }

    /// A number for a connection to be.
    pub(crate) fn connection_number(&self) -> u64 {
        self.next_connection.fetch_add(1, Ordering::Relaxed)
    }

    pub(crate) fn put_admitted(&self, number: u64, admitted: Admitted) {
        let mut all = lock(&self.admitted);
        all.insert(number, admitted);
        while all.len() > ADMITTED_MAX {
            all.pop_first();
        }
    }

    pub(crate) fn claim_admitted(&self, number: u64) -> Option<Admitted> {
        lock(&self.admitted).remove(&number)
    }

    /// Tells the owner about a refusal.
    pub(crate) fn report(&self, verdict: Verdict) {
        self.counters.refused.fetch_add(1, Ordering::Relaxed);
        tracing::debug!(direction = ?verdict.direction, why = verdict.why, "refused");
        self.verdicts.try_send(verdict).ok();
    }
}

/// The counters as they count.
#[derive(Default)]
pub(crate) struct Counts {
    pub(crate) messages_sent: AtomicU64,
    pub(crate) messages_received: AtomicU64,
    pub(crate) messages_dropped: AtomicU64,
    pub(crate) handshakes_shed: AtomicU64,
    pub(crate) refused: AtomicU64,
}

impl Counts {
    pub(crate) fn snapshot(&self) -> Counters {
        let read = |count: &AtomicU64| count.load(Ordering::Relaxed);
        Counters {
            messages_sent: read(&self.messages_sent),
            messages_received: read(&self.messages_received),
            messages_dropped: read(&self.messages_dropped),
            handshakes_shed: read(&self.handshakes_shed),
            refused: read(&self.refused),
        }
    }
}

/// What a panicking holder left is still sound: every change here is a single insert or remove.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
