//! A testbed of its own for one measurement, driven by the commands that a person would type.

use anyhow::{Context, Result, bail};
use serde_json::Value;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// The programs: `godwit`, and this one for running inside hosts.
pub(crate) struct Tool {
    godwit: PathBuf,
    figures: PathBuf,
}

impl Tool {
    /// `godwit` as named, or beside this program.
    pub(crate) fn find(named: Option<PathBuf>) -> Result<Tool> {
        let figures = std::env::current_exe()?;
        let godwit = named.unwrap_or_else(|| figures.with_file_name("godwit"));
        if !godwit.is_file() {
            bail!(
                "{} is not there: build it with `cargo build --release`, or name it with --godwit",
                godwit.display()
            );
        }
        Ok(Tool { godwit, figures })
    }

    /// A `godwit` command.
    pub(crate) fn godwit(&self) -> Command {
        Command::new(&self.godwit)
    }

    /// Brings a testbed up; it goes down when the value is dropped.
    pub(crate) fn up(&self, arguments: &[&str]) -> Result<Bed<'_>> {
        let started = Instant::now();
        let dir = tempfile_dir()?;
        let mut command = self.godwit();
        command.args(["testbed", "--dir"]).arg(&dir).args(["up", "--json"]).args(arguments);
        let up = json(&mut command)?;
        Ok(Bed { tool: self, dir, up, seconds_to_up: started.elapsed().as_secs_f64() })
    }
}

fn tempfile_dir() -> Result<PathBuf> {
    let dir = std::env::temp_dir().join(format!("godwit-figures-{}", std::process::id()));
    Ok(dir)
}

/// Runs `command`, which prints one JSON object.
pub(crate) fn json(command: &mut Command) -> Result<Value> {
    let output = command.stdin(Stdio::null()).stderr(Stdio::inherit()).output()?;
    if !output.status.success() {
        bail!("{command:?} ended with {}: {}", output.status, String::from_utf8_lossy(&output.stdout));
    }
    serde_json::from_slice(&output.stdout).with_context(|| format!("{command:?} printed no JSON object"))
}

/// A running testbed.
pub(crate) struct Bed<'a> {
    tool: &'a Tool,
    dir: PathBuf,
    up: Value,
    /// How long `testbed up` took.
    pub(crate) seconds_to_up: f64,
}

/// One host of it.
#[derive(Clone, Debug)]
pub(crate) struct Host {
    pub(crate) name: String,
    pub(crate) role: String,
    pub(crate) region: String,
    pub(crate) addr4: String,
    pub(crate) data_dir: PathBuf,
}

impl Bed<'_> {
    /// The zone it serves.
    pub(crate) fn zone(&self) -> &str {
        self.up["zone"].as_str().unwrap_or_default()
    }

    /// Its hosts of one role.
    pub(crate) fn hosts(&self, role: &str) -> Vec<Host> {
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let hosts = self.up["hosts"].as_array().map(Vec::as_slice).unwrap_or_default();
        hosts
            .iter()
            .map(|host| Host {
                name: text(&host["name"]),
                role: text(&host["role"]),
                region: text(&host["region"]),
                addr4: text(&host["addr4"]),
                data_dir: PathBuf::from(text(&host["data_dir"])),
            })
            .filter(|host| host.role == role)
            .collect()
    }

    /// Its processes by name: the fabric and every member.
    pub(crate) fn processes(&self) -> Result<Vec<(String, u32)>> {
        let status = json(&mut self.testbed(&["status", "--json"]))?;
        let pid = |value: &Value| value.as_u64().and_then(|pid| u32::try_from(pid).ok());
        let fabric = pid(&status["launcher"]).map(|pid| ("fabric".to_owned(), pid));
        let hosts = status["hosts"].as_array().map(Vec::as_slice).unwrap_or_default();
        let members =
            hosts.iter().filter_map(|host| Some((host["name"].as_str()?.to_owned(), pid(&host["pid"])?)));
        Ok(fabric.into_iter().chain(members).collect())
    }

    /// What its fabric carried, dropped, and how late it was.
    pub(crate) fn fabric(&self) -> Result<Value> {
        Ok(json(&mut self.testbed(&["status", "--json"]))?["fabric"].clone())
    }

    /// The addresses of its redirectors.
    pub(crate) fn redirectors(&self) -> Vec<String> {
        self.hosts("redirector").into_iter().map(|host| host.addr4).collect()
    }

    /// A `godwit testbed VERB …` command for it.
    pub(crate) fn testbed(&self, arguments: &[&str]) -> Command {
        let mut command = self.tool.godwit();
        command.args(["testbed", "--dir"]).arg(&self.dir).args(arguments);
        command
    }

    /// Runs a testbed verb to its end.
    pub(crate) fn verb(&self, arguments: &[&str]) -> Result<()> {
        let output = self.testbed(arguments).stdin(Stdio::null()).output()?;
        if !output.status.success() {
            bail!(
                "testbed {arguments:?} ended with {}: {}",
                output.status,
                String::from_utf8_lossy(&output.stderr)
            );
        }
        Ok(())
    }

    /// This program, inside `host`.
    pub(crate) fn figures_in(&self, host: &str, arguments: &[&str]) -> Command {
        let mut command = self.testbed(&["exec", host, "--"]);
        command.arg(&self.tool.figures).args(arguments);
        command
    }

    /// `godwit`, inside `host`.
    pub(crate) fn godwit_in(&self, host: &str) -> Command {
        let mut command = self.testbed(&["exec", host, "--"]);
        command.arg(&self.tool.godwit);
        command
    }

    /// A publish from `host`: the command up to its own options.
    pub(crate) fn publish(&self, host: &Host, tree: &Path, site: &str) -> Command {
        let mut command = self.godwit_in(&host.name);
        command.arg("publish").arg(tree).args(["--to", site, "--json", "--data-dir"]).arg(&host.data_dir);
        command.arg("--authority").arg(self.authority());
        command
    }

    /// Where a measurement keeps what it makes; it goes with the testbed.
    pub(crate) fn scratch(&self) -> PathBuf {
        self.dir.join("figures")
    }

    /// Where the testbed keeps its authority and publisher keys.
    pub(crate) fn authority(&self) -> PathBuf {
        match self.up["authority"].as_str() {
            Some(path) => PathBuf::from(path),
            None => self.dir.join("authority"),
        }
    }
}

impl Drop for Bed<'_> {
    fn drop(&mut self) {
        if let Err(error) = self.verb(&["down"]) {
            eprintln!("taking the testbed down: {error:#}");
        }
    }
}

/// A child process that ends with its owner.
pub(crate) struct Watcher(pub(crate) Child);

impl Watcher {
    /// Waits for its end, at most `limit`.
    pub(crate) fn finish(mut self, limit: Duration) -> Result<String> {
        let until = Instant::now() + limit;
        while self.0.try_wait()?.is_none() {
            if Instant::now() > until {
                bail!("a watcher did not end within {limit:?}");
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        let mut text = String::new();
        if let Some(mut stdout) = self.0.stdout.take() {
            std::io::Read::read_to_string(&mut stdout, &mut text)?;
        }
        Ok(text)
    }
}

impl Drop for Watcher {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
