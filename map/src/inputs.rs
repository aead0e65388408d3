//! What a generation is computed from.
//!
//! Plain values, complete and ordered, so that equal inputs give equal generations on every
//! redirector, and so that they can be kept on disk and answered from at the next start when no
//! peer is there ([`Inputs::to_bytes`]).

use crate::explore::Exploration;
use crate::homes::HomeInput;
use godwit_core::certificate::{Role, Serial};
use godwit_core::content::VersionNumber;
use godwit_core::demand::{Capacity, Demand};
use godwit_core::geo::Coordinates;
use godwit_core::health::{Agreed, Failure};
use godwit_core::key::MemberId;
use godwit_core::name::{CheckName, MemberName, RegionName, SiteName, ZoneName};
use godwit_core::observation::ClientRtt;
use godwit_core::time::Time;
use godwit_core::wire;
use ipnet::IpNet;
use serde::{Deserialize, Serialize};
use std::net::{Ipv4Addr, Ipv6Addr};

/// The longest saved form that is read back, bytes: 1,000 members with 256 RTTs and 512 sites and
/// 1,024 observed prefixes each come to about 60 MB.
const INPUTS_LEN_MAX: usize = 128 * 1024 * 1024;

/// Marks the saved form and its version.
const MARK: &[u8] = b"godwit map inputs 4\n";

/// Everything that a generation depends on, besides the GeoIP database and its predecessor.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Inputs {
    /// The zone whose names are answered.
    pub zone: ZoneName,
    /// When they were gathered; for people.
    pub time: Time,
    /// Number of the generation: grows on this host.
    pub number: u64,
    /// The members, each once.
    pub members: Vec<MemberInput>,
    /// The sites, each once.
    pub sites: Vec<SiteInput>,
    /// The names of home addresses, each once, those taken back too.
    pub homes: Vec<HomeInput>,
    /// Round-trip times to client prefixes (IPv4 /24, IPv6 /48; others are ignored), by the member
    /// that measured them.
    pub observations: Vec<(MemberId, ClientRtt)>,
    /// Round-trip times to resolvers, by the node that probed them: of prefixes as above, and for
    /// those who ask from there.
    pub probed: Vec<(MemberId, ClientRtt)>,
    /// Which clients measure replicas that nothing is known of yet, if any do.
    pub exploration: Option<Exploration>,
    /// The sites that are rather not answered than answered with members whose checks all fail,
    /// sorted: *fail closed*. The others are answered as if the checks were wrong: *fail static*.
    pub closed: Vec<SiteName>,
    /// What clients ask of each member. Their ageing is the lifetime of the soft state that they
    /// came in.
    pub demands: Vec<DemandInput>,
}

/// What clients ask of one member, in thousandths of a request per second.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DemandInput {
    /// Who serves them.
    pub member: MemberId,
    /// The rate of all requests.
    pub total_mrps: u64,
    /// The rates of the busiest client prefixes (/24, /48; others are ignored).
    pub prefixes: Vec<(IpNet, u32)>,
    /// The rates of the busiest sites.
    pub sites: Vec<(SiteName, u32)>,
}

impl DemandInput {
    /// What a member tells.
    pub fn new(member: MemberId, demand: &Demand) -> DemandInput {
        DemandInput {
            member,
            total_mrps: demand.total_mrps,
            prefixes: demand.prefixes.clone(),
            sites: demand.sites.clone(),
        }
    }
}

