//! `godwit address`: which home addresses there are, and who may serve them.

use crate::arguments::{AuthorityArguments, MemberArguments};
use crate::daemon::block_on;
use crate::failure::{Classify, Exit, Failure, Outcome};
use crate::span::about;
use crate::terminal::{self, Table};
use clap::{Args, Subcommand};
use godwit_core::certificate::{AddressGrant, Home, Ports};
use godwit_core::name::{MemberName, SiteName};
use godwit_core::record::Record;
use godwit_node::admin::api;
use serde_json::json;
use std::net::IpAddr;
use std::time::Duration;

/// Grant home addresses, which stay while nodes come and go; take them back; list them
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  godwit address add game --address 198.51.100.7 --udp 27015
  godwit address list
  godwit address remove game

docs/home-addresses.md says what such an address needs.")]
pub(crate) struct Address {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, Subcommand)]
enum Action {
    Add(Add),
    Remove(Remove),
    List(List),
}

/// Grant a home address to a name, or change what was granted
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  godwit address add game --address 198.51.100.7 --udp 27015
  godwit address add game --address 198.51.100.7 --address 2001:db8::7 --on fra1 --on nyc1

The addresses must be routed to the home agents. Clients find them at NAME.<zone>. What is granted
anew replaces what was granted before, as a whole. It needs the authority's key, and a running
member that spreads it.")]
struct Add {
    /// The name: in the zone it stands beside the sites
    name: SiteName,
    /// The address; once for IPv4, once for IPv6
    #[arg(long, value_name = "IP", required = true)]
    address: Vec<IpAddr>,
    /// An open port of TCP; repeat it for each. Without --tcp and --udp everything is open
    #[arg(long, value_name = "PORT")]
    tcp: Vec<u16>,
    /// An open port of UDP; repeat it for each
    #[arg(long, value_name = "PORT")]
    udp: Vec<u16>,
    /// A node that may serve it; repeat it for each [default: every node]
    #[arg(long, value_name = "NODE")]
    on: Vec<MemberName>,
    #[command(flatten)]
    signing: Signing,
}

/// Take a home address back: home agents drop its packets within seconds
#[derive(Debug, Args)]
#[command(after_help = "\
Example:
  godwit address remove game")]
struct Remove {
    /// The name
    name: SiteName,
    #[command(flatten)]
    signing: Signing,
}

/// List the home addresses and who announces them; of a home agent, the flows that pass
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  godwit address list --json | jq '.[] | {name, v4, v6, announced_by}'
  godwit address list --flows            on a home agent: which client is at which node")]
struct List {
    /// The flows that passed this home agent in the last seconds
    #[arg(long)]
    flows: bool,
    /// So many of them at the most
    #[arg(long, value_name = "COUNT", default_value_t = 100, requires = "flows")]
    max: usize,
    /// Print one JSON array
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    member: MemberArguments,
}

#[derive(Debug, Args)]
struct Signing {
    /// Print one JSON object
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    authority: AuthorityArguments,
    #[command(flatten)]
    member: MemberArguments,
}

impl Address {
    pub(crate) fn run(self) -> Outcome {
        match self.action {
            Action::Add(add) => add.run(),
            Action::Remove(remove) => remove.run(),
            Action::List(list) => list.run(),
        }
    }
}

impl Add {
    fn run(self) -> Outcome {
        let home = self.home()?;
        let known = self.signing.authority.dir()?.state()?;
        if let Some(stranger) = self.on.iter().find(|name| known.member(name).is_none()) {
            let names: Vec<&str> =
                known.members.iter().filter(|one| !one.revoked).map(|one| one.name.as_str()).collect();
            return Err(Failure::usage(format!("the authority has invited nobody of the name {stranger}"))
                .advise(format!("members are {}", names.join(", "))));
        }
        let shown = Shown::of(&home);
        let grant = self.signing.submit(&self.name, Some(home))?;
        if self.signing.json {
            return terminal::print_json(&json!({
                "name": self.name,
                "addresses": self.address,
                "sequence": grant.sequence,
            }));
        }
        terminal::print(&format!(
            "{} has {}, open: {}; served by {}.\nNext: route it to the home agents, and `godwit serve {}` on a node.",
            self.name, shown.addresses, shown.open, shown.servers, self.name
        ))
    }

    fn home(&self) -> Outcome<Home> {
        let (mut v4, mut v6) = (None, None);
        for address in &self.address {
            let twice = match address {
                IpAddr::V4(ip) => v4.replace(*ip).is_some(),
                IpAddr::V6(ip) => v6.replace(*ip).is_some(),
            };
            if twice {
                return Err(Failure::usage("a name has one IPv4 and one IPv6 address at most")
                    .advise("give the other address a name of its own"));
            }
        }
        let ports = match (self.tcp.is_empty(), self.udp.is_empty()) {
            (true, true) => Ports::All,
            _ => Ports::Only { tcp: in_order(&self.tcp), udp: in_order(&self.udp) },
        };
        let home = Home { v4, v6, ports, servers: in_order(&self.on) };
        home.check().or_exit(Exit::Usage)?;
        Ok(home)
    }
}

