//! What is known of one other member's health, and the verdict that follows.

use crate::key::MemberId;
use crate::member::{State, Timing};
use crate::time::Time;
use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

/// Until the round-trip time is measured, it is taken for a long one.
const RTT_UNKNOWN: Duration = Duration::from_millis(300);

/// A clock in milliseconds cannot see less than this; a round trip of "0 ms" is taken for it.
const RTT_MIN_US: u32 = 500;

/// The transport's measurements are finer than pings; for this long after one, pings do not count.
const TRANSPORT_RTT_HOLDS: Duration = Duration::from_secs(30);

/// So many pings may be under way: 8 s of them.
const PINGS_MAX: usize = 16;

/// Slack for timers and hops, on top of a ping period and two round trips.
const SLACK: Duration = Duration::from_millis(250);

/// So long a member is given to answer when most doubt it: it learns of that within a round trip or a
/// reconciliation, signs a new entry at once, and that spreads as fast.
const ANSWER: Duration = Duration::from_secs(2);

/// Another member's doubt.
#[derive(Clone, Copy, Debug)]
pub(super) struct Doubt {
    /// The incarnation that it doubts: a later one is not meant.
    pub(super) incarnation: u64,
    /// Since when, as far as is known.
    pub(super) since: Time,
}

/// What others say, summed up.
#[derive(Clone, Copy, Debug)]
pub(super) struct Hearsay {
    /// How many others doubt it, and are not refuted.
    pub(super) confirmations: usize,
    /// How many others are alive and so could confirm.
    pub(super) others: usize,
}

impl Hearsay {
    /// So many doubts, the own one included, are evidence and no opinion: most of those in reach, or
    /// three, as not everybody watches everybody in a large network. Never a single one.
    fn quorum(self) -> usize {
        (self.others.div_ceil(2) + 1).clamp(2, 3)
    }
}

#[derive(Debug)]
pub(super) struct Watch {
    pub(super) state: State,
    pub(super) since: Time,
    pub(super) connected: bool,
    /// Whether this member itself doubts it, and says so.
    pub(super) doubt: bool,
    /// Others' doubts.
    pub(super) doubts: BTreeMap<MemberId, Doubt>,
    /// Incarnation and birth of its newest entry, while that holds.
    pub(super) entry: Option<(u64, Time)>,
    /// Since when enough doubt it, and it has not spoken.
    agreed_since: Option<Time>,
    /// Whether that is so for longer than an answer would take.
    pub(super) lost: bool,
    /// Since when there is no connection, after there was one.
    down_since: Option<Time>,
    /// When it was last heard; `None` when it is not monitored.
    heard: Option<Time>,
    /// Since when it has been heard without a gap.
    steady_since: Time,
    pings: VecDeque<(u64, Time)>,
    /// Smoothed round-trip time, eighths of microseconds.
    rtt_eighths: Option<u64>,
    transport_rtt_at: Option<Time>,
    /// How often it came back, and when last.
    returns: (u32, Time),
}

impl Watch {
    pub(super) fn new(now: Time, connected: bool) -> Watch {
        Watch {
            state: State::Unknown,
            since: now,
            connected,
            doubt: false,
            doubts: BTreeMap::new(),
            entry: None,
            agreed_since: None,
            lost: false,
            down_since: None,
            heard: connected.then_some(now),
            steady_since: now,
            pings: VecDeque::new(),
            rtt_eighths: None,
            transport_rtt_at: None,
            returns: (0, now),
        }
    }

    pub(super) fn connected(&mut self, now: Time) {
        self.connected = true;
        self.down_since = None;
        self.heard = Some(now);
        self.steady_since = now;
        self.pings.clear();
    }

    pub(super) fn disconnected(&mut self, now: Time) {
        self.connected = false;
        self.down_since = Some(now);
    }

    pub(super) fn forget(&mut self) {
        self.heard = None;
        self.down_since = None;
        self.doubt = false;
        self.pings.clear();
    }

