//! The RSA key of a runner registration, in the three shapes in which it travels.
//!
//! Owns: making the key, the JSON of `.credentials_rsaparams` (actions/runner,
//! `IRSAKeyManager.cs` `RSAParametersSerializable`), the XML that `config.sh` sends, and the DER
//! that signs. Does not own signing or checking a token: see `jwt`.

use std::fmt;

use anyhow::{Context, bail, ensure};
use aws_lc_rs::encoding::AsDer;
use aws_lc_rs::rsa::{KeyPair, KeySize};
use base64::Engine;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use serde::{Deserialize, Serialize};

const INTEGER: u8 = 0x02;
const OCTET_STRING: u8 = 0x04;
const SEQUENCE: u8 = 0x30;

/// A private key as `.credentials_rsaparams` holds it: every number big-endian, in base64.
#[derive(Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RsaKey {
    d: String,
    dp: String,
    dq: String,
    exponent: String,
    inverse_q: String,
    modulus: String,
    p: String,
    q: String,
}

impl fmt::Debug for RsaKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RsaKey").finish_non_exhaustive()
    }
}

impl RsaKey {
    /// A fresh RSA-2048 key.
    pub fn generate() -> anyhow::Result<Self> {
        let pair = KeyPair::generate(KeySize::Rsa2048).context("cannot make an RSA key")?;
        let pkcs8 = pair.as_der().context("cannot encode an RSA key")?;
        let key = first_element(pkcs8.as_ref(), SEQUENCE)?;
        let octets = elements(key)?
            .into_iter()
            .find(|(tag, _)| *tag == OCTET_STRING)
            .context("the encoded RSA key has no private part")?;
        let numbers = elements(first_element(octets.1, SEQUENCE)?)?;
        ensure!(numbers.len() >= 9, "the encoded RSA key has too few parts");
        let number = |index: usize| STANDARD.encode(without_sign(numbers[index].1));
        Ok(Self {
            modulus: number(1),
            exponent: number(2),
            d: number(3),
            p: number(4),
            q: number(5),
            dp: number(6),
            dq: number(7),
            inverse_q: number(8),
        })
    }

    /// The PKCS #1 encoding, for signing.
    pub fn to_der(&self) -> anyhow::Result<Vec<u8>> {
        let mut body = vec![INTEGER, 1, 0];
        let numbers = [
            &self.modulus,
            &self.exponent,
            &self.d,
            &self.p,
            &self.q,
            &self.dp,
            &self.dq,
            &self.inverse_q,
        ];
        for number in numbers {
            push_number(&mut body, number)?;
        }
        let mut der = Vec::new();
        push_element(&mut der, SEQUENCE, &body);
        Ok(der)
    }

    /// PEM with `BEGIN RSA PRIVATE KEY` (PKCS #1), the form in which GitHub gives an App its key.
    pub fn to_pem(&self) -> anyhow::Result<String> {
        Ok(pem("PRIVATE", &self.to_der()?))
    }

    pub fn public(&self) -> PublicKey {
        PublicKey {
            modulus: self.modulus.clone(),
            exponent: self.exponent.clone(),
        }
    }
}

fn pem(half: &str, der: &[u8]) -> String {
    let text = STANDARD.encode(der);
    let lines: Vec<&str> = (0..text.len())
        .step_by(64)
        .filter_map(|start| text.get(start..text.len().min(start + 64)))
        .collect();
    let lines = lines.join("\n");
    format!("-----BEGIN RSA {half} KEY-----\n{lines}\n-----END RSA {half} KEY-----\n")
}

/// The public half; base64 numbers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PublicKey {
    modulus: String,
    exponent: String,
}

impl PublicKey {
    /// Reads the `RSAKeyValue` document that a runner registers with.
    pub fn from_xml(xml: &str) -> anyhow::Result<Self> {
        let part = |name: &str| {
            let after = xml.split_once(&format!("<{name}>"))?.1;
            Some(after.split_once(&format!("</{name}>"))?.0.to_owned())
        };
        let (Some(modulus), Some(exponent)) = (part("Modulus"), part("Exponent")) else {
            bail!("public_key is no RSAKeyValue document");
        };
        STANDARD
            .decode(&modulus)
            .context("the modulus of public_key is no base64")?;
        Ok(Self { modulus, exponent })
    }

    pub fn to_xml(&self) -> String {
        format!(
            "<RSAKeyValue><Modulus>{}</Modulus><Exponent>{}</Exponent></RSAKeyValue>",
            self.modulus, self.exponent
        )
    }

