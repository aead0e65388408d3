//! `godwit publish`: makes a directory the next version of a site.

use crate::arguments::{MemberArguments, PublisherArguments};
use crate::authority::Publisher;
use crate::daemon::{block_on, site_of};
use crate::failure::{Classify, Exit, Failure, Outcome};
use crate::publish::Problems;
use crate::publish::scan::{Scanned, scan};
use crate::publish::upload::{Uploaded, missing, upload};
use crate::publish::wait::{Wait, Waited, submit_and_wait};
use crate::publish::walk::{CaseClash, Walked, walk};
use crate::span::Span;
use crate::terminal;
use anyhow::Context;
use clap::Args;
use godwit_core::content::version::Draft;
use godwit_core::content::{Policy, Replicas, SiteVersion, VersionNumber};
use godwit_core::name::SiteName;
use godwit_core::upload::{Intent, Plan};
use godwit_node::admin::Client;
use serde_json::{Value, json};
use std::path::PathBuf;
use std::str::FromStr;
use std::sync::Arc;
use std::time::Instant;

/// Publish a directory as the next version of a site, all or nothing
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  godwit publish ./public --to www
  godwit publish ./public --to www --wait all
  godwit publish ./release --to dl --wait 2 --replicas 3 --json
  godwit publish ./public --to www --socket /tmp/forwarded.sock --publisher ./keys

It talks to the member on this host, or to one whose control socket ssh forwards. Only what the
member does not hold is sent. Clients see the old version or the new one, never a mixture.")]
pub(crate) struct Publish {
    /// The directory
    directory: PathBuf,
    /// The site: the name before the zone, or all of its host name
    #[arg(long = "to", value_name = "SITE")]
    site: String,
    /// Return when so many regions hold it on disk, or `all` nodes that are to keep it
    #[arg(long, value_name = "N|all", default_value_t = Wait::Regions(1))]
    wait: Wait,
    /// How many nodes keep the site, in different regions first [default: as before, at first all]
    #[arg(long, value_name = "N|all")]
    replicas: Option<ReplicaCount>,
    /// Wait no longer than this; the site is published in any case
    #[arg(long, value_name = "SPAN", default_value = "5m")]
    timeout: Span,
    /// Tell what would be sent, and change nothing
    #[arg(long)]
    dry_run: bool,
    /// Publish names that differ in case only
    #[arg(long)]
    allow_case_clash: bool,
    /// Publish a directory without any file: a site that has nothing to show
    #[arg(long)]
    allow_empty: bool,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    publisher: PublisherArguments,
    #[command(flatten)]
    member: MemberArguments,
}

/// `all` or a number of nodes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct ReplicaCount(Replicas);

impl FromStr for ReplicaCount {
    type Err = String;
    fn from_str(text: &str) -> Result<ReplicaCount, String> {
        match (text, text.parse()) {
            ("all", _) => Ok(ReplicaCount(Replicas::All)),
            (_, Ok(count)) if count > 0 => Ok(ReplicaCount(Replicas::Count(count))),
            _ => Err(format!("{text:?} is neither `all` nor a number of nodes")),
        }
    }
}

impl Publish {
    pub(crate) fn run(self) -> Outcome {
        let started = Instant::now();
        let publisher = self.publisher.read()?;
        let client = self.member.client()?;
        // Asked before an hour is spent on hashing.
        let site = block_on(async {
            let site = site_of(&client, &self.site).await?;
            self.wait.check_regions(&client.status().await?)?;
            Ok(site)
        })?;
        let scope = publisher.certificate.may_publish(&site);
        scope.or_exit(Exit::Refused).or_advise(|| "ask the authority for another certificate".into())?;
        let (walked, scanned) = self.scan()?;
        let report = block_on(self.send(&client, &publisher, &site, walked, scanned))?;
        self.print(&report, started)
    }

    fn scan(&self) -> Outcome<(Walked, Scanned)> {
        let clash = if self.allow_case_clash { CaseClash::Allow } else { CaseClash::Refuse };
        let mut problems = Problems::default();
        let walked = walk(&self.directory, clash, &mut problems)
            .with_context(|| format!("cannot read {}", self.directory.display()))
            .or_exit(Exit::Usage)?;
        if walked.files.is_empty() && !self.allow_empty {
            problems.check()?;
            let text = format!("{} has no files: clients would find nothing", self.directory.display());
            return Err(Failure::usage(text)
                .advise("nothing was published, the site is as before: name another directory, or allow it with --allow-empty"));
        }
        for surprise in &walked.surprises {
            eprintln!("note: {surprise:?} is published too");
        }
        let bytes = walked.files.iter().map(|file| file.len).sum();
        let bar = terminal::progress(bytes, "reading", true, self.json);
        let scanned = scan(&walked, &bar, &mut problems)?;
        bar.finish_and_clear();
        problems.check()?;
        Ok((walked, scanned.context("a directory without problems has a tree")?))
    }

