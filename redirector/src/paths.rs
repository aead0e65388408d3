//! Both paths from packet to reply, without sockets: for fuzzing, measuring and comparing them.
//!
//! A daemon uses [`Redirector`](crate::Redirector), which is these with sockets, limits and metrics.

use crate::capture::Engine;
use crate::config::Config;
use crate::fast::compiled::Compiled;
use crate::fast::respond::{Moment, Outcome, Responder};
use crate::metrics::{Metrics, Transport};
use crate::sockets::StartError;
use crate::transfer::{Peers, Transfers};
use godwit_core::time::Time;
use godwit_dns_plugin::{Clock, Handler, SharedView};
use prometheus_client::registry::Registry;
use std::net::SocketAddr;
use std::sync::Arc;

/// The longest reply over UDP, octets.
pub const REPLY_LEN_MAX: usize = 1232;

/// The general path and one worker of the fast path.
pub struct Paths {
    engine: Engine,
    responder: Responder,
}

/// What the fast path said.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Said {
    /// Octets of the reply; 0 for none.
    pub len: usize,
    /// Whether it did not ask the general path.
    pub by_itself: bool,
}

impl Paths {
    /// Answering from what is in `shared` now, with the keys and cookies of `config`.
    pub fn new(shared: SharedView, config: &Config) -> Result<Paths, StartError> {
        Paths::at(Clock::default(), shared, config)
    }

    /// The same with another clock for signatures.
    pub fn at(clock: Clock, shared: SharedView, config: &Config) -> Result<Paths, StartError> {
        let metrics = Arc::new(Metrics::register(&mut Registry::default()));
        let peers = Peers::read(&config.transfer)?;
        let transfers = Arc::new(Transfers::new(peers, shared.clone(), metrics.clone()));
        let handler = Handler::new(shared.clone()).with_clock(clock).with_manners(config.manners()?);
        let engine = Engine::new(handler, transfers, metrics);
        let compiled = Arc::new(Compiled::new(&engine, shared.load_full()));
        Ok(Paths { responder: Responder::new(engine.clone(), compiled), engine })
    }

    /// Answers from what is current now.
    pub fn renew(&mut self) {
        let view = self.engine.handler().shared().load_full();
        self.responder.renew(&Arc::new(Compiled::new(&self.engine, view)));
    }

    /// The general path's reply over UDP.
    pub fn general(&self, now: Time, packet: &[u8], source: SocketAddr) -> Option<Vec<u8>> {
        let view = self.engine.handler().shared().load();
        self.engine.reply_from(now.as_secs() as u32, &view, packet, source, Transport::Udp)
    }

    /// The fast path's reply, at the beginning of `out`.
    pub fn fast(
        &mut self,
        now: Time,
        packet: &[u8],
        source: SocketAddr,
        out: &mut [u8; REPLY_LEN_MAX],
    ) -> Said {
        match self.responder.respond(Moment { time: now }, packet, source, out) {
            Outcome::Silent(_) => Said { len: 0, by_itself: true },
            Outcome::Rejected(sent) | Outcome::Answered(sent) => Said { len: sent.len, by_itself: sent.fast },
            Outcome::Counted { len } => Said { len, by_itself: false },
            Outcome::Failed => Said { len: 0, by_itself: false },
        }
    }
}
