//! What a member's machine knows, for the map and for people.

use super::Member;
use crate::agreement::{self, Setting};
use crate::announce::{self, Announcement};
use crate::certificate::Role;
use crate::certificate::{AddressGrant, Duty, MemberCertificate, Serial};
use crate::challenge::{self, Challenge};
use crate::content::SiteVersion;
use crate::demand::{self, Demand};
use crate::key::MemberId;
use crate::name::SiteName;
use crate::observation::ClientRtt;
use crate::record::{Key, Record, RosterEntry};
use crate::resolver;
use crate::spread::Membership;
use crate::time::Time;
use serde::{Deserialize, Serialize};
use std::net::IpAddr;

/// How a member is judged from here.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum State {
    /// It can be reached, or nobody says otherwise and its entry is fresh.
    Alive,
    /// There is doubt that is not confirmed.
    Suspect,
    /// It cannot be reached, by own observation or by that of two others.
    Unreachable,
    /// Nothing was heard of it (yet).
    Unknown,
    /// Its certificate was taken back.
    Revoked,
    /// Its certificate has run out.
    Expired,
}

/// One member as it is known here.
#[derive(Clone, Copy, Debug)]
pub struct MemberView<'a> {
    /// Why it is a member.
    pub certificate: &'a MemberCertificate,
    /// What it says of itself, while that holds.
    pub entry: Option<&'a RosterEntry>,
    /// How it is judged.
    pub state: State,
    /// Whether most of those in reach doubt it and it has not answered that: it is unreachable beyond
    /// what liars could bring about.
    pub lost: bool,
    /// Whether it was told to drain.
    pub draining: bool,
    /// Since when it is in this state.
    pub since: Time,
    /// Whether it is this member.
    pub own: bool,
    /// Whether there is a connection with it.
    pub connected: bool,
    /// The smoothed round-trip time to it, microseconds, when it was measured.
    pub rtt_us: Option<u32>,
}

/// What a member's machine knows at this moment.
#[derive(Clone, Copy)]
pub struct View<'a> {
    pub(super) member: &'a Member,
}

