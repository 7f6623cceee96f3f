//! TLS to registries: the host's certificate authorities, or the Mozilla ones built in when the host has none.

use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use hyper_rustls::ConfigBuilderExt;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ClientConfig, RootCertStore};

use super::super::error::Error;
use super::hosts::{Endpoint, TlsSettings};

/// Where distributions keep the certificate authorities.
const AUTHORITIES: [&str; 4] = [
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/ssl/ca-bundle.pem",
    "/etc/ssl/cert.pem",
];

/// A file as it is now: where it is, its number, size and time of change. None if it is not there.
pub(super) type Stamp = (PathBuf, Option<(u64, u64, i64, i64)>);

/// The files that a configuration is read from: when one is replaced, it is to be read again.
pub(super) fn stamps(settings: &TlsSettings) -> Vec<Stamp> {
    let identity = settings.client.first().into_iter().flat_map(|(cert, key)| [Some(cert), key.as_ref()]);
    let own = settings.ca.iter().chain(identity.flatten()).cloned();
    let stamped = |path: PathBuf| {
        let now = stamp(&path);
        (path, now)
    };
    own.chain(authorities()).map(stamped).collect()
}

fn stamp(path: &Path) -> Option<(u64, u64, i64, i64)> {
    let file = std::fs::metadata(path).ok()?;
    Some((file.ino(), file.len(), file.ctime(), file.ctime_nsec()))
}

/// The host's certificate authorities, where there are any.
fn authorities() -> Option<PathBuf> {
    let own = std::env::var_os("SSL_CERT_FILE").map(PathBuf::from);
    own.into_iter().chain(AUTHORITIES.iter().map(PathBuf::from)).find(|path| path.is_file())
}

/// The TLS configuration for an endpoint.
pub(super) fn config(endpoint: &Endpoint) -> Result<ClientConfig, Error> {
    let fail = |reason: String| Error::Tls { host: endpoint.host.clone(), reason };
    let settings = &endpoint.tls;
    let builder = if settings.skip_verify {
        orlop_tls::unverified_client()
    } else {
        let roots = roots(settings).map_err(fail)?;
        if roots.is_empty() {
            orlop_tls::client().map(ConfigBuilderExt::with_webpki_roots)
        } else {
            orlop_tls::client_of(roots)
        }
    };
    let builder = builder.map_err(|error| fail(error.to_string()))?;
    match settings.client.first() {
        None => Ok(builder.with_no_client_auth()),
        Some((cert, key)) => {
            let (chain, key) = identity(cert, key.as_deref()).map_err(fail)?;
            builder.with_client_auth_cert(chain, key).map_err(|error| fail(format!("{}: {error}", cert.display())))
        }
    }
}

fn roots(settings: &TlsSettings) -> Result<RootCertStore, String> {
    let mut roots = RootCertStore::empty();
    if let Some(path) = authorities() {
        roots.add_parsable_certificates(certificates(&path)?);
    }
    for path in &settings.ca {
        for certificate in certificates(path)? {
            roots.add(certificate).map_err(|error| format!("{}: {error}", path.display()))?;
        }
    }
    Ok(roots)
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, String> {
    let read = CertificateDer::pem_file_iter(path).and_then(Iterator::collect);
    read.map_err(|error| format!("{}: {error}", path.display()))
}

fn identity(cert: &Path, key: Option<&Path>) -> Result<(Vec<CertificateDer<'static>>, PrivateKeyDer<'static>), String> {
    let key = key.unwrap_or(cert);
    let private = PrivateKeyDer::from_pem_file(key).map_err(|error| format!("{}: {error}", key.display()))?;
    Ok((certificates(cert)?, private))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_that_is_replaced_is_read_again() {
        let folder = tempfile::tempdir().unwrap();
        let [ca, cert, key] = ["ca.crt", "client.crt", "client.key"].map(|name| folder.path().join(name));
        let client = vec![(cert.clone(), Some(key.clone()))];
        let settings = TlsSettings { skip_verify: false, ca: vec![ca.clone()], client };
        let mut before = stamps(&settings);
        for path in [&ca, &cert, &key] {
            std::fs::write(path.with_extension("new"), "same").unwrap();
            std::fs::rename(path.with_extension("new"), path).unwrap();
            let after = stamps(&settings);
            assert_ne!(before, after, "{}", path.display());
            assert_eq!(after, stamps(&settings));
            before = after;
        }
    }
}
