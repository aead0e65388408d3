use super::*;
use proptest::prelude::*;

fn ip(n: u32) -> IpAddr {
    IpAddr::from((0x0800_0035 + (n << 8)).to_be_bytes())
}

fn pace(gap: u64, again: u64) -> Pace {
    Pace {
        gap: Duration::from_millis(gap),
        again: Duration::from_millis(again),
        backoff_max: Duration::from_millis(again * 20),
    }
}

/// Runs a prober with a world that answers each probe at once; every probe with its time.
struct World<F> {
    prober: Prober,
    answer: F,
    made: Vec<(Time, Probe)>,
}

impl<F: FnMut(Time, Probe) -> Outcome> World<F> {
    fn new(pace: Pace, answer: F) -> World<F> {
        World { prober: Prober::new(pace, 7), answer, made: Vec::new() }
    }

    fn feed(&mut self, now: Time, input: Input) {
        self.prober.handle(now, input);
        while let Some(probe) = self.prober.poll_output() {
            self.made.push((now, probe));
            let outcome = (self.answer)(now, probe);
            self.prober.handle(now, Input::Done { probe, outcome });
        }
    }

    fn run(&mut self, until: Time) {
        while let Some(deadline) = self.prober.next_deadline().filter(|deadline| *deadline <= until) {
            self.feed(deadline, Input::Timer);
        }
    }

    fn times(&self, n: u32) -> Vec<Time> {
        self.made.iter().filter(|(_, probe)| probe.address == ip(n)).map(|(at, _)| *at).collect()
    }
}

const TOOK: Outcome = Outcome::Took(Duration::from_millis(20));

#[test]
fn all_are_measured_in_turn_within_the_pace() {
    let start = Time::from_secs(1_000);
    let mut world = World::new(Pace::default(), |_, _| TOOK);
    world.feed(start, Input::Targets((0..FOUND_MAX as u32 + 9).map(ip).collect()));
    assert_eq!(world.prober.watched(), FOUND_MAX);
    world.run(start + Duration::from_secs(4 * 3600));
    for n in 0..FOUND_MAX as u32 {
        let times = world.times(n);
        assert!(times[0] <= start + Duration::from_secs(600), "{n}: {times:?}");
        for pair in times.windows(2) {
            let pause = pair[1].since(pair[0]);
            assert!((600..680).contains(&pause.as_secs()), "{n}: {pause:?}");
        }
    }
    let found = world.prober.found(start + Duration::from_secs(4 * 3600));
    assert_eq!(found.len(), FOUND_MAX);
    assert!(found.iter().all(|rtt| rtt.rtt_us == 20_000 && rtt.samples == SAMPLES_MAX));
}

#[test]
fn who_is_silent_is_asked_the_other_way_and_then_ever_less() {
    let mut world = World::new(pace(1_000, 10_000), |_, _| Outcome::Silent);
    world.feed(Time::from_secs(9), Input::Targets(vec![ip(1)]));
    world.run(Time::from_secs(9 + 2000));
    let methods: Vec<Method> = world.made.iter().map(|(_, probe)| probe.method).collect();
    assert_eq!(methods[..4], [Method::Echo, Method::Connect, Method::Echo, Method::Connect]);
    let pauses: Vec<u64> = world.times(1).windows(2).map(|pair| pair[1].since(pair[0]).as_secs()).collect();
    for (pause, least) in pauses.iter().zip([10, 20, 40, 80, 160, 200, 200]) {
        assert!((least..=least + least / 10).contains(pause), "{pauses:?}");
    }
    assert_eq!((world.prober.found(Time::from_secs(2009)), world.prober.silent()), (vec![], 1));
}

#[test]
fn a_host_without_echo_requests_connects_and_nobody_waits_for_that() {
    let answer = |_, probe: Probe| if probe.method == Method::Echo { Outcome::Unable } else { TOOK };
    let mut world = World::new(pace(1_000, 10_000), answer);
    world.feed(Time::from_secs(9), Input::Targets(vec![ip(1), ip(2)]));
    world.run(Time::from_secs(9 + 9));
    let echoes = world.made.iter().filter(|(_, probe)| probe.method == Method::Echo).count();
    assert_eq!(echoes, 1, "once is enough to know");
    assert_eq!(world.prober.found(Time::from_secs(18)).len(), 2);
}