impl<'a> View<'a> {
    /// Every member with a certificate that counts, this one included, in the order of their keys.
    pub fn members(self) -> impl Iterator<Item = MemberView<'a>> {
        let ids = self.member.spread.directory().members();
        ids.filter_map(move |member| self.member(member))
    }

    /// One member.
    pub fn member(self, member: MemberId) -> Option<MemberView<'a>> {
        let machine = self.member;
        let set = machine.spread.set();
        let (membership, certificate) = machine.spread.directory().standing(machine.now, set, member);
        let certificate = certificate?;
        let own = member == machine.id;
        let (state, since) = match membership {
            Membership::Revoked if own => (State::Revoked, machine.now),
            Membership::NotNow(_) if own => (State::Expired, machine.now),
            _ if own => (State::Alive, certificate.sponsored_at),
            _ => machine.roster.state(member).unwrap_or((State::Unknown, machine.now)),
        };
        Some(MemberView {
            certificate,
            entry: self.entry(member),
            state,
            lost: !own && machine.roster.is_lost(member),
            draining: self.is_draining(certificate.grant().serial),
            since,
            own,
            connected: machine.roster.connected().contains(&member),
            rtt_us: machine.roster.rtt_us(member),
        })
    }

    /// What a member says of itself, while that holds.
    pub fn entry(self, member: MemberId) -> Option<&'a RosterEntry> {
        match &self.record(&Key::Roster(member))? {
            Record::Roster(entry) => Some(&entry.body),
            _ => None,
        }
    }

    /// The current version of every site, in order of their names.
    pub fn sites(self) -> impl Iterator<Item = &'a SiteVersion> {
        self.records().filter_map(|record| match record {
            Record::Site(version) => Some(&**version),
            _ => None,
        })
    }

    /// The current version of a site.
    pub fn site(self, site: &SiteName) -> Option<&'a SiteVersion> {
        match self.record(&Key::Site(site.clone()))? {
            Record::Site(version) => Some(version),
            _ => None,
        }
    }

    /// What the authority said of each name of a home address, by name; of those that it took back,
    /// too. Which of them count says [`crate::certificate::standing`].
    pub fn address_grants(self) -> impl Iterator<Item = &'a AddressGrant> {
        self.records().filter_map(|record| match record {
            Record::Address(grant) => Some(&**grant),
            _ => None,
        })
    }

    /// Round-trip times to client prefixes, microseconds, by the member that measured them.
    pub fn observations(self) -> impl Iterator<Item = (MemberId, &'a [ClientRtt])> {
        self.records().filter_map(|record| match record {
            Record::Observations(observations) => Some((observations.by, &observations.body.rtts[..])),
            _ => None,
        })
    }

    /// What clients ask of each member, and what it can take, by member. What cannot be read (of a
    /// later version, or malformed) is left out.
    pub fn demands(self) -> impl Iterator<Item = (MemberId, Demand)> {
        self.records().filter_map(|record| match record {
            Record::Statement(statement) if statement.body.kind == demand::KIND => {
                Some((statement.by, Demand::decode(&statement.body.body)?))
            }
            _ => None,
        })
    }

    /// The values for certificate authorities that each member set, by member. What cannot be read is
    /// left out, and so is what a member says whose certificate makes it neither node nor redirector.
    pub fn challenges(self) -> impl Iterator<Item = (MemberId, Vec<Challenge>)> {
        let may = move |by: MemberId| {
            let member = self.member(by);
            member.is_some_and(|member| {
                member.certificate.has_role(Role::Node) || member.certificate.has_role(Role::Redirector)
            })
        };
        self.records().filter_map(move |record| match record {
            Record::Statement(statement) if statement.body.kind == challenge::KIND && may(statement.by) => {
                Some((statement.by, challenge::decode(&statement.body.body)?))
            }
            _ => None,
        })
    }

    /// The resolvers that each redirector wants measured, the heaviest first. What cannot be read is
    /// left out, and so is what a member says whose certificate makes it no redirector.
    pub fn resolvers_asked(self) -> impl Iterator<Item = (MemberId, Vec<IpAddr>)> {
        let asked = self.statements(resolver::ASKED_KIND, Role::Redirector);
        asked.filter_map(|(by, body)| Some((by, resolver::decode_asked(body)?)))
    }

    /// How far each node found resolvers to be, sorted by prefix. What cannot be read is left out, and
    /// so is what a member says whose certificate makes it no node.
    pub fn resolver_rtts(self) -> impl Iterator<Item = (MemberId, Vec<ClientRtt>)> {
        let found = self.statements(resolver::FOUND_KIND, Role::Node);
        found.filter_map(|(by, body)| Some((by, resolver::decode_found(body)?)))
    }

    /// The settings that each redirector decides by, sorted by name; as for [`View::resolvers_asked`].
    pub fn settings(self) -> impl Iterator<Item = (MemberId, Vec<Setting>)> {
        let told = self.statements(agreement::KIND, Role::Redirector);
        told.filter_map(|(by, body)| Some((by, agreement::decode(body)?)))
    }

    /// The home addresses that each home agent announces; as for [`View::resolvers_asked`].
    pub fn announced(self) -> impl Iterator<Item = (MemberId, Vec<Announcement>)> {
        let told = self.statements(announce::KIND, Role::HomeAgent);
        told.filter_map(|(by, body)| Some((by, announce::decode(body)?)))
    }

    /// The statements of a kind by members that have a role.
    fn statements(self, kind: u16, role: Role) -> impl Iterator<Item = (MemberId, &'a [u8])> {
        let may = move |by: MemberId| self.member(by).is_some_and(|member| member.certificate.has_role(role));
        self.records().filter_map(move |record| match record {
            Record::Statement(statement) if statement.body.kind == kind && may(statement.by) => {
                Some((statement.by, &statement.body.body[..]))
            }
            _ => None,
        })
    }

    /// All records, heads and soft state, in the order of their keys: what to keep for the next
    /// start. (Heads were given out by [`super::Output::Persist`] already.)
    pub fn records(self) -> impl Iterator<Item = &'a Record> {
        self.member.spread.set().iter().map(|(_, held)| &held.record)
    }

    /// One record.
    pub fn record(self, key: &Key) -> Option<&'a Record> {
        self.member.spread.set().get(key).map(|held| &held.record)
    }

    /// The sum of all records: equal sums mean equal sets.
    pub fn fingerprint(self) -> u128 {
        self.member.spread.set().sum()
    }

    /// The members that this one has a connection with.
    pub fn connected(self) -> impl Iterator<Item = MemberId> {
        self.member.roster.connected().iter().copied()
    }

    /// Whether this member itself doubts that the other can be reached.
    pub fn doubts(self, member: MemberId) -> bool {
        self.member.roster.doubts(member)
    }

    /// How many sites are held here that this member's entry had no room for: nobody is led here for
    /// them.
    pub fn untold(self) -> usize {
        self.member.own.untold()
    }

    /// Whether this member has said that it can serve.
    pub fn ready(self) -> bool {
        self.member.own.ready()
    }

    fn is_draining(self, serial: Serial) -> bool {
        match self.record(&Key::Order(serial)) {
            Some(Record::Order(order)) => order.duty == Duty::Drain,
            _ => false,
        }
    }
}
