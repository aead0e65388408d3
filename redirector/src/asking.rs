//! Which resolvers ask without a client subnet, from a sample of the queries over UDP.
//!
//! Off until somebody wants to know. Then each UDP thread hands over the source of one query in so
//! many, at random distances. What that costs a query is one subtraction; a query that is sampled
//! costs a look at its options and a try for a lock, and when another thread has that lock the sample
//! is lost. [`Asking::run`] takes the samples once a second, counts them
//! ([`godwit_core::resolver::Askers`]) and sets how many queries stand for one sample, so that there
//! are some [`SAMPLES_AIM`] a second however many queries come.
//!
//! Only queries for names that exist and whose source decides are counted: those without a client
//! subnet option, and those that ask for none to be used (RFC 7871, 7.1.2: source prefix length 0).

use godwit_core::resolver::{ASKED_MAX, Askers, Rules};
use godwit_dns_plugin::screen::{Screened, screen};
use std::hash::{BuildHasher, RandomState};
use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::sync::watch;

/// Samples that wait to be counted; what is beyond is lost. 17 KiB.
const SAMPLES_MAX: usize = 1024;
/// So many samples a second are aimed at.
const SAMPLES_AIM: u64 = 256;
/// At the most so many queries stand for one sample.
const ONE_IN_MAX: u64 = 1 << 20;
/// How often samples are counted.
const TAKE_PERIOD: Duration = Duration::from_secs(1);
/// How often, in such periods, the list is made: the first one soon, so that a restart is short.
const LIST_PERIODS: u64 = 30;
const FIRST_LIST: u64 = 5;
/// How often, in such periods, half of what was counted is forgotten.
const FADE_PERIODS: u64 = 600;
/// Who asked less often than this lately is not worth a probe.
const LEAST: u64 = 3;

/// Who asks. Cheap to clone; all clones are one.
#[derive(Clone, Default)]
pub struct Asking(Arc<Inner>);

#[derive(Default)]
struct Inner {
    /// One query in so many is sampled; 0: none.
    one_in: AtomicU32,
    sources: Mutex<Vec<IpAddr>>,
}

impl Asking {
    /// Counts who asks for as long as somebody listens to `lists`: each time the prefixes that ask
    /// most, one address of each, the heaviest first, and none that `rules` forbid.
    pub async fn run(self, rules: Rules, lists: watch::Sender<Vec<IpAddr>>) {
        let mut counting = Counting::default();
        let mut every = tokio::time::interval(TAKE_PERIOD);
        every.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        self.0.one_in.store(1, Ordering::Relaxed);
        loop {
            tokio::select! {
                _ = every.tick() => {}
                () = lists.closed() => break,
            }
            if let Some(list) = counting.step(&rules, self.take()) {
                lists.send_if_modified(|told| {
                    let news = *told != list;
                    *told = list;
                    news
                });
            }
        }
        self.0.one_in.store(0, Ordering::Relaxed);
    }

    /// The samples since the last call, each with how many queries it stands for.
    fn take(&self) -> impl Iterator<Item = (IpAddr, u64)> + use<> {
        let room = Vec::with_capacity(SAMPLES_MAX);
        let samples =
            std::mem::replace(&mut *self.0.sources.lock().unwrap_or_else(PoisonError::into_inner), room);
        let one_in = u64::from(self.0.one_in.load(Ordering::Relaxed)).max(1);
        let next = (one_in * samples.len() as u64 / SAMPLES_AIM).clamp(1, ONE_IN_MAX);
        self.0.one_in.store(next as u32, Ordering::Relaxed);
        samples.into_iter().map(move |source| (source, one_in))
    }
}

/// What was counted so far.
#[derive(Default)]
struct Counting {
    askers: Askers,
    periods: u64,
}

impl Counting {
    /// A period has passed with these samples; a list when one is due.
    fn step(&mut self, rules: &Rules, samples: impl Iterator<Item = (IpAddr, u64)>) -> Option<Vec<IpAddr>> {
        let allowed = samples.filter(|(source, _)| rules.allow(*source));
        allowed.for_each(|(source, weight)| self.askers.add(source, weight));
        self.periods += 1;
        if self.periods.is_multiple_of(FADE_PERIODS) {
            self.askers.fade();
        }
        (self.periods % LIST_PERIODS == FIRST_LIST).then(|| self.askers.heaviest(ASKED_MAX, LEAST))
    }
}

/// A thread's own part.
pub(crate) struct Sampler {
    asking: Asking,
    /// One query in so many is sampled; 0: none.
    one_in: u32,
    /// How many queries until the next sample.
    left: u32,
    random: u64,
}

impl Sampler {
    pub(crate) fn new(asking: Asking) -> Sampler {
        Sampler { asking, one_in: 0, left: u32::MAX, random: RandomState::new().hash_one(0u8) | 1 }
    }

    /// Follows the rate: to be called for each batch.
    #[inline]
    pub(crate) fn follow(&mut self) {
        let one_in = self.asking.0.one_in.load(Ordering::Relaxed);
        if one_in != self.one_in {
            self.one_in = one_in;
            self.left = self.distance();
        }
    }

