//! The verbs, one file each.

pub(crate) mod acme;
pub(crate) mod address;
pub(crate) mod completions;
pub(crate) mod config;
pub(crate) mod dnssec;
pub(crate) mod drain;
pub(crate) mod export;
pub(crate) mod init;
pub(crate) mod invite;
pub(crate) mod join;
pub(crate) mod moving;
pub(crate) mod pdns_backend;
pub(crate) mod publish;
pub(crate) mod redirector;
pub(crate) mod reload;
pub(crate) mod revoke;
pub(crate) mod rollback;
pub(crate) mod run;
pub(crate) mod serve;
pub(crate) mod source;
pub(crate) mod status;
pub(crate) mod testbed;
pub(crate) mod why;

use crate::arguments::{Arguments, Verb};
use crate::failure::Outcome;
use std::process::ExitCode;

/// Does what the command line asks for.
pub(crate) fn run(arguments: Arguments) -> Outcome<ExitCode> {
    match arguments.verb {
        Verb::Init(init) => init.run(),
        Verb::Invite(invite) => invite.run(),
        Verb::Join(join) => join.run(),
        Verb::Run(run) => run.run(),
        Verb::Publish(publish) => publish.run(),
        Verb::Rollback(rollback) => rollback.run(),
        Verb::Status(status) => status.run(),
        Verb::Why(why) => why.run(),
        Verb::Drain(drain) => drain.run(),
        Verb::Undrain(undrain) => undrain.run(),
        Verb::Redirector(redirector) => redirector.run(),
        Verb::Export(export) => export.run(),
        Verb::PdnsBackend(backend) => backend.run(),
        Verb::Revoke(revoke) => revoke.run(),
        Verb::Address(address) => address.run(),
        Verb::Serve(serve) => serve.run(),
        Verb::Move(moving) => moving.run(),
        // The demo has an exit code of its own.
        Verb::Testbed(testbed) => return testbed.run(),
        Verb::Acme(acme) => acme.run(),
        Verb::Reload(reload) => reload.run(),
        Verb::Config(config) => config.run(),
        Verb::Dnssec(dnssec) => dnssec.run(),
        Verb::Completions(completions) => completions.run(),
    }?;
    Ok(ExitCode::SUCCESS)
}