/// What is known of a member.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MemberInput {
    /// Its key.
    pub id: MemberId,
    /// The number of its grant.
    pub serial: Serial,
    /// Its name.
    pub name: MemberName,
    /// Its region.
    pub region: RegionName,
    /// Where it is, if its grant or region tells.
    pub place: Option<Coordinates>,
    /// What it may do.
    pub roles: Vec<Role>,
    /// What its peers make of it.
    pub state: Health,
    /// Whether an operator wants its clients elsewhere.
    pub draining: bool,
    /// Whether it says that it can serve.
    pub ready: bool,
    /// How busy it is, thousandths of its capacity.
    pub load_permille: u16,
    /// What it can take, as its operator says.
    pub capacity: Capacity,
    /// Where clients reach it over IPv4, if they do.
    pub public_v4: Option<Ipv4Addr>,
    /// Where clients reach it over IPv6, if they do.
    pub public_v6: Option<Ipv6Addr>,
    /// Where it serves HTTP, if it does.
    pub http_port: Option<u16>,
    /// The version of each site that it holds whole.
    pub held: Vec<(SiteName, VersionNumber)>,
    /// Round-trip time to peers, microseconds.
    pub peer_rtts: Vec<(MemberId, u32)>,
    /// Whether its certificate holds: in time and not revoked.
    pub certified: bool,
    /// What vantages agreed on about its services, each check once.
    pub checks: Vec<CheckInput>,
}

/// What vantages agreed on about one service of a member.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CheckInput {
    /// Which check.
    pub name: CheckName,
    /// What holds.
    pub state: Agreed,
    /// How the last failure looked to the first vantage that says down.
    pub why: Option<Failure>,
    /// The sites that depend on it, sorted; none means all.
    pub sites: Vec<SiteName>,
}

impl CheckInput {
    /// Whether `site` depends on it.
    pub fn covers(&self, site: &SiteName) -> bool {
        self.sites.is_empty() || self.sites.binary_search(site).is_ok()
    }
}

impl MemberInput {
    /// Whether it has the role.
    pub fn has_role(&self, role: Role) -> bool {
        self.roles.contains(&role)
    }

    /// The check that says that it does not serve `site`, or anything at all where that is no site's
    /// name; with `doubted`, also one of which that is doubted ([`Agreed::Doubted`]).
    pub fn failing(&self, site: Option<&SiteName>, doubted: bool) -> Option<&CheckInput> {
        let fails = |state| state == Agreed::Down || doubted && state == Agreed::Doubted;
        let covers = |check: &CheckInput| site.map_or(check.sites.is_empty(), |site| check.covers(site));
        self.checks.iter().find(|check| fails(check.state) && covers(check))
    }

    /// The version of `site` that it holds, given that `held` is sorted, as a generation keeps it:
    /// with hundreds of sites and members a walk would cost each generation millions of steps.
    pub(crate) fn holds(&self, site: &str) -> Option<VersionNumber> {
        let end = self.held.partition_point(|(held, _)| held.as_str() <= site);
        let (held, number) = self.held.get(end.checked_sub(1)?)?;
        (held.as_str() == site).then_some(*number)
    }
}

/// What the members make of one of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Health {
    /// It answers.
    Alive,
    /// Somebody doubts it; not enough to act on.
    Suspect,
    /// It is out of reach, and that is confirmed.
    Unreachable,
    /// The same, and most members agree on it and it does not answer, or what it said of itself has
    /// lapsed.
    Silent,
    /// Nothing was heard of it yet.
    Unknown,
}

/// What is known of a site.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SiteInput {
    /// Its name.
    pub site: SiteName,
    /// Its current version.
    pub number: VersionNumber,
    /// What makes a member one of its replicas.
    pub hosting: Hosting,
}

impl SiteInput {
    /// A published site at a version: its replicas are those who hold it.
    pub fn published(site: SiteName, number: VersionNumber) -> SiteInput {
        SiteInput { site, number, hosting: Hosting::Content }
    }
}

/// What makes a member a replica of a site.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Hosting {
    /// It holds the current version of the site's content.
    #[default]
    Content,
    /// It runs a service: nothing has to be held.
    Service(Service),
    /// It serves a home address: nothing has to be held, and clients never see its own address.
    Home(Service),
}

/// Which members run a service: those in one of `regions` and those named. Both empty: all nodes.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Service {
    /// Regions, all of whose nodes run it.
    pub regions: Vec<RegionName>,
    /// Members that run it, wherever they are.
    pub members: Vec<MemberName>,
}

impl Service {
    /// Whether `member` runs it.
    pub fn runs_on(&self, member: &MemberInput) -> bool {
        self.regions.is_empty() && self.members.is_empty()
            || self.regions.contains(&member.region)
            || self.members.contains(&member.name)
    }
}

