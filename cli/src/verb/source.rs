//! Where a map comes from for those who do not run it: a static zone, or a member's data directory.

use super::config::FileArguments;
use crate::config::File;
use crate::failure::{Classify, Exit, Failure, Outcome};
use anyhow::Context;
use clap::Args;
use godwit_dns_plugin::{SharedView, Zone};
use godwit_map::{Generation, GeoDb, Inputs, Shared};
use godwit_redirector::DnssecConfig;
use godwit_redirector::static_zone::{Keeper, Prepared, StaticZone};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

/// How often it is looked whether the member has saved another map; it does so every 5 s.
const LOOK_PERIOD: Duration = Duration::from_secs(1);

/// Which map.
#[derive(Debug, Args)]
pub(crate) struct SourceArguments {
    /// The file of a static zone, in place of a member
    #[arg(long = "static", value_name = "FILE")]
    file: Option<PathBuf>,
    #[command(flatten)]
    member: FileArguments,
}

/// A map, and who keeps it up to date.
pub(crate) struct Source {
    pub(crate) view: SharedView,
    /// How its zone is signed.
    pub(crate) dnssec: DnssecConfig,
    keeper: Following,
}

enum Following {
    Static(Box<Keeper>),
    Member(Box<Member>),
}

/// A member's saved map.
struct Member {
    path: PathBuf,
    geo: GeoDb,
    generations: Shared,
    seen: Option<SystemTime>,
}

impl SourceArguments {
    /// Reads the map.
    pub(crate) fn open(&self) -> Outcome<Source> {
        if let Some(file) = &self.file {
            let prepared = Prepared::read(file).or_exit(Exit::Usage)?;
            let dnssec = prepared.dnssec().clone();
            let (view, keeper) = StaticZone::compile(prepared).or_exit(Exit::Usage)?.into_view();
            return Ok(Source { view, dnssec, keeper: Following::Static(Box::new(keeper)) });
        }
        let config = File::read(self.member.path()?.as_deref())?;
        let geo = match &config.map.geoip {
            Some(path) => GeoDb::open(path).or_exit(Exit::Usage)?,
            None => GeoDb::empty(),
        };
        let path = self.member.data_dir.dir()?.generation();
        let inputs = saved(&path).map_err(|failure| {
            failure.advise("a member saves its map once it runs; or name a static zone with --static FILE")
        })?;
        let seen = modified(&path);
        let generation = Generation::compute(&inputs, &geo, None);
        let options = config.redirector.options();
        let zone = Zone::configured(generation.zone(), options, &config.zone, 0).or_exit(Exit::Usage)?;
        let generations: Shared = Arc::new(arc_swap::ArcSwap::from_pointee(generation));
        let view = SharedView::new(generations.clone(), zone);
        let member = Member { path, geo, generations, seen };
        Ok(Source { view, dnssec: config.dnssec, keeper: Following::Member(Box::new(member)) })
    }
}

impl Source {
    /// Waits until a static zone's addresses were checked once, for at most some seconds: so that the
    /// first answer names none that is down. Within a Tokio runtime.
    pub(crate) async fn first_round(&mut self) {
        if let Following::Static(keeper) = &mut self.keeper {
            keeper.first_round().await;
        }
    }

    /// Follows what the map is made of, for ever.
    pub(crate) async fn follow(self) {
        match self.keeper {
            Following::Static(keeper) => keeper.run().await,
            Following::Member(mut member) => loop {
                tokio::time::sleep(LOOK_PERIOD).await;
                member.look();
            },
        }
    }
}

impl Member {
    fn look(&mut self) {
        let found = modified(&self.path);
        if found == self.seen {
            return;
        }
        self.seen = found;
        match saved(&self.path) {
            Ok(inputs) => {
                let previous = self.generations.load_full();
                self.generations.store(Arc::new(Generation::compute(&inputs, &self.geo, Some(&previous))));
            }
            Err(failure) => tracing::warn!("the map stays as it was: {failure}"),
        }
    }
}

fn saved(path: &Path) -> Outcome<Inputs> {
    let bytes = std::fs::read(path).with_context(|| format!("cannot read {}", path.display()))?;
    Inputs::from_bytes(&bytes)
        .with_context(|| format!("{} is of no use", path.display()))
        .map_err(Failure::from)
}

fn modified(path: &Path) -> Option<SystemTime> {
    std::fs::metadata(path).and_then(|metadata| metadata.modified()).ok()
}
