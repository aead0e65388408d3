//! A node and a home agent together, over streams that break and tunnels that lose, with clocks that
//! differ.

mod again;

use super::cache::{self, Cache, State};
use super::message::{BindingUpdate, Status};
use super::registration::{self, Offer, Registration};
use super::*;
use crate::random::Random;
use crate::time::Time;
use crate::tunnel::{Control, KeyId};
use proptest::prelude::*;
use std::collections::{BTreeMap, BTreeSet, VecDeque};

/// What is on its way.
#[derive(Clone, Debug)]
enum Packet {
    Update(MemberId, BindingUpdate),
    Acknowledge(MemberId, message::BindingAcknowledgement),
    /// To this address, under this key.
    ToNode(SocketAddr, KeyId, Control),
    FromNode(SocketAddr, KeyId, Control),
}

/// One home agent and one node with one care-of address.
struct World {
    now: u64,
    /// So far ahead is the node's clock.
    skew: u64,
    random: Random,
    cache: Cache,
    node: Registration,
    epoch: u32,
    lives: u64,
    /// Where the node receives; `None` while it is cut off.
    here: Option<SocketAddr>,
    stream: bool,
    /// Whether the tunnel carries packets to the node.
    tunnel: bool,
    loss_percent: usize,
    node_keys: BTreeSet<KeyId>,
    agent_keys: BTreeMap<KeyId, Anchor>,
    flying: BTreeMap<(u64, u64), Packet>,
    sent: u64,
    /// Probes and cookies to each address.
    aimed: BTreeMap<SocketAddr, usize>,
    said: VecDeque<BindingUpdate>,
    persisted: Vec<u32>,
}

const STEP: u64 = 10;

fn node() -> MemberId {
    MemberId::from_bytes([1; 32])
}

fn agent() -> MemberId {
    MemberId::from_bytes([2; 32])
}

fn home() -> HomeAddress {
    HomeAddress("192.0.2.1".parse().unwrap())
}

fn address(n: u8) -> SocketAddr {
    SocketAddr::from(([198, 51, 100, n], 4191))
}

const CAPABILITIES: Capabilities = Capabilities { mtu: 1420, direct_return: true, aes: true };

impl World {
    fn new(seed: u64) -> World {
        let mut world = World {
            now: 1_000_000,
            skew: 1_000 * (seed % 10_000),
            random: Random::new(seed),
            cache: Cache::new(Time::default(), [0; 32], Incarnation(0), Pace::default()),
            node: Registration::new(0, 0),
            epoch: 0,
            lives: seed << 32,
            here: Some(address(1)),
            stream: true,
            tunnel: true,
            loss_percent: 0,
            node_keys: BTreeSet::new(),
            agent_keys: BTreeMap::new(),
            flying: BTreeMap::new(),
            sent: 0,
            aimed: BTreeMap::new(),
            said: VecDeque::new(),
            persisted: Vec::new(),
        };
        world.start_agent();
        world.start_node();
        world
    }

    fn time(&self) -> Time {
        Time::from_millis(self.now)
    }

    fn node_time(&self) -> Time {
        Time::from_millis(self.now + self.skew)
    }

    fn start_agent(&mut self) {
        self.lives += 1;
        self.cache =
            Cache::new(self.time(), [self.lives as u8; 32], Incarnation(self.lives), Pace::default());
        self.agent_keys.clear();
        self.tell_agent(cache::Input::Allowed([(home(), node())].into()));
        self.tell_node(registration::Input::Connected(agent()));
    }

    fn start_node(&mut self) {
        self.epoch += 1;
        self.node = Registration::new(self.epoch, self.lives + u64::from(self.epoch));
        self.node_keys.clear();
        self.tell_node(registration::Input::Homes([home()].into()));
        self.tell_node(registration::Input::HomeAgents([agent()].into()));
        self.offer(self.here);
    }

    fn offer(&mut self, at: Option<SocketAddr>) {
        let care_of =
            |address| Offer { care_of: CareOf::At(address), capabilities: CAPABILITIES, priority: 0 };
        self.tell_node(registration::Input::CareOf { id: BindingId(0), offer: at.map(care_of) });
    }

