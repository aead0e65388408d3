//! `godwit reload`: has a running member, or a static zone's redirector, read its configuration again.

use crate::arguments::DaemonArguments;
use crate::daemon::block_on;
use crate::failure::{Exit, Failure, Outcome};
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
        let kept = block_on(async { Ok(client.reload().await?) })?;
        if !kept.is_empty() {
            let text = format!("the configuration was read again, but {}", kept.join("; "));
            return Err(Failure::new(Exit::Failed, anyhow::anyhow!(text))
                .advise("mend that file and reload again; what was there before is in use until then"));
        }
        terminal::print("the configuration was read again")
    }
}