    pub(super) fn heard(&mut self, now: Time, timing: &Timing) {
        if let Some(heard) = &mut self.heard {
            let gap = now.since(*heard);
            *heard = now;
            if gap > self.fresh(timing) {
                self.steady_since = now;
            }
        }
    }

    pub(super) fn pinged(&mut self, now: Time, nonce: u64) {
        // Monitored again after it was not.
        self.heard.get_or_insert(now);
        self.pings.push_back((nonce, now));
        if self.pings.len() > PINGS_MAX {
            self.pings.pop_front();
        }
    }

    pub(super) fn pong(&mut self, now: Time, nonce: u64) {
        let Some(at) = self.pings.iter().position(|(sent, _)| *sent == nonce) else { return };
        let Some((_, sent)) = self.pings.drain(..=at).next_back() else { return };
        if self.transport_rtt_at.is_none_or(|at| now.since(at) > TRANSPORT_RTT_HOLDS) {
            self.smooth(now.since(sent));
        }
    }

    pub(super) fn transport_rtt(&mut self, now: Time, rtt: Duration) {
        if self.transport_rtt_at.is_none() {
            self.rtt_eighths = None;
        }
        self.transport_rtt_at = Some(now);
        self.smooth(rtt);
    }

    pub(super) fn rtt_us(&self) -> Option<u32> {
        self.rtt_eighths.map(|eighths| (eighths / 8).try_into().unwrap_or(u32::MAX))
    }

    pub(super) fn excuse(&mut self, now: Time, lateness: Duration) {
        for time in [&mut self.heard, &mut self.down_since].into_iter().flatten() {
            *time = (*time + lateness).min(now);
        }
    }

    /// Who doubts it, as far as it has not refuted that by a later incarnation or entry.
    pub(super) fn standing_doubts(&self) -> impl Iterator<Item = &MemberId> {
        let refuted = |doubt: &Doubt| {
            self.entry
                .is_some_and(|(incarnation, birth)| doubt.incarnation < incarnation || doubt.since < birth)
        };
        self.doubts.iter().filter(move |(_, doubt)| !refuted(doubt)).map(|(by, _)| by)
    }

    /// Changes the state; tells the one before, if it was another.
    pub(super) fn enter(&mut self, now: Time, to: State) -> Option<State> {
        if to == self.state {
            return None;
        }
        let from = std::mem::replace(&mut self.state, to);
        self.since = now;
        if from == State::Unreachable && to == State::Alive {
            self.returns = (self.returns.0.saturating_add(1), now);
        }
        if matches!(to, State::Revoked | State::Expired) {
            self.forget();
        }
        Some(from)
    }

    /// The verdict. The table stands in the documentation of [`super`].
    pub(super) fn judge(&mut self, now: Time, hearsay: Hearsay, timing: &Timing) -> State {
        let Some(heard) = self.heard else { return self.judge_by_hearsay(hearsay) };
        let (silence, limit) = (now.since(heard), self.limit(timing));
        let closed_for = self.down_since.map(|down| now.since(down));
        let too_long =
            silence > limit || closed_for.is_some_and(|closed| closed > timing.down_grace + self.rtt() * 2);
        if self.connected && silence <= self.fresh(timing) {
            let steady = now.since(self.steady_since) >= self.probation(now, timing);
            let to =
                if self.state == State::Unreachable && !steady { State::Unreachable } else { State::Alive };
            self.doubt &= to != State::Alive;
            return to;
        }
        if !too_long {
            return if hearsay.confirmations >= 2 { State::Unreachable } else { self.state };
        }
        self.doubt = true;
        let sign_of_life = self.entry.is_some_and(|(_, birth)| birth > heard + self.fresh(timing));
        if hearsay.confirmations >= hearsay.others.min(1) {
            State::Unreachable
        } else if sign_of_life {
            State::Suspect
        } else if self.state == State::Unreachable || silence > limit + timing.silence_alone {
            State::Unreachable
        } else {
            State::Suspect
        }
    }

