//! `godwit pdns-backend`: answers PowerDNS's remote backend.

use super::run::start_logging;
use super::source::SourceArguments;
use crate::config::LogFormat;
use crate::failure::{Classify, Exit, Outcome};
use anyhow::Context;
use clap::Args;
use godwit_dns_plugin::{SharedView, remote};
use godwit_node::clock;
use godwit_redirector::Signing;
use prometheus_client::registry::Registry;
use std::path::{Path, PathBuf};
use tokio::io::{AsyncBufReadExt, AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, BufReader};
use tokio::net::UnixListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::Semaphore;

/// PowerDNS opens a connection for each of its threads: more than this are not PowerDNS.
const CONNECTIONS_MAX: usize = 256;

/// Answer the remote backend of a PowerDNS server from the map
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  godwit pdns-backend --socket /run/godwit/pdns.sock --static zone.toml
  godwit pdns-backend --socket /run/godwit/pdns.sock --data-dir /var/lib/godwit

and in PowerDNS:
  launch=remote
  remote-connection-string=unix:path=/run/godwit/pdns.sock
  edns-subnet-processing=yes

With keys, PowerDNS signs: remote-connection-string as above, and remote-dnssec=yes.

docs/plugin.md tells more. Without --static the map is the one that the member in the data directory
saved last; it is looked at every second.")]
pub(crate) struct PdnsBackend {
    /// Listen on this unix socket
    #[arg(long, value_name = "FILE", required_unless_present = "pipe", conflicts_with = "pipe")]
    socket: Option<PathBuf>,
    /// Read requests from standard input and answer on standard output, as a coprocess of PowerDNS
    #[arg(long)]
    pipe: bool,
    #[command(flatten)]
    source: SourceArguments,
    /// The directory of keys that PowerDNS signs with [default: `[dnssec] keys` of the zone's file or
    /// of the configuration]
    #[arg(long, value_name = "DIR")]
    keys: Option<PathBuf>,
    /// What to log, to standard error, in place of RUST_LOG
    #[arg(long, value_name = "FILTER")]
    log: Option<String>,
}

impl PdnsBackend {
    pub(crate) fn run(self) -> Outcome {
        start_logging(self.log.as_deref(), "warn", LogFormat::Text)?;
        let mut source = self.source.open()?;
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
        let view = source.view.clone();
        let mut dnssec = source.dnssec.clone();
        dnssec.keys = self.keys.clone().or(dnssec.keys);
        let result = runtime.block_on(async {
            source.first_round().await;
            let _signing = Signing::start(&dnssec, &view, &mut Registry::default())
                .context("the zone cannot be signed")
                .or_exit(Exit::Usage)?;
            let follow = tokio::spawn(source.follow());
            let result = match &self.socket {
                Some(path) => listen(path, view).await,
                None => tokio::task::spawn_blocking(move || pipe(&view)).await?.map_err(Into::into),
            };
            follow.abort();
            result
        });
        runtime.shutdown_background();
        result
    }
}

async fn listen(path: &Path, view: SharedView) -> Outcome {
    // A socket that was left behind by one that was killed; one that is in use answers.
    if tokio::net::UnixStream::connect(path).await.is_err() && path.exists() {
        std::fs::remove_file(path).with_context(|| format!("cannot replace {}", path.display()))?;
    }
    let listener =
        UnixListener::bind(path).with_context(|| format!("cannot listen on {}", path.display()))?;
    let places = std::sync::Arc::new(Semaphore::new(CONNECTIONS_MAX));
    let (mut terminate, mut interrupt) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            _ = terminate.recv() => break,
            _ = interrupt.recv() => break,
        };
        let Ok((stream, _)) = accepted else {
            tokio::time::sleep(std::time::Duration::from_millis(100)).await;
            continue;
        };
        let Ok(place) = places.clone().try_acquire_owned() else { continue };
        let view = view.clone();
        tokio::spawn(async move {
            let (reader, writer) = stream.into_split();
            if let Err(error) = serve(reader, writer, &view).await {
                tracing::debug!(%error, "connection ended");
            }
            drop(place);
        });
    }
    // Whoever comes now would wait for nobody.
    let _ = std::fs::remove_file(path);
    Ok(())
}

/// Answers standard input on standard output until it ends.
fn pipe(view: &SharedView) -> std::io::Result<()> {
    use std::io::{BufRead, Read, Write};
    let (mut input, mut output) = (std::io::stdin().lock(), std::io::stdout().lock());
    let mut line = String::new();
    loop {
        line.clear();
        if input.by_ref().take(remote::REQUEST_LEN_MAX as u64).read_line(&mut line)? == 0 {
            return Ok(());
        }
        writeln!(output, "{}", remote::reply(clock::now(), &view.load(), &line))?;
        output.flush()?;
    }
}

/// Answers line by line until the other side ends.
async fn serve(
    reader: impl AsyncRead + Unpin,
    mut writer: impl AsyncWrite + Unpin,
    view: &SharedView,
) -> std::io::Result<()> {
    let mut reader = BufReader::new(reader);
    let mut line = String::new();
    loop {
        line.clear();
        let max = remote::REQUEST_LEN_MAX as u64;
        if (&mut reader).take(max).read_line(&mut line).await? == 0 {
            return Ok(());
        }
        let mut reply = remote::reply(clock::now(), &view.load(), &line);
        reply.push('\n');
        writer.write_all(reply.as_bytes()).await?;
        writer.flush().await?;
    }
}
