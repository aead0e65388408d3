//! Keys in use: sealing with counters that are never used twice, opening each packet once.

use super::Side;
use super::count::Reason;
use godwit_core::tunnel::header::{HEADER_LEN, TAG_LEN};
use godwit_core::tunnel::replay::ReplayWindow;
use godwit_core::tunnel::{Cipher, Header, INNER_MTU_MIN, KeyId, TunnelKey};
use ring::aead::{self, Aad, LessSafeKey, Nonce, UnboundKey};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU16, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};
use std::time::Instant;

/// A key seals at most so many packets (what NIST SP 800-38D, 8.3 allows of GCM's invocations, though
/// counted nonces would bear more).
pub const PACKETS_MAX: u64 = 1 << 32;
/// After so many it is reported as worn: the other half lasts until another has come.
pub const PACKETS_WORN: u64 = 1 << 31;
/// And reported again after so many more, should the owner have been too busy to hear it.
const WORN_EVERY: u64 = 1 << 24;

/// So many keys at once: a home agent's bindings, twice, and a node's relays are fewer.
pub const KEYS_MAX: usize = 16_384;
/// So many retired keys are remembered, so that none comes back with its counter at nought.
const RETIRED_MAX: usize = 65_536;

/// Whether this processor computes AES in hardware; otherwise ChaCha20 is faster.
pub fn has_aes() -> bool {
    #[cfg(any(target_arch = "x86", target_arch = "x86_64"))]
    return std::arch::is_x86_feature_detected!("aes") && std::arch::is_x86_feature_detected!("pclmulqdq");
    #[cfg(target_arch = "aarch64")]
    return std::arch::is_aarch64_feature_detected!("aes");
    #[cfg(not(any(target_arch = "x86", target_arch = "x86_64", target_arch = "aarch64")))]
    return false;
}

/// The cipher for packets to somebody who `has_aes` too or not.
pub fn cipher_for(other_has_aes: bool) -> Cipher {
    if other_has_aes && has_aes() { Cipher::Aes256Gcm } else { Cipher::ChaCha20Poly1305 }
}

/// Why a key was not installed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InstallError {
    /// Another key has this number. Another one will come with the next refresh.
    #[error("another tunnel key has the number {}", .0.0)]
    Taken(KeyId),
    /// It was retired: its counter is not known any more, and none may be used twice.
    #[error("tunnel key {} was retired", .0.0)]
    Retired(KeyId),
    /// There are [`KEYS_MAX`] keys.
    #[error("no room for a tunnel key beside {KEYS_MAX} others")]
    Full,
}

/// A key as one process leaves it to the next: it is used on where it was left, so that no counter is used
/// twice, and nothing is taken twice.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeyLeft {
    key: TunnelKey,
    side: Side,
    cipher: Cipher,
    mtu: u16,
    /// The next counter to seal with.
    seals: u64,
    /// Below this nothing is opened any more.
    opens: u64,
}

/// A key in use.
pub(super) struct Key {
    pub(super) id: KeyId,
    /// The largest inner packet, as installed or as the kernel has learnt since.
    pub(super) mtu: AtomicU16,
    /// The largest that it was installed with.
    pub(super) top: u16,
    /// What was measured to fit on our way there, and what the other end says of its way here.
    pub(super) path: AtomicU16,
    pub(super) other: AtomicU16,
    /// Where our words of liveness go.
    place: Mutex<Option<SocketAddr>>,
    inbound: Mutex<Inbound>,
    cipher: Cipher,
    material: TunnelKey,
    side: Side,
    seal: LessSafeKey,
    open_aes: LessSafeKey,
    open_chacha: LessSafeKey,
    next: AtomicU64,
}

/// What is known of those who seal with it.
#[derive(Default)]
pub(super) struct Inbound {
    window: ReplayWindow,
    /// Whence the newest packet came, and when the owner was told so.
    pub(super) heard: Option<(SocketAddr, Instant)>,
}

