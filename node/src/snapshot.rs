//! What the member knew at one moment, for everybody but its machine.
//!
//! The machine lives in one task; status, map, replication and the HTTP role read this copy
//! instead. It is made at most every few dozen milliseconds, and at once when a head was submitted,
//! so that who has just published sees the new version.

use godwit_core::agreement::{self, Difference, Setting};
use godwit_core::announce::Announcement;
use godwit_core::binding::HomeAddress;
use godwit_core::certificate::{self, AddressGrant, Home, MemberCertificate, Role};
use godwit_core::challenge::Challenge;
use godwit_core::content::{SiteVersion, VersionNumber};
use godwit_core::demand::{Capacity, Demand};
use godwit_core::health::{Agreed, Agreement, Judge, Opinion, Target, Witness};
use godwit_core::key::MemberId;
use godwit_core::member::{Member, MemberView, State};
use godwit_core::name::SiteName;
use godwit_core::observation::ClientRtt;
use godwit_core::record::RosterEntry;
use godwit_core::resolver;
use godwit_core::time::Time;
use godwit_map::{CheckInput, DemandInput, Health, HomeInput, Inputs, MemberInput, Service, SiteInput};
use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};

/// What the member knew at one moment.
#[derive(Clone, Debug, Default)]
pub(crate) struct Snapshot {
    /// When.
    pub(crate) time: Time,
    /// All members, by key.
    pub(crate) members: BTreeMap<MemberId, Known>,
    /// The newest version of each site.
    pub(crate) sites: BTreeMap<SiteName, SiteVersion>,
    /// What the authority said of each name of a home address, of those taken back, too. Which count
    /// says [`Snapshot::homes`].
    pub(crate) addresses: BTreeMap<SiteName, AddressGrant>,
    /// The home addresses that each home agent announces.
    pub(crate) announced: BTreeMap<MemberId, Vec<Announcement>>,
    /// Client round-trip times, by who measured them.
    pub(crate) observations: Vec<(MemberId, Vec<ClientRtt>)>,
    /// What clients ask of each member, and what it can take.
    pub(crate) demands: BTreeMap<MemberId, Demand>,
    /// What vantages agree on, for each check of each member.
    pub(crate) health: BTreeMap<Target, Agreement>,
    /// The members that this one checks.
    pub(crate) watched: BTreeSet<MemberId>,
    /// Resolvers that are to be measured.
    pub(crate) resolvers: Vec<IpAddr>,
    /// Round-trip times to resolvers, by the node that found them.
    pub(crate) resolver_rtts: Vec<(MemberId, Vec<ClientRtt>)>,
    /// The settings that redirectors decide by.
    pub(crate) settings: BTreeMap<MemberId, Vec<Setting>>,
    /// How many sites this member holds that its entry has no room for.
    pub(crate) untold: usize,
    /// Values for certificate authorities, by the member that set them.
    pub(crate) challenges: BTreeMap<MemberId, Vec<Challenge>>,
}

/// What was known of a member.
#[derive(Clone, Debug)]
pub(crate) struct Known {
    pub(crate) certificate: MemberCertificate,
    pub(crate) entry: Option<RosterEntry>,
    pub(crate) state: State,
    /// Whether most doubt it and it does not answer.
    pub(crate) lost: bool,
    pub(crate) draining: bool,
    pub(crate) own: bool,
    pub(crate) connected: bool,
    pub(crate) rtt_us: Option<u32>,
}

impl Snapshot {
    /// What `member` knows now, and what `judge` makes of checks: what it holds otherwise than before.
    pub(crate) fn of(
        now: Time,
        member: &Member,
        judge: &mut Judge,
    ) -> (Snapshot, Vec<(Target, Agreed, Agreed)>) {
        let view = member.view();
        let members: BTreeMap<MemberId, Known> =
            view.members().map(|member| (member.certificate.member(), Known::of(&member))).collect();
        let judgement = judge.judge(&members.values().filter_map(Known::witness).collect::<Vec<_>>());
        let own = members.values().find(|known| known.own).map(|known| known.certificate.member());
        let watches = |id: &&MemberId| own.is_some_and(|own| judge.vantages(id).contains(&own));
        let snapshot = Snapshot {
            time: now,
            watched: members.keys().filter(watches).copied().collect(),
            health: judgement.agreements,
            members,
            sites: view.sites().map(|version| (version.site.clone(), version.clone())).collect(),
            addresses: view.address_grants().map(|grant| (grant.name.clone(), grant.clone())).collect(),
            announced: view.announced().collect(),
            observations: view.observations().map(|(by, rtts)| (by, rtts.to_vec())).collect(),
            demands: view.demands().collect(),
            challenges: view.challenges().collect(),
            resolvers: wanted(view.resolvers_asked().map(|(_, asked)| asked).collect()),
            resolver_rtts: view.resolver_rtts().collect(),
            settings: view.settings().collect(),
            untold: view.untold(),
        };
        (snapshot, judgement.turned)
    }

