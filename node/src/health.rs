//! This member as a vantage: it checks others' services, and says how its own are to be checked.
//!
//! - [`config`]: `[health]` of the configuration, made into [`godwit_core::health::Check`]s.
//! - `watch`: follows the snapshots for whom to check, runs the checker, and gives what it finds to
//!   the member's machine, which tells everybody in its roster entry.
//! - `site`: the probe of the data path.
//! - `tell`: what was agreed, as metrics and log lines.
//!
//! What everybody agrees on is derived where snapshots are made ([`crate::snapshot`]), so that map,
//! status and metrics see one state.

pub mod config;
mod site;
mod tell;
mod watch;

pub use config::{HealthConfig, ServiceConfig};
pub use godwit_probe::config::{CheckConfig, CheckKind, WhenAllDown};
pub(crate) use site::SiteProbes;
pub(crate) use tell::HealthMetrics;
pub(crate) use watch::{Vantages, watch};
