//! Task scale-in protection: on while a job runs, off after it.
//!
//! One loop makes the only requests, one after the other, so that an answer that is late never
//! undoes a later wish. The protection ends by itself after a while, so a killed supervisor does
//! not keep its task for ever.
//! Source: AWS docs "Amazon ECS task scale-in protection endpoint", amazon-ecs-agent
//! `handlers/taskprotection/v1/handlers/handlers.go`: a refusal may come with status 200.

use std::cell::Cell;
use std::time::Duration;

use init::Deadline;
use serde_json::{Value, json};
use tokio::sync::watch;

use super::endpoint::{Answer, Endpoint};

const PATH: &str = "/task-protection/v1/state";
const LASTS_MINUTES: u64 = 60;
const RENEW_EVERY: Duration = Duration::from_secs(LASTS_MINUTES * 60 / 2);
const ANSWER: Duration = Duration::from_secs(4);
/// A protection that is left ends by itself: it is not worth more of anybody's time.
const RELEASE: Duration = Duration::from_secs(5);
const PAUSE: Duration = Duration::from_secs(1);
const LONGEST_PAUSE: Duration = Duration::from_secs(60);

/// Refusals that a further try does not change: the task belongs to no service, the task role
/// lacks the permission or is missing, the request is not understood.
const FINAL: &[&str] = &[
    "TASK_NOT_VALID",
    "AccessDeniedException",
    "InvalidParameterException",
    "ResourceNotFoundException",
];

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Wish {
    Nothing,
    On,
    Off,
}

/// What is known about the protection at ECS.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Known {
    Off,
    /// It was asked for; a request that failed may have taken effect.
    Perhaps,
}

pub(super) struct Protection {
    endpoint: Endpoint,
    wish: watch::Sender<Wish>,
    known: watch::Sender<Known>,
    /// ECS said that it never will.
    refused: Cell<bool>,
}

/// Why the state was not set.
#[derive(Debug, PartialEq, Eq)]
struct Refusal {
    reason: String,
    is_final: bool,
}

impl Protection {
    pub(super) fn new(endpoint: Endpoint) -> Self {
        Self {
            endpoint,
            wish: watch::Sender::new(Wish::Nothing),
            known: watch::Sender::new(Known::Off),
            refused: Cell::new(false),
        }
    }

    pub(super) fn want(&self) {
        if self.refused.get() {
            return;
        }
        // Before the loop looks: whoever releases now waits for it.
        self.known.send_replace(Known::Perhaps);
        self.wish.send_replace(Wish::On);
    }

    pub(super) async fn release(&self, deadline: Deadline) {
        let mut known = self.known.subscribe();
        if *known.borrow() == Known::Off {
            return;
        }
        self.wish.send_replace(Wish::Off);
        let released = deadline
            .at_most(RELEASE)
            .bound(known.wait_for(|known| *known == Known::Off));
        if released.await.is_none() {
            tracing::warn!(
                "the task's scale-in protection could not be ended; it ends by itself within {LASTS_MINUTES} minutes"
            );
        }
    }

    pub(super) async fn keep(&self) {
        let mut wish = self.wish.subscribe();
        let mut failures = 0;
        loop {
            let wanted = *wish.borrow_and_update();
            let pause = self.follow(wanted, &mut failures).await;
            tokio::select! {
                changed = wish.changed() => {
                    // The sender is ours and never dropped before this.
                    changed.ok();
                    failures = 0;
                }
                () = wait(pause) => {}
            }
        }
    }

