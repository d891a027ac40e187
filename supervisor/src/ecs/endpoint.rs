//! One request at a time to an endpoint of the ECS agent: plain HTTP on a link-local address,
//! never through a proxy and without anything that stays in memory between two requests.

use anyhow::{Context, bail};
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Bytes;
use hyper::client::conn::http1;
use hyper::header::{CONTENT_TYPE, HOST};
use hyper::{Method, Request, StatusCode};
use hyper_util::rt::TokioIo;
use init::Deadline;
use reqwest::Url;
use serde::de::DeserializeOwned;
use serde_json::Value;
use tokio::net::TcpStream;

/// A task's metadata lists its containers: some kilobytes each.
const LONGEST_ANSWER: usize = 1024 * 1024;

/// The base address of an endpoint.
#[derive(Clone, Debug)]
pub(super) struct Endpoint {
    authority: String,
    path: String,
}

/// What came back, whatever its status.
#[derive(Debug)]
pub(super) struct Answer {
    pub(super) status: StatusCode,
    body: Bytes,
}

impl Endpoint {
    /// `None` for what is no plain HTTP address.
    pub(super) fn new(base: &str) -> Option<Self> {
        let url = Url::parse(base).ok().filter(|url| url.scheme() == "http")?;
        let port = url.port_or_known_default()?;
        Some(Self {
            authority: format!("{}:{port}", url.host_str()?),
            path: url.path().trim_end_matches('/').to_owned(),
        })
    }

    pub(super) async fn ask(
        &self,
        method: &str,
        path: &str,
        body: Option<&Value>,
        deadline: Deadline,
    ) -> anyhow::Result<Answer> {
        let asked = deadline.bound(self.exchange(method, path, body)).await;
        asked.unwrap_or_else(|| bail!("{} did not answer in time", self.authority))
    }

    async fn exchange(
        &self,
        method: &str,
        path: &str,
        body: Option<&Value>,
    ) -> anyhow::Result<Answer> {
        let stream = TcpStream::connect(&self.authority)
            .await
            .with_context(|| format!("cannot connect to {}", self.authority))?;
        let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
        let text = body.map(Value::to_string).unwrap_or_default();
        let request = Request::builder()
            .method(Method::from_bytes(method.as_bytes())?)
            .uri(format!("{}{path}", self.path))
            .header(HOST, &self.authority)
            .header(CONTENT_TYPE, "application/json")
            .body(Full::new(Bytes::from(text)))?;
        let exchange = async {
            let response = sender.send_request(request).await?;
            let status = response.status();
            let body = Limited::new(response.into_body(), LONGEST_ANSWER);
            let body = body.collect().await.map_err(anyhow::Error::from_boxed)?;
            anyhow::Ok(Answer {
                status,
                body: body.to_bytes(),
            })
        };
        let mut exchange = std::pin::pin!(exchange);
        // The connection moves the bytes; it ends when both sides are done with it.
        tokio::select! {
            answer = &mut exchange => answer,
            ended = connection => {
                ended?;
                exchange.await
            }
        }
    }
}

impl Answer {
    /// A success's content.
    pub(super) fn read<T: DeserializeOwned>(&self) -> anyhow::Result<T> {
        if !self.status.is_success() {
            bail!("it answers {}", self.status);
        }
        Ok(serde_json::from_slice(&self.body)?)
    }

    /// The content, whatever the status says; null when it is no JSON.
    pub(super) fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_default()
    }
}
