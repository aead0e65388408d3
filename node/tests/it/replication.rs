//! Several members.

use crate::browser::get;
use crate::network::{Network, PATIENCE, Tree, start, until, until_held};
use godwit_core::content::Replicas;
use godwit_core::key::SecretKey;
use godwit_node::clock;
use godwit_overlay::JoinError;

fn many_files(word: &str) -> Tree {
    let large = word.repeat(700_000);
    let mut files: Vec<(String, Vec<u8>)> = (0..300)
        .map(|i| (format!("d{}/f{i}", i % 7), format!("{word} {i}").repeat(1 + i % 50).into_bytes()))
        .collect();
    files.push(("index.html".into(), word.as_bytes().to_vec()));
    files.push(("large".into(), large.into_bytes()));
    let files: Vec<(&str, &[u8])> = files.iter().map(|(path, bytes)| (path.as_str(), &bytes[..])).collect();
    Tree::new(&files)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_publish_reaches_every_member_and_survives_the_loss_of_the_first() {
    let network = Network::new();
    let one = network.member("one", None).await;
    let two = network.member("two", Some(&one)).await;
    let three_dir = network.joined("three", Some(&two)).await;
    let three = start(&three_dir).await;
    until("all are connected", || async {
        let status = three.client().status().await.unwrap();
        status.members.iter().filter(|member| member.state == "alive").count() == 3
    })
    .await;

    let tree = many_files("first");
    let version = network.sign("www", 1, Replicas::All, &tree);
    network.publish(&one.client(), &version, &tree).await.unwrap();
    until_held(&one, "www", 1, 3).await;
    for member in [&one, &two, &three] {
        let answer = get(member.http_addresses()[0], "/large").await;
        assert_eq!((answer.status.as_u16(), answer.body.len()), (200, 3_500_000));
        assert!(answer.header("server-timing").starts_with("local"));
    }

    // The third is away during the second version; then the first is gone for good.
    three.shutdown().await;
    let tree = many_files("second");
    network.publish(&two.client(), &network.sign("www", 2, Replicas::All, &tree), &tree).await.unwrap();
    until_held(&two, "www", 2, 2).await;
    drop(one);
    // It finds its peers by what it knew of them.
    three_dir.write_bootstrap(&[]).unwrap();
    let three = start(&three_dir).await;
    until("the returned member serves the second version", || async {
        get(three.http_addresses()[0], "/index.html").await.body == "second"
    })
    .await;
    until("the lost member is noticed", || async {
        let status = two.client().status().await.unwrap();
        status.members.iter().any(|member| member.name == "one" && member.state == "unreachable")
    })
    .await;
    two.shutdown().await;
    three.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_not_placed_here_is_pulled_and_kept() {
    let network = Network::new();
    let one = network.member("one", None).await;
    let two = network.member("two", Some(&one)).await;
    let three = network.member("three", Some(&one)).await;
    let tree = many_files("pulled");
    network.publish(&one.client(), &network.sign("www", 1, Replicas::Count(1), &tree), &tree).await.unwrap();
    until_held(&two, "www", 1, 1).await;
    until_held(&three, "www", 1, 1).await;
    let mut pulled = 0;
    for member in [&one, &two, &three] {
        let address = member.http_addresses()[0];
        until("the site is known", || async { get(address, "/").await.status == 200 }).await;
        // Many at once are one fetch.
        let answers = futures::future::join_all((0..8).map(|_| get(address, "/large"))).await;
        for answer in &answers {
            assert_eq!((answer.status.as_u16(), answer.body.len()), (200, 4_200_000));
        }
        pulled +=
            usize::from(answers.iter().any(|answer| answer.header("server-timing").starts_with("pulled")));
        assert!(get(address, "/large").await.header("server-timing").starts_with("local"));
        let metrics = member.client().metrics().await.unwrap();
        let pulls = metrics.lines().find(|line| line.starts_with("godwit_pulled_objects_total")).unwrap();
        let pulls: u32 = pulls.rsplit(' ').next().unwrap().parse().unwrap();
        assert!(pulls <= 4, "root block, index, and the large file once: {pulls}");
    }
    assert!(pulled >= 1, "somebody had to pull");
    for member in [one, two, three] {
        member.shutdown().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn damage_on_the_disk_is_never_served_and_repaired_from_a_peer() {
    let network = Network::new();
    let one = network.member("one", None).await;
    let dir = network.joined("two", Some(&one)).await;
    let two = start(&dir).await;
    let tree = many_files("whole");
    network.publish(&one.client(), &network.sign("www", 1, Replicas::All, &tree), &tree).await.unwrap();
    until_held(&one, "www", 1, 2).await;
    two.shutdown().await;

    // One bit in every 64 KiB of every large enough file of bytes, well inside of them.
    let mut flipped = 0;
    for path in files_under(&dir.store()) {
        let mut bytes = std::fs::read(&path).unwrap();
        let is_index = path.components().any(|part| part.as_os_str().to_string_lossy().contains("index"));
        let at = bytes.windows(11).position(|window| window == b"wholewholew");
        if let (false, Some(at)) = (is_index, at) {
            bytes[at + 5] ^= 1;
            std::fs::write(&path, bytes).unwrap();
            flipped += 1;
        }
    }
    assert!(flipped > 0, "there was something to damage");

    let two = start(&dir).await;
    let address = two.http_addresses()[0];
    until("the large file is whole again", || async {
        let answer = get(address, "/large").await;
        match answer.status.as_u16() {
            200 => {
                assert!(answer.body == "whole".repeat(700_000), "wrong bytes were served");
                true
            }
            status => {
                assert_eq!(status, 503, "while it is fetched again");
                false
            }
        }
    })
    .await;
    one.shutdown().await;
    two.shutdown().await;
}

fn files_under(path: &std::path::Path) -> Vec<std::path::PathBuf> {
    let mut files = Vec::new();
    for entry in std::fs::read_dir(path).unwrap() {
        let path = entry.unwrap().path();
        match path.is_dir() {
            true => files.extend(files_under(&path)),
            false => files.push(path),
        }
    }
    files
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_makes_one_member() {
    let network = Network::new();
    let one = network.member("one", None).await;
    let token = network.invite("two", false, one.peer_addresses().to_vec());
    let (first, second) = (SecretKey::from_seed(&[21; 32]), SecretKey::from_seed(&[22; 32]));
    let join = |key: SecretKey| {
        let (token, addresses) = (token.clone(), one.peer_addresses().to_vec());
        async move {
            let redemption = token.redeem(clock::now(), key.public());
            godwit_overlay::join(&key, redemption, &addresses, PATIENCE).await
        }
    };
    let certificate = join(first.clone()).await.unwrap();
    assert_eq!(join(first).await.unwrap(), certificate, "asking again is answered again");
    assert!(matches!(join(second).await, Err(JoinError::Refused(_))));
    one.shutdown().await;
}
