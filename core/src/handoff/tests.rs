//! A giver and a taker together, over a stream that breaks, with hands that take their time and fail.

use super::giver::{self, Giver};
use super::taker::{self, Taker};
use super::*;
use crate::key::MemberId;
use crate::random::Random;
use crate::time::Time;
use proptest::prelude::*;
use std::collections::{BTreeMap, BTreeSet};

/// What a node's kernel has of a flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Socket {
    Running,
    Frozen,
}

#[derive(Clone, Debug)]
enum Event {
    ToGiver(giver::Input),
    ToTaker(taker::Input),
}

struct World {
    now: u64,
    random: Random,
    giver: Giver,
    taker: Taker,
    gives: BTreeMap<FlowKey, Socket>,
    takes: BTreeMap<FlowKey, Socket>,
    /// Flows whose packets the giver keeps from its kernel; those that it passes on.
    diverted: BTreeSet<FlowKey>,
    held: BTreeSet<FlowKey>,
    events: BTreeMap<(u64, u64), Event>,
    sent: u64,
    connected: bool,
    /// So often do hands fail, percent.
    failures: usize,
    crashed: bool,
    ended: Vec<(HandoffId, usize, usize, usize)>,
    given: BTreeSet<FlowKey>,
}

fn giver_id() -> MemberId {
    MemberId::from_bytes([1; 32])
}

fn taker_id() -> MemberId {
    MemberId::from_bytes([2; 32])
}

fn flow(n: u16) -> FlowKey {
    FlowKey {
        protocol: 6,
        correspondent: ([203, 0, 113, 1], n).into(),
        home: "192.0.2.1:80".parse().unwrap(),
    }
}

impl World {
    fn new(seed: u64, flows: u16) -> World {
        World {
            now: 0,
            random: Random::new(seed),
            giver: Giver::new(),
            taker: Taker::new(),
            gives: (0..flows).map(|n| (flow(n), Socket::Running)).collect(),
            takes: BTreeMap::new(),
            diverted: BTreeSet::new(),
            held: BTreeSet::new(),
            events: BTreeMap::new(),
            sent: 0,
            connected: true,
            failures: 0,
            crashed: false,
            ended: Vec::new(),
            given: BTreeSet::new(),
        }
    }

    fn later(&mut self, delay: u64, event: Event) {
        self.sent += 1;
        self.events.insert((self.now + delay, self.sent), event);
    }

    fn give(&mut self, id: u64, flows: impl Iterator<Item = u16>) {
        let flows = flows.map(flow).collect();
        self.to(Event::ToGiver(giver::Input::Give { id: HandoffId(id), to: taker_id(), flows }));
    }

    fn fails(&mut self) -> bool {
        self.random.below(100) < self.failures
    }

    fn to(&mut self, event: Event) {
        let now = Time::from_millis(self.now);
        match event {
            Event::ToGiver(input) => {
                self.giver.handle(now, input);
                while let Some(output) = self.giver.poll_output() {
                    self.give_hand(output);
                }
            }
            Event::ToTaker(input) => {
                self.taker.handle(now, input, |flow| flow.correspondent.port() % 50 != 49);
                while let Some(output) = self.taker.poll_output() {
                    self.take_hand(output);
                }
            }
        }
        for (flow, socket) in &self.gives {
            let other = self.takes.get(flow);
            assert!(*socket == Socket::Frozen || other.is_none(), "two owners of {flow}");
        }
    }

    fn give_hand(&mut self, output: giver::Output) {
        let pause = self.random.below(5) as u64;
        match output {
            giver::Output::Send { message, .. } => {
                if self.connected {
                    self.later(20, Event::ToTaker(taker::Input::Heard { from: giver_id(), message }));
                }
            }
            giver::Output::Divert { id, flows } => {
                self.diverted.extend(flows);
                self.later(pause, Event::ToGiver(giver::Input::Diverted(id)));
            }
            giver::Output::Freeze { id, flows } => {
                let mut states = Vec::new();
                for flow in flows {
                    assert!(self.diverted.contains(&flow), "frozen while packets reach its kernel");
                    let state = match self.random.below(3) {
                        0 if self.fails() => Err(Kept::Unmovable),
                        1 if self.fails() => Ok(vec![0; STATE_LEN_MAX + 1]),
                        _ => Ok(vec![7; 100]),
                    };
                    if state.is_ok() {
                        self.gives.insert(flow, Socket::Frozen);
                    }
                    states.push((flow, state));
                }
                self.later(pause, Event::ToGiver(giver::Input::Frozen { id, states }));
            }
            giver::Output::PassOn { flows, .. } => {
                assert!(flows.iter().all(|flow| self.diverted.contains(flow)));
            }
            giver::Output::Resume(flows) => {
                for flow in flows {
                    assert!(self.diverted.remove(&flow));
                    self.gives.insert(flow, Socket::Running);
                }
            }
            giver::Output::Given { flows, .. } => {
                for flow in flows {
                    assert_eq!(self.gives.remove(&flow), Some(Socket::Frozen));
                    self.given.insert(flow);
                }
            }
            giver::Output::Lost(flows) => {
                for flow in flows {
                    assert_eq!(self.gives.remove(&flow), Some(Socket::Frozen));
                }
            }
            giver::Output::Ended { id, moved, kept, lost } => self.ended.push((id, moved, kept.len(), lost)),
        }
    }

