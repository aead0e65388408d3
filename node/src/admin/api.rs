//! The JSON that the control endpoint speaks. Field names are public API.

use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

/// The most objects in one `missing` request: 32,768 names are 2.2 MB of JSON.
pub const OBJECTS_MAX: usize = 32 * 1024;

/// A list of objects.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Objects {
    /// Their names, hexadecimal, at most [`OBJECTS_MAX`].
    pub objects: Vec<String>,
}

/// What a batch of objects came to.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stored {
    /// How many objects came and are durable now.
    pub objects: u64,
    /// How many bytes they have.
    pub bytes: u64,
}

/// What a collection deleted.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Collected {
    /// How many objects.
    pub objects: u64,
    /// How many bytes they had.
    pub bytes: u64,
}

/// A signed head, given to the member to keep and spread.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Submission {
    /// Wire form of the record, hexadecimal.
    pub record: String,
}

/// The head is durable here and spreading.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Accepted {
    /// Always true: refusals are errors.
    pub accepted: bool,
}

/// The configuration was read again.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reloaded {
    /// Always true.
    pub accepted: bool,
    /// What could not be read beside it and stays as it was, for people.
    #[serde(default)]
    pub kept: Vec<String>,
}

/// A value for a certificate authority, to be set or cleared.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Challenge {
    /// The whole name: `_acme-challenge.<something>.<zone>`.
    pub name: String,
    /// The value.
    pub value: String,
    /// For how many seconds it stands; 0 clears it. Left out: an hour.
    #[serde(default)]
    pub lease_secs: Option<u64>,
}

/// The values that stand, whoever set them.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Challenges {
    /// Each value.
    pub challenges: Vec<ChallengeAt>,
}

/// One value.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ChallengeAt {
    /// The whole name.
    pub name: String,
    /// The value.
    pub value: String,
    /// The member at which it was set.
    pub member: String,
}

/// Whether clients are led to a region or an address of a static zone.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct State {
    /// The region or the address.
    pub name: String,
    /// `up`, `drain` or `down`.
    pub state: String,
}

/// The current version of a site.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Site {
    /// The site.
    pub site: String,
    /// Number of the version.
    pub version: u64,
    /// Root block of its tree, hexadecimal.
    pub root: String,
    /// How many files it has.
    pub files: u64,
    /// How many bytes they have.
    pub bytes: u64,
    /// How many nodes keep it: `all` or a number.
    pub replicas: String,
    /// When it was signed, milliseconds since the Unix epoch.
    pub published_at_ms: u64,
    /// Wire form of the signed version, hexadecimal.
    pub record: String,
    /// Wire forms of superseded versions that are still kept here, hexadecimal, the newest first:
    /// what a rollback can go back to.
    #[serde(default)]
    pub history: Vec<String>,
}

/// Who holds a version of a site.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Progress {
    /// The site.
    pub site: String,
    /// The version asked about.
    pub version: u64,
    /// The site's newest version known here. When higher than `version`, another publish was later.
    pub current: u64,
    /// Whether the signed head known here with number `version` is the one asked about; `false`
    /// once another publish has won the same number. Only told when `hash` was asked for.
    pub won: Option<bool>,
    /// The nodes that keep the site, and any other that holds it.
    pub members: Vec<Holder>,
    /// Regions in which some node holds the version (or a newer one) whole and durable.
    pub regions: Vec<String>,
    /// Nodes that should hold it.
    pub wanted: u64,
    /// How many of these do.
    pub held: u64,
}

/// One node in [`Progress`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Holder {
    /// The node.
    pub name: String,
    /// Where it is.
    pub region: String,
    /// Whether it is to keep the site.
    pub wanted: bool,
    /// The version that it holds whole and durable.
    pub version: Option<u64>,
    /// Whether that is the version asked about, or a newer one.
    pub holds: bool,
    /// Its health: `alive`, `suspect`, `unreachable`, `unknown`, `revoked` or `expired`.
    pub state: String,
}

