//! Who gets which flow: the map, the bindings, and flows bound by name.

use crate::carries::{ask, ask_from, ask_within, connect_to};
use crate::net::{CLIENTS, HOME_V4};
use crate::node::flow;
use crate::world::{Test, member};
use crate::{in_own_network, wait};
use godwit_core::binding::{HomeAddress, Incarnation, Order};
use godwit_core::flow::Row;
use godwit_core::flow::select::{self, number};
use godwit_core::flow::table::{FlowUpdate, Refusal};
use godwit_core::mobility::Message;
use std::collections::BTreeSet;
use std::io::{Read, Write};
use std::net::{IpAddr, UdpSocket};
use std::time::Duration;

fn client(n: u8) -> IpAddr {
    [10, 20 + n, 0, 2].into()
}

/// Which node each client network gets.
fn owners(test: &Test) -> Vec<u8> {
    (0..CLIENTS).map(|n| ask(test, client(n), HOME_V4.into()).unwrap()).collect()
}

#[test]
fn two_home_agents_choose_alike_and_the_map_is_heeded() {
    in_own_network("choosing::two_home_agents_choose_alike_and_the_map_is_heeded", || {
        let test = Test::new(2, 3);
        let first = owners(&test);
        test.net.route_to(1);
        assert_eq!(owners(&test), first);
        assert!(first.iter().collect::<BTreeSet<_>>().len() > 1, "{first:?}");
        // Who is drained in the map gets nothing new, and the others keep what they have.
        test.map(|inputs| inputs.members[first[0] as usize].draining = true);
        wait("it gets nothing", || !owners(&test).contains(&first[0]));
        let after = owners(&test);
        assert!((0..first.len()).all(|at| first[at] == first[0] || after[at] == first[at]));
        // Packets that moved name it for the second chance.
        test.nodes.values().for_each(|node| drop(node.take_before()));
        owners(&test);
        let named: Vec<u16> = test.nodes.values().flat_map(|node| node.take_before()).collect();
        let expected = number(&member(first[0]));
        assert!(!named.is_empty() && named.iter().all(|one| *one == expected), "{named:?}");
        // A node that drains itself, likewise.
        test.map(|_| {});
        wait("it is back", || owners(&test) == first);
        test.nodes[&first[0]].drain();
        wait("it gets nothing", || !owners(&test).contains(&first[0]));
    });
}

#[test]
fn a_flow_goes_where_its_owner_says_and_nobody_else() {
    in_own_network("choosing::a_flow_goes_where_its_owner_says_and_nobody_else", || {
        // The owner is there first: who was alone for a moment was everybody's choice.
        let row = Row::of(HomeAddress(HOME_V4.into()), client(0));
        let both = [member(0), member(1)];
        let owner = u8::from(select::owner([&both[..]], row, |_| true) == Some(member(1)));
        let other = 1 - owner;
        let mut test = Test::without_nodes(1, 2);
        test.start_node(owner);
        test.wait_for_nodes(1);
        test.start_node(other);
        test.wait_for_nodes(2);
        let socket = test.net.client.run(|| UdpSocket::bind((client(0), 0))).unwrap();
        let asked = || ask_from(&socket, HOME_V4.into(), Duration::from_secs(5));
        assert_eq!(asked(), Some(owner));
        let flow = flow(17, socket.local_addr().unwrap());
        let incarnation = test.nodes[&owner].said.lock().unwrap().iter().find_map(|(_, said)| match said {
            Message::Update(update) => update.incarnation,
            _ => None,
        });
        let incarnation = incarnation.unwrap();
        let mut sequence = 0;
        let mut bind = |by: u8, to: u8, incarnation: Incarnation| {
            sequence += 1;
            let order = Order { epoch: 1, sequence };
            let update = FlowUpdate { incarnation, order, to: member(to), flows: vec![flow] };
            test.wires.to_home_agent(Test::home_agent(0), member(by), Message::Flows(update));
            let mut answer = None;
            wait("an answer", || {
                answer = test.nodes[&by].answers.lock().unwrap().pop();
                answer.is_some()
            });
            let Some((_, Message::FlowsBound(bound))) = answer else { panic!("{answer:?}") };
            assert_eq!(bound.order, order);
            bound.result
        };
        let refused = |why| Ok(vec![(flow, why)]);
        assert_eq!(bind(other, other, incarnation), refused(Refusal::NotOwner));
        assert_eq!(bind(owner, 77, incarnation), refused(Refusal::Receiver));
        assert_eq!(bind(owner, other, Incarnation(1)), Err(Refusal::OtherIncarnation));
        assert_eq!(asked(), Some(owner));
        assert_eq!(bind(owner, other, incarnation), Ok(vec![]));
        assert_eq!(asked(), Some(other));
        // It is the other's now.
        assert_eq!(bind(owner, owner, incarnation), refused(Refusal::NotOwner));
        assert_eq!((asked(), test.view(0).moved_flows), (Some(other), 1));
        let viewer = test.home_agents[&0].running.viewer();
        let flows = test.runtime.block_on(viewer.flows(100)).unwrap();
        assert!(flows.iter().any(|one| one.bound && one.client == flow.correspondent), "{flows:?}");
        // New flows of that client go where they went.
        assert_eq!(ask(&test, client(0), HOME_V4.into()), Some(owner));
    });
}

