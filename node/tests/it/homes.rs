//! Home addresses at nodes, over real tunnels: a client, a home agent and two nodes, each in a network
//! namespace of its own around a router.
//!
//! The home agent is made here of the machine and the tunnel that real ones are made of, and chooses as a
//! test tells it. Without the right to make namespaces the tests run themselves again as root of a user
//! namespace, and are skipped where that is not possible either.

mod agent;
mod world;

use crate::network::until;
use godwit_core::flow::select;
use godwit_core::key::MemberId;
use godwit_node::admin::api;
use std::io;
use std::net::SocketAddr;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, UdpSocket};
use world::{Node, NodeHost, World, echo, in_namespaces, serve, served};

const HOME4: &str = "192.0.2.1:7000";

fn home(text: &str) -> SocketAddr {
    text.parse().unwrap()
}

/// A client's UDP socket.
async fn udp(home: SocketAddr) -> UdpSocket {
    let any = if home.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" };
    let socket = UdpSocket::bind(any).await.unwrap();
    socket.connect(home).await.unwrap();
    socket
}

/// Asks until there is an answer; datagrams may be lost while something changes.
async fn ask_udp(socket: &UdpSocket, words: &str) -> String {
    let mut answer = [0; 256];
    for _ in 0..300 {
        // What is refused now may be served in a moment.
        let _ = socket.send(words.as_bytes()).await;
        let received = tokio::time::timeout(Duration::from_millis(200), socket.recv(&mut answer)).await;
        if let Ok(Ok(len)) = received {
            let text = String::from_utf8_lossy(&answer[..len]).into_owned();
            if text.ends_with(words) {
                return text;
            }
        }
    }
    panic!("no answer to {words}");
}