/// What a member knows of its network.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Status {
    /// The network's zone.
    pub zone: String,
    /// The network: its authority's key, hexadecimal. Empty where there is none: a static zone, whose
    /// addresses stand as members.
    pub network: String,
    /// This member's key, hexadecimal.
    pub member: String,
    /// This member's name.
    pub name: String,
    /// Where it is.
    pub region: String,
    /// Whether it can serve.
    pub ready: bool,
    /// Version of the software.
    pub software: String,
    /// How often it was started.
    pub incarnation: u64,
    /// Number of the map's present generation.
    pub generation: u64,
    /// How long it has run, seconds.
    pub uptime_seconds: u64,
    /// Members connected at this moment.
    pub connected: u64,
    /// Every member known, this one included, by name.
    pub members: Vec<Member>,
    /// Every site, by name.
    pub sites: Vec<SiteStatus>,
    /// Every home address, by name.
    #[serde(default)]
    pub addresses: Vec<AddressStatus>,
    /// What this member serves at home addresses, by name.
    #[serde(default)]
    pub home_services: Vec<HomeService>,
    /// Its bindings at home agents.
    #[serde(default)]
    pub home_bindings: Vec<HomeBinding>,
    /// Settings that redirectors in reach do not have alike, by name: clients are answered by whom they
    /// ask.
    #[serde(default)]
    pub differences: Vec<Difference>,
    /// How many sites this member holds that its entry has no room for: no client is led to it for
    /// them.
    #[serde(default)]
    pub untold_sites: u64,
}

/// A name that this member serves at a home address, in [`Status`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HomeService {
    /// The name.
    pub name: String,
    /// Its addresses, as far as this member may serve them.
    pub addresses: Vec<IpAddr>,
    /// By what: `sites`, `local`, or the address that is forwarded to.
    pub by: String,
    /// `open`, `draining` or `not bound`.
    pub state: String,
    /// Whether the program works; not known before it was looked at.
    pub works: Option<bool>,
    /// Whether an operator has moved it to another node.
    pub moved_away: bool,
    /// What keeps it from being served.
    pub problem: Option<String>,
    /// Connections and sessions that are forwarded now.
    pub forwarded: u64,
    /// And since the start.
    pub forwarded_total: u64,
    /// Those that the program did not accept, or for which there was no room.
    pub failed_total: u64,
}

/// A binding of this member, in [`Status`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HomeBinding {
    /// The home address.
    pub home: IpAddr,
    /// Where its packets are sent, or `observed`: where this member's own come from.
    pub care_of: String,
    /// By which home agent.
    pub home_agent: String,
    /// `up`, `lost`, `unproved` or `refused`.
    pub state: String,
    /// Whether it takes old flows only.
    pub draining: bool,
    /// Which way replies leave: `direct` or `tunnel`.
    pub replies: String,
}

/// Something to serve at a home address, or no longer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Serve {
    /// The name of the home address.
    pub name: String,
    /// Where the program listens; left out: the node's sites, or a program at the address itself.
    #[serde(default)]
    pub to: Option<SocketAddr>,
    /// Whether the program is told the client's address, over TCP.
    #[serde(default)]
    pub proxy_protocol: bool,
    /// A program listens at the home address itself.
    #[serde(default)]
    pub local: bool,
    /// Whether it is to be served no longer.
    #[serde(default)]
    pub stop: bool,
    /// The answer comes when this member is bound, or it is clear why not, and after so many milliseconds at
    /// the most; 0: at once. A minute is waited for at the longest.
    #[serde(default)]
    pub wait_ms: u64,
}

/// What came of [`Serve`].
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Served {
    /// The home addresses that this member may serve; none before the authority has granted some.
    pub addresses: Vec<IpAddr>,
    /// Whether it was served before, where it is to be served no longer.
    pub stopped: bool,
    /// The home agents that send packets here for all of them, by name.
    #[serde(default)]
    pub bound_at: Vec<String>,
    /// What keeps it from being bound, when none does.
    #[serde(default)]
    pub problem: Option<String>,
    /// And what to do or to look at.
    #[serde(default)]
    pub next: Option<String>,
}

/// Something to move to another node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Move {
    /// The name of the home address.
    pub name: String,
    /// The node's name.
    pub to: String,
    /// What cannot move may go on here for so many seconds.
    pub deadline_secs: u64,
}

