//! Objects between members, verified while they come.

use crate::support::{GENEROUS, Member, Network, connect};
use async_trait::async_trait;
use bytes::Bytes;
use godwit_core::content::object::{GROUP_LEN, ObjectId, Verifier, name};
use godwit_overlay::transfer::{
    FetchError, Fetched, Held, Holder, PORTION_LEN, Sink, WANTS_MAX, Want, fetch, serve,
};
use godwit_overlay::{OpenError, Paths};
use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;
use tokio::time::timeout;

/// Objects in memory, some of them not as they should be.
#[derive(Default)]
struct Shelf {
    objects: BTreeMap<ObjectId, Bytes>,
    /// From this offset on, bytes are wrong.
    rotten: BTreeMap<ObjectId, u64>,
    /// From this offset on, bytes cannot be read.
    unreadable: BTreeMap<ObjectId, u64>,
}

impl Shelf {
    fn put(&mut self, len: usize, seed: u8) -> ObjectId {
        // A prime, so that no two groups of an object are alike.
        let pattern: Vec<u8> = (0..=250).map(|i: u8| i ^ seed).collect();
        let mut bytes = pattern.repeat(len / pattern.len() + 1);
        bytes.truncate(len);
        let id = ObjectId::of(&bytes);
        self.objects.insert(id, bytes.into());
        id
    }
}

impl Holder for Shelf {
    fn open(&self, id: &ObjectId) -> Option<Held> {
        let bytes = self.objects.get(id)?.clone();
        let rotten = self.rotten.get(id).copied().unwrap_or(u64::MAX);
        let unreadable = self.unreadable.get(id).copied().unwrap_or(u64::MAX);
        let named = name(&bytes);
        let read = move |offset: u64, len: usize| {
            let end = offset + len as u64;
            if end > unreadable {
                return Err(io::Error::other("bad sector"));
            }
            let mut bytes = bytes.slice(offset as usize..end as usize);
            if end > rotten {
                let mut wrong = bytes.to_vec();
                *wrong.last_mut().unwrap() ^= 1;
                bytes = wrong.into();
            }
            Ok(bytes)
        };
        Some(Held { len: named.len, groups: named.groups, read: Box::new(read) })
    }
}

/// What came, as it came.
#[derive(Default)]
struct Basket {
    parts: BTreeMap<ObjectId, BTreeMap<usize, Bytes>>,
    begun: Vec<ObjectId>,
    done: Vec<ObjectId>,
    missing: Vec<ObjectId>,
}

impl Basket {
    fn bytes(&self, id: &ObjectId) -> Vec<u8> {
        let parts = self.parts.get(id).map(|parts| parts.values().cloned().collect::<Vec<_>>());
        parts.unwrap_or_default().concat()
    }
}

#[async_trait]
impl Sink for Basket {
    async fn begin(&mut self, object: &Verifier) -> io::Result<()> {
        self.begun.push(object.id());
        Ok(())
    }

    async fn groups(&mut self, id: &ObjectId, first: usize, bytes: Bytes) -> io::Result<()> {
        self.parts.entry(*id).or_default().insert(first, bytes);
        Ok(())
    }

    async fn done(&mut self, id: &ObjectId) -> io::Result<()> {
        self.done.push(*id);
        Ok(())
    }

    async fn missing(&mut self, id: &ObjectId) -> io::Result<()> {
        self.missing.push(*id);
        Ok(())
    }
}

/// A fetcher connected with a holder of `shelf`.
async fn members(paths: Paths, shelf: Shelf) -> (Member, Member) {
    let network = Network::new(9);
    let mut config = network.config(2, paths);
    config.holder = Some(Arc::new(shelf));
    let mut fetcher = network.start(1, paths).await;
    let mut holder = Member::start(config).await;
    connect(&mut fetcher, &mut holder).await;
    (fetcher, holder)
}

async fn get(fetcher: &Member, holder: &Member, wants: Vec<Want>) -> (Result<Fetched, FetchError>, Basket) {
    let mut basket = Basket::default();
    let stream = fetcher.overlay.open(holder.id).await.unwrap();
    let fetched = timeout(GENEROUS, fetch(stream, wants, &mut basket)).await.unwrap();
    (fetched, basket)
}

const SIZES: [usize; 10] = [
    0,
    1,
    GROUP_LEN - 1,
    GROUP_LEN,
    GROUP_LEN + 1,
    3 * GROUP_LEN,
    PORTION_LEN,
    PORTION_LEN + 1,
    1_000_000,
    5_000_001,
];