    /// Takes note of a query that was answered, perhaps.
    #[inline]
    pub(crate) fn answered(&mut self, packet: &[u8], source: SocketAddr) {
        self.left -= 1;
        if self.left == 0 {
            self.sample(packet, source);
        }
    }

    #[cold]
    fn sample(&mut self, packet: &[u8], source: SocketAddr) {
        self.left = self.distance();
        if self.one_in > 0
            && decides(packet)
            && let Ok(mut sources) = self.asking.0.sources.try_lock()
            && sources.len() < sources.capacity()
        {
            sources.push(source.ip().to_canonical());
        }
    }

    /// 1 to twice the mean less one: the mean, on average.
    fn distance(&mut self) -> u32 {
        if self.one_in == 0 {
            return u32::MAX;
        }
        // xorshift64 (Marsaglia 2003): never zero.
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        (self.random % (u64::from(self.one_in) * 2 - 1)) as u32 + 1
    }
}

/// Whether the source of a query decides its answer.
fn decides(packet: &[u8]) -> bool {
    match screen(packet) {
        Screened::Pass(query) => {
            let subnet = query.edns.as_ref().and_then(|opt| opt.subnet);
            subnet.is_none_or(|subnet| subnet.source == 0)
        }
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use hickory_server::proto::op::{Edns, Message, Query};
    use hickory_server::proto::rr::rdata::opt::{ClientSubnet, EdnsOption};
    use hickory_server::proto::rr::{Name, RecordType};

    fn query(subnet: Option<&str>) -> Vec<u8> {
        let mut message = Message::query();
        message.add_query(Query::query(Name::from_ascii("www.edge.example.").unwrap(), RecordType::A));
        if let Some(subnet) = subnet {
            let subnet: ipnet::IpNet = subnet.parse().unwrap();
            let option = ClientSubnet::new(subnet.addr(), subnet.prefix_len(), 0);
            let mut edns = Edns::new();
            edns.options_mut().insert(EdnsOption::Subnet(option));
            message.set_edns(edns);
        }
        message.to_vec().unwrap()
    }

    #[test]
    fn a_source_decides_where_no_subnet_does() {
        assert!(decides(&query(None)));
        assert!(decides(&query(Some("0.0.0.0/0"))));
        assert!(!decides(&query(Some("203.0.113.0/24"))));
        assert!(!decides(&[0; 11]));
    }

    fn answer(sampler: &mut Sampler, count: usize, source: &str) {
        let (packet, source) = (query(None), source.parse().unwrap());
        // A batch at a time, as threads do.
        for left in (1..=count).rev() {
            if left % 64 == 1 {
                sampler.follow();
            }
            sampler.answered(&packet, source);
        }
    }

    #[test]
    fn samples_stand_for_all_queries_however_many() {
        let asking = Asking::default();
        let mut sampler = Sampler::new(asking.clone());
        answer(&mut sampler, 5_000, "9.9.9.9:53");
        assert_eq!(asking.take().count(), 0, "nobody wants to know");
        asking.0.one_in.store(1, Ordering::Relaxed);
        sampler.follow();
        // The first second is cut off at what fits; then the rate follows.
        answer(&mut sampler, 100_000, "9.9.9.9:53");
        assert_eq!(asking.take().map(|(_, weight)| weight).sum::<u64>(), SAMPLES_MAX as u64);
        for _ in 0..8 {
            answer(&mut sampler, 100_000, "9.9.9.9:53");
            asking.take().for_each(drop);
        }
        answer(&mut sampler, 100_000, "9.9.9.9:53");
        let (samples, weight) = asking.take().fold((0, 0), |(n, sum), (_, weight)| (n + 1, sum + weight));
        assert!((128..=512).contains(&samples), "{samples}");
        assert!((70_000..=130_000).contains(&weight), "{weight}");
        // Hardly anybody asks any more: soon each counts again.
        for _ in 0..6 {
            answer(&mut sampler, 500, "9.9.9.9:53");
            asking.take().for_each(drop);
        }
        answer(&mut sampler, 100, "9.9.9.9:53");
        assert!(asking.take().count() >= 20);
    }

    #[test]
    fn the_list_has_who_asks_often_and_may_be_asked() {
        let rules = Rules { never: vec!["8.8.8.0/24".parse().unwrap()], also: Vec::new() };
        let mut counting = Counting::default();
        let ip = |text: &str| text.parse::<IpAddr>().unwrap();
        let samples = [("9.9.9.9", 5), ("8.8.8.8", 50), ("10.0.0.1", 50), ("1.1.1.1", 2)];
        let samples = samples.map(|(source, weight)| (ip(source), weight));
        assert_eq!(counting.step(&rules, samples.into_iter()), None);
        let mut lists =
            (0..FADE_PERIODS + LIST_PERIODS).filter_map(|_| counting.step(&rules, [].into_iter()));
        assert_eq!(lists.next(), Some(vec![ip("9.9.9.9")]));
        assert_eq!(lists.last(), Some(vec![]), "forgotten");
    }
}
