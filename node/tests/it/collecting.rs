//! What nobody needs any more goes, and nothing else.

use crate::browser::get;
use crate::network::{Network, Tree, config, start, start_with, until, until_held};
use godwit_core::content::{ObjectId, Replicas};
use godwit_core::record::Record;
use godwit_node::admin::ClientError;
use godwit_node::admin::api::Code;
use godwit_node::datadir::DataDir;
use godwit_node::{Config, Runtime};
use std::collections::BTreeSet;

/// Collects what is a second old, and keeps one superseded version.
fn eager() -> Config {
    let mut config = config();
    config.store.keep_versions = 1;
    config.store.collect_after_secs = 1;
    config.store.cache_disk_mib = 1;
    config
}

/// Some files that all versions have, and some that change.
fn changing(number: u64) -> Tree {
    let word = format!("version {number}");
    let mut files: Vec<(String, Vec<u8>)> = Vec::new();
    for i in 0..40 {
        files.push((format!("same/{i}"), format!("unchanged {i}").into_bytes()));
        files.push((format!("new/{i}"), format!("{word} {i}").into_bytes()));
    }
    files.push(("index.html".into(), word.clone().into_bytes()));
    files.push(("large".into(), word.repeat(200_000).into_bytes()));
    let files: Vec<(&str, &[u8])> = files.iter().map(|(path, bytes)| (path.as_str(), &bytes[..])).collect();
    Tree::new(&files)
}

fn names(tree: &Tree) -> BTreeSet<ObjectId> {
    tree.objects.keys().copied().collect()
}

async fn serves(member: &Runtime, number: u64) {
    let address = member.http_addresses()[0];
    let word = format!("version {number}");
    assert_eq!(get(address, "/index.html").await.body, word);
    assert_eq!(get(address, "/new/7").await.body, format!("{word} 7"));
    assert_eq!(get(address, "/same/39").await.body, "unchanged 39");
    let large = get(address, "/large").await;
    assert_eq!(large.body, word.repeat(200_000));
    assert!(large.header("server-timing").starts_with("local"));
}