impl Key {
    fn new(material: TunnelKey, side: Side, cipher: Cipher, mtu: u16) -> Key {
        let (out, back) = match side {
            Side::HomeAgent => (&material.to_node, &material.from_node),
            Side::Node => (&material.from_node, &material.to_node),
        };
        let key = |cipher, bytes: &[u8; 32]| {
            let algorithm = match cipher {
                Cipher::Aes256Gcm => &aead::AES_256_GCM,
                Cipher::ChaCha20Poly1305 => &aead::CHACHA20_POLY1305,
            };
            LessSafeKey::new(UnboundKey::new(algorithm, bytes).expect("both ciphers have keys of 32 octets"))
        };
        Key {
            id: material.id,
            mtu: AtomicU16::new(mtu),
            top: mtu,
            path: AtomicU16::new(mtu),
            other: AtomicU16::new(mtu),
            place: Mutex::default(),
            inbound: Mutex::default(),
            cipher,
            seal: key(cipher, out),
            open_aes: key(Cipher::Aes256Gcm, back),
            open_chacha: key(Cipher::ChaCha20Poly1305, back),
            next: AtomicU64::new(0),
            material,
            side,
        }
    }

    /// As another process left it.
    fn resumed(left: KeyLeft) -> Key {
        let KeyLeft { key, side, cipher, mtu, seals, opens } = left;
        let mut key = Key::new(key, side, cipher, mtu);
        key.next = AtomicU64::new(seals);
        key.inbound = Mutex::new(Inbound { window: ReplayWindow::beginning_at(opens), heard: None });
        key
    }

    fn leave(&self) -> KeyLeft {
        KeyLeft {
            key: self.material.clone(),
            side: self.side,
            cipher: self.cipher,
            mtu: self.mtu(),
            seals: self.next.load(Relaxed),
            opens: self.inbound.lock().unwrap_or_else(PoisonError::into_inner).window.next(),
        }
    }

    /// What fits inside, octets.
    pub(super) fn mtu(&self) -> u16 {
        self.mtu.load(Relaxed).min(self.path.load(Relaxed))
    }

    /// What fits in both directions, and no less than a tunnel must carry whatever the other end says.
    pub(super) fn narrowest(&self) -> u16 {
        self.mtu().min(self.other.load(Relaxed)).max(INNER_MTU_MIN.min(self.top))
    }

    /// Words of liveness go there.
    pub(super) fn live_at(&self, place: SocketAddr) {
        *self.place.lock().unwrap_or_else(PoisonError::into_inner) = Some(place);
    }

    /// Where they go; `None` while none went.
    pub(super) fn place(&self) -> Option<SocketAddr> {
        *self.place.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Seals `datagram`, which has room for header and tag around what is sealed. Answers whether it is
    /// time to say that the key is worn.
    pub(super) fn seal(&self, header: Header, datagram: &mut [u8]) -> Result<bool, Reason> {
        let counter = self.next.fetch_add(1, Relaxed);
        if counter >= PACKETS_MAX {
            // It must not come round, however long somebody goes on.
            self.next.store(PACKETS_MAX, Relaxed);
            return Err(Reason::Worn);
        }
        let header = Header { cipher: self.cipher, key: self.id, counter, ..header }.encode();
        let (head, rest) = datagram.split_at_mut(HEADER_LEN);
        head.copy_from_slice(&header);
        let (inside, tag) = rest.split_at_mut(rest.len() - TAG_LEN);
        let sealed = self
            .seal
            .seal_in_place_separate_tag(nonce(counter), Aad::from(&header), inside)
            .map_err(|_| Reason::Malformed)?;
        tag.copy_from_slice(sealed.as_ref());
        Ok(counter >= PACKETS_WORN && counter.is_multiple_of(WORN_EVERY))
    }

    /// Opens a datagram with this header, in its place; what was sealed begins after the header. The
    /// inbound side comes with it.
    pub(super) fn open<'a>(
        &self,
        header: &Header,
        datagram: &'a mut [u8],
    ) -> Result<(&'a mut [u8], MutexGuard<'_, Inbound>), Reason> {
        let mut inbound = self.inbound.lock().unwrap_or_else(PoisonError::into_inner);
        // Cheap to ask first.
        if !inbound.window.may_take(header.counter) {
            return Err(Reason::Replayed);
        }
        let (head, sealed) = datagram.split_at_mut(HEADER_LEN);
        let key = match header.cipher {
            Cipher::Aes256Gcm => &self.open_aes,
            Cipher::ChaCha20Poly1305 => &self.open_chacha,
        };
        let inside = key
            .open_in_place(nonce(header.counter), Aad::from(&*head), sealed)
            .map_err(|_| Reason::Forged)?;
        if !inbound.window.take(header.counter) {
            return Err(Reason::Replayed);
        }
        Ok((inside, inbound))
    }
}

