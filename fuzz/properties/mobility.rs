//! What holds for any messages about home addresses, whoever sends them in whatever order: asked by the
//! fuzzer, and of its corpus in every run of the tests.
//!
//! An input is a row of messages: who sends it (three members), how long after the one before it (tenths of
//! a second), its length and its octets. Each goes to every machine that takes messages.

use godwit_core::binding::cache::{self, Cache, State};
use godwit_core::binding::registration::{self, Registration};
use godwit_core::binding::{HomeAddress, Incarnation, Pace};
use godwit_core::flow::FlowKey;
use godwit_core::flow::table::{Choice, FlowTable};
use godwit_core::handoff::{FLOWS_MAX, HandoffId, giver, taker};
use godwit_core::key::MemberId;
use godwit_core::mobility::Message;
use godwit_core::time::Time;
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::time::Duration;

const LIFE: Incarnation = Incarnation(5);
const HOME: HomeAddress = HomeAddress(IpAddr::V4(std::net::Ipv4Addr::new(192, 0, 2, 1)));
/// So many packets go to a care-of address that has proved nothing.
const UNPROVED_MAX: usize = 3;

fn member(n: u8) -> MemberId {
    MemberId::from_bytes([n % 3; 32])
}

fn flow(n: u16) -> FlowKey {
    FlowKey { protocol: 6, correspondent: ([203, 0, 113, 7], n).into(), home: (HOME.0, 80).into() }
}

/// All new flows go to member 0, and member 1 may be given some.
struct First;

impl Choice for First {
    fn chose(&self, _: &FlowKey, node: &MemberId) -> bool {
        *node == member(0)
    }

    fn chooses(&self, flow: &FlowKey, node: &MemberId) -> bool {
        self.chose(flow, node)
    }

    fn usable(&self, flow: &FlowKey, node: &MemberId) -> bool {
        flow.home.ip() == HOME.0 && *node != member(2)
    }
}

/// Panics if it does not hold.
pub fn holds(bytes: &[u8]) {
    let mut world = World::new();
    for (from, pause, message) in messages(bytes) {
        world.now = world.now + pause;
        let Ok(message) = Message::decode(message) else { continue };
        assert_eq!(Message::decode(&message.encode()).as_ref(), Ok(&message), "read as it was written");
        world.hear(from, message);
    }
}

fn messages(mut bytes: &[u8]) -> impl Iterator<Item = (MemberId, Duration, &[u8])> {
    std::iter::from_fn(move || {
        let ([from, pause, high, low], rest) = bytes.split_first_chunk()?;
        let len = usize::from(u16::from_be_bytes([*high, *low])).min(rest.len());
        let (message, rest) = rest.split_at(len);
        bytes = rest;
        Some((member(*from), Duration::from_millis(100) * u32::from(*pause), message))
    })
}

struct World {
    now: Time,
    cache: Cache,
    /// Packets to care-of addresses, by key: none of them answers.
    sent: BTreeMap<u32, usize>,
    flows: FlowTable,
    registration: Registration,
    giver: giver::Giver,
    taker: taker::Taker,
    held: BTreeSet<FlowKey>,
}

impl World {
    fn new() -> World {
        let now = Time::from_secs(1000);
        let mut cache = Cache::new(now, [7; 32], LIFE, Pace::default());
        cache.handle(now, cache::Input::Allowed(BTreeSet::from([(HOME, member(0)), (HOME, member(1))])));
        let mut registration = Registration::new(1, 7);
        registration.handle(now, registration::Input::Homes(BTreeSet::from([HOME])));
        registration.handle(now, registration::Input::HomeAgents(BTreeSet::from([member(0), member(1)])));
        let mut giver = giver::Giver::new();
        let flows: BTreeSet<FlowKey> = (1..5).map(flow).collect();
        giver.handle(now, giver::Input::Give { id: HandoffId(1), to: member(1), flows });
        World {
            now,
            cache,
            sent: BTreeMap::new(),
            flows: FlowTable::new(now, LIFE),
            registration,
            giver,
            taker: taker::Taker::new(),
            held: BTreeSet::new(),
        }
    }

    fn hear(&mut self, from: MemberId, message: Message) {
        match message {
            Message::Update(update) => self.cache.handle(self.now, cache::Input::Update { from, update }),
            Message::Acknowledgement(acknowledgement) => {
                let input = registration::Input::Acknowledged { from, acknowledgement };
                self.registration.handle(self.now, input);
            }
            Message::Flows(update) => {
                let _ = self.flows.update(self.now, from, &update, &First);
                for flow in &update.flows {
                    let owner = self.flows.owner(self.now, flow);
                    assert!(owner.is_none_or(|owner| First.usable(flow, &owner)), "{flow} is at {owner:?}");
                }
            }
            Message::Handoff(message) => {
                self.giver.handle(self.now, giver::Input::Heard { from, message: message.clone() });
                self.taker.handle(self.now, taker::Input::Heard { from, message }, |_| true);
            }
            Message::FlowsBound(_)
            | Message::RelayWanted
            | Message::Relay(_)
            | Message::StandingWanted(_)
            | Message::Standing(..) => {}
        }
        self.cache.handle(self.now, cache::Input::Timer);
        self.registration.handle(self.now, registration::Input::Timer);
        self.act();
    }

    fn act(&mut self) {
        while let Some(output) = self.cache.poll_output() {
            if let cache::Output::Send { key, .. } = output {
                let sent = self.sent.entry(key.0).or_default();
                *sent += 1;
                assert!(*sent <= UNPROVED_MAX, "nothing was proved");
            }
        }
        for binding in self.cache.bindings() {
            assert!(binding.state != State::Up && binding.care_of.is_none(), "nothing was proved");
            assert!(binding.anchor.member != member(2), "nobody allowed it");
        }
        while self.registration.poll_output().is_some() {}
        while let Some(output) = self.giver.poll_output() {
            if let giver::Output::Divert { id, .. } = output {
                self.giver.handle(self.now, giver::Input::Diverted(id));
            } else if let giver::Output::Freeze { id, flows } = output {
                let states = flows.into_iter().map(|flow| (flow, Ok(vec![1, 2, 3]))).collect();
                self.giver.handle(self.now, giver::Input::Frozen { id, states });
            }
        }
        while let Some(output) = self.taker.poll_output() {
            match output {
                taker::Output::Hold(flows) => {
                    assert!(flows.len() <= FLOWS_MAX);
                    for flow in flows {
                        assert!(self.held.insert(flow), "{flow} is held once");
                    }
                }
                taker::Output::Restore { from, id, states } => {
                    assert!(states.iter().all(|(flow, _)| self.held.contains(flow)), "restored unheld");
                    let flows = states.into_iter().map(|(flow, _)| flow).collect();
                    self.taker.handle(self.now, taker::Input::Restored { from, id, flows }, |_| true);
                }
                taker::Output::Release(flows) | taker::Output::Drop(flows) => {
                    assert!(flows.iter().all(|flow| self.held.remove(flow)), "let go of what was not held");
                }
                taker::Output::Send { .. } => {}
            }
        }
    }
}
