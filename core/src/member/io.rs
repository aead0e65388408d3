//! What goes into a member's machine and what comes out.

use super::{OwnEntry, State};
use crate::admission::Admission;
use crate::agreement::Setting;
use crate::binding::HomeAddress;
use crate::certificate::Invalid;
use crate::challenge::Challenge;
use crate::content::VersionNumber;
use crate::demand::Demand;
use crate::health::Verdict;
use crate::key::MemberId;
use crate::name::SiteName;
use crate::observation::ClientRtt;
use crate::record::{Key, Record};
use crate::stats::Refused;
use crate::upload::Arrivals;
use bytes::Bytes;
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

/// What happened.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum Input {
    /// There is a connection with an admitted peer now. Repeating it is harmless.
    PeerUp {
        /// Who.
        peer: MemberId,
    },
    /// There is no connection with the peer any more.
    PeerDown {
        /// Who.
        peer: MemberId,
    },
    /// A message of the peer.
    Message {
        /// Who sent it.
        from: MemberId,
        /// Its bytes: anything.
        bytes: Bytes,
    },
    /// The transport measured the round-trip time to a connected peer.
    Rtt {
        /// To whom.
        peer: MemberId,
        /// The time.
        rtt: Duration,
    },
    /// An attempt to connect has failed. Only makes the next one come by its backoff.
    DialFailed {
        /// To whom.
        peer: MemberId,
    },
    /// A head from outside: a site version, an order, a revocation, or the certificate of a member
    /// that was just sponsored here. [`Output::Submitted`] answers.
    Submit(Box<Record>),
    /// A version is held here, whole and durable.
    Hold {
        /// Of which site.
        site: SiteName,
        /// Which version.
        version: VersionNumber,
    },
    /// A site is not held here any more.
    Release {
        /// Which.
        site: SiteName,
    },
    /// Whether this member can serve.
    Ready(bool),
    /// How busy this member is, thousandths of its capacity.
    Load(u16),
    /// Round-trip times to client prefixes: replaces those told
    /// before.
    ClientRtts(Vec<ClientRtt>),
    /// What this member finds of others' services: replaces what it said before, and is told at
    /// once when an opinion has changed.
    Verdicts(Vec<Verdict>),
    /// What clients ask of this member, and what it can take: replaces what was told before.
    Demand(Box<Demand>),
    /// A value for a certificate authority is to stand for so long from now, on every redirector;
    /// zero takes it back. Setting it again makes the lease anew.
    Challenge {
        /// Name and value.
        challenge: Challenge,
        /// At most [`crate::challenge::LEASE_MAX`].
        lease: Duration,
    },
    /// Resolvers that are to be measured, the heaviest first: replaces those asked for before. Only
    /// a redirector is heard.
    Resolvers(Vec<IpAddr>),
    /// How far resolvers were found to be, sorted by prefix: replaces what was told before.
    ResolverRtts(Vec<ClientRtt>),
    /// By what settings this member answers names: replaces those told before.
    Settings(Vec<Setting>),
    /// Which home addresses this member announces: replaces those told before. Only a home agent is
    /// heard.
    HomesAnnounced(Vec<crate::announce::Announcement>),
    /// What the member says of itself has changed, for example its addresses.
    Own(Box<OwnEntry>),
    /// Where members may be found as long as none is connected: tried over and over.
    Bootstrap(Vec<SocketAddr>),
    /// Objects of a publish that goes on have become durable here: those that are to keep the site
    /// are told, as far as they are connected. The publisher's intent holds.
    Arrived {
        /// Whom to tell.
        to: BTreeSet<MemberId>,
        /// What.
        arrivals: Box<Arrivals>,
    },
    /// The deadline has passed.
    Timer,
}

