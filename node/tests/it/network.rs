//! Members of a small network, in this process and on loopback.

use bytes::Bytes;
use godwit_core::certificate::{
    Authority, Invitation, JoinToken, PublisherCertificate, Right, Role, Serial, Validity,
};
use godwit_core::content::object;
use godwit_core::content::tree::{Body, Entry, File, Kind, List, build_directory};
use godwit_core::content::version::Draft;
use godwit_core::content::{ObjectId, Policy, Replicas, SiteVersion, VersionNumber};
use godwit_core::key::SecretKey;
use godwit_core::record::Record;
use godwit_core::time::Time;
use godwit_core::upload::{Intent, Plan};
use godwit_node::admin::{Client, ClientError};
use godwit_node::datadir::DataDir;
use godwit_node::{Config, Runtime, Settings, clock};
use std::collections::BTreeMap;
use std::future::Future;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// Long enough for a busy machine; nothing here waits that long when it works.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// A network's authority and its members' directories.
pub struct Network {
    pub authority: Authority,
    pub publisher: SecretKey,
    pub publisher_certificate: PublisherCertificate,
    /// Of members that are invited.
    pub roles: Vec<Role>,
    temp: tempfile::TempDir,
    serial: AtomicU64,
}

impl Network {
    pub fn new() -> Network {
        let _ = tracing_subscriber::fmt()
            .with_env_filter(tracing_subscriber::EnvFilter::from_default_env())
            .with_test_writer()
            .try_init();
        let authority =
            Authority { key: SecretKey::from_seed(&[1; 32]), zone: "edge.example.org".parse().unwrap() };
        let publisher = SecretKey::from_seed(&[2; 32]);
        let rights = vec![Right::Publish, Right::Operate];
        let publisher_certificate = PublisherCertificate::issue(
            &authority.key,
            Serial(1),
            publisher.public(),
            String::new(),
            rights,
            validity(),
        );
        let temp = tempfile::tempdir().unwrap();
        let roles = vec![Role::Node];
        Network { authority, publisher, publisher_certificate, roles, temp, serial: AtomicU64::new(2) }
    }

    pub fn dir(&self, name: &str) -> DataDir {
        DataDir::new(self.path(name))
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.temp.path().join(name)
    }

    pub fn invite(&self, name: &str, founder: bool, bootstrap: Vec<SocketAddr>) -> JoinToken {
        let serial = self.serial.fetch_add(1, Ordering::Relaxed);
        let mut seed = [9; 32];
        seed[..8].copy_from_slice(&serial.to_le_bytes());
        let invitation = Invitation {
            serial: Serial(serial),
            name: name.parse().unwrap(),
            region: format!("r-{name}").parse().unwrap(),
            place: None,
            roles: self.roles.clone(),
            validity: validity(),
            redeem_by: clock::now() + Duration::from_secs(900),
            founder,
            bootstrap,
        };
        self.authority.invite(invitation, &seed)
    }

    /// A directory that has joined: the first member sponsors itself, others ask `sponsor`.
    pub async fn joined(&self, name: &str, sponsor: Option<&Runtime>) -> DataDir {
        let dir = self.dir(name);
        dir.create().unwrap();
        let key = dir.key_or_new().unwrap();
        let bootstrap = sponsor.map(|sponsor| sponsor.peer_addresses().to_vec()).unwrap_or_default();
        let token = self.invite(name, sponsor.is_none(), bootstrap.clone());
        let redemption = token.redeem(clock::now(), key.public());
        let certificate = match sponsor {
            None => redemption.sponsor(clock::now(), &key),
            Some(_) => {
                let joined = godwit_overlay::join(&key, redemption, &bootstrap, PATIENCE).await;
                joined.unwrap()
            }
        };
        dir.write_certificate(&certificate).unwrap();
        dir.write_bootstrap(&bootstrap).unwrap();
        dir
    }

    /// A running member that has just joined.
    pub async fn member(&self, name: &str, sponsor: Option<&Runtime>) -> Runtime {
        let dir = self.joined(name, sponsor).await;
        start(&dir).await
    }

    /// Signs a version of a site.
    pub fn sign(&self, site: &str, number: u64, replicas: Replicas, tree: &Tree) -> SiteVersion {
        let draft = Draft {
            site: site.parse().unwrap(),
            number: VersionNumber(number),
            root: tree.root,
            files: tree.files,
            bytes: tree.bytes,
            policy: Policy { replicas },
        };
        SiteVersion::issue(clock::now(), &self.publisher, self.publisher_certificate.clone(), draft)
    }

    /// Signs what is to be sent for a version of a site.
    pub fn intend(&self, site: &str, number: u64, tree: &Tree) -> Intent {
        let plan = Plan {
            site: site.parse().unwrap(),
            number: VersionNumber(number),
            policy: Policy { replicas: Replicas::All },
            objects: tree.objects.len() as u64,
            bytes: tree.objects.values().map(|object| object.len() as u64).sum(),
        };
        Intent::issue(clock::now(), &self.publisher, self.publisher_certificate.clone(), plan)
    }

