//! TLS of the server, and of its connections to kubelets.

use std::sync::Arc;

use orlop_tls::provider;
use rustls::server::WebPkiClientVerifier;
use rustls::{ClientConfig, RootCertStore, ServerConfig};
use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};

use super::CertificateAndKey;
use crate::error::Error;

fn failed<E: Into<Box<dyn std::error::Error + Send + Sync>>>(step: &'static str) -> impl Fn(E) -> Error {
    move |source| Error::Tls { step, source: source.into() }
}

fn roots(ca_pem: &str) -> Result<Arc<RootCertStore>, Error> {
    let mut roots = RootCertStore::empty();
    let ca = CertificateDer::from_pem_slice(ca_pem.as_bytes()).map_err(failed("reading the CA"))?;
    roots.add(ca).map_err(failed("trusting the CA"))?;
    Ok(Arc::new(roots))
}

type Identity = (Vec<CertificateDer<'static>>, PrivateKeyDer<'static>);

fn identity(pair: &CertificateAndKey) -> Result<Identity, Error> {
    let certificate =
        CertificateDer::from_pem_slice(pair.certificate_pem.as_bytes()).map_err(failed("reading a certificate"))?;
    let key = PrivateKeyDer::from_pem_slice(pair.key_pem.as_bytes()).map_err(failed("reading a key"))?;
    Ok((vec![certificate], key))
}

/// The server's side: a client may show a certificate of our CA, and need not.
pub(crate) fn server_config(ca_pem: &str, serving: &CertificateAndKey) -> Result<Arc<ServerConfig>, Error> {
    let clients = WebPkiClientVerifier::builder_with_provider(roots(ca_pem)?, provider())
        .allow_unauthenticated()
        .build()
        .map_err(failed("verifying clients"))?;
    let (chain, key) = identity(serving)?;
    let mut config = ServerConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()
        .map_err(failed("choosing versions"))?
        .with_client_cert_verifier(clients)
        .with_single_cert(chain, key)
        .map_err(failed("using the serving certificate"))?;
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(Arc::new(config))
}

/// The client's side of connections to kubelets.
pub(crate) fn kubelet_client_config(
    ca_pem: &str,
    client: &CertificateAndKey,
    verify: bool,
) -> Result<Arc<ClientConfig>, Error> {
    // Unverified is for kubelets with self-signed certificates, when the configuration says so.
    let builder = if verify { orlop_tls::client_of(roots(ca_pem)?) } else { orlop_tls::unverified_client() };
    let builder = builder.map_err(failed("choosing versions"))?;
    let (chain, key) = identity(client)?;
    let config = builder.with_client_auth_cert(chain, key).map_err(failed("using the kubelet client certificate"))?;
    Ok(Arc::new(config))
}
