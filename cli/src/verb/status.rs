//! `godwit status`: what a member knows of its network.

use crate::arguments::DaemonArguments;
use crate::daemon::block_on;
use crate::failure::Outcome;
use crate::span::about;
use crate::terminal::{self, Table};
use clap::Args;
use godwit_core::time::Time;
use godwit_node::admin::api;
use std::time::Duration;

/// Show the members, the sites and who holds which version
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  godwit status
  godwit status --static zone.toml
  godwit status --json | jq '.members[] | {name, region, state, sites, lag}'")]
pub(crate) struct Status {
    /// Print one JSON object
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    member: DaemonArguments,
}

impl Status {
    pub(crate) fn run(self) -> Outcome {
        let client = self.member.client()?;
        let status = block_on(async { Ok(client.status().await?) })?;
        if self.json {
            return terminal::print_json(&status);
        }
        terminal::print(&text(&status, godwit_node::clock::now()))
    }
}

fn text(status: &api::Status, now: Time) -> String {
    if status.is_static() {
        return of_static_zone(status, now);
    }
    let mut text = format!(
        "{} in {} ({}), zone {}: {}, {} of {} members connected, generation {}, up {}\n\n",
        status.name,
        status.region,
        status.software,
        status.zone,
        if status.ready { "ready" } else { "not ready" },
        status.connected,
        status.members.len().saturating_sub(1),
        status.generation,
        about(Duration::from_secs(status.uptime_seconds)),
    );
    text += &members(status, now).to_string();
    text += &checks(status, now);
    for difference in &status.differences {
        let groups: Vec<String> = difference.groups.iter().map(|names| names.join(", ")).collect();
        text += &format!("\nRedirectors differ in {}: {}\n", difference.setting, groups.join(" against "));
    }
    if status.untold_sites > 0 {
        text += &format!(
            "\n{} of the sites held here have no room in this member's entry: nobody is led here for them\n",
            status.untold_sites
        );
    }
    if !status.addresses.is_empty() {
        text += &format!("\n{}", super::address::table(&status.addresses));
    }
    text += &homes(status);
    if status.sites.is_empty() {
        text += "\nNo site is published yet: godwit publish DIR --to SITE\n";
    } else {
        text += &format!("\n{}", sites(status, now));
    }
    text
}

/// What is served at home addresses here, and its bindings; nothing where nothing is.
fn homes(status: &api::Status) -> String {
    if status.home_services.is_empty() {
        return String::new();
    }
    let mut services =
        Table::new(&["SERVED HERE", "ADDRESSES", "BY", "STATE", "WORKS", "FORWARDED", "PROBLEM"]);
    for service in &status.home_services {
        let addresses: Vec<String> = service.addresses.iter().map(ToString::to_string).collect();
        let moved = if service.moved_away { ", moved away" } else { "" };
        services.row(vec![
            service.name.clone(),
            shorten(&addresses),
            service.by.clone(),
            format!("{}{moved}", service.state),
            service.works.map_or("-", |works| if works { "yes" } else { "no" }).into(),
            service.forwarded.to_string(),
            service.problem.clone().unwrap_or_else(|| "-".into()),
        ]);
    }
    let mut bindings = Table::new(&["HOME ADDRESS", "CARE-OF", "HOME AGENT", "BINDING", "REPLIES"]);
    for binding in &status.home_bindings {
        let draining = if binding.draining { ", draining" } else { "" };
        bindings.row(vec![
            binding.home.to_string(),
            binding.care_of.clone(),
            binding.home_agent.clone(),
            format!("{}{draining}", binding.state),
            binding.replies.clone(),
        ]);
    }
    let bindings = if status.home_bindings.is_empty() { String::new() } else { format!("\n{bindings}") };
    format!("\n{services}{bindings}")
}

/// A static zone: its addresses, and what the checks of them find.
fn of_static_zone(status: &api::Status, now: Time) -> String {
    let mut table = Table::new(&["NAME", "REGION", "ADDRESS", "STATE"]);
    for member in &status.members {
        let v4 = member.addresses.v4.map(|address| address.to_string());
        let v6 = member.addresses.v6.map(|address| address.to_string());
        let addresses: Vec<String> = v4.into_iter().chain(v6).collect();
        let state = match (member.state.as_str(), member.draining) {
            ("alive", true) => "drain",
            ("alive", false) => "up",
            _ => "down",
        };
        table.row(vec![member.name.clone(), member.region.clone(), addresses.join(", "), state.into()]);
    }
    format!(
        "zone {} ({}), {} services, generation {}, up {}\n\n{table}{}",
        status.zone,
        status.software,
        status.sites.len(),
        status.generation,
        about(Duration::from_secs(status.uptime_seconds)),
        checks(status, now),
    )
}

