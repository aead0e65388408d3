//! The machine that every member runs, node and redirector alike.
//!
//! It spreads records, keeps the roster and judges who can be reached, says with whom to be
//! connected, and answers what the map asks ([`View`]). It has no clock, socket or disk: a shell
//! feeds it and acts for it.
//!
//! # Calling contract
//!
//! 1. Make it with [`Member::new`], giving it what earlier runs have persisted.
//! 2. Wait for one thing to happen (a message, a change of connection, the deadline), and tell it
//!    by [`Member::handle`]. Time never runs backwards.
//! 3. Drain [`Member::poll_output`] until it is empty, in order: a [`Output::Persist`] must be
//!    durable before anything after it leaves. Outputs wait from `new` on.
//! 4. Ask [`Member::next_deadline`] and sleep until then at most; then feed [`Input::Timer`].
//!    A late, early or repeated timer does no harm.
//!
//! Same inputs, same outputs: randomness is drawn from [`Config::seed`]. Inputs and outputs
//! serialize, so that a shell can record a run and replay it.

mod config;
mod connect;
mod io;
mod own;
mod publish;
mod submit;
mod view;

pub use config::{Config, OwnEntry, Timing};
pub use io::{Change, Event, Input, Output, SubmitError, Use};
pub use view::{MemberView, State, View};

use crate::admission::Admission;
use crate::agreement;
use crate::announce;
use crate::certificate::Role;
use crate::content::VersionNumber;
use crate::key::MemberId;
use crate::name::SiteName;
use crate::record::{Key, Record};
use crate::resolver;
use crate::roster::{Links, Roster};
use crate::spread::{Effect, Membership, Message, Spread};
use crate::stats::{Counters, Refused};
use crate::time::Time;
use bytes::Bytes;
use connect::Connections;
use own::Own;
use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

/// How often validity is looked at: certificates end with a minute's tolerance, so this is enough.
const REVIEW_PERIOD: Duration = Duration::from_secs(5);

/// With so few peers each new one is worth an entry of its own.
const FEW_PEERS: usize = 8;

/// Acting so much later than asked for means that the process or its host stood still.
const LATE_MIN: Duration = Duration::from_millis(250);

/// The machine. See the module for how to call it.
pub struct Member {
    id: MemberId,
    config: Config,
    now: Time,
    spread: Spread,
    roster: Roster,
    own: Own,
    connections: Connections,
    /// Who connects to whom among all members, and among those that can be reached.
    links: [Links; 2],
    /// What was submitted here and is current: to tell when it loses.
    submitted: BTreeMap<SiteName, VersionNumber>,
    review_at: Time,
    members_dirty: bool,
    links_dirty: bool,
    change: Change,
    outputs: VecDeque<Output>,
}

impl Member {
    /// A member that knows `persisted` from earlier runs, in any order. Heads that do not hold (any
    /// more) are dropped. Of soft state only addresses are used, to find peers again.
    pub fn new(now: Time, config: Config, persisted: Vec<Record>) -> Member {
        let id = config.key.public();
        let timing = config.timing.clone();
        let mut member = Member {
            id,
            now,
            spread: Spread::new(
                now,
                config.network,
                id,
                timing.fan_out,
                timing.reconcile_period,
                config.seed,
            ),
            roster: Roster::new(now, id, timing.clone()),
            own: Own::new(now, config.own.clone()),
            connections: Connections::new(now, id, timing.dial_backoff, config.seed),
            links: Default::default(),
            submitted: BTreeMap::new(),
            review_at: now,
            members_dirty: true,
            links_dirty: true,
            change: Change::default(),
            outputs: VecDeque::new(),
            config,
        };
        member.load(now, persisted);
        member.turn(now);
        member
    }