/// What the shell does, in this order.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum Output {
    /// Make this head durable, in place of the one with its [`Record::key`], before anything after
    /// it leaves.
    Persist(Box<Record>),
    /// This head does not hold after all (it came by a key or a certificate that was taken back):
    /// forget what was persisted under its key. It is in order to do this late.
    Forget(Key),
    /// The answer to [`Input::Submit`].
    Submitted {
        /// Which register.
        key: Key,
        /// Whether it was accepted. The same record again is accepted again.
        result: Result<(), SubmitError>,
    },
    /// Send a message. It may be lost when the connection is; then the machine copes.
    Send {
        /// To whom: a connected peer.
        to: MemberId,
        /// Its bytes, at most [`crate::wire::MESSAGE_LEN_MAX`].
        bytes: Bytes,
    },
    /// Try to connect to a member.
    Dial {
        /// To whom.
        peer: MemberId,
        /// Where it may be.
        addresses: Vec<SocketAddr>,
    },
    /// Try to connect to whatever member answers at these addresses.
    DialBootstrap {
        /// Where.
        addresses: Vec<SocketAddr>,
    },
    /// This host is at another address: close all connections, and have those made from now on take the
    /// place of whatever the peers still hold of the earlier ones.
    Rehomed,
    /// Close all connections with the peer.
    Disconnect {
        /// Whom.
        peer: MemberId,
    },
    /// Judge peers by this from now on.
    AdmissionChanged(Box<Admission>),
    /// Objects have become durable at a peer, in a publish that goes on: whoever is to keep the site
    /// may fetch them already. The publisher's intent was verified.
    Arrived {
        /// Who has them.
        from: MemberId,
        /// What.
        arrivals: Box<Arrivals>,
    },
    /// [`super::View`] answers differently now.
    Changed(Change),
    /// Something an operator may want to know.
    Note(Event),
}

/// What answers differently.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Change {
    /// There is another version of a site, or another home address.
    pub sites: bool,
    /// Members came, went or changed their state; or a member is to drain.
    pub members: bool,
    /// What members say of themselves (load, versions held, round-trip times) or of clients.
    pub soft: bool,
}

impl Change {
    /// Whether anything changed.
    pub fn any(self) -> bool {
        self.sites || self.members || self.soft
    }
}

/// Why a submitted head was not accepted. Nothing was changed by it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
pub enum SubmitError {
    /// A higher version is there: publish with a number above it.
    #[error("the site is at version {current} already; the next one must have a higher number")]
    LowerVersion {
        /// The version that is there.
        current: VersionNumber,
    },
    /// Another publish took this number first: publish again with the next one.
    #[error("another publish took version {number} first")]
    Conflict {
        /// The contested number.
        number: VersionNumber,
    },
    /// The name is in use: sites and home addresses share the zone.
    #[error("the name {name} is {what} already: sites and home addresses share the zone")]
    NameTaken {
        /// Which.
        name: SiteName,
        /// As what.
        what: Use,
    },
    /// The address is another name's.
    #[error("{address} is the home address of {name} already")]
    AddressTaken {
        /// Which.
        address: HomeAddress,
        /// Whose.
        name: SiteName,
    },
    /// A newer order or grant, or an earlier redemption of the token, is there.
    #[error("what is known already takes precedence")]
    Outdated,
    /// The signature, certificate or time does not allow it; trying again does not help.
    #[error("it is not allowed")]
    NotAllowed(#[source] Invalid),
    /// Larger than any record may be.
    #[error("it has {len} bytes, a record has at most {max}")]
    TooLarge {
        /// What came.
        len: usize,
        /// What is allowed.
        max: usize,
    },
    /// There are as many of its kind as a network may have.
    #[error("the network holds as many records of this kind as it may")]
    Full,
    /// Members sign soft state themselves; nobody submits it.
    #[error("only heads can be submitted")]
    NotAHead,
}

/// What a name of the zone is used for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Use {
    /// A published site.
    Site,
    /// A home address.
    HomeAddress,
}

impl std::fmt::Display for Use {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Use::Site => "a site",
            Use::HomeAddress => "a home address",
        })
    }
}

/// Something an operator may want to know.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Event {
    /// A member is judged differently now.
    StateChanged {
        /// Who.
        member: MemberId,
        /// What it was.
        from: State,
        /// What it is.
        to: State,
    },
    /// A record was refused for a reason that an honest, up-to-date peer does not give.
    RecordRefused {
        /// Who sent it; `None` for what was loaded at the start.
        from: Option<MemberId>,
        /// Its register.
        key: Key,
        /// Why.
        why: Refused,
    },
    /// A peer sent bytes that are no message.
    Malformed {
        /// Who.
        from: MemberId,
    },
    /// A version that was submitted here lost to another of the same number: tell its publisher.
    VersionLost {
        /// Of which site.
        site: SiteName,
        /// Which number.
        number: VersionNumber,
    },
    /// A token was redeemed twice; the later redemption does not count.
    DoubleRedemption {
        /// The member that lost.
        loser: MemberId,
        /// The member that counts.
        winner: MemberId,
    },
    /// This member itself was revoked: nobody will talk to it.
    OwnRevocation,
    /// More sites are held here than one entry can tell; the rest is held but not told.
    HeldTruncated {
        /// How many are held.
        held: usize,
    },
}
