//! The HTTP role: serves sites to clients over HTTP/1.1 and HTTP/2 without TLS.
//!
//! - pure: [`host`] (which site), [`path`] (which file), [`precondition`] and [`range`] (whether and
//!   which part), [`media`] (as what);
//! - [`sites`]: which version; [`serve`]: from request to response; [`body`]: bytes as they are taken;
//!   [`sending`]: and while the store goes to a successor;
//! - [`listen`] and [`socket`]: connections and their limits; [`rtt`]: what they teach about distance;
//!   [`asked`]: and about demand;
//! - [`movable`]: connections that can go on at another node; [`watch`]: how far their responses are;
//!   [`moved`]: as they travel; [`finish`]: the end of what another node began.

mod asked;
mod body;
mod exchange;
mod finish;
mod head;
mod host;
mod listen;
mod media;
mod movable;
mod moved;
mod parts;
mod path;
mod precondition;
mod range;
mod refusal;
mod rtt;
mod sending;
mod serve;
mod sites;
mod socket;
mod taken;
mod watch;

pub(crate) use asked::Asked;
pub(crate) use body::{Body, full};
pub(crate) use listen::{Door, accept, listen};
pub(crate) use movable::Moving;
pub(crate) use rtt::{Rtts, for_log};
pub(crate) use serve::Server;
pub(crate) use sites::Sites;
pub(crate) use taken::Taking;

use crate::config::HttpConfig;
use crate::content::Content;
use crate::metrics::HttpMetrics;
use godwit_core::name::{MemberName, ZoneName};
use host::Hosts;
use http::HeaderValue;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use tokio_util::task::TaskTracker;

impl Server {
    /// A server of `sites` in `zone`, on the member called `name`.
    pub(crate) fn new(
        zone: ZoneName,
        name: &MemberName,
        config: &HttpConfig,
        sites: Arc<Sites>,
        content: Arc<Content>,
        metrics: Arc<HttpMetrics>,
    ) -> Server {
        let value = |text: &str| HeaderValue::from_str(text).unwrap_or(HeaderValue::from_static("no-cache"));
        Server {
            hosts: Hosts::new(zone, &config.hosts),
            sites,
            content,
            metrics,
            node: value(name.as_str()),
            cache_control: value(&config.cache_control),
            found: serve::FoundCache::default(),
            last: AtomicBool::new(false),
            answering: TaskTracker::new(),
            sending: sending::AllSending::default(),
        }
    }
}
