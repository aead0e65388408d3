//! `godwit reload`: has a running member read its configuration again.

use crate::arguments::MemberArguments;
use crate::daemon::block_on;
use crate::failure::Outcome;
use crate::terminal;
use clap::Args;

/// Have the running member read its configuration again
#[derive(Debug, Args)]
#[command(after_help = "\
Example:
  godwit config check && godwit reload

The zone's contents, lifetimes of answers, keys, certificates, log level and GeoIP database are put in
place without a lost or wrong answer; the rest takes effect at the next start. A wrong file changes
nothing and is told here. SIGHUP does the same, and tells in the log.")]
pub(crate) struct Reload {
    #[command(flatten)]
    member: MemberArguments,
}

impl Reload {
    pub(crate) fn run(self) -> Outcome {
        let client = self.member.client()?;
        block_on(async { Ok(client.reload().await?) })?;
        terminal::print("the configuration was read again")
    }
}
