//! By what the certificate of a probed service is judged.

use crate::Fault;
use godwit_core::health::{Failure, Tls};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, aws_lc_rs, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme};
use std::net::IpAddr;
use std::path::Path;
use std::sync::{Arc, OnceLock};
use tokio_rustls::TlsConnector;

/// Where distributions keep the roots that the host trusts, in one file of PEM.
const ROOTS: [&str; 4] = [
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/ssl/cert.pem",
    "/etc/ssl/ca-bundle.pem",
];

/// What this host trusts.
#[derive(Default)]
pub struct Trust {
    roots: OnceLock<Result<Arc<ClientConfig>, String>>,
    unverified: OnceLock<Result<Arc<ClientConfig>, String>>,
}

/// Reads the certificate of an authority: DER, or the first one in a file of PEM. Gives DER.
pub fn read_authority(path: &Path) -> Result<Vec<u8>, String> {
    let bytes = std::fs::read(path).map_err(|error| format!("cannot read {}: {error}", path.display()))?;
    if bytes.starts_with(b"\x30") {
        return Ok(bytes);
    }
    match CertificateDer::from_pem_slice(&bytes) {
        Ok(certificate) => Ok(certificate.to_vec()),
        Err(_) => Err(format!("{} has no certificate in it", path.display())),
    }
}

impl Trust {
    pub(crate) fn connector(&self, tls: &Tls) -> Result<TlsConnector, Fault> {
        let config = match tls {
            Tls::Roots => self.roots.get_or_init(host_roots).clone(),
            Tls::Unverified => self.unverified.get_or_init(unverified).clone(),
            // Parsed anew for each probe: a fraction of what the handshake costs.
            Tls::Authority(der) => authority(der),
        };
        config.map(TlsConnector::from).map_err(Fault::Here)
    }
}

pub(crate) fn server_name(host: Option<&str>, address: IpAddr) -> Result<ServerName<'static>, Fault> {
    let Some(host) = host else { return Ok(ServerName::from(address)) };
    // `[2001:db8::1]:443`, `www.example.org:8443`, or either without a port.
    let name = match host.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        Some((inner, _)) => inner,
        None if host.matches(':').count() == 1 => host.split(':').next().unwrap_or(host),
        None => host,
    };
    ServerName::try_from(name.to_owned()).map_err(|_| Fault::Target(Failure::Tls))
}

fn host_roots() -> Result<Arc<ClientConfig>, String> {
    for path in ROOTS {
        let Ok(certificates) = CertificateDer::pem_file_iter(path) else { continue };
        let mut roots = RootCertStore::empty();
        roots.add_parsable_certificates(certificates.flatten());
        if !roots.is_empty() {
            return verified(roots);
        }
    }
    Err(format!("this host has no roots: none of {} can be read (package ca-certificates)", ROOTS.join(", ")))
}

fn authority(der: &[u8]) -> Result<Arc<ClientConfig>, String> {
    let mut roots = RootCertStore::empty();
    let added = roots.add(CertificateDer::from(der.to_vec()));
    added.map_err(|error| format!("the check's authority is no certificate: {error}"))?;
    verified(roots)
}

fn verified(roots: RootCertStore) -> Result<Arc<ClientConfig>, String> {
    let builder = builder()?;
    Ok(Arc::new(builder.with_root_certificates(roots).with_no_client_auth()))
}

fn unverified() -> Result<Arc<ClientConfig>, String> {
    let verifier = Arc::new(Unverified { provider: aws_lc_rs::default_provider() });
    let builder = builder()?;
    Ok(Arc::new(builder.dangerous().with_custom_certificate_verifier(verifier).with_no_client_auth()))
}

fn builder() -> Result<rustls::ConfigBuilder<ClientConfig, rustls::WantsVerifier>, String> {
    ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(|error| error.to_string())
}

/// Takes any certificate, but still proves that the peer holds its key.
#[derive(Debug)]
struct Unverified {
    provider: CryptoProvider,
}

impl ServerCertVerifier for Unverified {
    fn verify_server_cert(
        &self,
        _end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, cert, dss, &self.provider.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, cert, dss, &self.provider.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}
