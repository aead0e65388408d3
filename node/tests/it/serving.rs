//! One member, its control endpoint and its HTTP server.

use crate::browser::{ask, get, get_h2};
use crate::network::{Network, Tree, until, until_held};
use godwit_core::certificate::{PublisherCertificate, Right, Serial};
use godwit_core::content::{Replicas, VersionNumber};
use godwit_core::record::Record;
use godwit_node::admin::ClientError;
use godwit_node::admin::api::Code;

fn tree(word: &str) -> Tree {
    let big: Vec<u8> = (0..3_000_000u32).flat_map(|i| i.to_le_bytes()).take(3_000_000).collect();
    Tree::new(&[
        ("index.html", format!("<h1>{word}</h1>").as_bytes()),
        ("docs/index.html", b"docs"),
        ("docs/a b.txt", "ä".as_bytes()),
        ("404.html", b"lost"),
        ("big.bin", &big),
        ("empty", b""),
    ])
}

#[tokio::test(flavor = "multi_thread")]
async fn a_site_is_published_and_served() {
    let network = Network::new();
    let member = network.member("one", None).await;
    let (client, address) = (member.client(), member.http_addresses()[0]);
    let tree = tree("one");
    assert_eq!(get(address, "/").await.status, 421, "there is no such site yet");
    let version = network.sign("www", 1, Replicas::All, &tree);
    network.publish(&client, &version, &tree).await.unwrap();

    let index = get(address, "/").await;
    assert_eq!((index.status.as_u16(), &index.body[..]), (200, &b"<h1>one</h1>"[..]));
    assert_eq!(index.header("content-type"), "text/html; charset=utf-8");
    assert_eq!(index.header("godwit-node"), "one");
    assert_eq!(index.header("godwit-version"), "1");
    assert_eq!(index.header("last-modified"), "Sun, 06 Nov 1994 08:49:37 GMT");
    assert_eq!(index.header("accept-ranges"), "bytes");
    assert!(index.header("server-timing").starts_with("local;dur="));
    assert!(!index.header("date").is_empty() && !index.header("cache-control").is_empty());

    // Names and directories.
    let host = "www.edge.example.org";
    assert_eq!(get(address, "/docs/").await.body, "docs");
    let redirect = get(address, "/docs?x=1").await;
    assert_eq!((redirect.status.as_u16(), redirect.header("location")), (301, "/docs/?x=1"));
    let text = get(address, "/docs/a%20b.txt").await;
    assert_eq!((&text.body[..], text.header("content-type")), ("ä".as_bytes(), "text/plain; charset=utf-8"));
    let lost = get(address, "/nothing").await;
    assert_eq!((lost.status.as_u16(), &lost.body[..]), (404, &b"lost"[..]));
    assert_eq!(lost.header("cache-control"), "no-store", "the next version may have it");
    assert_eq!(get(address, "/docs/../index.html").await.status, 400);
    assert_eq!(ask(address, "GET", "www.example.com", "/", &[]).await.status, 200);
    assert_eq!(ask(address, "GET", "other.example", "/", &[]).await.status, 421);
    let refused = ask(address, "POST", host, "/", &[]).await;
    assert_eq!((refused.status.as_u16(), refused.header("allow")), (405, "GET, HEAD"));

    // Conditions, ranges, HEAD.
    let tag = index.header("etag");
    assert_eq!(ask(address, "GET", host, "/", &[("if-none-match", tag)]).await.status, 304);
    assert_eq!(ask(address, "GET", host, "/", &[("if-match", "\"x\"")]).await.status, 412);
    let head = ask(address, "HEAD", host, "/big.bin", &[]).await;
    assert_eq!((head.header("content-length"), head.body.len()), ("3000000", 0));
    let big = get(address, "/big.bin").await.body;
    assert_eq!(big.len(), 3_000_000);
    let part = ask(address, "GET", host, "/big.bin", &[("range", "bytes=1000000-1999999")]).await;
    assert_eq!(part.status, 206);
    assert_eq!(part.header("content-range"), "bytes 1000000-1999999/3000000");
    assert!(part.body == big[1_000_000..2_000_000]);
    let suffix = ask(address, "GET", host, "/big.bin", &[("range", "bytes=-7")]).await;
    assert!(suffix.body == big[2_999_993..]);
    let beyond = ask(address, "GET", host, "/big.bin", &[("range", "bytes=3000000-")]).await;
    assert_eq!((beyond.status.as_u16(), beyond.header("content-range")), (416, "bytes */3000000"));
    assert_eq!(get(address, "/empty").await.body.len(), 0);

    let h2 = get_h2(address, "http://www.edge.example.org/big.bin").await;
    assert!(h2.status == 200 && h2.body == big);

    // What the control endpoint tells of it.
    until_held(&member, "www", 1, 1).await;
    let status = client.status().await.unwrap();
    assert_eq!((status.name.as_str(), status.sites[0].holders.as_slice()), ("one", &["one".to_owned()][..]));
    assert_eq!(status.members[0].sites["www"], 1);
    assert!(client.ready().await.unwrap());
    let metrics = client.metrics().await.unwrap();
    assert!(metrics.contains("godwit_http_requests_total{code=\"206\"} 2"), "{metrics}");
    let why = client.why(&"www".parse().unwrap(), "192.0.2.1".parse().unwrap()).await.unwrap();
    assert!(why.to_string().contains("one"), "{why}");
    member.shutdown().await;
}

