//! A node with two machines, as it has when names drain: what comes back after a drain.

use super::*;

/// One way takes so long, milliseconds.
const DELAY: u64 = 20;

const OPEN: usize = 0;
const DRAINING: usize = 1;

/// So many care-of addresses each machine has: two that are known, and one that is observed.
const PLACES: u8 = 3;

struct Pair {
    now: u64,
    cache: Cache,
    machines: [Registration; 2],
    keys: BTreeMap<KeyId, BindingId>,
    flying: VecDeque<(u64, Packet)>,
    /// Whether the tunnel carries packets to the node.
    tunnel: bool,
    lost: bool,
}

fn machine_of(id: BindingId) -> usize {
    usize::from(id.0 / 4)
}

impl Pair {
    fn new() -> Pair {
        let mut cache = Cache::new(Time::default(), [3; 32], Incarnation(9), Pace::default());
        cache.handle(Time::default(), cache::Input::Allowed([(home(), node())].into()));
        let mut pair = Pair {
            now: 1_000,
            cache,
            machines: [Registration::new(1, 1), Registration::new(1, 2)],
            keys: BTreeMap::new(),
            flying: VecDeque::new(),
            tunnel: true,
            lost: false,
        };
        pair.tell(DRAINING, registration::Input::Service(Service::Draining));
        for machine in [OPEN, DRAINING] {
            pair.tell(machine, registration::Input::HomeAgents([agent()].into()));
            for n in 0..PLACES {
                let care_of = if n == 2 { CareOf::Observed } else { CareOf::At(address(n)) };
                let offer = Some(Offer { care_of, capabilities: CAPABILITIES, priority: n });
                let id = BindingId(n + 4 * machine as u8);
                pair.tell(machine, registration::Input::CareOf { id, offer });
            }
        }
        pair.bind(OPEN, true);
        pair.until("it is bound", |pair| pair.up(Service::Open) == usize::from(PLACES));
        pair
    }

    fn time(&self) -> Time {
        Time::from_millis(self.now)
    }

    fn bind(&mut self, machine: usize, bound: bool) {
        let homes = bound.then(home).into_iter().collect();
        self.tell(machine, registration::Input::Homes(homes));
    }

    /// The shell's order: what gains the address is known before the other lets it go.
    fn go_over(&mut self, to: usize) -> u64 {
        let begun = self.now;
        self.bind(to, true);
        self.until("the other machine is known", |pair| pair.machines[to].is_known_to(&agent()));
        self.bind(1 - to, false);
        self.now - begun
    }

    fn tell(&mut self, machine: usize, input: registration::Input) {
        self.machines[machine].handle(self.time(), input);
        while let Some(output) = self.machines[machine].poll_output() {
            match output {
                registration::Output::Update { update, .. } => self.send(Packet::Update(node(), update)),
                registration::Output::Install { id, key, .. } => drop(self.keys.insert(key.id, id)),
                registration::Output::Send { id, key, control, .. } => {
                    let from = address(if id.0 % 4 == 2 { 0 } else { id.0 % 4 });
                    self.send(Packet::FromNode(from, key, control));
                }
                registration::Output::Persist(_)
                | registration::Output::Carries { .. }
                | registration::Output::Refused { .. } => {}
            }
        }
    }

    fn tell_agent(&mut self, input: cache::Input) {
        self.cache.handle(self.time(), input);
        while let Some(output) = self.cache.poll_output() {
            match output {
                cache::Output::Acknowledge { to, acknowledgement } => {
                    self.send(Packet::Acknowledge(to, acknowledgement));
                }
                cache::Output::Send { key, to, control } => self.send(Packet::ToNode(to, key, control)),
                _ => {}
            }
        }
    }

    fn send(&mut self, packet: Packet) {
        self.flying.push_back((self.now + DELAY, packet));
    }

    fn arrive(&mut self, packet: Packet) {
        match packet {
            Packet::Update(from, update) => self.tell_agent(cache::Input::Update { from, update }),
            Packet::Acknowledge(_, acknowledgement) => {
                for machine in [OPEN, DRAINING] {
                    let acknowledgement = acknowledgement.clone();
                    self.tell(machine, registration::Input::Acknowledged { from: agent(), acknowledgement });
                }
            }
            Packet::ToNode(_, key, control) => {
                let Some(id) = self.keys.get(&key).copied().filter(|_| self.tunnel) else { return };
                let input = registration::Input::Heard { from: agent(), id, key, control };
                self.tell(machine_of(id), input);
            }
            Packet::FromNode(from, key, control) => {
                self.tell_agent(cache::Input::Heard { key, from, control: Some(control) });
            }
        }
    }

