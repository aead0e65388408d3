//! Members for the tests: an authority, certificates, overlays on loopback, and waiting.

use bytes::Bytes;
use godwit_core::admission::Admission;
use godwit_core::certificate::{
    Authority, Invitation, JoinToken, MemberCertificate, Revocation, Role, Serial, Validity,
};
use godwit_core::key::{MemberId, SecretKey};
use godwit_core::time::Time;
use godwit_overlay::{Config, Event, Overlay, Paths, TransportKind};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::mpsc;
use tokio::time::timeout;

/// Nothing here takes this long unless it is broken.
pub const GENEROUS: Duration = Duration::from_secs(30);

/// The time in all tests.
pub const NOW: Time = Time::from_secs(10_000);

/// A network: an authority and the certificates it leads to.
pub struct Network {
    pub authority: Authority,
}

impl Network {
    pub fn new(seed: u8) -> Network {
        let zone = "edge.example.org".parse().unwrap();
        Network { authority: Authority { key: SecretKey::from_seed(&[seed; 32]), zone } }
    }

    pub fn token(&self, serial: u64, founder: bool, not_after: u64) -> JoinToken {
        let mut seed = [serial as u8; 32];
        seed[0] = self.authority.key.public().as_bytes()[0];
        self.authority.invite(
            Invitation {
                serial: Serial(serial),
                name: format!("member-{serial}").parse().unwrap(),
                region: "eu-nuernberg".parse().unwrap(),
                place: None,
                roles: vec![Role::Node],
                validity: Validity { not_before: Time::from_secs(0), not_after: Time::from_secs(not_after) },
                redeem_by: Time::from_secs(not_after),
                founder,
                bootstrap: Vec::new(),
            },
            &seed,
        )
    }

    /// A certificate that sponsors itself: enough to be admitted by anybody in the network.
    pub fn founder(&self, serial: u64, key: &SecretKey) -> MemberCertificate {
        self.founder_until(serial, key, 1_000_000)
    }

    pub fn founder_until(&self, serial: u64, key: &SecretKey, not_after: u64) -> MemberCertificate {
        let at = Time::from_secs(1);
        self.token(serial, true, not_after).redeem(at, key.public()).sponsor(at, key)
    }

    pub fn admission(&self) -> Admission {
        Admission { network: Some(self.authority.key.public()), ..Admission::default() }
    }

    /// A configuration for member number `n` on loopback.
    pub fn config(&self, n: u8, paths: Paths) -> Config {
        let key = key(n);
        let certificate = self.founder(u64::from(n), &key);
        let mut config = Config::new(key, certificate, 1, Arc::new(|| NOW));
        config.listen = vec!["127.0.0.1:0".parse().unwrap()];
        config.admission = self.admission();
        config.paths = paths;
        config
    }

    pub async fn start(&self, n: u8, paths: Paths) -> Member {
        Member::start(self.config(n, paths)).await
    }
}

pub fn key(n: u8) -> SecretKey {
    SecretKey::from_seed(&[n; 32])
}

pub fn id(n: u8) -> MemberId {
    key(n).public()
}

/// A running overlay and what it tells.
pub struct Member {
    pub id: MemberId,
    pub overlay: Overlay,
    pub events: mpsc::Receiver<Event>,
}

impl Member {
    pub async fn start(config: Config) -> Member {
        let id = config.key.public();
        let (overlay, events) = godwit_overlay::start(config).await.unwrap();
        Member { id, overlay, events }
    }

    pub fn address(&self) -> SocketAddr {
        self.overlay.addresses()[0]
    }

    /// The next event that `pick` picks; others are passed over.
    pub async fn wait<T>(&mut self, what: &str, mut pick: impl FnMut(&Event) -> Option<T>) -> T {
        let mut passed = Vec::new();
        let picked = timeout(GENEROUS, async {
            loop {
                let event = self.events.recv().await.expect("the overlay runs");
                if let Some(picked) = pick(&event) {
                    return picked;
                }
                if !matches!(event, Event::Rtt { .. }) {
                    passed.push(event);
                }
            }
        });
        match picked.await {
            Ok(picked) => picked,
            Err(_) => panic!("{:?} waited for {what} in vain; instead: {passed:?}", self.id),
        }
    }

    pub async fn wait_up(&mut self, who: MemberId) -> TransportKind {
        self.wait("PeerUp", |event| match event {
            Event::PeerUp { peer, transport, .. } if *peer == who => Some(*transport),
            _ => None,
        })
        .await
    }

    pub async fn wait_down(&mut self, who: MemberId) {
        self.wait("PeerDown", |event| (*event == Event::PeerDown { peer: who }).then_some(())).await
    }

    pub async fn wait_message(&mut self, who: MemberId) -> Bytes {
        self.wait("Message", |event| match event {
            Event::Message { from, bytes } if *from == who => Some(bytes.clone()),
            _ => None,
        })
        .await
    }

    pub async fn wait_refused(&mut self) -> String {
        self.wait("Refused", |event| match event {
            Event::Refused { why, .. } => Some(why.clone()),
            _ => None,
        })
        .await
    }

    /// Until somebody refuses this member and shows that it was revoked.
    pub async fn wait_shown(&mut self) -> Revocation {
        self.wait("a revocation", |event| match event {
            Event::Refused { revocation, .. } => revocation.as_deref().cloned(),
            _ => None,
        })
        .await
    }

    pub async fn wait_dial_failed(&mut self) -> String {
        self.wait("DialFailed", |event| match event {
            Event::DialFailed { why, .. } => Some(why.clone()),
            _ => None,
        })
        .await
    }

    /// All events that are there.
    pub fn drain(&mut self) -> Vec<Event> {
        let mut events = Vec::new();
        while let Ok(event) = self.events.try_recv() {
            events.push(event);
        }
        events
    }
}

/// Two members that are connected; the first dialled.
pub async fn connected(network: &Network, paths: Paths) -> (Member, Member) {
    let mut a = network.start(1, paths).await;
    let mut b = network.start(2, paths).await;
    connect(&mut a, &mut b).await;
    (a, b)
}

pub async fn connect(a: &mut Member, b: &mut Member) {
    a.overlay.dial(b.id, vec![b.address()]);
    a.wait_up(b.id).await;
    b.wait_up(a.id).await;
}
