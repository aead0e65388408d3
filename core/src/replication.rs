//! Replication: what a node must fetch to hold the sites placed on it.
//!
//! A sans-IO machine. It is told which version of which site is wanted here and who holds it; it
//! walks the version's tree, asks what of it the store has, has the rest fetched from the holders,
//! and says [`Output::Complete`] when every object of the version was found in the store.
//!
//! ```text
//!    Want --> walk --Look--> store --Looked--> here:    walk on under it
//!                                         \--> missing: queue --Fetch--> holder
//!                                                         ^                 |
//!                              not there, failed, silent -+   Stored, Ended +--> Look again
//! ```
//!
//! - *Unchanged subtrees cost nothing.* Blocks of versions that were complete are remembered as
//!   *whole*: a walk does not go under them, nor even look into the store.
//! - *Memory is bounded.* A walk hands out objects only while few are being looked for and
//!   fetched, so a site of a million files is never in memory at once.
//! - *Nothing is fetched twice.* Wants are kept by object: two sites, or a site and a reader who
//!   [demands](Input::Demand) an object now, share one fetch.
//! - *Durable means durable.* The shell reports [`Input::Stored`] after the store acknowledged, and
//!   blocks are read back from the store before the walk goes on.
//!
//! - *What is announced comes early.* Objects of a publish that goes on are fetched before its head
//!   names them; see `early`.
//!
//! Bytes never pass through here, except those of blocks. Holders, retries and batches are the
//! matter of `fetch`.

mod early;
mod fetch;
mod messages;
#[cfg(test)]
mod tests;
mod whole;

use crate::content::tree::{LIST_LEN_MAX, Reference, Role, Walk, WalkError};
use crate::content::{ObjectId, VersionNumber};
use crate::key::MemberId;
use crate::name::SiteName;
use crate::time::Time;
use crate::upload::Arrivals;
use early::Early;
use fetch::{Fetcher, Resolved};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use whole::Whole;

pub use early::EARLY_MAX;
pub use fetch::{BATCH_BYTES, BATCH_OBJECTS, BatchId, DEMANDS_MAX, EARLY_OBJECTS_MAX, SILENCE_MAX, Wanted};
pub use messages::{Event, Found, Input, Look, Output, Progress};

/// Sites that are walked at a time; the others wait their turn. Bounds the memory of walks.
const WALKS_MAX: usize = 4;
/// Objects of one walk that the store is asked about at a time.
const LOOKING_MAX: usize = 1024;
/// Objects of one walk that are being fetched or wait for it.
const PENDING_MAX: usize = 2048;
/// Blocks among these: each may bring 256 more objects.
const INNER_MAX: usize = 256;

/// The replication machine of one node.
pub struct Replication {
    sites: BTreeMap<SiteName, Site>,
    /// Sites that wait to be walked, in order.
    queue: VecDeque<SiteName>,
    /// Sites that are being walked, at most [`WALKS_MAX`].
    walking: BTreeSet<SiteName>,
    whole: Whole,
    early: Early,
    fetcher: Fetcher,
    outputs: VecDeque<Output>,
}

/// One wanted site.
struct Site {
    number: VersionNumber,
    root: ObjectId,
    state: State,
    progress: Progress,
}

enum State {
    /// In the queue.
    Waiting,
    Walking(Box<Walking>),
    Complete,
    /// The tree is wrong.
    Refused,
}

struct Walking {
    walk: Walk,
    /// Objects that the store is asked about.
    looking: BTreeMap<ObjectId, Role>,
    /// Objects that are being fetched.
    pending: BTreeMap<ObjectId, Role>,
    /// How many of both lead on.
    inner: usize,
}

impl Default for Replication {
    fn default() -> Replication {
        Replication::new()
    }
}

impl Replication {
    /// A machine that wants nothing yet.
    pub fn new() -> Replication {
        Replication {
            sites: BTreeMap::new(),
            queue: VecDeque::new(),
            walking: BTreeSet::new(),
            whole: Whole::default(),
            early: Early::default(),
            fetcher: Fetcher::default(),
            outputs: VecDeque::new(),
        }
    }

