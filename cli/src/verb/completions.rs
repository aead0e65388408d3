//! `godwit completions`.

use crate::arguments::Arguments;
use crate::failure::Outcome;
use crate::terminal;
use clap::{Args, CommandFactory};
use clap_complete::Shell;

/// Print completions for a shell
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  godwit completions bash > /etc/bash_completion.d/godwit
  godwit completions zsh > ~/.zfunc/_godwit
  godwit completions fish > ~/.config/fish/completions/godwit.fish")]
pub(crate) struct Completions {
    /// The shell
    shell: Shell,
}

impl Completions {
    pub(crate) fn run(self) -> Outcome {
        let mut script = Vec::new();
        clap_complete::generate(self.shell, &mut Arguments::command(), "godwit", &mut script);
        terminal::print(&String::from_utf8_lossy(&script))
    }
}