    /// Publishes as the command line does: what is missing, then the head.
    pub async fn publish(
        &self,
        client: &Client,
        version: &SiteVersion,
        tree: &Tree,
    ) -> Result<(), ClientError> {
        let ids: Vec<ObjectId> = tree.objects.keys().copied().collect();
        let missing = client.missing(&ids).await?;
        let objects: Vec<_> = missing.iter().map(|id| Ok(tree.objects[id].clone())).collect();
        client.put_objects(None, futures::stream::iter(objects)).await?;
        client.submit(&Record::Site(Box::new(version.clone()))).await
    }
}

pub fn validity() -> Validity {
    let now = clock::now();
    Validity {
        not_before: Time::from_secs(now.as_secs() - 3600),
        not_after: now + Duration::from_secs(86_400),
    }
}

/// Loopback and free ports.
pub fn config() -> Config {
    let loopback = vec!["127.0.0.1:0".parse().unwrap()];
    let mut config = Config::default();
    config.overlay.listen.clone_from(&loopback);
    config.http.listen = loopback;
    config.http.hosts.insert("www.example.com".into(), "www".parse().unwrap());
    config
}

pub async fn start(dir: &DataDir) -> Runtime {
    start_with(dir, config()).await
}

pub async fn start_with(dir: &DataDir, config: Config) -> Runtime {
    Runtime::start(Settings::new(dir.path(), config)).await.unwrap()
}

/// A directory tree as objects.
pub struct Tree {
    pub root: ObjectId,
    pub files: u64,
    pub bytes: u64,
    pub objects: BTreeMap<ObjectId, Bytes>,
}

impl Tree {
    /// A tree of these files; directories are at most one level deep.
    pub fn new(files: &[(&str, &[u8])]) -> Tree {
        let mut tree = Tree { root: ObjectId::of(b""), files: 0, bytes: 0, objects: BTreeMap::new() };
        let mut directories: BTreeMap<&str, Vec<Entry>> = BTreeMap::from([("", Vec::new())]);
        for (path, bytes) in files {
            let (directory, name) = path.rsplit_once('/').unwrap_or(("", path));
            let id = object::name(bytes).id;
            tree.objects.insert(id, Bytes::copy_from_slice(bytes));
            tree.files += 1;
            tree.bytes += bytes.len() as u64;
            let file = File { len: bytes.len() as u64, modified: 784_111_777, body: Body::Object(id) };
            let entry = Entry { name: name.to_owned(), kind: Kind::File(file) };
            directories.entry(directory).or_default().push(entry);
        }
        let mut root = directories.remove("").unwrap();
        for (name, entries) in directories {
            let built = build_directory(entries).unwrap();
            tree.objects.extend(built.blocks);
            root.push(Entry { name: name.to_owned(), kind: Kind::Directory(built.root) });
        }
        let built = build_directory(root).unwrap();
        tree.root = built.root;
        tree.objects.extend(built.blocks);
        tree
    }
}

impl Tree {
    /// A tree of one file that takes several objects.
    pub fn with_large(name: &str, bytes: &[u8]) -> Tree {
        let mut objects = BTreeMap::new();
        let mut add = |bytes: Bytes| {
            let id = object::name(&bytes).id;
            objects.insert(id, bytes);
            id
        };
        let parts = bytes.chunks(object::OBJECT_LEN_MAX as usize);
        let list = List { objects: parts.map(|part| add(Bytes::copy_from_slice(part))).collect() };
        let body = Body::List(add(list.encode()));
        let file = File { len: bytes.len() as u64, modified: 784_111_777, body };
        let built = build_directory(vec![Entry { name: name.to_owned(), kind: Kind::File(file) }]).unwrap();
        objects.extend(built.blocks);
        Tree { root: built.root, files: 1, bytes: bytes.len() as u64, objects }
    }
}

/// Waits for a level, never for an edge.
pub async fn until<F: Future<Output = bool>>(what: &str, mut reached: impl FnMut() -> F) {
    let deadline = tokio::time::Instant::now() + PATIENCE;
    while !reached().await {
        assert!(tokio::time::Instant::now() < deadline, "waited in vain until {what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// Waits until so many members hold `version` of `site`, as `runtime` knows it.
pub async fn until_held(runtime: &Runtime, site: &str, version: u64, members: usize) {
    let site = site.parse().unwrap();
    until("the version is held", || async {
        match runtime.client().progress(&site, VersionNumber(version)).await {
            Ok(progress) => progress.members.iter().filter(|member| member.holds).count() >= members,
            Err(_) => false,
        }
    })
    .await;
}
