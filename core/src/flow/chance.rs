//! The second chance of flows of UDP, whose beginning no packet shows.
//!
//! When a choice changes, packets of flows that began under the old one come to the new owner. For TCP
//! its kernel says whether it has the connection, and the first packet of a new one says so itself. A
//! datagram says nothing, so the nodes go by what they have seen: a flow of which packets were delivered
//! at a node within [`SEEN_FOR`] is that node's, and stays there.
//!
//! ```text
//!  home agent ──▶ owner now ── unknown: ask ──▶ owner before ── seen: keep it, claim it
//!                     ▲                              │
//!                     └────────── give back ◀────────┘ not seen
//! ```
//!
//! Who claims a flow has home agents send its packets straight to it ([`super::table`]). One that was
//! given back is delivered, so it is seen here and never asked about again.
//!
//! # Bounds
//!
//! - A packet is passed on at most twice: what asks says so, and what is given back does not, which is
//!   passed on no more. The tunnel sees to that, whatever a node decides.
//! - Home agents name the owner before for [`SEEN_FOR`] after a change: a flow that was not active for so
//!   long is at nobody's. So a new flow costs a round trip between two nodes within a minute of a change,
//!   and none at other times.
//! - Who does not answer is not asked for long: after [`ASKED_FOR`] a flow is the new owner's. What was
//!   sent meanwhile is lost, if the other is gone; home agents name only those whose tunnel works. Nor does
//!   who keeps a flow, but home agents hear of it, and its packets come no more.
//! - No state is kept for it at home agents, and at nodes in two caches of fixed size. A flow that was
//!   pushed out of one counts as not seen: it goes where it would have gone without a second chance.
//!
//! # What it cannot do
//!
//! - A flow that is silent for a minute and then goes on is a new one.
//! - The same client address and port, used for something new within a minute, goes where the old went.
//! - Before the first packet has come back, those that follow it take the detour as well, and the first
//!   that does not may overtake the last that does.

use std::time::Duration;

/// A flow without a packet for so long is over (RFC 4787, 4.3 asks for two minutes of whoever
/// translates; what is lost with a flow that comes back is its place).
pub const SEEN_FOR: Duration = Duration::from_secs(60);

/// How long the packets of one flow are passed to an owner before that gives none back: home agents
/// know by then (1.2 s) that it is gone.
pub const ASKED_FOR: Duration = Duration::from_secs(2);

/// How a packet came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Came {
    /// From a home agent that names nobody else.
    Ours,
    /// From a home agent that names an owner before, to whom it can be passed on.
    Contested,
    /// From a node that does not know its flow, and asks whether it is here.
    Asked,
    /// From a node, for good: its flow was given to here, or is unknown at both.
    Given,
}

/// And how long that is remembered: a client that sends less often asks anew.
pub const VAIN_FOR: Duration = Duration::from_secs(10);

/// Whether others were asked about a flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Inquiry {
    /// Not within [`VAIN_FOR`].
    None,
    /// Within [`ASKED_FOR`]: its packets are passed on.
    Open,
    /// Before that: nothing came of it, as packets still come here.
    Vain,
}

/// What becomes of a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Turn {
    /// It is delivered here.
    Keep,
    /// The same, and home agents are told that its flow is here.
    Claim,
    /// It goes to the owner before, who may give it back.
    Ask,
    /// It goes back to who asked.
    GiveBack,
}

/// What becomes of a datagram; `seen`: whether its flow was, here, within [`SEEN_FOR`].
pub fn of_datagram(came: Came, seen: bool, inquiry: Inquiry) -> Turn {
    match (came, seen, inquiry) {
        (Came::Contested, false, Inquiry::None | Inquiry::Open) => Turn::Ask,
        (Came::Asked, true, _) => Turn::Claim,
        (Came::Asked, false, _) => Turn::GiveBack,
        (Came::Ours | Came::Given, ..) | (Came::Contested, ..) => Turn::Keep,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// By seconds.
    #[derive(Default)]
    struct Node {
        seen: Option<u64>,
        asked: Option<u64>,
    }

    impl Node {
        fn turn(&mut self, now: u64, came: Came) -> Turn {
            let within = |at: Option<u64>, time: Duration| at.is_some_and(|at| now - at < time.as_secs());
            let inquiry = match self.asked {
                at if within(at, ASKED_FOR) => Inquiry::Open,
                at if within(at, VAIN_FOR) => Inquiry::Vain,
                _ => Inquiry::None,
            };
            let turn = of_datagram(came, within(self.seen, SEEN_FOR), inquiry);
            match turn {
                Turn::Keep | Turn::Claim => self.seen = Some(now),
                Turn::Ask if inquiry == Inquiry::None => self.asked = Some(now),
                Turn::Ask | Turn::GiveBack => {}
            }
            turn
        }
    }

    /// One flow, which goes to node 0 and was node 1's until lately.
    #[derive(Default)]
    struct World {
        nodes: [Node; 2],
        /// What node 1 says does not arrive at the home agent.
        deaf: bool,
        claimed: bool,
    }

    impl World {
        /// Where a packet ends, and how often it was passed on.
        fn send(&mut self, now: u64, reached: bool) -> (Option<usize>, usize) {
            if self.claimed {
                assert_eq!(self.nodes[1].turn(now, Came::Ours), Turn::Keep);
                return (Some(1), 0);
            }
            match self.nodes[0].turn(now, Came::Contested) {
                Turn::Keep => return (Some(0), 0),
                Turn::Ask if !reached => return (None, 1),
                Turn::Ask => {}
                other => panic!("{other:?} of what a home agent sent"),
            }
            match self.nodes[1].turn(now, Came::Asked) {
                Turn::Claim => {
                    self.claimed = !self.deaf;
                    (Some(1), 1)
                }
                Turn::GiveBack => {
                    assert_eq!(self.nodes[0].turn(now, Came::Given), Turn::Keep);
                    (Some(0), 2)
                }
                other => panic!("{other:?} of a question"),
            }
        }
    }

    #[test]
    fn an_old_flow_stays_and_a_new_one_asks_once() {
        let mut world = World { deaf: true, ..World::default() };
        assert_eq!(world.nodes[1].turn(0, Came::Ours), Turn::Keep);
        assert_eq!(world.send(30, true), (Some(1), 1));
        assert_eq!(world.send(80, true), (Some(1), 1), "it was seen there again");
        assert_eq!(world.send(200, true), (Some(0), 2), "over, and new");
        assert_eq!(world.send(201, true), (Some(0), 0));
    }

    #[test]
    fn who_does_not_answer_is_not_asked_for_long() {
        let mut world = World::default();
        assert_eq!(world.send(10, false), (None, 1));
        assert_eq!(world.send(11, false), (None, 1));
        assert_eq!(world.send(12, false), (Some(0), 0));
        assert_eq!(world.send(13, true), (Some(0), 0), "and stays");
    }

    proptest! {
        #[test]
        fn a_flow_is_at_one_node_as_long_as_it_is_active(
            begins_before: bool,
            pauses in prop::collection::vec(0..SEEN_FOR.as_secs(), 1..50),
        ) {
            let mut world = World::default();
            if begins_before {
                world.nodes[1].turn(0, Came::Ours);
            }
            let mut now = 0;
            for pause in pauses {
                now += pause;
                let (at, passed_on) = world.send(now, true);
                prop_assert_eq!(at, Some(usize::from(begins_before)));
                prop_assert!(passed_on <= 2);
            }
        }
    }
}
