//! The command line as a whole: the verbs and what several of them share.

use crate::failure::{Classify, Exit, Outcome};
use crate::place;
use crate::verb;
use clap::{Args, Parser, Subcommand};
use godwit_node::admin::ClientError;
use godwit_redirector::static_zone::ControlSocket;
use std::path::PathBuf;

/// Publish a site once; every client reaches the closest healthy copy.
#[derive(Debug, Parser)]
#[command(
    name = "godwit",
    version,
    max_term_width = 100,
    propagate_version = false,
    after_help = "\
Try it on this machine, without root:
  godwit testbed demo

Three hosts, one zone:
  godwit init --zone edge.example.org
  godwit invite --name fra1 --region eu-frankfurt --address 203.0.113.5
  godwit join gw1-...            on that host, and then: godwit run
  godwit publish ./public --to www --wait all

Exit codes: 0 done, 1 failed, 2 wrong usage or configuration, 3 refused, 4 not durable."
)]
pub(crate) struct Arguments {
    #[command(subcommand)]
    pub(crate) verb: Verb,
}

/// What can be asked for.
#[derive(Debug, Subcommand)]
pub(crate) enum Verb {
    Init(verb::init::Init),
    Invite(verb::invite::Invite),
    Join(verb::join::Join),
    Run(verb::run::Run),
    Publish(verb::publish::Publish),
    Rollback(verb::rollback::Rollback),
    Status(verb::status::Status),
    Why(verb::why::Why),
    Drain(verb::drain::Drain),
    Undrain(verb::drain::Undrain),
    Revoke(verb::revoke::Revoke),
    Address(verb::address::Address),
    Serve(verb::serve::Serve),
    Move(verb::moving::Move),
    Testbed(verb::testbed::Testbed),
    Acme(verb::acme::Acme),
    Reload(verb::reload::Reload),
    Config(verb::config::Config),
    Dnssec(verb::dnssec::Dnssec),
    Redirector(verb::redirector::Redirector),
    PdnsBackend(verb::pdns_backend::PdnsBackend),
    Export(verb::export::Export),
    Completions(verb::completions::Completions),
}

/// Where the authority is kept.
#[derive(Debug, Args)]
pub(crate) struct AuthorityArguments {
    /// The authority directory [default: godwit in the user's configuration directory]
    #[arg(long, value_name = "DIR", env = "GODWIT_AUTHORITY")]
    pub(crate) authority: Option<PathBuf>,
}

impl AuthorityArguments {
    /// The directory meant.
    pub(crate) fn dir(&self) -> Outcome<crate::authority::AuthorityDir> {
        Ok(crate::authority::AuthorityDir::new(place::authority_dir(self.authority.as_deref())?))
    }
}

/// Where the publisher's key and certificate are kept.
#[derive(Debug, Args)]
pub(crate) struct PublisherArguments {
    /// A directory with publisher.key and publisher.cert [default: the authority directory]
    #[arg(long, value_name = "DIR", env = "GODWIT_PUBLISHER")]
    pub(crate) publisher: Option<PathBuf>,
    #[command(flatten)]
    pub(crate) authority: AuthorityArguments,
}

impl PublisherArguments {
    /// The publisher meant.
    pub(crate) fn read(&self) -> Outcome<crate::authority::Publisher> {
        match &self.publisher {
            Some(dir) => crate::authority::AuthorityDir::new(dir).publisher(),
            None => self.authority.dir()?.publisher(),
        }
    }
}

/// Where a member's data is.
#[derive(Debug, Args)]
pub(crate) struct DataDirArguments {
    /// The member's data directory [default: /var/lib/godwit for root, else godwit in the user's
    /// state directory]
    #[arg(long, value_name = "DIR", env = "GODWIT_DATA_DIR")]
    pub(crate) data_dir: Option<PathBuf>,
}

impl DataDirArguments {
    /// The directory meant.
    pub(crate) fn dir(&self) -> Outcome<godwit_node::datadir::DataDir> {
        Ok(godwit_node::datadir::DataDir::new(place::data_dir(self.data_dir.as_deref())?))
    }
}

/// Which running member to talk to.
#[derive(Debug, Args)]
pub(crate) struct MemberArguments {
    #[command(flatten)]
    pub(crate) data_dir: DataDirArguments,
    /// The control socket of a running member, for example one that ssh forwards [default:
    /// admin.sock in the data directory]
    #[arg(long, visible_alias = "admin", value_name = "FILE", env = "GODWIT_SOCKET")]
    pub(crate) socket: Option<PathBuf>,
}

impl MemberArguments {
    /// A client of the member meant.
    pub(crate) fn client(&self) -> Outcome<godwit_node::admin::Client> {
        let socket = match &self.socket {
            Some(socket) => socket.clone(),
            None => self.data_dir.dir()?.admin_socket(),
        };
        Ok(godwit_node::admin::Client::new(socket))
    }
}

/// Which running process to talk to: a member, or the redirector of a static zone.
#[derive(Debug, Args)]
pub(crate) struct DaemonArguments {
    /// The redirector that serves this static zone's file, in place of a member
    #[arg(long = "static", value_name = "FILE", conflicts_with_all = ["data_dir", "socket"])]
    pub(crate) file: Option<PathBuf>,
    #[command(flatten)]
    pub(crate) member: MemberArguments,
}

impl DaemonArguments {
    /// A client of the process meant.
    pub(crate) fn client(&self) -> Outcome<godwit_node::admin::Client> {
        match &self.file {
            Some(file) => {
                let socket = ControlSocket::find(file).or_exit(Exit::Usage)?;
                Ok(godwit_node::admin::Client::new(socket.path))
            }
            None => self.member.client(),
        }
    }

    /// The same, when it answers; none where a static zone is not served at this moment.
    pub(crate) async fn running_client(&self) -> Outcome<Option<godwit_node::admin::Client>> {
        let client = self.client()?;
        match client.ready().await {
            Err(ClientError::NotRunning { .. }) if self.file.is_some() => Ok(None),
            // What else is wrong the request itself tells.
            _ => Ok(Some(client)),
        }
    }
}
