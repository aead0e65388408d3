//! Paths that are narrower than was thought: senders are told, and segments are made to fit where they
//! are not.

use crate::in_own_network;
use crate::world::{HOME_V4, HOME_V6, KEY, Return, World, ip, key, world};
use godwit_core::tunnel::Cipher;
use godwit_net::netlink::{LinkSettings, Netlink, interface_index};
use godwit_net::tunnel::{Reason, Side};
use socket2::SockRef;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::time::Duration;

const PATIENCE: Duration = Duration::from_secs(30);

#[test]
fn a_narrow_path_is_learnt_and_told() {
    in_own_network("narrow::a_narrow_path_is_learnt_and_told", || {
        let world = world(false, Cipher::Aes256Gcm, true, Return::Direct);
        narrow(&world, 1400);
        for home in [HOME_V4, HOME_V6] {
            transfer(&world, home, 4 << 20);
        }
        let counts = world.home_agent.engine.counts();
        assert_eq!(world.home_agent.engine.mtu(KEY), Some(1340), "{counts:?}");
        assert!(counts.dropped[&Reason::Unsent] > 0 && counts.dropped[&Reason::TooBig] > 0, "{counts:?}");
        assert!((1..=100).contains(&counts.errors_sent), "{counts:?}");
    });
}

#[test]
fn a_narrow_tunnel_needs_no_errors_where_segments_are_lowered() {
    in_own_network("narrow::a_narrow_tunnel_needs_no_errors_where_segments_are_lowered", || {
        let world = world(false, Cipher::Aes256Gcm, true, Return::Reverse);
        for (end, side) in [(&world.home_agent, Side::HomeAgent), (&world.node, Side::Node)] {
            end.engine.install(key(), side, Cipher::Aes256Gcm, 1300).unwrap();
            assert_eq!(end.engine.mtu(KEY), Some(1300));
        }
        for (home, mss) in [(HOME_V4, 1300 - 40 - 12), (HOME_V6, 1300 - 60 - 12)] {
            assert_eq!(transfer(&world, home, 1 << 20), mss, "less the timestamps");
        }
        let counts = world.home_agent.engine.counts();
        assert_eq!((counts.errors_sent, counts.dropped[&Reason::TooBig]), (0, 0), "{counts:?}");
    });
}

/// The cable between home agent and node carries less from now on.
fn narrow(world: &World, mtu: u32) {
    for (host, name) in [(&world.cables.home_agent, "n"), (&world.cables.node, "h")] {
        let settings = LinkSettings { mtu: Some(mtu), ..LinkSettings::default() };
        host.run(|| Netlink::open()?.set_up(interface_index(name)?, settings)).unwrap();
    }
}

/// Uploads; answers the segment size that the client uses.
fn transfer(world: &World, home: &str, len: usize) -> u32 {
    let listener = world.cables.node.run(|| TcpListener::bind((ip(home), 0))).unwrap();
    let to = listener.local_addr().unwrap();
    let mut client = world.cables.client.run(|| TcpStream::connect(to)).unwrap();
    client.set_write_timeout(Some(PATIENCE)).unwrap();
    let mss = SockRef::from(&client).tcp_mss().unwrap();
    let (mut server, _) = listener.accept().unwrap();
    server.set_read_timeout(Some(PATIENCE)).unwrap();
    std::thread::scope(|scope| {
        scope.spawn(|| {
            client.write_all(&vec![5; len]).unwrap();
            client.shutdown(std::net::Shutdown::Write).unwrap();
        });
        let mut bytes = Vec::new();
        server.read_to_end(&mut bytes).unwrap();
        assert!(bytes == vec![5; len], "{} of {len} octets", bytes.len());
    });
    mss
}