    /// The node is elsewhere from now on.
    fn roam(&mut self, to: u8) {
        self.here = Some(address(to));
        self.offer(self.here);
    }

    fn break_stream(&mut self) {
        self.flying.retain(|_, packet| matches!(packet, Packet::ToNode(..) | Packet::FromNode(..)));
        self.tell_node(registration::Input::Connected(agent()));
    }

    fn tell_agent(&mut self, input: cache::Input) {
        self.cache.handle(self.time(), input);
        while let Some(output) = self.cache.poll_output() {
            match output {
                cache::Output::Install { anchor, key } => {
                    assert!(self.agent_keys.insert(key.id, anchor).is_none(), "a key was used twice");
                }
                cache::Output::Retire(key) => assert!(self.agent_keys.remove(&key).is_some()),
                cache::Output::Acknowledge { to, acknowledgement } => {
                    self.send(Packet::Acknowledge(to, acknowledgement), false);
                }
                cache::Output::Send { key, to, control } => {
                    *self.aimed.entry(to).or_default() += 1;
                    self.send(Packet::ToNode(to, key, control), true);
                }
                cache::Output::Changed => {}
            }
        }
    }

    fn tell_node(&mut self, input: registration::Input) {
        self.node.handle(self.node_time(), input);
        while let Some(output) = self.node.poll_output() {
            match output {
                registration::Output::Persist(epoch) => {
                    self.epoch = epoch;
                    self.persisted.push(epoch);
                }
                registration::Output::Update { update, .. } => {
                    self.said.push_back(update.clone());
                    self.send(Packet::Update(node(), update), false);
                }
                registration::Output::Install { key, .. } => {
                    self.node_keys.insert(key.id);
                }
                registration::Output::Send { key, control, .. } => {
                    if let Some(here) = self.here {
                        self.send(Packet::FromNode(here, key, control), true);
                    }
                }
                registration::Output::Carries { .. } | registration::Output::Refused { .. } => {}
            }
        }
    }

    fn send(&mut self, packet: Packet, unreliable: bool) {
        let copies = match unreliable {
            true if self.random.below(100) < self.loss_percent => 0,
            true if self.random.below(100) < self.loss_percent => 2,
            true => 1,
            false => usize::from(self.stream),
        };
        for _ in 0..copies {
            // Packets overtake each other; streams keep their order.
            let jitter = if unreliable { self.random.below(20) as u64 } else { 0 };
            self.sent += 1;
            self.flying.insert((self.now + 20 + jitter, self.sent), packet.clone());
        }
    }

    fn arrive(&mut self, packet: Packet) {
        match packet {
            Packet::Update(from, update) => {
                let update = BindingUpdate::decode(&update.encode()).unwrap();
                self.tell_agent(cache::Input::Update { from, update });
            }
            Packet::Acknowledge(to, acknowledgement) => {
                assert_eq!(to, node());
                self.tell_node(registration::Input::Acknowledged { from: agent(), acknowledgement });
            }
            Packet::ToNode(to, key, control) => {
                if self.tunnel && self.here == Some(to) && self.node_keys.contains(&key) {
                    let input = registration::Input::Heard { from: agent(), id: BindingId(0), key, control };
                    self.tell_node(input);
                }
            }
            Packet::FromNode(from, key, control) => {
                if self.agent_keys.contains_key(&key) {
                    self.tell_agent(cache::Input::Heard { key, from, control: Some(control) });
                }
            }
        }
    }

    fn run(&mut self, millis: u64) {
        let end = self.now + millis;
        while self.now < end {
            self.now += STEP;
            while let Some(entry) = self.flying.first_entry().filter(|entry| entry.key().0 <= self.now) {
                let packet = entry.remove();
                self.arrive(packet);
            }
            if self.node.next_deadline().is_some_and(|deadline| deadline <= self.node_time()) {
                self.tell_node(registration::Input::Timer);
            }
            if self.cache.next_deadline().is_some_and(|deadline| deadline <= self.time()) {
                self.tell_agent(cache::Input::Timer);
            }
        }
    }

    fn in_use(&self) -> Option<SocketAddr> {
        let mut bindings = self.cache.bindings().filter(|binding| binding.state == State::Up);
        bindings.next().and_then(|binding| binding.care_of)
    }