#[test]
fn a_low_quantile_of_late_answers_is_told_until_it_is_old() {
    let mut millis = [90, 20, 30, 25, 800].into_iter();
    let answer = move |_, _| Outcome::Took(Duration::from_millis(millis.next().unwrap_or(50)));
    let mut world = World::new(pace(1_000, 10_000), answer);
    world.feed(Time::from_secs(9), Input::Targets(vec![ip(1)]));
    world.run(Time::from_secs(9 + 52));
    let told = world.prober.found(Time::from_secs(70));
    assert_eq!((told[0].rtt_us, told[0].samples, told[0].age), (25_000, 5, Age::Recent));
    // It left the list: nothing more is asked, and what is known is told until it is forgotten.
    world.feed(Time::from_secs(70), Input::Targets(vec![]));
    assert_eq!(world.prober.next_deadline(), None);
    assert_eq!(world.prober.found(Time::from_secs(3 * 3600))[0].age, Age::PartOfDay);
    assert_eq!(world.prober.found(Time::from_secs(25 * 3600)), []);
}

#[test]
fn what_nobody_asked_for_teaches_nothing() {
    let mut prober = Prober::new(pace(1_000, 10_000), 1);
    let probe = Probe { address: ip(1), method: Method::Echo };
    prober.handle(Time::from_secs(1), Input::Done { probe, outcome: TOOK });
    prober.handle(Time::from_secs(1), Input::Targets(vec![ip(1)]));
    prober.handle(Time::from_secs(1), Input::Done { probe, outcome: TOOK });
    assert_eq!(prober.found(Time::from_secs(2)), []);
    prober.handle(Time::from_secs(3), Input::Timer);
    assert_eq!(prober.poll_output(), Some(probe));
    (0..3).for_each(|_| prober.handle(Time::from_secs(4), Input::Done { probe, outcome: TOOK }));
    assert_eq!(prober.found(Time::from_secs(4))[0].samples, 1, "an answer counts once");
}

proptest! {
    /// Whatever lists come, whoever answers, and however late the caller is.
    #[test]
    fn nobody_is_bothered_more_than_was_promised(
        seed in any::<u64>(),
        gap in 1u64..2_000,
        again in 1u64..20_000,
        steps in prop::collection::vec((0u64..5_000, 0u8..4, prop::collection::vec(0u32..40, 0..30)), 1..120),
    ) {
        let pace = pace(gap, again);
        let mut prober = Prober::new(pace, seed);
        let mut now = Time::from_secs(5);
        let mut list = Vec::new();
        let mut made: Vec<(Time, Probe)> = Vec::new();
        let mut silent = BTreeMap::<IpAddr, u32>::new();
        for (step, what, targets) in steps {
            now = now + Duration::from_millis(step);
            if what == 0 {
                list = targets.iter().map(|n| ip(*n)).collect();
                // Who left is remembered for as long as it rests, not for ever.
                silent.retain(|address, _| list.contains(address));
                prober.handle(now, Input::Targets(list.clone()));
            } else {
                prober.handle(now, Input::Timer);
            }
            while let Some(probe) = prober.poll_output() {
                prop_assert!(list.contains(&probe.address), "not on the list: {:?}", probe);
                let before = made.iter().rev().find(|(_, other)| other.address == probe.address);
                if let Some((before, _)) = before {
                    let silent = silent.get(&probe.address).copied().unwrap_or(0);
                    prop_assert!(now.since(*before) >= pace.pause(silent), "too soon: {:?}", probe);
                }
                made.push((now, probe));
                let outcome = [Outcome::Silent, TOOK][usize::from(what > 1)];
                *silent.entry(probe.address).or_default() += 1;
                if outcome == TOOK {
                    silent.insert(probe.address, 0);
                }
                prober.handle(now, Input::Done { probe, outcome });
            }
            prop_assert!(prober.known.len() <= KNOWN_MAX);
        }
        for pair in made.windows(2) {
            prop_assert!(pair[1].0.since(pair[0].0) >= pace.gap);
        }
    }

}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(16))]

    /// With more than can be remembered coming and going, limits still hold.
    #[test]
    fn churn_does_not_evade_the_pause(seed in any::<u64>()) {
        let pace = pace(1, 3_000_000);
        let lists = |round: u32| (0..FOUND_MAX as u32).map(move |n| ip((round % 6) * 512 + n)).collect();
        let mut prober = Prober::new(pace, seed);
        let mut last = BTreeMap::<IpAddr, Time>::new();
        let mut now = Time::from_secs(5);
        for round in 0..12u32 {
            prober.handle(now, Input::Targets(lists(round)));
            for _ in 0..600 {
                now = now + Duration::from_millis(2);
                prober.handle(now, Input::Timer);
                while let Some(probe) = prober.poll_output() {
                    prop_assert!(last.insert(probe.address, now).is_none_or(|at| now.since(at) >= pace.again));
                    prober.handle(now, Input::Done { probe, outcome: TOOK });
                }
            }
            prop_assert!(prober.known.len() <= KNOWN_MAX);
        }
        prop_assert!(last.len() > FOUND_MAX);
    }
}