    /// The nodes that content is placed on: not the revoked or expired ones. One that is merely
    /// out of reach keeps its place, or every restart would move a network's content about.
    pub(crate) fn nodes(&self) -> impl Iterator<Item = (&MemberId, &Known)> {
        self.members.iter().filter(|(_, known)| {
            known.certificate.has_role(Role::Node) && !matches!(known.state, State::Revoked | State::Expired)
        })
    }

    /// The members in reach that hold this version of a site or a later one, which has most of its
    /// objects; the exact version first, then the nearest.
    pub(crate) fn holders(&self, site: &SiteName, number: VersionNumber) -> Vec<MemberId> {
        let mut holders: Vec<_> = self
            .members
            .iter()
            .filter(|(_, known)| !known.own && matches!(known.state, State::Alive | State::Suspect))
            .filter_map(|(id, known)| Some((id, known, known.held(site)?)))
            .filter(|(_, _, held)| *held >= number)
            .map(|(id, known, held)| (held != number, known.rtt_us.unwrap_or(u32::MAX), *id))
            .collect();
        holders.sort();
        holders.into_iter().map(|(_, _, id)| id).collect()
    }

    /// Where a member says that peers reach it.
    pub(crate) fn addresses(&self, member: &MemberId) -> Vec<SocketAddr> {
        let entry = self.members.get(member).and_then(|known| known.entry.as_ref());
        entry.map(|entry| entry.peer_addresses.clone()).unwrap_or_default()
    }

    /// The other members in reach, nearest first, and where they are.
    pub(crate) fn reachable(&self) -> Vec<(MemberId, Vec<SocketAddr>)> {
        let alive = |known: &Known| !known.own && matches!(known.state, State::Alive | State::Suspect);
        let mut members: Vec<_> = self.members.iter().filter(|(_, known)| alive(known)).collect();
        members.sort_by_key(|(id, known)| (known.rtt_us.unwrap_or(u32::MAX), **id));
        members.into_iter().map(|(id, _)| (*id, self.addresses(id))).collect()
    }

    /// The settings that redirectors in reach do not have alike, by name.
    pub(crate) fn differences(&self) -> Vec<Difference> {
        let told = self.settings.iter().filter(|(by, _)| self.is_in_reach(by));
        agreement::differences(told.map(|(by, settings)| (*by, &settings[..])))
    }

    /// Whether a member answers, as far as is known.
    pub(crate) fn is_in_reach(&self, member: &MemberId) -> bool {
        let known = self.members.get(member);
        known.is_some_and(|known| matches!(known.state, State::Alive | State::Suspect))
    }

    /// A member's name, for people.
    pub(crate) fn name(&self, member: &MemberId) -> String {
        let name = |known: &Known| known.certificate.grant().name.to_string();
        self.members.get(member).map_or_else(|| member.short().to_string(), name)
    }

    /// The home addresses that there are, by name.
    pub(crate) fn homes(&self) -> Vec<(&SiteName, &Home)> {
        certificate::standing(self.addresses.values())
    }

    /// Who may serve which home address, as the authority has it: nodes by their certificates, that
    /// were not taken back and are in time.
    pub(crate) fn allowed(&self) -> BTreeSet<(HomeAddress, MemberId)> {
        let homes = self.homes();
        let mut allowed = BTreeSet::new();
        for (id, known) in self.nodes() {
            let name = &known.certificate.grant().name;
            let served = homes.iter().filter(|(_, home)| home.is_served_by(name));
            allowed.extend(served.flat_map(|(_, home)| home.addresses()).map(|home| (home, *id)));
        }
        allowed
    }

    /// Whether the member's word about itself is known.
    pub(crate) fn is_heard(&self, member: &MemberId) -> bool {
        self.members.get(member).is_some_and(|known| known.entry.is_some())
    }

    /// Whether enough was heard of a check to say what holds.
    pub(crate) fn is_decided(&self, target: &Target) -> bool {
        self.health.get(target).is_some_and(|agreement| agreement.decided)
    }

    /// What was agreed about the services of a member.
    fn checks(&self, id: &MemberId, known: &Known) -> Vec<CheckInput> {
        let checks = known.entry.iter().flat_map(|entry| &entry.checks);
        let agreed = checks.filter_map(|check| {
            let target = Target { member: *id, check: check.name.clone() };
            let agreement = self.health.get(&target)?;
            let mut says = agreement.says.iter().filter(|say| say.opinion == Opinion::Down);
            Some(CheckInput {
                name: target.check,
                state: agreement.state,
                why: says.find_map(|say| say.why),
                sites: check.sites.clone(),
            })
        });
        agreed.collect()
    }

