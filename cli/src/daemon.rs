//! Talking to a running member, and waiting for it.

use crate::failure::{Classify, Exit, Failure, Outcome};
use anyhow::Context;
use godwit_core::name::{MemberName, SiteName, ZoneName};
use godwit_node::admin::{Client, ClientError, api};
use std::future::Future;

/// Runs one exchange with a daemon to its end.
pub(crate) fn block_on<T>(future: impl Future<Output = Outcome<T>>) -> Outcome<T> {
    tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(future)
}

/// With which exit code a failed exchange ends, and what to do next.
pub(crate) fn classify(error: &ClientError) -> (Exit, Option<&'static str>) {
    match error {
        ClientError::NotRunning { .. } => {
            (Exit::Failed, Some("or name another member with --data-dir DIR or --socket FILE"))
        }
        ClientError::Denied { .. } | ClientError::Transport(_) | ClientError::Answer(_) => {
            (Exit::Failed, None)
        }
        ClientError::Refused(refusal) => (exit_of(refusal.code), advice_of(refusal.code)),
    }
}

fn exit_of(code: api::Code) -> Exit {
    if code.is_refusal() {
        Exit::Refused
    } else if code.is_not_durable() {
        Exit::NotDurable
    } else {
        Exit::Failed
    }
}

fn advice_of(code: api::Code) -> Option<&'static str> {
    match code {
        api::Code::LowerVersion | api::Code::Lost => {
            Some("somebody else published meanwhile: look at `godwit status`, then publish again")
        }
        api::Code::Taken => {
            Some("take another name or address; `godwit status` and `godwit address list` show them")
        }
        api::Code::NotAllowed => {
            Some("the publisher's certificate does not cover this: ask the authority for another")
        }
        api::Code::Invalid => {
            Some("key and certificate must come from this network's authority (--publisher DIR)")
        }
        api::Code::Expired => {
            Some("check this machine's clock; if it is right, ask the authority for a new certificate")
        }
        api::Code::Revoked => Some("the authority took this certificate back: ask it for another"),
        api::Code::Full => Some("free space on the member's disk, then run this again: nothing was lost"),
        api::Code::Unavailable | api::Code::Incomplete | api::Code::NotDurable => Some("run this again"),
        api::Code::Malformed | api::Code::TooLarge | api::Code::NotFound => None,
    }
}

/// The site that a text names: `www`, or `www.edge.example.org` where that is the member's zone.
pub(crate) async fn site_of(client: &Client, text: &str) -> Outcome<SiteName> {
    if !text.trim_end_matches('.').contains('.') {
        return text
            .parse()
            .with_context(|| format!("{text:?} is not the name of a site"))
            .or_exit(Exit::Usage);
    }
    let zone: ZoneName = client.status().await?.zone.parse()?;
    zone.site_of(text).ok_or_else(|| Failure::usage(format!("{text} is not a name in the zone {zone}")))
}

/// The member of this name.
pub(crate) async fn member_named(client: &Client, name: &MemberName) -> Outcome<api::Member> {
    let status = client.status().await?;
    // A name that was given again belongs to the newest member.
    let newest = status
        .members
        .iter()
        .filter(|member| member.name == name.as_str())
        .max_by_key(|member| member.serial);
    newest.cloned().ok_or_else(|| {
        let names: Vec<&str> = status.members.iter().map(|member| member.name.as_str()).collect();
        Failure::usage(format!("no member is called {name}"))
            .advise(format!("members are {}", names.join(", ")))
    })
}
