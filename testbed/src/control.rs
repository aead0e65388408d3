//! The launcher's control socket: one connection, one request, one answer, each a line of JSON.

use crate::options::Fault;
use crate::state::{RunDir, State};
use anyhow::{Context, bail};
use serde::{Deserialize, Serialize};
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::time::Duration;

/// Longer than any request or answer: 500 hosts are described in about 300 KB.
const LINE_LEN_MAX: u64 = 8 << 20;

/// A host that stops in order has this long, and then some.
const ANSWER_WAIT_MAX: Duration = Duration::from_secs(30);

/// What can be asked of a launcher.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Request {
    /// What is there?
    Status,
    /// Change something.
    Fault(Fault),
    /// End everything.
    Down,
}

/// What it answers.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Answer {
    /// What is there.
    State(Box<State>),
    /// What was done, in words.
    Done(String),
    /// Why nothing was done.
    Refused(String),
}

/// Asks the launcher of the testbed in `dir`.
pub fn ask(dir: &RunDir, request: &Request) -> anyhow::Result<Answer> {
    let path = dir.file("control.sock");
    let stream = UnixStream::connect(&path).with_context(|| {
        format!("no testbed runs in {}; start one with `godwit testbed up`", dir.path().display())
    })?;
    stream.set_read_timeout(Some(ANSWER_WAIT_MAX))?;
    write_line(&stream, request)?;
    match read_line(&stream).context("the launcher did not answer")? {
        Answer::Refused(why) => bail!(why),
        answer => Ok(answer),
    }
}

/// What is there now.
pub fn state(dir: &RunDir) -> anyhow::Result<State> {
    match ask(dir, &Request::Status)? {
        Answer::State(state) => Ok(*state),
        other => bail!("the launcher gave an unexpected answer: {other:?}"),
    }
}

pub(crate) fn write_line(mut stream: &UnixStream, value: &impl Serialize) -> anyhow::Result<()> {
    let mut line = serde_json::to_vec(value)?;
    line.push(b'\n');
    Ok(stream.write_all(&line)?)
}

pub(crate) fn read_line<T: for<'a> Deserialize<'a>>(stream: &UnixStream) -> anyhow::Result<T> {
    let mut line = String::new();
    BufReader::new(stream).take(LINE_LEN_MAX).read_line(&mut line)?;
    Ok(serde_json::from_str(&line)?)
}
