//! The two signed assertions that the service checks: an App's and a runner's.
//!
//! Owns the signatures and the rules about time; both against the double's clock. Which App or
//! runner may then do what is decided elsewhere.

use jiff::Timestamp;
use jsonwebtoken::{Algorithm, DecodingKey, Validation, decode};
use serde_json::Value;

use crate::clock::rest_time;
use crate::rsa_key::PublicKey;
use crate::world::apps::App;
use crate::world::refusal::Refusal;

/// docs "Generating a JSON Web Token (JWT) for a GitHub App": no later than this.
const LONGEST_APP_LIFE: i64 = 600;

/// Finds the App whose key signed `token`; 401 with GitHub's words otherwise.
pub(crate) fn verify_app<'a>(
    token: &str,
    apps: &'a [App],
    now: Timestamp,
) -> Result<&'a App, Refusal> {
    let unreadable = || Refusal::rest(401, "A JSON web token could not be decoded");
    let claims = claims_unverified(token).ok_or_else(unreadable)?;
    let issuer = match claims.get("iss") {
        Some(Value::String(text)) => text.clone(),
        Some(Value::Number(number)) => number.to_string(),
        None | Some(Value::Null | Value::Bool(_) | Value::Array(_) | Value::Object(_)) => {
            return Err(Refusal::rest(
                401,
                "'Issuer' claim ('iss') must be an Integer",
            ));
        }
    };
    let app = apps
        .iter()
        .find(|app| app.id.to_string() == issuer || app.client_id == issuer)
        .ok_or_else(|| Refusal::rest(404, "Integration not found"))?;
    let key = DecodingKey::from_rsa_pem(app.public_key.as_bytes()).map_err(|_| unreadable())?;
    decode::<Value>(token, &key, &signature_only()).map_err(|_| unreadable())?;
    check_app_times(&claims, now.as_second())?;
    Ok(app)
}

fn check_app_times(claims: &Value, now: i64) -> Result<(), Refusal> {
    let issued = claims.get("iat").and_then(Value::as_i64);
    if issued.is_none_or(|issued| issued > now) {
        return Err(Refusal::rest(
            401,
            "'Issued at' claim ('iat') must be an Integer representing the time that the \
             assertion was issued",
        ));
    }
    match claims.get("exp").and_then(Value::as_i64) {
        Some(expires) if expires > now + LONGEST_APP_LIFE => Err(Refusal::rest(
            401,
            "'Expiration time' claim ('exp') is too far in the future",
        )),
        Some(expires) if expires > now => Ok(()),
        Some(_) | None => Err(Refusal::rest(
            401,
            "'Expiration time' claim ('exp') must be a numeric value representing the future \
             time at which the assertion expires",
        )),
    }
}

/// Checks a runner's client assertion (actions/runner `VssOAuthJwtBearerClientCredential`): the
/// key it registered, its client id as `iss` and `sub`, the token endpoint as `aud`, and time.
/// The words about the server's time are those a runner matches on to see a skewed clock.
pub(crate) fn verify_runner(
    assertion: &str,
    key: &PublicKey,
    client_id: &str,
    now: Timestamp,
) -> Result<(), Refusal> {
    let invalid = |why: &str| Refusal::oauth("invalid_grant", why);
    let (modulus, exponent) = key
        .components()
        .map_err(|_| invalid("the registered key is unusable"))?;
    let key = DecodingKey::from_rsa_components(&modulus, &exponent)
        .map_err(|_| invalid("the registered key is unusable"))?;
    let claims = decode::<Value>(assertion, &key, &signature_only())
        .map_err(|_| invalid("the assertion is not signed with the registered key"))?
        .claims;
    let text = |name: &str| claims.get(name).and_then(Value::as_str).unwrap_or_default();
    if text("iss") != client_id || text("sub") != client_id {
        return Err(invalid("iss and sub must be the client id"));
    }
    if !text("aud").ends_with("/_apis/oauth2/token") {
        return Err(invalid("aud must be the authorization URL"));
    }
    let second = |name: &str| claims.get(name).and_then(Value::as_i64);
    let time = now.as_second();
    let server_time = rest_time(now);
    // Five minutes of leniency either way, as the runner's own error message promises.
    if second("exp").is_none_or(|end| end + 300 < time) {
        return Err(invalid(&format!(
            "The bearer token expired. Current server time is {server_time}."
        )));
    }
    if second("nbf").is_some_and(|start| start - 300 > time) {
        return Err(invalid(&format!(
            "The bearer token is not valid yet. Current server time is {server_time}."
        )));
    }
    Ok(())
}

/// Reads the client id that an assertion claims, before anything is known about its key.
pub(crate) fn claimed_issuer(assertion: &str) -> Option<String> {
    let claims = claims_unverified(assertion)?;
    Some(claims.get("iss")?.as_str()?.to_owned())
}

fn claims_unverified(token: &str) -> Option<Value> {
    use base64::Engine;
    let payload = token.split('.').nth(1)?;
    let bytes = base64::engine::general_purpose::URL_SAFE_NO_PAD
        .decode(payload)
        .ok()?;
    serde_json::from_slice(&bytes).ok()
}

fn signature_only() -> Validation {
    let mut validation = Validation::new(Algorithm::RS256);
    validation.required_spec_claims.clear();
    validation.validate_exp = false;
    validation.validate_aud = false;
    validation
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn an_app_token_must_lie_within_ten_minutes_of_the_clock() {
        let now = 1_000_000;
        let check = |iat: i64, exp: i64| {
            check_app_times(&json!({ "iat": iat, "exp": exp }), now)
                .err()
                .map(|refusal| refusal.body["message"].as_str().unwrap().to_owned())
        };
        assert_eq!(check(now - 60, now + 600), None);
        assert_eq!(check(now, now + 1), None);
        let too_far = check(now, now + 601).unwrap();
        assert_eq!(
            too_far,
            "'Expiration time' claim ('exp') is too far in the future"
        );
        assert!(check(now, now).unwrap().contains("must be a numeric value"));
        assert!(check(now + 1, now + 60).unwrap().contains("('iat')"));
    }

    #[test]
    fn an_app_token_without_times_is_refused() {
        assert!(check_app_times(&json!({ "exp": 60 }), 0).is_err());
        assert!(check_app_times(&json!({ "iat": 0 }), 0).is_err());
    }
}