/// Connects until that works.
async fn tcp(home: SocketAddr) -> TcpStream {
    for _ in 0..300 {
        let connected = tokio::time::timeout(Duration::from_secs(2), TcpStream::connect(home)).await;
        if let Ok(Ok(stream)) = connected {
            return stream;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    panic!("no connection to {home}");
}

async fn ask_tcp(stream: &mut TcpStream, words: &str) -> io::Result<String> {
    stream.write_all(format!("{words}\n").as_bytes()).await?;
    let mut line = Vec::new();
    while !line.ends_with(b"\n") {
        let octet = tokio::time::timeout(Duration::from_secs(60), stream.read_u8()).await;
        line.push(octet.map_err(|_| io::Error::from(io::ErrorKind::TimedOut))??);
    }
    Ok(String::from_utf8_lossy(&line).trim_end().to_owned())
}

/// Waits until all bindings of a node's home addresses that can be are as wanted.
async fn until_bindings(node: &Node, what: &str, wanted: impl Fn(&api::HomeBinding) -> bool) {
    until(what, || async {
        let Ok(status) = node.runtime().client().status().await else { return false };
        let mut homes: Vec<_> = status.home_bindings.iter().map(|binding| binding.home).collect();
        homes.dedup();
        let fine = |home| status.home_bindings.iter().any(|binding| binding.home == home && wanted(binding));
        !homes.is_empty() && homes.into_iter().all(fine)
    })
    .await;
}

/// Two nodes, each with a program behind the home address; new flows go to the first.
fn game_at_both() -> World {
    game_at(&["a", "b"]).0
}

/// The game is granted and served at these nodes, and packets go to a; and its addresses.
fn game_at(nodes: &[&'static str]) -> (World, Vec<SocketAddr>) {
    let mut world = World::new();
    let homes = world.grant("game");
    nodes.iter().for_each(|name| world.start_node(name));
    for name in nodes {
        let node = if *name == "a" { &world.a } else { &world.b };
        echo(node, name, "127.0.0.1:7007");
        node.run(|node| async move { served(&node, "game", Some("127.0.0.1:7007")).await });
    }
    world.choose(&world.a);
    (world, homes)
}

#[test]
fn replies_go_directly_once_proved_and_through_the_tunnel_where_they_are_filtered() {
    in_namespaces(
        "homes::replies_go_directly_once_proved_and_through_the_tunnel_where_they_are_filtered",
        || {
            let (world, homes) = game_at(&["a"]);
            for home in &homes {
                let home = *home;
                let answer = world.client.run(async move { ask_udp(&udp(home).await, "hello").await });
                assert_eq!(answer, "a hello");
            }
            world.a.run(|node| async move {
                until_bindings(&node, "replies go directly", |one| {
                    one.state == "up" && one.replies == "direct"
                })
                .await;
            });
            let mut stream = world.client.run(tcp(home(HOME4)));
            let before = world.agent.replies();
            for home in homes.clone() {
                for round in 0..10 {
                    let answer =
                        world.client.run(async move { ask_udp(&udp(home).await, &format!("{round}")).await });
                    assert_eq!(answer, format!("a {round}"));
                }
            }
            let (answer, again) = world.client.run(async move {
                let answer = ask_tcp(&mut stream, "direct").await;
                (answer, stream)
            });
            assert_eq!(answer.unwrap(), "a direct");
            assert_eq!(world.agent.replies(), before, "no reply went through the tunnel");

            // The node's network drops packets whose source is not its own.
            world.filter_sources("a", true);
            world.a.run(|node| async move {
                until_bindings(&node, "replies take the tunnel", |one| {
                    one.replies == "tunnel" || one.home.is_ipv6()
                })
                .await;
            });
            let mut stream = again;
            let answer = world.client.run(async move { ask_tcp(&mut stream, "filtered").await });
            assert_eq!(answer.unwrap(), "a filtered", "the connection has not noticed");
            let answer = world.client.run(async { ask_udp(&udp(home(HOME4)).await, "filtered").await });
            assert_eq!(answer, "a filtered");
            assert!(world.agent.replies() > before);

            world.filter_sources("a", false);
            world.a.run(|node| async move {
                until_bindings(&node, "replies go directly again", |one| one.replies == "direct").await;
            });
        },
    );
}

#[test]
fn an_address_change_in_mid_flow_is_survived_and_so_is_a_tunnel_that_is_cut() {
    in_namespaces("homes::an_address_change_in_mid_flow_is_survived_and_so_is_a_tunnel_that_is_cut", || {
        let (mut world, _) = game_at(&["a"]);
        let mut stream = world.client.run(tcp(home(HOME4)));
        let socket = world.client.run(async { udp(home(HOME4)).await });
        let (answer, datagram, mut stream, socket) = world.client.run(async move {
            let answer = ask_tcp(&mut stream, "one").await.unwrap();
            let datagram = ask_udp(&socket, "one").await;
            (answer, datagram, stream, socket)
        });
        assert_eq!((answer.as_str(), datagram.as_str()), ("a one", "a one"));

        world.roam("a");
        let care_of = world.a.address.to_string();
        world.a.run(|node| async move {
            until_bindings(&node, "the new address is bound", |one| {
                one.state == "up" && one.care_of.starts_with(&care_of)
            })
            .await;
        });
        let (answer, datagram, mut stream) = world.client.run(async move {
            let answer = ask_tcp(&mut stream, "two").await.unwrap();
            (answer, ask_udp(&socket, "two").await, stream)
        });
        assert_eq!((answer.as_str(), datagram.as_str()), ("a two", "a two"), "the same flows");

        // Talk goes on, and nothing comes through the tunnel.
        world.agent.cut(true);
        world.a.run(|node| async move {
            until_bindings(&node, "the cut is noticed", |one| one.state == "lost").await;
        });
        world.agent.cut(false);
        world.a.run(|node| async move {
            until_bindings(&node, "the tunnel is back", |one| one.state == "up").await;
        });
        let answer = world.client.run(async move { ask_tcp(&mut stream, "three").await });
        assert_eq!(answer.unwrap(), "a three");
    });
}

#[test]
fn an_old_connection_has_a_second_chance_and_then_its_way_and_a_lost_one_is_reset() {
    in_namespaces(
        "homes::an_old_connection_has_a_second_chance_and_then_its_way_and_a_lost_one_is_reset",
        || {
            let world = game_at_both();
            let mut old = world.client.run(tcp(home(HOME4)));
            let (answer, old_again) = world.client.run(async move { (ask_tcp(&mut old, "one").await, old) });
            assert_eq!(answer.unwrap(), "a one");
            let a = world.a.member();
            reaches(&world.b, "b passes on to a", a);

            world.choose(&world.b);
            world.agent.chose_before(Some(select::number(&a)));
            let mut old = old_again;
            let (answer, mut old) = world.client.run(async move { (ask_tcp(&mut old, "two").await, old) });
            assert_eq!(answer.unwrap(), "a two", "passed on by b, which does not know it");
            let answer = world.client.run(async { ask_tcp(&mut tcp(home(HOME4)).await, "new").await });
            assert_eq!(answer.unwrap(), "b new");
            // a has told where it is.
            let agent = world.agent.clone();
            world.client.run(async move {
                until("the flow is bound to a", || std::future::ready(agent.bound_to(a) > 0)).await;
            });
            world.agent.chose_before(None);
            let (answer, mut old) = world.client.run(async move { (ask_tcp(&mut old, "three").await, old) });
            assert_eq!(answer.unwrap(), "a three", "sent there by the home agent");

            // Nobody else can have it: a reset, from the home address, and no silence.
            world.agent.forget_flows();
            let error = world.client.run(async move {
                loop {
                    match ask_tcp(&mut old, "four").await {
                        Err(error) => break error,
                        Ok(answer) => assert_eq!(answer, "a four", "packets were on their way"),
                    }
                }
            });
            assert_eq!(error.kind(), io::ErrorKind::ConnectionReset, "{error}");
        },
    );
}

#[test]
fn a_flow_of_datagrams_stays_where_it_is_and_a_new_one_goes_where_it_should() {
    in_namespaces("homes::a_flow_of_datagrams_stays_where_it_is_and_a_new_one_goes_where_it_should", || {
        let world = game_at_both();
        let (answer, old) = world.client.run(async {
            let old = udp(home(HOME4)).await;
            (ask_udp(&old, "one").await, old)
        });
        assert_eq!(answer, "a one");
        let [a, b] = [world.a.member(), world.b.member()];
        reaches(&world.b, "b passes on to a", a);
        reaches(&world.a, "a gives back to b", b);

        world.choose(&world.b);
        world.agent.chose_before(Some(select::number(&a)));
        let (answer, old) = world.client.run(async move { (ask_udp(&old, "two").await, old) });
        assert_eq!(answer, "a two", "b, which has not seen it, asks a, which has");
        let (first, again, new) = world.client.run(async {
            let new = udp(home(HOME4)).await;
            (ask_udp(&new, "first").await, ask_udp(&new, "again").await, new)
        });
        assert_eq!((first.as_str(), again.as_str()), ("b first", "b again"), "a has given it back");
        // a has told where the old one is, and nobody has said anything of the new one.
        let agent = world.agent.clone();
        world.client.run(async move {
            until("the flow is bound to a", || std::future::ready(agent.bound_to(a) > 0)).await;
        });
        assert_eq!((world.agent.bound_to(a), world.agent.bound_to(b)), (1, 0));
        world.agent.chose_before(None);
        let answers =
            world.client.run(async move { [ask_udp(&old, "three").await, ask_udp(&new, "three").await] });
        assert_eq!(answers, ["a three", "b three"]);
    });
}

/// Waits until a node can pass packets on to another: it asks for the way before it is needed.
fn reaches(node: &NodeHost, what: &'static str, other: MemberId) {
    node.run(move |node| async move {
        let flows = node.runtime().mobility().unwrap().flows();
        until(what, || async { flows.borrow().as_ref().is_some_and(|known| known.reaches(&other)) }).await;
    });
}

/// Moves a name from a node to another, once that is known to be ready.
async fn try_move(node: &Node, name: &str, to: &str) -> Result<api::Moved, String> {
    let client = node.runtime().client();
    until("the other is known to serve", || async {
        let status = client.status().await;
        status.is_ok_and(|status| status.members.iter().any(|member| member.name == to && member.ready))
    })
    .await;
    let wanted = api::Move { name: name.into(), to: to.into(), deadline_secs: 600 };
    client.move_to(&wanted).await.map_err(|error| error.to_string())
}

async fn moves(node: &Node, name: &str, to: &str) -> api::Moved {
    try_move(node, name, to).await.unwrap()
}

#[test]
fn serve_returns_when_the_node_is_bound_or_says_why_it_is_not() {
    in_namespaces("homes::serve_returns_when_the_node_is_bound_or_says_why_it_is_not", || {
        let mut world = World::new();
        world.start_node("a");
        let asks = |world: &World, to: &'static str| {
            world.a.run(move |node| async move { serve(&node, "game", Some(to)).await })
        };
        let told = asks(&world, "127.0.0.1:7007");
        assert_eq!(told.problem.as_deref(), Some("no home address of this name is known here"), "{told:?}");
        assert!(told.next.is_some_and(|next| next.contains("godwit address add game")));

        world.grant("game");
        let told = world.a.run(|node| async move {
            let mut told = serve(&node, "game", Some("127.0.0.1:7007")).await;
            while told.addresses.is_empty() {
                told = serve(&node, "game", Some("127.0.0.1:7007")).await;
            }
            told
        });
        assert_eq!(told.problem.as_deref(), Some("its program does not work"), "{told:?}");
        assert_eq!(told.bound_at, [""; 0]);

        echo(&world.a, "a", "127.0.0.1:7007");
        // A program that is being started is waited for, and the tunnel that carries nothing too.
        world.agent.cut(true);
        let uncut = world.agent.clone();
        std::thread::spawn(move || {
            std::thread::sleep(Duration::from_secs(1));
            uncut.cut(false);
        });
        let told = asks(&world, "127.0.0.1:7007");
        assert_eq!((told.bound_at, told.problem), (vec!["agent".to_owned()], None));
        world.choose(&world.a);
        let answer = world.client.run(async { ask_udp(&udp(home(HOME4)).await, "at once").await });
        assert_eq!(answer, "a at once");
    });
}

#[test]
fn a_name_does_not_move_to_a_node_that_is_not_bound() {
    in_namespaces("homes::a_name_does_not_move_to_a_node_that_is_not_bound", || {
        let (mut world, _) = game_at(&["a"]);
        world.start_node("b");
        let mut stream = world.client.run(tcp(home(HOME4)));
        let refusal = |world: &World| {
            world.a.run(|node| async move { try_move(&node, "game", "b").await }).unwrap_err()
        };
        assert_eq!(refusal(&world), "b does not serve game: godwit serve game there");
        world.b.run(|node| async move { serve(&node, "game", Some("127.0.0.1:7009")).await });
        assert_eq!(refusal(&world), "what serves game at b does not work: godwit status there");
        let (answer, mut stream) =
            world.client.run(async move { (ask_tcp(&mut stream, "one").await, stream) });
        assert_eq!(answer.unwrap(), "a one");
        world.a.run(|node| async move {
            until_bindings(&node, "it is bound as before", |one| !one.draining && one.state == "up").await;
        });

        echo(&world.b, "b", "127.0.0.1:7009");
        world.b.run(|node| async move { served(&node, "game", Some("127.0.0.1:7009")).await });
        assert_eq!(world.agent.bound_before_draining(world.a.member()), None, "it drained");
        let moved = world.a.run(|node| async move { moves(&node, "game", "b").await });
        assert_eq!(moved.connections_drained, 1);
        world.choose(&world.b);
        let answer = world.client.run(async move { ask_tcp(&mut stream, "two").await });
        assert_eq!(answer.unwrap(), "a two", "it goes on where it is");
        // Who gave it away does not take it back before somebody says so there.
        let told = world.b.run(|node| async move { try_move(&node, "game", "a").await });
        assert_eq!(told.unwrap_err(), "a takes no new flows for game: godwit serve game there");
    });
}

#[test]
fn a_name_moves_with_its_udp_flows_and_a_node_that_starts_anew_is_bound_again() {
    in_namespaces(
        "homes::a_name_moves_with_its_udp_flows_and_a_node_that_starts_anew_is_bound_again",
        || {
            let mut world = game_at_both();
            let socket = world.client.run(async { udp(home(HOME4)).await });
            let (answer, socket) = world.client.run(async move { (ask_udp(&socket, "one").await, socket) });
            assert_eq!(answer, "a one");
            let mut stream = world.client.run(tcp(home(HOME4)));
            let (answer, mut stream) =
                world.client.run(async move { (ask_tcp(&mut stream, "one").await, stream) });
            assert_eq!(answer.unwrap(), "a one");

            let moved = world.a.run(|node| async move { moves(&node, "game", "b").await });
            assert_eq!(
                (moved.udp_flows_moved, moved.connections_drained, moved.packets_lost),
                (1, 1, 0),
                "{moved:?}"
            );
            let answer = world.client.run(async move { ask_udp(&socket, "two").await });
            assert_eq!(answer, "b two");
            let answer = world.client.run(async move { ask_tcp(&mut stream, "two").await });
            assert_eq!(answer.unwrap(), "a two", "a connection of a foreign program is drained");
            world.a.run(|node| async move {
                until_bindings(&node, "the binding drains", |one| one.draining && one.state == "up").await;
            });
            assert_eq!(
                world.agent.bound_before_draining(world.a.member()),
                Some(1),
                "packets of its connection would have been led elsewhere"
            );

            // The next life of a serves again because somebody says so, with a higher epoch; what another
            // process left behind is gone.
            let epoch = world.agent.epoch_of(world.a.member());
            world.stale_rule("a");
            world.restart_node("a");
            echo(&world.a, "a", "127.0.0.1:7007");
            world.a.run(|node| async move { served(&node, "game", Some("127.0.0.1:7007")).await });
            world.choose(&world.a);
            world.a.run(|node| async move {
                until_bindings(&node, "it is bound again", |one| !one.draining && one.state == "up").await;
            });
            assert!(world.agent.epoch_of(world.a.member()) > epoch);
            assert!(!world.has_stale_rule("a"));
            let answer = world.client.run(async { ask_udp(&udp(home(HOME4)).await, "three").await });
            assert_eq!(answer, "a three");
        },
    );
}

#[test]
fn another_process_follows_and_clients_do_not_notice() {
    in_namespaces("homes::another_process_follows_and_clients_do_not_notice", || {
        let (world, _) = game_at(&["a"]);
        let mut stream = world.client.run(tcp(home(HOME4)));
        let ask = |stream: TcpStream, words: &'static str| {
            world.client.run(async move {
                let mut stream = stream;
                let answer = ask_tcp(&mut stream, words).await.unwrap();
                assert_eq!(answer, format!("a {words}"));
                stream
            })
        };
        stream = ask(stream, "one");
        let socket = world.client.run(async {
            let socket = udp(home(HOME4)).await;
            assert_eq!(ask_udp(&socket, "one").await, "a one");
            socket
        });
        let epoch = world.agent.epoch_of(world.a.member());

        // The member is gone but for its packets: old flows and new ones are served on.
        let leaving = world.let_go("a");
        stream = ask(stream, "two");
        let (fresh, socket) = world.client.run(async move {
            assert_eq!(ask_udp(&socket, "two").await, "a two");
            (TcpStream::connect(home(HOME4)).await.unwrap(), socket)
        });
        let mut fresh = ask(fresh, "begun meanwhile");

        let leaving = world.follow("a", leaving);
        // Its clients' sessions are there without a datagram.
        world.a.run(|node| async move {
            let client = node.runtime().client();
            until("the session is the new process's", || async {
                let status = client.status().await;
                status.is_ok_and(|status| status.home_services.iter().any(|one| one.forwarded == 1))
            })
            .await;
        });
        stream = ask(stream, "three");
        fresh = ask(fresh, "three");
        let newest = world.client.run(async move {
            assert_eq!(ask_udp(&socket, "three").await, "a three");
            TcpStream::connect(home(HOME4)).await.unwrap()
        });
        let newest = ask(newest, "accepted by another process");
        assert_eq!(world.agent.epoch_of(world.a.member()), epoch, "the same binding");
        // The old one ends when what it accepted has ended.
        drop((stream, fresh));
        world.a.run(|_| leaving.finish());
        ask(newest, "four");
        world.a.run(|node| async move {
            until_bindings(&node, "the binding is kept", |one| !one.draining && one.state == "up").await;
        });
    });
}

#[test]
fn a_name_that_comes_back_is_bound_at_once_and_what_drained_goes_on() {
    in_namespaces("homes::a_name_that_comes_back_is_bound_at_once_and_what_drained_goes_on", || {
        let world = game_at_both();
        let mut stream = world.client.run(tcp(home(HOME4)));
        for round in ["one", "two", "three"] {
            let (answer, same) = world.client.run(async move { (ask_tcp(&mut stream, round).await, stream) });
            assert_eq!(answer.unwrap(), format!("a {round}"), "the program's connection has not changed");
            stream = same;
            world.a.run(|node| async move {
                moves(&node, "game", "b").await;
                until_bindings(&node, "it drains", |one| one.draining && one.state == "up").await;
                served(&node, "game", Some("127.0.0.1:7007")).await;
                until_bindings(&node, "it is bound again", |one| !one.draining && one.state == "up").await;
            });
        }
        assert_eq!(world.agent.unheard(), 0, "binding updates came faster than the home agent listens");
        let answer = world.client.run(async move { ask_tcp(&mut stream, "four").await });
        assert_eq!(answer.unwrap(), "a four");
    });
}
