//! Traffic classes and congestion marks go where they belong (RFC 6040).

use crate::in_own_network;
use crate::world::{HOME_V4, Return, ip, wait, world_by_way_of};
use godwit_core::tunnel::Cipher;
use godwit_net::tunnel::Reason;
use socket2::{MaybeUninitSlice, MsgHdrMut, SockRef};
use std::mem::MaybeUninit;
use std::net::{SocketAddr, UdpSocket};
use std::time::Duration;

const PATIENCE: Duration = Duration::from_secs(30);

#[test]
fn classes_outward_and_congestion_inward() {
    in_own_network("marks::classes_outward_and_congestion_inward", || {
        let tap: SocketAddr = "10.2.0.2:5000".parse().unwrap();
        let world = world_by_way_of(Some(tap), false, Cipher::Aes256Gcm, true, Return::Direct);
        let tap = world.cables.node.run(|| UdpSocket::bind(tap)).unwrap();
        let server = world.cables.node.run(|| UdpSocket::bind((ip(HOME_V4), 0))).unwrap();
        for socket in [&tap, &server] {
            socket.set_read_timeout(Some(PATIENCE)).unwrap();
            SockRef::from(socket).set_recv_tos_v4(true).unwrap();
        }
        let client = world.cables.client.run(|| UdpSocket::bind("10.1.0.2:0")).unwrap();
        // What the client says, what the path makes of it, and what the server sees.
        let (plain, ect_0, congested) = (0xb8, 0xba, 0xbb);
        for (said, path, seen) in [
            (plain, plain, Some(plain)),
            (ect_0, ect_0, Some(ect_0)),
            (ect_0, congested, Some(congested)),
            (plain, congested, None),
            // Whoever changes the DSCP on the way does not change it inside.
            (ect_0, 0x02, Some(ect_0)),
        ] {
            SockRef::from(&client).set_tos_v4(said).unwrap();
            client.send_to(b"hello", server.local_addr().unwrap()).unwrap();
            let (datagram, class) = receive(&tap);
            assert_eq!(class, Some(said as u8), "copied outward");
            SockRef::from(&tap).set_tos_v4(path).unwrap();
            let before = world.node.engine.counts().dropped[&Reason::Congested];
            tap.send_to(&datagram, world.node.address).unwrap();
            match seen {
                Some(seen) => assert_eq!(receive(&server), (b"hello".to_vec(), Some(seen as u8))),
                None => {
                    wait(|| world.node.engine.counts().dropped[&Reason::Congested] == before + 1, &world.node)
                }
            }
        }
    });
}

/// Has the socket tell how many hops a datagram had left.
pub(crate) fn ask_for_hops(socket: &UdpSocket) {
    let on: libc::c_int = 1;
    let len = size_of::<libc::c_int>() as libc::socklen_t;
    let fd = std::os::fd::AsRawFd::as_raw_fd(socket);
    // SAFETY: the pointer and length describe `on`, which outlives the call.
    let done =
        unsafe { libc::setsockopt(fd, libc::IPPROTO_IP, libc::IP_RECVTTL, (&raw const on).cast(), len) };
    assert_eq!(done, 0);
}

/// A datagram, and the one thing that the socket was asked to tell about it.
pub(crate) fn receive(socket: &UdpSocket) -> (Vec<u8>, Option<u8>) {
    let mut bytes = [MaybeUninit::new(0); 2000];
    let mut control = [MaybeUninit::new(0); 64];
    let mut parts = [MaybeUninitSlice::new(&mut bytes)];
    let mut message = MsgHdrMut::new().with_buffers(&mut parts).with_control(&mut control);
    let len = SockRef::from(socket).recvmsg(&mut message, 0).unwrap();
    let told = message.control_len() > 0;
    // SAFETY: all octets were set to nought above, and the kernel has written only values over them.
    let read = |byte: &MaybeUninit<u8>| unsafe { byte.assume_init() };
    // cmsg(3): length, level and type come first.
    let value = told.then(|| read(&control[16]));
    (bytes[..len].iter().map(read).collect(), value)
}
