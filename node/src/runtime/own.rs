//! What a member says of itself, and whom it admits before it has heard anything.

use crate::addresses;
use crate::config::Config;
use godwit_core::admission::Admission;
use godwit_core::certificate::MemberCertificate;
use godwit_core::member::OwnEntry;
use godwit_core::record::Record;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

/// Whom to admit until the machine has said so: its own word comes within the first turn.
pub(super) fn first_admission(own: &MemberCertificate, persisted: &[Record]) -> Admission {
    let mut admission = Admission { network: Some(own.grant().network), ..Admission::default() };
    admission.members.insert(own.grant().serial, own.member());
    for record in persisted {
        match record {
            Record::Member(certificate) => {
                admission.members.insert(certificate.grant().serial, certificate.member());
            }
            Record::Revocation(revocation) => {
                admission.revoked.insert(revocation.serial, revocation.clone());
            }
            _ => {}
        }
    }
    admission
}

/// What the member says of itself: as configured, or as far as its sockets tell.
pub(super) fn own_entry(config: &Config, peer: &[SocketAddr], http: &[SocketAddr]) -> OwnEntry {
    let listened = || http.iter().chain(peer).map(SocketAddr::ip).filter(|ip| !ip.is_unspecified());
    let v4 = |ip: IpAddr| if let IpAddr::V4(v4) = ip { Some(v4) } else { None };
    let v6 = |ip: IpAddr| if let IpAddr::V6(v6) = ip { Some(v6) } else { None };
    let wildcard = |is_v4: bool| {
        http.iter().chain(peer).any(|address| address.ip().is_unspecified() && address.is_ipv4() == is_v4)
    };
    let public_v4 = config
        .node
        .public_v4
        .or_else(|| listened().find_map(v4))
        .or_else(|| source_v4().filter(|_| wildcard(true)));
    let public_v6 = config
        .node
        .public_v6
        .or_else(|| listened().find_map(v6))
        .or_else(|| source_v6().filter(|_| wildcard(false)));
    let reached = |address: &SocketAddr| {
        let ip = match address.ip() {
            IpAddr::V4(ip) if ip.is_unspecified() => public_v4.map(IpAddr::V4),
            IpAddr::V6(ip) if ip.is_unspecified() => public_v6.map(IpAddr::V6),
            ip => Some(ip),
        };
        ip.map(|ip| SocketAddr::new(ip, address.port()))
    };
    let peer_addresses = match config.overlay.advertise.is_empty() {
        true => peer.iter().filter_map(reached).collect(),
        false => config.overlay.advertise.clone(),
    };
    OwnEntry {
        peer_addresses,
        public_v4,
        public_v6,
        http_port: config.node.http_port.or_else(|| http.first().map(SocketAddr::port)),
        software: env!("CARGO_PKG_VERSION").to_owned(),
        checks: Vec::new(),
    }
}

fn source_v4() -> Option<Ipv4Addr> {
    match addresses::source(true)? {
        IpAddr::V4(ip) if !ip.is_loopback() => Some(ip),
        _ => None,
    }
}

fn source_v6() -> Option<Ipv6Addr> {
    match addresses::source(false)? {
        IpAddr::V6(ip) if !ip.is_loopback() && !ip.is_unicast_link_local() => Some(ip),
        _ => None,
    }
}