    /// Makes the wish true; after how long it must be looked after again.
    async fn follow(&self, wanted: Wish, failures: &mut u32) -> Option<Duration> {
        if wanted == Wish::Nothing || *self.known.borrow() == Known::Off {
            return None;
        }
        match self.set(wanted == Wish::On).await {
            Ok(()) if wanted == Wish::On => {
                tracing::info!("the task is protected from scale-in while the job runs");
                *failures = 0;
                Some(RENEW_EVERY)
            }
            Ok(()) => {
                tracing::info!("the task's scale-in protection has ended");
                self.known.send_replace(Known::Off);
                None
            }
            Err(refusal) if refusal.is_final => {
                tracing::warn!(
                    reason = refusal.reason,
                    "the task cannot be protected from scale-in; it must belong to a service, and its role needs ecs:GetTaskProtection and ecs:UpdateTaskProtection"
                );
                self.refused.set(true);
                self.known.send_replace(Known::Off);
                None
            }
            Err(refusal) => {
                let pause = PAUSE.saturating_mul(1 << (*failures).min(6));
                *failures += 1;
                tracing::warn!(
                    reason = refusal.reason,
                    on = wanted == Wish::On,
                    "the task's scale-in protection could not be set; trying again"
                );
                Some(pause.min(LONGEST_PAUSE))
            }
        }
    }

    async fn set(&self, on: bool) -> Result<(), Refusal> {
        // Unknown members are refused, and so is an expiry without protection.
        let body = if on {
            json!({ "ProtectionEnabled": true, "ExpiresInMinutes": LASTS_MINUTES })
        } else {
            json!({ "ProtectionEnabled": false })
        };
        let deadline = Deadline::within(ANSWER);
        match self.endpoint.ask("PUT", PATH, Some(&body), deadline).await {
            Ok(answer) => read(&answer, on),
            Err(error) => Err(Refusal {
                reason: format!("{error:#}"),
                is_final: false,
            }),
        }
    }
}

async fn wait(pause: Option<Duration>) {
    match pause {
        Some(pause) => tokio::time::sleep(pause).await,
        None => std::future::pending().await,
    }
}

fn read(answer: &Answer, on: bool) -> Result<(), Refusal> {
    let status = answer.status.as_u16();
    judge(status, &answer.json(), on)
}

/// The body decides, not the status.
fn judge(status: u16, body: &Value, on: bool) -> Result<(), Refusal> {
    if status == 200 && body["protection"]["ProtectionEnabled"] == Value::Bool(on) {
        return Ok(());
    }
    let text = |value: &Value| value.as_str().map(str::to_owned);
    let told = [
        (&body["failure"], "Reason", "Detail"),
        (&body["error"], "Code", "Message"),
    ];
    let told = told.into_iter().find_map(|(part, code, detail)| {
        Some((text(&part[code])?, text(&part[detail]).unwrap_or_default()))
    });
    let (code, detail) = told.unwrap_or_else(|| (format!("status {status}"), String::new()));
    Err(Refusal {
        is_final: FINAL.contains(&code.as_str()),
        reason: format!("{code} {detail}").trim_end().to_owned(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_body_decides_whether_the_state_was_set() {
        let on = json!({"protection": {"ProtectionEnabled": true, "ExpirationDate": "x"}});
        assert_eq!(judge(200, &on, true), Ok(()));
        for (status, body, reason, is_final) in [
            (200, on.clone(), "status 200", false),
            (
                200,
                json!({"failure": {"Arn": "a", "Reason": "TASK_NOT_VALID", "Detail": "no service"}}),
                "TASK_NOT_VALID no service",
                true,
            ),
            (
                200,
                json!({"failure": {"Arn": "a", "Reason": "DEPLOYMENT_BLOCKED"}}),
                "DEPLOYMENT_BLOCKED",
                false,
            ),
            (
                403,
                json!({"requestID": "r", "error": {"Arn": "a", "Code": "AccessDeniedException", "Message": "no role"}}),
                "AccessDeniedException no role",
                true,
            ),
            (
                500,
                json!({"error": {"Code": "ServerException", "Message": "x"}}),
                "ServerException x",
                false,
            ),
            (504, Value::Null, "status 504", false),
        ] {
            let refusal = judge(status, &body, false).unwrap_err();
            let expected = Refusal {
                reason: reason.to_owned(),
                is_final,
            };
            assert_eq!(refusal, expected, "{status} {body}");
        }
    }
}
