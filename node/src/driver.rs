//! The task that owns the member's machine.
//!
//! It waits for one thing to happen, feeds it to the machine, and does what comes out, in order. A
//! head is durable before anything that follows it leaves: heads that come out together are made
//! durable together. When the disk takes nothing, the member goes on in memory, since it still has
//! peers to tell of failures and clients to serve; but it acknowledges nothing, says that it is not
//! ready, and tries again.

use crate::clock;
use crate::metrics::Metrics;
use crate::quiet::Quiet;
use crate::records::Records;
use crate::snapshot::Snapshot;
use godwit_core::admission::{Admission, Refusal};
use godwit_core::certificate::MemberCertificate;
use godwit_core::health::Judge;
use godwit_core::key::{MemberId, SecretKey};
use godwit_core::member::{Event as Note, Input, Member, Output, SubmitError};
use godwit_core::record::{Key, Record};
use godwit_core::upload::Arrivals;
use godwit_overlay::{Event, Overlay, SponsorRequest};
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// After a change, more changes are waited for so long before others are told: a failed region is
/// one new map and not ten.
const SETTLE: Duration = Duration::from_millis(25);

/// Heads that could not be made durable are tried again this often.
const PERSIST_AGAIN: Duration = Duration::from_secs(2);

/// Heads waiting for the disk; a network has a few hundred in all. Beyond it the oldest are left to
/// reconciliation after the next start.
const UNWRITTEN_MAX: usize = 4096;

/// Announcements that wait for replication; each names a batch of an upload.
pub(crate) const ARRIVALS_MAX: usize = 64;

/// Objects that are being published, and who has them.
pub(crate) type Arrived = (MemberId, Box<Arrivals>);

/// What other tasks ask of the machine.
pub(crate) enum Command {
    /// Feed this.
    Input(Input),
    /// Accept a head from outside.
    Submit {
        /// The head.
        record: Box<Record>,
        /// Told when it is durable, or why it is not.
        reply: oneshot::Sender<Result<(), Failure>>,
    },
}

/// Why a head was not accepted.
#[derive(Debug)]
pub(crate) enum Failure {
    /// The machine refused it.
    Refused(SubmitError),
    /// It counts, but the disk did not take it.
    NotDurable(String),
}

/// Everything that the task needs.
pub(crate) struct Driver {
    pub(crate) member: Member,
    pub(crate) key: SecretKey,
    pub(crate) overlay: Overlay,
    pub(crate) events: mpsc::Receiver<Event>,
    /// Told who is connected: whoever moves connections.
    pub(crate) connected: mpsc::Sender<MemberId>,
    pub(crate) commands: mpsc::Receiver<Command>,
    pub(crate) sponsors: mpsc::Receiver<SponsorRequest>,
    pub(crate) records: Records,
    pub(crate) snapshots: watch::Sender<Arc<Snapshot>>,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) admission: Admission,
    /// Where objects of publishes that go on are told.
    pub(crate) arrived: mpsc::Sender<Arrived>,
    pub(crate) stop: CancellationToken,
    /// What is begun here and must end before the daemon has.
    pub(crate) tasks: TaskTracker,
}

/// What the running task keeps beside the machine.
struct Running {
    driver: Driver,
    waiting: BTreeMap<Key, Vec<oneshot::Sender<Result<(), Failure>>>>,
    joining: BTreeMap<Key, (MemberCertificate, oneshot::Sender<Result<MemberCertificate, Refusal>>)>,
    /// Heads that the disk has not taken yet.
    unwritten: BTreeMap<Key, Record>,
    why_unwritten: String,
    wants_ready: bool,
    /// The addresses of members that are on the disk.
    addresses: BTreeMap<MemberId, Vec<SocketAddr>>,
    write_again: Instant,
    /// When to tell others of what changed.
    tell_at: Option<Instant>,
    /// Derives what holds of everybody's services.
    judge: Judge,
    quiet: Quiet,
}

