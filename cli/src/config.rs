//! The configuration file: TOML, composed of the parts' own sections, everything optional.
//!
//! A file is read whole and checked whole before anything starts. What is wrong is told with file,
//! line and column. Unknown keys are errors, so that a typing error does not silently leave a
//! default in force.

use crate::failure::{Exit, Failure, Outcome};
use godwit_core::certificate::Role;
use godwit_core::name::{SiteName, ZoneName};
use godwit_dns_plugin::zone::config::ZoneConfig;
use godwit_node::config as node;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};

/// The longest configuration file, bytes: a hundred times what a real one has.
const FILE_LEN_MAX: u64 = 1024 * 1024;

/// The configuration of a member. Every key has a default.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct File {
    /// Which roles run here, of those that the certificate allows: `node`, `redirector`, `home-agent`. Not set:
    /// all of them.
    #[schemars(with = "Option<Vec<String>>")]
    pub(crate) roles: Option<Vec<Role>>,
    /// A socket at which another process of this member takes over: it gets the very sockets that
    /// this one listens on, and no query and no request is lost. Not set: `redirector.handover`.
    pub(crate) handover: Option<PathBuf>,
    /// What is logged, and how.
    pub(crate) log: Log,
    /// What the member tells about itself.
    pub(crate) node: node::NodeConfig,
    /// Connections between members.
    pub(crate) overlay: node::OverlayConfig,
    /// Content and records on disk.
    pub(crate) store: node::StoreConfig,
    /// How clients are led to nodes.
    pub(crate) map: node::MapConfig,
    /// Serving sites. Used by members with the role `node`.
    pub(crate) http: node::HttpConfig,
    /// The control endpoint.
    pub(crate) admin: node::AdminConfig,
    /// How this member's services are checked by other members.
    pub(crate) health: godwit_node::health::HealthConfig,
    /// How services are answered for, by site.
    #[schemars(with = "BTreeMap<String, godwit_node::health::ServiceConfig>")]
    pub(crate) service: BTreeMap<SiteName, godwit_node::health::ServiceConfig>,
    /// Home addresses. Used by members with the role `node`.
    pub(crate) mobility: node::MobilityConfig,
    /// What is served at home addresses, beside what `godwit serve` was told.
    pub(crate) serve: Vec<godwit_node::mobility::ServeConfig>,
    /// Answering for the zone. Used by members with the role `redirector`.
    pub(crate) redirector: godwit_redirector::Config,
    /// Holding home addresses. Used by members with the role `home-agent`.
    pub(crate) home_agent: godwit_home_agent::Config,
    /// Signing the zone's answers. Used by members with the role `redirector`.
    pub(crate) dnssec: godwit_redirector::DnssecConfig,
    /// What the zone holds beside the sites. Used by members with the role `redirector`.
    pub(crate) zone: ZoneConfig,
}

/// What is logged, and how.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct Log {
    /// What is logged: `error`, `warn`, `info`, `debug` or `trace`, or several with targets, for
    /// example `info,godwit_overlay=debug`. RUST_LOG and --log go before it.
    pub(crate) level: String,
    /// `text` for people or `json` for programs. Either goes to standard error.
    pub(crate) format: LogFormat,
}

/// How log lines look.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum LogFormat {
    /// For people.
    #[default]
    Text,
    /// One JSON object on each line.
    Json,
}

impl Default for Log {
    fn default() -> Log {
        Log { level: "info".into(), format: LogFormat::Text }
    }
}

impl File {
    /// Where another process takes over, if it may.
    pub(crate) fn handover(&self) -> Option<&Path> {
        self.handover.as_deref().or(self.redirector.handover.as_deref())
    }

    /// The redirector's part.
    pub(crate) fn redirector_config(&self) -> godwit_redirector::Config {
        let handover = self.handover().map(Path::to_owned);
        godwit_redirector::Config { handover, ..self.redirector.clone() }
    }

    /// The node's part.
    pub(crate) fn node_config(&self) -> godwit_node::Config {
        godwit_node::Config {
            node: self.node.clone(),
            overlay: self.overlay.clone(),
            store: self.store.clone(),
            map: self.map.clone(),
            http: self.http.clone(),
            admin: self.admin.clone(),
            health: self.health.clone(),
            service: self.service.clone(),
            mobility: self.mobility.clone(),
            serve: self.serve.clone(),
        }
    }

    /// Reads the file, or takes the defaults when there is none. What a zone cannot hold is found
    /// with the zone's name only.
    pub(crate) fn read(file: Option<&Path>) -> Outcome<File> {
        File::read_for(file, None)
    }

