//! What comes before its version does: objects of publishes that go on.
//!
//! A member to which objects are being published names those that are durable there. They are looked
//! for in the store, and what it lacks is fetched from that member, after everything else. Nothing is
//! kept that a version needs: when the head comes, the walk of its tree finds in the store what came
//! early, and wants the rest as it always does.
//!
//! It ends with the head, with the connection to the member, or when nothing was heard for
//! [`EARLY_MAX`]: then what was not fetched yet is given up, and what was fetched is referred to by
//! nothing. All of it is bounded: by how many objects the publisher signed for, by [`UPLOADS_MAX`], by
//! [`LOOKING_MAX`] and by [`super::fetch::EARLY_OBJECTS_MAX`].

use super::fetch::Fetcher;
use super::{Look, Output};
use crate::content::{ObjectId, VersionNumber};
use crate::key::MemberId;
use crate::name::SiteName;
use crate::time::Time;
use crate::upload::{Arrivals, Coming, INTENT_MAX, Intent};
use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

/// A publish that announces nothing for so long has ended: a batch takes seconds, even over a slow
/// link from the publisher.
pub const EARLY_MAX: Duration = Duration::from_secs(60);

/// Intents that are remembered, so that none is used up twice. The one heard of longest ago gives way.
const UPLOADS_MAX: usize = 64;

/// Objects announced that the store is asked about at a time; beyond that they wait for the head.
const LOOKING_MAX: usize = 8192;

#[derive(Default)]
pub(super) struct Early {
    uploads: BTreeMap<(MemberId, SiteName), Upload>,
    /// Objects that the store is asked about, and who has them.
    looking: BTreeMap<ObjectId, (MemberId, u64)>,
}

/// A publish that goes on, or that was given up lately.
struct Upload {
    /// Tells one intent of the site from the next.
    signed_at: Time,
    number: VersionNumber,
    /// What may still be announced under the publisher's signature.
    objects_left: u64,
    bytes_left: u64,
    heard: Time,
    given_up: bool,
}

impl Early {
    /// Takes an arrivals whose intent was verified; looks for what it names.
    pub(super) fn announced(
        &mut self,
        now: Time,
        from: MemberId,
        arrivals: Arrivals,
        outputs: &mut VecDeque<Output>,
    ) {
        let Arrivals { intent, objects } = arrivals;
        let Some(upload) = self.upload(now, from, &intent) else { return };
        let mut named = Vec::new();
        for Coming { id, len } in objects {
            if upload.objects_left == 0 || len > upload.bytes_left {
                break;
            }
            upload.objects_left -= 1;
            upload.bytes_left -= len;
            named.push((id, len));
        }
        named.truncate(LOOKING_MAX.saturating_sub(self.looking.len()));
        if !named.is_empty() {
            let look = |(id, _): &(ObjectId, u64)| Look { id: *id, bytes_max: None };
            outputs.push_back(Output::Look(named.iter().map(look).collect()));
            self.looking.extend(named.into_iter().map(|(id, len)| (id, (from, len))));
        }
    }

    /// What is known of the publish; `None` when a later one of the same site goes on.
    fn upload(&mut self, now: Time, from: MemberId, intent: &Intent) -> Option<&mut Upload> {
        let key = (from, intent.site.clone());
        let known = self.uploads.get(&key).map(|upload| upload.signed_at);
        if known.is_some_and(|known| known > intent.signed_at) {
            return None;
        }
        if known != Some(intent.signed_at) {
            self.uploads.retain(|_, upload| now <= upload.signed_at + 2 * INTENT_MAX);
            if self.uploads.len() >= UPLOADS_MAX {
                let oldest = self.uploads.iter().min_by_key(|(_, upload)| upload.heard);
                let oldest = oldest.map(|(key, _)| key.clone())?;
                self.uploads.remove(&oldest);
            }
            let upload = Upload {
                signed_at: intent.signed_at,
                number: intent.number,
                objects_left: intent.objects,
                bytes_left: intent.bytes,
                heard: now,
                given_up: false,
            };
            self.uploads.insert(key.clone(), upload);
        }
        let upload = self.uploads.get_mut(&key)?;
        (upload.heard, upload.given_up) = (now, false);
        Some(upload)
    }

    /// The store has answered: what it lacks is fetched.
    pub(super) fn looked(&mut self, id: ObjectId, here: bool, fetcher: &mut Fetcher) {
        if let Some((from, len)) = self.looking.remove(&id)
            && !here
        {
            fetcher.want_early(id, len, from);
        }
    }

    /// The site has this version: what was to come before it is over.
    pub(super) fn published(&mut self, site: &SiteName, number: VersionNumber) {
        self.uploads.retain(|(_, of), upload| of != site || upload.number > number);
    }

    /// The member cannot be fetched from any more.
    pub(super) fn peer_down(
        &mut self,
        peer: MemberId,
        fetcher: &mut Fetcher,
        outputs: &mut VecDeque<Output>,
    ) {
        let of_peer = self.uploads.iter_mut().filter(|((from, _), _)| *from == peer);
        of_peer.for_each(|(_, upload)| upload.given_up = true);
        self.give_up(peer, fetcher, outputs);
    }

    /// Gives up publishes of which nothing was heard for long.
    pub(super) fn timer(&mut self, now: Time, fetcher: &mut Fetcher, outputs: &mut VecDeque<Output>) {
        let mut silent = Vec::new();
        for ((from, _), upload) in &mut self.uploads {
            if !upload.given_up && now >= upload.heard + EARLY_MAX {
                upload.given_up = true;
                silent.push(*from);
            }
        }
        for from in silent {
            // What it announced for another site cannot be told apart; that is awaited.
            let goes_on =
                |((other, _), upload): (&(MemberId, SiteName), &Upload)| *other == from && !upload.given_up;
            if !self.uploads.iter().any(goes_on) {
                self.give_up(from, fetcher, outputs);
            }
        }
    }

    fn give_up(&mut self, from: MemberId, fetcher: &mut Fetcher, outputs: &mut VecDeque<Output>) {
        self.looking.retain(|_, (other, _)| *other != from);
        fetcher.drop_early(from, outputs);
    }

    pub(super) fn next_deadline(&self) -> Option<Time> {
        let going_on = self.uploads.values().filter(|upload| !upload.given_up);
        going_on.map(|upload| upload.heard + EARLY_MAX).min()
    }
}
