//! How fast answers are signed here, on one processor.
//!
//! ```text
//! cargo run --release -p godwit-dns-plugin --example sign_speed
//! ```

use godwit_dns_plugin::dnssec::{
    Algorithm, Asked, ColdLimits, Options, Role, Signer, SigningKey, Store, Times, ZoneKey,
};
use godwit_dns_plugin::{Cache, Clock, Reply};
use hickory_server::proto::op::ResponseCode;
use hickory_server::proto::rr::rdata::{A, SOA};
use hickory_server::proto::rr::{Name, RData, Record, RecordType};
use std::error::Error;
use std::sync::Arc;

/// Names asked for; each once without and then with its signature in the cache.
const NAMES: usize = 20_000;

fn main() -> Result<(), Box<dyn Error>> {
    let zone = Name::from_ascii("edge.example.org.")?;
    let now = Clock::Host.now();
    for algorithm in [Algorithm::EcdsaP256, Algorithm::Ed25519] {
        let key = Arc::new(SigningKey::generate(algorithm)?);
        let key = ZoneKey { key, role: Role::Csk, times: Times::first(now, Role::Csk) };
        let unlimited = ColdLimits { per_second: u32::MAX, per_prefix_per_second: u32::MAX };
        let options = Options { cold: unlimited, ..Options::default() };
        let signer = Signer::new(now, &zone, vec![key], options, Store::new(&options))?;
        for (what, positive) in [("three addresses", true), ("no such name", false)] {
            let names: Vec<Name> =
                (0..NAMES).map(|n| zone.prepend_label(format!("n{n}"))).collect::<Result<_, _>>()?;
            for state in ["cold", "warm"] {
                let replies: Vec<Reply> = names.iter().map(|name| reply(name, &zone, positive)).collect();
                let begin = processor_secs();
                for (name, mut reply) in names.iter().zip(replies) {
                    let mut asked = Asked::new(name, RecordType::A, [192, 0, 2, 1].into(), true);
                    asked.set_up = positive;
                    signer.sign(now, &asked, |_| vec![RecordType::A], &mut reply)?;
                    std::hint::black_box(&reply);
                }
                let micros = (processor_secs() - begin) * 1e6 / NAMES as f64;
                println!("{algorithm:10}  {what:15}  {state}  {micros:7.2} us  {:9.0}/s", 1e6 / micros);
            }
        }
        println!("{algorithm:10}  held {:?}", signer.store().held());
    }
    Ok(())
}

/// Time on a processor of this thread: right on a busy machine too.
fn processor_secs() -> f64 {
    let text = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap_or_default();
    text.split(' ').next().and_then(|nanos| nanos.parse::<f64>().ok()).unwrap_or(f64::NAN) / 1e9
}

fn reply(name: &Name, zone: &Name, positive: bool) -> Reply {
    let address = |last| Record::from_rdata(name.clone(), 60, RData::A(A::new(198, 51, 100, last)));
    let soa = SOA::new(zone.clone(), zone.clone(), 1, 3600, 600, 604_800, 5);
    let soa = Record::from_rdata(zone.clone(), 5, RData::SOA(soa));
    Reply {
        code: if positive { ResponseCode::NoError } else { ResponseCode::NXDomain },
        authoritative: true,
        answers: if positive { (1..=3).map(address).collect() } else { Vec::new() },
        authority: if positive { Vec::new() } else { vec![soa] },
        additional: Vec::new(),
        scope: 0,
        modest: false,
        cache: Cache::Choice,
        decided: None,
        until: godwit_core::time::Time::NEVER,
    }
}
