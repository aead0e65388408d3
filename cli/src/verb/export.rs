//! `godwit export`: the map as a file of another server.

use super::source::SourceArguments;
use crate::failure::{Failure, Outcome};
use anyhow::Context;
use clap::{Args, ValueEnum};
use godwit_core::name::SiteName;
use godwit_map::export;
use std::io::Write;
use std::path::PathBuf;

/// Write the map's choices as a file for gdnsd, Knot DNS or readers of MaxMind files
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  godwit export gdnsd-nets --site www --static zone.toml > nets
  godwit export knot-geoip --site www --name www.svc.example.org. -o knot.geo
  godwit export mmdb --site www -o map.mmdb

Without --static it is the map that a member saved last. docs/plugin.md shows how each file is used.")]
pub(crate) struct Export {
    /// The form of the file
    format: Format,
    /// The site or service whose choices it holds
    #[arg(long, value_name = "NAME")]
    site: SiteName,
    /// The name that Knot gets the records for [default: the site's name in the zone]
    #[arg(long, value_name = "NAME")]
    name: Option<String>,
    /// Write it there instead of to standard output
    #[arg(short, long, value_name = "FILE")]
    output: Option<PathBuf>,
    #[command(flatten)]
    source: SourceArguments,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Format {
    /// A `nets` file of gdnsd's geoip plugin
    GdnsdNets,
    /// A `config-file` of Knot's geoip module, subnet mode
    KnotGeoip,
    /// A MaxMind database
    Mmdb,
}

impl Export {
    pub(crate) fn run(self) -> Outcome {
        let source = self.source.open()?;
        let view = source.view.load();
        let (generation, site) = (&*view.generation, &self.site);
        let bytes = |exported: export::Exported<String>| export::Exported {
            content: exported.content.into_bytes(),
            prefixes: exported.prefixes,
            divided: exported.divided,
        };
        let exported = match self.format {
            Format::GdnsdNets => export::gdnsd_nets(generation, site).map(bytes),
            Format::KnotGeoip => {
                let name = self.name.clone().unwrap_or_else(|| format!("{site}.{}.", generation.zone()));
                export::knot_subnets(generation, site, &name).map(bytes)
            }
            Format::Mmdb => export::mmdb(generation, site),
        };
        let exported = exported.ok_or_else(|| Failure::usage(format!("there is no site {site}")))?;
        match &self.output {
            Some(path) => std::fs::write(path, &exported.content)
                .with_context(|| format!("cannot write {}", path.display()))?,
            None => std::io::stdout().write_all(&exported.content).context("cannot write")?,
        }
        eprintln!("{} prefixes, {} bytes", exported.prefixes, exported.content.len());
        if exported.divided > 0 {
            eprintln!(
                "{} of them are divided among several answers; here the heaviest stands for all",
                exported.divided
            );
        }
        Ok(())
    }
}
