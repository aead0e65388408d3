//! How a command fails: what went wrong, what to do next, and with which exit code.
//!
//! The exit codes are part of godwit's interface; scripts depend on them. Everything that is not
//! classified is [`Exit::Failed`].

use std::fmt;
use std::process::ExitCode;

/// Why a command did not do what was asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Exit {
    /// It was tried and did not work.
    Failed = 1,
    /// The command line or the configuration is wrong: nothing was tried.
    Usage = 2,
    /// Somebody who may say no said no: a token, a certificate, a signature, a competing publish.
    Refused = 3,
    /// It was done, but does not yet lie on as many disks as asked for.
    NotDurable = 4,
}

/// A failed command, as the person at the terminal gets to see it.
#[derive(Debug)]
pub(crate) struct Failure {
    exit: Exit,
    error: anyhow::Error,
    advice: Option<String>,
}

impl Failure {
    /// A failure with this exit code.
    pub(crate) fn new(exit: Exit, error: impl Into<anyhow::Error>) -> Failure {
        Failure { exit, error: error.into(), advice: None }
    }

    /// A mistake on the command line or in the configuration.
    pub(crate) fn usage(text: impl fmt::Display) -> Failure {
        Failure::new(Exit::Usage, anyhow::anyhow!("{text}"))
    }

    /// Somebody said no.
    pub(crate) fn refused(text: impl fmt::Display) -> Failure {
        Failure::new(Exit::Refused, anyhow::anyhow!("{text}"))
    }

    /// Adds what to do next.
    pub(crate) fn advise(mut self, advice: impl Into<String>) -> Failure {
        self.advice = Some(advice.into());
        self
    }

    /// What went wrong, without what to do next.
    pub(crate) fn text(&self) -> &anyhow::Error {
        &self.error
    }

    /// What to do next.
    pub(crate) fn advice(&self) -> Option<&str> {
        self.advice.as_deref()
    }

    /// The exit code.
    #[cfg(test)]
    pub(crate) fn exit(&self) -> Exit {
        self.exit
    }

    /// Prints the failure to standard error and gives the process's exit code.
    pub(crate) fn report(&self) -> ExitCode {
        eprintln!("{self}");
        ExitCode::from(self.exit as u8)
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut told = self.error.to_string();
        write!(f, "error: {told}")?;
        // Some errors of others have their cause in their own text.
        for cause in self.error.chain().skip(1).map(ToString::to_string) {
            if !told.ends_with(&cause) {
                write!(f, "\n  because {cause}")?;
                told = cause;
            }
        }
        if let Some(advice) = &self.advice {
            write!(f, "\nnext: {advice}")?;
        }
        Ok(())
    }
}

impl<E: Into<anyhow::Error>> From<E> for Failure {
    fn from(error: E) -> Failure {
        let error = error.into();
        let (exit, advice) = classify(&error);
        Failure { exit, error, advice: advice.map(str::to_owned) }
    }
}

/// The exit code and advice of errors that say of what kind they are.
fn classify(error: &anyhow::Error) -> (Exit, Option<&'static str>) {
    if let Some(error) = error.downcast_ref::<godwit_node::admin::ClientError>() {
        return crate::daemon::classify(error);
    }
    if error.is::<godwit_testbed::BadOption>() {
        return (Exit::Usage, None);
    }
    (Exit::Failed, None)
}

/// What a command ends with.
pub(crate) type Outcome<T = ()> = Result<T, Failure>;

/// Classifies errors on their way up.
pub(crate) trait Classify<T> {
    /// With this exit code.
    fn or_exit(self, exit: Exit) -> Outcome<T>;
    /// With advice on what to do next.
    fn or_advise(self, advice: impl FnOnce() -> String) -> Outcome<T>;
}

impl<T, E: Into<Failure>> Classify<T> for Result<T, E> {
    fn or_exit(self, exit: Exit) -> Outcome<T> {
        self.map_err(|error| Failure { exit, ..error.into() })
    }

    fn or_advise(self, advice: impl FnOnce() -> String) -> Outcome<T> {
        self.map_err(|error| error.into().advise(advice()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use anyhow::Context;

    #[test]
    fn a_failure_tells_the_causes_and_the_next_step() {
        let error = Err::<(), _>(std::io::Error::other("no space")).context("cannot write the key");
        let failure = error.or_exit(Exit::Refused).or_advise(|| "free some space".into()).unwrap_err();
        assert_eq!(failure.exit(), Exit::Refused);
        assert_eq!(
            failure.to_string(),
            "error: cannot write the key\n  because no space\nnext: free some space"
        );
    }

    #[test]
    fn a_cause_that_was_told_is_not_told_again() {
        let error = Err::<(), _>(std::io::Error::other("no space")).context("key: no space");
        let failure = Failure::from(error.context("joining").unwrap_err());
        assert_eq!(failure.to_string(), "error: joining\n  because key: no space");
        let empty = Err::<(), _>(std::io::Error::other("")).context("cannot listen").unwrap_err();
        assert_eq!(Failure::from(empty).to_string(), "error: cannot listen");
    }
}
