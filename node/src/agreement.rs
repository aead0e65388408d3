//! Whether the zone's redirectors decide by the same settings: told by each, looked at by all.
//!
//! See [`godwit_core::agreement`]. A change reaches redirectors one after the other, so a difference
//! is worth a warning when it has lasted [`SETTLE`]; the metric and `godwit status` show it at once.

use crate::config::Config;
use crate::driver::Command;
use crate::snapshot::Snapshot;
use godwit_core::agreement::{Difference, Setting};
use godwit_core::member::Input;
use godwit_core::name::SiteName;
use prometheus_client::metrics::gauge::Gauge;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;

/// Files are copied and daemons reloaded within this time.
const SETTLE: Duration = Duration::from_secs(30);
/// How often it is looked whether a difference has lasted.
const LOOK_PERIOD: Duration = Duration::from_secs(5);

/// What the map of this member depends on beside what members tell, but for the database.
pub(crate) fn settings(config: &Config) -> Vec<Setting> {
    let map = &config.map;
    let closed: Vec<String> = config.closed().iter().map(SiteName::to_string).collect();
    vec![
        Setting::new("map.explore_epoch_secs", &map.explore_epoch_secs.to_be_bytes()),
        Setting::new("map.explore_permille", &map.explore_permille.to_be_bytes()),
        Setting::new("service.when_all_down", closed.join(" ").as_bytes()),
        // Another version may decide otherwise.
        Setting::new("software", env!("CARGO_PKG_VERSION").as_bytes()),
    ]
}

/// Tells the machine by what this member answers names, from when `answering` says that it does.
pub(crate) async fn tell(
    own: Vec<Setting>,
    mut answering: watch::Receiver<Option<Vec<Setting>>>,
    mut database: watch::Receiver<[u8; 32]>,
    commands: mpsc::Sender<Command>,
    stop: CancellationToken,
) {
    loop {
        let others = answering.borrow_and_update().clone();
        if let Some(others) = others {
            let mut settings = own.clone();
            settings.push(Setting::new("map.geoip", &*database.borrow_and_update()));
            settings.extend(others);
            if commands.send(Command::Input(Input::Settings(settings))).await.is_err() {
                return;
            }
        }
        let changed = tokio::select! {
            () = stop.cancelled() => return,
            changed = answering.changed() => changed,
            changed = database.changed() => changed,
        };
        if changed.is_err() {
            return;
        }
    }
}

/// Warns of redirectors whose settings differ, and shows how many settings do.
pub(crate) async fn watch(
    mut snapshots: watch::Receiver<Arc<Snapshot>>,
    differing: Gauge,
    stop: CancellationToken,
) {
    let mut look_at = tokio::time::interval(LOOK_PERIOD);
    let mut patience = Patience::default();
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            changed = snapshots.changed() => if changed.is_err() { return },
            _ = look_at.tick() => {}
        }
        let snapshot = snapshots.borrow_and_update().clone();
        let found = snapshot.differences();
        differing.set(found.len() as i64);
        for news in patience.look(Instant::now(), found) {
            match news {
                News::Differ(difference) => {
                    let who: Vec<String> =
                        groups(&snapshot, &difference).iter().map(|names| names.join(", ")).collect();
                    let who = who.join(" against ");
                    tracing::warn!(
                        setting = difference.name,
                        who,
                        "redirectors differ: clients are answered by whom they ask"
                    );
                }
                News::Agree(name) => tracing::info!(setting = name, "redirectors agree again"),
            }
        }
    }
}

/// Who has the same value, as names.
pub(crate) fn groups(snapshot: &Snapshot, difference: &Difference) -> Vec<Vec<String>> {
    let names = |group: &Vec<_>| {
        let mut names: Vec<String> = group.iter().map(|member| snapshot.name(member)).collect();
        names.sort();
        names
    };
    difference.groups.iter().map(names).collect()
}

/// Waits until a difference has lasted, and says it once.
#[derive(Default)]
struct Patience {
    found: Vec<(Difference, Instant, bool)>,
}

#[derive(Debug, PartialEq, Eq)]
enum News {
    Differ(Difference),
    Agree(String),
}

impl Patience {
    fn look(&mut self, now: Instant, found: Vec<Difference>) -> Vec<News> {
        let before = std::mem::take(&mut self.found);
        let mut news = Vec::new();
        for (old, _, said) in &before {
            if *said && found.iter().all(|new| new.name != old.name) {
                news.push(News::Agree(old.name.clone()));
            }
        }
        for difference in found {
            let known = before.iter().find(|(old, _, _)| *old == difference);
            let (since, mut said) = known.map_or((now, false), |(_, since, said)| (*since, *said));
            if !said && now.duration_since(since) >= SETTLE {
                news.push(News::Differ(difference.clone()));
                said = true;
            }
            self.found.push((difference, since, said));
        }
        news
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_difference_that_lasts_is_said_once_and_its_end_too() {
        let difference = || vec![Difference { name: "map.geoip".into(), groups: Vec::new() }];
        let (mut patience, start) = (Patience::default(), Instant::now());
        let mut look = |secs, found| patience.look(start + Duration::from_secs(secs), found);
        assert_eq!(look(0, difference()), []);
        assert_eq!(look(10, vec![]), [], "a rollout");
        assert_eq!(look(20, difference()), []);
        assert_eq!(look(49, difference()), []);
        assert_eq!(look(50, difference()), [News::Differ(difference().remove(0))]);
        assert_eq!(look(99, difference()), []);
        assert_eq!(look(100, vec![]), [News::Agree("map.geoip".into())]);
    }

    #[test]
    fn what_changes_the_map_is_told() {
        let told = |config: &Config| settings(config);
        let mut other = Config::default();
        other.map.explore_permille += 1;
        let names: Vec<String> = told(&Config::default())
            .into_iter()
            .zip(told(&other))
            .filter(|(a, b)| a != b)
            .map(|(a, _)| a.name)
            .collect();
        assert_eq!(names, ["map.explore_permille"]);
    }
}
