//! Counters of what was accepted and why the rest was dropped.
//!
//! Bytes from the network never panic: they are accepted, or dropped and counted here.

use serde::{Deserialize, Serialize};

/// Why a record or message was dropped.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Refused {
    /// Known already: the usual price of gossip.
    Duplicate,
    /// A higher record of the register is known.
    Lower,
    /// Soft state that was forgotten here before.
    Forgotten,
    /// Its lifetime was over when it came.
    Stale,
    /// The bytes have not the form of a message.
    Malformed,
    /// Larger than a record may be, or a list in it longer than it may be.
    Bounds,
    /// A signature does not match.
    Signature,
    /// Of another network.
    Network,
    /// The certificate it rests on does not cover it.
    Scope,
    /// The certificate it rests on was not valid at its time.
    Expired,
    /// The certificate it rests on was taken back.
    Revoked,
    /// It rests on a member that is not known (yet): kept back for a while, and tried again.
    UnknownMember,
    /// There are as many of its kind as there may be.
    Full,
}

impl Refused {
    /// All reasons, in order.
    pub const ALL: [Refused; 13] = [
        Refused::Duplicate,
        Refused::Lower,
        Refused::Forgotten,
        Refused::Stale,
        Refused::Malformed,
        Refused::Bounds,
        Refused::Signature,
        Refused::Network,
        Refused::Scope,
        Refused::Expired,
        Refused::Revoked,
        Refused::UnknownMember,
        Refused::Full,
    ];

    /// The reason as a metric label.
    pub const fn as_str(self) -> &'static str {
        match self {
            Refused::Duplicate => "duplicate",
            Refused::Lower => "lower",
            Refused::Forgotten => "forgotten",
            Refused::Stale => "stale",
            Refused::Malformed => "malformed",
            Refused::Bounds => "bounds",
            Refused::Signature => "signature",
            Refused::Network => "network",
            Refused::Scope => "scope",
            Refused::Expired => "expired",
            Refused::Revoked => "revoked",
            Refused::UnknownMember => "unknown-member",
            Refused::Full => "full",
        }
    }

    /// Whether an honest, up-to-date peer gives this reason too.
    pub const fn is_usual(self) -> bool {
        matches!(
            self,
            Refused::Duplicate
                | Refused::Lower
                | Refused::Forgotten
                | Refused::Stale
                | Refused::UnknownMember
                | Refused::Revoked
        )
    }
}

/// What a member's machine has done since its start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Counters {
    /// Records accepted.
    pub accepted: u64,
    /// Messages received.
    pub messages_in: u64,
    /// Messages sent.
    pub messages_out: u64,
    /// Bytes of messages sent.
    pub bytes_out: u64,
    /// Reconciliations begun here.
    pub reconciliations: u64,
    /// Reconciliations that found a difference.
    pub differences: u64,
    /// Records that this member made itself and that do not hold: nobody hears what they say.
    pub own_refused: u64,
    refused: [u64; Refused::ALL.len()],
}

impl Counters {
    /// Counts a drop.
    pub fn refuse(&mut self, why: Refused) {
        self.refused[why as usize] += 1;
    }

    /// How often something was dropped for this reason.
    pub fn refused(&self, why: Refused) -> u64 {
        self.refused[why as usize]
    }
}
