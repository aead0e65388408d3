//! A node with a program of its own in it, in place of `godwit run`: what takes uploads at a home address
//! and lets them move. All but the program is the node's own.

use super::client::PATIENCE;
use super::program::{Taking, Uploads};
use anyhow::{Context, Result, bail};
use clap::Args;
use godwit_node::{Config, Runtime, Settings};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::net::TcpListener;

/// Options of the node.
#[derive(Args)]
pub(crate) struct MemberOptions {
    /// The member's data directory; it has joined.
    #[arg(long)]
    data_dir: PathBuf,
    /// Where uploads are taken, once for each address.
    #[arg(long)]
    listen: Vec<SocketAddr>,
}

/// Runs the node until it is killed; says when it is ready.
pub(crate) fn run(options: MemberOptions) -> Result<()> {
    tokio::runtime::Builder::new_multi_thread().enable_all().build()?.block_on(async {
        let uploads = Arc::new(Uploads::default());
        let mut settings = Settings::new(options.data_dir, Config::default());
        settings.programs.push(Arc::new(Taking(uploads.clone())));
        let runtime = Runtime::start(settings).await?;
        println!("ready");
        for address in options.listen {
            tokio::spawn(uploads.clone().accept(bound(address).await?, known(&runtime).await?));
        }
        std::future::pending().await
    })
}

/// Listens at a home address, as soon as this host has it.
async fn bound(address: SocketAddr) -> Result<TcpListener> {
    let until = Instant::now() + PATIENCE;
    loop {
        match TcpListener::bind(address).await {
            Err(error) if Instant::now() > until => bail!("{address}: {error}"),
            Err(_) => tokio::time::sleep(Duration::from_millis(50)).await,
            Ok(listener) => return Ok(listener),
        }
    }
}

async fn known(runtime: &Runtime) -> Result<Arc<godwit_node::handoff::Connections>> {
    let until = Instant::now() + PATIENCE;
    let mobility = runtime.mobility().context("this member serves no home addresses")?;
    loop {
        match mobility.connections() {
            Some(connections) => return Ok(connections),
            None if Instant::now() > until => bail!("nothing is served at a home address"),
            None => tokio::time::sleep(Duration::from_millis(50)).await,
        }
    }
}