/// What came of [`Move`].
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Moved {
    /// TCP connections that are the other node's now.
    pub connections_moved: u64,
    /// TCP connections that go on here until they end or the deadline comes.
    pub connections_drained: u64,
    /// TCP connections that were lost.
    pub connections_lost: u64,
    /// UDP flows whose packets go to the other node now.
    pub udp_flows_moved: u64,
    /// Packets that found no room or no way meanwhile.
    pub packets_lost: u64,
    /// How long handing connections over took, milliseconds: none of them stood still for longer.
    pub gap_ms: f64,
    /// How long it took until all home agents sent UDP flows to the other node, milliseconds; until
    /// then they were served here.
    pub switched_ms: f64,
    /// How many connections stay for which reason.
    pub kept: BTreeMap<String, u64>,
}

/// A home address in [`Status`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AddressStatus {
    /// Its name.
    pub name: String,
    /// The IPv4 address, if there is one.
    pub v4: Option<Ipv4Addr>,
    /// The IPv6 address, if there is one.
    pub v6: Option<Ipv6Addr>,
    /// The ports of TCP that are open; none where all of everything are.
    pub tcp: Option<Vec<u16>>,
    /// The ports of UDP that are open; as `tcp`.
    pub udp: Option<Vec<u16>>,
    /// The members that may serve it; none: every node.
    pub members: Vec<String>,
    /// The sequence of its grant: the higher one of a name counts.
    pub sequence: u64,
    /// When it was granted, milliseconds since the Unix epoch.
    pub granted_at_ms: u64,
    /// Whether it counts: of two names with one address the older has it.
    pub stands: bool,
    /// The home agents that announce it.
    pub announced_by: Vec<String>,
}

/// A setting that redirectors differ in, in [`Status`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Difference {
    /// Its name, as in the configuration.
    pub setting: String,
    /// The names of those that have the same value, by value; the largest group first.
    pub groups: Vec<Vec<String>>,
}

impl Status {
    /// Whether it is one of a static zone, without a network of members.
    pub fn is_static(&self) -> bool {
        self.network.is_empty()
    }
}

/// A member in [`Status`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Member {
    /// Its name.
    pub name: String,
    /// Its key, hexadecimal.
    pub id: String,
    /// Serial of its grant: what `revoke` and `drain` name.
    pub serial: u64,
    /// Where it is.
    pub region: String,
    /// What it may do.
    pub roles: Vec<String>,
    /// `alive`, `suspect`, `unreachable`, `unknown`, `revoked` or `expired`.
    pub state: String,
    /// Whether it gets no new clients.
    pub draining: bool,
    /// Whether it says that it can serve.
    pub ready: bool,
    /// Where it is reached.
    pub addresses: Addresses,
    /// The version of each site that it holds whole and durable.
    pub sites: BTreeMap<String, u64>,
    /// For each site that it should keep, how many versions it is behind; sites it is not behind
    /// with are left out.
    pub lag: BTreeMap<String, u64>,
    /// Round-trip time from here, milliseconds.
    pub rtt_ms: Option<f64>,
    /// How busy it is, 0 to 1.
    pub load: f64,
    /// Version of its software.
    pub software: String,
    /// When its membership ends, milliseconds since the Unix epoch.
    pub expires_at_ms: u64,
    /// The checks of its services that it asks for, and what was agreed about each.
    #[serde(default)]
    pub checks: Vec<CheckStatus>,
}

/// A check in [`Member`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CheckStatus {
    /// Its name; `site` is the data path.
    pub name: String,
    /// What vantages agree on: `unknown`, `up`, `doubted` or `down`.
    pub state: String,
    /// Whether as many say so as must.
    pub decided: bool,
    /// How the last failure looked to the first vantage that says down.
    pub why: Option<String>,
    /// The sites that depend on it; none means all.
    pub sites: Vec<String>,
    /// Who checks it, and what they find.
    pub vantages: Vec<VantageStatus>,
}

