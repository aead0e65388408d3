//! quinn's configuration.

use super::tls;
use crate::config::Limits;
use godwit_core::key::SecretKey;
use libp2p::identity::Keypair;
use quinn::congestion::BbrConfig;
use quinn::crypto::rustls::{QuicClientConfig, QuicServerConfig};
use quinn::crypto::{CryptoError, HmacKey};
use quinn::{ConnectionId, ConnectionIdGenerator, EndpointConfig, IdleTimeout, TransportConfig, VarInt};
use rustls::crypto::aws_lc_rs::cipher_suite;
use rustls::crypto::tls13::OkmBlock;
use std::sync::Arc;
use std::time::Duration;

/// Handshakes that quinn itself holds before they are taken from it. They are taken at once; the
/// real bounds are [`Limits::pending_per_source`] and [`Limits::pending`].
const INCOMING_MAX: usize = 1024;

/// Bytes that quinn keeps of packets for one handshake not yet taken, and for all of them.
const INCOMING_BYTES: u64 = 16 * 1024;
const INCOMING_BYTES_ALL: u64 = 4 * 1024 * 1024;

/// The configurations of all endpoints.
pub(crate) struct Configs {
    pub(crate) endpoint: EndpointConfig,
    pub(crate) server: quinn::ServerConfig,
    pub(crate) client: quinn::ClientConfig,
    pub(crate) handshake: Duration,
    pub(crate) udp_buffer: usize,
}

impl Configs {
    pub(crate) fn new(key: &SecretKey, keypair: &Keypair, limits: &Limits) -> Result<Configs, String> {
        let (client, server) = tls::configs(keypair)?;
        let client = QuicClientConfig::try_from(client).map_err(|e| e.to_string())?;
        let server = QuicServerConfig::try_from(server).map_err(|e| e.to_string())?;
        let transport = Arc::new(transport(limits));
        let mut client = quinn::ClientConfig::new(Arc::new(client));
        client.transport_config(transport.clone());
        let mut server = quinn::ServerConfig::with_crypto(Arc::new(server));
        server
            .transport_config(transport)
            .migration(true)
            .max_incoming(INCOMING_MAX)
            .incoming_buffer_size(INCOMING_BYTES)
            .incoming_buffer_size_total(INCOMING_BYTES_ALL);
        Ok(Configs {
            endpoint: endpoint(key),
            server,
            client,
            handshake: limits.handshake,
            udp_buffer: limits.udp_buffer,
        })
    }
}

fn transport(limits: &Limits) -> TransportConfig {
    let mut config = TransportConfig::default();
    let idle = IdleTimeout::try_from(limits.quic_idle).unwrap_or(IdleTimeout::from(VarInt::from_u32(3000)));
    config
        .congestion_controller_factory(Arc::new(BbrConfig::default()))
        .max_idle_timeout(Some(idle))
        .keep_alive_interval(Some(limits.quic_keep_alive))
        .max_concurrent_bidi_streams(VarInt::from_u32(limits.inbound_streams))
        .max_concurrent_uni_streams(VarInt::from_u32(0))
        .datagram_receive_buffer_size(None)
        .stream_receive_window(VarInt::from_u32(limits.window))
        .receive_window(VarInt::from_u32(limits.window))
        .send_window(u64::from(limits.window));
    config
}

/// Reset tokens made by the member's key: after a restart it resets the connections that its
/// predecessor left behind as soon as a packet of one arrives.
fn endpoint(key: &SecretKey) -> EndpointConfig {
    let mut config = EndpointConfig::new(Arc::new(ResetKey::of(key)));
    config.cid_generator(|| Box::new(RandomNames));
    config
}

/// Connection names that any start of the member takes for its own. quinn's default marks them with
/// a key of the process, and would keep silent about those of a predecessor.
struct RandomNames;

impl ConnectionIdGenerator for RandomNames {
    fn generate_cid(&mut self) -> ConnectionId {
        let mut bytes = [0; 8];
        getrandom::fill(&mut bytes).expect("the system gives random bytes, as it did for the keys");
        ConnectionId::new(&bytes)
    }

    fn cid_len(&self) -> usize {
        8
    }

    fn cid_lifetime(&self) -> Option<Duration> {
        None
    }
}

/// HMAC-SHA256, from the TLS provider.
struct ResetKey([u8; 32]);

impl ResetKey {
    /// The key's own use of the member key: nothing else is signed with it by HMAC.
    fn of(key: &SecretKey) -> ResetKey {
        ResetKey(hmac(&key.to_seed(), b"godwit quic reset key v1"))
    }
}

fn hmac(key: &[u8; 32], message: &[u8]) -> [u8; 32] {
    let suite = match cipher_suite::TLS13_AES_128_GCM_SHA256 {
        rustls::SupportedCipherSuite::Tls13(suite) => suite,
        rustls::SupportedCipherSuite::Tls12(_) => unreachable!("its name says TLS 1.3"),
    };
    let tag = suite.hkdf_provider.hmac_sign(&OkmBlock::new(key), message);
    let mut out = [0; 32];
    out.copy_from_slice(tag.as_ref());
    out
}

impl HmacKey for ResetKey {
    fn sign(&self, data: &[u8], out: &mut [u8]) {
        out.copy_from_slice(&hmac(&self.0, data));
    }

    fn signature_len(&self) -> usize {
        32
    }

    fn verify(&self, data: &[u8], signature: &[u8]) -> Result<(), CryptoError> {
        let expected = hmac(&self.0, data);
        // All bytes are looked at, wherever the first wrong one is.
        let differing = expected.iter().zip(signature).fold(0, |sum, (a, b)| sum | (a ^ b));
        if differing == 0 && signature.len() == expected.len() { Ok(()) } else { Err(CryptoError) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reset_keys_are_the_same_after_a_restart_and_differ_between_members() {
        let sign = |seed| {
            let mut out = [0; 32];
            ResetKey::of(&SecretKey::from_seed(&[seed; 32])).sign(b"connection", &mut out);
            out
        };
        assert_eq!(sign(1), sign(1));
        assert_ne!(sign(1), sign(2));
        let key = ResetKey::of(&SecretKey::from_seed(&[1; 32]));
        assert!(key.verify(b"connection", &sign(1)).is_ok());
        assert!(key.verify(b"connection", &sign(2)).is_err());
        assert!(key.verify(b"connection", &sign(1)[..31]).is_err());
    }

    #[test]
    fn hmac_is_that_of_rfc_4231() {
        let mut key = [0; 32];
        key[..4].copy_from_slice(b"Jefe"); // HMAC pads keys with zeros: test case 2
        let expected = [0x5b, 0xdc, 0xc1, 0x46, 0xbf, 0x60, 0x75, 0x4e];
        assert_eq!(hmac(&key, b"what do ya want for nothing?")[..8], expected);
    }
}
