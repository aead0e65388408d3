//! Grants, and the join tokens that carry them.

use super::member::RedemptionBody;
use super::{Invalid, Redemption, Serial, Validity};
use crate::geo::Coordinates;
use crate::key::{Domain, MemberId, NetworkId, PublicKey, SecretKey, Signature};
use crate::name::{MemberName, RegionName, ZoneName};
use crate::time::Time;
use crate::wire;
use serde::{Deserialize, Serialize};
use std::fmt;
use std::net::SocketAddr;
use std::str::FromStr;

/// At most this many bootstrap addresses stand in a token.
pub const BOOTSTRAP_MAX: usize = 16;

/// The longest join token, bytes before its text form.
pub const TOKEN_LEN_MAX: usize = 4096;

/// What a member may be asked to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Role {
    /// Keeps content and serves it.
    Node,
    /// Answers for the zone.
    Redirector,
    /// Holds home addresses.
    HomeAgent,
}

impl Role {
    /// The role as it is written on the command line.
    pub const fn as_str(self) -> &'static str {
        match self {
            Role::Node => "node",
            Role::Redirector => "redirector",
            Role::HomeAgent => "home-agent",
        }
    }
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

impl FromStr for Role {
    type Err = String;
    fn from_str(text: &str) -> Result<Role, String> {
        [Role::Node, Role::Redirector, Role::HomeAgent]
            .into_iter()
            .find(|role| role.as_str() == text)
            .ok_or_else(|| format!("{text:?} is not a role: node, redirector or home-agent"))
    }
}

/// The authority's promise to make a member of whoever redeems the token in time.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Grant {
    /// The network it is for.
    pub network: NetworkId,
    /// The network's zone.
    pub zone: ZoneName,
    /// Unique number; revocations name it.
    pub serial: Serial,
    /// The member's name.
    pub name: MemberName,
    /// Where the member is.
    pub region: RegionName,
    /// Place of the region, if the authority knows it.
    pub place: Option<Coordinates>,
    /// What the member may do, in order, without repetition.
    pub roles: Vec<Role>,
    /// When the membership holds.
    pub validity: Validity,
    /// The token must be redeemed by then.
    pub redeem_by: Time,
    /// The public half of the token's one-time key.
    pub token_key: PublicKey,
    /// Whether its holder may sponsor itself: the first member of a network.
    pub founder: bool,
}

/// Signs grants. Holds the authority key while the command runs, and nothing else.
pub struct Authority {
    /// The authority's key.
    pub key: SecretKey,
    /// The zone of its network.
    pub zone: ZoneName,
}

/// What an invitation asks for.
#[derive(Clone, Debug)]
pub struct Invitation {
    /// Unique number.
    pub serial: Serial,
    /// The member's name.
    pub name: MemberName,
    /// Where it will be.
    pub region: RegionName,
    /// Place of the region, if known.
    pub place: Option<Coordinates>,
    /// What it may do.
    pub roles: Vec<Role>,
    /// When the membership holds.
    pub validity: Validity,
    /// The token must be redeemed by then.
    pub redeem_by: Time,
    /// Whether it is the first member.
    pub founder: bool,
    /// Where members are reachable, at most [`BOOTSTRAP_MAX`].
    pub bootstrap: Vec<SocketAddr>,
}

impl Authority {
    /// Makes a join token; `token_seed` is 32 random bytes, never used before.
    pub fn invite(&self, invitation: Invitation, token_seed: &[u8; 32]) -> JoinToken {
        let token_key = SecretKey::from_seed(token_seed);
        let mut roles = invitation.roles;
        roles.sort();
        roles.dedup();
        let grant = Grant {
            network: self.key.public(),
            zone: self.zone.clone(),
            serial: invitation.serial,
            name: invitation.name,
            region: invitation.region,
            place: invitation.place,
            roles,
            validity: invitation.validity,
            redeem_by: invitation.redeem_by,
            token_key: token_key.public(),
            founder: invitation.founder,
        };
        let grant_signature = self.key.sign(Domain::Grant, &wire::encode(&grant));
        let mut bootstrap = invitation.bootstrap;
        bootstrap.truncate(BOOTSTRAP_MAX);
        let body = bootstrap_body(&grant_signature, &bootstrap);
        let bootstrap_signature = self.key.sign(Domain::Token, &body);
        JoinToken { grant, grant_signature, token_key, bootstrap, bootstrap_signature }
    }
}

/// A one-time invitation: what `godwit invite` prints and `godwit join` takes.
#[derive(Clone)]
pub struct JoinToken {
    /// The promise.
    pub grant: Grant,
    /// The authority's signature of it.
    pub grant_signature: Signature,
    /// The secret half of the one-time key.
    pub token_key: SecretKey,
    /// Where members were reachable when the token was made.
    pub bootstrap: Vec<SocketAddr>,
    /// The authority's signature of `bootstrap`, so that a damaged token is known as one before
    /// anybody is asked at a wrong address.
    bootstrap_signature: Signature,
}