fn members(status: &api::Status, now: Time) -> Table {
    let mut table = Table::new(&["MEMBER", "REGION", "ROLES", "STATE", "RTT", "LOAD", "SITES", "ENDS IN"]);
    for member in &status.members {
        let mut state = member.state.clone();
        if member.draining {
            state += ", draining";
        } else if member.state == "alive" && !member.ready {
            state += ", not ready";
        }
        let sites: Vec<String> = member
            .sites
            .iter()
            .map(|(site, held)| match member.lag.get(site) {
                Some(behind) => format!("{site} {held} ({behind} behind)"),
                None => format!("{site} {held}"),
            })
            .collect();
        let lacking = member.lag.keys().filter(|site| !member.sites.contains_key(*site));
        let sites: Vec<String> =
            sites.into_iter().chain(lacking.map(|site| format!("{site} none"))).collect();
        table.row(vec![
            member.name.clone(),
            member.region.clone(),
            member.roles.join(","),
            state,
            member.rtt_ms.map_or_else(|| "-".into(), |rtt| format!("{rtt:.1} ms")),
            format!("{:.0} %", member.load * 100.0),
            shorten(&sites),
            about(Time::from_millis(member.expires_at_ms).since(now)),
        ]);
    }
    table
}

/// What was agreed about services, and who says what; nothing where nobody checks anything.
fn checks(status: &api::Status, now: Time) -> String {
    let mut table = Table::new(&["CHECK OF", "CHECK", "STATE", "SINCE", "WHY", "VANTAGES"]);
    let mut rows = 0;
    for member in &status.members {
        for check in &member.checks {
            let finds = |vantage: &api::VantageStatus| {
                let latency = vantage.latency_ms.filter(|_| vantage.finds == "up");
                let latency = latency.map_or_else(String::new, |ms| format!(" {ms} ms"));
                let suspect = if vantage.suspect { " (sees all down)" } else { "" };
                format!("{} {}{latency}{suspect}", vantage.name, vantage.finds)
            };
            // The last one that changed its mind made the state what it is.
            let of_state = check.vantages.iter().filter(|vantage| vantage.finds == check.state);
            // Who has not looked yet says so since the beginning of time.
            let since = of_state.map(|vantage| vantage.since_ms).max().filter(|since| *since > 0);
            let since = since.map(|since| about(now.since(Time::from_millis(since))));
            let vantages: Vec<String> = check.vantages.iter().map(finds).collect();
            table.row(vec![
                member.name.clone(),
                check.name.clone(),
                check.state.clone(),
                since.unwrap_or_else(|| "-".into()),
                check.why.clone().unwrap_or_else(|| "-".into()),
                if vantages.is_empty() { "-".into() } else { vantages.join(", ") },
            ]);
            rows += 1;
        }
    }
    if rows == 0 { String::new() } else { format!("\n{table}") }
}

fn sites(status: &api::Status, now: Time) -> Table {
    let mut table = Table::new(&["SITE", "VERSION", "FILES", "SIZE", "REPLICAS", "ON DISK", "PUBLISHED"]);
    for site in &status.sites {
        let held = site.wanted.iter().filter(|name| site.holders.contains(name)).count();
        table.row(vec![
            site.name.clone(),
            site.version.to_string(),
            site.files.to_string(),
            terminal::bytes(site.bytes),
            site.replicas.clone(),
            format!("{held} of {}", site.wanted.len()),
            format!("{} ago", about(now.since(Time::from_millis(site.published_at_ms)))),
        ]);
    }
    table
}

/// The first three: a table is for people, `--json` has them all.
fn shorten(items: &[String]) -> String {
    match items {
        [] => "-".into(),
        [one, two, three, rest @ ..] if !rest.is_empty() => {
            format!("{one}, {two}, {three}, … {} more", rest.len())
        }
        items => items.join(", "),
    }
}
