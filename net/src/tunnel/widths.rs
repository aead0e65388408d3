//! How wide the paths of tunnels are: [`godwit_core::tunnel::Width`] carried out, for each place that words
//! of liveness are sent to.
//!
//! A step is taken with each [`Control::Probe`](godwit_core::tunnel::Control::Probe) and each answer to
//! one, so nothing is measured where nobody was proved to be. What is asked is answered under the same key
//! to the place that *we* send such words to, and not to wherever the question came from: nobody can have
//! an answer sent to somebody else, and it is shorter than any question.

use super::Event;
use super::engine::Shared;
use super::key::Key;
use super::send::Outbox;
use godwit_core::tunnel::header::{Cipher, HEADER_LEN, Kind, OVERHEAD_V4, OVERHEAD_V6, TAG_LEN};
use godwit_core::tunnel::width::Word;
use godwit_core::tunnel::{Header, Width};
use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// So many places: more than a home agent has bindings in a large network. When they are used up all are
/// forgotten, and measured anew.
const PLACES_MAX: usize = 16_384;

/// What is known of the way to one place.
struct Path {
    width: Width,
    /// Something came from there since the last step.
    alive: bool,
}

/// See the module.
#[derive(Default)]
pub(super) struct Widths(Mutex<HashMap<SocketAddr, Path>>);

impl Widths {
    /// A word of liveness goes `to` there under `key`: one step further.
    pub(super) fn step(&self, shared: &Shared, outbox: &mut Outbox, key: &Arc<Key>, to: SocketAddr) {
        key.live_at(to);
        let before = key.narrowest();
        let overhead = if to.is_ipv4() { OVERHEAD_V4 } else { OVERHEAD_V6 };
        let lengths = {
            let mut paths = self.paths();
            if paths.len() >= PLACES_MAX && !paths.contains_key(&to) {
                paths.clear();
            }
            let path =
                paths.entry(to).or_insert_with(|| Path { width: Width::new(key.top, overhead), alive: true });
            let lengths = path.width.step(std::mem::take(&mut path.alive));
            key.path.store(path.width.fits(), Relaxed);
            lengths
        };
        if key.narrowest() != before {
            shared.tell(Event::Width);
        }
        for len in lengths {
            say(shared, outbox, key, to, Word::Measure { len, fits: key.mtu() });
        }
    }

    /// Something authentic came under `key`.
    pub(super) fn heard(&self, key: &Key) {
        if let Some(place) = key.place()
            && let Some(path) = self.paths().get_mut(&place)
        {
            path.alive = true;
        }
    }

    /// A word about the width came under `key`; whether it changes what fits into this tunnel.
    pub(super) fn word(&self, shared: &Shared, outbox: &mut Outbox, key: &Arc<Key>, word: Word) -> bool {
        let Some(place) = key.place() else { return false };
        let before = key.narrowest();
        match word {
            Word::Measure { len, fits } => {
                key.other.store(fits, Relaxed);
                say(shared, outbox, key, place, Word::Came { len, fits: key.mtu() });
            }
            Word::Came { len, fits } => {
                key.other.store(fits, Relaxed);
                if let Some(path) = self.paths().get_mut(&place) {
                    path.width.came(len);
                    key.path.store(path.width.fits(), Relaxed);
                }
            }
        }
        key.narrowest() != before
    }

    fn paths(&self) -> MutexGuard<'_, HashMap<SocketAddr, Path>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn say(shared: &Shared, outbox: &mut Outbox, key: &Arc<Key>, to: SocketAddr, word: Word) {
    let len = HEADER_LEN + word.len() + TAG_LEN;
    if outbox.is_full_for(len) {
        outbox.flush(&shared.sockets, &shared.counters);
    }
    let room = outbox.room(len);
    word.write(&mut room[HEADER_LEN..len - TAG_LEN]);
    let header = Header {
        kind: Kind::Width,
        cipher: Cipher::Aes256Gcm,
        relayed: false,
        unsummed: false,
        before: None,
        key: key.id,
        counter: 0,
    };
    // A worn key is told of by the next packet.
    match key.seal(header, room) {
        Ok(_) => outbox.push(to, 0, len, key),
        Err(reason) => shared.counters.drop(reason, 1),
    }
}