fn code(result: Result<(), ClientError>) -> Option<Code> {
    match result {
        Err(ClientError::Refused(error)) => Some(error.code),
        _ => None,
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_published_is_refused_and_changes_nothing() {
    let network = Network::new();
    let member = network.member("one", None).await;
    let client = member.client();
    let (old, new) = (tree("old"), tree("new"));
    let version = network.sign("www", 5, Replicas::All, &old);
    let submit = |version| {
        let (client, record) = (client.clone(), Record::Site(Box::new(version)));
        async move { client.submit(&record).await }
    };

    assert_eq!(code(submit(version.clone()).await), Some(Code::Incomplete));
    network.publish(&client, &version, &old).await.unwrap();
    network.publish(&client, &version, &old).await.unwrap(); // again is no error
    network.publish(&client, &network.sign("docs", 1, Replicas::All, &new), &new).await.unwrap();

    let lower = network.sign("www", 4, Replicas::All, &new);
    assert_eq!(code(submit(lower).await), Some(Code::LowerVersion));
    let mut forged = network.sign("www", 6, Replicas::All, &new);
    forged.number = VersionNumber(7);
    assert_eq!(code(submit(forged).await), Some(Code::Invalid));

    // A publisher whose certificate covers other sites only.
    let rights = vec![Right::Publish];
    let key = &network.publisher;
    let certificate = PublisherCertificate::issue(
        &network.authority.key,
        Serial(77),
        key.public(),
        "docs".into(),
        rights,
        crate::network::validity(),
    );
    let mut foreign = network.sign("www", 8, Replicas::All, &new);
    foreign.publisher = certificate;
    assert_eq!(code(submit(foreign).await), Some(Code::NotAllowed));

    let current = client.site(&"www".parse().unwrap()).await.unwrap().unwrap();
    assert_eq!(current, version);
    assert_eq!(client.site(&"none".parse().unwrap()).await.unwrap(), None);
    member.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn fetches_during_a_publish_never_mix_versions() {
    let network = Network::new();
    let member = network.member("one", None).await;
    let (client, address) = (member.client(), member.http_addresses()[0]);
    let files = |word: &str| {
        let page = word.repeat(50_000);
        Tree::new(&[("a", page.as_bytes()), ("b", page.as_bytes()), ("c/d", page.as_bytes())])
    };
    let first = files("1");
    network.publish(&client, &network.sign("www", 1, Replicas::All, &first), &first).await.unwrap();

    let stop = tokio_util::sync::CancellationToken::new();
    let fetchers: Vec<_> = (0..4)
        .map(|_| {
            let stop = stop.clone();
            tokio::spawn(async move {
                let mut last = String::new();
                while !stop.is_cancelled() {
                    let mut connection = crate::browser::Connection::open(address).await;
                    let mut versions = std::collections::BTreeSet::new();
                    for path in ["/a", "/b", "/c/d"] {
                        let answer = connection.get(path).await.unwrap();
                        let version = answer.header("godwit-version").to_owned();
                        let right = answer.body.iter().all(|byte| *byte == version.as_bytes()[0]);
                        assert!(right && answer.body.len() == 50_000, "version {version} in one response");
                        versions.insert(version);
                    }
                    assert_eq!(versions.len(), 1, "one connection, one version");
                    last = versions.pop_first().unwrap();
                }
                last
            })
        })
        .collect();
    for number in 2..=9 {
        let tree = files(&number.to_string());
        let version = network.sign("www", number, Replicas::All, &tree);
        network.publish(&client, &version, &tree).await.unwrap();
    }
    stop.cancel();
    for fetcher in fetchers {
        fetcher.await.unwrap();
    }
    until("the last version is served", || async {
        get(address, "/a").await.header("godwit-version") == "9"
    })
    .await;
    let kept = client.versions(&"www".parse().unwrap()).await.unwrap();
    let kept: Vec<u64> = kept.iter().map(|version| version.number.0).collect();
    assert_eq!(kept, [9, 8, 7, 6]);
    member.shutdown().await;
}