impl Driver {
    /// Runs until `stop`.
    pub(crate) async fn run(self) {
        self.metrics.durable.set(1);
        let mut running = Running {
            driver: self,
            waiting: BTreeMap::new(),
            joining: BTreeMap::new(),
            unwritten: BTreeMap::new(),
            why_unwritten: String::new(),
            wants_ready: false,
            addresses: BTreeMap::new(),
            write_again: Instant::now(),
            tell_at: None,
            judge: Judge::default(),
            quiet: Quiet::default(),
        };
        running.drain().await;
        running.tell();
        while running.turn().await {}
    }
}

impl Running {
    /// Waits for one thing and does what follows from it; false at the end.
    async fn turn(&mut self) -> bool {
        let deadline = self.driver.member.next_deadline().map(clock::instant_of);
        let again = (!self.unwritten.is_empty()).then_some(self.write_again);
        let wake = [deadline, again, self.tell_at].into_iter().flatten().min();
        let timer = async {
            match wake {
                Some(at) => tokio::time::sleep_until(at).await,
                None => std::future::pending().await,
            }
        };
        let driver = &mut self.driver;
        tokio::select! {
            biased;
            () = driver.stop.cancelled() => return false,
            event = driver.events.recv() => match event {
                Some(event) => self.event(event),
                None => return false,
            },
            request = driver.sponsors.recv() => match request {
                Some(request) => self.sponsor(request),
                None => return false,
            },
            command = driver.commands.recv() => match command {
                Some(command) => self.command(command),
                None => return false,
            },
            () = timer => {}
        }
        if self.driver.member.next_deadline().is_some_and(|deadline| deadline <= clock::now()) {
            self.feed(Input::Timer);
        }
        self.drain().await;
        if !self.unwritten.is_empty() && self.write_again <= Instant::now() {
            self.persist(Vec::new(), Vec::new()).await;
        }
        if self.tell_at.is_some_and(|at| at <= Instant::now()) {
            self.tell();
        }
        true
    }

    /// Tells whether this member can serve: it wants to, and its disk takes heads.
    fn ready(&mut self) {
        let ready = self.wants_ready && self.why_unwritten.is_empty();
        if self.driver.metrics.ready.set(i64::from(ready)) != i64::from(ready) {
            self.feed(Input::Ready(ready));
        }
    }

    fn feed(&mut self, input: Input) {
        self.driver.member.handle(clock::now(), input);
    }

    fn event(&mut self, event: Event) {
        match event {
            Event::PeerUp { peer, certificate, transport, .. } => {
                let name = &certificate.grant().name;
                tracing::info!(peer = peer.short(), %name, %transport, "connected");
                self.feed(Input::PeerUp { peer });
                // When nobody reads, or too slowly: they ask again by themselves.
                let _ = self.driver.connected.try_send(peer);
            }
            Event::PeerDown { peer } => {
                tracing::info!(peer = peer.short(), "disconnected");
                self.feed(Input::PeerDown { peer });
            }
            Event::Message { from, bytes } => self.feed(Input::Message { from, bytes }),
            Event::Rtt { peer, rtt } => self.feed(Input::Rtt { peer, rtt }),
            Event::Refused { address, direction, why, revocation } => {
                // Whoever shows it need not be trusted: the machine verifies the authority's signature.
                if let Some(revocation) = revocation {
                    self.feed(Input::Submit(Box::new(Record::Revocation(*revocation))));
                }
                let source = crate::http::for_log(address.ip());
                let what = format!("{source} {direction:?} {why}");
                if let Some(more) = self.quiet.say(std::time::Instant::now(), what) {
                    tracing::warn!(source, ?direction, why, more, "a peer was refused");
                }
            }
            Event::DialFailed { peer, addresses, why } => {
                tracing::debug!(peer = peer.map(|peer| peer.short()), ?addresses, why, "dialling failed");
                if let Some(peer) = peer {
                    self.feed(Input::DialFailed { peer });
                }
            }
        }
    }

