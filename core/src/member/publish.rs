//! Publishes that go on: telling others what has come here, and hearing it of others.

use super::{Member, Output};
use crate::key::MemberId;
use crate::record::Key;
use crate::spread::{Fault, Message};
use crate::stats::Refused;
use crate::time::Time;
use crate::upload::{ARRIVALS_MAX, Arrivals};
use std::collections::BTreeSet;

impl Member {
    /// Tells those of `to` that are connected. The others fetch when the version is published.
    pub(super) fn tell_arrivals(&mut self, to: &BTreeSet<MemberId>, arrivals: Box<Arrivals>) {
        let message = Message::Coming(arrivals);
        let connected = self.roster.connected();
        let told: Vec<MemberId> = to.iter().filter(|to| connected.contains(to)).copied().collect();
        told.into_iter().for_each(|to| self.push_message(to, &message));
    }

    /// Passes on what holds; the rest is counted.
    pub(super) fn hear_arrivals(&mut self, now: Time, from: MemberId, arrivals: Box<Arrivals>) {
        match self.judge_arrivals(now, &arrivals) {
            Ok(()) => self.outputs.push_back(Output::Arrived { from, arrivals }),
            Err(refused) => self.spread.counters.refuse(refused),
        }
    }

    fn judge_arrivals(&self, now: Time, arrivals: &Arrivals) -> Result<(), Refused> {
        if arrivals.objects.len() > ARRIVALS_MAX {
            return Err(Refused::Bounds);
        }
        let intent = &arrivals.intent;
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