/// Saved inputs cannot be read back.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LoadError {
    /// They are no saved inputs, or of another version of godwit.
    #[error("not saved map inputs of this version of godwit")]
    Mark,
    /// The mark is right but what follows is not: cut short or damaged.
    #[error("saved map inputs are damaged")]
    Damaged(#[from] wire::DecodeError),
    /// The checksum does not match.
    #[error("saved map inputs are damaged: the checksum does not match")]
    Checksum,
}

impl Inputs {
    /// No members, no sites.
    pub fn new(zone: ZoneName) -> Inputs {
        let (time, number) = (Time::default(), 0);
        Inputs {
            zone,
            time,
            number,
            members: Vec::new(),
            sites: Vec::new(),
            homes: Vec::new(),
            observations: Vec::new(),
            probed: Vec::new(),
            exploration: None,
            closed: Vec::new(),
            demands: Vec::new(),
        }
    }

    /// The form that is kept on disk: a mark, a BLAKE3 hash of the rest, the rest.
    pub fn to_bytes(&self) -> Vec<u8> {
        let body = wire::encode(self);
        [MARK, blake3::hash(&body).as_bytes(), &body].concat()
    }

    /// Reads what [`Inputs::to_bytes`] wrote.
    pub fn from_bytes(bytes: &[u8]) -> Result<Inputs, LoadError> {
        let rest = bytes.strip_prefix(MARK).ok_or(LoadError::Mark)?;
        let (hash, body) = rest.split_first_chunk::<32>().ok_or(LoadError::Checksum)?;
        if blake3::hash(body).as_bytes() != hash {
            return Err(LoadError::Checksum);
        }
        Ok(wire::decode(body, INPUTS_LEN_MAX)?)
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use godwit_core::key::SecretKey;

    /// A healthy node number `n` at `lat`, `lon` that holds version 1 of `www`.
    pub(crate) fn node(n: u8, lat: f64, lon: f64) -> MemberInput {
        MemberInput {
            id: SecretKey::from_seed(&[n; 32]).public(),
            serial: Serial(u64::from(n)),
            name: format!("n{n}").parse().unwrap(),
            region: format!("r{n}").parse().unwrap(),
            place: Some(Coordinates::new(lat, lon).unwrap()),
            roles: vec![Role::Node],
            state: Health::Alive,
            draining: false,
            ready: true,
            load_permille: 0,
            capacity: Capacity::default(),
            public_v4: Some(Ipv4Addr::new(198, 18, n, 1)),
            public_v6: Some(Ipv6Addr::new(0xfd67, 0, 0, 0, 0, 0, 0, u16::from(n))),
            http_port: Some(80),
            held: vec![("www".parse().unwrap(), VersionNumber(1))],
            peer_rtts: Vec::new(),
            certified: true,
            checks: Vec::new(),
        }
    }

    /// Inputs with the site `www` at version 1.
    pub(crate) fn inputs(members: Vec<MemberInput>) -> Inputs {
        let site = SiteInput::published("www".parse().unwrap(), VersionNumber(1));
        Inputs { members, sites: vec![site], ..Inputs::new("edge.example.org".parse().unwrap()) }
    }

    #[test]
    fn saved_inputs_are_read_back_or_refused() {
        let mut inputs = inputs(vec![node(1, 48.9, 2.4), node(2, 35.7, 139.7)]);
        let rtt = ClientRtt::new("192.0.2.0/24".parse().unwrap(), 12_000);
        inputs.observations.push((inputs.members[0].id, rtt));
        let bytes = inputs.to_bytes();
        assert_eq!(Inputs::from_bytes(&bytes), Ok(inputs));
        assert_eq!(Inputs::from_bytes(b"something else"), Err(LoadError::Mark));
        assert_eq!(Inputs::from_bytes(&bytes[..MARK.len() + 7]), Err(LoadError::Checksum));
        for at in MARK.len()..bytes.len() {
            let mut damaged = bytes.clone();
            damaged[at] ^= 1;
            assert_eq!(Inputs::from_bytes(&damaged), Err(LoadError::Checksum), "byte {at}");
        }
    }
}
