//! What the process around the runtime adds to the control endpoint.
//!
//! The runtime knows the network and the map; the file that it was configured from, and what a
//! redirector beside it answers, are known only to whoever composed them. So the endpoint asks a
//! [`Host`], where one was set.

use super::api::{Code, Error};
use std::future::Future;
use std::net::IpAddr;
use std::pin::Pin;

/// An answer that comes later.
pub type Pending<T> = Pin<Box<dyn Future<Output = Result<T, Error>> + Send>>;

/// What the endpoint asks of the process around the runtime.
pub trait Host: Send + Sync + 'static {
    /// Reads the configuration again; gives what could not be read and stays as it was, for people.
    /// The error says what is wrong with the configuration and where; then nothing was changed.
    fn reload(&self) -> Pending<Vec<String>>;

    /// What DNS would answer, and why.
    fn explain(&self, question: &Question) -> Result<serde_json::Value, Error>;

    /// What the home agent beside the runtime holds.
    fn home(&self) -> Pending<serde_json::Value> {
        Box::pin(async { Err(no_home_agent()) })
    }

    /// The flows that passed there lately, at most so many.
    fn home_flows(&self, max: usize) -> Pending<serde_json::Value> {
        let _ = max;
        Box::pin(async { Err(no_home_agent()) })
    }
}

/// Nothing is held here.
pub fn no_home_agent() -> Error {
    Error::new(Code::NotFound, "this member is no home agent")
}

/// A question for an explanation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Question {
    /// The name: the part before the zone, or all of it.
    pub name: String,
    /// The type as text; `None`: the addresses.
    pub kind: Option<String>,
    /// The client.
    pub client: IpAddr,
    /// The resolver that asks for it and says for whom by a client subnet; `None`: the client asks
    /// by itself.
    pub resolver: Option<IpAddr>,
}