    /// PEM with `BEGIN RSA PUBLIC KEY` (PKCS #1), one of the two forms an App's key comes in.
    pub fn to_pem(&self) -> anyhow::Result<String> {
        let mut body = Vec::new();
        push_number(&mut body, &self.modulus)?;
        push_number(&mut body, &self.exponent)?;
        let mut der = Vec::new();
        push_element(&mut der, SEQUENCE, &body);
        Ok(pem("PUBLIC", &der))
    }

    /// Modulus and exponent in base64url, as JSON web keys have them.
    pub(crate) fn components(&self) -> anyhow::Result<(String, String)> {
        let url_safe =
            |number: &String| anyhow::Ok(URL_SAFE_NO_PAD.encode(STANDARD.decode(number)?));
        Ok((url_safe(&self.modulus)?, url_safe(&self.exponent)?))
    }
}

fn without_sign(number: &[u8]) -> &[u8] {
    match number {
        [0, rest @ ..] if !rest.is_empty() => rest,
        all => all,
    }
}

fn first_element(der: &[u8], wanted: u8) -> anyhow::Result<&[u8]> {
    match elements(der)?.first() {
        Some((tag, content)) if *tag == wanted => Ok(content),
        Some((tag, _)) => bail!("DER element {tag:#x} where {wanted:#x} belongs"),
        None => bail!("empty DER where {wanted:#x} belongs"),
    }
}

/// The elements that stand side by side in `der`: tag and content.
fn elements(mut der: &[u8]) -> anyhow::Result<Vec<(u8, &[u8])>> {
    let mut found = Vec::new();
    while let [tag, length, rest @ ..] = der {
        let (length, rest) = if *length < 0x80 {
            (usize::from(*length), rest)
        } else {
            let count = usize::from(length & 0x7f);
            ensure!(rest.len() >= count && count <= 4, "broken DER length");
            let (bytes, rest) = rest.split_at(count);
            let length = bytes
                .iter()
                .fold(0, |sum, byte| sum << 8 | usize::from(*byte));
            (length, rest)
        };
        ensure!(rest.len() >= length, "DER is cut off");
        let (content, rest) = rest.split_at(length);
        found.push((*tag, content));
        der = rest;
    }
    Ok(found)
}

/// A base64 number as a DER integer, with a zero in front where it would look negative.
fn push_number(der: &mut Vec<u8>, number: &str) -> anyhow::Result<()> {
    let mut bytes = STANDARD
        .decode(number)
        .context("the RSA parameters are no base64")?;
    if bytes.first().is_some_and(|first| first & 0x80 != 0) {
        bytes.insert(0, 0);
    }
    push_element(der, INTEGER, &bytes);
    Ok(())
}

fn push_element(der: &mut Vec<u8>, tag: u8, content: &[u8]) {
    der.push(tag);
    let length = content.len().to_be_bytes();
    let significant = &length[length.iter().take_while(|byte| **byte == 0).count()..];
    match significant {
        [] => der.push(0),
        [short] if *short < 0x80 => der.push(*short),
        long => {
            der.push(0x80 | u8::try_from(long.len()).unwrap_or(8));
            der.extend_from_slice(long);
        }
    }
    der.extend_from_slice(content);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_generated_key_signs_what_its_public_half_accepts() {
        let key = RsaKey::generate().unwrap();
        let claims = serde_json::json!({ "iss": "runner", "exp": 4_000_000_000_u64 });
        let signed = jsonwebtoken::encode(
            &jsonwebtoken::Header::new(jsonwebtoken::Algorithm::RS256),
            &claims,
            &jsonwebtoken::EncodingKey::from_rsa_der(&key.to_der().unwrap()),
        )
        .unwrap();
        let public = PublicKey::from_xml(&key.public().to_xml()).unwrap();
        let (modulus, exponent) = public.components().unwrap();
        let decoded = jsonwebtoken::decode::<serde_json::Value>(
            &signed,
            &jsonwebtoken::DecodingKey::from_rsa_components(&modulus, &exponent).unwrap(),
            &jsonwebtoken::Validation::new(jsonwebtoken::Algorithm::RS256),
        )
        .unwrap();
        assert_eq!(decoded.claims["iss"], "runner");
    }

    #[test]
    fn a_public_key_that_is_no_xml_is_refused() {
        let error = PublicKey::from_xml("ssh-rsa AAAA").unwrap_err();
        assert_eq!(error.to_string(), "public_key is no RSAKeyValue document");
    }
}
