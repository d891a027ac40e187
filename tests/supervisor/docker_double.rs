//! A sidecar's socket that says as much as is asked before a runner is registered: its version, and
//! what is wrong with a container's mounts. Real daemons are asked the same, end to end.

use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

use crate::harness::Trial;

pub(crate) struct DockerDouble {
    socket: PathBuf,
    /// It accepts connections and is silent.
    silent: Arc<AtomicBool>,
    containers: Arc<Mutex<Containers>>,
    over: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

/// What it says to who wants to create a container.
pub(crate) enum Containers {
    /// As dockerd, in whose container these folders are others than here.
    Folders(Vec<PathBuf>),
    /// Nothing; the connection stays open.
    Silent,
    /// As an engine that knows no containers.
    Unknown,
}

impl DockerDouble {
    /// A daemon for a trial's supervisor, which is told to wait for it.
    pub(crate) fn of(trial: &mut Trial) -> Self {
        let socket = trial.path("docker.sock");
        trial.set("DOCKER_HOST", format!("unix://{}", socket.display()));
        let listener = UnixListener::bind(&socket).unwrap();
        crate::harness::set_mode(&socket, 0o666);
        let silent = Arc::new(AtomicBool::new(false));
        let containers = Arc::new(Mutex::new(Containers::Folders(Vec::new())));
        let over = Arc::new(AtomicBool::new(false));
        let (quiet, ended) = (Arc::clone(&silent), Arc::clone(&over));
        let create = Arc::clone(&containers);
        let thread = std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                while quiet.load(Ordering::Relaxed) && !ended.load(Ordering::Relaxed) {
                    std::thread::sleep(Duration::from_millis(5));
                }
                if ended.load(Ordering::Relaxed) {
                    return;
                }
                // Who hangs up early gets no answer.
                answer(&stream, &create, &ended).ok();
            }
        });
        Self {
            socket,
            silent,
            containers,
            over,
            thread: Some(thread),
        }
    }

    pub(crate) fn be_silent(&self, silent: bool) {
        self.silent.store(silent, Ordering::Relaxed);
    }

    pub(crate) fn say_of_containers(&self, containers: Containers) {
        *self.containers.lock().unwrap() = containers;
    }

    /// It dies; its socket is left, as a killed daemon leaves it.
    pub(crate) fn die(&mut self) {
        self.over.store(true, Ordering::Relaxed);
        UnixStream::connect(&self.socket).ok();
        if let Some(thread) = self.thread.take() {
            thread.join().ok();
        }
    }
}

impl Drop for DockerDouble {
    fn drop(&mut self) {
        self.die();
        std::fs::remove_file(Path::new(&self.socket)).ok();
    }
}

fn answer(
    mut stream: &UnixStream,
    containers: &Mutex<Containers>,
    over: &AtomicBool,
) -> std::io::Result<()> {
    let mut reader = BufReader::new(stream.try_clone()?);
    let mut first = String::new();
    reader.read_line(&mut first)?;
    let mut length = 0;
    let mut header = String::new();
    while reader.read_line(&mut header)? > 2 {
        if let Some(value) = header.to_lowercase().strip_prefix("content-length:") {
            length = value.trim().parse().unwrap();
        }
        header.clear();
    }
    let mut body = vec![0; length];
    reader.read_exact(&mut body)?;
    let (status, text) = if first.starts_with("GET ") && first.contains("/version") {
        let text = r#"{"Version":"29.0.0","ApiVersion":"1.52"}"#;
        (200, text.to_owned())
    } else if first.starts_with("POST ") && first.contains("/containers/create") {
        match &*containers.lock().unwrap() {
            Containers::Folders(elsewhere) => create(&body, elsewhere),
            Containers::Unknown => (404, r#"{"message":"page not found"}"#.to_owned()),
            Containers::Silent => {
                while !over.load(Ordering::Relaxed) {
                    std::thread::sleep(Duration::from_millis(5));
                }
                return Ok(());
            }
        }
    } else {
        (404, r#"{"message":"page not found"}"#.to_owned())
    };
    write!(
        stream,
        "HTTP/1.1 {status} Double\r\ncontent-type: application/json\r\ncontent-length: {}\r\nconnection: close\r\n\r\n{text}",
        text.len()
    )
}

/// As moby does it: first the mounts, in order, then the image, of which there is none here.
fn create(body: &[u8], elsewhere: &[PathBuf]) -> (u16, String) {
    let body: serde_json::Value = serde_json::from_slice(body).unwrap();
    let mounts = body["HostConfig"]["Mounts"].as_array().unwrap();
    let missing = mounts.iter().find(|mount| {
        assert_eq!(mount["Type"], "bind");
        assert!(mount["Target"].as_str().unwrap().starts_with('/'));
        let source = Path::new(mount["Source"].as_str().unwrap());
        !source.exists() || elsewhere.iter().any(|folder| source.starts_with(folder))
    });
    let (status, message) = match missing {
        Some(mount) => (
            400,
            format!(
                "invalid mount config for type \"bind\": bind source path does not exist: {}",
                mount["Source"].as_str().unwrap()
            ),
        ),
        None => (404, format!("No such image: {}", body["Image"])),
    };
    (
        status,
        serde_json::json!({ "message": message }).to_string(),
    )
}
