//! What strangers send, what comes twice, changed or cut off, and what a member must not send: nothing of
//! it reaches a kernel, and nothing is answered.

use crate::in_own_network;
use crate::world::{End, HOME_V4, KEY, Return, World, ip, wait, world, world_by_way_of};
use godwit_core::tunnel::{Cipher, Header, KeyId};
use godwit_net::tunnel::{Kept, Reason, Way};
use std::net::{SocketAddr, UdpSocket};
use std::time::Duration;

const PATIENCE: Duration = Duration::from_secs(30);
/// So many at a time, which sockets have room for.
const CHUNK: usize = 200;

#[test]
fn strangers_replays_and_changed_packets() {
    in_own_network("attack::strangers_replays_and_changed_packets", || {
        let tap: SocketAddr = "10.2.0.2:5000".parse().unwrap();
        let world = world_by_way_of(Some(tap), false, Cipher::Aes256Gcm, true, Return::Reverse);
        let tap = world.cables.node.run(|| UdpSocket::bind(tap)).unwrap();
        tap.set_read_timeout(Some(PATIENCE)).unwrap();
        let genuine = genuine(&world, &tap, 500);
        // The last is kept back: a changed packet must not count as the genuine one.
        let (kept_back, sent) = genuine.split_last().unwrap();
        send_all(&world.node, &tap, sent.iter().cloned(), None, sent.len());
        let delivered = world.node.engine.counts().delivered;
        assert_eq!(delivered, sent.len() as u64);

        let replayed = sent.iter().cycle().take(40_000).cloned();
        send_all(&world.node, &tap, replayed, Some(&[Reason::Replayed]), 40_000);
        let bits = 8 * kept_back.len();
        let changed = (0..40_000).map(|number| {
            let mut datagram = kept_back.clone();
            datagram[number % bits / 8] ^= 1 << (number % 8);
            datagram
        });
        // A changed counter may be one that was taken, a changed number that of no key.
        let reasons = [Reason::Forged, Reason::Header, Reason::Stranger, Reason::Replayed];
        send_all(&world.node, &tap, changed, Some(&reasons), 40_000);
        let cut = (0..kept_back.len()).cycle().take(10_000).map(|len| kept_back[..len].to_vec());
        send_all(&world.node, &tap, cut, Some(&[Reason::Forged, Reason::Header]), 10_000);
        let strangers = (0..10_000u32).map(|number| {
            let mut datagram = kept_back.clone();
            let header = Header { key: KeyId(KEY.0 + 1 + number), ..Header::decode(&datagram).unwrap() };
            datagram[..16].copy_from_slice(&header.encode());
            datagram
        });
        send_all(&world.node, &tap, strangers, Some(&[Reason::Stranger]), 10_000);

        assert_eq!(world.node.engine.counts().delivered, delivered, "nothing of all that");
        tap.set_nonblocking(true).unwrap();
        assert!(tap.recv(&mut [0; 2000]).is_err(), "nothing was answered");
        send_all(&world.node, &tap, std::iter::once(kept_back.clone()), None, 1);
        assert_eq!(world.node.engine.counts().delivered, delivered + 1, "the genuine one still counts");
    });
}

#[test]
fn members_that_send_what_they_must_not() {
    in_own_network("attack::members_that_send_what_they_must_not", || {
        let world = world(false, Cipher::Aes256Gcm, true, Return::Reverse);
        let (home, client, other) = (HOME_V4, "10.1.0.2", "10.1.0.1");
        let nested = {
            let header = [&[0x11, 0, 0, 0][..], &KEY.0.to_be_bytes(), &[0; 8 + 20]].concat();
            packet(home, client, &[&[0x10, 0x5f, 0x10, 0x5f, 0, 44, 0, 0][..], &header].concat())
        };
        let mut lying = packet(home, client, &[0; 20]);
        lying[3] += 8;
        let plain = |from, to| packet(from, to, &[0x10, 0, 0x10, 0, 0, 8, 0, 0]);
        for (from_node, bytes, reason) in [
            (true, plain(other, client), Reason::Foreign),
            (false, plain(client, other), Reason::Foreign),
            (true, nested.clone(), Reason::Nested),
            (false, nested, Reason::Nested),
            (true, vec![0x45; 10], Reason::Malformed),
            (true, lying, Reason::Malformed),
        ] {
            let ends = [&world.home_agent, &world.node];
            let [to, from] = if from_node { ends } else { [ends[1], ends[0]] };
            let way = Way { key: KEY, to: to.address, before: None, relayed: false };
            let before = to.engine.counts();
            // What is no packet at all is not even sealed.
            let at = if bytes.len() < 20 || bytes[3] as usize > bytes.len() { from } else { to };
            let count = |end: &End| end.engine.counts().dropped[&reason];
            let old = count(at);
            from.engine.pass(&way, &vec![Kept::whole(&bytes); 1000]);
            wait(|| count(at) == old + 1000, at);
            let after = to.engine.counts();
            assert_eq!((after.delivered, after.relayed), (before.delivered, before.relayed), "{reason}");
        }
    });
}

fn packet(from: &str, to: &str, upper: &[u8]) -> Vec<u8> {
    let octets = |text| match ip(text) {
        std::net::IpAddr::V4(ip) => ip.octets(),
        std::net::IpAddr::V6(_) => unreachable!(),
    };
    let len = (20 + upper.len()) as u8;
    [&[0x45, 0, 0, len, 0, 0, 0x40, 0, 64, 17, 0, 0], &octets(from)[..], &octets(to), upper].concat()
}

/// What a home agent has sealed, as it comes to the tap.
fn genuine(world: &World, tap: &UdpSocket, count: usize) -> Vec<Vec<u8>> {
    let client = world.cables.client.run(|| UdpSocket::bind("10.1.0.2:0")).unwrap();
    let mut genuine = Vec::new();
    while genuine.len() < count {
        client.send_to(&[genuine.len() as u8; 100], (ip(HOME_V4), 9)).unwrap();
        let mut datagram = [0; 2000];
        let len = tap.recv(&mut datagram).unwrap();
        genuine.push(datagram[..len].to_vec());
    }
    genuine
}

/// Sends these to an end, and waits until all are delivered, or dropped for one of `reasons`.
fn send_all(
    end: &End,
    tap: &UdpSocket,
    datagrams: impl Iterator<Item = Vec<u8>>,
    reasons: Option<&[Reason]>,
    count: usize,
) {
    let seen = || {
        let counts = end.engine.counts();
        match reasons {
            Some(reasons) => reasons.iter().map(|reason| counts.dropped[reason]).sum(),
            None => counts.delivered,
        }
    };
    let before = seen();
    let mut sent = 0;
    for datagram in datagrams {
        tap.send_to(&datagram, end.address).unwrap();
        sent += 1;
        if sent % CHUNK as u64 == 0 {
            wait(|| seen() == before + sent, end);
        }
    }
    assert_eq!(sent, count as u64);
    wait(|| seen() == before + sent, end);
}
