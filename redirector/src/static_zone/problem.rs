//! What is wrong with a file, and where.

use std::fmt;
use std::ops::Range;
use std::path::{Path, PathBuf};

/// Something is wrong with the zone's file or one that it names.
#[derive(Debug, PartialEq, Eq)]
pub struct Problem {
    /// The file.
    pub file: PathBuf,
    /// Line and column, from 1; the column counts characters.
    pub at: Option<(usize, usize)>,
    /// What is wrong, in words.
    pub text: String,
}

impl Problem {
    /// With a file as a whole.
    pub(crate) fn with(file: &Path, text: impl fmt::Display) -> Problem {
        Problem { file: file.to_owned(), at: None, text: text.to_string() }
    }

    /// With a line of a file.
    pub(crate) fn in_line(file: &Path, line: usize, column: usize, text: impl fmt::Display) -> Problem {
        Problem { at: Some((line, column)), ..Problem::with(file, text) }
    }

    /// With a stretch of a file's text.
    pub(crate) fn at(file: &Path, content: &str, span: Range<usize>, text: impl fmt::Display) -> Problem {
        let before = content.get(..span.start).unwrap_or(content);
        let line_start = before.rfind('\n').map_or(0, |at| at + 1);
        let line = before.matches('\n').count() + 1;
        Problem::in_line(file, line, before[line_start..].chars().count() + 1, text)
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:", self.file.display())?;
        if let Some((line, column)) = self.at {
            write!(f, "{line}:{column}:")?;
        }
        write!(f, " {}", self.text)
    }
}

impl std::error::Error for Problem {}