    /// Reads the file of a member of `zone`, or takes the defaults when there is none.
    pub(crate) fn read_for(file: Option<&Path>, zone: Option<&ZoneName>) -> Outcome<File> {
        let Some(path) = file else { return Ok(File::default()) };
        let text = match read_text(path) {
            Ok(text) => text,
            Err(error) => {
                let error = anyhow::Error::new(error).context(format!("cannot read {}", path.display()));
                return Err(Failure::new(Exit::Usage, error));
            }
        };
        File::parse(&text, zone).map_err(|problem| {
            let problem = Located { file: path.to_owned(), problem };
            Failure::usage(problem)
                .advise("`godwit config schema` tells every key, its meaning and its default")
        })
    }

    fn parse(text: &str, zone: Option<&ZoneName>) -> Result<File, Problem> {
        let file: File = toml::from_str(text).map_err(|error| Problem {
            at: error.span().map(|span| position(text, span.start)),
            text: one_line(error.message()),
        })?;
        file.check().map_err(|(key, problem)| Problem {
            at: find_key(text, &key),
            text: format!("{key}: {problem}"),
        })?;
        if let Some(zone) = zone
            && let Err(error) = crate::zone::configured(&file, zone, 0)
        {
            return Err(Problem { at: find_place(text, &error.key), text: error.to_string() });
        }
        Ok(file)
    }

    /// Checks what types cannot; gives the key and what is wrong with its value.
    fn check(&self) -> Result<(), (String, String)> {
        self.node_config().check().map_err(|bad| (bad.key.to_owned(), bad.problem))?;
        self.home_agent.check().map_err(|(key, problem)| (format!("home_agent.{key}"), problem))?;
        let ttl_max = self.redirector.ttl_secs.max(self.redirector.ttl_static_secs);
        self.dnssec.check(ttl_max).map_err(|(key, problem)| (format!("dnssec.{key}"), problem))?;
        if self.roles.as_ref().is_some_and(Vec::is_empty) {
            return Err(("roles".into(), "a member has to do something: name a role or leave it out".into()));
        }
        if let Err(problem) = self.log.level.parse::<tracing_subscriber::EnvFilter>() {
            return Err(("log.level".into(), format!("{:?}: {problem}", self.log.level)));
        }
        Ok(())
    }

    /// The effective configuration as TOML.
    pub(crate) fn to_toml(&self) -> anyhow::Result<String> {
        Ok(toml::to_string_pretty(self)?)
    }
}

/// What is wrong with a file, and where: line and column count from 1.
#[derive(Debug, PartialEq, Eq)]
struct Problem {
    at: Option<(usize, usize)>,
    text: String,
}

/// A problem with the file's name before it, as compilers print it.
struct Located {
    file: PathBuf,
    problem: Problem,
}

impl fmt::Display for Located {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:", self.file.display())?;
        if let Some((line, column)) = self.problem.at {
            write!(f, "{line}:{column}:")?;
        }
        write!(f, " {}", self.problem.text)
    }
}

fn read_text(path: &Path) -> std::io::Result<String> {
    use std::io::Read;
    let mut text = String::new();
    let file = std::fs::File::open(path)?;
    file.take(FILE_LEN_MAX + 1).read_to_string(&mut text)?;
    if text.len() as u64 > FILE_LEN_MAX {
        return Err(std::io::Error::other(format!("it has more than {FILE_LEN_MAX} bytes")));
    }
    Ok(text)
}

/// Line and column of a byte of the text. The column counts characters.
fn position(text: &str, byte: usize) -> (usize, usize) {
    let before = text.get(..byte).unwrap_or(text);
    let line_start = before.rfind('\n').map_or(0, |at| at + 1);
    (before.matches('\n').count() + 1, before[line_start..].chars().count() + 1)
}

/// Where `section.key` is set in the text: its own line, or that of its section. Good enough to
/// point at: the text has been parsed before.
fn find_key(text: &str, path: &str) -> Option<(usize, usize)> {
    let (section, key) = path.rsplit_once('.').unwrap_or(("", path));
    let mut current = String::new();
    let mut heading = None;
    for (number, line) in text.lines().enumerate() {
        let content = line.trim_start();
        let column = line.chars().count() - content.chars().count() + 1;
        if let Some(name) = content.strip_prefix('[').and_then(|rest| rest.split(']').next()) {
            current = name.trim().to_owned();
            if current == section {
                heading = Some((number + 1, column));
            }
            continue;
        }
        let Some((name, _)) = content.split_once('=') else { continue };
        let name = name.trim().trim_matches('"');
        if current == section && name == key || current.is_empty() && name == path {
            return Some((number + 1, column));
        }
    }
    heading
}

