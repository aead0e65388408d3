//! The demo for the eye: tables and the closing words.

use super::client::Seen;
use super::moves::{Move, Moves};
use super::publish::Watched;
use super::report::{Report, WORSE_MS, best};
use crate::options::PortKind;
use crate::probe::{Look, SILENCE_MIN};
use crate::state::State;
use crate::topology::Role;

/// Left- and right-aligned columns with a header, two spaces between them.
fn table(header: &[(&str, Align)], rows: &[Vec<String>]) -> String {
    let width = |at: usize| {
        let cells = rows.iter().filter_map(|row| row.get(at)).map(|cell| cell.chars().count());
        cells.chain([header[at].0.chars().count()]).max().unwrap_or(0)
    };
    let line = |cells: &[String]| {
        let cells = cells.iter().enumerate().map(|(at, cell)| match header[at].1 {
            Align::Left => format!("{cell:<width$}", width = width(at)),
            Align::Right => format!("{cell:>width$}", width = width(at)),
        });
        format!("  {}\n", cells.collect::<Vec<_>>().join("  ").trim_end())
    };
    let names: Vec<String> = header.iter().map(|(name, _)| (*name).to_owned()).collect();
    let mut text = line(&names);
    text.push_str(&format!(
        "  {}\n",
        (0..header.len()).map(|at| "─".repeat(width(at))).collect::<Vec<_>>().join("  ")
    ));
    for row in rows {
        text.push_str(&line(row));
    }
    text.trim_end().to_owned()
}

#[derive(Clone, Copy)]
enum Align {
    Left,
    Right,
}
use Align::{Left, Right};

pub(super) fn members(state: &State) -> String {
    let count = |role| state.hosts.iter().filter(|host| host.role == role).count();
    format!(
        "{} nodes in {} regions, {} redirectors; clients in {} regions",
        count(Role::Node),
        state
            .hosts
            .iter()
            .filter(|host| host.role == Role::Node)
            .map(|host| &host.region)
            .collect::<std::collections::BTreeSet<_>>()
            .len(),
        count(Role::Redirector),
        state.regions.len()
    )
}

pub(super) fn looks(looks: &[Seen<Look>]) -> String {
    let rows: Vec<Vec<String>> = looks
        .iter()
        .map(|look| {
            let what = &look.what;
            let (nearest, best_ms) = best(what).unwrap_or(("-", f64::NAN));
            let optimal = what.rtt_ms <= best_ms + WORSE_MS;
            vec![
                look.region.clone(),
                what.resolved.first().map_or("-".into(), ToString::to_string),
                what.node.clone().unwrap_or_else(|| "-".into()),
                format!("{:.1} ms", what.rtt_ms),
                format!("{best_ms:.1} ms{}", if optimal { String::new() } else { format!(" ({nearest})") }),
                format!("{:.1} ms", what.first_byte_ms),
                what.version.clone().unwrap_or_else(|| "-".into()),
            ]
        })
        .collect();
    let header = [
        ("client in", Left),
        ("name resolved to", Left),
        ("node", Left),
        ("RTT to it", Right),
        ("best possible", Right),
        ("first byte", Right),
        ("version", Right),
    ];
    table(&header, &rows)
}

pub(super) fn visits(watched: &Watched) -> String {
    let rows: Vec<Vec<String>> = watched
        .clients
        .iter()
        .map(|client| {
            let what = &client.what;
            let saw = |version| what.versions.get(&version).copied().unwrap_or(0).to_string();
            vec![
                client.region.clone(),
                what.visits.to_string(),
                what.files.to_string(),
                saw(1),
                saw(2),
                what.mixed.to_string(),
                what.wrong.to_string(),
                what.failed.to_string(),
            ]
        })
        .collect();
    let header = [
        ("client in", Left),
        ("visits", Right),
        ("files", Right),
        ("saw version 1", Right),
        ("saw version 2", Right),
        ("saw a mixture", Right),
        ("wrong bytes", Right),
        ("failed", Right),
    ];
    let text = table(&header, &rows);
    format!("{text}\n\nVersion 2 was durable everywhere after {:.1} s.", watched.publish.seconds)
}