    /// Takes note of what happened.
    pub fn handle(&mut self, now: Time, input: Input) {
        let now = now.max(self.now);
        self.now = now;
        if let Some(deadline) = self.next_deadline()
            && now.since(deadline) > LATE_MIN
        {
            self.roster.excuse(now, now.since(deadline));
        }
        match input {
            Input::PeerUp { peer } => self.peer_up(now, peer),
            Input::PeerDown { peer } => self.peer_down(now, peer),
            Input::Message { from, bytes } => self.message(now, from, &bytes),
            Input::Rtt { peer, rtt } => self.roster.rtt(now, peer, rtt),
            Input::DialFailed { peer } => self.connections.failed(now, peer),
            Input::Submit(record) => self.submit(now, *record),
            Input::Hold { site, version } => self.own.hold(now, site, Some(version)),
            Input::Release { site } => self.own.hold(now, site, None),
            Input::Ready(ready) => self.own.set_ready(now, ready),
            Input::Load(permille) => self.own.set_load(now, permille),
            Input::ClientRtts(rtts) => self.own.set_client_rtts(rtts),
            Input::Verdicts(verdicts) => self.own.set_verdicts(now, verdicts),
            Input::Demand(demand) => self.own.demand.set(now, *demand),
            Input::Challenge { challenge, lease } => self.own.challenges.set(now, challenge, lease),
            Input::Resolvers(asked) => self.own.asked.set(now, resolver::encode_asked(&asked)),
            Input::ResolverRtts(found) => self.own.found.set(now, resolver::encode_found(&found)),
            Input::Settings(settings) => self.own.settings.set(now, agreement::encode(&settings)),
            Input::HomesAnnounced(announced) => self.own.announced.set(now, announce::encode(&announced)),
            Input::Own(entry) => self.set_own(now, *entry),
            Input::Bootstrap(addresses) => self.connections.set_bootstrap(now, addresses),
            Input::Arrived { to, arrivals } => self.tell_arrivals(&to, arrivals),
            Input::Timer => {}
        }
        self.turn(now);
    }

    /// The next thing to do.
    pub fn poll_output(&mut self) -> Option<Output> {
        self.outputs.pop_front()
    }

    /// When to feed [`Input::Timer`] at the latest.
    pub fn next_deadline(&self) -> Option<Time> {
        let deadlines = [
            self.spread.next_deadline(),
            self.roster.next_deadline(),
            self.own.next_deadline(),
            self.connections.next_deadline(),
            self.review_at,
        ];
        deadlines.into_iter().min()
    }

