//! Orders that concern all keys of a zone: a conversion, an emergency, the end of signing.

use super::{Keys, WaitArguments, Which, add, refused, show};
use crate::failure::Outcome;
use crate::span::Span;
use crate::terminal;
use clap::{Args, Subcommand};
use godwit_core::time::Time;
use godwit_dns_plugin::dnssec::date::Date;
use godwit_dns_plugin::dnssec::rollover::convert::{self, Scheme};
use godwit_dns_plugin::dnssec::rollover::{emergency, unsign};
use godwit_dns_plugin::dnssec::{Algorithm, Role, Times};
use std::time::Duration;

/// One key for everything, or two.
#[derive(Debug, Args)]
pub(super) struct Convert {
    /// csk: one key; split: a KSK that the DS record points at and a ZSK that signs the zone
    scheme: Scheme,
    /// The new keys' algorithm [default: the old ones']
    #[arg(long)]
    algorithm: Option<Algorithm>,
    #[command(flatten)]
    waits: WaitArguments,
    #[command(flatten)]
    which: Which,
}

/// All keys anew.
#[derive(Debug, Args)]
#[command(after_help = "\
Example:
  godwit dnssec roll emergency

The old keys sign on until nobody depends on them: the zone stays valid for everybody all the time.
Whoever has the old keys can deceive validators until the parent's old DS record is out of caches,
and nothing that is done here ends that sooner. So in this order, without delay:
  1. godwit dnssec roll emergency   on a clean machine; copy the directory to all redirectors
  2. at the time that it tells, enter the new DS record at the registrar in place of the old one
  3. godwit dnssec roll ds-seen     when the parent has it, and it only; copy the directory again")]
pub(super) struct Emergency {
    /// Until every redirector has the changed files
    #[arg(long, value_name = "SPAN", default_value = "10m")]
    propagation: Span,
    /// The longest TTL of the zone's records
    #[arg(long, value_name = "SPAN", default_value = "1d")]
    zone_ttl: Span,
    #[command(flatten)]
    which: Which,
}

#[derive(Debug, Subcommand)]
pub(super) enum Unsign {
    /// Ask the parent to take the DS record away (CDS and CDNSKEY: delete); signatures stay
    #[command(after_help = "Example:\n  godwit dnssec unsign start")]
    Start(Which),
    /// The parent has no DS record any more: stop signing when no cache has it
    #[command(after_help = "Example:\n  godwit dnssec unsign ds-gone --ds-ttl 1d")]
    DsGone(DsGone),
    /// Stay signed after all
    #[command(after_help = "Example:\n  godwit dnssec unsign cancel")]
    Cancel(Which),
}

#[derive(Debug, Args)]
pub(super) struct DsGone {
    /// Until every redirector has the changed files
    #[arg(long, value_name = "SPAN", default_value = "1h")]
    propagation: Span,
    /// TTL that the zone's DS records had in the parent zone
    #[arg(long, value_name = "SPAN", default_value = "1d")]
    ds_ttl: Span,
    #[command(flatten)]
    which: Which,
}

impl Convert {
    pub(super) fn run(self, now: Time) -> Outcome {
        let (directory, _) = self.which.directory()?;
        let _lock = directory.lock()?;
        let mut keys = self.which.open()?;
        let algorithm = self.algorithm.unwrap_or(keys.algorithm());
        let waits = keys.waits(&self.waits, algorithm);
        let mut times = keys.times();
        let new = convert::start(now, self.scheme, &waits, &mut times).map_err(refused)?;
        keys.replace(&times, new, algorithm)?;
        if !self.which.json {
            terminal::print(&next_steps(&keys, now))?;
        }
        show::status(&keys, now, self.which.json)
    }
}

impl Emergency {
    pub(super) fn run(self, now: Time) -> Outcome {
        let (directory, _) = self.which.directory()?;
        let _lock = directory.lock()?;
        let mut keys = self.which.open()?;
        let algorithm = keys.algorithm();
        // The DS record's TTL counts from `ds-seen` on.
        let waits = WaitArguments {
            propagation: self.propagation,
            zone_ttl: self.zone_ttl,
            ds_ttl: Span(Duration::ZERO),
        };
        let waits = keys.waits(&waits, algorithm);
        let mut times = keys.times();
        let new = emergency::start(now, &waits, &mut times).map_err(refused)?;
        keys.replace(&times, new, algorithm)?;
        if !self.which.json {
            terminal::print(&next_steps(&keys, now))?;
        }
        show::status(&keys, now, self.which.json)
    }
}

impl Unsign {
    pub(super) fn run(self, now: Time) -> Outcome {
        let which = match &self {
            Unsign::Start(which) | Unsign::Cancel(which) => which,
            Unsign::DsGone(gone) => &gone.which,
        };
        let (directory, _) = which.directory()?;
        let _lock = directory.lock()?;
        let mut keys = which.open()?;
        let mut times = keys.times();
        let done = match &self {
            Unsign::Start(_) => {
                unsign::start(now, &mut times).map_err(refused)?;
                "The zone stays signed; CDS and CDNSKEY ask the parent to delete the DS record.".to_owned()
            }
            Unsign::DsGone(gone) => {
                let arguments = WaitArguments {
                    propagation: gone.propagation,
                    zone_ttl: Span(Duration::ZERO),
                    ds_ttl: gone.ds_ttl,
                };
                let waits = keys.waits(&arguments, keys.algorithm());
                let end = unsign::ds_gone(now, &waits, &mut times).map_err(refused)?;
                format!("The zone is unsigned from {} on.", Date(end))
            }
            Unsign::Cancel(_) => {
                unsign::cancel(now, &mut times).map_err(refused)?;
                "The zone stays signed. If the parent has no DS record, enter it: `godwit dnssec ds`."
                    .to_owned()
            }
        };
        keys.write(&times)?;
        if !which.json {
            terminal::print(&format!(
                "Copy {} to every redirector now.\n{done}",
                keys.directory.path().display()
            ))?;
        }
        show::status(&keys, now, which.json)
    }
}

impl Keys {
    /// Makes the keys `new`, and then lets the old ones have `times`: old ones that end without new
    /// ones would leave the zone bogus.
    fn replace(&mut self, times: &[(Role, Times)], new: Vec<(Role, Times)>, algorithm: Algorithm) -> Outcome {
        let mut added = Vec::new();
        for (role, times) in new {
            let others = [self.keys.as_slice(), &added].concat();
            added.push(add(&self.directory, &self.zone, algorithm, role, times, &others)?);
        }
        self.write(times)?;
        self.keys.extend(added);
        Ok(())
    }
}

fn next_steps(keys: &Keys, now: Time) -> String {
    let from = keys.keys.iter().filter_map(|stored| stored.key.times.ds_from).filter(|at| *at > now).max();
    let from = from.map_or_else(String::new, |at| format!("From {} on, e", Date(at)));
    format!(
        "Copy {} to every redirector now.\n{}nter the new DS record at the registrar in place of the old one\n\
         (a registry that reads CDS or CDNSKEY does that by itself); then: godwit dnssec roll ds-seen",
        keys.directory.path().display(),
        if from.is_empty() { "E" } else { &from },
    )
}
