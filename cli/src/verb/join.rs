//! `godwit join`: makes this host a member.

use super::init::unix;
use super::invite::{JOIN_TIMEOUT, PeerAddress};
use crate::arguments::DataDirArguments;
use crate::config::File;
use crate::daemon::block_on;
use crate::failure::{Exit, Failure, Outcome};
use crate::{place, terminal};
use anyhow::Context;
use clap::Args;
use godwit_core::admission::Refusal;
use godwit_core::certificate::{BOOTSTRAP_MAX, Invalid, JoinToken, MemberCertificate, Role};
use godwit_core::key::SecretKey;
use godwit_core::name::{MemberName, RegionName};
use godwit_node::datadir::{DataDir, DataDirError};
use godwit_overlay::JoinError;
use serde_json::json;
use std::collections::BTreeSet;
use std::fmt::Write;
use std::io::Read;
use std::net::{IpAddr, SocketAddr};

/// Make this host a member of a network, with a token from `godwit invite`
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  godwit join gw1-0a5f...
  godwit join gw1-0a5f... --address 203.0.113.5 --address 2001:db8::5
  godwit invite --name fra1 --region eu-frankfurt | ssh root@fra1 godwit join -

The member's key is made here and never leaves this host. Running it again with the same token and
data directory is harmless. --address writes the addresses into godwit.toml in the data directory,
unless there is one. Refused tokens end with exit code 3.")]
pub(crate) struct Join {
    /// The token, or - to read it from standard input
    token: String,
    /// Refuse a token for another region
    #[arg(long)]
    region: Option<RegionName>,
    /// Refuse a token for another name
    #[arg(long)]
    name: Option<MemberName>,
    /// A public address of this host, for clients and members; at most one of each kind
    #[arg(long, value_name = "IP")]
    address: Vec<IpAddr>,
    /// Where to listen for members [default: port 4100 on all addresses]
    #[arg(long, value_name = "IP:PORT")]
    listen: Vec<SocketAddr>,
    /// A member to ask, beside those in the token
    #[arg(long, value_name = "IP[:PORT]")]
    bootstrap: Vec<PeerAddress>,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    data_dir: DataDirArguments,
}

impl Join {
    pub(crate) fn run(self) -> Outcome {
        let settings = self.settings()?;
        let token = self.read_token()?;
        self.check(&token)?;
        let dir = self.data_dir.dir()?;
        dir.create()?;
        // A running member's certificate is not exchanged under its feet.
        let _lock = dir.lock().map_err(|error| match error {
            locked @ DataDirError::Locked(_) => {
                Failure::from(locked).advise("stop it first, or choose another --data-dir DIR")
            }
            other => other.into(),
        })?;
        if let Some(certificate) = dir.certificate()? {
            return self.already(&dir, &token, &certificate);
        }
        let bootstrap = self.bootstrap(&token);
        // The key is on disk before the token is redeemed for it: whatever happens after, the same
        // command finds the same key, for which the sponsor answers again.
        let key = dir.key_or_new()?;
        let certificate = redeem(&token, &key, &bootstrap)?;
        dir.write_bootstrap(&bootstrap)?;
        let config = write_settings(&dir, settings.as_deref())?;
        // Last: a directory with a certificate is whole.
        dir.write_certificate(&certificate)?;
        self.print(&dir, &certificate, config)
    }

    fn read_token(&self) -> Outcome<JoinToken> {
        let mut text = self.token.clone();
        if text == "-" {
            // Twice the longest token: what is longer is refused as malformed.
            text.clear();
            std::io::stdin().take(16 * 1024).read_to_string(&mut text).context("cannot read the token")?;
        }
        JoinToken::from_text(&text).map_err(|invalid| match invalid {
            Invalid::Malformed(problem) => Failure::refused(format!("this is not a join token: {problem}"))
                .advise("copy the whole line that `godwit invite` printed"),
            other => Failure::refused(format!("the token is not valid: {other}"))
                .advise("ask for a new one (`godwit invite`)"),
        })
    }

