//! A member whose HTTP hangs while its overlay lives leaves the answers, and not more than half do.

use crate::network::{Network, PATIENCE, Tree, config, start_with, until, until_held};
use godwit_core::content::Replicas;
use godwit_map::Tier;
use godwit_node::Runtime;
use godwit_node::health::{CheckConfig, HealthConfig};
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Instant;
use tokio::net::{TcpListener, TcpStream};

/// What stands before a member's HTTP server: passes connections on, or takes them and is silent.
#[derive(Clone, Default)]
struct Front {
    behind: Arc<OnceLock<SocketAddr>>,
    hangs: Arc<AtomicBool>,
}

impl Front {
    async fn listen(&self) -> u16 {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let front = self.clone();
        tokio::spawn(async move {
            while let Ok((mut client, _)) = listener.accept().await {
                let front = front.clone();
                tokio::spawn(async move {
                    if front.hangs.load(Ordering::Relaxed) {
                        // As long as the client has patience.
                        let _ = client.readable().await;
                        tokio::time::sleep(PATIENCE).await;
                    } else if let Some(behind) = front.behind.get()
                        && let Ok(mut server) = TcpStream::connect(behind).await
                    {
                        let _ = tokio::io::copy_bidirectional(&mut client, &mut server).await;
                    }
                });
            }
        });
        port
    }
}

struct Node {
    runtime: Runtime,
    front: Front,
}

async fn node(network: &Network, name: &str, sponsor: Option<&Runtime>) -> Node {
    let front = Front::default();
    let dir = network.joined(name, sponsor).await;
    let mut config = config();
    config.node.http_port = Some(front.listen().await);
    // Quicker than the defaults, and patient enough for a loaded machine.
    config.health =
        HealthConfig { period_ms: 1500, fast_ms: 250, timeout_ms: 1500, hold_ms: 500, ..config.health };
    let port = config.overlay.listen[0].port();
    assert_eq!(port, 0);
    let runtime = start_with(&dir, config).await;
    front.behind.set(runtime.http_addresses()[0]).unwrap();
    Node { runtime, front }
}

/// What every member agrees on about the data path of `of`, as `by` knows it.
async fn state(by: &Node, of: &str) -> (String, String, usize) {
    let status = by.runtime.client().status().await.unwrap();
    let member = status.members.iter().find(|member| member.name == of).unwrap();
    let check = member.checks.iter().find(|check| check.name == "site");
    let found = check.map(|check| (check.state.clone(), check.vantages.len()));
    let (agreed, vantages) = found.unwrap_or_default();
    (member.state.clone(), agreed, vantages)
}

/// Who is told to a client, in the order of names, and which rules gave way.
fn told(by: &Node) -> (Vec<String>, Option<Tier>) {
    let generation = by.runtime.generation().load_full();
    let ranking = generation.rank("198.51.100.1".parse().unwrap(), &"www".parse().unwrap());
    let mut names: Vec<String> = ranking
        .iter()
        .flat_map(|ranking| &ranking.replicas)
        .map(|replica| replica.name.to_string())
        .collect();
    names.sort();
    (names, ranking.map(|ranking| ranking.tier))
}

