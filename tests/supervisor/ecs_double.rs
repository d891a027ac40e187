//! A double of the ECS agent's endpoints for one task: metadata version 4 and scale-in protection.
//!
//! Strict where the agent is: a member of the body that it does not know, and an expiry out of
//! range, are refused (amazon-ecs-agent `handlers/taskprotection/v1/handlers/handlers.go`).

use std::collections::VecDeque;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;

use serde_json::{Value, json};

use crate::harness::{Trial, wait_until};

pub(crate) const TASK_ID: &str = "158d1c8083dd49d6b527399fd6414f5c";
const METADATA: &str = "/v4/container-1/task";
const PROTECTION: &str = "/api/container-1/task-protection/v1/state";

#[derive(Default)]
struct Inside {
    desired_status: String,
    protected: bool,
    /// Every wish that came, in order.
    asked: Vec<bool>,
    /// What the next calls for protection are answered in place of the truth.
    answers: VecDeque<(u16, Value)>,
    over: bool,
}

pub(crate) struct EcsDouble {
    inside: Arc<Mutex<Inside>>,
    address: SocketAddr,
    thread: Option<JoinHandle<()>>,
}

impl EcsDouble {
    /// A task of a service, for a trial's supervisor.
    pub(crate) fn of(trial: &mut Trial) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let inside = Arc::new(Mutex::new(Inside {
            desired_status: "RUNNING".to_owned(),
            ..Inside::default()
        }));
        let served = Arc::clone(&inside);
        let thread = std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                if served.lock().unwrap().over {
                    return;
                }
                // Who hangs up early gets no answer.
                answer(stream, &served).ok();
            }
        });
        trial.set(
            "ECS_CONTAINER_METADATA_URI_V4",
            format!("http://{address}/v4/container-1"),
        );
        trial.set("ECS_AGENT_URI", format!("http://{address}/api/container-1"));
        Self {
            inside,
            address,
            thread: Some(thread),
        }
    }

    /// ECS decides to stop the task.
    pub(crate) fn stop_task(&self) {
        self.inside.lock().unwrap().desired_status = "STOPPED".to_owned();
    }

    /// The next call for protection is answered so.
    pub(crate) fn answer_once(&self, status: u16, body: Value) {
        self.inside
            .lock()
            .unwrap()
            .answers
            .push_back((status, body));
    }

    pub(crate) fn is_protected(&self) -> bool {
        self.inside.lock().unwrap().protected
    }

    pub(crate) fn asked(&self) -> Vec<bool> {
        self.inside.lock().unwrap().asked.clone()
    }

    pub(crate) fn wait_until_protected(&self) {
        wait_until("the task is protected", || self.is_protected());
    }
}

impl Drop for EcsDouble {
    fn drop(&mut self) {
        self.inside.lock().unwrap().over = true;
        TcpStream::connect(self.address).ok();
        if let Some(thread) = self.thread.take() {
            thread.join().ok();
        }
    }
}

fn answer(mut stream: TcpStream, inside: &Mutex<Inside>) -> std::io::Result<()> {
    let mut reader = BufReader::new(stream.try_clone()?);
    let mut first = String::new();
    reader.read_line(&mut first)?;
    let mut length = 0;
    loop {
        let mut header = String::new();
        if reader.read_line(&mut header)? <= 2 {
            break;
        }
        if let Some(value) = header.to_ascii_lowercase().strip_prefix("content-length:") {
            length = value.trim().parse().unwrap_or(0);
        }
    }
    let mut body = vec![0; length];
    reader.read_exact(&mut body)?;
    let words: Vec<&str> = first.split_whitespace().take(2).collect();
    let (status, json) = match words.as_slice() {
        ["GET", METADATA] => (200, metadata(&inside.lock().unwrap())),
        ["PUT", PROTECTION] => protect(&mut inside.lock().unwrap(), &body),
        _ => (404, json!({})),
    };
    let text = json.to_string();
    write!(
        stream,
        "HTTP/1.1 {status} Double\r\ncontent-type: application/json\r\ncontent-length: {}\r\nconnection: close\r\n\r\n{text}",
        text.len()
    )
}

fn metadata(inside: &Inside) -> Value {
    json!({
        "Cluster": "arn:aws:ecs:eu-west-1:012345678910:cluster/prod",
        "TaskARN": format!("arn:aws:ecs:eu-west-1:012345678910:task/prod/{TASK_ID}"),
        "Family": "runners",
        "Revision": "7",
        "ServiceName": "runners",
        "DesiredStatus": inside.desired_status,
        "KnownStatus": "RUNNING",
        "AvailabilityZone": "eu-west-1a",
        "LaunchType": "EC2",
        "Containers": [],
    })
}

fn protect(inside: &mut Inside, body: &[u8]) -> (u16, Value) {
    let invalid = |message: &str| {
        let error = json!({ "Code": "InvalidParameterException", "Message": message });
        (400, json!({ "requestID": "r", "error": error }))
    };
    let Ok(Value::Object(wish)) = serde_json::from_slice(body) else {
        return invalid("no JSON");
    };
    if let Some(unknown) = wish
        .keys()
        .find(|name| !["ProtectionEnabled", "ExpiresInMinutes"].contains(&name.as_str()))
    {
        return invalid(unknown);
    }
    let Some(on) = wish.get("ProtectionEnabled").and_then(Value::as_bool) else {
        return invalid("ProtectionEnabled");
    };
    if let Some(minutes) = wish.get("ExpiresInMinutes")
        && !minutes
            .as_u64()
            .is_some_and(|minutes| (1..=2880).contains(&minutes))
    {
        return invalid("ExpiresInMinutes");
    }
    inside.asked.push(on);
    if let Some(answer) = inside.answers.pop_front() {
        return answer;
    }
    inside.protected = on;
    let protection = json!({ "ProtectionEnabled": on, "TaskArn": TASK_ID });
    (200, json!({ "protection": protection }))
}