    fn check(&self, token: &JoinToken) -> Outcome {
        let grant = &token.grant;
        if let Some(region) = self.region.as_ref().filter(|region| **region != grant.region) {
            return Err(Failure::refused(format!("the token is for region {}, not {region}", grant.region))
                .advise(format!("ask for one for this host: godwit invite --region {region}")));
        }
        if let Some(name) = self.name.as_ref().filter(|name| **name != grant.name) {
            return Err(Failure::refused(format!("the token is for {}, not {name}", grant.name))
                .advise(format!("ask for one for this host: godwit invite --name {name}")));
        }
        Ok(())
    }

    /// The same token again is no mistake; another one is.
    fn already(&self, dir: &DataDir, token: &JoinToken, certificate: &MemberCertificate) -> Outcome {
        dir.identity()?;
        let held = certificate.grant();
        if (held.network, held.serial) != (token.grant.network, token.grant.serial) {
            return Err(Failure::new(
                Exit::Refused,
                anyhow::anyhow!(
                    "{} already belongs to {} of the zone {} (serial {})",
                    dir.path().display(),
                    held.name,
                    held.zone,
                    held.serial
                ),
            )
            .advise("choose another --data-dir DIR, or remove this one if that member is gone for good"));
        }
        self.print(dir, certificate, None)
    }

    fn bootstrap(&self, token: &JoinToken) -> Vec<SocketAddr> {
        let mut bootstrap: Vec<SocketAddr> = self.bootstrap.iter().map(|address| address.0).collect();
        bootstrap.extend(&token.bootstrap);
        let mut seen = std::collections::BTreeSet::new();
        bootstrap.retain(|address| seen.insert(*address));
        bootstrap.truncate(BOOTSTRAP_MAX);
        bootstrap
    }

    /// The configuration that the arguments stand for.
    fn settings(&self) -> Outcome<Option<String>> {
        let mut text = String::new();
        if !self.address.is_empty() {
            text += "[node]\n";
            for (kind, key) in
                [(IpAddr::is_ipv4 as fn(&IpAddr) -> bool, "public_v4"), (IpAddr::is_ipv6, "public_v6")]
            {
                let addresses: Vec<&IpAddr> = self.address.iter().filter(|address| kind(address)).collect();
                match addresses[..] {
                    [] => {}
                    [address] if address.is_unspecified() => {
                        return Err(Failure::usage(format!("{address} is no address of a host")));
                    }
                    [address] => writeln!(text, "{key} = \"{address}\"")?,
                    _ => return Err(Failure::usage("a host has one public address of each kind")),
                }
            }
        }
        if !self.listen.is_empty() {
            let listen: Vec<String> = self.listen.iter().map(|address| format!("\"{address}\"")).collect();
            writeln!(text, "[overlay]\nlisten = [{}]", listen.join(", "))?;
        }
        Ok((!text.is_empty()).then_some(text))
    }

    fn print(&self, dir: &DataDir, certificate: &MemberCertificate, config: Option<String>) -> Outcome {
        let grant = certificate.grant();
        if self.json {
            return terminal::print_json(&json!({
                "zone": grant.zone,
                "name": grant.name,
                "region": grant.region,
                "roles": grant.roles,
                "member": certificate.member().to_string(),
                "serial": grant.serial,
                "not_after_unix": unix(grant.validity.not_after),
                "data_dir": dir.path(),
            }));
        }
        let roles: Vec<&str> = grant.roles.iter().map(|role| role.as_str()).collect();
        let mut text = format!(
            "This host is {} ({}) in {}, member of {}.\nIts key and certificate are in {}\n",
            grant.name,
            roles.join(", "),
            grant.region,
            grant.zone,
            dir.path().display()
        );
        if let Some(config) = config {
            writeln!(text, "{config}")?;
        }
        text += "\nNext: godwit run";
        if self.data_dir.data_dir.is_some() {
            write!(text, " --data-dir {}", dir.path().display())?;
        }
        text += &firewall(dir, certificate);
        terminal::print(&text)
    }
}

