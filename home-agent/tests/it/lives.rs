//! Home agents come and go; flows do not notice.

use crate::carries::connect;
use crate::net::HOME_V4;
use crate::world::Test;
use crate::{in_own_network, wait};
use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Instant;

fn echo(stream: &mut TcpStream, word: &[u8]) {
    stream.write_all(word).unwrap();
    let mut got = vec![0; word.len()];
    stream.read_exact(&mut got).unwrap();
    assert_eq!(got, word);
}

#[test]
fn connections_outlive_a_home_agent() {
    in_own_network("lives::connections_outlive_a_home_agent", || {
        let mut test = Test::new(1, 2);
        let mut streams: Vec<_> = (0..8).map(|_| connect(&test, HOME_V4.into())).collect();
        streams.iter_mut().for_each(|stream| echo(stream, b"before"));
        // All that it knew is gone: keys, bindings, and its life's number.
        drop(test.home_agents.remove(&0));
        wait("device and port are free", || {
            let gone = || {
                let gone = godwit_net::netlink::interface_index("godwit0").is_err();
                Ok(gone && std::net::UdpSocket::bind(Test::home_agent_at(0)).is_ok())
            };
            test.net.host("ha0").run(gone).unwrap()
        });
        let start = Instant::now();
        test.start_home_agent(0);
        test.wait_for_nodes(2);
        println!("a new home agent knows its nodes after {:?}", start.elapsed());
        streams.iter_mut().for_each(|stream| echo(stream, b"after"));
    });
}

#[test]
fn one_of_two_home_agents_leaves_in_order() {
    in_own_network("lives::one_of_two_home_agents_leaves_in_order", || {
        let mut test = Test::new(2, 2);
        let mut stream = connect(&test, HOME_V4.into());
        echo(&mut stream, b"one");
        let leaving = test.home_agents.remove(&0).unwrap();
        test.runtime.block_on(leaving.running.shutdown());
        assert!(leaving.announced.lock().unwrap().is_empty(), "it did not tell that it withdrew");
        // Routers follow, and nodes answer through the one that is left.
        test.net.route_to(1);
        test.nodes.values().for_each(|node| node.forget(Test::home_agent(0)));
        echo(&mut stream, b"two");
    });
}

#[test]
fn another_process_goes_on_with_the_same_life() {
    in_own_network("lives::another_process_goes_on_with_the_same_life", || {
        let mut test = Test::new(1, 2);
        let mut streams: Vec<_> = (0..8).map(|_| connect(&test, HOME_V4.into())).collect();
        streams.iter_mut().for_each(|stream| echo(stream, b"before"));
        let bindings = |test: &Test| -> Vec<_> {
            let view = test.view(0);
            assert!(view.settled && view.homes.iter().all(|home| home.announced), "{view:?}");
            view.bindings.iter().map(|one| (one.node.clone(), one.care_of, one.state)).collect()
        };
        let known = bindings(&test);
        let first = test.home_agents.remove(&0).unwrap();
        test.runtime.block_on(first.running.carry_on());
        streams.iter_mut().for_each(|stream| echo(stream, b"carried"));
        let announced = first.announced.lock().unwrap().clone();
        let estate = test.runtime.block_on(first.running.hand_over()).unwrap();
        // Nobody reads: this waits until somebody does.
        streams.iter_mut().for_each(|stream| stream.write_all(b"waits").unwrap());
        test.start_home_agent_on(0, Some(estate));
        assert_eq!(bindings(&test), known, "at once, without a word from a node");
        for stream in &mut streams {
            let mut got = [0; 5];
            stream.read_exact(&mut got).unwrap();
            assert_eq!(&got, b"waits");
        }
        wait("it tells what it announces", || *test.home_agents[&0].announced.lock().unwrap() == announced);
        assert_eq!(first.announced.lock().unwrap().len(), 2, "nothing was withdrawn");
        // Nodes renew their bindings in the same life.
        wait("bindings are renewed", || test.updates(0, "accepted") >= 2);
        assert_eq!(test.updates(0, "other-incarnation"), 0);
        connect(&test, HOME_V4.into());
        streams.iter_mut().for_each(|stream| echo(stream, b"after"));
    });
}

#[test]
fn what_another_configuration_left_is_not_gone_on_with() {
    in_own_network("lives::what_another_configuration_left_is_not_gone_on_with", || {
        let mut test = Test::new(1, 1);
        let first = test.home_agents.remove(&0).unwrap();
        let mut estate = test.runtime.block_on(first.running.hand_over()).unwrap();
        // A version from the future.
        estate.bytes[0] = u8::MAX;
        drop((first.announced, first.registry));
        wait("the device is free", || {
            let gone = || Ok(godwit_net::netlink::interface_index("godwit0").is_err());
            estate.descriptors.clear();
            test.net.host("ha0").run(gone).unwrap()
        });
        test.start_home_agent_on(0, Some(estate));
        test.wait_for_nodes(1);
    });
}
