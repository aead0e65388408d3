//! What a member finds when it starts.

use crate::browser::get;
use crate::network::{Network, Tree, config, start, until};
use godwit_core::content::Replicas;
use godwit_node::datadir::DataDirError;
use godwit_node::{Runtime, Settings, StartError};

#[tokio::test(flavor = "multi_thread")]
async fn a_directory_that_cannot_be_used_says_why() {
    let network = Network::new();
    let refusal = |path: std::path::PathBuf| async move {
        Runtime::start(Settings::new(path, config())).await.map(|_| ()).unwrap_err()
    };
    let empty = network.dir("empty");
    empty.create().unwrap();
    let error = refusal(network.path("empty")).await;
    assert!(matches!(error, StartError::DataDir(DataDirError::NotJoined(_))), "{error}");
    assert!(error.to_string().contains("godwit join"));

    let one = network.joined("one", None).await;
    let two = network.joined("two", None).await;
    let mixed = network.dir("mixed");
    mixed.create().unwrap();
    mixed.write_key(&one.key().unwrap().unwrap()).unwrap();
    mixed.write_certificate(&two.certificate().unwrap().unwrap()).unwrap();
    let error = refusal(network.path("mixed")).await;
    assert!(matches!(error, StartError::DataDir(DataDirError::OtherMember { .. })), "{error}");

    let member = start(&one).await;
    let error = refusal(network.path("one")).await;
    assert!(matches!(error, StartError::DataDir(DataDirError::Locked(_))), "{error}");
    member.shutdown().await;

    // Key and certificate of another member over the store of the first.
    one.write_key(&two.key().unwrap().unwrap()).unwrap();
    one.write_certificate(&two.certificate().unwrap().unwrap()).unwrap();
    let error = loop {
        match refusal(network.path("one")).await {
            // A blocking task of the stopped one may still be letting go of the store.
            StartError::Open(godwit_store::OpenError::Locked(_)) => tokio::task::yield_now().await,
            error => break error,
        }
    };
    assert!(matches!(error, StartError::Open(godwit_store::OpenError::OtherMember { .. })), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_port_in_use_is_named_and_nothing_is_left_behind() {
    let network = Network::new();
    let dir = network.joined("one", None).await;
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap();
    let mut config = config();
    config.http.listen = vec![address];
    let error = Runtime::start(Settings::new(dir.path(), config)).await.map(|_| ()).unwrap_err();
    assert!(error.to_string().contains(&address.to_string()), "{error}");
    start(&dir).await.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restart_serves_what_was_acknowledged_and_answers_from_the_last_map() {
    let network = Network::new();
    let dir = network.joined("one", None).await;
    let member = start(&dir).await;
    let tree = Tree::new(&[("index.html", b"kept")]);
    network.publish(&member.client(), &network.sign("www", 3, Replicas::All, &tree), &tree).await.unwrap();
    until("the map knows the site", || async { member.generation().load().site("www").is_some() }).await;
    let incarnation = member.client().status().await.unwrap().incarnation;
    let number = member.generation().load().number();
    member.shutdown().await;

    let member = start(&dir).await;
    assert!(member.generation().load().number() >= number);
    let client = "192.0.2.1".parse().unwrap();
    assert!(member.generation().load().answer(client, "www").is_some());
    let answer = get(member.http_addresses()[0], "/").await;
    assert_eq!((&answer.body[..], answer.header("godwit-version")), (&b"kept"[..], "3"));
    let status = member.client().status().await.unwrap();
    assert_eq!(status.incarnation, incarnation + 1);
    // Dropped, as if killed: the next start finds everything again.
    drop(member);
    until("the lock is free", || async { dir.lock().is_ok() }).await;
    let member = loop {
        match Runtime::start(Settings::new(dir.path(), config())).await {
            Ok(member) => break member,
            // The tasks of the dropped one let go of the store one after the other.
            Err(StartError::Open(godwit_store::OpenError::Locked(_))) => tokio::task::yield_now().await,
            Err(error) => panic!("{error}"),
        }
    };
    assert_eq!(get(member.http_addresses()[0], "/").await.body, "kept");
    member.shutdown().await;
}
