//! Remembers where members are, for the next start.
//!
//! A join token names a few members. When those are gone for good, and everybody restarts at once,
//! the others have to find each other: so what the roster tells about addresses goes back into the
//! list of members to ask first.

use godwit_node::admin::{Client, api};
use godwit_node::datadir::DataDir;
use std::net::SocketAddr;
use std::time::Duration;

/// How often the list is looked at. It is written only when it changed.
const EVERY: Duration = Duration::from_secs(5);

/// At most so many addresses are kept: any one that answers is enough.
const ADDRESSES_MAX: usize = 64;

/// Keeps the list up to date for as long as it is polled.
pub(crate) async fn members(client: Client, dir: DataDir) {
    loop {
        tokio::time::sleep(EVERY).await;
        // The daemon is this process: it does not answer while it starts and stops.
        let Ok(status) = client.status().await else { continue };
        let Ok(before) = dir.bootstrap() else { continue };
        let after = merge(&status, &before);
        if after != before
            && let Err(error) = dir.write_bootstrap(&after)
        {
            tracing::warn!(%error, "cannot remember where members are");
        }
    }
}

/// The first address of each other member, then what was known before.
fn merge(status: &api::Status, before: &[SocketAddr]) -> Vec<SocketAddr> {
    let own = status.members.iter().find(|member| member.id == status.member);
    let is_own = |address: &SocketAddr| own.is_some_and(|own| own.addresses.peer.contains(address));
    let gone = |member: &&api::Member| matches!(member.state.as_str(), "revoked" | "expired");
    let members = status.members.iter().filter(|member| member.id != status.member && !gone(member));
    let mut after: Vec<SocketAddr> = Vec::new();
    for address in members.filter_map(|member| member.addresses.peer.first()).chain(before) {
        if after.len() < ADDRESSES_MAX && !after.contains(address) && !is_own(address) {
            after.push(*address);
        }
    }
    after
}

#[cfg(test)]
mod tests {
    use super::*;

    fn status(members: &[(&str, &str, &str)]) -> api::Status {
        let member = |(id, state, address): &(&str, &str, &str)| {
            serde_json::json!({
                "name": id, "id": id, "serial": 1, "region": "r", "roles": [], "state": state,
                "draining": false, "ready": true, "sites": {}, "lag": {}, "rtt_ms": null, "load": 0.0,
                "addresses": { "peer": [address], "v4": null, "v6": null, "http_port": null },
                "software": "", "expires_at_ms": 0,
            })
        };
        let members: Vec<_> = members.iter().map(member).collect();
        serde_json::from_value(serde_json::json!({
            "zone": "z", "network": "n", "member": "me", "name": "me", "region": "r", "ready": true,
            "software": "", "incarnation": 1, "generation": 1, "uptime_seconds": 1, "connected": 0,
            "members": members, "sites": [],
        }))
        .unwrap()
    }

    #[test]
    fn known_members_come_first_and_what_was_known_stays() {
        let status = status(&[
            ("a", "alive", "192.0.2.1:1"),
            ("me", "alive", "192.0.2.2:2"),
            ("gone", "revoked", "192.0.2.3:3"),
            ("b", "unreachable", "192.0.2.4:4"),
        ]);
        let before = ["192.0.2.9:9", "192.0.2.1:1", "192.0.2.2:2"].map(|address| address.parse().unwrap());
        let after: Vec<String> = merge(&status, &before).iter().map(ToString::to_string).collect();
        assert_eq!(after, ["192.0.2.1:1", "192.0.2.4:4", "192.0.2.9:9"]);
        let again = merge(&status, &merge(&status, &before));
        assert_eq!(again, merge(&status, &before), "it settles");
    }
}
