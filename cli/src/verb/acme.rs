//! `godwit acme set|clear|show`: values for certificate authorities.

use crate::arguments::DaemonArguments;
use crate::daemon::block_on;
use crate::failure::Outcome;
use crate::span::Span;
use crate::terminal::{self, Table};
use clap::{Args, Subcommand};
use godwit_node::admin::api::Challenge;

/// Prove to a certificate authority that a name is yours (ACME dns-01)
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  godwit acme set www gfj9Xq...Rg85nM
  godwit acme set _acme-challenge.www.edge.example.org gfj9Xq...Rg85nM --ttl 10m
  godwit acme clear www gfj9Xq...Rg85nM
  godwit acme show
  godwit acme set www gfj9Xq...Rg85nM --static zone.toml

NAME is the name that the certificate is for, before the zone or whole, `@` for the zone itself; or
the name of the record. Every redirector of the network answers with the value within moments, and
other values at the name stay. It is gone after --ttl (1 hour, at most 1 day), or when this member
stops for longer than two minutes. A static zone's redirector keeps it beside its state file, also
when it is started again; set it at each redirector of the zone.

For a host name of your own, say shop.example.com, let a CNAME at _acme-challenge.shop.example.com
lead to _acme-challenge.shop.<zone>, and set the value with the name shop.")]
pub(crate) struct Acme {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// Set a value; other values at the name stay
    #[command(after_help = "Example:\n  godwit acme set www gfj9Xq...Rg85nM --ttl 10m")]
    Set {
        #[command(flatten)]
        value: ValueArguments,
        /// For how long the value stands
        #[arg(long, value_name = "SPAN", default_value = "1h")]
        ttl: Span,
        #[command(flatten)]
        member: DaemonArguments,
    },
    /// Take a value back that was set at this member
    #[command(visible_alias = "unset", after_help = "Example:\n  godwit acme clear www gfj9Xq...Rg85nM")]
    Clear {
        #[command(flatten)]
        value: ValueArguments,
        #[command(flatten)]
        member: DaemonArguments,
    },
    /// Print the values that stand, whichever member set them
    #[command(after_help = "Example:\n  godwit acme show --json")]
    Show {
        /// Print one JSON object
        #[arg(long)]
        json: bool,
        #[command(flatten)]
        member: DaemonArguments,
    },
}

#[derive(Debug, Args)]
struct ValueArguments {
    /// The name that the certificate is for, or that of the record
    name: String,
    /// What the authority is to find there
    value: String,
}

impl Acme {
    pub(crate) fn run(self) -> Outcome {
        match self.action {
            Action::Set { value, ttl, member } => set(&value, ttl.0.as_secs(), &member),
            Action::Clear { value, member } => set(&value, 0, &member),
            Action::Show { json, member } => show(json, &member),
        }
    }
}

fn set(value: &ValueArguments, lease_secs: u64, member: &DaemonArguments) -> Outcome {
    let client = member.client()?;
    let (name, whose) = block_on(async {
        let status = client.status().await?;
        let name = record_name(&value.name, &status.zone);
        let challenge =
            Challenge { name: name.clone(), value: value.value.clone(), lease_secs: Some(lease_secs) };
        client.challenge(&challenge).await?;
        Ok((name, if status.is_static() { "this redirector" } else { "every redirector" }))
    })?;
    match lease_secs {
        0 => terminal::print(&format!("{name} loses this value on {whose}")),
        seconds => terminal::print(&format!("{name} has this value on {whose}, for {seconds} s")),
    }
}

/// The whole name of the record for what a person wrote.
fn record_name(text: &str, zone: &str) -> String {
    let label = godwit_core::challenge::LABEL;
    let text = text.trim_end_matches('.').to_ascii_lowercase();
    let whole = match text.as_str() {
        "@" => zone.to_owned(),
        name if name == zone || name.ends_with(&format!(".{zone}")) => name.to_owned(),
        name => format!("{name}.{zone}"),
    };
    // RFC 8555, 7.1.3: a wildcard is proved at its base name.
    let whole = whole.strip_prefix("*.").map_or(whole.clone(), str::to_owned);
    if whole.starts_with(&format!("{label}.")) { whole } else { format!("{label}.{whole}") }
}

fn show(json: bool, member: &DaemonArguments) -> Outcome {
    let client = member.client()?;
    let challenges = block_on(async { Ok(client.challenges().await?) })?;
    if json {
        return terminal::print_json(&godwit_node::admin::api::Challenges { challenges });
    }
    let mut table = Table::new(&["NAME", "VALUE", "SET AT"]);
    for challenge in challenges {
        table.row(vec![challenge.name, challenge.value, challenge.member]);
    }
    terminal::print(&table.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_completed() {
        let check = |text, expected| assert_eq!(record_name(text, "edge.example.org"), expected, "{text}");
        check("www", "_acme-challenge.www.edge.example.org");
        check("WWW.edge.example.org.", "_acme-challenge.www.edge.example.org");
        check("_acme-challenge.www", "_acme-challenge.www.edge.example.org");
        check("@", "_acme-challenge.edge.example.org");
        check("*.apps", "_acme-challenge.apps.edge.example.org");
    }
}