    /// A joiner shows a redeemed token: its certificate must be durable and spreading before it is
    /// told, or a crash here would leave a member that nobody else knows.
    fn sponsor(&mut self, request: SponsorRequest) {
        let SponsorRequest { redemption, reply } = request;
        let now = clock::now();
        let member = redemption.member;
        let serial = redemption.grant.serial;
        // The same key again: the answer to its first attempt was lost on the way.
        let known = self.driver.member.view().member(member);
        if let Some(known) = known.filter(|known| known.certificate.grant().serial == serial) {
            let again = self.driver.admission.admit(now, member, known.certificate);
            let answer = again.map(|()| known.certificate.clone()).map_err(|invalid| Refusal::from(&invalid));
            // A joiner that has hung up asks again.
            let _ = reply.send(answer);
            return;
        }
        match self.driver.admission.sponsor(now, member, redemption, &self.driver.key) {
            Ok(certificate) => {
                tracing::info!(member = member.short(), %serial, name = %certificate.grant().name, "sponsored");
                let record = Record::Member(Box::new(certificate.clone()));
                self.joining.insert(record.key(), (certificate, reply));
                self.feed(Input::Submit(Box::new(record)));
            }
            Err(invalid) => {
                tracing::warn!(member = member.short(), %serial, %invalid, "a join token was refused");
                let _ = reply.send(Err(Refusal::from(&invalid)));
            }
        }
    }

    fn command(&mut self, command: Command) {
        match command {
            Command::Input(Input::Ready(wanted)) => {
                self.wants_ready = wanted;
                self.ready();
            }
            Command::Input(input) => self.feed(input),
            Command::Submit { record, reply } => {
                self.waiting.entry(record.key()).or_default().push(reply);
                self.feed(Input::Submit(record));
            }
        }
    }

    /// Does what the machine wants, in its order.
    async fn drain(&mut self) {
        let mut heads = Vec::new();
        let mut gone = Vec::new();
        while let Some(output) = self.driver.member.poll_output() {
            match output {
                Output::Persist(record) => heads.push(*record),
                Output::Forget(key) => gone.push(key),
                output => {
                    if !heads.is_empty() || !gone.is_empty() {
                        self.persist(std::mem::take(&mut heads), std::mem::take(&mut gone)).await;
                    }
                    self.act(output);
                }
            }
        }
        if !heads.is_empty() || !gone.is_empty() {
            self.persist(heads, gone).await;
        }
    }

    fn act(&mut self, output: Output) {
        let overlay = &self.driver.overlay;
        match output {
            Output::Persist(_) | Output::Forget(_) => {}
            Output::Submitted { key, result } => self.submitted(key, result),
            Output::Send { to, bytes } => {
                if let Err(error) = overlay.send(to, bytes) {
                    tracing::trace!(peer = to.short(), %error, "a message was not sent");
                }
            }
            Output::Dial { peer, addresses } => overlay.dial(peer, addresses),
            Output::DialBootstrap { addresses } => overlay.dial_unknown(addresses),
            Output::Rehomed => overlay.rehomed(),
            Output::Disconnect { peer } => overlay.disconnect(peer),
            Output::AdmissionChanged(admission) => {
                self.driver.admission = (*admission).clone();
                overlay.set_admission(*admission);
            }
            Output::Changed(change) => {
                if change.any() && self.tell_at.is_none() {
                    self.tell_at = Some(Instant::now() + SETTLE);
                }
            }
            Output::Arrived { from, arrivals } => {
                // Without room nothing is lost: it comes with the version.
                let _ = self.driver.arrived.try_send((from, arrivals));
            }
            Output::Note(note) => self.note(&note),
        }
    }

    /// The machine has judged a submission. It counts as accepted when it is on the disk too.
    fn submitted(&mut self, key: Key, result: Result<(), SubmitError>) {
        let durable = match self.unwritten.contains_key(&key) {
            true => Err(self.why_unwritten.clone()),
            false => Ok(()),
        };
        if let Some((certificate, reply)) = self.joining.remove(&key) {
            let answer = match (&result, &durable) {
                (Ok(()), Ok(())) => Ok(certificate),
                (Ok(()), Err(_)) => Err(Refusal::Unavailable),
                (Err(SubmitError::NotAllowed(invalid)), _) => Err(Refusal::from(invalid)),
                (Err(SubmitError::Outdated), _) => Err(Refusal::Used),
                (Err(_), _) => Err(Refusal::Unavailable),
            };
            let _ = reply.send(answer);
        }
        let Some(replies) = self.waiting.remove(&key) else { return };
        if result.is_ok() {
            self.tell();
        }
        for reply in replies {
            let answer = match (&result, &durable) {
                (Ok(()), Ok(())) => Ok(()),
                (Ok(()), Err(why)) => Err(Failure::NotDurable(why.clone())),
                (Err(error), _) => Err(Failure::Refused(error.clone())),
            };
            let _ = reply.send(answer);
        }
    }

