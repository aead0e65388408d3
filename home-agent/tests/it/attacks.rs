//! What members must not bring about by binding updates.

use crate::carries::ask;
use crate::net::HOME_V4;
use crate::node::{MTU, NodeHost};
use crate::world::{Test, member};
use crate::{PATIENCE, in_own_network, wait};
use godwit_core::binding::cache::PROOF_TRIES;
use godwit_core::binding::message::BindingUpdate;
use godwit_core::binding::{BindingId, CareOf, HomeAddress, Incarnation, Lifetime, Order};
use godwit_core::key::MemberId;
use godwit_core::mobility::Message;
use godwit_core::tunnel::{Control, Cookie};
use godwit_home_agent::View;
use godwit_net::tunnel::{Side, cipher_for};
use std::net::UdpSocket;

/// A member that may serve nothing.
fn stranger(n: u32) -> MemberId {
    let mut bytes = [0xee; 32];
    bytes[..4].copy_from_slice(&n.to_le_bytes());
    MemberId::from_bytes(bytes)
}

/// What a node has said that counted.
fn genuine(node: &NodeHost) -> Vec<BindingUpdate> {
    let said = node.said.lock().unwrap();
    let update = |(_, said): &(MemberId, Message)| match said {
        Message::Update(update) if update.incarnation.is_some() => Some(update.clone()),
        _ => None,
    };
    said.iter().filter_map(update).collect()
}

#[test]
fn of_ten_thousand_bad_updates_none_is_accepted() {
    in_own_network("attacks::of_ten_thousand_bad_updates_none_is_accepted", || {
        const OUTCOMES: [&str; 6] =
            ["out-of-order", "prohibited", "other-incarnation", "malformed", "too-often", "full"];
        let test = Test::new(1, 1);
        // The node is quiet meanwhile, so that every update that is accepted is a bad one.
        test.nodes[&0].be_silent(true);
        let genuine = genuine(&test.nodes[&0]);
        let last = genuine.last().unwrap().clone();
        let places = |view: &View| -> Vec<_> {
            view.bindings.iter().map(|one| (one.node.clone(), one.care_of, one.homes.clone())).collect()
        };
        let before = places(&test.view(0));
        let judged = || OUTCOMES.iter().map(|outcome| test.updates(0, outcome)).sum::<u64>();
        let (accepted, judged_before) = (test.updates(0, "accepted"), judged());
        let proved = test.metric(0, "home_care_of_proved_total");

        let victim = CareOf::At("10.1.0.2:9".parse().unwrap());
        let later = |n: u32| Order { epoch: last.order.epoch + 1, sequence: n };
        for n in 0..10_000u32 {
            // Each of them speaks a few times only, so that it is not merely too often.
            let thief = stranger(n / 8);
            let replayed = genuine[n as usize % genuine.len()].clone();
            let (from, update) = match n % 8 {
                // Replayed and reordered by somebody else.
                0 => (thief, replayed),
                // Forged: another's home address to where it is, and to a victim.
                1 => (thief, BindingUpdate { order: later(n), ..last.clone() }),
                2 => (thief, BindingUpdate { order: later(n), care_of: victim, ..last.clone() }),
                // Said to another life, or to none.
                3 => (thief, BindingUpdate { incarnation: Some(Incarnation(7)), ..last.clone() }),
                4 => (thief, BindingUpdate { incarnation: None, order: later(n), ..last.clone() }),
                // Ends another's binding.
                5 => (thief, BindingUpdate { lifetime: Lifetime::NONE, order: later(n), ..last.clone() }),
                // Impossible.
                6 => {
                    let homes = vec![HomeAddress(HOME_V4.into()); 2];
                    (thief, BindingUpdate { homes, id: BindingId(9), ..last.clone() })
                }
                // The node's own of before: stale and reordered. Its allowance bounds how many of them
                // are looked at.
                _ => (member(0), replayed),
            };
            test.wires.to_home_agent(Test::home_agent(0), from, Message::Update(update));
        }
        wait("all were judged", || judged() - judged_before >= 10_000);
        OUTCOMES.iter().for_each(|outcome| println!("{outcome}: {}", test.updates(0, outcome)));
        assert_eq!(test.updates(0, "accepted"), accepted);
        assert_eq!(test.metric(0, "home_care_of_proved_total"), proved);
        let after = places(&test.view(0));
        // On a slow machine the node's own binding may have ended meanwhile; nothing took its place.
        assert!(after == before || after.is_empty(), "{after:?}");
        test.nodes[&0].be_silent(false);
        assert_eq!(ask(&test, "10.1.0.2".parse().unwrap(), HOME_V4.into()), Some(0));
    });
}

#[test]
fn a_place_that_proved_nothing_gets_a_few_packets_and_no_more() {
    in_own_network("attacks::a_place_that_proved_nothing_gets_a_few_packets_and_no_more", || {
        let test = Test::new(1, 1);
        let victim = test.net.client.run(|| UdpSocket::bind("10.1.0.2:9999")).unwrap();
        victim.set_nonblocking(true).unwrap();
        // The node itself, gone bad, names a victim as a second care-of address. With a key of its own it
        // may ask for the cookie as often as it likes, and guess.
        let last = genuine(&test.nodes[&0]).pop().unwrap();
        let answers = test.wires.plug(member(0));
        let (id, order) = (BindingId(1), Order { epoch: last.order.epoch + 1, sequence: 1 });
        let care_of = CareOf::At("10.1.0.2:9999".parse().unwrap());
        let update = BindingUpdate { id, order, care_of, ..last };
        test.wires.to_home_agent(Test::home_agent(0), member(0), Message::Update(update));
        let key = loop {
            let (_, message) = answers.recv_timeout(PATIENCE).unwrap();
            match message {
                Message::Acknowledgement(one) if one.id == id => break one.key.unwrap(),
                _ => {}
            }
        };
        let (engine, number, to) = (&test.nodes[&0].engine, key.id, Test::home_agent_at(0));
        engine.install(key, Side::Node, cipher_for(true), MTU).unwrap();
        let mut guesses = 0;
        wait("guesses were heard", || {
            engine.send(number, to, Control::Hello);
            engine.send(number, to, Control::Echo(Cookie([guesses; 16])));
            guesses = guesses.wrapping_add(1);
            test.updates(0, "wrong-cookie") >= 100
        });
        let came = std::iter::from_fn(|| victim.recv(&mut [0; 2000]).ok()).count();
        println!("an address that proved nothing got {came} packets for 100 requests");
        assert!(came > 0 && came <= usize::from(PROOF_TRIES), "{came}");
        let view = test.view(0);
        let unproved = view.bindings.iter().find(|binding| binding.id == 1);
        assert!(unproved.is_none_or(|one| one.state == "unproved" && one.care_of.is_none()), "{unproved:?}");
    });
}
