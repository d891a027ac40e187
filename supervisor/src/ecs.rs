//! What ECS tells about the task: the metadata endpoint, version 4.
//!
//! Source: AWS docs "Amazon ECS task metadata endpoint version 4". Everything here is a courtesy:
//! outside of ECS, or when the endpoint is slow, the supervisor does without.

use std::time::Duration;

use serde::Deserialize;

const LIMIT: Duration = Duration::from_secs(1);

/// The task's id: the last part of its ARN.
pub(crate) async fn task_id(http: &reqwest::Client, endpoint: &str) -> Option<String> {
    #[derive(Deserialize)]
    struct Task {
        #[serde(rename = "TaskARN")]
        arn: String,
    }
    let answer = async {
        let response = http
            .get(format!("{endpoint}/task"))
            .timeout(LIMIT)
            .send()
            .await?;
        response.error_for_status()?.json::<Task>().await
    };
    match answer.await {
        Ok(task) => id_of(&task.arn).map(str::to_owned),
        Err(error) => {
            tracing::warn!(%error, "ECS does not tell the task's id; the runner gets a random name");
            None
        }
    }
}

/// `arn:aws:ecs:<region>:<account>:task/<cluster>/<id>`; older ones have no cluster.
fn id_of(arn: &str) -> Option<&str> {
    let id = arn.rsplit_once('/')?.1;
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-';
    (!id.is_empty() && id.bytes().all(plain)).then_some(id)
}

#[cfg(test)]
mod tests {
    use super::id_of;

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
}
