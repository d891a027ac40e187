//! What ECS tells about the task and is told about it: the metadata endpoint, version 4, and the
//! agent's endpoint for scale-in protection.
//!
//! Everything here is a courtesy: outside of ECS, or when an endpoint is slow, the supervisor does
//! without. Owns what is asked and how often; what follows from it is decided by the callers.

mod endpoint;
mod protection;

use std::time::Duration;

use init::Deadline;
use serde::Deserialize;

use crate::config;
use endpoint::Endpoint;
use protection::Protection;

/// The name and the labels of the runner wait for it.
const FIRST_LOOK: Duration = Duration::from_secs(2);
/// How often it is asked whether the task shall stop. The endpoint allows 40 requests a second to
/// all containers of a task (amazon-ecs-agent README, `ECS_TASK_METADATA_RPS_LIMIT`).
const LOOK_EVERY: Duration = Duration::from_secs(2);

/// The task, as ECS sees it.
pub(crate) struct Ecs {
    metadata: Option<Endpoint>,
    protection: Option<Protection>,
    /// What the metadata does not name.
    capacity_provider: Option<String>,
}

/// What the runner is named and labelled by.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Facts {
    pub(crate) task_id: Option<String>,
    pub(crate) labels: Vec<String>,
}

/// Source: AWS docs "Amazon ECS task metadata V4 JSON response".
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
struct Metadata {
    cluster: Option<String>,
    #[serde(rename = "TaskARN")]
    task_arn: String,
    desired_status: Option<String>,
    availability_zone: Option<String>,
    /// Not documented for version 4; taken when an agent tells it.
    capacity_provider_name: Option<String>,
}

impl Ecs {
    pub(crate) fn new(places: &config::Ecs) -> Self {
        let endpoint = |base: &Option<String>| base.as_deref().and_then(Endpoint::new);
        Self {
            metadata: endpoint(&places.metadata),
            protection: endpoint(&places.agent).map(Protection::new),
            capacity_provider: places.capacity_provider.clone(),
        }
    }

    /// What the runner is named and labelled by; nothing outside of ECS.
    pub(crate) async fn facts(&self) -> Facts {
        let Some(endpoint) = &self.metadata else {
            return Facts::default();
        };
        match look(endpoint, FIRST_LOOK).await {
            Ok(metadata) => metadata.facts(self.capacity_provider.as_deref()),
            Err(error) => {
                tracing::warn!(
                    error = format!("{error:#}"),
                    "ECS does not tell the task's id; the runner gets a random name"
                );
                Facts::default()
            }
        }
    }

    /// Waits until ECS wants the task to stop, which it says before the signal comes: when the
    /// instance is drained or reclaimed, the containers are stopped one after the other.
    pub(crate) async fn wants_stop(&self) {
        let Some(endpoint) = &self.metadata else {
            return std::future::pending().await;
        };
        loop {
            tokio::time::sleep(LOOK_EVERY).await;
            match look(endpoint, LOOK_EVERY).await {
                Ok(metadata) if metadata.is_told_to_stop() => return,
                Ok(_) => {}
                Err(error) => {
                    tracing::debug!(error = format!("{error:#}"), "ECS does not answer");
                }
            }
        }
    }

    /// A job runs: the service must not scale this task in.
    pub(crate) fn protect(&self) {
        if let Some(protection) = &self.protection {
            protection.want();
        }
    }

    /// Ends the protection if there may be one.
    pub(crate) async fn release(&self, deadline: Deadline) {
        if let Some(protection) = &self.protection {
            protection.release(deadline).await;
        }
    }

    /// Does, for ever, what [`Self::protect`] and [`Self::release`] ask for.
    pub(crate) async fn keep_protection(&self) {
        match &self.protection {
            Some(protection) => protection.keep().await,
            None => std::future::pending().await,
        }
    }
}

async fn look(endpoint: &Endpoint, limit: Duration) -> anyhow::Result<Metadata> {
    let answer = endpoint
        .ask("GET", "/task", None, Deadline::within(limit))
        .await?;
    answer.read()
}

impl Metadata {
    fn is_told_to_stop(&self) -> bool {
        self.desired_status.as_deref() == Some("STOPPED")
    }

    fn facts(&self, capacity_provider: Option<&str>) -> Facts {
        // An ARN or a short name.
        let cluster = self
            .cluster
            .as_deref()
            .map(|cluster| cluster.rsplit_once('/').map_or(cluster, |(_, short)| short));
        let provider = self.capacity_provider_name.as_deref().or(capacity_provider);
        let labels = [
            ("ecs-cluster", cluster),
            ("ecs-az", self.availability_zone.as_deref()),
            ("ecs-capacity-provider", provider),
        ];
        let known = labels
            .into_iter()
            .filter_map(|(name, value)| Some((name, value.filter(|value| is_plain(value))?)));
        Facts {
            task_id: id_of(&self.task_arn).map(str::to_owned),
            labels: known
                .map(|(name, value)| format!("{name}:{value}"))
                .collect(),
        }
    }
}

/// What AWS allows in names; a label is not to carry anything else.
fn is_plain(text: &str) -> bool {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
    !text.is_empty() && text.len() <= 200 && text.bytes().all(plain)
}

/// `arn:aws:ecs:<region>:<account>:task/<cluster>/<id>`; older ones have no cluster.
fn id_of(arn: &str) -> Option<&str> {
    let id = arn.rsplit_once('/')?.1;
    is_plain(id).then_some(id)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_id_is_the_last_part_of_the_arn() {
        for (arn, id) in [
            (
                "arn:aws:ecs:eu-west-1:012345678910:task/prod/158d1c8083dd49d6b527399fd6414f5c",
                Some("158d1c8083dd49d6b527399fd6414f5c"),
            ),
            (
                "arn:aws:ecs:eu-west-1:012345678910:task/158d1c80",
                Some("158d1c80"),
            ),
            ("arn:aws:ecs:eu-west-1:012345678910:task/", None),
            ("none", None),
        ] {
            assert_eq!(id_of(arn), id, "{arn}");
        }
    }

    #[test]
    fn labels_are_made_of_what_is_told() {
        let read = |text: &str| serde_json::from_str::<Metadata>(text).unwrap();
        let told = read(
            r#"{"Cluster":"arn:aws:ecs:eu-west-1:0:cluster/prod","TaskARN":"x/1","AvailabilityZone":"eu-west-1a"}"#,
        );
        assert_eq!(
            told.facts(Some("spot")).labels,
            [
                "ecs-cluster:prod",
                "ecs-az:eu-west-1a",
                "ecs-capacity-provider:spot"
            ]
        );
        let hostile = read(r#"{"Cluster":"a,b","TaskARN":"x/1","DesiredStatus":"RUNNING"}"#);
        assert_eq!(hostile.facts(None).labels, [""; 0]);
        assert!(!hostile.is_told_to_stop());
        assert!(read(r#"{"TaskARN":"","DesiredStatus":"STOPPED"}"#).is_told_to_stop());
    }
}