    fn capacity(&self, member: &MemberId) -> Capacity {
        self.demands.get(member).map(|demand| demand.capacity).unwrap_or_default()
    }

    /// What the map is told of home addresses, of those that do not count as if they were taken back.
    fn home_inputs(&self) -> Vec<HomeInput> {
        let homes: BTreeMap<&SiteName, &Home> = self.homes().into_iter().collect();
        let input = |grant: &AddressGrant| {
            let home = homes.get(&grant.name);
            HomeInput {
                name: grant.name.clone(),
                number: grant.sequence,
                v4: home.and_then(|home| home.v4),
                v6: home.and_then(|home| home.v6),
                service: Service {
                    regions: Vec::new(),
                    members: home.map(|home| home.servers.clone()).unwrap_or_default(),
                },
            }
        };
        self.addresses.values().map(input).collect()
    }

    /// What the map is computed from.
    pub(crate) fn inputs(&self, zone: &godwit_core::name::ZoneName, number: u64) -> Inputs {
        let probed = self.resolver_rtts.iter().flat_map(|(by, rtts)| rtts.iter().map(|rtt| (*by, *rtt)));
        let observations = self.observations.iter().flat_map(|(by, rtts)| rtts.iter().map(|rtt| (*by, *rtt)));
        Inputs {
            zone: zone.clone(),
            time: self.time,
            number,
            members: self
                .members
                .iter()
                .map(|(id, known)| MemberInput {
                    checks: self.checks(id, known),
                    ..known.input(self.capacity(id))
                })
                .collect(),
            sites: self
                .sites
                .values()
                .map(|version| SiteInput::published(version.site.clone(), version.number))
                .collect(),
            homes: self.home_inputs(),
            observations: observations.collect(),
            probed: probed.collect(),
            exploration: None,
            closed: Vec::new(),
            demands: self.demands.iter().map(|(by, demand)| DemandInput::new(*by, demand)).collect(),
        }
    }
}

fn wanted(lists: Vec<Vec<IpAddr>>) -> Vec<IpAddr> {
    resolver::wanted(lists.iter().map(Vec::as_slice))
}

impl Known {
    fn of(view: &MemberView<'_>) -> Known {
        Known {
            certificate: view.certificate.clone(),
            entry: view.entry.cloned(),
            state: view.state,
            lost: view.lost,
            draining: view.draining,
            own: view.own,
            connected: view.connected,
            rtt_us: view.rtt_us,
        }
    }

    /// What it has to do with health: nothing for those that are no members any more.
    fn witness(&self) -> Option<Witness<'_>> {
        if matches!(self.state, State::Revoked | State::Expired) {
            return None;
        }
        let entry = self.entry.as_ref();
        Some(Witness {
            id: self.certificate.member(),
            region: &self.certificate.grant().region,
            reached: matches!(self.state, State::Alive | State::Suspect),
            checks: entry.map_or(&[], |entry| &entry.checks),
            verdicts: entry.map_or(&[], |entry| &entry.verdicts),
        })
    }

    /// The version of a site that it says it holds.
    pub(crate) fn held(&self, site: &SiteName) -> Option<VersionNumber> {
        let held = &self.entry.as_ref()?.held;
        held.iter().find(|(name, _)| name == site).map(|(_, number)| *number)
    }

    fn input(&self, capacity: Capacity) -> MemberInput {
        let grant = self.certificate.grant();
        let entry = self.entry.as_ref();
        MemberInput {
            id: self.certificate.member(),
            serial: grant.serial,
            name: grant.name.clone(),
            region: grant.region.clone(),
            place: grant.place,
            roles: grant.roles.clone(),
            state: match self.state {
                State::Alive => Health::Alive,
                State::Suspect => Health::Suspect,
                State::Unreachable if self.lost || entry.is_none() => Health::Silent,
                State::Unreachable => Health::Unreachable,
                State::Unknown | State::Revoked | State::Expired => Health::Unknown,
            },
            draining: self.draining,
            ready: entry.is_some_and(|entry| entry.ready),
            load_permille: entry.map_or(0, |entry| entry.load_permille),
            capacity,
            public_v4: entry.and_then(|entry| entry.public_v4),
            public_v6: entry.and_then(|entry| entry.public_v6),
            http_port: entry.and_then(|entry| entry.http_port),
            held: entry.map(|entry| entry.held.clone()).unwrap_or_default(),
            peer_rtts: entry.map(|entry| entry.peer_rtts.clone()).unwrap_or_default(),
            certified: !matches!(self.state, State::Revoked | State::Expired),
            checks: Vec::new(),
        }
    }
}