    /// Runs until this address, or none, is in use; how many milliseconds that took.
    #[track_caller]
    fn until(&mut self, wanted: Option<SocketAddr>, within: u64) -> u64 {
        let start = self.now;
        while self.in_use() != wanted {
            assert!(self.now - start < within, "{:?} is in use", self.in_use());
            self.run(STEP);
        }
        self.now - start
    }
}

#[test]
fn a_node_is_in_use_within_four_round_trips_and_stays_so() {
    let mut world = World::new(1);
    // Which life? Update, answer. Update, key. Hello, cookie. Echo.
    let took = world.until(Some(address(1)), 2_000);
    assert!(took <= 340 + 4 * 60, "{took}");
    for _ in 0..600 {
        world.run(1_000);
        assert_eq!(world.in_use(), Some(address(1)));
    }
    assert_eq!(world.cache.counts().lost, 0);
    // A key for each minute, and no more kept than two.
    assert!(world.agent_keys.len() <= 2);
    assert!(world.node_keys.len() >= 9, "{}", world.node_keys.len());
}

#[test]
fn a_move_takes_two_round_trips_and_the_old_address_serves_until_then() {
    let mut world = World::new(2);
    world.until(Some(address(1)), 2_000);
    world.run(5_000);
    world.roam(2);
    while world.in_use() != Some(address(2)) {
        assert_eq!(world.in_use(), Some(address(1)));
        world.run(STEP);
    }
    let said: Vec<CareOf> = world.said.iter().rev().take(1).map(|update| update.care_of).collect();
    assert_eq!(said, [CareOf::At(address(2))]);
}

#[test]
fn a_dead_node_is_out_within_a_second_and_a_half() {
    let mut world = World::new(3);
    world.until(Some(address(1)), 2_000);
    for pause in (0..2_000).step_by(170) {
        world.run(10_000 + pause);
        (world.here, world.stream) = (None, false);
        let took = world.until(None, 5_000);
        assert!(took < 1_500, "{took}");
        (world.here, world.stream) = (Some(address(1)), true);
        world.break_stream();
        world.until(Some(address(1)), 10_000);
    }
}

#[test]
fn a_tunnel_that_is_dropped_counts_as_down_while_talk_goes_on() {
    let mut world = World::new(4);
    world.until(Some(address(1)), 2_000);
    world.run(10_000);
    world.tunnel = false;
    let took = world.until(None, 5_000);
    assert!(took < 1_500, "{took}");
    // Updates go on, and none of them brings it back.
    world.run(60_000);
    assert_eq!(world.in_use(), None);
    assert!(world.node.carried().next().is_none());
    world.tunnel = true;
    world.until(Some(address(1)), 10_000);
}

#[test]
fn twenty_stalls_of_800_ms_on_either_side_are_no_alarm() {
    for agent_stalls in [false, true] {
        let mut world = World::new(5);
        world.until(Some(address(1)), 2_000);
        for pause in 0..20 {
            world.run(3_000 + 70 * pause);
            // Who stands still neither reads nor writes; everything waits for it.
            let end = world.now + 800;
            while world.now < end {
                world.now += STEP;
                let agent_due = world.cache.next_deadline().is_some_and(|at| at <= world.time());
                let node_due = world.node.next_deadline().is_some_and(|at| at <= world.node_time());
                if agent_stalls && node_due {
                    world.tell_node(registration::Input::Timer);
                } else if !agent_stalls && agent_due {
                    world.tell_agent(cache::Input::Timer);
                }
            }
        }
        assert_eq!(world.cache.counts().lost, 0, "agent stalls: {agent_stalls}");
        assert_eq!(world.in_use(), Some(address(1)));
    }
}

#[test]
fn a_home_agent_that_starts_anew_learns_everything_again() {
    let mut world = World::new(6);
    world.until(Some(address(1)), 2_000);
    for _ in 0..5 {
        world.run(4_000);
        world.start_agent();
        let took = world.until(Some(address(1)), 3_000);
        assert!(took < 2_000, "{took}");
    }
}

