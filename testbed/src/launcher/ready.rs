//! Waiting until a testbed is of use: members live, members ready, redirectors that know all nodes.

use super::member::{Members, Namespaces};
use super::supervisor::Handle;
use crate::dns::{self, Kind};
use crate::http::Connection;
use crate::topology::{Role, Topology};
use anyhow::{Context, bail};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::{Duration, Instant};

/// A member that is not there after this long will not come: ten times what a busy machine needs.
const READY_WAIT_MAX: Duration = Duration::from_secs(90);

const LOOK_INTERVAL: Duration = Duration::from_millis(30);

/// Waits until the member's control endpoint answers.
pub(super) fn wait_live(members: &mut Members, host: usize, handle: &Handle) -> anyhow::Result<()> {
    let until = Instant::now() + READY_WAIT_MAX;
    wait(members, until, handle, |members| match is(members, host, "/livez") {
        true => Ok(()),
        false => Err(format!("{} does not answer at its control socket", members.name(host))),
    })
}

/// Waits until all members are ready and all redirectors answer for all nodes.
pub(super) fn wait_all(
    members: &mut Members,
    topology: &Topology,
    namespaces: Namespaces<'_>,
    handle: &Handle,
) -> anyhow::Result<()> {
    let until = Instant::now() + READY_WAIT_MAX;
    let all: Vec<usize> = members.all().collect();
    for host in &all {
        wait(members, until, handle, |members| match is(members, *host, "/readyz") {
            true => Ok(()),
            false => Err(format!("{} is not ready", members.name(*host))),
        })?;
    }
    for redirector in all.into_iter().filter(|host| topology.hosts[*host].role == Role::Redirector) {
        wait(members, until, handle, |members| knows_all_nodes(members, topology, redirector, namespaces))?;
    }
    Ok(())
}

fn wait(
    members: &mut Members,
    until: Instant,
    handle: &Handle,
    mut look: impl FnMut(&Members) -> Result<(), String>,
) -> anyhow::Result<()> {
    loop {
        handle.check_not_ending()?;
        if let Some((name, why)) = members.first_that_ended() {
            bail!("{name} ended: {why}");
        }
        match look(members) {
            Ok(()) => return Ok(()),
            Err(why) if Instant::now() > until => bail!("{why} after {} s", READY_WAIT_MAX.as_secs()),
            Err(_) => std::thread::sleep(LOOK_INTERVAL),
        }
    }
}

fn is(members: &Members, host: usize, path: &str) -> bool {
    let socket = members.layout(host).data_dir.join("admin.sock");
    status(&socket, path).is_ok_and(|status| status == 200)
}

fn status(socket: &Path, path: &str) -> anyhow::Result<u16> {
    let stream = UnixStream::connect(socket)?;
    stream.set_read_timeout(Some(Duration::from_secs(2)))?;
    let response = Connection::new(stream).get("localhost", path).context("no answer")?;
    Ok(response.status)
}

fn knows_all_nodes(
    members: &Members,
    topology: &Topology,
    redirector: usize,
    namespaces: Namespaces<'_>,
) -> Result<(), String> {
    let nodes = topology.hosts.iter().filter(|host| host.role == Role::Node);
    let names: Vec<String> = nodes.map(|host| format!("{}.node.{}", host.name, members.zone())).collect();
    let layout = members.layout(redirector);
    let (server, source) = (layout.dns(), layout.v4.into());
    // Asked inside the redirector's own host: no path is in the way.
    let unknown = namespaces.run(redirector, || {
        let unknown = names.iter().find(|name| {
            let answer = dns::ask(source, server, name, Kind::A, Duration::from_millis(500));
            !answer.is_ok_and(|answer| answer.code == 0 && !answer.addresses.is_empty())
        });
        Ok(unknown.cloned())
    });
    match unknown {
        Ok(None) => Ok(()),
        Ok(Some(name)) => Err(format!("{} does not answer for {name}", members.name(redirector))),
        Err(error) => Err(format!("{} cannot be asked: {error}", members.name(redirector))),
    }
}
