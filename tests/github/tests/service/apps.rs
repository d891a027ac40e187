//! A GitHub App's way to a token.

use github_double::rsa_key::RsaKey;
use github_double::{App, GithubDouble, Grant};
use jsonwebtoken::{Algorithm, EncodingKey, Header};
use serde_json::{Value, json};

use crate::client::{Answer, RUNNERS, call_as, service};

const APP: u64 = 4242;
const CLIENT: &str = "Iv23client";

struct Signer(EncodingKey);

impl Signer {
    /// Makes a key and tells the service about its public half.
    fn registered(double: &GithubDouble) -> Self {
        let key = RsaKey::generate().unwrap();
        double.add_app(App {
            id: APP,
            client_id: CLIENT.to_owned(),
            public_key: key.public().to_pem().unwrap(),
            grant: Grant::default(),
        });
        Self(EncodingKey::from_rsa_der(&key.to_der().unwrap()))
    }

    fn sign(&self, claims: &Value) -> String {
        jsonwebtoken::encode(&Header::new(Algorithm::RS256), claims, &self.0).unwrap()
    }

    /// As an App signs now, with its clock so many seconds ahead.
    fn token(&self, issuer: &Value, ahead: i64) -> String {
        let now = jiff::Timestamp::now().as_second() + ahead;
        self.sign(&json!({ "iss": issuer, "iat": now - 60, "exp": now + 540 }))
    }
}

fn get(double: &GithubDouble, token: &str, path: &str) -> Answer {
    call_as(double, token, ("GET", path), None).unwrap()
}

#[test]
fn an_app_finds_its_installation_and_gets_a_token_that_works() {
    let double = service();
    let signer = Signer::registered(&double);
    for issuer in [json!(APP), json!(APP.to_string()), json!(CLIENT)] {
        let jwt = signer.token(&issuer, 0);
        let installation = get(&double, &jwt, "/repos/octo/hello/installation");
        assert_eq!(installation.status, 200, "{installation:?}");
        assert_eq!(installation.body["account"]["login"], "octo");
        let path = format!(
            "/app/installations/{}/access_tokens",
            installation.body["id"]
        );
        let issued = call_as(&double, &jwt, ("POST", &path), None).unwrap();
        assert_eq!(issued.status, 201, "{issued:?}");
        let token = issued.body["token"].as_str().unwrap();
        assert!(token.starts_with("ghs_"));
        assert_eq!(get(&double, token, RUNNERS).status, 200);
        // Another account has another installation.
        assert_eq!(
            get(&double, token, "/orgs/acme/actions/runners").status,
            404
        );
    }
}

#[test]
fn installations_are_listed_by_page() {
    let double = service();
    let signer = Signer::registered(&double);
    let jwt = signer.token(&json!(APP), 0);
    let first = get(&double, &jwt, "/app/installations?per_page=2");
    assert_eq!(first.body.as_array().unwrap().len(), 2);
    assert!(first.header("link").contains("rel=\"next\""), "{first:?}");
    let second = get(&double, &jwt, "/app/installations?per_page=2&page=2");
    assert_eq!(second.body[0]["account"]["login"], "big");
}

#[test]
fn an_app_whose_clock_is_off_is_told_which_claim_is_wrong() {
    let double = service();
    let signer = Signer::registered(&double);
    let complaint = |ahead: i64| {
        let jwt = signer.token(&json!(APP), ahead);
        let answer = get(&double, &jwt, "/app/installations");
        (answer.status, answer.message().to_owned())
    };
    let (status, words) = complaint(-900);
    assert_eq!(status, 401);
    assert!(
        words.contains("'Expiration time' claim ('exp') must be"),
        "{words}"
    );
    assert!(complaint(900).1.contains("'Issued at' claim ('iat')"));
    double.set_clock_offset(900);
    assert_eq!(complaint(900).0, 200);
    let now = jiff::Timestamp::now().as_second() + 900;
    let far = signer.sign(&json!({ "iss": APP, "iat": now - 60, "exp": now + 3600 }));
    let answer = get(&double, &far, "/app/installations");
    assert_eq!(
        answer.message(),
        "'Expiration time' claim ('exp') is too far in the future"
    );
}

#[test]
fn the_date_header_shows_the_doubles_clock() {
    let double = service();
    double.set_clock_offset(-3600);
    let answer = get(&double, "x", RUNNERS);
    let date = jiff::fmt::rfc2822::parse(answer.header("date")).unwrap();
    let behind = jiff::Timestamp::now().duration_since(date.timestamp());
    assert!((3595..3660).contains(&behind.as_secs()), "{behind:?}");
}

#[test]
fn a_foreign_signature_and_an_unknown_app_are_refused() {
    let double = service();
    Signer::registered(&double);
    let other = RsaKey::generate().unwrap();
    let other = Signer(EncodingKey::from_rsa_der(&other.to_der().unwrap()));
    let answer = get(&double, &other.token(&json!(APP), 0), "/app");
    assert_eq!(
        (answer.status, answer.message()),
        (401, "A JSON web token could not be decoded")
    );
    let answer = get(&double, &other.token(&json!(1), 0), "/app");
    assert_eq!(
        (answer.status, answer.message()),
        (404, "Integration not found")
    );
    assert_eq!(get(&double, "no.jwt", "/app").status, 401);
}

#[test]
fn a_token_can_be_asked_for_with_fewer_rights() {
    let double = service();
    let signer = Signer::registered(&double);
    let jwt = signer.token(&json!(APP), 0);
    let id = get(&double, &jwt, "/orgs/acme/installation").body["id"].clone();
    let path = format!("/app/installations/{id}/access_tokens");
    let body = json!({ "permissions": { "actions": "write" } });
    let issued = call_as(&double, &jwt, ("POST", &path), Some(body)).unwrap();
    let token = issued.body["token"].as_str().unwrap();
    let answer = get(&double, token, "/orgs/acme/actions/runners");
    assert_eq!(
        (answer.status, answer.message()),
        (403, "Resource not accessible by integration")
    );
    let unknown = call_as(
        &double,
        &jwt,
        ("POST", "/app/installations/1/access_tokens"),
        None,
    );
    assert_eq!(unknown.unwrap().status, 404);
}
