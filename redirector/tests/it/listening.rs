//! Addresses that are listened on change while queries come, and none is lost.

use crate::restart::Load;
use crate::{check_www, config, inputs, receive, shared, view, www};
use godwit_redirector::{Config, Limits, Redirector, ReloadError, Running, StartError};
use hickory_proto::op::Message;
use prometheus_client::registry::Registry;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use tokio::net::UdpSocket;

/// How often the addresses change.
const CHANGES: usize = 10;

fn listening(listen: Vec<SocketAddr>) -> Config {
    Config { listen, ..config(Limits { replies_per_second: 0, ..Limits::default() }) }
}

async fn start(listen: Vec<SocketAddr>) -> Running {
    let mut registry = Registry::with_prefix("godwit");
    Redirector::start(listening(listen), view(&shared(&inputs(2))), &mut registry).await.unwrap()
}

fn loopback(last: u8, port: u16) -> SocketAddr {
    (Ipv4Addr::new(127, 0, 0, last), port).into()
}

async fn answers(address: SocketAddr) {
    let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    socket.send_to(&www(7), address).await.unwrap();
    check_www(&Message::from_vec(&receive(&socket).await).unwrap(), 7);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_address_comes_and_goes_beside_one_that_stays() {
    let mut running = start(vec![loopback(1, 0)]).await;
    let stays = running.addresses()[0];
    let load = Load::start(stays);
    for _ in 0..CHANGES {
        running.reload(&listening(vec![loopback(2, 0), stays])).unwrap();
        let [comes, second] = running.addresses()[..] else { panic!("{:?}", running.addresses()) };
        assert_eq!((comes.ip(), second), (IpAddr::from([127, 0, 0, 2]), stays), "in the order of the file");
        answers(comes).await;
        tokio::task::block_in_place(|| load.wait_for_more());
        running.reload(&listening(vec![stays])).unwrap();
        assert_eq!(running.addresses(), [stays]);
    }
    tokio::task::block_in_place(|| load.finish());
    running.shutdown().await;
}

/// Starts on a port that the kernel gives to nobody who does not ask for it: a client of some other
/// test, at another loopback address with the same number, would be in the way of all addresses.
async fn start_out_of_the_way() -> Running {
    let range = std::fs::read_to_string("/proc/sys/net/ipv4/ip_local_port_range").unwrap();
    let first: u16 = range.split_whitespace().next().unwrap().parse().unwrap();
    for port in (first / 2..first).rev() {
        let mut registry = Registry::with_prefix("godwit");
        let view = view(&shared(&inputs(2)));
        match Redirector::start(listening(vec![loopback(1, port)]), view, &mut registry).await {
            Err(StartError::InUse(_)) => {}
            started => return started.unwrap(),
        }
    }
    panic!("every port is in use");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn all_addresses_and_one_of_them_take_turns() {
    let mut running = start_out_of_the_way().await;
    let one = running.addresses()[0];
    let all: SocketAddr = (Ipv4Addr::UNSPECIFIED, one.port()).into();
    let load = Load::start(one);
    for _ in 0..CHANGES {
        for listen in [all, one] {
            running.reload(&listening(vec![listen])).unwrap();
            assert_eq!(running.addresses(), [listen]);
            tokio::task::block_in_place(|| load.wait_for_more());
        }
    }
    tokio::task::block_in_place(|| load.finish());
    running.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_address_that_cannot_be_had_changes_nothing() {
    let mut running = start(vec![loopback(1, 0)]).await;
    let stays = running.addresses()[0];
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let taken = taken.local_addr().unwrap();
    let _held = std::net::UdpSocket::bind(taken).unwrap();
    let load = Load::start(stays);
    let comes = loopback(3, stays.port());
    let (stranger, nowhere) = (vec![comes, taken], vec!["192.0.2.1:5300".parse().unwrap()]);
    for listen in [stranger, nowhere, Vec::new()] {
        let error = running.reload(&listening(listen)).unwrap_err();
        let ReloadError::Listen(error) = error else { panic!("{error}") };
        let expected = matches!(error, StartError::InUse(at) if at == taken)
            || matches!(error, StartError::NotHere(_) | StartError::NoAddress);
        assert!(expected, "{error}");
        assert_eq!(running.addresses(), [stays]);
        // What was bound before it is free again.
        drop(std::net::TcpListener::bind(comes).unwrap());
        tokio::task::block_in_place(|| load.wait_for_more());
    }
    tokio::task::block_in_place(|| load.finish());
    running.shutdown().await;
}