#[test]
fn a_disk_that_was_set_back_is_overtaken() {
    let mut world = World::new(7);
    world.epoch = 50;
    world.start_node();
    world.until(Some(address(1)), 5_000);
    // A backup from long ago: its epochs have been used.
    world.epoch = 10;
    world.start_node();
    world.run(10_000);
    assert_eq!(world.persisted, [52]);
    assert_eq!(world.in_use(), Some(address(1)));
}

#[test]
fn an_address_that_goes_away_is_taken_back() {
    let mut world = World::new(8);
    world.until(Some(address(1)), 2_000);
    world.run(1_000);
    world.offer(None);
    let took = world.until(None, 2_000);
    assert!(took < 500, "{took}");
    world.run(5_000);
    assert_eq!(world.cache.bindings().count(), 0);
    assert!(world.agent_keys.is_empty());
    world.offer(Some(address(1)));
    world.until(Some(address(1)), 3_000);
}

#[test]
fn an_address_that_never_answers_gets_three_packets_for_each_update() {
    let mut world = World::new(9);
    world.until(Some(address(1)), 2_000);
    // The node announces somebody else's address, and greets for it as often as it likes.
    let (key, _) = world.agent_keys.iter().next().map(|(key, anchor)| (*key, *anchor)).unwrap();
    world.aimed.clear();
    world.said.clear();
    world.offer(Some(address(66)));
    for _ in 0..1_000 {
        world.run(STEP);
        world.tell_agent(cache::Input::Heard { key, from: address(1), control: Some(Control::Hello) });
    }
    let updates = world.said.len();
    assert!(updates > 1);
    assert!(world.aimed[&address(66)] <= 3 * updates, "{:?} for {updates}", world.aimed);
    assert_eq!(world.in_use(), Some(address(1)), "what is proved stays in use");
}

#[test]
fn who_may_not_serve_is_not_used_and_who_may_no_longer_is_let_go() {
    let mut world = World::new(10);
    world.until(Some(address(1)), 2_000);
    world.tell_agent(cache::Input::Allowed(BTreeSet::new()));
    assert_eq!(world.in_use(), None);
    world.run(40_000);
    assert!(world.cache.counts().prohibited > 0);
    assert_eq!(world.cache.bindings().count(), 0);
    world.tell_agent(cache::Input::Allowed([(home(), node())].into()));
    world.until(Some(address(1)), 60_000);
}

#[test]
fn behind_a_translator_the_mapping_is_learned_and_followed() {
    let mut world = World::new(11);
    let offer = Offer { care_of: CareOf::Observed, capabilities: CAPABILITIES, priority: 0 };
    world.tell_node(registration::Input::CareOf { id: BindingId(0), offer: Some(offer) });
    world.until(Some(address(1)), 3_000);
    world.run(5_000);
    // The translator forgets: another mapping, nobody is told.
    world.here = Some(address(9));
    let took = world.until(Some(address(9)), 8_000);
    assert!(took < 6_000, "{took}");
}

#[test]
fn what_comes_from_a_home_address_directly_is_told_where_the_node_is() {
    let mut world = World::new(1);
    world.until(Some(address(1)), 2000);
    let key = *world.agent_keys.keys().next().unwrap();
    let mut told = |from: &str| {
        let heard =
            cache::Input::Heard { key, from: from.parse().unwrap(), control: Some(Control::Direct(7)) };
        world.cache.handle(world.time(), heard);
        std::iter::from_fn(|| world.cache.poll_output()).collect::<Vec<_>>()
    };
    let seen =
        cache::Output::Send { key, to: address(1), control: Control::Seen { home: home(), number: 7 } };
    let only = [seen];
    assert_eq!(told("192.0.2.1:40000"), only);
    assert_eq!(told("[::ffff:192.0.2.1]:40000"), only);
    // A translator has put another address in its place, or it is somebody else's.
    assert_eq!(told("198.51.100.1:4191"), []);
    assert_eq!(told("192.0.2.2:40000"), []);
}