/// Collects until so many objects went, in all.
async fn collect(member: &Runtime, objects: usize) {
    let (client, mut gone) = (member.client(), 0);
    let deadline = tokio::time::Instant::now() + crate::network::PATIENCE;
    while gone < objects {
        assert!(tokio::time::Instant::now() < deadline, "only {gone} of {objects} objects were collected");
        gone += client.collect().await.unwrap().objects as usize;
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    }
    assert_eq!(gone, objects, "and no other");
    assert_eq!(client.collect().await.unwrap().objects, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn versions_beyond_those_kept_go_and_the_others_can_be_gone_back_to() {
    let network = Network::new();
    let one = start_with(&network.joined("one", None).await, eager()).await;
    let two = start_with(&network.joined("two", Some(&one)).await, eager()).await;
    let trees: Vec<Tree> = (1..=5).map(changing).collect();
    for (tree, number) in trees.iter().zip(1..) {
        let version = network.sign("www", number, Replicas::All, tree);
        network.publish(&one.client(), &version, tree).await.unwrap();
        until_held(&one, "www", number, 2).await;
        until_held(&two, "www", number, 2).await;
    }
    let kept: BTreeSet<ObjectId> = trees[3..].iter().flat_map(names).collect();
    let old: BTreeSet<ObjectId> = trees[..3].iter().flat_map(names).collect();
    let gone: Vec<ObjectId> = old.difference(&kept).copied().collect();
    for member in [&one, &two] {
        collect(member, gone.len()).await;
        assert_eq!(member.client().missing(&gone).await.unwrap(), gone);
        assert!(member.client().missing(&kept.iter().copied().collect::<Vec<_>>()).await.unwrap().is_empty());
        serves(member, 5).await;
        let metrics = member.client().metrics().await.unwrap();
        assert!(metrics.contains(&format!("godwit_collected_objects_total {}", gone.len())), "{metrics}");
    }

    // Back to the fourth: nothing has to be sent.
    let back = network.sign("www", 6, Replicas::All, &trees[3]);
    one.client().submit(&Record::Site(Box::new(back))).await.unwrap();
    until_held(&one, "www", 6, 2).await;
    serves(&one, 4).await;
    serves(&two, 4).await;

    // The first is gone: it has to be sent, and is fetched, though its blocks were here once.
    let first = network.sign("www", 7, Replicas::All, &trees[0]);
    let refused = one.client().submit(&Record::Site(Box::new(first.clone()))).await.unwrap_err();
    assert!(matches!(refused, ClientError::Refused(error) if error.code == Code::Incomplete));
    network.publish(&one.client(), &first, &trees[0]).await.unwrap();
    until_held(&one, "www", 7, 2).await;
    serves(&one, 1).await;
    serves(&two, 1).await;
    one.shutdown().await;
    two.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_publisher_has_just_sent_stays() {
    let network = Network::new();
    let one = network.member("one", None).await;
    let tree = changing(1);
    let objects: Vec<_> = tree.objects.values().cloned().map(Ok).collect();
    one.client().put_objects(None, futures::stream::iter(objects)).await.unwrap();
    assert_eq!(one.client().collect().await.unwrap().objects, 0);
    let version = network.sign("www", 1, Replicas::All, &tree);
    one.client().submit(&Record::Site(Box::new(version))).await.unwrap();
    serves(&one, 1).await;
    one.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_pulled_stays_within_its_bound() {
    let network = Network::new();
    let one = start_with(&network.joined("one", None).await, eager()).await;
    let two = start_with(&network.joined("two", Some(&one)).await, eager()).await;
    let three = start_with(&network.joined("three", Some(&one)).await, eager()).await;
    let files: Vec<(String, Vec<u8>)> = (0..6u8).map(|i| (format!("f{i}"), vec![i; 400_000])).collect();
    let files: Vec<(&str, &[u8])> = files.iter().map(|(path, bytes)| (path.as_str(), &bytes[..])).collect();
    let tree = Tree::new(&files);
    network.publish(&one.client(), &network.sign("www", 1, Replicas::Count(1), &tree), &tree).await.unwrap();
    // Of the two that were not published on, one at least does not keep the site.
    let mut pulled = 0;
    for member in [&two, &three] {
        until("all is known", || async {
            let all = member.client().status().await.unwrap().members.len() == 3;
            all && get(member.http_addresses()[0], "/f0").await.status == 200
        })
        .await;
        let own = member.certificate().grant().name.to_string();
        if member.client().status().await.unwrap().sites[0].wanted.contains(&own) {
            continue;
        }
        pulled += 1;
        let address = member.http_addresses()[0];
        for _ in 0..2 {
            for (path, bytes) in &files {
                assert_eq!(get(address, &format!("/{path}")).await.body, *bytes);
            }
            until("the cache is within its bound", || async {
                member.client().collect().await.unwrap();
                let metrics = member.client().metrics().await.unwrap();
                let stored = metrics.lines().find_map(|line| line.strip_prefix("godwit_store_bytes "));
                stored.unwrap().parse::<u64>().unwrap() <= 1 << 20
            })
            .await;
        }
        let metrics = member.client().metrics().await.unwrap();
        let cached = metrics.lines().find_map(|line| line.strip_prefix("godwit_cache_bytes ")).unwrap();
        assert!(cached.parse::<u64>().unwrap() >= 400_000, "no more goes than must: {cached}");
    }
    assert!(pulled > 0);
    for member in [one, two, three] {
        member.shutdown().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_goes_while_a_kept_version_is_damaged() {
    let network = Network::new();
    let dir = network.joined("one", None).await;
    let one = start_with(&dir, eager()).await;
    let trees: Vec<Tree> = (1..=3).map(changing).collect();
    for (tree, number) in trees.iter().zip(1..) {
        let version = network.sign("www", number, Replicas::All, tree);
        network.publish(&one.client(), &version, tree).await.unwrap();
    }
    one.shutdown().await;
    damage(&dir, &trees[2].objects[&trees[2].root]);
    let one = start_with(&dir, eager()).await;
    // Long enough for what is a second old to be collected; damage is never forgotten meanwhile.
    for _ in 0..20 {
        let refused = one.client().collect().await.unwrap_err();
        assert!(matches!(refused, ClientError::Refused(error) if error.code == Code::Incomplete));
        tokio::time::sleep(std::time::Duration::from_millis(100)).await;
    }
    // The publisher sends what is missing, and all is well again.
    let root = trees[2].objects[&trees[2].root].clone();
    one.client().put_objects(None, futures::stream::iter([Ok(root)])).await.unwrap();
    let gone = names(&trees[0]).difference(&trees[1..].iter().flat_map(names).collect()).count();
    collect(&one, gone).await;
    serves(&one, 3).await;
    one.shutdown().await;
}

fn damage(dir: &DataDir, object: &[u8]) {
    let mut flipped = 0;
    let mut directories = vec![dir.store()];
    while let Some(directory) = directories.pop() {
        for entry in std::fs::read_dir(directory).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                directories.push(path);
                continue;
            }
            let mut bytes = std::fs::read(&path).unwrap();
            if let Some(at) = bytes.windows(object.len()).position(|window| window == object) {
                bytes[at + object.len() / 2] ^= 1;
                std::fs::write(&path, bytes).unwrap();
                flipped += 1;
            }
        }
    }
    assert!(flipped > 0, "there was something to damage");
}

#[tokio::test(flavor = "multi_thread")]
async fn who_is_told_that_a_version_is_held_is_served_it() {
    let network = Network::new();
    let one = network.member("one", None).await;
    let two = start(&network.joined("two", Some(&one)).await).await;
    for number in 1..=15 {
        let word = number.to_string();
        let tree = Tree::new(&[("index.html", word.as_bytes())]);
        let version = network.sign("www", number, Replicas::All, &tree);
        network.publish(&one.client(), &version, &tree).await.unwrap();
        assert_eq!(get(one.http_addresses()[0], "/index.html").await.body, word);
        until_held(&one, "www", number, 2).await;
        assert_eq!(get(two.http_addresses()[0], "/index.html").await.body, word);
    }
    one.shutdown().await;
    two.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn clients_are_served_a_large_file_while_it_is_replicated() {
    let network = Network::new();
    let one = network.member("one", None).await;
    let two = network.member("two", Some(&one)).await;
    let large: Vec<u8> = (0..8_000_000u32).flat_map(u32::to_le_bytes).collect();
    let tree = Tree::new(&[("large", &large)]);
    network.publish(&one.client(), &network.sign("www", 1, Replicas::All, &tree), &tree).await.unwrap();
    until_held(&two, "www", 1, 1).await;
    let address = two.http_addresses()[0];
    until("the site is known", || async { get(address, "/nothing").await.status == 404 }).await;
    let answers = futures::future::join_all((0..4).map(|_| get(address, "/large"))).await;
    for answer in answers {
        assert_eq!((answer.status.as_u16(), answer.body.len()), (200, large.len()));
    }
    until_held(&two, "www", 1, 2).await;
    one.shutdown().await;
    two.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_came_for_a_version_that_never_came_goes_everywhere() {
    let network = Network::new();
    let one = start_with(&network.joined("one", None).await, eager()).await;
    let two = start_with(&network.joined("two", Some(&one)).await, eager()).await;
    let tree = changing(1);
    let intent = network.intend("www", 1, &tree);
    let stored = async |member: &Runtime| {
        let metrics = member.client().metrics().await.unwrap();
        let stored = metrics.lines().find_map(|line| line.strip_prefix("godwit_store_objects "));
        stored.unwrap().parse::<usize>().unwrap()
    };
    until("the two know each other", || async {
        one.client().status().await.unwrap().connected == 1
            && two.client().status().await.unwrap().connected == 1
    })
    .await;
    until("the objects to be fetched before their version", || async {
        // Whoever is not connected yet hears nothing: it is sent again.
        let objects: Vec<_> = tree.objects.values().cloned().map(Ok).collect();
        one.client().put_objects(Some(&intent), futures::stream::iter(objects)).await.unwrap();
        stored(&two).await == tree.objects.len()
    })
    .await;
    assert!(two.client().status().await.unwrap().sites.is_empty(), "nobody knows of a version");
    assert_eq!(get(two.http_addresses()[0], "/index.html").await.status, 421);
    // The publisher never comes back.
    collect(&two, tree.objects.len()).await;
    collect(&one, tree.objects.len()).await;
    // And the next one begins anew.
    let version = network.sign("www", 1, Replicas::All, &tree);
    network.publish(&one.client(), &version, &tree).await.unwrap();
    until_held(&one, "www", 1, 2).await;
    serves(&two, 1).await;
    one.shutdown().await;
    two.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_intent_that_does_not_hold_is_refused() {
    let network = Network::new();
    let one = network.member("one", None).await;
    let tree = changing(1);
    let mut intent = network.intend("www", 1, &tree);
    intent.bytes += 1;
    let objects: Vec<_> = tree.objects.values().cloned().map(Ok).collect();
    let refused = one.client().put_objects(Some(&intent), futures::stream::iter(objects)).await.unwrap_err();
    assert!(
        matches!(refused, ClientError::Refused(error) if error.code == Code::Invalid),
        "signed otherwise"
    );
    one.shutdown().await;
}