#[tokio::test(flavor = "multi_thread")]
async fn who_hangs_leaves_the_answers_and_not_more_than_half_do() {
    let network = Network::new();
    let first = node(&network, "a", None).await;
    let mut nodes = vec![first];
    for name in ["b", "c", "d"] {
        let node = node(&network, name, Some(&nodes[0].runtime)).await;
        nodes.push(node);
    }
    let tree = Tree::new(&[("index.html", b"<h1>well</h1>")]);
    let version = network.sign("www", 1, Replicas::All, &tree);
    network.publish(&nodes[0].runtime.client(), &version, &tree).await.unwrap();
    until_held(&nodes[0].runtime, "www", 1, 4).await;
    let all_are = async |agreed: &str| {
        for node in &nodes {
            for of in ["a", "b", "c", "d"] {
                let (_, found, vantages) = state(node, of).await;
                if found != agreed || vantages != 3 {
                    return false;
                }
            }
        }
        true
    };
    until("everybody agrees that everything works", || all_are("up")).await;
    until("everybody is told", || async { nodes.iter().all(|node| told(node).0.len() == 4) }).await;

    // One hangs: its overlay lives, and everybody's map does without it.
    let since = Instant::now();
    nodes[3].front.hangs.store(true, Ordering::Relaxed);
    until("nobody is sent to d", || async {
        nodes.iter().all(|node| told(node) == (vec!["a".into(), "b".into(), "c".into()], Some(Tier::Healthy)))
    })
    .await;
    println!("out of every map {:?} after it began to hang", since.elapsed());
    assert_eq!(state(&nodes[0], "d").await.0, "alive");
    let why = nodes[0]
        .runtime
        .client()
        .why(&"www".parse().unwrap(), "198.51.100.1".parse().unwrap())
        .await
        .unwrap();
    let d = why["replicas"].as_array().unwrap().iter().find(|replica| replica["name"] == "d").unwrap();
    assert_eq!((&d["excluded_because"], &d["checks"][0]["why"]), (&"failing".into(), &"timeout".into()));

    // All hang: who sees everything down is not believed, and clients are still told of somebody.
    nodes.iter().for_each(|node| node.front.hangs.store(true, Ordering::Relaxed));
    until("everything is down or doubted", || async {
        let (told, _) = told(&nodes[1]);
        assert!(told.len() >= 2, "{told:?}");
        let mut bad = 0;
        for of in ["a", "b", "c", "d"] {
            bad += usize::from(matches!(state(&nodes[1], of).await.1.as_str(), "doubted" | "down"));
        }
        bad == 4
    })
    .await;
    assert!(told(&nodes[1]).0.len() >= 2);

    nodes.iter().for_each(|node| node.front.hangs.store(false, Ordering::Relaxed));
    until("everybody agrees that everything works again", || all_are("up")).await;
    until("everybody is told again", || async { nodes.iter().all(|node| told(node).0.len() == 4) }).await;
    let metrics = nodes[0].runtime.client().metrics().await.unwrap();
    for name in [
        "health_checks{state=\"up\"} 4",
        "health_transitions_total{state=\"down\"}",
        "health_probe_seconds_count",
    ] {
        assert!(metrics.contains(name), "{name} in\n{metrics}");
    }
    for node in nodes {
        node.runtime.shutdown().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn further_checks_are_made_by_others_as_the_member_says() {
    let network = Network::new();
    let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = silent.local_addr().unwrap().port();
    let check = |json: serde_json::Value| serde_json::from_value::<CheckConfig>(json).unwrap();
    let dir = network.joined("a", None).await;
    let mut asked = config();
    (asked.health.period_ms, asked.health.timeout_ms) = (1000, 1000);
    asked.health.check = vec![
        check(serde_json::json!({"name": "tcp", "kind": "tcp", "port": port})),
        check(
            serde_json::json!({"name": "web", "kind": "http", "port": port, "timeout_ms": 500, "sites": ["docs"]}),
        ),
    ];
    let a = start_with(&dir, asked).await;
    let b = network.member("b", Some(&a)).await;
    let found = async |name: &str| {
        let status = a.client().status().await.unwrap();
        let member = status.members.into_iter().find(|member| member.name == "a").unwrap();
        let check = member.checks.into_iter().find(|check| check.name == name).unwrap();
        (check.state, check.why)
    };
    // With one other member there is one vantage, and it decides.
    until("the port that listens is up", || async { found("tcp").await.0 == "up" }).await;
    until("the one that never answers is down", || async {
        found("web").await == ("down".into(), Some("no answer in time".into()))
    })
    .await;
    drop(silent);
    until("nobody listens any more", || async {
        found("tcp").await == ("down".into(), Some("connection refused".into()))
    })
    .await;
    a.shutdown().await;
    b.shutdown().await;
}
