//! Service-account tokens: JWTs signed with ES256 (RFC 7519, RFC 7518 section 3.4).

use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use ring::rand::SystemRandom;
use ring::signature::{ECDSA_P256_SHA256_FIXED, ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, UnparsedPublicKey};
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

use crate::error::Error;
use crate::pki;

/// Who issues the tokens, and the audience of those that are meant for this API server.
pub(crate) const ISSUER: &str = "https://kubernetes.default.svc.cluster.local";

/// Signs and verifies tokens.
pub(crate) struct Signer {
    key: EcdsaKeyPair,
    public: Vec<u8>,
    id: String,
    random: SystemRandom,
}

impl std::fmt::Debug for Signer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Signer").field("id", &self.id).finish_non_exhaustive()
    }
}

impl Signer {
    /// Reads the key `sa.key` in `dir`, or makes it.
    pub(crate) fn open(dir: &Path) -> Result<Self, Error> {
        let path = dir.join("sa.key");
        let bad = |reason: String| Error::SigningKey { path: path.clone(), reason };
        let pair = match std::fs::read_to_string(&path) {
            Ok(pem) => rcgen::KeyPair::from_pem(&pem).map_err(|e| bad(e.to_string()))?,
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => {
                let pair = rcgen::KeyPair::generate().map_err(|e| bad(e.to_string()))?;
                pki::write_private(&path, pair.serialize_pem().as_bytes())?;
                pair
            }
            Err(source) => return Err(Error::File { step: "reading", path, source }),
        };
        let random = SystemRandom::new();
        let key = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, pair.serialized_der(), &random)
            .map_err(|e| bad(format!("not an ECDSA P-256 key: {e}")))?;
        let public = pair.public_key_raw().to_vec();
        let id = URL_SAFE_NO_PAD.encode(Sha256::digest(&public));
        Ok(Self { key, public, id, random })
    }

    /// A token with these claims.
    pub(crate) fn sign(&self, claims: &Value) -> Option<String> {
        let header = json!({"alg": "ES256", "kid": self.id});
        let signed =
            format!("{}.{}", URL_SAFE_NO_PAD.encode(header.to_string()), URL_SAFE_NO_PAD.encode(claims.to_string()));
        let signature = self.key.sign(&self.random, signed.as_bytes()).ok()?;
        Some(format!("{signed}.{}", URL_SAFE_NO_PAD.encode(signature.as_ref())))
    }

    /// The claims of a token that this key signed, that is valid now, and that is meant for one of `audiences`.
    pub(crate) fn verify(&self, token: &str, audiences: &[String]) -> Result<Value, &'static str> {
        let (signed, signature) = token.rsplit_once('.').ok_or("not a JWT")?;
        let (header, payload) = signed.split_once('.').ok_or("not a JWT")?;
        let header = decode(header).ok_or("malformed header")?;
        if header["alg"] != "ES256" || header["kid"] != *self.id {
            return Err("signed by another key");
        }
        let signature = URL_SAFE_NO_PAD.decode(signature).map_err(|_| "malformed signature")?;
        UnparsedPublicKey::new(&ECDSA_P256_SHA256_FIXED, &self.public)
            .verify(signed.as_bytes(), &signature)
            .map_err(|_| "wrong signature")?;
        let claims = decode(payload).ok_or("malformed claims")?;
        let now = unix_now();
        if claims["iss"] != ISSUER {
            return Err("another issuer");
        }
        if claims["exp"].as_i64().is_none_or(|end| end <= now) {
            return Err("service account token has expired");
        }
        if claims["nbf"].as_i64().is_none_or(|start| start > now + 10) {
            return Err("not valid yet");
        }
        let meant = |audience: &Value| audience.as_str().is_some_and(|a| audiences.iter().any(|wanted| wanted == a));
        let fits = match &claims["aud"] {
            Value::Array(list) => list.iter().any(meant),
            one => meant(one),
        };
        if fits { Ok(claims) } else { Err("token audiences are not accepted here") }
    }

    /// The public key as a JSON Web Key set (RFC 7517).
    pub(crate) fn jwks(&self) -> Value {
        // An uncompressed point: 4, x, y.
        let half = |range: std::ops::Range<usize>| URL_SAFE_NO_PAD.encode(self.public.get(range).unwrap_or_default());
        json!({"keys": [{
            "use": "sig", "kty": "EC", "kid": self.id, "crv": "P-256", "alg": "ES256", "x": half(1..33), "y": half(33..65),
        }]})
    }
}

fn decode(part: &str) -> Option<Value> {
    serde_json::from_slice(&URL_SAFE_NO_PAD.decode(part).ok()?).ok()
}

/// Seconds since the epoch.
pub(crate) fn unix_now() -> i64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_secs().cast_signed())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_are_accepted_only_whole_in_time_and_by_their_audience() {
        let dir = tempfile::tempdir().unwrap();
        let signer = Signer::open(dir.path()).unwrap();
        let now = unix_now();
        let claims = json!({"iss": ISSUER, "aud": ["a"], "exp": now + 60, "nbf": now, "sub": "x"});
        let token = signer.sign(&claims).unwrap();
        assert_eq!(signer.verify(&token, &["a".into()]).unwrap()["sub"], "x");
        assert!(Signer::open(dir.path()).unwrap().verify(&token, &["a".into()]).is_ok(), "the key is kept");
        assert!(signer.verify(&token, &["b".into()]).is_err());
        let old = signer.sign(&json!({"iss": ISSUER, "aud": ["a"], "exp": now - 1, "nbf": now - 60})).unwrap();
        assert!(signer.verify(&old, &["a".into()]).is_err());
        let (head, tail) = token.split_at(token.len() - 4);
        let forged = format!("{head}{}", if tail == "AAAA" { "BBBB" } else { "AAAA" });
        assert!(signer.verify(&forged, &["a".into()]).is_err());
        let other = tempfile::tempdir().unwrap();
        assert!(Signer::open(other.path()).unwrap().verify(&token, &["a".into()]).is_err());
    }
}