    async fn send(
        &self,
        client: &Client,
        publisher: &Publisher,
        site: &SiteName,
        walked: Walked,
        scanned: Scanned,
    ) -> Outcome<Report> {
        let before = client.site(site).await?;
        let missing = missing(client, &scanned).await?;
        let missing_bytes =
            missing.iter().filter_map(|id| scanned.objects.get(id)).map(|source| source.object_len()).sum();
        let replicas = match (self.replicas, &before) {
            (Some(ReplicaCount(replicas)), _) => replicas,
            (None, Some(before)) => before.policy.replicas,
            (None, None) => Replicas::All,
        };
        self.wait.check(replicas)?;
        let draft = Draft {
            site: site.clone(),
            number: before.as_ref().map_or(VersionNumber(1), |before| before.number.next()),
            root: scanned.root,
            files: scanned.files,
            bytes: scanned.bytes,
            policy: Policy { replicas },
        };
        let mut report = Report {
            draft: draft.clone(),
            unchanged: before.is_some_and(|before| before.root == scanned.root),
            uploaded: Uploaded { objects: missing.len() as u64, bytes: missing_bytes },
            waited: None,
        };
        if self.dry_run {
            return Ok(report);
        }
        let bar = terminal::progress(missing_bytes, "sending", true, self.json);
        let plan = Plan {
            site: site.clone(),
            number: draft.number,
            policy: draft.policy.clone(),
            objects: report.uploaded.objects,
            bytes: report.uploaded.bytes,
        };
        let (now, certificate) = (godwit_node::clock::now(), &publisher.certificate);
        let intent = Intent::issue(now, &publisher.key, certificate.clone(), plan);
        report.uploaded = upload(client, &intent, Arc::new(walked), Arc::new(scanned), missing, &bar).await?;
        bar.finish_and_clear();
        let now = godwit_node::clock::now();
        let version = SiteVersion::issue(now, &publisher.key, publisher.certificate.clone(), draft);
        let bar = terminal::progress(1, "spreading", false, self.json);
        report.waited = Some(submit_and_wait(client, &version, self.wait, self.timeout.0, &bar).await?);
        bar.finish_and_clear();
        Ok(report)
    }

    fn print(&self, report: &Report, started: Instant) -> Outcome {
        let seconds = started.elapsed().as_secs_f64();
        let Report { draft, unchanged, uploaded, waited } = report;
        if self.json {
            terminal::print_json(&report.to_json(seconds))?;
        } else if waited.is_none() {
            terminal::print(&format!(
                "{} would become version {} with {}, {}; {}, {} would be sent.",
                draft.site,
                draft.number,
                terminal::count(draft.files, "file"),
                terminal::bytes(draft.bytes),
                terminal::count(uploaded.objects, "object"),
                terminal::bytes(uploaded.bytes)
            ))?;
        } else {
            let same = if *unchanged { " (the same content as before)" } else { "" };
            let mut text = format!(
                "{} is version {}{same}: {}, {}; {}, {} sent in {seconds:.1} s.",
                draft.site,
                draft.number,
                terminal::count(draft.files, "file"),
                terminal::bytes(draft.bytes),
                terminal::count(uploaded.objects, "object"),
                terminal::bytes(uploaded.bytes)
            );
            text += &regions_line(waited.as_ref());
            terminal::print(&text)?;
        }
        finish(waited.as_ref())
    }
}

/// What a publish came to.
struct Report {
    draft: Draft,
    unchanged: bool,
    uploaded: Uploaded,
    /// `None` when it was not published (`--dry-run`).
    waited: Option<Waited>,
}

impl Report {
    fn to_json(&self, seconds: f64) -> Value {
        json!({
            "site": self.draft.site,
            "version": self.draft.number,
            "published": self.waited.is_some(),
            "unchanged": self.unchanged,
            "files": self.draft.files,
            "bytes": self.draft.bytes,
            "uploaded_objects": self.uploaded.objects,
            "uploaded_bytes": self.uploaded.bytes,
            "regions_durable": regions(self.waited.as_ref()),
            "durable": self.waited.as_ref().is_some_and(|waited| waited.not_yet.is_none()),
            "seconds": (seconds * 1000.0).round() / 1000.0,
        })
    }
}

/// The regions that hold the version on disk.
pub(crate) fn regions(waited: Option<&Waited>) -> &[String] {
    waited.map_or(&[], |waited| &waited.progress.regions)
}

/// The line that tells where the version is.
pub(crate) fn regions_line(waited: Option<&Waited>) -> String {
    match regions(waited) {
        [] => String::new(),
        regions => format!("\nOn disk in {}.", regions.join(", ")),
    }
}

/// The exit code: 4 when it is not as durable as was asked for.
pub(crate) fn finish(waited: Option<&Waited>) -> Outcome {
    match waited.and_then(|waited| waited.not_yet.as_ref()) {
        Some(failure) => Err(Failure::new(Exit::NotDurable, anyhow::anyhow!("{}", failure.text()))
            .advise(failure.advice().unwrap_or_default())),
        None => Ok(()),
    }
}
