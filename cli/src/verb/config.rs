//! `godwit config check|show|schema`.

use crate::arguments::DataDirArguments;
use crate::config::File;
use crate::failure::Outcome;
use crate::{place, terminal};
use clap::{Args, Subcommand};
use std::path::PathBuf;

/// Check or show the configuration of a member, or describe every key
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  godwit config check --config /etc/godwit/godwit.toml
  godwit config show
  godwit config schema > godwit.schema.json

The file is the one named with --config, or godwit.toml in the data directory, or
/etc/godwit/godwit.toml. Without any, the defaults hold. `check` exits with 2 when the file is wrong.")]
pub(crate) struct Config {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// Read the file and tell what is wrong with it
    #[command(after_help = "Example:\n  godwit config check --config /etc/godwit/godwit.toml")]
    Check(FileArguments),
    /// Print the configuration in force, defaults included
    #[command(after_help = "Examples:\n  godwit config show\n  godwit config show --json")]
    Show {
        #[command(flatten)]
        file: FileArguments,
        /// Print it as JSON
        #[arg(long)]
        json: bool,
    },
    /// Print the JSON schema: every key, its meaning and its default
    #[command(after_help = "Example:\n  godwit config schema > godwit.schema.json")]
    Schema,
}

/// Which file to read.
#[derive(Debug, Args)]
pub(crate) struct FileArguments {
    /// The configuration file [default: godwit.toml in the data directory, then
    /// /etc/godwit/godwit.toml]
    #[arg(long, value_name = "FILE", env = "GODWIT_CONFIG")]
    config: Option<PathBuf>,
    #[command(flatten)]
    pub(crate) data_dir: DataDirArguments,
}

impl FileArguments {
    /// The file meant, if there is one.
    pub(crate) fn path(&self) -> Outcome<Option<PathBuf>> {
        Ok(place::config_file(self.config.as_deref(), self.data_dir.dir()?.path()))
    }
}

impl Config {
    pub(crate) fn run(self) -> Outcome {
        match self.action {
            Action::Check(file) => {
                let path = file.path()?;
                // A host that has not joined has no zone yet, and what is in it is checked later.
                let zone = file.data_dir.dir()?.identity().ok();
                let zone = zone.as_ref().map(|identity| &identity.certificate.grant().zone);
                File::read_for(path.as_deref(), zone)?;
                match path {
                    Some(path) => terminal::print(&format!("{} is right", path.display())),
                    None => terminal::print("there is no configuration file: the defaults hold"),
                }
            }
            Action::Show { file, json } => {
                let config = File::read(file.path()?.as_deref())?;
                if json { terminal::print_json(&config) } else { terminal::print(&config.to_toml()?) }
            }
            Action::Schema => terminal::print_json(&schemars::schema_for!(File)),
        }
    }
}