    /// Takes an input. Drain [`Replication::poll_output`] afterwards.
    pub fn handle(&mut self, now: Time, input: Input) {
        match input {
            Input::Want { site, number, root } => self.want(site, number, root),
            Input::Unwant { site } => self.unwant(&site),
            Input::Holders { site, holders } => self.fetcher.set_sources(site, holders),
            Input::Demand { id, len, holders } => self.demand(id, len, holders),
            Input::Undemand { id } => self.fetcher.undemand(id, &mut self.outputs),
            Input::PeerUp { peer } => self.fetcher.peer_up(peer),
            Input::PeerDown { peer } => {
                self.early.peer_down(peer, &mut self.fetcher, &mut self.outputs);
                self.fetcher.peer_down(peer, &mut self.outputs);
            }
            Input::Arrived { from, arrivals } => self.announced(now, from, *arrivals),
            Input::Looked { found } => self.looked(&found),
            Input::Stored { batch, ids } => self.stored(now, batch, ids),
            Input::Progress { batch } => self.fetcher.progress(now, batch),
            Input::Ended { batch, missing, failed } => {
                self.fetcher.ended(now, batch, missing, failed, &mut self.outputs);
            }
            Input::Lost => self.lost(),
            Input::Retain { blocks } => self.whole.retain(&blocks),
            Input::Timer => {
                self.early.timer(now, &mut self.fetcher, &mut self.outputs);
                self.fetcher.timer(now, &mut self.outputs);
            }
        }
        self.start_walks();
        self.fetcher.schedule(now, &mut self.outputs);
    }

    /// The next thing to do, until there is none.
    pub fn poll_output(&mut self) -> Option<Output> {
        self.outputs.pop_front()
    }

    /// When [`Input::Timer`] is due.
    pub fn next_deadline(&self) -> Option<Time> {
        [self.fetcher.next_deadline(), self.early.next_deadline()].into_iter().flatten().min()
    }

    /// How far a site is; `None` when it is not wanted.
    pub fn progress(&self, site: &SiteName) -> Option<Progress> {
        let site = self.sites.get(site)?;
        let missing = match &site.state {
            State::Walking(walking) => walking.pending.len() as u64,
            _ => 0,
        };
        Some(Progress { missing, ..site.progress })
    }

    fn want(&mut self, site: SiteName, number: VersionNumber, root: ObjectId) {
        if self.sites.get(&site).is_some_and(|known| (known.number, known.root) == (number, root)) {
            return;
        }
        self.early.published(&site, number);
        self.fetcher.drop_site(&site, &mut self.outputs);
        self.begin(site, number, root);
    }

    /// What is announced for a version that is wanted already comes with its walk.
    fn announced(&mut self, now: Time, from: MemberId, arrivals: Arrivals) {
        let intent = &arrivals.intent;
        if self.sites.get(&intent.site).is_none_or(|site| site.number < intent.number) {
            self.early.announced(now, from, arrivals, &mut self.outputs);
        }
    }

    fn begin(&mut self, site: SiteName, number: VersionNumber, root: ObjectId) {
        let progress = Progress { number, ..Progress::default() };
        self.queue.retain(|queued| *queued != site);
        self.walking.remove(&site);
        self.queue.push_back(site.clone());
        self.sites.insert(site, Site { number, root, state: State::Waiting, progress });
    }

    fn unwant(&mut self, site: &SiteName) {
        self.sites.remove(site);
        self.queue.retain(|queued| queued != site);
        self.walking.remove(site);
        self.fetcher.drop_site(site, &mut self.outputs);
        self.fetcher.set_sources(site.clone(), Vec::new());
    }

    fn demand(&mut self, id: ObjectId, len: u64, holders: Vec<MemberId>) {
        self.fetcher.demand(id, len, holders, &mut self.outputs);
    }

    fn lost(&mut self) {
        self.whole = Whole::default();
        let again: Vec<_> = self
            .sites
            .iter()
            .filter(|(_, site)| !matches!(site.state, State::Refused))
            .map(|(name, site)| (name.clone(), site.number, site.root, site.progress.complete))
            .collect();
        for (site, number, root, complete) in again {
            if complete {
                self.outputs.push_back(Output::Doubtful { site: site.clone(), number });
            }
            self.fetcher.drop_site(&site, &mut self.outputs);
            self.begin(site, number, root);
        }
    }

    fn start_walks(&mut self) {
        while self.walking.len() < WALKS_MAX {
            let Some(name) = self.queue.pop_front() else { return };
            let Some(site) = self.sites.get_mut(&name) else { continue };
            site.state = State::Walking(Box::new(Walking {
                walk: Walk::new(site.root),
                looking: BTreeMap::new(),
                pending: BTreeMap::new(),
                inner: 0,
            }));
            self.walking.insert(name.clone());
            self.advance(&name);
        }
    }

    /// Hands out objects of the site's walk while there is room, and sees whether it is done.
    fn advance(&mut self, name: &SiteName) {
        let Some(site) = self.sites.get_mut(name) else { return };
        let State::Walking(walking) = &mut site.state else { return };
        let mut looks = Vec::new();
        while let Some(reference) = walking.take(&self.whole) {
            looks.push(look(reference));
        }
        if !looks.is_empty() {
            self.outputs.push_back(Output::Look(looks));
        }
        if walking.finished() {
            let State::Walking(walking) = std::mem::replace(&mut site.state, State::Complete) else { return };
            site.progress.complete = true;
            self.walking.remove(name);
            self.whole.add(walking.walk.into_seen());
            self.outputs.push_back(Output::Complete { site: name.clone(), number: site.number });
        }
    }