    fn step(&mut self) {
        self.now += 1;
        while self.flying.front().is_some_and(|(at, _)| *at <= self.now) {
            let (_, packet) = self.flying.pop_front().unwrap();
            self.arrive(packet);
        }
        for machine in [OPEN, DRAINING] {
            if self.machines[machine].next_deadline().is_some_and(|at| at <= self.time()) {
                self.tell(machine, registration::Input::Timer);
            }
        }
        if self.cache.next_deadline().is_some_and(|at| at <= self.time()) {
            self.tell_agent(cache::Input::Timer);
        }
        self.lost |= self.cache.bindings().all(|binding| binding.state != State::Up);
    }

    /// So many bindings of this kind are in use.
    fn up(&self, service: Service) -> usize {
        let up = self.cache.bindings().filter(|one| one.state == State::Up && one.service == service);
        up.count()
    }

    #[track_caller]
    fn until(&mut self, what: &str, done: impl Fn(&Pair) -> bool) -> u64 {
        let begun = self.now;
        while !done(self) {
            assert!(self.now - begun < 30_000, "waited in vain until {what}");
            self.step();
        }
        self.now - begun
    }

    fn run(&mut self, millis: u64) {
        (0..millis).for_each(|_| self.step());
    }
}

#[test]
fn what_drains_and_comes_back_is_in_use_after_one_round_trip_and_a_greeting() {
    for pause in [0, 50, 500, 1_000, 5_000] {
        let mut pair = Pair::new();
        pair.run(20_000);
        pair.lost = false;
        pair.go_over(DRAINING);
        pair.run(pause);
        let begun = pair.now;
        // Update, key, greeting, probe; the pace counts where something was said a moment ago.
        let said = pair.go_over(OPEN);
        assert!(said <= 4 * DELAY + 4 || pause < 340 && said <= 340 + 4 * DELAY, "{pause}: {said}");
        pair.until("all that drained is taken back", |pair| pair.up(Service::Draining) == 0);
        assert!(pair.now - begun <= 340 + 6 * DELAY, "{pause}: {}", pair.now - begun);
        pair.run(500);
        assert_eq!(pair.up(Service::Open), usize::from(PLACES));
        assert!(!pair.lost, "{pause}: somebody was always led here");
    }
}

#[test]
fn however_often_a_name_drains_no_update_comes_too_often() {
    let mut pair = Pair::new();
    for round in 0..30 {
        pair.go_over(1 - round % 2);
        pair.run(37 * (round as u64 % 7));
    }
    let counts = pair.cache.counts();
    assert_eq!((counts.too_often, counts.out_of_order, counts.lost), (0, 0, 0), "{counts:?}");
}

#[test]
fn after_the_drain_has_ended_a_cookie_is_asked_for_and_nothing_else() {
    let mut pair = Pair::new();
    pair.go_over(DRAINING);
    pair.run(5_000);
    pair.bind(DRAINING, false);
    pair.until("nothing is bound", |pair| pair.cache.bindings().next().is_none());
    pair.run(1_000);
    let proved = pair.cache.counts().proved;
    pair.bind(OPEN, true);
    // Update, key, greeting, cookie, echo.
    let took = pair.until("it is in use", |pair| pair.up(Service::Open) > 0);
    assert!(took <= 5 * DELAY + 5, "{took}");
    assert!(pair.cache.counts().proved > proved);
}

/// Bindings vouch for each other, but not for ever: where nobody receives, the node is down as soon as
/// anywhere else, whatever it says.
#[test]
fn two_bindings_do_not_keep_each_other_alive() {
    let mut pair = Pair::new();
    pair.run(3_000);
    pair.tunnel = false;
    let begun = pair.now;
    let mut down = None;
    for round in 0..200 {
        pair.bind(1 - round % 2, true);
        pair.bind(round % 2, false);
        for _ in 0..300 {
            pair.step();
            match pair.up(Service::Open) + pair.up(Service::Draining) {
                0 => drop(down.get_or_insert(pair.now)),
                _ => assert_eq!(down, None, "in use again after {} ms", pair.now - begun),
            }
        }
    }
    let took = down.expect("it is down") - begun;
    assert!(took <= 1_500, "{took}");
}
