//! `godwit init`: makes a network.

use crate::arguments::AuthorityArguments;
use crate::authority::{self, Issued, Publisher, State, sealed};
use crate::failure::{Failure, Outcome};
use crate::terminal;
use anyhow::Context;
use clap::Args;
use godwit_core::certificate::{PublisherCertificate, Right, Validity};
use godwit_core::key::SecretKey;
use godwit_core::name::{MemberName, ZoneName};
use godwit_core::time::Time;
use serde_json::json;
use std::net::IpAddr;
use std::str::FromStr;
use std::time::Duration;
use zeroize::Zeroizing;

/// How long the first publisher's certificate holds: longer than a small team keeps a laptop, and
/// revocable at any time.
const PUBLISHER_LIFETIME: Duration = Duration::from_secs(5 * 31_536_000);

/// Shorter passphrases are guessed in days, whatever the key file costs.
const PASSPHRASE_LEN_MIN: usize = 8;

/// Make a network: its authority key, a publisher's key, and the records for the registrar
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  godwit init --zone edge.example.org
  godwit init --zone edge.example.org --ns fra1=203.0.113.5 --ns nyc1=198.51.100.7

The authority's key signs invitations and revocations and is not needed while the network serves:
keep its directory off the servers, and keep a copy. Set GODWIT_PASSPHRASE where nobody can be asked.")]
pub(crate) struct Init {
    /// The DNS zone that the network will answer for
    #[arg(long)]
    zone: ZoneName,
    /// A member that will be a redirector, and its public address; repeat it for each
    #[arg(long, value_name = "NAME=IP")]
    ns: Vec<NameServer>,
    /// Keep the authority's key without a passphrase: for test networks
    #[arg(long)]
    no_passphrase: bool,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    authority: AuthorityArguments,
}

/// A redirector that the registrar is to be told of.
#[derive(Clone, Debug)]
struct NameServer {
    name: MemberName,
    address: IpAddr,
}

impl FromStr for NameServer {
    type Err = String;
    fn from_str(text: &str) -> Result<NameServer, String> {
        let (name, address) = text.split_once('=').ok_or("write NAME=IP, for example fra1=203.0.113.5")?;
        let name = name.parse().map_err(|error| format!("{name:?}: {error}"))?;
        let address = address.parse().map_err(|_| format!("{address:?} is not an IP address"))?;
        Ok(NameServer { name, address })
    }
}

impl Init {
    pub(crate) fn run(self) -> Outcome {
        let dir = self.authority.dir()?;
        // Before anybody is asked for a passphrase in vain; `create` checks again under its lock.
        if dir.path().join("authority.json").exists() {
            return Err(Failure::usage(format!(
                "{} already holds the authority of a network",
                dir.path().display()
            ))
            .advise("name another directory with --authority DIR; an authority is never replaced"));
        }
        let key = SecretKey::from_seed(&random()?);
        let key_file = self.key_file(&key)?;
        let mut state = State::new(key.public(), self.zone.clone());
        let publisher = first_publisher(&key, &mut state)?;
        dir.create(&state, &key_file, &publisher)?;
        if self.json {
            return terminal::print_json(&json!({
                "zone": self.zone,
                "network": key.public().to_string(),
                "authority": dir.path(),
                "registrar": delegation(&self.zone, &self.ns),
            }));
        }
        let kept = dir.path().display();
        let mut text = format!(
            "Made the network {} for the zone {}.\nIts authority is in {kept}\n",
            key.public().short(),
            self.zone
        );
        text += "  authority.key, authority.json    keep these off the servers, and keep a copy\n";
        text += "  publisher.key, publisher.cert    whoever has these may publish and drain\n";
        if self.ns.is_empty() {
            text +=
                "\nWhen redirectors have addresses, `godwit invite` prints what to enter at the registrar.\n";
        } else {
            text += &format!("\nEnter at the registrar of the zone above {}:\n", self.zone);
            for line in delegation(&self.zone, &self.ns) {
                text += &format!("  {line}\n");
            }
        }
        text += "\nNext: godwit invite --name NAME --region REGION --address IP";
        terminal::print(&text)
    }

    fn key_file(&self, key: &SecretKey) -> Outcome<Zeroizing<String>> {
        if self.no_passphrase {
            return Ok(sealed::plain(key));
        }
        let passphrase = match authority::passphrase_from_environment() {
            Some(passphrase) => passphrase,
            None => {
                let first = authority::ask_passphrase("New passphrase for the network authority: ")?;
                let second = authority::ask_passphrase("The same again: ")?;
                if *first != *second {
                    return Err(Failure::usage("the two passphrases differ").advise("run this again"));
                }
                first
            }
        };
        if passphrase.chars().count() < PASSPHRASE_LEN_MIN {
            return Err(Failure::usage(format!("a passphrase has at least {PASSPHRASE_LEN_MIN} characters"))
                .advise("choose a longer one, or --no-passphrase for a test network"));
        }
        let text = sealed::seal(key, &passphrase, sealed::Cost::DEFAULT, &random()?, &random()?)?;
        Ok(Zeroizing::new(text))
    }
}

fn first_publisher(authority: &SecretKey, state: &mut State) -> Outcome<Publisher> {
    let key = SecretKey::from_seed(&random()?);
    let now = godwit_node::clock::now();
    let validity = Validity { not_before: now, not_after: now + PUBLISHER_LIFETIME };
    let serial = state.take_serial();
    let rights = vec![Right::Publish, Right::Operate];
    let certificate =
        PublisherCertificate::issue(authority, serial, key.public(), String::new(), rights, validity);
    state.publishers.push(Issued {
        serial,
        key: key.public().to_string(),
        site_prefix: String::new(),
        not_after: validity.not_after,
        revoked: false,
    });
    Ok(Publisher { key, certificate })
}

/// The records that make the zone above send resolvers to these name servers.
fn delegation(zone: &ZoneName, servers: &[NameServer]) -> Vec<String> {
    servers.iter().flat_map(|server| delegation_of(zone, &server.name, [server.address])).collect()
}

/// The NS record and the glue of one redirector.
pub(crate) fn delegation_of(
    zone: &ZoneName,
    name: &MemberName,
    addresses: impl IntoIterator<Item = IpAddr>,
) -> Vec<String> {
    let host = format!("{name}.node.{zone}.");
    let mut lines = vec![format!("{zone}.  NS    {host}")];
    for address in addresses {
        let kind = if address.is_ipv4() { "A   " } else { "AAAA" };
        lines.push(format!("{host}  {kind}  {address}"));
    }
    lines
}

/// Fresh random bytes from the system.
pub(crate) fn random<const LEN: usize>() -> anyhow::Result<[u8; LEN]> {
    let mut bytes = [0; LEN];
    getrandom::fill(&mut bytes).context("the system gives no random bytes")?;
    Ok(bytes)
}

/// A moment as whole seconds since the Unix epoch, for JSON.
pub(crate) fn unix(time: Time) -> u64 {
    time.as_secs()
}
