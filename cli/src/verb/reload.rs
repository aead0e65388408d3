//! `godwit reload`: has a running member, or a static zone's redirector, read its configuration again.

use crate::arguments::DaemonArguments;
use crate::daemon::block_on;
use crate::failure::Outcome;
use crate::terminal;
use clap::Args;

/// Have the running member, or a static zone's redirector, read its configuration again
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  godwit config check && godwit reload
  godwit redirector --static zone.toml --check && godwit reload --static zone.toml

The zone's contents, lifetimes of answers, addresses to listen on, limits, keys, certificates, log
level and GeoIP database are put in place without a lost or wrong answer; the rest takes effect at
the next start. A wrong file, or an address that cannot be had, changes nothing and is told here.
SIGHUP does the same, and tells in the log.")]
pub(crate) struct Reload {
    #[command(flatten)]
    member: DaemonArguments,
}

impl Reload {
    pub(crate) fn run(self) -> Outcome {
        let client = self.member.client()?;
        block_on(async { Ok(client.reload().await?) })?;
        terminal::print("the configuration was read again")
    }
}