    /// Makes heads durable, those left from before first.
    async fn persist(&mut self, heads: Vec<Record>, gone: Vec<Key>) {
        for key in &gone {
            self.unwritten.remove(key);
        }
        self.unwritten.extend(heads.into_iter().map(|record| (record.key(), record)));
        let written = self.driver.records.write(self.unwritten.values(), &gone).await;
        match written {
            Ok(()) => {
                if !self.why_unwritten.is_empty() {
                    tracing::info!(heads = self.unwritten.len(), "heads are durable again");
                    self.why_unwritten.clear();
                    self.driver.metrics.durable.set(1);
                }
                self.unwritten.clear();
                self.ready();
            }
            Err(error) => {
                tracing::error!(%error, heads = self.unwritten.len(), "heads could not be made durable");
                self.why_unwritten = error.to_string();
                self.driver.metrics.durable.set(0);
                self.write_again = Instant::now() + PERSIST_AGAIN;
                while self.unwritten.len() > UNWRITTEN_MAX {
                    self.unwritten.pop_first();
                }
                self.ready();
            }
        }
    }

    /// Tells everybody else what is known now.
    fn tell(&mut self) {
        self.tell_at = None;
        let (snapshot, turned) = Snapshot::of(clock::now(), &self.driver.member, &mut self.judge);
        let snapshot = Arc::new(snapshot);
        self.driver.metrics.health.agreed(&snapshot, &turned);
        let states = snapshot.members.values().map(|known| known.state);
        let peers = snapshot.members.values().filter(|known| known.connected).count();
        self.driver.metrics.untold.set(snapshot.untold as i64);
        self.driver.metrics.roster(states, peers, snapshot.sites.len());
        self.driver.metrics.count(self.driver.member.counters());
        self.driver.snapshots.send_replace(snapshot);
        self.keep_addresses();
    }

    /// Keeps the entries of members whose addresses have changed, for the next start.
    fn keep_addresses(&mut self) {
        let mut moved = Vec::new();
        for record in self.driver.member.view().records() {
            let Record::Roster(entry) = record else { continue };
            let addresses = &entry.body.peer_addresses;
            if self.addresses.get(&entry.by) != Some(addresses) {
                self.addresses.insert(entry.by, addresses.clone());
                moved.push(record.clone());
            }
        }
        if !moved.is_empty() {
            let records = self.driver.records.clone();
            self.driver.tasks.spawn(async move { records.write_entries(moved).await });
        }
    }

    fn note(&mut self, note: &Note) {
        match note {
            Note::StateChanged { member, from, to } => {
                let name = self.driver.member.view().member(*member);
                let name = name.map(|known| known.certificate.grant().name.to_string());
                tracing::info!(member = member.short(), name, ?from, ?to, "a member changed its state");
            }
            Note::RecordRefused { from, key, why } => {
                let from = from.map(|from| from.short());
                let what = format!("{from:?} {}", why.as_str());
                if let Some(more) = self.quiet.say(std::time::Instant::now(), what) {
                    tracing::warn!(from, ?key, why = why.as_str(), more, "a record was refused");
                }
            }
            Note::Malformed { from } => {
                let what = format!("{} malformed", from.short());
                if let Some(more) = self.quiet.say(std::time::Instant::now(), what) {
                    tracing::warn!(from = from.short(), more, "a malformed message");
                }
            }
            Note::VersionLost { site, number } => {
                tracing::warn!(%site, %number, "a version published here lost to another of its number");
            }
            Note::DoubleRedemption { loser, winner } => {
                let (loser, winner) = (loser.short(), winner.short());
                tracing::warn!(loser, winner, "a join token was redeemed twice; the earlier one counts");
            }
            Note::OwnRevocation => tracing::error!("this member was revoked: nobody will talk to it"),
            Note::HeldTruncated { held } => {
                tracing::warn!(held, "more sites are held here than one roster entry can tell");
            }
        }
    }
}
