//! TLS: one certificate for DNS over TLS, HTTPS and QUIC, and DNS over TLS itself (RFC 7858).
//!
//! # Why not hickory's servers
//!
//! hickory-server 0.26 has listeners for all three behind features. They were read and left alone:
//! its accept loops start a task for each connection and each stream without any limit, overall or
//! per source; a connection's total time is unbounded (a comment in its QUIC part says so); DNS over
//! HTTPS is HTTP/2 only and gives no `Cache-Control`; a certificate is fixed when a listener starts,
//! and a handler sees a parsed request instead of the bytes that [`screen`] judges. What is left once
//! those are replaced are the transports themselves, and those are tokio-rustls, hyper and quinn, which
//! hickory uses as well (but for hyper) and which are in this program already.
//!
//! [`screen`]: godwit_dns_plugin::screen
//!
//! # Certificates
//!
//! [`Certificates`] resolves every handshake's certificate through one pointer. A reload reads both
//! files, checks that they belong together, and swaps the pointer: listeners, connections and session
//! tickets stay as they are. When reading fails, the old certificate stays in force.

use crate::config::TlsConfig;
use crate::metrics::Drop;
use crate::stream::Conversation;
use arc_swap::ArcSwap;
use rustls::crypto::aws_lc_rs;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::timeout;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

/// RFC 7858 has no token of its own; "dot" is registered for it.
const ALPN_DOT: &[&[u8]] = &[b"dot"];
/// RFC 8484, 5.2: HTTP/2 is the minimum to recommend; 1.1 is for simple clients.
const ALPN_HTTPS: &[&[u8]] = &[b"h2", b"http/1.1"];
/// RFC 9250, 4.1.1.
const ALPN_DOQ: &[&[u8]] = &[b"doq"];

/// Why there is no certificate to show.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// Encrypted addresses are configured without a certificate.
    #[error("`redirector.tls` has addresses to listen on, but no {0}")]
    Missing(&'static str),
    /// A file cannot be read, or holds nothing of the kind.
    #[error("cannot read {path}: {problem}")]
    Read {
        /// The file.
        path: PathBuf,
        /// What is wrong, as the PEM reader tells it.
        problem: String,
    },
    /// The library does not take them: they do not belong together, or the key's kind is unknown.
    #[error("certificate and key do not work together")]
    Rejected(#[source] rustls::Error),
}

/// The certificate in force.
#[derive(Debug)]
pub(crate) struct Certificates {
    current: ArcSwap<CertifiedKey>,
}

impl Certificates {
    pub(crate) fn read(config: &TlsConfig) -> Result<Arc<Certificates>, TlsError> {
        Ok(Certificates::new(certified_key(config)?))
    }

    pub(crate) fn new(key: CertifiedKey) -> Arc<Certificates> {
        Arc::new(Certificates { current: ArcSwap::from_pointee(key) })
    }

    /// Shows another one from now on.
    pub(crate) fn set(&self, key: CertifiedKey) {
        self.current.store(Arc::new(key));
    }

    /// For DNS over TLS.
    pub(crate) fn dot(self: &Arc<Self>) -> Result<Tls, TlsError> {
        Ok(Tls { acceptor: TlsAcceptor::from(Arc::new(self.server(ALPN_DOT)?)) })
    }

    /// For DNS over HTTPS.
    pub(crate) fn https(self: &Arc<Self>) -> Result<Tls, TlsError> {
        Ok(Tls { acceptor: TlsAcceptor::from(Arc::new(self.server(ALPN_HTTPS)?)) })
    }

    /// For DNS over QUIC. 0-RTT stays off: a replayed query would be answered twice (RFC 9250, 4.5).
    pub(crate) fn quic(self: &Arc<Self>) -> Result<rustls::ServerConfig, TlsError> {
        self.server(ALPN_DOQ)
    }

    fn server(self: &Arc<Self>, alpn: &[&[u8]]) -> Result<rustls::ServerConfig, TlsError> {
        let provider = Arc::new(aws_lc_rs::default_provider());
        let mut config = rustls::ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(TlsError::Rejected)?
            .with_no_client_auth()
            .with_cert_resolver(self.clone());
        config.alpn_protocols = alpn.iter().map(|token| token.to_vec()).collect();
        // Sessions resume by tickets, which cost no memory here.
        config.ticketer = aws_lc_rs::Ticketer::new().map_err(TlsError::Rejected)?;
        Ok(config)
    }
}

impl ResolvesServerCert for Certificates {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(self.current.load_full())
    }
}

/// Reads both files.
pub(crate) fn certified_key(config: &TlsConfig) -> Result<CertifiedKey, TlsError> {
    let certificate = config.certificate.as_deref().ok_or(TlsError::Missing("certificate"))?;
    let key = config.key.as_deref().ok_or(TlsError::Missing("key"))?;
    let chain = CertificateDer::pem_file_iter(certificate)
        .and_then(Iterator::collect::<Result<Vec<_>, _>>)
        .map_err(|error| unreadable(certificate, error))?;
    if chain.is_empty() {
        return Err(unreadable(certificate, "no certificate in it"));
    }
    let key = PrivateKeyDer::from_pem_file(key).map_err(|error| unreadable(key, error))?;
    let key =
        CertifiedKey::from_der(chain, key, &aws_lc_rs::default_provider()).map_err(TlsError::Rejected)?;
    Ok(key)
}

fn unreadable(path: &Path, problem: impl std::fmt::Display) -> TlsError {
    TlsError::Read { path: path.to_owned(), problem: problem.to_string() }
}

/// Speaks TLS on accepted connections.
#[derive(Clone)]
pub(crate) struct Tls {
    acceptor: TlsAcceptor,
}

impl Tls {
    /// The conversation with TLS around it; none when the handshake fails or takes too long.
    pub(crate) async fn accept<S: AsyncRead + AsyncWrite + Unpin>(
        &self,
        conversation: Conversation<S>,
    ) -> Option<Conversation<TlsStream<S>>> {
        let Conversation { stream, source, transport, service, place } = conversation;
        match timeout(service.idle.get(), self.acceptor.accept(stream)).await {
            Ok(Ok(stream)) => Some(Conversation { stream, source, transport, service, place }),
            Ok(Err(error)) => {
                tracing::debug!(%error, "TLS handshake failed");
                service.engine.metrics.dropped(Drop::Handshake);
                None
            }
            Err(_) => {
                service.engine.metrics.dropped(Drop::Idle);
                None
            }
        }
    }
}