fn nonce(counter: u64) -> Nonce {
    let mut bytes = [0; 12];
    bytes[4..].copy_from_slice(&counter.to_be_bytes());
    Nonce::assume_unique_for_key(bytes)
}

/// Keys by their numbers, as they were when this was taken.
pub(super) type Snapshot = Arc<BTreeMap<u32, Arc<Key>>>;

/// All keys in use. Readers take a snapshot for each batch and are never waited for.
#[derive(Default)]
pub(super) struct Keys {
    now: RwLock<Snapshot>,
    retired: Mutex<Retired>,
}

#[derive(Default)]
struct Retired {
    order: VecDeque<u32>,
    ids: BTreeSet<u32>,
}

impl Keys {
    /// Those that another process left.
    pub(super) fn resumed(left: Vec<KeyLeft>) -> Keys {
        let keys = left.into_iter().take(KEYS_MAX).map(|left| (left.key.id.0, Arc::new(Key::resumed(left))));
        Keys { now: RwLock::new(Arc::new(keys.collect())), retired: Mutex::default() }
    }

    pub(super) fn snapshot(&self) -> Snapshot {
        self.now.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(super) fn install(
        &self,
        material: TunnelKey,
        side: Side,
        cipher: Cipher,
        mtu: u16,
    ) -> Result<(), InstallError> {
        let retired = self.retired.lock().unwrap_or_else(PoisonError::into_inner);
        let mut now = self.now.write().unwrap_or_else(PoisonError::into_inner);
        let id = material.id;
        if let Some(known) = now.get(&id.0) {
            // Again the same: its counter and window go on.
            let same = known.material == material;
            known.mtu.fetch_min(mtu, Relaxed);
            return if same { Ok(()) } else { Err(InstallError::Taken(id)) };
        }
        if retired.ids.contains(&id.0) {
            return Err(InstallError::Retired(id));
        }
        if now.len() >= KEYS_MAX {
            return Err(InstallError::Full);
        }
        let mut keys = BTreeMap::clone(&now);
        keys.insert(id.0, Arc::new(Key::new(material, side, cipher, mtu)));
        *now = Arc::new(keys);
        Ok(())
    }

    /// Takes all keys out: they are somebody else's from now on.
    pub(super) fn leave(&self) -> Vec<KeyLeft> {
        let mut now = self.now.write().unwrap_or_else(PoisonError::into_inner);
        std::mem::take(&mut *now).values().map(|key| key.leave()).collect()
    }

    pub(super) fn retire(&self, id: KeyId) {
        let mut retired = self.retired.lock().unwrap_or_else(PoisonError::into_inner);
        let mut now = self.now.write().unwrap_or_else(PoisonError::into_inner);
        if !now.contains_key(&id.0) {
            return;
        }
        let mut keys = BTreeMap::clone(&now);
        keys.remove(&id.0);
        *now = Arc::new(keys);
        if retired.ids.insert(id.0) {
            retired.order.push_back(id.0);
        }
        if retired.order.len() > RETIRED_MAX
            && let Some(oldest) = retired.order.pop_front()
        {
            retired.ids.remove(&oldest);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use godwit_core::tunnel::header::Kind;

    fn material(id: u32) -> TunnelKey {
        TunnelKey { id: KeyId(id), to_node: [id as u8; 32], from_node: [id as u8 + 100; 32] }
    }

    fn header() -> Header {
        Header {
            kind: Kind::Packet,
            cipher: Cipher::Aes256Gcm,
            relayed: false,
            unsummed: false,
            before: Some(7),
            key: KeyId(0),
            counter: 0,
        }
    }

    fn pair(cipher: Cipher) -> (Key, Key) {
        let key = |side| Key::new(material(1), side, cipher, 1420);
        (key(Side::HomeAgent), key(Side::Node))
    }

    fn sealed(key: &Key, inside: &[u8]) -> Vec<u8> {
        let mut datagram = [&[0; HEADER_LEN], inside, &[0; TAG_LEN]].concat();
        key.seal(header(), &mut datagram).unwrap();
        datagram
    }

    #[track_caller]
    fn check(key: &Key, datagram: &[u8], result: Result<&[u8], Reason>) {
        let mut datagram = datagram.to_vec();
        let header = Header::decode(&datagram).unwrap();
        let opened = key.open(&header, &mut datagram).map(|(inside, _)| inside.to_vec());
        assert_eq!(opened, result.map(<[u8]>::to_vec));
    }

    #[test]
    fn opened_once_by_the_other_side_and_by_nobody_else() {
        for cipher in [Cipher::Aes256Gcm, Cipher::ChaCha20Poly1305] {
            let (home_agent, node) = pair(cipher);
            let datagram = sealed(&home_agent, b"hello");
            check(&home_agent, &datagram, Err(Reason::Forged));
            for bit in 0..datagram.len() * 8 {
                let mut changed = datagram.clone();
                changed[bit / 8] ^= 1 << (bit % 8);
                if Header::decode(&changed).is_ok() {
                    check(&node, &changed, Err(Reason::Forged));
                }
            }
            check(&node, &datagram, Ok(b"hello"));
            check(&node, &datagram, Err(Reason::Replayed));
            check(&home_agent, &sealed(&node, b""), Ok(b""));
        }
    }

    #[test]
    fn what_another_process_left_goes_on() {
        let (home_agent, keys) =
            (Key::new(material(1), Side::HomeAgent, Cipher::Aes256Gcm, 1420), Keys::default());
        keys.install(material(1), Side::Node, Cipher::Aes256Gcm, 1400).unwrap();
        let [first, second, third] = [b"one", b"two", b"six"].map(|inside| sealed(&home_agent, inside));
        let before = keys.snapshot()[&1].clone();
        check(&before, &second, Ok(b"two"));
        let answer = sealed(&before, b"answer");
        let left = keys.leave();
        assert!(keys.snapshot().is_empty());
        let successor = Keys::resumed(left);
        let after = successor.snapshot()[&1].clone();
        assert_eq!(after.mtu(), 1400);
        for again in [&first, &second] {
            check(&after, again, Err(Reason::Replayed));
        }
        check(&after, &third, Ok(b"six"));
        check(&home_agent, &answer, Ok(b"answer"));
        check(&home_agent, &sealed(&after, b"another counter"), Ok(b"another counter"));
        assert_eq!(successor.install(material(1), Side::Node, Cipher::Aes256Gcm, 1420), Ok(()));
        assert_eq!(after.next.load(Relaxed), 2, "the counter goes on");
    }

    #[test]
    fn a_key_wears() {
        let (home_agent, _) = pair(Cipher::Aes256Gcm);
        let mut datagram = [0; HEADER_LEN + TAG_LEN];
        home_agent.next.store(PACKETS_WORN - 1, Relaxed);
        let told: Vec<_> = (0..3).map(|_| home_agent.seal(header(), &mut datagram)).collect();
        assert_eq!(told, [Ok(false), Ok(true), Ok(false)]);
        home_agent.next.store(PACKETS_MAX - 1, Relaxed);
        assert_eq!(home_agent.seal(header(), &mut datagram), Ok(false));
        for _ in 0..3 {
            assert_eq!(home_agent.seal(header(), &mut datagram), Err(Reason::Worn));
        }
    }

    #[test]
    fn a_key_goes_on_when_installed_again_and_never_comes_back() {
        let keys = Keys::default();
        let install = |material| keys.install(material, Side::Node, Cipher::Aes256Gcm, 1420);
        assert_eq!(install(material(1)), Ok(()));
        sealed(&keys.snapshot()[&1], b"hello");
        assert_eq!(install(material(1)), Ok(()));
        assert_eq!(keys.snapshot()[&1].next.load(Relaxed), 1, "the counter goes on");
        let other = TunnelKey { to_node: [9; 32], ..material(1) };
        assert_eq!(install(other), Err(InstallError::Taken(KeyId(1))));
        keys.retire(KeyId(1));
        assert_eq!(install(material(1)), Err(InstallError::Retired(KeyId(1))));
        assert!(keys.snapshot().is_empty());
    }
}