    /// What is known.
    pub fn view(&self) -> View<'_> {
        View { member: self }
    }

    /// What was done so far.
    pub fn counters(&self) -> &Counters {
        &self.spread.counters
    }

    /// What it was made from.
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// Does what is due and settles what follows from it.
    fn turn(&mut self, now: Time) {
        self.spread.tick(now);
        if now >= self.review_at {
            self.review_at = now + REVIEW_PERIOD;
            self.members_dirty = true;
            self.own.look_at_rtts(now, &self.roster);
        }
        // What is said of oneself becomes a record, a record may change a verdict, a verdict is
        // said to others: a few rounds settle it, and what is left settles in the next turn.
        for _ in 0..8 {
            self.take_effects(now);
            self.review_members(now);
            self.judge(now);
            if !self.speak(now) {
                break;
            }
        }
        self.take_effects(now);
        self.review_links(now);
        self.send(now);
        let change = std::mem::take(&mut self.change);
        if change.any() {
            self.outputs.push_back(Output::Changed(change));
        }
    }

    fn peer_up(&mut self, now: Time, peer: MemberId) {
        if self.is_shut_out(now, peer) {
            self.outputs.push_back(Output::Disconnect { peer });
            return;
        }
        self.spread.peer_up(peer);
        self.roster.peer_up(now, peer);
        self.connections.up(peer);
        // The path's length is news while there are few; later it is told at the next review.
        if self.roster.connected().len() <= FEW_PEERS {
            self.own.touch(now, own::SOON);
        }
    }

    /// A connection from an address that this host has no more carries nothing, and the other end cannot
    /// know where the host is: waiting for either to notice costs seconds.
    fn set_own(&mut self, now: Time, entry: OwnEntry) {
        let before = &self.own.entry().peer_addresses;
        let rehomed = before.iter().any(|address| !entry.peer_addresses.contains(address));
        self.own.set_entry(now, entry);
        if rehomed {
            self.connections.rehomed(now);
            self.outputs.push_back(Output::Rehomed);
        }
    }

    fn peer_down(&mut self, now: Time, peer: MemberId) {
        self.spread.peer_down(peer);
        self.roster.peer_down(now, peer);
        if self.roster.state(peer).is_some() && !self.links.iter().any(|links| links.linked(self.id, peer)) {
            self.roster.forget(now, peer);
        }
        self.connections.down(now, peer, self.roster.connected().is_empty());
    }

    fn message(&mut self, now: Time, from: MemberId, bytes: &Bytes) {
        self.spread.counters.messages_in += 1;
        if self.is_shut_out(now, from) {
            self.spread.counters.refuse(Refused::Revoked);
            return;
        }
        let Ok(message) = Message::decode(bytes) else {
            self.spread.counters.refuse(Refused::Malformed);
            self.note(Event::Malformed { from });
            return;
        };
        if let Some(answer) = self.roster.message(now, from, &message) {
            self.push_message(from, &answer);
        }
        match message {
            Message::Coming(arrivals) => self.hear_arrivals(now, from, arrivals),
            message => self.spread.message(now, from, message),
        }
    }

    /// Whether the certificates of a key are known and none of them holds.
    fn is_shut_out(&self, now: Time, peer: MemberId) -> bool {
        let membership = self.spread.directory().membership(now, self.spread.set(), peer);
        matches!(membership, Membership::Revoked | Membership::NotNow(_))
    }

    fn take_effects(&mut self, now: Time) {
        while let Some(effect) = self.spread.poll_effect() {
            match effect {
                Effect::Accepted { key, previous, from } => self.accepted(now, &key, previous, from),
                Effect::Removed { key, record } => self.removed(now, key, &record),
                Effect::Refused { from, key, why } => self.note(Event::RecordRefused { from, key, why }),
            }
        }
    }

    fn accepted(&mut self, now: Time, key: &Key, previous: Option<Record>, from: Option<MemberId>) {
        // It may have fallen again since, and then its removal follows.
        let Some(held) = self.spread.set().get(key) else { return };
        let (record, birth) = (held.record.clone(), held.birth);
        if held.end.is_none() {
            self.outputs.push_back(Output::Persist(Box::new(record.clone())));
        }
        match (&record, previous) {
            (Record::Member(winner), previous) => {
                self.members_dirty = true;
                if let Some(Record::Member(loser)) = previous
                    && loser.member() != winner.member()
                {
                    let (loser, winner) = (loser.member(), winner.member());
                    self.note(Event::DoubleRedemption { loser, winner });
                    self.cast_out(now, loser);
                }
            }
            (Record::Revocation(revocation), _) => {
                self.members_dirty = true;
                if revocation.serial == self.config.certificate.grant().serial {
                    self.note(Event::OwnRevocation);
                }
            }
            (Record::Site(version), _) => {
                self.change.sites = true;
                let (site, number) = (version.site.clone(), version.number);
                if from.is_some() && self.submitted.remove(&site) == Some(number) {
                    self.note(Event::VersionLost { site, number });
                }
            }
            (Record::Order(_), _) => self.change.members = true,
            (Record::Address(_), _) => self.change.sites = true,
            (Record::Roster(entry), previous) => {
                self.change.soft = true;
                self.roster.entry(now, entry.by, Some((entry.body.incarnation, birth)));
                let before = match &previous {
                    Some(Record::Roster(before)) => Some(&before.body),
                    _ => None,
                };
                let moved = before.is_none_or(|before| {
                    before.peer_addresses != entry.body.peer_addresses
                        || before.incarnation != entry.body.incarnation
                });
                if moved {
                    self.change.members = true;
                    self.connections.moved(now, entry.by, entry.body.peer_addresses.clone());
                }
            }
            (Record::Suspicion(suspicion), _) => {
                let body = &suspicion.body;
                if body.of == self.id && suspicion.by != self.id && body.unreachable {
                    // A sign of life refutes it.
                    self.own.touch(now, Duration::ZERO);
                }
                if suspicion.by != self.id {
                    let doubt = body.unreachable.then_some((body.incarnation, birth));
                    self.roster.doubt(now, suspicion.by, body.of, doubt);
                }
            }
            (Record::Observations(_) | Record::Statement(_), _) => self.change.soft = true,
        }
    }

    fn removed(&mut self, now: Time, key: Key, record: &Record) {
        match record {
            Record::Member(certificate) => {
                self.members_dirty = true;
                self.cast_out(now, certificate.member());
            }
            Record::Site(_) | Record::Address(_) => self.change.sites = true,
            Record::Order(_) => self.change.members = true,
            Record::Revocation(_) => {}
            Record::Roster(entry) => {
                self.change.soft = true;
                self.roster.entry(now, entry.by, None);
            }
            Record::Suspicion(suspicion) => {
                self.roster.doubt(now, suspicion.by, suspicion.body.of, None);
            }
            Record::Observations(_) | Record::Statement(_) => self.change.soft = true,
        }
        if record.lifetime().is_none() {
            self.outputs.push_back(Output::Forget(key));
        }
    }

    /// Drops what a former member said, and the connection with it.
    fn cast_out(&mut self, now: Time, member: MemberId) {
        if member == self.id
            || self.spread.directory().membership(now, self.spread.set(), member) == Membership::Valid
        {
            return;
        }
        self.spread.drop_soft_state(now, member);
        if self.roster.connected().contains(&member) {
            self.outputs.push_back(Output::Disconnect { peer: member });
        }
    }

    /// Looks through all members again, after certificates or revocations came or time went by.
    fn review_members(&mut self, now: Time) {
        if !std::mem::take(&mut self.members_dirty) {
            return;
        }
        let directory = self.spread.directory();
        let fixed = |member| match directory.membership(now, self.spread.set(), member) {
            Membership::Valid | Membership::Unknown => None,
            Membership::Revoked => Some(State::Revoked),
            Membership::NotNow(_) => Some(State::Expired),
        };
        let members: BTreeMap<MemberId, Option<State>> = directory
            .members()
            .filter(|member| *member != self.id)
            .map(|member| (member, fixed(member)))
            .collect();
        let judged = self.roster.set_members(now, &members);
        for verdict in &judged {
            if matches!(verdict.to, State::Revoked | State::Expired) {
                self.cast_out(now, verdict.member);
            }
        }
        self.judged(judged);
        self.links_dirty = true;
        self.change.members = true;
        self.change_admission();
    }

    fn change_admission(&mut self) {
        let mut admission = Admission {
            network: Some(self.config.network),
            members: BTreeMap::new(),
            revoked: BTreeMap::new(),
            fresh: self.is_fresh(),
        };
        for (key, held) in self.spread.set().heads_of_membership() {
            match (key, &held.record) {
                (Key::Member(serial), Record::Member(certificate)) => {
                    admission.members.insert(*serial, certificate.member());
                }
                (Key::Revocation(serial), Record::Revocation(revocation)) => {
                    admission.revoked.insert(*serial, revocation.clone());
                }
                _ => {}
            }
        }
        if self.own.admission.as_ref() != Some(&admission) {
            self.own.admission = Some(admission.clone());
            self.outputs.push_back(Output::AdmissionChanged(Box::new(admission)));
        }
    }

    /// Whether not even the own sponsor's certificate is known.
    fn is_fresh(&self) -> bool {
        let sponsor = self.config.certificate.sponsor;
        self.spread.directory().certificates(self.spread.set(), sponsor).next().is_none()
    }

    fn judge(&mut self, now: Time) {
        let judged = self.roster.judge(now);
        self.judged(judged);
        self.change.members |= self.roster.take_lost_changed();
    }

    fn judged(&mut self, judged: Vec<crate::roster::Judged>) {
        for verdict in judged {
            self.change.members = true;
            self.links_dirty |= [verdict.from, verdict.to].contains(&State::Unreachable);
            self.note(Event::StateChanged { member: verdict.member, from: verdict.from, to: verdict.to });
        }
    }

    /// Says what is due of itself and of others; whether that made records.
    fn speak(&mut self, now: Time) -> bool {
        let members = self.spread.directory().len();
        let mind_changed = self.roster.take_mind_changed();
        let mut records = self.own.doubts(now, &self.config, &self.roster, mind_changed);
        records.extend(self.own.records(now, &self.config, &self.roster, members));
        let spoke = !records.is_empty();
        for record in records {
            // Told as an event; usual when this member is none any more.
            if let Err(rejection) = self.spread.offer_own(now, record)
                && !rejection.refused().is_usual()
            {
                self.spread.counters.own_refused += 1;
            }
        }
        if let Some(held) = self.own.take_truncated() {
            self.note(Event::HeldTruncated { held });
        }
        spoke
    }

    /// Chooses again with whom to be connected.
    fn review_links(&mut self, now: Time) {
        if std::mem::take(&mut self.links_dirty) {
            let members = || {
                let roster = &self.roster;
                let others = self
                    .spread
                    .directory()
                    .members()
                    .filter_map(move |member| roster.state(member).map(|(state, _)| (member, state)));
                others.filter(|(_, state)| !matches!(state, State::Revoked | State::Expired))
            };
            let all = members().map(|(member, _)| member).chain([self.id]);
            let reachable = members()
                .filter(|(_, state)| *state != State::Unreachable)
                .map(|(member, _)| member)
                .chain([self.id]);
            let timing = &self.config.timing;
            self.links = [Links::new(all, timing), Links::new(reachable, timing)];
            let mut wanted = self.links[0].chosen_by(self.id);
            wanted.extend(self.links[1].chosen_by(self.id));
            wanted.extend(members().map(|(member, _)| member).filter(|member| self.bound_with(*member)));
            self.connections.set_wanted(now, wanted);
            self.prune();
        }
        let connected = self.roster.connected();
        self.outputs.extend(self.connections.due(now, connected.is_empty()));
    }

    /// Whether one of the two holds home addresses and the other may serve them: they speak with each
    /// other directly, whatever the network's size. Home agents are few.
    fn bound_with(&self, peer: MemberId) -> bool {
        let own = &self.config.certificate;
        let (holds, serves) = (own.has_role(Role::HomeAgent), own.has_role(Role::Node));
        let mut certificates = self.spread.directory().certificates(self.spread.set(), peer);
        certificates.next().is_some_and(|theirs| {
            holds && theirs.has_role(Role::Node) || serves && theirs.has_role(Role::HomeAgent)
        })
    }

    /// Closes connections that neither side wants, when there are many: left over from when the
    /// network was small.
    fn prune(&mut self) {
        let connected = self.roster.connected();
        if connected.len() <= self.config.timing.mesh_max {
            return;
        }
        let known = |peer: &MemberId| self.roster.state(*peer).is_some();
        let linked = |peer: &MemberId| self.links.iter().any(|links| links.linked(self.id, *peer));
        let superfluous = |peer: &MemberId| known(peer) && !linked(peer) && !self.bound_with(*peer);
        let superfluous: Vec<MemberId> = connected.iter().copied().filter(superfluous).collect();
        self.outputs.extend(superfluous.into_iter().map(|peer| Output::Disconnect { peer }));
    }

    fn send(&mut self, now: Time) {
        for (to, ping) in self.roster.pings(now) {
            self.push_message(to, &ping);
        }
        while let Some((to, message)) = self.spread.poll_message(now) {
            self.push_message(to, &message);
        }
    }

    fn push_message(&mut self, to: MemberId, message: &Message) {
        let bytes = message.encode();
        self.spread.counters.messages_out += 1;
        self.spread.counters.bytes_out += bytes.len() as u64;
        self.outputs.push_back(Output::Send { to, bytes });
    }

    fn note(&mut self, event: Event) {
        self.outputs.push_back(Output::Note(event));
    }
}
