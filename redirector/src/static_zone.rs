//! A zone from one file, without a network of members: *static mode*.
//!
//! ```toml
//! origin = "svc.example.org"
//!
//! [[region]]
//! name = "eu"
//! addresses = ["192.0.2.1", "2001:db8::1"]
//!
//! [[region]]
//! name = "us"
//! addresses = ["198.51.100.1"]
//!
//! [[service]]
//! name = "www"
//!
//! [clients]
//! geoip = "GeoLite2-Country.mmdb"
//! continent.NA = ["us", "eu"]
//! default = ["eu", "us"]
//! ```
//!
//! The file says what a network's members would have said of themselves, and the rest is the same
//! machinery: a region's addresses become members, a service becomes a site that needs no content,
//! the rules for clients become a [`GeoDb`], and the map computes a generation from them. So the
//! choice, its scope, its reasons and what happens when a region is away are those of the map.
//!
//! - [`file`]: the file's form; what is wrong with it is told with line and column.
//! - [`lists`]: names and prefixes that stand in files of their own.
//! - [`plan`]: the file checked, and turned into the map's inputs.
//! - [`checks`]: whether addresses work, found out from here.
//! - [`state`]: which regions and addresses are drained or down, now.
//! - [`challenges`]: values for certificate authorities; [`durable`]: how either is kept.
//! - [`keeper`]: follows file, lists and state while the zone is served, and does what is asked of it.
//! - [`health`]: metrics of the checks.

mod challenges;
mod checks;
mod durable;
mod file;
mod health;
mod keeper;
mod lists;
mod plan;
mod problem;
mod state;

pub use keeper::{Control, Keeper, Standing};
pub use plan::{ControlSocket, Plan};
pub use problem::Problem;
pub use state::State;

use crate::{Config, DnssecConfig};
use arc_swap::ArcSwap;
use godwit_dns_plugin::{SharedView, View, Zone};
use godwit_map::{Generation, GeoDb, Shared};
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;

/// A zone's file and everything it names, read and checked.
pub struct Prepared {
    /// What was read, without what only the first generation needs.
    plan: Plan,
    geo: GeoDb,
    zone: Zone,
}

impl Prepared {
    /// Reads the zone's file and everything it names. Blocks: a second for a million prefixes.
    pub fn read(path: &Path) -> Result<Prepared, Problem> {
        godwit_net::memory::expect_large_blocks_once();
        let mut plan = Plan::read(path)?;
        let geo = plan.take_geo()?;
        // For its problems; it is read again when it is heeded.
        plan.states()?;
        let zone = plan.take_zone()?;
        // Long lists were read; of them only what they were compiled to is left.
        godwit_net::memory::give_back();
        Ok(Prepared { plan, geo, zone })
    }

    /// What the file says about listening and answering.
    pub fn config(&self) -> &Config {
        &self.plan.redirector
    }

    /// What the file says about signing: for [`crate::Signing::start`] on the view.
    pub fn dnssec(&self) -> &DnssecConfig {
        &self.plan.dnssec
    }

    /// Where the file wants metrics served: for [`crate::Monitor::listen`].
    pub fn metrics_listen(&self) -> Option<SocketAddr> {
        self.plan.metrics_listen
    }

    /// Where the redirector is controlled.
    pub fn control_socket(&self) -> &ControlSocket {
        &self.plan.control
    }
}

/// A static zone, read and compiled.
pub struct StaticZone {
    plan: Plan,
    geo: GeoDb,
    /// Of the regions and addresses as they are now.
    view: View,
}

impl StaticZone {
    /// Reads the zone's file and everything it names, and compiles it. Blocks: a second for a
    /// million prefixes.
    pub fn open(path: &Path) -> Result<StaticZone, Problem> {
        StaticZone::compile(Prepared::read(path)?)
    }

    /// Compiles what was read.
    pub fn compile(prepared: Prepared) -> Result<StaticZone, Problem> {
        let Prepared { plan, geo, zone } = prepared;
        let states = plan.states()?;
        let generation = Generation::compute(&states.apply(plan.inputs()), &geo, None);
        godwit_net::memory::give_back();
        Ok(StaticZone { plan, geo, view: View::new(Arc::new(generation), Arc::new(zone)) })
    }

    /// What the file says about listening and answering.
    pub fn config(&self) -> &Config {
        &self.plan.redirector
    }

    /// The map, compiled from the file.
    pub fn generation(&self) -> &Generation {
        &self.view.generation
    }

    /// What is answered from.
    pub fn view(&self) -> &View {
        &self.view
    }

    /// The zone's view, and who keeps it up to date. Its checks begin with [`Keeper::first_round`].
    pub fn into_view(self) -> (SharedView, Keeper) {
        let StaticZone { plan, geo, view } = self;
        let generations: Shared = Arc::new(ArcSwap::new(view.generation));
        let view = SharedView::new(generations.clone(), Zone::clone(&view.zone));
        (view.clone(), Keeper::new(plan, geo, generations, view))
    }
}