#[test]
fn ten_thousand_bad_updates_are_refused() {
    let mut world = World::new(12);
    world.until(Some(address(1)), 2_000);
    world.run(20_000);
    let real = world.said.back().unwrap().clone();
    let stranger = MemberId::from_bytes([9; 32]);
    let before: Vec<_> = world.cache.bindings().map(|b| (b.anchor, b.care_of, b.expires)).collect();
    let accepted = world.cache.counts().accepted;
    let mut random = Random::new(1);
    for n in 0..10_000u32 {
        let mut update = real.clone();
        let mut from = node();
        match n % 5 {
            // Replayed, reordered.
            0 => {}
            1 => update.order.sequence -= 1 + random.below(update.order.sequence as usize) as u32,
            // Stale: an epoch ago, with whatever number.
            2 => update.order = Order { epoch: update.order.epoch - 1, sequence: u32::MAX },
            // Foreign: a member that may not.
            3 => {
                update.order.sequence += 1 + n;
                from = stranger;
            }
            // Expired: said to a home agent that is no more.
            _ => {
                update.order.sequence += 1 + n;
                update.incarnation = Some(Incarnation(random.next()));
            }
        }
        // Slowly enough that the rate is not what refuses them.
        world.now += 400;
        world.cache.handle(
            Time::from_millis(world.now - 400 * u64::from(n + 1)),
            cache::Input::Update { from, update },
        );
        while world.cache.poll_output().is_some() {}
    }
    assert_eq!(world.cache.counts().accepted, accepted);
    let after: Vec<_> = world.cache.bindings().map(|b| (b.anchor, b.care_of, b.expires)).collect();
    assert_eq!(before, after);
}

#[test]
fn floods_of_updates_are_not_answered() {
    let mut cache = Cache::new(Time::default(), [1; 32], Incarnation(1), Pace::default());
    let update = BindingUpdate {
        id: BindingId(0),
        incarnation: None,
        order: Order::default(),
        homes: vec![home()],
        care_of: CareOf::Observed,
        lifetime: Lifetime::DEFAULT,
        capabilities: CAPABILITIES,
        priority: 0,
        service: Service::Open,
    };
    let mut answers = [0; CARE_OFS_MAX];
    for millis in 0..10_000 {
        for id in 0..=u8::MAX {
            let update = BindingUpdate { id: BindingId(id), ..update.clone() };
            cache.handle(Time::from_millis(millis), cache::Input::Update { from: node(), update });
        }
        while let Some(output) = cache.poll_output() {
            let cache::Output::Acknowledge { acknowledgement, .. } = output else { panic!("{output:?}") };
            assert_eq!(acknowledgement.status, Status::OtherIncarnation);
            answers[usize::from(acknowledgement.id.0)] += 1;
        }
    }
    assert!(answers.iter().all(|count| (32..=36).contains(count)), "{answers:?}");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Whatever happens for a while, afterwards the right address is in use and stays so; and no
    /// address is ever in use that the node was not at.
    #[test]
    fn after_any_trouble_all_is_well(seed: u64, troubles in prop::collection::vec(0u8..9, 1..40)) {
        let mut world = World::new(seed >> 8);
        let mut been = BTreeSet::from([address(1)]);
        for trouble in troubles {
            match trouble {
                0 => world.start_agent(),
                1 => world.start_node(),
                2 => {
                    let to = 1 + world.random.below(5) as u8;
                    been.insert(address(to));
                    world.roam(to);
                }
                3 => world.break_stream(),
                4 => world.tunnel = !world.tunnel,
                5 => world.stream = !world.stream,
                6 => world.loss_percent = [0, 5, 30][world.random.below(3)],
                7 => world.offer(None),
                _ => world.offer(world.here),
            }
            let pause = world.random.below(4_000) as u64;
            world.run(pause);
            prop_assert!(world.in_use().is_none_or(|address| been.contains(&address)));
            prop_assert!(world.agent_keys.len() <= 2);
        }
        (world.tunnel, world.stream, world.loss_percent) = (true, true, 0);
        world.offer(world.here);
        world.break_stream();
        world.run(45_000);
        for _ in 0..20 {
            prop_assert_eq!(world.in_use(), world.here);
            world.run(1_000);
        }
        let counts = world.cache.counts();
        prop_assert!(world.node.carried().eq([(agent(), BindingId(0))]), "{:?}", counts);
    }
}
