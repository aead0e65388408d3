//! `godwit invite`: makes a one-time join token.

use super::init::{delegation_of, random, unix};
use crate::arguments::AuthorityArguments;
use crate::authority::{Invited, State};
use crate::failure::{Failure, Outcome};
use crate::span::Span;
use crate::terminal;
use clap::Args;
use godwit_core::certificate::{Authority, BOOTSTRAP_MAX, Invitation, JoinToken, Role, Validity};
use godwit_core::geo::{Coordinates, cities};
use godwit_core::key::SecretKey;
use godwit_core::name::{MemberName, RegionName};
use godwit_core::time::Time;
use godwit_node::config::PEER_PORT;
use serde_json::json;
use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};
use std::str::FromStr;
use std::time::Duration;

/// Invite a host: print a one-time token that makes it a member
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  godwit invite --name fra1 --region eu-frankfurt --address 203.0.113.5
  godwit invite --name tokyo-2 --region ap-tokyo --role node --expires 1h
  godwit invite --name lab --region lab --at 59.33,18.07 --json

The token alone goes to standard output, everything else to standard error. It works once: whoever
uses it first is the member. --address tells later tokens where this member will be reachable.
A region called after a city (ap-tokyo, us-new-york, fra) needs no --at.")]
pub(crate) struct Invite {
    /// The member's name, unique in its network
    #[arg(long)]
    name: MemberName,
    /// Where it is, for example ap-tokyo
    #[arg(long)]
    region: RegionName,
    /// Place of the region [default: that of the city it is called after]
    #[arg(long, value_name = "LAT,LON", allow_hyphen_values = true)]
    at: Option<Coordinates>,
    /// What it may do; repeat it, or write several with commas
    #[arg(long = "role", value_name = "ROLE", value_delimiter = ',', default_values_t = [Role::Node, Role::Redirector])]
    roles: Vec<Role>,
    /// The token works for so long
    #[arg(long, value_name = "SPAN", default_value = "15m")]
    expires: Span,
    /// The membership holds for so long
    #[arg(long, value_name = "SPAN", default_value = "1y")]
    lifetime: Span,
    /// Where members will reach it; repeat it for each address
    #[arg(long, value_name = "IP[:PORT]")]
    address: Vec<PeerAddress>,
    /// Let it start alone, without another member to vouch for it; the first invitation always does
    #[arg(long)]
    founder: bool,
    /// Use a name again whose earlier token was never used, or whose host is gone for good
    #[arg(long)]
    again: bool,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    authority: AuthorityArguments,
}

/// An address of a member; without a port the usual one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct PeerAddress(pub(crate) SocketAddr);

impl FromStr for PeerAddress {
    type Err = String;
    fn from_str(text: &str) -> Result<PeerAddress, String> {
        let bare = text.strip_prefix('[').and_then(|text| text.strip_suffix(']')).unwrap_or(text);
        let address = match (text.parse::<SocketAddr>(), bare.parse::<IpAddr>()) {
            (Ok(address), _) => address,
            (_, Ok(ip)) => SocketAddr::new(ip, PEER_PORT),
            _ => {
                return Err(format!(
                    "{text:?} is not IP or IP:PORT; an IPv6 address with a port is [IP]:PORT"
                ));
            }
        };
        if address.ip().is_unspecified() || address.ip().is_multicast() || address.port() == 0 {
            return Err(format!("{text} is no address at which a host can be reached"));
        }
        Ok(PeerAddress(address))
    }
}

impl Invite {
    pub(crate) fn run(self) -> Outcome {
        let dir = self.authority.dir()?;
        // Looked at before the passphrase is asked for, and again when the serial is taken.
        self.check(&dir.state()?)?;
        let key = dir.unlock()?;
        let (token, state) = dir.update(|state| {
            self.check(state)?;
            let token = self.invite(&key, state)?;
            Ok((token, state.clone()))
        })?;
        self.print(&token, &state)
    }

    fn check(&self, state: &State) -> Outcome {
        // Whether the token was used is known in the network only, not here.
        if let Some(member) = state.member(&self.name)
            && member.not_after > godwit_node::clock::now()
            && !self.again
        {
            return Err(Failure::usage(format!(
                "{} is already invited (serial {})",
                self.name, member.serial
            ))
            .advise(
                "choose another name; or, if that token was never used or its host is gone for good, add \
                     --again",
            ));
        }
        if self.address.len() > BOOTSTRAP_MAX {
            return Err(Failure::usage(format!("a member has at most {BOOTSTRAP_MAX} addresses")));
        }
        Ok(())
    }

    /// How long the membership holds: for as long as the token at the least, so that who comes late
    /// becomes a member at all.
    fn holds(&self) -> Span {
        Span(self.lifetime.0.max(self.expires.0))
    }

