//! What a member knows, put into the words of [`super::api`].

use super::api::{self, Error};
use super::server::{Control, no_site};
use crate::agreement::groups;
use crate::metrics::state_name;
use crate::placement;
use crate::snapshot::{Known, Snapshot};
use godwit_core::agreement;
use godwit_core::announce::Announcement;
use godwit_core::certificate::{AddressGrant, Ports, Role};
use godwit_core::content::{ObjectId, Replicas, SiteVersion, VersionNumber};
use godwit_core::health::{Check, Opinion, Say, Target};
use godwit_core::key::MemberId;
use godwit_core::name::SiteName;
use godwit_core::wire;
use std::collections::{BTreeMap, BTreeSet};

/// For `GET /v1/status`.
pub(super) fn status(control: &Control) -> api::Status {
    let snapshot = control.snapshot();
    let wanted: BTreeMap<&SiteName, BTreeSet<MemberId>> =
        snapshot.sites.iter().map(|(site, version)| (site, placement::wanted(&snapshot, version))).collect();
    let own = snapshot.members.get(&control.own);
    let mut members: Vec<api::Member> =
        snapshot.members.iter().map(|(id, known)| member(&snapshot, &wanted, id, known)).collect();
    members.sort_by(|a, b| a.name.cmp(&b.name));
    let text = |of: fn(&Known) -> String| own.map(of).unwrap_or_default();
    api::Status {
        zone: control.zone.to_string(),
        network: control.network.to_string(),
        member: control.own.to_string(),
        name: text(|known| known.certificate.grant().name.to_string()),
        region: text(|known| known.certificate.grant().region.to_string()),
        ready: control.is_ready(),
        software: env!("CARGO_PKG_VERSION").to_owned(),
        incarnation: control.incarnation,
        generation: control.generation.load().number(),
        uptime_seconds: control.started.elapsed().as_secs(),
        connected: snapshot.members.values().filter(|known| known.connected).count() as u64,
        members,
        sites: snapshot.sites.values().map(|version| site_status(&snapshot, &wanted, version)).collect(),
        addresses: addresses(&snapshot),
        home_services: control.mobility.as_ref().map(|part| part.told().services.clone()).unwrap_or_default(),
        home_bindings: control.mobility.as_ref().map(|part| part.told().bindings.clone()).unwrap_or_default(),
        differences: snapshot.differences().iter().map(|one| difference(&snapshot, one)).collect(),
        untold_sites: snapshot.untold as u64,
    }
}

/// The home addresses that were not taken back.
fn addresses(snapshot: &Snapshot) -> Vec<api::AddressStatus> {
    let standing = snapshot.homes();
    let status = |grant: &AddressGrant| {
        let home = grant.home.as_ref()?;
        let (tcp, udp) = match &home.ports {
            Ports::All => (None, None),
            Ports::Only { tcp, udp } => (Some(tcp.clone()), Some(udp.clone())),
        };
        let announces = |(by, announced): (&MemberId, &Vec<Announcement>)| {
            let is_one = announced.iter().any(|one| home.addresses().any(|address| address == one.home));
            (is_one && snapshot.is_in_reach(by)).then(|| snapshot.name(by))
        };
        Some(api::AddressStatus {
            name: grant.name.to_string(),
            v4: home.v4,
            v6: home.v6,
            tcp,
            udp,
            members: home.servers.iter().map(ToString::to_string).collect(),
            sequence: grant.sequence,
            granted_at_ms: grant.granted_at.as_millis(),
            stands: standing.iter().any(|(name, _)| **name == grant.name),
            announced_by: snapshot.announced.iter().filter_map(announces).collect(),
        })
    };
    snapshot.addresses.values().filter_map(status).collect()
}

fn difference(snapshot: &Snapshot, difference: &agreement::Difference) -> api::Difference {
    api::Difference { setting: difference.name.clone(), groups: groups(snapshot, difference) }
}

fn member(
    snapshot: &Snapshot,
    wanted: &BTreeMap<&SiteName, BTreeSet<MemberId>>,
    id: &MemberId,
    known: &Known,
) -> api::Member {
    let grant = known.certificate.grant();
    let entry = known.entry.as_ref();
    let held: BTreeMap<String, u64> = entry
        .map(|entry| entry.held.iter().map(|(site, number)| (site.to_string(), number.0)).collect())
        .unwrap_or_default();
    let lag = |(site, version): (&SiteName, &SiteVersion)| {
        let holds = held.get(site.as_str()).copied().unwrap_or(0);
        let behind = version.number.0.saturating_sub(holds);
        let keeps = wanted.get(site).is_some_and(|wanted| wanted.contains(id));
        (keeps && behind > 0).then(|| (site.to_string(), behind))
    };
    api::Member {
        name: grant.name.to_string(),
        id: id.to_string(),
        serial: grant.serial.0,
        region: grant.region.to_string(),
        roles: grant.roles.iter().map(Role::to_string).collect(),
        state: state_name(known.state).to_owned(),
        draining: known.draining,
        ready: entry.is_some_and(|entry| entry.ready),
        addresses: api::Addresses {
            peer: entry.map(|entry| entry.peer_addresses.clone()).unwrap_or_default(),
            v4: entry.and_then(|entry| entry.public_v4),
            v6: entry.and_then(|entry| entry.public_v6),
            http_port: entry.and_then(|entry| entry.http_port),
        },
        lag: snapshot.sites.iter().filter_map(lag).collect(),
        sites: held,
        rtt_ms: known.rtt_us.map(|micros| f64::from(micros) / 1000.0),
        load: entry.map_or(0.0, |entry| f64::from(entry.load_permille) / 1000.0),
        software: entry.map(|entry| entry.software.clone()).unwrap_or_default(),
        expires_at_ms: grant.validity.not_after.as_millis(),
        checks: entry
            .map(|entry| entry.checks.iter().map(|one| check(snapshot, id, one)).collect())
            .unwrap_or_default(),
    }
}

