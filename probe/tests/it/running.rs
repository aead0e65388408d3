//! A runner with real probes and a service that stops and starts answering.

use futures::FutureExt;
use futures::future::BoxFuture;
use godwit_core::health::{Check, Failure, HttpProbe, Method, Opinion, Pace, Probe, Target};
use godwit_core::key::SecretKey;
use godwit_core::time::Time;
use godwit_probe::http::{Request, judge};
use godwit_probe::{Fault, Prober, Report, Runner, Vantage};
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

fn clock() -> Time {
    static START: OnceLock<Instant> = OnceLock::new();
    Time::from_millis(START.get_or_init(Instant::now).elapsed().as_millis() as u64)
}

struct Probes {
    prober: Prober,
    address: SocketAddr,
    ended: AtomicUsize,
}

impl Vantage for Probes {
    fn probe(&self, _: &Target, check: &Check) -> BoxFuture<'static, Result<Duration, Fault>> {
        let (prober, address, timeout) = (self.prober.clone(), self.address, check.pace.timeout);
        let Probe::Http(probe) = check.probe.clone() else { panic!("only HTTP here") };
        async move {
            let answer = prober.http(address, &Request::of(&probe), timeout).await?;
            Ok(judge(&probe, &answer)?)
        }
        .boxed()
    }

    fn ended(&self, _: &Target, _: &Check, _: &Result<Duration, Fault>) {
        self.ended.fetch_add(1, Ordering::Relaxed);
    }

    fn turned(&self, _: &Target, _: Opinion, _: Opinion, _: Option<Failure>) {}
}

#[tokio::test]
async fn a_service_that_hangs_is_found_and_forgiven() {
    let hangs = Arc::new(AtomicBool::new(false));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn({
        let hangs = hangs.clone();
        async move {
            let mut open = Vec::new();
            while let Ok((mut stream, _)) = listener.accept().await {
                if !hangs.load(Ordering::Relaxed) {
                    let _ = stream.read(&mut [0; 1024]).await;
                    let _ = stream.write_all(b"HTTP/1.1 204 No Content\r\n\r\n").await;
                } else {
                    open.push(stream);
                }
            }
        }
    });
    let ms = Duration::from_millis;
    // Patient enough for a loaded machine, and quick enough for a test.
    let pace = Pace { period: ms(1000), fast: ms(250), timeout: ms(1000), hold: ms(500), ..Pace::default() };
    let (tls, host, path) = (None, None, "/".to_owned());
    let http = HttpProbe { tls, port: 80, method: Method::Get, path, host, status: vec![], body: None };
    let check =
        Check { name: "web".parse().unwrap(), probe: Probe::Http(Box::new(http)), pace, sites: vec![] };
    let member = SecretKey::from_seed(&[1; 32]).public();
    let (_targets, followed) = watch::channel(vec![(member, check)]);
    let (report, mut reports) = watch::channel(Arc::new(Report::default()));
    let vantage = Arc::new(Probes { prober: Prober::new(), address, ended: AtomicUsize::new(0) });
    let stop = CancellationToken::new();
    let runner =
        Runner { vantage: vantage.clone(), clock, seed: 1, targets: followed, report, stop: stop.clone() };
    let task = tokio::spawn(runner.run());
    let is = |opinion| move |report: &Arc<Report>| report.verdicts.iter().any(|v| v.opinion == opinion);
    let mut wait = async |opinion| {
        tokio::time::timeout(ms(30_000), reports.wait_for(is(opinion))).await.unwrap().unwrap().clone()
    };
    wait(Opinion::Up).await;
    hangs.store(true, Ordering::Relaxed);
    let down = wait(Opinion::Down).await;
    assert_eq!(down.verdicts[0].why, Some(Failure::Timeout));
    assert_eq!(down.watched.len(), 1);
    hangs.store(false, Ordering::Relaxed);
    wait(Opinion::Up).await;
    assert!(vantage.ended.load(Ordering::Relaxed) >= 5);
    stop.cancel();
    task.await.unwrap();
}
