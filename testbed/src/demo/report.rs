//! What the demo found, as one object; and whether the promises held.

use super::client::Seen;
use super::crash::Crash;
use super::moves::Moves;
use super::publish::{Published, Watched};
use crate::fabric;
use crate::probe::Look;
use crate::state::State;
use serde::Serialize;

/// A client may be this much farther from its node than from the nearest, ms: less is noise.
pub(crate) const WORSE_MS: f64 = 2.0;

/// The demo's findings.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Report {
    /// The zone.
    pub(crate) zone: String,
    /// How hosts were joined; `loopback` has no delays.
    pub(crate) mode: crate::PortKind,
    /// Until everything answered, seconds.
    pub(crate) up_s: f64,
    /// The first publish.
    pub(crate) publish: Published,
    /// What each region's client saw.
    pub(crate) clients: Vec<Seen<Look>>,
    /// The crash.
    pub(crate) crash: Crash,
    /// The second publish, under the eyes of clients.
    pub(crate) update: Watched,
    /// Services that moved; `None` where there were no home agents.
    pub(crate) moves: Option<Moves>,
    /// What the fabric did; `None` on loopback.
    pub(crate) fabric: Option<fabric::Report>,
    /// All of it, seconds.
    pub(crate) total_s: f64,
    /// Promises that did not hold.
    pub(crate) broken: Vec<String>,
}

impl Report {
    #[expect(clippy::too_many_arguments, reason = "one for each act of the demo")]
    pub(crate) fn new(
        state: &State,
        up_s: f64,
        publish: Published,
        clients: Vec<Seen<Look>>,
        crash: Crash,
        update: Watched,
        moves: Option<Moves>,
        fabric: Option<fabric::Report>,
        total_s: f64,
    ) -> Report {
        let zone = state.zone.clone();
        let mut report = Report {
            zone,
            mode: state.mode,
            up_s,
            publish,
            clients,
            crash,
            update,
            moves,
            fabric,
            total_s,
            broken: Vec::new(),
        };
        report.broken = report.judge();
        report
    }

    /// Whether every promise held.
    pub(crate) fn holds(&self) -> bool {
        self.broken.is_empty()
    }

    fn judge(&self) -> Vec<String> {
        let mut broken = Vec::new();
        for client in self.clients.iter().filter(|client| client.what.status != 200) {
            broken.push(format!("the client in {} got status {}", client.region, client.what.status));
        }
        if self.crash.answers_changed_s.is_none_or(|seconds| seconds > 5.0) {
            broken.push("the dead node was in DNS answers for more than 5 s".into());
        }
        if self.crash.served_again_s.is_none() {
            broken.push("the dead node's client was not served by another".into());
        }
        if self.crash.empty_answers > 0 {
            broken.push(format!("{} DNS answers were empty", self.crash.empty_answers));
        }
        let sum = |what: fn(&crate::probe::Visits) -> u64| -> u64 {
            self.update.clients.iter().map(|client| what(&client.what)).sum()
        };
        for (count, what) in [
            (sum(|visits| visits.mixed), "visits saw a mixture of versions"),
            (sum(|visits| visits.wrong), "files had wrong bytes"),
            (sum(|visits| visits.failed), "visits failed during the publish"),
        ] {
            if count > 0 {
                broken.push(format!("{count} {what}"));
            }
        }
        if let Some(moves) = &self.moves {
            let download = &moves.download.what;
            if let Some(error) = &download.error {
                broken.push(format!("the download ended early: {error}"));
            } else if !download.intact {
                broken.push("the download was not what was published".into());
            }
        }
        for client in self.update.clients.iter().filter(|client| !client.what.versions.contains_key(&2)) {
            broken.push(format!("the client in {} never saw version 2", client.region));
        }
        broken
    }
}

/// The nearest node and the round-trip time to it. Every figure is the shortest of a few; where the
/// client was served by the nearest, the measurement of that counts too.
pub(crate) fn best(look: &Look) -> Option<(&str, f64)> {
    let rtt = |(name, rtt): &(String, f64)| match look.node.as_ref() == Some(name) {
        true => rtt.min(look.rtt_ms),
        false => *rtt,
    };
    let nearest = look.nodes.iter().min_by(|a, b| rtt(a).total_cmp(&rtt(b)))?;
    Some((nearest.0.as_str(), rtt(nearest)))
}
