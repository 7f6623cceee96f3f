//! What the TLS configurations of orlop's daemons have in common: one provider of cryptography, and a client that
//! does not ask who the server is, for where Kubernetes or a registry's configuration says so.

use std::sync::Arc;

use rustls::client::WantsClientCert;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{
    ClientConfig, ConfigBuilder, DigitallySignedStruct, Error, RootCertStore, SignatureScheme, WantsVerifier,
};

/// The provider of every connection: ring.
#[must_use]
pub fn provider() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::ring::default_provider())
}

/// A client's configuration, up to how it judges servers. TLS 1.2 and 1.3.
///
/// # Errors
/// None with this provider; rustls has it in the signature.
pub fn client() -> Result<ConfigBuilder<ClientConfig, WantsVerifier>, Error> {
    ClientConfig::builder_with_provider(provider()).with_safe_default_protocol_versions()
}

/// A client that believes certificates of `roots` only.
///
/// # Errors
/// As of [`client`].
pub fn client_of(roots: impl Into<Arc<RootCertStore>>) -> Result<ConfigBuilder<ClientConfig, WantsClientCert>, Error> {
    Ok(client()?.with_root_certificates(roots))
}

/// A client that takes any certificate: what is sent is encrypted, and who reads it is not known.
///
/// # Errors
/// As of [`client`].
pub fn unverified_client() -> Result<ConfigBuilder<ClientConfig, WantsClientCert>, Error> {
    Ok(client()?.dangerous().with_custom_certificate_verifier(Arc::new(AnyCertificate(provider()))))
}

/// Signatures are checked all the same: rustls needs them to be of the certificate that was shown.
#[derive(Debug)]
struct AnyCertificate(Arc<CryptoProvider>);

impl ServerCertVerifier for AnyCertificate {
    fn verify_server_cert(
        &self,
        _end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls12_signature(message, cert, dss, &self.0.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, cert, dss, &self.0.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}