    fn invite(&self, key: &SecretKey, state: &mut State) -> Outcome<JoinToken> {
        let now = godwit_node::clock::now();
        let place = self.at.or_else(|| cities::of_region(self.region.as_str()).map(|city| city.place()));
        let redeem_by = now + self.expires.0;
        let not_after = now + self.holds().0;
        let invitation = Invitation {
            serial: state.take_serial(),
            name: self.name.clone(),
            region: self.region.clone(),
            place,
            roles: self.roles.clone(),
            validity: Validity { not_before: now, not_after },
            redeem_by,
            founder: self.founder || state.members.is_empty(),
            bootstrap: bootstrap(state),
        };
        let authority = Authority { key: key.clone(), zone: state.zone.clone() };
        let token = authority.invite(invitation, &random()?);
        state.members.push(Invited {
            serial: token.grant.serial,
            name: self.name.clone(),
            region: self.region.clone(),
            roles: token.grant.roles.clone(),
            addresses: self.address.iter().map(|address| address.0).collect(),
            redeem_by,
            not_after,
            founder: token.grant.founder,
            revoked: false,
        });
        Ok(token)
    }

    fn print(&self, token: &JoinToken, state: &State) -> Outcome {
        let grant = &token.grant;
        let addresses: BTreeSet<IpAddr> = self.address.iter().map(|address| address.0.ip()).collect();
        let redirector = grant.roles.contains(&Role::Redirector);
        let registrar = match redirector && !addresses.is_empty() {
            true => delegation_of(&state.zone, &grant.name, addresses),
            false => Vec::new(),
        };
        if self.json {
            return terminal::print_json(&json!({
                "token": token.to_text(),
                "serial": grant.serial,
                "name": grant.name,
                "region": grant.region,
                "place": grant.place.map(|place| [place.lat(), place.lon()]),
                "roles": grant.roles,
                "founder": grant.founder,
                "redeem_by_unix": unix(grant.redeem_by),
                "not_after_unix": unix(grant.validity.not_after),
                "bootstrap": token.bootstrap,
                "registrar": registrar,
            }));
        }
        let roles: Vec<&str> = grant.roles.iter().map(|role| role.as_str()).collect();
        eprintln!(
            "Token for {} ({}) in {}: works once, within {}; the membership holds for {}.",
            grant.name,
            roles.join(", "),
            grant.region,
            self.expires,
            self.holds()
        );
        if grant.place.is_none() {
            eprintln!(
                "Where {} lies is not known: clients are led there by measured times only. --at LAT,LON tells it.",
                grant.region
            );
        }
        if grant.founder {
            eprintln!("This member may start alone; the later ones ask a running member.");
        } else if token.bootstrap.is_empty() {
            eprintln!(
                "No address of a member is known (invite members with --address IP): the host must be told one \
                 with `godwit join --bootstrap IP`."
            );
        }
        if !registrar.is_empty() {
            eprintln!("Enter at the registrar of the zone above {}:", state.zone);
            for line in &registrar {
                eprintln!("  {line}");
            }
        }
        eprintln!("On that host run `godwit join` with:");
        terminal::print(&token.to_text())
    }
}

/// Where members can be reached, as many as a token holds: founders and redirectors are likely to
/// be up, but what counts most is different hosts, so each member's first address goes before
/// anybody's second.
fn bootstrap(state: &State) -> Vec<SocketAddr> {
    let now: Time = godwit_node::clock::now();
    let members = || state.members.iter().filter(|member| !member.revoked && member.not_after > now);
    let mut addresses: Vec<SocketAddr> = Vec::new();
    for position in 0..BOOTSTRAP_MAX {
        for address in members().filter_map(|member| member.addresses.get(position)) {
            if !addresses.contains(address) {
                addresses.push(*address);
            }
        }
    }
    addresses.truncate(BOOTSTRAP_MAX);
    addresses
}

/// How long a joiner tries to reach a member. Handshakes time out long before; this is the sum over
/// some silent addresses.
pub(crate) const JOIN_TIMEOUT: Duration = Duration::from_secs(20);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn peer_addresses_may_leave_out_the_port() {
        let read = |text: &str| text.parse::<PeerAddress>().map(|address| address.0.to_string());
        assert_eq!(read("203.0.113.5").unwrap(), "203.0.113.5:4100");
        assert_eq!(read("203.0.113.5:99").unwrap(), "203.0.113.5:99");
        assert_eq!(read("2001:db8::1").unwrap(), "[2001:db8::1]:4100");
        assert_eq!(read("[2001:db8::1]").unwrap(), "[2001:db8::1]:4100");
        assert_eq!(read("[2001:db8::1]:99").unwrap(), "[2001:db8::1]:99");
        for bad in ["", "host", "0.0.0.0", "::", "203.0.113.5:0", "224.0.0.1", "203.0.113.5:99999"] {
            assert!(read(bad).is_err(), "{bad}");
        }
    }
}