    fn take_hand(&mut self, output: taker::Output) {
        let pause = self.random.below(5) as u64;
        match output {
            taker::Output::Send { message, .. } => {
                if self.connected {
                    self.later(20, Event::ToGiver(giver::Input::Heard { from: taker_id(), message }));
                }
            }
            taker::Output::Hold(flows) => {
                for flow in flows {
                    assert!(self.held.insert(flow), "held twice");
                }
            }
            taker::Output::Restore { from, id, states } => {
                let mut flows = BTreeSet::new();
                for (flow, state) in states {
                    assert!(self.held.contains(&flow), "restored while packets reach its kernel");
                    assert_eq!(state.len(), 100);
                    if !self.fails() {
                        self.takes.insert(flow, Socket::Running);
                        flows.insert(flow);
                    }
                }
                self.later(pause, Event::ToTaker(taker::Input::Restored { from, id, flows }));
            }
            taker::Output::Release(flows) => {
                for flow in flows {
                    assert!(self.held.remove(&flow) && self.takes.contains_key(&flow));
                }
            }
            taker::Output::Drop(flows) => {
                for flow in flows {
                    assert!(self.held.remove(&flow) && !self.takes.contains_key(&flow));
                }
            }
        }
    }

    fn run(&mut self, millis: u64) {
        let end = self.now + millis;
        while self.now < end {
            self.now += 1;
            while let Some(entry) = self.events.first_entry().filter(|entry| entry.key().0 <= self.now) {
                let event = entry.remove();
                self.to(event);
            }
            let now = Time::from_millis(self.now);
            if self.giver.next_deadline().is_some_and(|at| at <= now) {
                self.to(Event::ToGiver(giver::Input::Timer));
            }
            if self.taker.next_deadline().is_some_and(|at| at <= now) {
                self.to(Event::ToTaker(taker::Input::Timer));
            }
        }
    }

    /// What is on its way between the two is lost.
    fn cut(&mut self) {
        self.connected = false;
        self.events.retain(|_, event| {
            !matches!(
                event,
                Event::ToGiver(giver::Input::Heard { .. }) | Event::ToTaker(taker::Input::Heard { .. })
            )
        });
    }

    fn mend(&mut self) {
        self.connected = true;
        self.to(Event::ToGiver(giver::Input::Connected(taker_id())));
    }

    fn crash_taker(&mut self) {
        self.crashed = true;
        self.cut();
        self.events.retain(|_, event| matches!(event, Event::ToGiver(_)));
        self.taker = Taker::new();
        self.takes.clear();
        self.held.clear();
        self.mend();
    }
}

#[test]
fn connections_move_in_three_messages_and_the_pause_is_one_of_them() {
    let mut world = World::new(1, 40);
    world.give(1, 0..40);
    // Prepare and Prepared: everything still runs at the giver.
    world.run(40);
    assert!(world.gives.values().all(|socket| *socket == Socket::Running));
    // Divert, freeze, transfer, restore: one way and the hands.
    world.run(20 + 15);
    assert_eq!(world.takes.len(), 40);
    world.run(40);
    assert_eq!(world.ended, [(HandoffId(1), 40, 0, 0)]);
    assert_eq!((world.gives.len(), world.given.len()), (0, 40));
    assert!(world.held.is_empty());
}

#[test]
fn what_the_taker_does_not_want_or_nobody_answers_stays_untouched() {
    let mut world = World::new(2, 60);
    world.give(1, 45..55);
    world.run(200);
    assert_eq!(world.ended, [(HandoffId(1), 9, 1, 0)]);
    assert_eq!(world.gives[&flow(49)], Socket::Running);
    world.cut();
    world.give(2, 0..10);
    world.run(1_000);
    assert_eq!(world.ended[1], (HandoffId(2), 0, 10, 0));
    assert!(world.diverted.is_disjoint(&(0..10).map(flow).collect()), "nothing was stopped for it");
}