/// Which ports to open, by the configuration that `run` will read.
fn firewall(dir: &DataDir, certificate: &MemberCertificate) -> String {
    let path = place::config_file(None, dir.path());
    let config = match (File::read_for(path.as_deref(), Some(&certificate.grant().zone)), path) {
        (Ok(config), _) => config,
        (Err(_), Some(path)) => {
            let path = path.display();
            return format!(
                "\n{path} is wrong: `godwit config check` says where. It names the ports to open."
            );
        }
        (Err(_), None) => File::default(),
    };
    let mut text = format!("\nMembers reach it on {} (UDP and TCP)", ports(&config.overlay.listen));
    if certificate.has_role(Role::Node) {
        let _ = write!(text, ", web clients on {} (TCP)", ports(&config.http.listen));
    }
    if certificate.has_role(Role::Redirector) {
        let _ = write!(text, ", resolvers on {} (UDP and TCP)", ports(&config.redirector.listen));
    }
    text + ": open these in its firewall."
}

/// The ports of `addresses` in words.
fn ports(addresses: &[SocketAddr]) -> String {
    let ports: BTreeSet<u16> = addresses.iter().map(SocketAddr::port).collect();
    if ports.is_empty() {
        return "no port".into();
    }
    let free = ports.contains(&0).then(|| "a free port that it takes at each start".to_owned());
    let named: Vec<String> = ports.iter().filter(|port| **port != 0).map(u16::to_string).collect();
    let named = match named.len() {
        0 => None,
        1 => Some(format!("port {}", named[0])),
        _ => Some(format!("ports {}", named.join(" and "))),
    };
    named.into_iter().chain(free).collect::<Vec<_>>().join(" and ")
}

fn redeem(token: &JoinToken, key: &SecretKey, bootstrap: &[SocketAddr]) -> Outcome<MemberCertificate> {
    let now = godwit_node::clock::now();
    let grant = &token.grant;
    grant
        .validity
        .check(now)
        .map_err(|invalid| refused(&format!("the membership does not hold: {invalid}")))?;
    if now > grant.redeem_by {
        return Err(refused("the token has expired"));
    }
    let redemption = token.redeem(now, key.public());
    if grant.founder {
        return Ok(redemption.sponsor(now, key));
    }
    if bootstrap.is_empty() {
        return Err(Failure::usage("the token names no member to ask")
            .advise("name one with --bootstrap IP, or invite members with --address IP"));
    }
    block_on(async {
        let joined = godwit_overlay::join(key, redemption, bootstrap, JOIN_TIMEOUT).await;
        joined.map_err(|error| match error {
            JoinError::Refused(Refusal::Unavailable | Refusal::Stale | Refusal::Sponsor) => {
                Failure::from(error).advise("run this again in a moment: the token still holds")
            }
            JoinError::Refused(Refusal::Used) => Failure::new(Exit::Refused, error).advise(
                "each token works once: ask for a new one, and if you did not use this one yourself, revoke it",
            ),
            JoinError::Refused(_) => Failure::new(Exit::Refused, error).advise("ask for a new token (`godwit invite`)"),
            JoinError::Unreachable(_) => Failure::from(error).advise(
                "see that a member runs there and that its firewall lets port 4100 (UDP and TCP) through, then \
                 run this again: the token still holds until it expires",
            ),
        })
    })
}

fn refused(text: &str) -> Failure {
    Failure::refused(text)
        .advise("ask for a new token (`godwit invite`); if it should hold, check this host's clock")
}

/// Writes the configuration that the arguments stand for, unless there is one; tells what it did.
fn write_settings(dir: &DataDir, settings: Option<&str>) -> Outcome<Option<String>> {
    let Some(settings) = settings else { return Ok(None) };
    let path = dir.path().join(place::CONFIG_FILE);
    if path.exists() {
        return Ok(Some(format!("{} is there already and was left as it is", path.display())));
    }
    let text = format!("# Written by `godwit join`. Every key: godwit config schema\n{settings}");
    std::fs::write(&path, text).with_context(|| format!("cannot write {}", path.display()))?;
    Ok(Some(format!("Its addresses are in {}", path.display())))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_are_those_listened_on() {
        let check = |addresses: &[&str], words: &str| {
            let addresses: Vec<SocketAddr> = addresses.iter().map(|text| text.parse().unwrap()).collect();
            assert_eq!(ports(&addresses), words);
        };
        check(&["0.0.0.0:4100", "[::]:4100"], "port 4100");
        check(&["192.0.2.1:53", "192.0.2.2:5353"], "ports 53 and 5353");
        check(&["127.0.0.1:0"], "a free port that it takes at each start");
        check(&[], "no port");
    }
}