    /// Looks whether it is lost, after a verdict: enough doubt it, and it has not answered. Tells
    /// whether that is otherwise than before.
    ///
    /// A liar can doubt whomever it likes, as often as it likes, but it cannot keep the one it doubts
    /// from answering: an entry that came after the doubts began lets the time run anew.
    pub(super) fn look_for_answer(&mut self, now: Time, hearsay: Hearsay, timing: &Timing) -> bool {
        let birth = self.entry.map(|(_, birth)| birth);
        let own = self.doubt
            && self.heard.is_some_and(|heard| birth.is_none_or(|birth| birth <= heard + self.fresh(timing)));
        let doubts = hearsay.confirmations + usize::from(own);
        let agreed = self.state == State::Unreachable && doubts >= hearsay.quorum();
        let since = self.agreed_since.filter(|since| birth.is_none_or(|birth| birth <= *since));
        self.agreed_since = agreed.then(|| since.unwrap_or(now));
        let lost = self.agreed_since.is_some_and(|since| now.since(since) >= ANSWER);
        std::mem::replace(&mut self.lost, lost) != lost
    }

    /// When silence or steadiness alone will change the verdict next.
    pub(super) fn next_change(&self, now: Time, timing: &Timing) -> Option<Time> {
        let answer = self.agreed_since.map(|since| since + ANSWER).filter(|at| *at > now);
        [answer, self.next_verdict(now, timing)].into_iter().flatten().min()
    }

    fn next_verdict(&self, now: Time, timing: &Timing) -> Option<Time> {
        let heard = self.heard?;
        let limit = self.limit(timing);
        let tick = Duration::from_millis(1);
        let mut changes = vec![heard + limit + tick, heard + limit + timing.silence_alone + tick];
        changes.extend(self.down_since.map(|down| down + timing.down_grace + self.rtt() * 2 + tick));
        if !self.doubts.is_empty() {
            changes.push(heard + self.fresh(timing) + tick);
        }
        if self.state == State::Unreachable {
            changes.push(self.steady_since + self.probation(now, timing));
        }
        changes.into_iter().filter(|at| *at > now).min()
    }

    fn judge_by_hearsay(&self, hearsay: Hearsay) -> State {
        if hearsay.confirmations >= hearsay.others.clamp(1, 2) {
            return State::Unreachable;
        }
        if self.state == State::Unreachable {
            let lives = self.entry.is_some_and(|(_, birth)| birth > self.since);
            return if lives { State::Alive } else { State::Unreachable };
        }
        if hearsay.confirmations > 0 {
            State::Suspect
        } else if self.entry.is_some() || self.connected {
            State::Alive
        } else {
            State::Unknown
        }
    }

    /// After this much silence it is doubted.
    fn limit(&self, timing: &Timing) -> Duration {
        timing.silence_min.max(timing.silence_base + self.rtt() * 2)
    }

    /// Within this much silence it is fine: what is usual between two signs, with some loss.
    fn fresh(&self, timing: &Timing) -> Duration {
        (timing.ping_period * 2).max(timing.ping_period + self.rtt() * 2 + SLACK)
    }

    /// How long it must be heard steadily to be alive again.
    fn probation(&self, now: Time, timing: &Timing) -> Duration {
        let (returns, last) = self.returns;
        let returns = if now.since(last) > timing.flap_memory { 0 } else { returns.min(16) };
        timing.return_after.saturating_mul(1 << returns).min(timing.return_max)
    }

    fn rtt(&self) -> Duration {
        self.rtt_us().map_or(RTT_UNKNOWN, |rtt| Duration::from_micros(rtt.into()))
    }

    fn smooth(&mut self, sample: Duration) {
        let sample =
            u64::try_from(sample.as_micros()).unwrap_or(u64::MAX / 16).clamp(RTT_MIN_US.into(), 1 << 32);
        // Jacobson's 1/8, in eighths: s += (sample - s) / 8.
        let smoothed = self.rtt_eighths.map_or(sample * 8, |old| old - old / 8 + sample);
        self.rtt_eighths = Some(smoothed);
    }
}
