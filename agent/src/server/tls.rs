//! The server's certificate, and which clients' certificates are believed.

use std::fs;
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::server::WebPkiClientVerifier;
use rustls::{RootCertStore, ServerConfig};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use tokio_rustls::TlsAcceptor;

use crate::config::Config;
use crate::error::Error;

fn failed<E: std::fmt::Display>(step: &'static str) -> impl FnOnce(E) -> Error {
    move |e| Error::Tls { step, reason: e.to_string() }
}

/// Makes the acceptor; the serving certificate is made first if none is configured.
pub(crate) fn acceptor(config: &Config, sans: Vec<String>) -> Result<TlsAcceptor, Error> {
    let (cert, key) = match (&config.serving_cert, &config.serving_key) {
        (Some(cert), Some(key)) => (cert.clone(), key.clone()),
        (None, None) => self_signed(&config.state_dir.join("pki"), sans)?,
        _ => {
            return Err(Error::Tls {
                step: "reading the configuration",
                reason: "serving_cert and serving_key go together".to_owned(),
            });
        }
    };
    let chain: Vec<_> = certificates(&cert)?;
    let key = PrivateKeyDer::from_pem_file(&key).map_err(failed("reading the serving key"))?;
    let provider = orlop_tls::provider();
    let builder = ServerConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()
        .map_err(failed("choosing TLS versions"))?;
    let builder = match &config.client_ca {
        None => builder.with_no_client_auth(),
        Some(path) => {
            let mut roots = RootCertStore::empty();
            for certificate in certificates(path)? {
                roots.add(certificate).map_err(failed("reading the client CA"))?;
            }
            let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider)
                // Others may come with a bearer token.
                .allow_unauthenticated()
                .build()
                .map_err(failed("using the client CA"))?;
            builder.with_client_cert_verifier(verifier)
        }
    };
    let mut server = builder.with_single_cert(chain, key).map_err(failed("using the serving certificate"))?;
    server.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(TlsAcceptor::from(Arc::new(server)))
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, Error> {
    CertificateDer::pem_file_iter(path).and_then(Iterator::collect).map_err(failed("reading a certificate"))
}

/// `pki/kubelet.crt` and `kubelet.key`, made once.
fn self_signed(folder: &Path, sans: Vec<String>) -> Result<(PathBuf, PathBuf), Error> {
    let (cert, key) = (folder.join("kubelet.crt"), folder.join("kubelet.key"));
    if cert.exists() && key.exists() {
        return Ok((cert, key));
    }
    let made = rcgen::generate_simple_self_signed(sans).map_err(failed("making a certificate"))?;
    fs::create_dir_all(folder).map_err(failed("making the folder pki"))?;
    replace(&key, made.signing_key.serialize_pem().as_bytes()).map_err(failed("writing the key"))?;
    replace(&cert, made.cert.pem().as_bytes()).map_err(failed("writing the certificate"))?;
    Ok((cert, key))
}

fn replace(path: &Path, content: &[u8]) -> std::io::Result<()> {
    let fresh = path.with_extension("new");
    let mut options = fs::OpenOptions::new();
    let mut file = options.write(true).create(true).truncate(true).mode(0o600).open(&fresh)?;
    file.write_all(content)?;
    file.sync_all()?;
    fs::rename(fresh, path)
}