fn check(snapshot: &Snapshot, member: &MemberId, check: &Check) -> api::CheckStatus {
    let target = Target { member: *member, check: check.name.clone() };
    let agreement = snapshot.health.get(&target);
    let says = agreement.map_or(&[][..], |agreement| &agreement.says);
    let vantage = |say: &Say| api::VantageStatus {
        name: snapshot
            .members
            .get(&say.by)
            .map_or_else(|| say.by.short().to_string(), |known| known.certificate.grant().name.to_string()),
        finds: say.opinion.as_str().to_owned(),
        since_ms: say.since.as_millis(),
        why: say.why.map(|why| why.to_string()),
        latency_ms: say.latency_ms,
        suspect: say.suspect,
    };
    let down = says.iter().filter(|say| say.opinion == Opinion::Down).find_map(|say| say.why);
    api::CheckStatus {
        name: check.name.to_string(),
        state: agreement.map(|agreement| agreement.state).unwrap_or_default().as_str().to_owned(),
        decided: agreement.is_some_and(|agreement| agreement.decided),
        why: down.map(|why| why.to_string()),
        sites: check.sites.iter().map(SiteName::to_string).collect(),
        vantages: says.iter().map(vantage).collect(),
    }
}

fn site_status(
    snapshot: &Snapshot,
    wanted: &BTreeMap<&SiteName, BTreeSet<MemberId>>,
    version: &SiteVersion,
) -> api::SiteStatus {
    let name = |known: &Known| known.certificate.grant().name.to_string();
    let holds = |known: &&Known| known.held(&version.site).is_some_and(|held| held >= version.number);
    let mut holders: Vec<String> = snapshot.members.values().filter(holds).map(name).collect();
    holders.sort();
    let wanted = wanted.get(&version.site).into_iter().flatten();
    let mut wanted: Vec<String> = wanted.filter_map(|id| snapshot.members.get(id)).map(name).collect();
    wanted.sort();
    api::SiteStatus {
        name: version.site.to_string(),
        version: version.number.0,
        files: version.files,
        bytes: version.bytes,
        replicas: replicas(version),
        published_at_ms: version.published_at.as_millis(),
        holders,
        wanted,
    }
}

/// For `GET /v1/sites/S`.
pub(super) fn site(control: &Control, site: &SiteName) -> Result<api::Site, Error> {
    let snapshot = control.snapshot();
    let version = snapshot.sites.get(site).ok_or_else(|| no_site(site))?;
    Ok(api::Site {
        site: site.to_string(),
        version: version.number.0,
        root: version.root.to_string(),
        files: version.files,
        bytes: version.bytes,
        replicas: replicas(version),
        published_at_ms: version.published_at.as_millis(),
        record: hex::encode(wire::encode(version)),
        history: control
            .held
            .versions(site)
            .iter()
            .filter(|held| held.number < version.number)
            .map(|held| hex::encode(wire::encode(held)))
            .collect(),
    })
}

/// For `GET /v1/sites/S/progress`.
pub(super) fn progress(
    control: &Control,
    site: &SiteName,
    number: Option<VersionNumber>,
    hash: Option<ObjectId>,
) -> Result<api::Progress, Error> {
    let snapshot = control.snapshot();
    let current = snapshot.sites.get(site).ok_or_else(|| no_site(site))?;
    let number = number.unwrap_or(current.number);
    let wanted = placement::wanted(&snapshot, current);
    let mut members: Vec<api::Holder> = snapshot
        .members
        .iter()
        .filter(|(id, known)| wanted.contains(id) || known.held(site).is_some())
        .map(|(id, known)| {
            let version = known.held(site);
            api::Holder {
                name: known.certificate.grant().name.to_string(),
                region: known.certificate.grant().region.to_string(),
                wanted: wanted.contains(id),
                version: version.map(|version| version.0),
                holds: version.is_some_and(|version| version >= number),
                state: state_name(known.state).to_owned(),
            }
        })
        .collect();
    members.sort_by(|a, b| a.name.cmp(&b.name));
    let holding = members.iter().filter(|member| member.holds);
    let regions: BTreeSet<String> = holding.map(|member| member.region.clone()).collect();
    Ok(api::Progress {
        site: site.to_string(),
        version: number.0,
        current: current.number.0,
        won: hash.and_then(|hash| (current.number == number).then(|| current.hash() == hash)),
        wanted: wanted.len() as u64,
        held: members.iter().filter(|member| member.wanted && member.holds).count() as u64,
        regions: regions.into_iter().collect(),
        members,
    })
}

fn replicas(version: &SiteVersion) -> String {
    match version.policy.replicas {
        Replicas::All => "all".to_owned(),
        Replicas::Count(count) => count.to_string(),
    }
}
