//! Where things lie on this machine, when nobody says otherwise.

use crate::failure::{Failure, Outcome};
use std::path::{Path, PathBuf};

/// The configuration file of a host, read when no other is named.
pub(crate) const SYSTEM_CONFIG: &str = "/etc/godwit/godwit.toml";

/// Name of the configuration file in a data directory; it goes before [`SYSTEM_CONFIG`].
pub(crate) const CONFIG_FILE: &str = "godwit.toml";

/// The authority directory: what is asked for, or `godwit` among the user's configuration.
pub(crate) fn authority_dir(asked: Option<&Path>) -> Outcome<PathBuf> {
    if let Some(dir) = asked {
        return Ok(dir.to_owned());
    }
    base("XDG_CONFIG_HOME", ".config").map(|base| base.join("godwit")).ok_or_else(|| {
        Failure::usage("there is no home directory to look for the authority in")
            .advise("name a directory with --authority DIR or GODWIT_AUTHORITY")
    })
}

/// The data directory: what is asked for; /var/lib/godwit for root; otherwise `godwit` among the
/// user's state.
pub(crate) fn data_dir(asked: Option<&Path>) -> Outcome<PathBuf> {
    if let Some(dir) = asked {
        return Ok(dir.to_owned());
    }
    if is_root() {
        return Ok(PathBuf::from("/var/lib/godwit"));
    }
    base("XDG_STATE_HOME", ".local/state").map(|base| base.join("godwit")).ok_or_else(|| {
        Failure::usage("there is no home directory to keep the member's data in")
            .advise("name a directory with --data-dir DIR or GODWIT_DATA_DIR")
    })
}

/// The configuration file to read: what is asked for, that of the data directory, the system's, or
/// none.
pub(crate) fn config_file(asked: Option<&Path>, data_dir: &Path) -> Option<PathBuf> {
    let candidates = [data_dir.join(CONFIG_FILE), PathBuf::from(SYSTEM_CONFIG)];
    asked.map(Path::to_owned).or_else(|| candidates.into_iter().find(|file| file.exists()))
}

fn base(variable: &str, under_home: &str) -> Option<PathBuf> {
    let set = |name: &str| std::env::var_os(name).map(PathBuf::from).filter(|path| path.is_absolute());
    set(variable).or_else(|| set("HOME").map(|home| home.join(under_home)))
}

fn is_root() -> bool {
    use std::os::unix::fs::MetadataExt;
    std::fs::metadata("/proc/self").is_ok_and(|process| process.uid() == 0)
}
