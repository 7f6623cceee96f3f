//! The cluster's certificate authority, kept in `STATE/pki`, and the certificates it issues.
//!
//! Only the CA and the service-account key are kept; every other certificate is issued anew at start, so that
//! none of them can expire under a control plane that restarts now and then. Files are 0600 in a 0700 folder.

use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose,
    date_time_ymd,
};

use crate::config::Config;
use crate::error::Error;

/// Validity of the CA in years.
const CA_YEARS: i16 = 10;
/// Validity of every other certificate in years.
const LEAF_YEARS: i16 = 1;

/// A certificate with its private key, both in PEM.
#[derive(Clone)]
pub struct CertificateAndKey {
    /// The certificate chain.
    pub certificate_pem: String,
    /// The private key, PKCS#8.
    pub key_pem: String,
}

impl std::fmt::Debug for CertificateAndKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("CertificateAndKey").field("certificate_pem", &self.certificate_pem).finish_non_exhaustive()
    }
}

/// Who a client certificate speaks for.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Subject<'a> {
    /// The user name (CN).
    pub(crate) user: &'a str,
    /// The groups (O).
    pub(crate) groups: &'a [&'a str],
}

/// The certificate authority.
pub(crate) struct Authority {
    certificate_pem: String,
    issuer: Issuer<'static, KeyPair>,
}

impl std::fmt::Debug for Authority {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Authority").finish_non_exhaustive()
    }
}

impl Authority {
    /// Reads the CA from `dir`, or makes it when there is none.
    pub(crate) fn open(dir: &Path) -> Result<Self, Error> {
        crate::config::private_dir(dir).map_err(|source| Error::File { step: "making", path: dir.into(), source })?;
        let key_path = dir.join("ca.key");
        let certificate_path = dir.join("ca.crt");
        let subject = "the cluster's CA";
        let key = match std::fs::read_to_string(&key_path) {
            Ok(pem) => KeyPair::from_pem(&pem).map_err(certificate_error(subject))?,
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => {
                let key = KeyPair::generate().map_err(certificate_error(subject))?;
                write_private(&key_path, key.serialize_pem().as_bytes())?;
                key
            }
            Err(source) => return Err(Error::File { step: "reading", path: key_path, source }),
        };
        let certificate_pem = match std::fs::read_to_string(&certificate_path) {
            Ok(pem) => pem,
            // A crash between the two files leaves a key without its certificate: nothing was issued by it yet.
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => {
                let pem = ca_params()?.self_signed(&key).map_err(certificate_error(subject))?.pem();
                write_private(&certificate_path, pem.as_bytes())?;
                pem
            }
            Err(source) => return Err(Error::File { step: "reading", path: certificate_path, source }),
        };
        let issuer = Issuer::from_ca_cert_pem(&certificate_pem, key).map_err(certificate_error(subject))?;
        Ok(Self { certificate_pem, issuer })
    }

    /// The CA's certificate.
    pub(crate) fn certificate_pem(&self) -> &str {
        &self.certificate_pem
    }

    /// A certificate for TLS clients.
    pub(crate) fn issue_client(&self, subject: Subject<'_>) -> Result<CertificateAndKey, Error> {
        self.issue(subject, &[], ExtendedKeyUsagePurpose::ClientAuth)
    }

    /// A certificate for a TLS server that is reached by `names` (DNS names or IP addresses).
    pub(crate) fn issue_server(&self, subject: Subject<'_>, names: &[String]) -> Result<CertificateAndKey, Error> {
        self.issue(subject, names, ExtendedKeyUsagePurpose::ServerAuth)
    }

    fn issue(
        &self,
        subject: Subject<'_>,
        names: &[String],
        usage: ExtendedKeyUsagePurpose,
    ) -> Result<CertificateAndKey, Error> {
        let key = KeyPair::generate().map_err(certificate_error(subject.user))?;
        let mut params = CertificateParams::new(names.to_vec()).map_err(certificate_error(subject.user))?;
        params.distinguished_name.push(DnType::CommonName, subject.user);
        for group in subject.groups {
            params.distinguished_name.push(DnType::OrganizationName, *group);
        }
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature, KeyUsagePurpose::KeyEncipherment];
        params.extended_key_usages = vec![usage];
        params.use_authority_key_identifier_extension = true;
        set_validity(&mut params, LEAF_YEARS);
        let certificate = params.signed_by(&key, &self.issuer).map_err(certificate_error(subject.user))?;
        Ok(CertificateAndKey { certificate_pem: certificate.pem(), key_pem: key.serialize_pem() })
    }
}

fn ca_params() -> Result<CertificateParams, Error> {
    let mut params = CertificateParams::new(Vec::new()).map_err(certificate_error("the cluster's CA"))?;
    params.distinguished_name.push(DnType::CommonName, "orlop-ca");
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign, KeyUsagePurpose::DigitalSignature];
    set_validity(&mut params, CA_YEARS);
    Ok(params)
}