#[test]
fn a_dead_node_gets_nothing_new() {
    in_own_network("choosing::a_dead_node_gets_nothing_new", || {
        let mut test = Test::new(1, 2);
        let victim = owners(&test)[0];
        test.nodes.remove(&victim).unwrap().kill();
        let quick = Duration::from_millis(100);
        let took = wait("others get its clients", || {
            ask_within(&test, client(0), HOME_V4.into(), quick) == Some(1 - victim)
        });
        println!("a dead node: new flows elsewhere after {took:?}");
        assert!(owners(&test).iter().all(|node| *node == 1 - victim));
        wait("its binding ends", || test.view(0).bindings.len() == 1);
    });
}

/// Who sends nothing hears nothing: an idle connection's client learns of it with its first packet.
#[test]
fn an_idle_connection_of_a_dead_node_is_reset_when_it_speaks() {
    in_own_network("choosing::an_idle_connection_of_a_dead_node_is_reset_when_it_speaks", || {
        let mut test = Test::new(1, 2);
        let (mut idle, victim) = connect_to(&test, HOME_V4.into());
        let (mut busy, same) = connect_to(&test, HOME_V4.into());
        assert_eq!(victim, same, "one client, one node");
        let client = idle.local_addr().unwrap().ip();
        test.nodes.remove(&victim).unwrap().kill();
        // One sends while nobody has noticed yet, the other only afterwards.
        busy.write_all(b"anybody there?").unwrap();
        let quick = Duration::from_millis(100);
        wait("another node gets its client", || {
            ask_within(&test, client, HOME_V4.into(), quick) == Some(1 - victim)
        });
        idle.write_all(b"anybody there?").unwrap();
        for mut stream in [idle, busy] {
            let ended = stream.read_exact(&mut [0]).unwrap_err();
            assert_eq!(ended.kind(), std::io::ErrorKind::ConnectionReset, "{ended}");
        }
    });
}

#[test]
fn a_node_that_talks_but_does_not_hear_is_not_used() {
    in_own_network("choosing::a_node_that_talks_but_does_not_hear_is_not_used", || {
        let test = Test::new(1, 2);
        test.nodes[&0].make_deaf();
        let took = wait("node 0 is lost", || {
            test.view(0).bindings.iter().any(|binding| binding.node == "node0" && binding.state != "up")
        });
        println!("control up, data path dead: lost after {took:?}");
        assert!(owners(&test).iter().all(|node| *node == 1));
        assert!(test.view(0).homes.iter().all(|home| home.announced && home.nodes == ["node1"]));
    });
}
