//! The file of cookie secrets.

use crate::config::Config;
use godwit_dns_plugin::{Manners, Secrets};
use std::path::{Path, PathBuf};

/// More lines than secrets there can be, and comments: nobody's.
const FILE_LEN_MAX: u64 = 64 * 1024;

/// Why there are no cookies.
#[derive(Debug, thiserror::Error)]
pub enum CookieError {
    /// The file cannot be read.
    #[error("the file of cookie secrets {0} cannot be read")]
    Read(PathBuf, #[source] std::io::Error),
    /// It does not have what it should have.
    #[error(
        "{0}: line {1} is no cookie secret: 32 hexadecimal digits, for example from `openssl rand -hex 16`"
    )]
    Line(PathBuf, usize),
    /// There is no secret in it, or too much of other things.
    #[error("{0} should have one to three lines of 32 hexadecimal digits")]
    Count(PathBuf),
    /// The system gives no random numbers.
    #[error("the system gives no random numbers for a cookie secret")]
    Random,
}

impl Config {
    /// What is said in OPT records.
    pub(crate) fn manners(&self) -> Result<Manners, CookieError> {
        let secrets = match &self.cookie_secret_file {
            Some(file) => read(file)?,
            None => {
                let mut secret = [0; 16];
                getrandom::fill(&mut secret).map_err(|_| CookieError::Random)?;
                vec![secret]
            }
        };
        Ok(Manners::new(Secrets::new(&secrets), self.nsid.as_bytes()))
    }
}

impl Config {
    /// The secrets in the file, when there is one: others than those at the start.
    pub(crate) fn cookie_secrets(&self) -> Result<Option<Secrets>, CookieError> {
        Ok(self.cookie_secret_file.as_deref().map(read).transpose()?.and_then(|read| Secrets::new(&read)))
    }
}

fn read(file: &Path) -> Result<Vec<[u8; 16]>, CookieError> {
    let unreadable = |error| CookieError::Read(file.to_owned(), error);
    if std::fs::metadata(file).map_err(unreadable)?.len() > FILE_LEN_MAX {
        return Err(CookieError::Count(file.to_owned()));
    }
    let text = std::fs::read_to_string(file).map_err(unreadable)?;
    let lines = text.lines().zip(1..).map(|(line, number)| (line.trim(), number));
    let secrets: Vec<[u8; 16]> = lines
        .filter(|(line, _)| !line.is_empty() && !line.starts_with('#'))
        .map(|(line, number)| secret(line).ok_or_else(|| CookieError::Line(file.to_owned(), number)))
        .collect::<Result<_, _>>()?;
    if (1..=3).contains(&secrets.len()) { Ok(secrets) } else { Err(CookieError::Count(file.to_owned())) }
}

fn secret(line: &str) -> Option<[u8; 16]> {
    let digits: Vec<u8> = line.chars().map(|c| c.to_digit(16).map(|d| d as u8)).collect::<Option<_>>()?;
    let (pairs, rest) = digits.as_chunks::<2>();
    let octets: Vec<u8> = pairs.iter().map(|[high, low]| high << 4 | low).collect();
    rest.is_empty().then_some(())?;
    octets.try_into().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(text: &str) -> Result<usize, String> {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), text).unwrap();
        read(file.path()).map(|secrets| secrets.len()).map_err(|error| error.to_string())
    }

    #[test]
    fn a_file_has_one_to_three_secrets() {
        let line = "e5e973e5a6b2a43f48e7dc849e37bfcf\n";
        assert_eq!(check(line), Ok(1));
        assert_eq!(check(&format!("# current\n{line}\n  {}# old\n{line}", line.to_uppercase())), Ok(3));
        assert!(check("").unwrap_err().contains("one to three"));
        assert!(check(&line.repeat(4)).unwrap_err().contains("one to three"));
        assert!(check(&format!("{line}e5e9\n")).unwrap_err().contains("line 2"));
        assert!(check("g5e973e5a6b2a43f48e7dc849e37bfcf").unwrap_err().contains("line 1"));
        assert!(read(Path::new("/nonexistent/cookies")).unwrap_err().to_string().contains("cannot be read"));
    }
}