/// Where the value at `path` begins in the text, as `zone.record[2].data`; else where the nearest
/// that is around it does.
fn find_place(text: &str, path: &str) -> Option<(usize, usize)> {
    let table = toml::de::DeTable::parse(text).ok()?;
    let mut start = None;
    let mut table = Some(table.get_ref());
    for segment in path.split('.') {
        let (key, index) = match segment.split_once('[') {
            Some((key, index)) => (key, index.trim_end_matches(']').parse::<usize>().ok()),
            None => (segment, None),
        };
        let Some((name, mut value)) = table.and_then(|table| table.get_key_value(key)) else { break };
        start = Some(name.span().start);
        if let Some(index) = index {
            let toml::de::DeValue::Array(list) = value.get_ref() else { break };
            let Some(item) = list.get(index) else { break };
            start = Some(item.span().start);
            value = item;
        }
        table = match value.get_ref() {
            toml::de::DeValue::Table(table) => Some(table),
            _ => None,
        };
    }
    start.map(|byte| position(text, byte))
}

fn one_line(text: &str) -> String {
    text.split('\n').map(str::trim).filter(|line| !line.is_empty()).collect::<Vec<_>>().join("; ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(text: &str, at: Option<(usize, usize)>, part: &str) {
        let problem = File::parse(text, None).unwrap_err();
        assert_eq!(problem.at, at, "{problem:?}");
        assert!(problem.text.contains(part), "{problem:?}");
    }

    #[test]
    fn an_empty_file_is_the_default() {
        assert_eq!(File::parse("", None), Ok(File::default()));
        let shown = File::default().to_toml().unwrap();
        assert_eq!(File::parse(&shown, None), Ok(File::default()), "{shown}");
    }

    #[test]
    fn what_is_wrong_is_told_with_line_and_column() {
        check("[http]\nport = 80\n", Some((2, 1)), "unknown field `port`");
        check("[htp]\n", Some((1, 2)), "unknown field `htp`");
        check("[http]\n  connections_max = \"many\"\n", Some((2, 21)), "invalid type");
        check("[overlay]\nlisten = [\"localhost\"]\n", Some((2, 11)), "socket address");
        check("a = = b", Some((1, 5)), "");
        check("roles = [\"nod\"]", Some((1, 10)), "unknown variant");
    }

    #[test]
    fn values_that_cannot_work_are_found_in_the_text() {
        check(
            "# x\n\n[http]\n  connections_max = 0\n",
            Some((4, 3)),
            "http.connections_max: 0 is not between",
        );
        check("http.connections_max = 0\n", Some((1, 1)), "http.connections_max");
        check("roles = []\n", Some((1, 1)), "has to do something");
        check("[log]\nlevel = \"lou=d=x\"\n", Some((2, 1)), "log.level");
    }

    #[test]
    fn the_documented_file_is_right_and_has_every_key() {
        let document = include_str!("../../docs/config.md");
        let sample = document.split("```").nth(1).unwrap().strip_prefix("toml\n").unwrap();
        assert_eq!(
            File::parse(sample, None).map(|file| file.redirector),
            Ok(godwit_redirector::Config::default())
        );
        let everything: String = sample.lines().map(|line| format!("{}\n", line.replace("# ", ""))).collect();
        let schema = serde_json::to_value(schemars::schema_for!(File)).unwrap();
        for (_, section) in schema["$defs"].as_object().unwrap() {
            for key in section["properties"].as_object().map(|keys| keys.keys()).into_iter().flatten() {
                let told =
                    everything.contains(&format!("{key} = ")) || everything.contains(&format!(".{key}]"));
                assert!(told, "docs/config.md does not tell of {key}");
            }
        }
    }

    #[test]
    fn what_a_zone_cannot_hold_is_found_in_the_text() {
        let zone = "edge.example.org".parse().unwrap();
        let check = |text: &str, at, words: &str| {
            let problem = File::parse(text, Some(&zone)).unwrap_err();
            assert_eq!(problem.at, Some(at), "{}", problem.text);
            assert!(problem.text.contains(words), "{}", problem.text);
        };
        let table = "[zone]\n[[zone.record]]\nname = \"a\"\ntype = \"TXT\"\ndata = \"x\"\n\n\
                     [[zone.record]]\nname = \"a\"\n  type = \"MX\"\ndata = \"x\"\n";
        check(table, (10, 1), "zone.record[1].data: it is no MX data");
        check("zone.record = [\n  { name = \"a\", type = \"NS\", data = \"x\" },\n]", (2, 17), "delegated");
        check("[zone]\napex = \"?\"", (2, 1), "zone.apex");
        check("[zone.https]\nalpn = [\"h2\"]\nmandatory = [\"ech\"]", (3, 1), "zone.https.mandatory: ech");
        let twice = "[[zone.record]]\nname = \"a\"\ntype = \"A\"\ndata = \"192.0.2.1\"\n\
                     [[zone.record]]\nname = \"a\"\ntype = \"CNAME\"\ndata = \"b\"\n";
        check(twice, (5, 1), "beside a CNAME");
        assert!(File::parse(table, None).is_ok(), "the zone is not known");
    }

    #[test]
    fn positions_count_characters() {
        assert_eq!(position("ä = 1\nöö = 2", 12), (2, 4));
        assert_eq!(position("", 0), (1, 1));
    }
}
