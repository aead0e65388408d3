//! A zone from one file, served without anything else: see `docs/static.md`.
//!
//! ```text
//! cargo run -p godwit-redirector --example static -- zone.toml
//! ```
//!
//! SIGHUP reads the file again (and ends on a wrong one); Ctrl-C stops and prints the metrics.

use godwit_redirector::Redirector;
use godwit_redirector::static_zone::{Prepared, StaticZone};
use prometheus_client::registry::Registry;
use std::error::Error;
use std::path::PathBuf;
use tokio::signal::unix::{SignalKind, signal};

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let path = PathBuf::from(std::env::args().nth(1).ok_or("usage: static ZONE.toml")?);
    let mut hangups = signal(SignalKind::hangup())?;
    let zone = StaticZone::open(&path)?;
    let config = zone.config().clone();
    println!("{:?}", zone.generation());
    let (view, mut keeper) = zone.into_view();
    keeper.first_round().await;
    let control = keeper.control();
    let mut registry = Registry::default();
    let mut running = Redirector::start(config, view, &mut registry).await?;
    println!("answering on {:?}; Ctrl-C stops", running.addresses());
    let keeper = tokio::spawn(keeper.run());
    loop {
        tokio::select! {
            _ = hangups.recv() => {
                let prepared = Prepared::read(&path)?;
                running.reload(prepared.config())?;
                control.put(prepared).await?;
            }
            stopped = tokio::signal::ctrl_c() => break stopped?,
        }
    }
    keeper.abort();
    running.shutdown().await;
    let mut metrics = String::new();
    prometheus_client::encoding::text::encode(&mut metrics, &registry)?;
    println!("{metrics}");
    Ok(())
}