fn certificate_error(subject: &str) -> impl Fn(rcgen::Error) -> Error + '_ {
    move |source| Error::Certificate { subject: subject.to_owned(), source }
}

/// From yesterday (clocks of other machines may be behind) for `years`.
fn set_validity(params: &mut CertificateParams, years: i16) {
    let yesterday = jiff::Timestamp::now() - jiff::SignedDuration::from_hours(24);
    let date = yesterday.to_zoned(jiff::tz::TimeZone::UTC).date();
    let (year, month, day) = (i32::from(date.year()), date.month().unsigned_abs(), date.day().unsigned_abs());
    // 29 February has no anniversary.
    let last_day = if month == 2 { day.min(28) } else { day };
    params.not_before = date_time_ymd(year, month, day);
    params.not_after = date_time_ymd(year + i32::from(years), month, last_day);
}

/// The API server's own certificate, for every name that clients reach it by.
pub(crate) fn api_server(authority: &Authority, config: &Config) -> Result<CertificateAndKey, Error> {
    let mut names: Vec<String> = [
        "localhost",
        "kubernetes",
        "kubernetes.default",
        "kubernetes.default.svc",
        "kubernetes.default.svc.cluster.local",
        "127.0.0.1",
        "::1",
    ]
    .map(str::to_owned)
    .to_vec();
    names.push(config.kubernetes_service_ip().to_string());
    names.push(config.advertised().to_string());
    if !config.listen.ip().is_unspecified() {
        names.push(config.listen.ip().to_string());
    }
    names.extend(config.extra_sans.iter().cloned());
    names.sort();
    names.dedup();
    authority.issue_server(Subject { user: "kube-apiserver", groups: &[] }, &names)
}

/// The certificate that the API server shows to kubelets; a kubelet lets `system:masters` in whatever it asks.
pub(crate) fn kubelet_client(authority: &Authority) -> Result<CertificateAndKey, Error> {
    authority.issue_client(Subject { user: "kube-apiserver-kubelet-client", groups: &["system:masters"] })
}

/// The kubeconfig of a client with a certificate.
pub(crate) fn kubeconfig(server: &str, ca_pem: &str, user: &str, identity: &CertificateAndKey) -> String {
    let ca = STANDARD.encode(ca_pem);
    let certificate = STANDARD.encode(&identity.certificate_pem);
    let key = STANDARD.encode(&identity.key_pem);
    format!(
        "apiVersion: v1\nkind: Config\nclusters:\n- name: orlop\n  cluster:\n    server: {server}\n    \
         certificate-authority-data: {ca}\nusers:\n- name: {user}\n  user:\n    client-certificate-data: \
         {certificate}\n    client-key-data: {key}\ncontexts:\n- name: {user}@orlop\n  context:\n    cluster: orlop\n    \
         user: {user}\ncurrent-context: {user}@orlop\n"
    )
}

/// Writes a file that only its owner can read, whole or not at all: a temporary file, fsync, rename.
pub(crate) fn write_private(path: &Path, content: &[u8]) -> Result<(), Error> {
    let mut temporary = PathBuf::from(path);
    temporary.as_mut_os_string().push(format!(".{}.tmp", std::process::id()));
    let write = || -> std::io::Result<()> {
        let mut file =
            std::fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&temporary)?;
        file.write_all(content)?;
        file.sync_all()?;
        std::fs::rename(&temporary, path)
    };
    write().map_err(|source| Error::File { step: "writing", path: path.into(), source })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_authority_survives_a_restart_and_its_files_are_private() {
        use std::os::unix::fs::PermissionsExt;
        let dir = tempfile::tempdir().unwrap();
        let first = Authority::open(&dir.path().join("pki")).unwrap();
        let second = Authority::open(&dir.path().join("pki")).unwrap();
        assert_eq!(first.certificate_pem(), second.certificate_pem());
        let mode = std::fs::metadata(dir.path().join("pki/ca.key")).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
    }

    #[test]
    fn a_client_certificate_carries_user_and_groups() {
        let dir = tempfile::tempdir().unwrap();
        let authority = Authority::open(dir.path()).unwrap();
        let subject = Subject { user: "system:node:n1", groups: &["system:nodes"] };
        let issued = authority.issue_client(subject).unwrap();
        let (_, pem) = x509_parser::pem::parse_x509_pem(issued.certificate_pem.as_bytes()).unwrap();
        let certificate = pem.parse_x509().unwrap();
        let name = certificate.subject();
        assert_eq!(name.iter_common_name().next().unwrap().as_str().unwrap(), "system:node:n1");
        assert_eq!(name.iter_organization().next().unwrap().as_str().unwrap(), "system:nodes");
    }
}