impl Remove {
    fn run(self) -> Outcome {
        let client = self.signing.member.client()?;
        let known = block_on(async { Ok(client.status().await?.addresses) })?;
        if !known.iter().any(|address| address.name == self.name.as_str()) {
            let names: Vec<&str> = known.iter().map(|address| address.name.as_str()).collect();
            return Err(Failure::usage(format!("no home address is called {}", self.name))
                .advise(format!("home addresses are: {}", names.join(", "))));
        }
        let grant = self.signing.submit(&self.name, None)?;
        if self.signing.json {
            return terminal::print_json(&json!({ "name": self.name, "sequence": grant.sequence }));
        }
        terminal::print(&format!("{} is taken back: it spreads to every member.", self.name))
    }
}

impl List {
    fn run(self) -> Outcome {
        let client = self.member.client()?;
        if self.flows {
            let flows = block_on(async { Ok(client.home_flows(self.max).await?) })?;
            return match self.json {
                true => terminal::print_json(&flows),
                false => terminal::print(&flow_table(&flows).to_string()),
            };
        }
        let addresses = block_on(async { Ok(client.status().await?.addresses) })?;
        if self.json {
            return terminal::print_json(&addresses);
        }
        if addresses.is_empty() {
            return terminal::print("No home address is granted yet: godwit address add NAME --address IP");
        }
        terminal::print(&table(&addresses).to_string())
    }
}

impl Signing {
    /// Signs a grant, and gives it to a member that spreads it. The sequence is one of the authority's
    /// serials, so it is higher than every one before, in whatever order they are heard.
    fn submit(&self, name: &SiteName, home: Option<Home>) -> Outcome<AddressGrant> {
        let dir = self.authority.dir()?;
        let client = self.member.client()?;
        let key = dir.unlock()?;
        let sequence = dir.update(|state| Ok(state.take_serial()))?.0;
        let grant = AddressGrant::issue(godwit_node::clock::now(), &key, name.clone(), sequence, home);
        block_on(async { Ok(client.submit(&Record::Address(Box::new(grant.clone()))).await?) })?;
        Ok(grant)
    }
}

/// What was granted, for people.
struct Shown {
    addresses: String,
    open: String,
    servers: String,
}

impl Shown {
    fn of(home: &Home) -> Shown {
        let addresses: Vec<String> = home.addresses().map(|address| address.to_string()).collect();
        let (tcp, udp) = match &home.ports {
            Ports::All => (None, None),
            Ports::Only { tcp, udp } => (Some(tcp.as_slice()), Some(udp.as_slice())),
        };
        let servers: Vec<&str> = home.servers.iter().map(MemberName::as_str).collect();
        Shown {
            addresses: addresses.join(" and "),
            open: open(tcp, udp),
            servers: any(&servers, "every node"),
        }
    }
}

/// Home addresses as `status` and `address list` show them.
pub(crate) fn table(addresses: &[api::AddressStatus]) -> Table {
    let mut table = Table::new(&["ADDRESS OF", "ADDRESS", "OPEN", "MAY SERVE", "ANNOUNCED BY"]);
    for address in addresses {
        let v4 = address.v4.map(|ip| ip.to_string());
        let v6 = address.v6.map(|ip| ip.to_string());
        let mut shown = v4.into_iter().chain(v6).collect::<Vec<_>>().join(", ");
        if !address.stands {
            shown += " (another name has it)";
        }
        table.row(vec![
            address.name.clone(),
            shown,
            open(address.tcp.as_deref(), address.udp.as_deref()),
            any(&address.members, "every node"),
            any(&address.announced_by, "nobody"),
        ]);
    }
    table
}

/// Flows as a home agent tells of them.
fn flow_table(flows: &serde_json::Value) -> Table {
    let mut table = Table::new(&["CLIENT", "HOME ADDRESS", "PROTOCOL", "NODE", "PACKETS", "SIZE", "AGE"]);
    let text = |value: &serde_json::Value| value.as_str().unwrap_or("-").to_owned();
    for flow in flows.as_array().map_or(&[][..], Vec::as_slice) {
        let protocol = match flow["protocol"].as_u64() {
            Some(6) => "tcp".into(),
            Some(17) => "udp".into(),
            Some(1 | 58) => "icmp".into(),
            other => other.map_or_else(|| "-".into(), |number| number.to_string()),
        };
        let bound = if flow["bound"] == true { " (bound)" } else { "" };
        table.row(vec![
            text(&flow["client"]),
            text(&flow["home"]),
            protocol,
            text(&flow["node"]) + bound,
            flow["packets"].to_string(),
            terminal::bytes(flow["octets"].as_u64().unwrap_or(0)),
            about(Duration::from_millis(flow["age_ms"].as_u64().unwrap_or(0))),
        ]);
    }
    table
}

fn open(tcp: Option<&[u16]>, udp: Option<&[u16]>) -> String {
    let (Some(tcp), Some(udp)) = (tcp, udp) else { return "everything".into() };
    let listed = |name: &'static str, ports: &[u16]| {
        let ports: Vec<String> = ports.iter().map(|port| format!("{name}/{port}")).collect();
        ports.join(" ")
    };
    let lists = [listed("tcp", tcp), listed("udp", udp)];
    lists.into_iter().filter(|list| !list.is_empty()).collect::<Vec<_>>().join(" ")
}

fn any<T: AsRef<str>>(items: &[T], none: &str) -> String {
    match items {
        [] => none.to_owned(),
        items => items.iter().map(AsRef::as_ref).collect::<Vec<_>>().join(", "),
    }
}

fn in_order<T: Ord + Clone>(items: &[T]) -> Vec<T> {
    let mut items = items.to_vec();
    items.sort_unstable();
    items.dedup();
    items
}
