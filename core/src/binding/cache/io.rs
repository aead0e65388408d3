//! What goes into the binding cache, what comes out of it, and what can be seen of it.

use crate::binding::message::{BindingAcknowledgement, BindingUpdate};
use crate::binding::{Anchor, Capabilities, HomeAddress, Service};
use crate::key::MemberId;
use crate::time::Time;
use crate::tunnel::{Control, KeyId, TunnelKey};
use std::collections::BTreeSet;
use std::net::SocketAddr;

/// What happened.
#[derive(Clone, Debug, PartialEq)]
pub enum Input {
    /// Who may serve which home addresses from now on, as the authority has it.
    Allowed(BTreeSet<(HomeAddress, MemberId)>),
    /// A member said this.
    Update {
        /// Who: the stream has proved it.
        from: MemberId,
        /// What.
        update: BindingUpdate,
    },
    /// This came through a tunnel.
    Heard {
        /// Under which key.
        key: KeyId,
        /// From where.
        from: SocketAddr,
        /// What; `None` for a packet of a flow.
        control: Option<Control>,
    },
    /// The counter of a key is nearly used up.
    Worn(KeyId),
    /// The deadline has passed.
    Timer,
}

/// What to do.
#[derive(Clone, Debug, PartialEq)]
pub enum Output {
    /// Accept packets under this key, and seal with it what goes there.
    Install {
        /// Whose.
        anchor: Anchor,
        /// The key.
        key: TunnelKey,
    },
    /// Accept nothing under this key any more.
    Retire(KeyId),
    /// Tell a member.
    Acknowledge {
        /// Whom.
        to: MemberId,
        /// What.
        acknowledgement: BindingAcknowledgement,
    },
    /// Send this through the tunnel.
    Send {
        /// Under which key.
        key: KeyId,
        /// Where to.
        to: SocketAddr,
        /// What.
        control: Control,
    },
    /// Care-of addresses in use are others than before.
    Changed,
}

/// What was counted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Updates that took effect.
    pub accepted: u64,
    /// Updates that were no later than one before.
    pub out_of_order: u64,
    /// Updates for home addresses of which the sender may serve none.
    pub prohibited: u64,
    /// Updates said to another life of this home agent.
    pub other_incarnation: u64,
    /// Updates refused for want of room.
    pub full: u64,
    /// Updates with impossible fields; not answered.
    pub malformed: u64,
    /// Updates above the rate; not answered.
    pub too_often: u64,
    /// Care-of addresses that proved themselves.
    pub proved: u64,
    /// Cookies that came back wrong or unasked.
    pub wrong_cookies: u64,
    /// Paths that were lost.
    pub lost: u64,
    /// Bindings that ended by their lifetime.
    pub expired: u64,
}

/// Where a binding stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// No care-of address has proved itself yet.
    Unproved,
    /// It is in use.
    Up,
    /// It stopped answering.
    Lost,
}

/// A binding, as others see it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Binding<'a> {
    /// Whose, and which.
    pub anchor: Anchor,
    /// The home addresses, ascending.
    pub homes: &'a [HomeAddress],
    /// Where packets go: a proved address.
    pub care_of: Option<SocketAddr>,
    /// The key to seal them with.
    pub key: KeyId,
    /// Whether they may go there now.
    pub state: State,
    /// Whether new flows are welcome.
    pub service: Service,
    /// The lowest that is up is used.
    pub priority: u8,
    /// What the node can do there.
    pub capabilities: Capabilities,
    /// When it ends unless it is refreshed.
    pub expires: Time,
}