    /// Takes the store's answers to all walks that asked.
    fn looked(&mut self, found: &[Found]) {
        for found in found {
            self.early.looked(found.id, found.len.is_some(), &mut self.fetcher);
        }
        for name in self.walking.clone() {
            match found.iter().try_for_each(|found| self.looked_for(&name, found)) {
                Ok(()) => self.advance(&name),
                Err(why) => self.refuse(&name, &why),
            }
        }
    }

    fn looked_for(&mut self, name: &SiteName, found: &Found) -> Result<(), Wrong> {
        let Some(site) = self.sites.get_mut(name) else { return Ok(()) };
        let State::Walking(walking) = &mut site.state else { return Ok(()) };
        let Some(role) = walking.looking.remove(&found.id) else { return Ok(()) };
        let reference = Reference { id: found.id, role };
        match (found.len, &found.bytes) {
            (None, _) => {
                walking.pending.insert(found.id, role);
                self.fetcher.want(reference, name);
                return Ok(());
            }
            (Some(_), Some(bytes)) if role.leads_on() => walking.walk.feed(reference, bytes)?,
            (Some(len), None) if role.leads_on() && len > LIST_LEN_MAX as u64 => {
                return Err(Wrong::Length(found.id, len));
            }
            // It was asked about for its presence alone, by another walk.
            (Some(_), None) if role.leads_on() => {
                walking.looking.insert(found.id, role);
                self.outputs.push_back(Output::Look(vec![look(reference)]));
                return Ok(());
            }
            (Some(len), _) if role != (Role::Leaf { len }) => return Err(Wrong::Length(found.id, len)),
            (Some(_), _) => {}
        }
        walking.inner -= usize::from(role.leads_on());
        site.progress.here += 1;
        Ok(())
    }

    fn refuse(&mut self, name: &SiteName, why: &Wrong) {
        self.walking.remove(name);
        if let Some(site) = self.sites.get_mut(name) {
            site.state = State::Refused;
            let (site, number, why) = (name.clone(), site.number, why.to_string());
            self.outputs.push_back(Output::Note(Event::Refused { site, number, why }));
        }
        self.fetcher.drop_site(name, &mut self.outputs);
    }

    fn stored(&mut self, now: Time, batch: Option<BatchId>, ids: Vec<ObjectId>) {
        let mut touched = BTreeSet::new();
        let mut looks = Vec::new();
        for Resolved { id, sites, demanded } in self.fetcher.stored(now, batch, ids) {
            if demanded {
                self.outputs.push_back(Output::Demanded { id, found: true });
            }
            for name in sites {
                let Some(site) = self.sites.get_mut(&name) else { continue };
                let State::Walking(walking) = &mut site.state else { continue };
                let Some(role) = walking.pending.remove(&id) else { continue };
                site.progress.fetched += 1;
                // Looked up once more: a block for its bytes, a leaf for its length.
                walking.looking.insert(id, role);
                looks.push(look(Reference { id, role }));
                touched.insert(name);
            }
        }
        if !looks.is_empty() {
            self.outputs.push_back(Output::Look(looks));
        }
        touched.iter().for_each(|name| self.advance(name));
    }
}

impl Walking {
    /// The next object to look for, as far as there is room.
    fn take(&mut self, whole: &Whole) -> Option<Reference> {
        while self.looking.len() < LOOKING_MAX && self.pending.len() < PENDING_MAX {
            let leads_on = self.walk.peek()?.role.leads_on();
            if leads_on && self.inner >= INNER_MAX {
                return None;
            }
            let reference = self.walk.next()?;
            if leads_on && whole.has(&reference.id) {
                self.walk.skip(reference.id);
                continue;
            }
            // A file that is there twice is looked for once at a time.
            if self.looking.contains_key(&reference.id) || self.pending.contains_key(&reference.id) {
                if !leads_on {
                    continue;
                }
                // The same bytes are a file and a block: the block's role says more.
                self.pending.remove(&reference.id);
            }
            self.inner += usize::from(leads_on);
            self.looking.insert(reference.id, reference.role);
            return Some(reference);
        }
        None
    }

    fn finished(&self) -> bool {
        self.walk.finished() && self.looking.is_empty() && self.pending.is_empty()
    }
}

fn look(reference: Reference) -> Look {
    Look { id: reference.id, bytes_max: reference.role.leads_on().then_some(LIST_LEN_MAX as u64) }
}

/// What is wrong with a tree.
#[derive(Debug, thiserror::Error)]
enum Wrong {
    #[error("{0}: {source}", source = std::error::Error::source(.0).map(ToString::to_string).unwrap_or_default())]
    Walk(#[from] WalkError),
    #[error("object {0} has {1} bytes, which is not what the tree says")]
    Length(ObjectId, u64),
}