#[derive(Serialize, Deserialize)]
struct TokenForm {
    grant: Grant,
    grant_signature: Signature,
    token_seed: [u8; 32],
    bootstrap: Vec<SocketAddr>,
    bootstrap_signature: Signature,
}

/// What is signed of the bootstrap addresses: they go with one grant only.
fn bootstrap_body(grant_signature: &Signature, bootstrap: &[SocketAddr]) -> Vec<u8> {
    wire::encode(&(grant_signature, bootstrap))
}

/// Every token starts with this, so that a person recognises one and versions can differ.
const TOKEN_PREFIX: &str = "gw1-";

impl JoinToken {
    /// The token's text: one word, to paste into a terminal.
    pub fn to_text(&self) -> String {
        let bytes = wire::encode(&TokenForm {
            grant: self.grant.clone(),
            grant_signature: self.grant_signature,
            token_seed: *self.token_key.to_seed(),
            bootstrap: self.bootstrap.clone(),
            bootstrap_signature: self.bootstrap_signature,
        });
        format!("{TOKEN_PREFIX}{}", hex::encode(bytes))
    }

    /// Reads a token and checks that the authority it names signed it unedited.
    pub fn from_text(text: &str) -> Result<JoinToken, Invalid> {
        let text = text.trim();
        let digits = text
            .strip_prefix(TOKEN_PREFIX)
            .ok_or_else(|| Invalid::Malformed(format!("a join token starts with {TOKEN_PREFIX}")))?;
        if digits.len() > 2 * TOKEN_LEN_MAX {
            return Err(Invalid::Malformed("too long for a join token".into()));
        }
        let bytes = hex::decode(digits)
            .map_err(|_| Invalid::Malformed("the token is cut off or has a wrong character".into()))?;
        let form: TokenForm =
            wire::decode(&bytes, TOKEN_LEN_MAX).map_err(|e| Invalid::Malformed(e.to_string()))?;
        let token_key = SecretKey::from_seed(&form.token_seed);
        form.grant.network.verify(Domain::Grant, &wire::encode(&form.grant), &form.grant_signature)?;
        let body = bootstrap_body(&form.grant_signature, &form.bootstrap);
        form.grant.network.verify(Domain::Token, &body, &form.bootstrap_signature)?;
        if token_key.public() != form.grant.token_key || form.bootstrap.len() > BOOTSTRAP_MAX {
            return Err(Invalid::Signature);
        }
        Ok(JoinToken {
            grant: form.grant,
            grant_signature: form.grant_signature,
            token_key,
            bootstrap: form.bootstrap,
            bootstrap_signature: form.bootstrap_signature,
        })
    }

    /// Redeems the token for the member key `member`.
    pub fn redeem(&self, now: Time, member: MemberId) -> Redemption {
        let body = RedemptionBody { serial: self.grant.serial, member, redeemed_at: now };
        Redemption {
            grant: self.grant.clone(),
            grant_signature: self.grant_signature,
            member,
            redeemed_at: now,
            token_signature: self.token_key.sign(Domain::Redemption, &wire::encode(&body)),
        }
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    pub(in crate::certificate) fn authority() -> Authority {
        Authority { key: SecretKey::from_seed(&[1; 32]), zone: "edge.example.org".parse().unwrap() }
    }

    pub(in crate::certificate) fn invitation() -> Invitation {
        Invitation {
            serial: Serial(4),
            name: "tokyo-1".parse().unwrap(),
            region: "ap-tokyo".parse().unwrap(),
            place: None,
            roles: vec![Role::Redirector, Role::Node, Role::Node],
            validity: Validity { not_before: Time::from_secs(100), not_after: Time::from_secs(10_000) },
            redeem_by: Time::from_secs(1000),
            founder: false,
            bootstrap: vec!["192.0.2.1:4100".parse().unwrap()],
        }
    }

    #[test]
    fn token_reads_back_and_an_edited_one_is_refused() {
        let token = authority().invite(invitation(), &[2; 32]);
        let text = token.to_text();
        let read = JoinToken::from_text(&format!(" {text}\n")).unwrap();
        assert_eq!(read.grant, token.grant);
        assert_eq!(read.grant.roles, [Role::Node, Role::Redirector]);
        for position in 4..text.len() {
            let mut edited = text.clone().into_bytes();
            edited[position] = if edited[position] == b'0' { b'1' } else { b'0' };
            let edited = String::from_utf8(edited).unwrap();
            assert!(JoinToken::from_text(&edited).is_err(), "{position}");
        }
        assert!(matches!(JoinToken::from_text("gw1-00"), Err(Invalid::Malformed(_))));
        assert!(matches!(JoinToken::from_text("hello"), Err(Invalid::Malformed(_))));
    }
}
