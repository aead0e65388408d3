//! The zone handler, mounted in a stock hickory server with its catalog, over real sockets; and
//! the own request handler in the same server.

use super::{Query, addresses, inputs, shared, view};
use godwit_dns_plugin::{Handler, MapZone};
use hickory_server::Server;
use hickory_server::proto::op::{Message, ResponseCode};
use hickory_server::proto::rr::RecordType;
use hickory_server::server::RequestHandler;
use hickory_server::zone_handler::{Catalog, ZoneHandler};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::UdpSocket;

/// Long enough for a machine that is busy with other tests.
const PATIENCE: Duration = Duration::from_secs(30);

async fn serve<H: RequestHandler>(handler: H) -> (Server<H>, SocketAddr) {
    let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let address = socket.local_addr().unwrap();
    let mut server = Server::new(handler);
    server.register_socket(socket);
    (server, address)
}

async fn ask(server: SocketAddr, query: &Query) -> Message {
    let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    socket.send_to(&query.bytes(), server).await.unwrap();
    let mut buffer = [0; 4096];
    let (len, _) = tokio::time::timeout(PATIENCE, socket.recv_from(&mut buffer)).await.unwrap().unwrap();
    Message::from_vec(&buffer[..len]).unwrap()
}

#[tokio::test]
async fn the_zone_handler_answers_in_a_stock_catalog() {
    let zone = MapZone::new(view(shared(&inputs())));
    let mut catalog = Catalog::new();
    catalog.upsert(zone.origin().clone(), vec![Arc::new(zone)]);
    let (mut server, address) = serve(catalog).await;
    let check = async |name: &str, kind, code: ResponseCode, answers: usize, authorities: usize| {
        let message = ask(address, &Query::new(name, kind)).await;
        let found = (message.metadata.response_code, message.answers.len(), message.authorities.len());
        assert_eq!(found, (code, answers, authorities), "{name} {kind}: {message}");
        message
    };
    use ResponseCode::{NXDomain, NoError, Refused};
    let www = check("www.edge.example.org", RecordType::A, NoError, 1, 0).await;
    // 127.0.0.1 is nowhere in the database: by hash, and the same as through the own handler.
    assert!(["198.18.0.1", "198.18.0.2"].contains(&addresses(&www)[0].as_str()));
    check("edge.example.org", RecordType::SOA, NoError, 1, 2).await;
    check("edge.example.org", RecordType::NS, NoError, 2, 0).await;
    check("n-paris.node.edge.example.org", RecordType::AAAA, NoError, 1, 0).await;
    check("www.edge.example.org", RecordType::TXT, NoError, 0, 1).await;
    check("node.edge.example.org", RecordType::A, NoError, 0, 1).await;
    check("nosuch.edge.example.org", RecordType::A, NXDomain, 0, 1).await;
    check("edge.example.org", RecordType::AXFR, Refused, 0, 0).await;
    check("www.example.com", RecordType::A, Refused, 0, 0).await;
    server.shutdown_gracefully().await.unwrap();
}

#[tokio::test]
async fn the_own_handler_answers_in_a_stock_server() {
    let (mut server, address) = serve(Handler::new(view(shared(&inputs())))).await;
    let query = Query::new("www.edge.example.org", RecordType::A).subnet(&[0, 1, 24, 0, 203, 0, 113]);
    let message = ask(address, &query).await;
    assert_eq!(addresses(&message), ["198.18.0.1"]);
    assert!(message.edns.is_some());
    server.shutdown_gracefully().await.unwrap();
}
