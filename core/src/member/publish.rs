//! Publishes that go on: telling others what has come here, and hearing it of others.

use super::{Member, Output};
use crate::key::MemberId;
use crate::record::Key;
use crate::spread::{Fault, Message};
use crate::stats::Refused;
use crate::time::Time;
use crate::upload::{ANNOUNCED_MAX, Announcement};
use std::collections::BTreeSet;

impl Member {
    /// Tells those of `to` that are connected. The others fetch when the version is published.
    pub(super) fn announce(&mut self, to: &BTreeSet<MemberId>, announcement: Box<Announcement>) {
        let message = Message::Coming(announcement);
        let connected = self.roster.connected();
        let told: Vec<MemberId> = to.iter().filter(|to| connected.contains(to)).copied().collect();
        told.into_iter().for_each(|to| self.push_message(to, &message));
    }

    /// Passes on what holds; the rest is counted.
    pub(super) fn announced(&mut self, now: Time, from: MemberId, announcement: Box<Announcement>) {
        match self.judge_announcement(now, &announcement) {
            Ok(()) => self.outputs.push_back(Output::Announced { from, announcement }),
            Err(refused) => self.spread.counters.refuse(refused),
        }
    }

    fn judge_announcement(&self, now: Time, announcement: &Announcement) -> Result<(), Refused> {
        if announcement.objects.len() > ANNOUNCED_MAX {
            return Err(Refused::Bounds);
        }
        let intent = &announcement.intent;
        if self.spread.set().get(&Key::Revocation(intent.publisher.serial)).is_some() {
            return Err(Refused::Revoked);
        }
        // The usual end of a publish: its head has overtaken it.
        let current = self.view().site(&intent.site).map(|version| version.number);
        if current.is_some_and(|current| current >= intent.number) {
            return Err(Refused::Lower);
        }
        intent.verify(now, self.config.network).map_err(|invalid| Fault::from(invalid).refused())
    }
}