pub(super) fn moves(moves: &Moves) -> String {
    let row = |what: &str, one: &Move, lost: String| {
        vec![
            what.to_owned(),
            format!("{} → {}", one.from, one.to),
            format!("{:.0} → {:.0} ms", one.rtt_ms.0, one.rtt_ms.1),
            one.moved.to_string(),
            silence(one.silence_ms),
            lost,
        ]
    };
    let site = moves.site.iter().map(|one| row("download", one, "-".into()));
    let stream = moves.stream.iter().map(|one| row("datagrams", one, one.lost.to_string()));
    let rows: Vec<Vec<String>> = site.chain(stream).collect();
    let header = [
        ("what", Left),
        ("moved", Left),
        ("client's RTT", Right),
        ("flows", Right),
        ("longest silence", Right),
        ("datagrams lost", Right),
    ];
    let (download, echoes) = (&moves.download.what, &moves.echoes.what);
    let bytes = match (&download.error, download.intact) {
        (Some(error), _) => format!("broke: {error}"),
        (None, true) => "every byte right, no reset".into(),
        (None, false) => "NOT WHAT WAS PUBLISHED".into(),
    };
    format!(
        "{}\n\nThe download, {:.0} MB in {:.1} s over one TCP connection: {bytes}. Of {} datagrams {} were lost.",
        table(&header, &rows),
        download.octets as f64 / 1e6,
        download.seconds,
        echoes.sent,
        echoes.lost_at_ms.len(),
    )
}

pub(super) fn summary(report: &Report) -> String {
    let total = report.clients.len();
    let optimal = report
        .clients
        .iter()
        .filter(|client| best(&client.what).is_some_and(|(_, best)| client.what.rtt_ms <= best + WORSE_MS))
        .count();
    let visits: u64 = report.update.clients.iter().map(|client| client.what.visits).sum();
    let seconds = |value: Option<f64>| value.map_or("never".into(), |value| format!("{value:.1} s"));
    let mut text = format!(
        "\nSummary\n\
         \x20 {:.1} s  until all regions were up and answering\n\
         \x20 {:.1} s  until the site was durable on every node\n\
         \x20 {optimal} of {total}  clients were served by the closest node\n\
         \x20 {}  from kill -9 to DNS answers without the dead node, {} empty answers\n\
         \x20 {visits}  visits during the second publish, {} with a mixture of versions\n\
         {}\
         \x20 {:.0} s  for all of it\n",
        report.up_s,
        report.publish.seconds,
        seconds(report.crash.answers_changed_s),
        report.crash.empty_answers,
        report.update.clients.iter().map(|client| client.what.mixed).sum::<u64>(),
        report.moves.as_ref().map(moved).unwrap_or_default(),
        report.total_s,
    );
    if report.mode == PortKind::Loopback {
        text.push_str(
            "\nThere were no namespaces: all of it ran without delays, on the loopback interface.\n",
        );
    }
    if report.fabric.as_ref().is_some_and(|fabric| !fabric.valid) {
        text.push_str("\nThis machine was too busy to keep delays exactly: read times with care.\n");
    }
    for broken in &report.broken {
        text.push_str(&format!("\nNOT AS PROMISED: {broken}.\n"));
    }
    text + &how_to_go_on(report.mode, &report.zone)
}

/// Shorter ones are how packets come, and not noted.
fn silence(ms: f64) -> String {
    let least = SILENCE_MIN.as_millis();
    if ms > 0.0 { format!("{ms:.0} ms") } else { format!("< {least} ms") }
}

fn moved(moves: &Moves) -> String {
    let worst = |moves: &[Move]| moves.iter().map(|one| one.silence_ms).fold(0.0, f64::max);
    format!(
        "\x20 {:.0} ms  of silence at most in a download that moved {} times, {:.0} ms in 1,000 datagrams a second\n",
        worst(&moves.site),
        moves.site.len(),
        worst(&moves.stream),
    )
}

/// What can be tried next: programs inside hosts and cuts need namespaces.
fn how_to_go_on(mode: PortKind, zone: &str) -> String {
    let curl = format!("godwit testbed exec HOST -- curl http://www.{zone}/");
    let steps: &[(&str, &str)] = match mode {
        PortKind::Loopback => &[
            ("godwit testbed up", "such a network that stays"),
            ("godwit testbed status", "its hosts"),
            ("godwit testbed kill us-virginia-1", "a crash; start undoes it"),
            ("godwit testbed down", "nothing is left"),
        ],
        PortKind::Auto | PortKind::Tun | PortKind::Packet => &[
            ("godwit testbed up", "such a network that stays"),
            ("godwit testbed status", "its hosts"),
            (&curl, "any program, inside a host"),
            ("godwit testbed cut eu-frankfurt ap-tokyo", "break a path; heal mends it"),
            ("godwit testbed down", "nothing is left"),
        ],
    };
    let width = steps.iter().map(|(command, _)| command.len()).max().unwrap_or_default();
    let steps: String =
        steps.iter().map(|(command, what)| format!("  {command:width$}    {what}\n")).collect();
    format!(
        "\nHow to go on:\n{steps}And for real hosts: godwit init, invite, join, run, publish. See the README."
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_told_to_do_next_works_there() {
        let zone = "testbed.example";
        let (real, loopback) = (how_to_go_on(PortKind::Tun, zone), how_to_go_on(PortKind::Loopback, zone));
        assert!(real.contains("curl http://www.testbed.example/") && real.contains("testbed cut"), "{real}");
        assert!(!loopback.contains("curl") && !loopback.contains("cut"), "{loopback}");
    }
}