#[test]
fn a_stream_that_breaks_at_any_moment_loses_nothing() {
    for moment in 0..150 {
        let mut world = World::new(3, 10);
        world.give(1, 0..10);
        world.run(moment);
        world.cut();
        world.run(300);
        world.mend();
        world.run(2_000);
        let [(_, moved, kept, lost)] = world.ended[..] else { panic!("{moment}: {:?}", world.ended) };
        assert_eq!((moved + kept, lost), (10, 0), "{moment}");
        assert_eq!(world.takes.len(), moved);
        assert_eq!(world.gives.values().filter(|socket| **socket == Socket::Running).count(), kept);
    }
}

#[test]
fn a_taker_that_is_gone_for_good_takes_its_connections_along() {
    let mut world = World::new(4, 10);
    world.give(1, 0..10);
    world.run(60);
    world.cut();
    world.run(29_000);
    assert_eq!(world.ended, []);
    world.run(2_000);
    assert_eq!(world.ended, [(HandoffId(1), 0, 0, 10)]);
    assert!(world.gives.is_empty());
}

#[test]
fn all_is_bounded_and_one_flow_moves_in_one_hand_off() {
    let mut world = World::new(5, 1_000);
    world.give(1, 0..200);
    world.give(2, 0..50);
    assert_eq!(world.ended, [(HandoffId(2), 0, 50, 0)]);
    world.run(200);
    assert_eq!(world.ended[1].1 + world.ended[1].2, 200);
    assert!(world.ended[1].1 <= FLOWS_MAX);

    let mut taker = Taker::new();
    let mut held = 0;
    for n in 0..taker::HANDOFFS_MAX as u16 + 10 {
        let message = Message::Prepare { id: HandoffId(n.into()), flows: vec![flow(n)] };
        taker.handle(Time::default(), taker::Input::Heard { from: giver_id(), message }, |_| true);
        while let Some(output) = taker.poll_output() {
            held += usize::from(matches!(output, taker::Output::Hold(_)));
        }
    }
    assert_eq!(held, taker::HANDOFFS_MAX);
    // Held for five seconds, for a giver that never goes on.
    taker.handle(Time::from_secs(6), taker::Input::Timer, |_| true);
    assert_eq!(taker.next_deadline(), None);
}

#[test]
fn the_longest_message_fits() {
    let states = (0..FLOWS_MAX as u16).map(|n| {
        let home = "[2001:db8:ffff:ffff:ffff:ffff:ffff:ffff]:65535".parse().unwrap();
        let correspondent = "[2001:db8:ffff:ffff:ffff:ffff:ffff:fffe]:65535".parse().unwrap();
        (FlowKey { protocol: 6, correspondent, home }, vec![n as u8; STATE_LEN_MAX])
    });
    let message = Message::Transfer { id: HandoffId(u64::MAX), states: states.collect() };
    assert!(crate::wire::encode(&message).len() <= crate::wire::MESSAGE_LEN_MAX);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    /// Never two owners (checked at each step), and none lost unless the taker was.
    #[test]
    fn whatever_happens_each_connection_has_one_owner(
        seed: u64, failures in 0usize..60, troubles in prop::collection::vec((0u8..5, 1u64..400), 1..30),
    ) {
        let mut world = World::new(seed, 120);
        world.failures = failures;
        let mut id = 0;
        for (trouble, pause) in troubles {
            match trouble {
                0 => world.cut(),
                1 => world.mend(),
                2 if world.random.below(8) == 0 => world.crash_taker(),
                _ => {
                    id += 1;
                    let first = world.random.below(100) as u16;
                    let here: Vec<u16> = (first..first + 20).filter(|n| world.gives.contains_key(&flow(*n))).collect();
                    world.give(id, here.into_iter());
                }
            }
            world.run(pause);
        }
        world.mend();
        world.run(40_000);
        prop_assert_eq!(world.ended.len() as u64, id);
        prop_assert!(world.held.is_empty());
        prop_assert!(world.gives.values().all(|socket| *socket == Socket::Running));
        let owned = world.gives.len() + world.takes.len();
        if !world.crashed {
            prop_assert_eq!(owned, 120);
            prop_assert!(world.ended.iter().all(|(_, _, _, lost)| *lost == 0));
        }
    }
}