#[tokio::test(flavor = "multi_thread")]
async fn objects_of_all_sizes_arrive_whole_and_in_order() {
    for paths in [Paths::Quic, Paths::Tcp] {
        let mut shelf = Shelf::default();
        let ids: Vec<ObjectId> = SIZES.iter().map(|len| shelf.put(*len, 0)).collect();
        let objects = shelf.objects.clone();
        let (fetcher, holder) = members(paths, shelf).await;
        let wants = ids.iter().copied().map(Want::whole).collect();
        let (fetched, basket) = get(&fetcher, &holder, wants).await;
        let bytes = SIZES.iter().sum::<usize>() as u64;
        assert_eq!(fetched.unwrap(), Fetched { objects: ids.len() as u64, missing: 0, bytes });
        assert_eq!(basket.done, ids);
        for id in &ids {
            assert_eq!(basket.bytes(id), objects[id], "{paths:?}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn thousands_of_small_objects_take_one_stream() {
    let mut shelf = Shelf::default();
    let count = 2 * WANTS_MAX + 17;
    let ids: Vec<ObjectId> = (0..count).map(|i| shelf.put(10 + i, (i >> 8) as u8)).collect();
    let (fetcher, holder) = members(Paths::Quic, shelf).await;
    let (fetched, basket) = get(&fetcher, &holder, ids.iter().copied().map(Want::whole).collect()).await;
    assert_eq!(fetched.unwrap().objects, count as u64);
    assert_eq!(basket.done, ids);
}

#[tokio::test(flavor = "multi_thread")]
async fn missing_and_unreadable_objects_are_named_and_the_others_come() {
    for paths in [Paths::Quic, Paths::Tcp] {
        let mut shelf = Shelf::default();
        let (first, broken, last) = (shelf.put(10, 1), shelf.put(2_000_000, 2), shelf.put(40_000, 3));
        shelf.unreadable.insert(broken, 1_000_000);
        let (fetcher, holder) = members(paths, shelf).await;
        let gone = ObjectId::of(b"nobody has this");
        let wants = [first, gone, broken, last].map(Want::whole).to_vec();
        let (fetched, basket) = get(&fetcher, &holder, wants).await;
        let fetched = fetched.unwrap();
        assert_eq!((fetched.objects, fetched.missing), (2, 2));
        assert_eq!(basket.done, [first, last]);
        assert_eq!(basket.missing, [gone, broken]);
        assert_eq!(basket.begun, [first, broken, last]);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn wrong_bytes_never_reach_the_sink() {
    for paths in [Paths::Quic, Paths::Tcp] {
        for len in [100, GROUP_LEN, 2_000_000] {
            let mut shelf = Shelf::default();
            let (good, bad) = (shelf.put(50_000, 1), shelf.put(len, 2));
            shelf.rotten.insert(bad, len as u64 / 2);
            let right = shelf.objects[&bad].clone();
            let (fetcher, holder) = members(paths, shelf).await;
            let wants = [good, bad].map(Want::whole).to_vec();
            let (fetched, basket) = get(&fetcher, &holder, wants).await;
            assert!(matches!(fetched, Err(FetchError::Mismatch(_))), "{fetched:?}");
            assert_eq!(basket.done, [good]);
            let got = basket.bytes(&bad);
            assert!(got.len() <= len / 2 && right.starts_with(&got), "{} of {len}", got.len());
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_fetch_resumes_from_any_group() {
    let mut shelf = Shelf::default();
    let len = 20 * GROUP_LEN + 5;
    let id = shelf.put(len, 1);
    let right = shelf.objects[&id].clone();
    let (fetcher, holder) = members(Paths::Quic, shelf).await;
    for from in [0, 1, 7, 19, 20, 21, u32::MAX] {
        let (fetched, basket) = get(&fetcher, &holder, vec![Want { id, from_group: from }]).await;
        let start = (from as usize * GROUP_LEN).min(len);
        assert_eq!(fetched.unwrap(), Fetched { objects: 1, missing: 0, bytes: (len - start) as u64 });
        assert_eq!(basket.bytes(&id), right[start..], "from {from}");
        if start < len {
            assert_eq!(basket.parts[&id].keys().next(), Some(&(from as usize)));
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn fifty_streams_at_once_all_come_through() {
    for paths in [Paths::Quic, Paths::Tcp] {
        let mut shelf = Shelf::default();
        let ids: Vec<ObjectId> = (0..50).map(|i| shelf.put(100_000, i)).collect();
        let (fetcher, holder) = members(paths, shelf).await;
        let fetches = ids.iter().map(|id| get(&fetcher, &holder, vec![Want::whole(*id)]));
        for (fetched, _) in futures::future::join_all(fetches).await {
            assert_eq!(fetched.unwrap().objects, 1, "{paths:?}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn two_holders_serve_at_once() {
    let network = Network::new(9);
    let mut fetcher = network.start(1, Paths::Both).await;
    let mut shelves = [Shelf::default(), Shelf::default()];
    let ids: Vec<ObjectId> =
        shelves.iter_mut().enumerate().map(|(i, shelf)| shelf.put(3_000_000, i as u8)).collect();
    let mut holders = Vec::new();
    for (n, shelf) in (2..).zip(shelves) {
        let mut config = network.config(n, Paths::Both);
        config.holder = Some(Arc::new(shelf));
        let mut holder = Member::start(config).await;
        connect(&mut fetcher, &mut holder).await;
        holders.push(holder);
    }
    let (first, second) = tokio::join!(
        get(&fetcher, &holders[0], vec![Want::whole(ids[0]), Want::whole(ids[1])]),
        get(&fetcher, &holders[1], vec![Want::whole(ids[1])]),
    );
    assert_eq!((first.1.done, first.1.missing), (vec![ids[0]], vec![ids[1]]));
    assert_eq!(second.1.done, [ids[1]]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_member_that_holds_nothing_resets_the_stream_and_an_absent_one_cannot_be_opened() {
    let network = Network::new(9);
    let mut a = network.start(1, Paths::Quic).await;
    let mut b = network.start(2, Paths::Quic).await;
    assert_eq!(a.overlay.open(b.id).await.unwrap_err(), OpenError::NotConnected);
    connect(&mut a, &mut b).await;
    let (fetched, basket) = get(&a, &b, vec![Want::whole(ObjectId::of(b"x"))]).await;
    assert!(matches!(fetched, Err(FetchError::Stream(_))), "{fetched:?}");
    assert!(basket.begun.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_holder_that_vanishes_ends_the_fetch_with_what_came_in_the_basket() {
    let mut shelf = Shelf::default();
    let ids: Vec<ObjectId> = (0..20).map(|i| shelf.put(2_000_000, i)).collect();
    let (fetcher, holder) = members(Paths::Quic, shelf).await;
    struct Stopper {
        basket: Basket,
        holder: Option<Member>,
    }
    #[async_trait]
    impl Sink for Stopper {
        async fn begin(&mut self, object: &Verifier) -> io::Result<()> {
            self.basket.begin(object).await
        }
        async fn groups(&mut self, id: &ObjectId, first: usize, bytes: Bytes) -> io::Result<()> {
            if let Some(holder) = self.holder.take() {
                holder.overlay.shutdown().await;
            }
            self.basket.groups(id, first, bytes).await
        }
        async fn done(&mut self, id: &ObjectId) -> io::Result<()> {
            self.basket.done(id).await
        }
        async fn missing(&mut self, id: &ObjectId) -> io::Result<()> {
            self.basket.missing(id).await
        }
    }
    let stream = fetcher.overlay.open(holder.id).await.unwrap();
    let mut sink = Stopper { basket: Basket::default(), holder: Some(holder) };
    let wants = ids.iter().copied().map(Want::whole).collect();
    let fetched = timeout(GENEROUS, fetch(stream, wants, &mut sink)).await.unwrap();
    assert!(matches!(fetched, Err(FetchError::Stream(_))), "{fetched:?}");
    assert!(sink.basket.done.len() < ids.len());
}

#[tokio::test]
async fn malformed_requests_and_answers_end_in_errors() {
    use tokio::io::AsyncWriteExt;
    let shelf: Arc<Shelf> = Arc::new(Shelf::default());
    for request in [&[0, 0, 0, 0][..], &[0xff; 8], &[1, 0, 0, 0, 9], &[2]] {
        let (mut near, far) = tokio::io::duplex(64);
        let serving = serve(far, shelf.clone());
        let asking = async move {
            near.write_all(request).await.ok();
            near.shutdown().await.ok();
            near
        };
        let (served, _near) = tokio::join!(serving, asking);
        assert!(served.is_err(), "{request:?}");
    }
    let want = Want::whole(ObjectId::of(b"x"));
    let huge = [&[1][..], &u64::MAX.to_le_bytes()].concat();
    let false_groups = [&[1][..], &20_000_u64.to_le_bytes(), &[7; 64]].concat();
    let long_portion = [&[1][..], &1_u64.to_le_bytes(), &[2, 0, 0, 0, 1, 1]].concat();
    let false_nothing = [&[1][..], &0_u64.to_le_bytes()].concat();
    for answer in [&[7][..], &[], &[1, 1], &huge, &false_groups, &long_portion, &false_nothing] {
        let (mut near, far) = tokio::io::duplex(64 * 1024);
        near.write_all(answer).await.unwrap();
        near.shutdown().await.unwrap();
        let mut basket = Basket::default();
        let fetched = fetch(far, vec![want], &mut basket).await;
        assert!(fetched.is_err(), "{answer:?}");
        assert!(basket.parts.is_empty() && basket.done.is_empty(), "{answer:?}");
    }
}
