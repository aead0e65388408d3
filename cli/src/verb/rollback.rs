//! `godwit rollback`: makes an earlier version of a site the next one.

use super::publish::{finish, regions, regions_line};
use crate::arguments::{MemberArguments, PublisherArguments};
use crate::authority::Publisher;
use crate::daemon::{block_on, site_of};
use crate::failure::{Failure, Outcome};
use crate::publish::wait::{Wait, Waited, submit_and_wait};
use crate::span::Span;
use crate::terminal;
use clap::Args;
use godwit_core::content::version::Draft;
use godwit_core::content::{SiteVersion, VersionNumber};
use godwit_core::name::SiteName;
use godwit_node::admin::Client;
use serde_json::json;

/// Go back to an earlier version of a site, as a new version
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  godwit rollback www
  godwit rollback www --to 7 --wait all

Nothing has to be sent: nodes keep superseded versions (`keep_versions` in the configuration).")]
pub(crate) struct Rollback {
    /// The site: the name before the zone, or all of its host name
    site: String,
    /// The version to go back to [default: the newest with other content than now]
    #[arg(long, value_name = "VERSION")]
    to: Option<u64>,
    /// Return when so many regions hold it on disk, or `all` nodes that are to keep it
    #[arg(long, value_name = "N|all", default_value_t = Wait::Regions(1))]
    wait: Wait,
    /// Wait no longer than this; the site is rolled back in any case
    #[arg(long, value_name = "SPAN", default_value = "5m")]
    timeout: Span,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    publisher: PublisherArguments,
    #[command(flatten)]
    member: MemberArguments,
}

impl Rollback {
    pub(crate) fn run(self) -> Outcome {
        let publisher = self.publisher.read()?;
        let client = self.member.client()?;
        let (site, target, version, waited) = block_on(self.roll_back(&client, &publisher))?;
        if self.json {
            terminal::print_json(&json!({
                "site": site,
                "version": version,
                "content_of": target,
                "regions_durable": regions(Some(&waited)),
                "durable": waited.not_yet.is_none(),
            }))?;
        } else {
            let regions = regions_line(Some(&waited));
            terminal::print(&format!(
                "{site} is version {version}, with the content of version {target}.{regions}"
            ))?;
        }
        finish(Some(&waited))
    }

    async fn roll_back(
        &self,
        client: &Client,
        publisher: &Publisher,
    ) -> Outcome<(SiteName, VersionNumber, VersionNumber, Waited)> {
        let site = site_of(client, &self.site).await?;
        self.wait.check_regions(&client.status().await?)?;
        let versions = client.versions(&site).await?;
        let (current, target) = choose(&site, &versions, self.to.map(VersionNumber))?;
        self.wait.check(current.policy.replicas)?;
        let draft = Draft {
            site: site.clone(),
            number: current.number.next(),
            root: target.root,
            files: target.files,
            bytes: target.bytes,
            policy: current.policy.clone(),
        };
        let now = godwit_node::clock::now();
        let version = SiteVersion::issue(now, &publisher.key, publisher.certificate.clone(), draft);
        let bar = terminal::progress(1, "spreading", false, self.json);
        let waited = submit_and_wait(client, &version, self.wait, self.timeout.0, &bar).await?;
        bar.finish_and_clear();
        Ok((site, target.number, version.number, waited))
    }
}

/// The current version and the one to go back to. `versions` are those kept, the newest first.
fn choose<'a>(
    site: &SiteName,
    versions: &'a [SiteVersion],
    to: Option<VersionNumber>,
) -> Outcome<(&'a SiteVersion, &'a SiteVersion)> {
    let Some((current, earlier)) = versions.split_first() else {
        return Err(Failure::usage(format!("{site} was never published")));
    };
    let target = match to {
        Some(number) => earlier.iter().find(|version| version.number == number),
        None => earlier.iter().find(|version| version.root != current.root),
    };
    let kept: Vec<String> = earlier.iter().map(|version| version.number.to_string()).collect();
    match (target, to) {
        (Some(target), _) => Ok((current, target)),
        (None, _) if kept.is_empty() => {
            Err(Failure::usage(format!("no version of {site} before {} is kept here", current.number))
                .advise("publish the earlier content again"))
        }
        (None, Some(number)) => Err(Failure::usage(format!("version {number} of {site} is not kept here"))
            .advise(format!("kept are {}", kept.join(", ")))),
        (None, None) => {
            Err(Failure::usage(format!("every version of {site} kept here has the present content"))
                .advise("publish the earlier content again"))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use godwit_core::certificate::{PublisherCertificate, Right, Serial, Validity};
    use godwit_core::content::{ObjectId, Policy};
    use godwit_core::key::SecretKey;
    use godwit_core::time::Time;

    fn version(number: u64, content: &str) -> SiteVersion {
        let key = SecretKey::from_seed(&[1; 32]);
        let validity = Validity { not_before: Time::from_secs(0), not_after: Time::NEVER };
        let rights = vec![Right::Publish];
        let certificate =
            PublisherCertificate::issue(&key, Serial(1), key.public(), String::new(), rights, validity);
        let draft = Draft {
            site: "www".parse().unwrap(),
            number: VersionNumber(number),
            root: ObjectId::of(content.as_bytes()),
            files: 1,
            bytes: 1,
            policy: Policy::default(),
        };
        SiteVersion::issue(Time::from_secs(number), &key, certificate, draft)
    }

    #[track_caller]
    fn check(versions: &[SiteVersion], to: Option<u64>, expected: Result<u64, &str>) {
        let site = "www".parse().unwrap();
        match (choose(&site, versions, to.map(VersionNumber)), expected) {
            (Ok((_, target)), Ok(number)) => assert_eq!(target.number.0, number),
            (Err(failure), Err(part)) => assert!(failure.to_string().contains(part), "{failure}"),
            (result, expected) => panic!("{:?}, not {expected:?}", result.map(|(_, target)| target.number)),
        }
    }

    #[test]
    fn the_newest_other_content_is_chosen_unless_told() {
        let versions = [version(5, "b"), version(4, "b"), version(3, "a"), version(2, "x")];
        check(&versions, None, Ok(3));
        check(&versions, Some(2), Ok(2));
        check(&versions, Some(1), Err("kept are 4, 3, 2"));
        check(&versions[..2], None, Err("has the present content"));
        check(&versions[..1], None, Err("is kept here"));
        check(&[], None, Err("never published"));
    }
}
