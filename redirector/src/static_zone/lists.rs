//! Names and prefixes that stand in files of their own: lines, because there are many.

use super::file::read_text;
use super::problem::Problem;
use ipnet::IpNet;
use std::path::Path;

/// The longest list, bytes: a few million prefixes or names.
const LIST_LEN_MAX: u64 = 128 * 1024 * 1024;

/// Reads a file of names, one in a line, and gives each to `name` with the number of its line. Empty lines and what follows a
/// `#` do not count.
pub(crate) fn read_names(
    path: &Path,
    mut name: impl FnMut(&str, usize) -> Result<(), String>,
) -> Result<(), Problem> {
    let text = read_text(path, LIST_LEN_MAX)?;
    for (line, words) in lines(&text) {
        let [word] = words[..] else {
            return Err(Problem::in_line(path, line, 1, "a line holds one name"));
        };
        name(word, line).map_err(|problem| Problem::in_line(path, line, 1, problem))?;
    }
    Ok(())
}

/// Reads a file of prefixes, each with its regions in the same line, and gives them to `prefix`.
pub(crate) fn read_prefixes(
    path: &Path,
    mut prefix: impl FnMut(IpNet, &[&str]) -> Result<(), String>,
) -> Result<(), Problem> {
    let text = read_text(path, LIST_LEN_MAX)?;
    for (line, words) in lines(&text) {
        let problem = |column, problem: String| Problem::in_line(path, line, column, problem);
        let [first, regions @ ..] = &words[..] else { continue };
        let net = parse_prefix(first).map_err(|text| problem(1, text))?;
        if regions.is_empty() {
            return Err(problem(first.len() + 1, format!("{net} has no region")));
        }
        prefix(net, regions).map_err(|text| problem(first.len() + 2, text))?;
    }
    Ok(())
}

/// A prefix, or a single address. Bits beyond the length are an error: most likely the length is.
pub(crate) fn parse_prefix(text: &str) -> Result<IpNet, String> {
    let net = match text.parse::<IpNet>() {
        Ok(net) => net,
        Err(_) => match text.parse::<std::net::IpAddr>() {
            Ok(address) => address.into(),
            Err(_) => return Err(format!("{text:?} is no prefix: 192.0.2.0/24 and 2001:db8::/32 are")),
        },
    };
    if net.trunc() != net {
        return Err(format!("{net} has bits beyond its length: {} is meant?", net.trunc()));
    }
    Ok(net)
}

/// The lines with words in them, numbered from 1.
fn lines(text: &str) -> impl Iterator<Item = (usize, Vec<&str>)> {
    text.lines().zip(1..).filter_map(|(line, number)| {
        let words: Vec<&str> = line.split('#').next()?.split_whitespace().collect();
        (!words.is_empty()).then_some((number, words))
    })
}
