//! A host: a member, what it persisted, and whether it runs.

use godwit_core::admission::Admission;
use godwit_core::member::{Config, Input, Member, SubmitError};
use godwit_core::record::{Key, Record};
use godwit_core::time::Time;
use std::collections::{BTreeMap, VecDeque};
use std::net::SocketAddr;

/// A host.
pub struct Host {
    /// What its member is made from.
    pub config: Config,
    /// Its member, while it runs.
    pub member: Option<Member>,
    /// What it persisted.
    pub disk: BTreeMap<Key, Record>,
    /// By what it judges peers.
    pub admission: Admission,
    /// What was answered to submissions.
    pub submitted: Vec<(Key, Result<(), SubmitError>)>,
    pub(super) bootstrap: Vec<SocketAddr>,
    pub(super) paused: bool,
    pub(super) waiting: VecDeque<Input>,
    /// Counts starts: what was meant for an earlier run does not reach a later one.
    pub(super) starts: u64,
    /// For when the next wake-up is scheduled.
    pub(super) wake_at: Option<Time>,
}

impl Host {
    pub(super) fn new(config: Config, bootstrap: Vec<SocketAddr>) -> Host {
        Host {
            config,
            member: None,
            disk: BTreeMap::new(),
            admission: Admission::default(),
            submitted: Vec::new(),
            bootstrap,
            paused: false,
            waiting: VecDeque::new(),
            starts: 0,
            wake_at: None,
        }
    }

    pub(super) fn start(&mut self, now: Time, seed: u64) {
        self.starts += 1;
        self.config.incarnation = self.starts;
        self.config.seed = seed;
        self.paused = false;
        let persisted = self.disk.values().cloned().collect();
        self.member = Some(Member::new(now, self.config.clone(), persisted));
    }

    pub(super) fn stop(&mut self) {
        self.member = None;
        self.waiting.clear();
        self.wake_at = None;
    }
}
