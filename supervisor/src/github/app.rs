//! A GitHub App's way to a token: a signed claim, the installation, an hour's token.
//!
//! Source: docs "Generating a JSON Web Token (JWT) for a GitHub App" and "Generating an
//! installation access token". Tokens are opaque: no length or pattern is assumed.

use std::cell::{Cell, RefCell};
use std::fmt;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use init::settings::Secret;
use jsonwebtoken::{Algorithm, EncodingKey, Header};
use reqwest::Method;
use serde::{Deserialize, Serialize};

use super::{Client, Error};
use crate::config::Scope;

/// GitHub allows ten minutes; the rest is for a slow way there.
const CLAIM_SECONDS: i64 = 9 * 60;
/// GitHub recommends it against clocks that are ahead.
const CLAIM_AGE: i64 = 60;
/// A token is renewed when less of its hour is left.
const RENEW_BEFORE: i64 = 5 * 60;

/// An App, its key, and what was found out and made with them.
pub(super) struct App {
    id: String,
    key: EncodingKey,
    installation: Cell<Option<u64>>,
    token: RefCell<Option<Token>>,
}

struct Token {
    value: Secret,
    /// In seconds of GitHub's clock.
    expires: i64,
}

#[derive(Serialize)]
struct Claims<'a> {
    iat: i64,
    exp: i64,
    iss: &'a str,
}

#[derive(Deserialize)]
struct Installation {
    id: u64,
    account: Option<Account>,
}

#[derive(Deserialize)]
struct Account {
    login: Option<String>,
    slug: Option<String>,
}

#[derive(Deserialize)]
struct Issued {
    token: String,
    expires_at: jiff::Timestamp,
}

impl fmt::Debug for App {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("App")
            .field("id", &self.id)
            .finish_non_exhaustive()
    }
}

impl App {
    /// `key` must be PEM; see [`pem_of`].
    pub(super) fn new(id: String, key: &Secret, installation: Option<u64>) -> anyhow::Result<Self> {
        Ok(Self {
            id,
            key: EncodingKey::from_rsa_pem(key.expose().as_bytes())?,
            installation: Cell::new(installation),
            token: RefCell::new(None),
        })
    }

    /// A token that is good for some minutes more, made anew when there is none.
    pub(super) async fn token(&self, client: &Client) -> Result<Secret, Error> {
        let now = client.now();
        if let Some(token) = &*self.token.borrow()
            && token.expires - now > RENEW_BEFORE
        {
            return Ok(token.value.clone());
        }
        // A claim that our clock made invalid is refused once: the answer tells GitHub's time.
        let issued = match self.mint(client).await {
            Err(Error::Unauthorized(reason)) => {
                tracing::warn!(
                    reason,
                    "GitHub refused the App's claim; trying with its clock"
                );
                self.mint(client).await?
            }
            other => other?,
        };
        let value = Secret::new(issued.token);
        *self.token.borrow_mut() = Some(Token {
            value: value.clone(),
            expires: issued.expires_at.as_second(),
        });
        Ok(value)
    }

    /// The token was refused: the next call makes another.
    pub(super) fn forget_token(&self) {
        *self.token.borrow_mut() = None;
    }

    async fn mint(&self, client: &Client) -> Result<Issued, Error> {
        let installation = match self.installation.get() {
            Some(id) => id,
            None => self.look_up(client).await?,
        };
        self.installation.set(Some(installation));
        let path = format!("/app/installations/{installation}/access_tokens");
        let answer = client
            .send(Method::POST, &path, &self.claim(client)?, None)
            .await?;
        answer.read()
    }

    async fn look_up(&self, client: &Client) -> Result<u64, Error> {
        let scope = client.scope();
        if !matches!(scope, Scope::Enterprise(_)) {
            let path = format!("{}/installation", scope.path());
            match client
                .send(Method::GET, &path, &self.claim(client)?, None)
                .await
            {
                Ok(answer) => return answer.read::<Installation>().map(|found| found.id),
                // An organization's installation does not answer for its repositories on all versions.
                Err(Error::NotFound(_)) => {}
                Err(other) => return Err(other),
            }
        }
        for page in 1.. {
            let path = format!("/app/installations?per_page=100&page={page}");
            let answer = client
                .send(Method::GET, &path, &self.claim(client)?, None)
                .await?;
            let last = answer.is_last();
            let found: Vec<Installation> = answer.read()?;
            if let Some(ours) = found.iter().find(|one| one.is_of(scope.account())) {
                return Ok(ours.id);
            }
            if last {
                break;
            }
        }
        Err(Error::NotFound(format!(
            "the App {} is not installed on {}; install it there",
            self.id,
            scope.account()
        )))
    }

    fn claim(&self, client: &Client) -> Result<String, Error> {
        let now = client.now();
        let claims = Claims {
            iat: now - CLAIM_AGE,
            exp: now + CLAIM_SECONDS,
            iss: &self.id,
        };
        jsonwebtoken::encode(&Header::new(Algorithm::RS256), &claims, &self.key)
            .map(|claim| format!("Bearer {claim}"))
            .map_err(|error| Error::Unexpected(format!("cannot sign with the App's key: {error}")))
    }
}

impl Installation {
    fn is_of(&self, account: &str) -> bool {
        self.account.as_ref().is_some_and(|own| {
            [&own.login, &own.slug]
                .into_iter()
                .flatten()
                .any(|name| name.eq_ignore_ascii_case(account))
        })
    }
}

/// The key as PEM, whichever way it was packed for an environment variable: as it is, with its
/// line ends written as `\n`, or in base64. `None` when it is no RSA key.
pub(crate) fn pem_of(key: &Secret) -> Option<Secret> {
    let text = key.expose().trim();
    let text = if text.starts_with("-----BEGIN") {
        text.replace("\\n", "\n")
    } else {
        let compact: String = text.split_whitespace().collect();
        String::from_utf8(STANDARD.decode(compact).ok()?).ok()?
    };
    EncodingKey::from_rsa_pem(text.as_bytes()).ok()?;
    Some(Secret::new(text))
}

#[cfg(test)]
mod tests {
    use github_double::rsa_key::RsaKey;

    use super::*;

    #[test]
    fn a_key_is_read_however_it_was_packed() {
        let key = RsaKey::generate().unwrap().to_pem().unwrap();
        let written_out = key.replace('\n', "\\n");
        let encoded = STANDARD.encode(&key);
        for packed in [&key, &written_out, &encoded] {
            let pem = pem_of(&Secret::new(packed.clone())).unwrap();
            assert_eq!(pem.expose().trim(), key.trim());
        }
    }

    #[test]
    fn what_is_no_key_is_refused() {
        for text in [
            "",
            "secret",
            "-----BEGIN RSA PRIVATE KEY-----\nMII\n-----END RSA PRIVATE KEY-----",
        ] {
            assert!(pem_of(&Secret::new(text.to_owned())).is_none(), "{text}");
        }
    }
}
