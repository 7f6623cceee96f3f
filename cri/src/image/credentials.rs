//! Registry credentials, in a type that never prints them.

use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use super::error::Error;

/// A text that is never logged: Debug and Display print a placeholder.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    pub fn new(text: impl Into<String>) -> Secret {
        Secret(text.into())
    }

    pub(crate) fn reveal(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[redacted]")
    }
}

impl fmt::Display for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[redacted]")
    }
}

/// How a pull proves who it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Login {
    /// HTTP Basic, or the exchange of it for a bearer token.
    Password { user: String, password: Secret },
    /// An OAuth2 refresh token, exchanged for a bearer token at the registry's realm.
    IdentityToken(Secret),
    /// A bearer token that is sent to the registry as it is.
    RegistryToken(Secret),
}

/// Credentials of one pull. They are sent to the registry that the image's name gives (or `server`, if set, gives),
/// to the token realm which that registry names, and to nobody else: not to mirrors, not after a redirect.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Credentials {
    pub login: Login,
    /// The registry they are for, as in Docker's config: `host[:port]`, with or without a scheme and a path.
    pub server: Option<String>,
}

impl Credentials {
    pub fn password(user: impl Into<String>, password: impl Into<String>) -> Credentials {
        let login = Login::Password { user: user.into(), password: Secret::new(password) };
        Credentials { login, server: None }
    }

    /// From the fields of CRI's AuthConfig; None when all are empty. A registry token is taken first, then an
    /// identity token, then user and password, then `auth` (base64 of `user:password`).
    pub fn from_fields(
        user: &str,
        password: &str,
        auth: &str,
        server: &str,
        identity_token: &str,
        registry_token: &str,
    ) -> Result<Option<Credentials>, Error> {
        let login = if !registry_token.is_empty() {
            Login::RegistryToken(Secret::new(registry_token))
        } else if !identity_token.is_empty() {
            Login::IdentityToken(Secret::new(identity_token))
        } else if !user.is_empty() {
            Login::Password { user: user.to_owned(), password: Secret::new(password) }
        } else if !auth.is_empty() {
            decode_auth(auth)?
        } else {
            return Ok(None);
        };
        let server = (!server.is_empty()).then(|| server.to_owned());
        Ok(Some(Credentials { login, server }))
    }

    /// Whether they may be sent to `host` when the image's name gives the registry `registry`.
    pub(crate) fn are_for(&self, host: &str, registry: &str) -> bool {
        let wanted = self.server.as_deref().map_or(registry, server_host);
        canonical(wanted) == canonical(host)
    }

    /// The value of an `Authorization: Basic` header, for a login with a password.
    pub(crate) fn basic(&self) -> Option<Secret> {
        match &self.login {
            Login::Password { user, password } => {
                let pair = format!("{user}:{}", password.reveal());
                Some(Secret(format!("Basic {}", STANDARD.encode(pair))))
            }
            Login::IdentityToken(_) | Login::RegistryToken(_) => None,
        }
    }
}

fn decode_auth(auth: &str) -> Result<Login, Error> {
    let bad = |reason| Error::Credentials { reason };
    let bytes = STANDARD.decode(auth.trim()).map_err(|_| bad("the auth field is not base64"))?;
    let text = String::from_utf8(bytes).map_err(|_| bad("the auth field does not hold text"))?;
    // Docker's own encoder pads with NULs.
    let text = text.trim_end_matches('\0');
    let (user, password) = text.split_once(':').ok_or_else(|| bad("the auth field does not hold user:password"))?;
    Ok(Login::Password { user: user.to_owned(), password: Secret::new(password) })
}

/// The host of a server as Docker's config writes it: `https://index.docker.io/v1/` is `index.docker.io`.
fn server_host(server: &str) -> &str {
    let rest = server.split_once("://").map_or(server, |(_, rest)| rest);
    rest.split('/').next().unwrap_or(rest)
}

/// Docker Hub goes by several host names.
fn canonical(host: &str) -> &str {
    match host {
        "index.docker.io" | "registry-1.docker.io" => "docker.io",
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_prints_a_secret() {
        let credentials = Credentials::password("ann", "hunter2");
        assert!(!format!("{credentials:?}").contains("hunter2"));
        assert!(!format!("{:?}", credentials.basic()).contains("Basic"));
        assert!(!Secret::new("hunter2").to_string().contains("hunter2"));
    }

    #[test]
    fn the_auth_field_is_decoded() {
        let auth = STANDARD.encode("ann:hun:ter2\0\0");
        let credentials = Credentials::from_fields("", "", &auth, "", "", "").unwrap().unwrap();
        assert_eq!(credentials, Credentials::password("ann", "hun:ter2"));
        assert!(Credentials::from_fields("", "", "%%", "", "", "").is_err());
        assert!(Credentials::from_fields("", "", "", "x", "", "").unwrap().is_none());
    }

    #[test]
    fn credentials_go_only_to_their_registry() {
        let mut credentials = Credentials::password("ann", "x");
        assert!(credentials.are_for("registry-1.docker.io", "docker.io"));
        assert!(!credentials.are_for("mirror.example", "docker.io"));
        credentials.server = Some("https://index.docker.io/v1/".to_owned());
        assert!(credentials.are_for("registry-1.docker.io", "docker.io"));
        credentials.server = Some("mirror.example".to_owned());
        assert!(credentials.are_for("mirror.example", "docker.io"));
        assert!(!credentials.are_for("registry-1.docker.io", "docker.io"));
    }
}
