//! What a vantage finds, and how it is told to others.

use crate::key::MemberId;
use crate::name::CheckName;
use crate::time::Time;
use serde::{Deserialize, Serialize};
use std::fmt;

/// At most so many verdicts stand in one roster entry: what one vantage has to say of others. With
/// three vantages a target it takes forty times the mean to come near.
pub const VERDICTS_MAX: usize = 128;

/// Why a probe failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Failure {
    /// No whole answer came in time.
    Timeout,
    /// The host refused the connection: nobody listens there.
    Refused,
    /// There is no way to the host, by what the network says.
    NoRoute,
    /// The connection ended before the answer did.
    Closed,
    /// No TLS, or a certificate that does not hold.
    Tls,
    /// What came is no HTTP.
    Malformed,
    /// Another status than is right.
    Status(u16),
    /// The body has not what it must contain.
    Body,
    /// Another member answered.
    WrongNode,
    /// An older version than the member says it holds.
    Stale,
    /// Other bytes than the publisher signed.
    WrongBytes,
}

impl Failure {
    /// The kind as a metric label: few values.
    pub const fn as_str(self) -> &'static str {
        match self {
            Failure::Timeout => "timeout",
            Failure::Refused => "refused",
            Failure::NoRoute => "no-route",
            Failure::Closed => "closed",
            Failure::Tls => "tls",
            Failure::Malformed => "malformed",
            Failure::Status(_) => "status",
            Failure::Body => "body",
            Failure::WrongNode => "wrong-node",
            Failure::Stale => "stale",
            Failure::WrongBytes => "wrong-bytes",
        }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Failure::Status(code) => write!(f, "status {code}"),
            Failure::Timeout => f.write_str("no answer in time"),
            Failure::Refused => f.write_str("connection refused"),
            Failure::NoRoute => f.write_str("no route"),
            Failure::Closed => f.write_str("closed before the end"),
            Failure::Tls => f.write_str("TLS failed"),
            Failure::Malformed => f.write_str("not HTTP"),
            Failure::Body => f.write_str("body without the expected text"),
            Failure::WrongNode => f.write_str("another member answered"),
            Failure::Stale => f.write_str("older version than it says"),
            Failure::WrongBytes => f.write_str("wrong bytes"),
        }
    }
}

/// What a vantage holds of a check.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Opinion {
    /// Nothing yet.
    #[default]
    Unknown,
    /// It works.
    Up,
    /// It does not work.
    Down,
}

impl Opinion {
    /// As it is written in reports and metrics.
    pub const fn as_str(self) -> &'static str {
        match self {
            Opinion::Unknown => "unknown",
            Opinion::Up => "up",
            Opinion::Down => "down",
        }
    }
}

/// What a vantage tells of one check of one member, in its own signed roster entry.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Verdict {
    /// Whose service.
    pub target: MemberId,
    /// Which check of it.
    pub check: CheckName,
    /// Whether it works: never [`Opinion::Unknown`] on the wire.
    pub opinion: Opinion,
    /// Since when, by the vantage's clock; for people.
    pub since: Time,
    /// How the last failure looked, when it is down.
    pub why: Option<Failure>,
    /// How long an answer takes, smoothed, milliseconds.
    pub latency_ms: Option<u32>,
}