/// A vantage in [`CheckStatus`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct VantageStatus {
    /// Its name.
    pub name: String,
    /// What it finds: `unknown`, `up` or `down`.
    pub finds: String,
    /// Since when, milliseconds since the Unix epoch, by its clock; 0 while it finds nothing.
    pub since_ms: u64,
    /// How the last failure looked.
    pub why: Option<String>,
    /// How long an answer takes, milliseconds.
    pub latency_ms: Option<u32>,
    /// Whether it sees everything down, so that its *down* is not counted.
    pub suspect: bool,
}

/// Where a member is reached.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Addresses {
    /// By members.
    pub peer: Vec<SocketAddr>,
    /// By clients over IPv4.
    pub v4: Option<Ipv4Addr>,
    /// By clients over IPv6.
    pub v6: Option<Ipv6Addr>,
    /// The port of its HTTP server.
    pub http_port: Option<u16>,
}

/// A site in [`Status`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SiteStatus {
    /// Its name.
    pub name: String,
    /// Its newest version.
    pub version: u64,
    /// How many files that has.
    pub files: u64,
    /// How many bytes they have.
    pub bytes: u64,
    /// How many nodes keep it: `all` or a number.
    pub replicas: String,
    /// When that version was signed, milliseconds since the Unix epoch.
    pub published_at_ms: u64,
    /// Names of the nodes that hold that version whole and durable.
    pub holders: Vec<String>,
    /// Names of the nodes that should.
    pub wanted: Vec<String>,
}

/// What went wrong.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Error {
    /// For people.
    pub error: String,
    /// For programs.
    pub code: Code,
}

/// The kinds of failure that a program may act on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Code {
    /// The request does not have its form. Do not repeat it.
    Malformed,
    /// More than one request may carry. Split it.
    TooLarge,
    /// No such site, version or path.
    NotFound,
    /// The site has a version of this number or a higher one. Take the next number.
    LowerVersion,
    /// Another publish of the same number has won. Take the next number.
    Lost,
    /// The name or the address is used for something else.
    Taken,
    /// The certificate does not allow it.
    NotAllowed,
    /// A signature is wrong, or the record is of another network.
    Invalid,
    /// The certificate is not valid at this time.
    Expired,
    /// The certificate was revoked.
    Revoked,
    /// Objects of the version's tree are not here. Upload them first.
    Incomplete,
    /// The disk is full. Nothing was acknowledged.
    Full,
    /// It did not become durable for another reason. Nothing was acknowledged.
    NotDurable,
    /// The daemon is stopping or overloaded. Try again.
    Unavailable,
}

impl Code {
    /// Whether the request was understood and refused: exit code 3 of the command line.
    pub fn is_refusal(self) -> bool {
        matches!(
            self,
            Code::LowerVersion
                | Code::Lost
                | Code::Taken
                | Code::NotAllowed
                | Code::Invalid
                | Code::Expired
                | Code::Revoked
                | Code::Incomplete
        )
    }

    /// Whether something was not made durable: exit code 4 of the command line.
    pub fn is_not_durable(self) -> bool {
        matches!(self, Code::Full | Code::NotDurable)
    }

    pub(crate) fn status(self) -> http::StatusCode {
        match self {
            Code::Malformed => http::StatusCode::BAD_REQUEST,
            Code::TooLarge => http::StatusCode::PAYLOAD_TOO_LARGE,
            Code::NotFound => http::StatusCode::NOT_FOUND,
            Code::LowerVersion | Code::Lost | Code::Taken | Code::Incomplete => http::StatusCode::CONFLICT,
            Code::NotAllowed | Code::Invalid | Code::Expired | Code::Revoked => http::StatusCode::FORBIDDEN,
            Code::Full => http::StatusCode::INSUFFICIENT_STORAGE,
            Code::NotDurable => http::StatusCode::INTERNAL_SERVER_ERROR,
            Code::Unavailable => http::StatusCode::SERVICE_UNAVAILABLE,
        }
    }
}

impl Error {
    /// An error of this kind.
    pub fn new(code: Code, error: impl Into<String>) -> Error {
        Error { error: error.into(), code }
    }
}

impl std::fmt::Display for Error {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.error)
    }
}

impl std::error::Error for Error {}
