//! A sidecar's socket that says as much as is asked before a runner is registered. What a real
//! daemon makes of containers is tested with one, end to end.

use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use crate::harness::Trial;

pub(crate) struct DockerDouble {
    socket: PathBuf,
    /// It accepts connections and is silent.
    silent: Arc<AtomicBool>,
    over: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl DockerDouble {
    /// A daemon for a trial's supervisor, which is told to wait for it.
    pub(crate) fn of(trial: &mut Trial) -> Self {
        let socket = trial.path("docker.sock");
        trial.set("DOCKER_HOST", format!("unix://{}", socket.display()));
        let listener = UnixListener::bind(&socket).unwrap();
        crate::harness::set_mode(&socket, 0o666);
        let silent = Arc::new(AtomicBool::new(false));
        let over = Arc::new(AtomicBool::new(false));
        let (quiet, ended) = (Arc::clone(&silent), Arc::clone(&over));
        let thread = std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                while quiet.load(Ordering::Relaxed) && !ended.load(Ordering::Relaxed) {
                    std::thread::sleep(Duration::from_millis(5));
                }
                if ended.load(Ordering::Relaxed) {
                    return;
                }
                // Who hangs up early gets no answer.
                answer(&stream).ok();
            }
        });
        Self {
            socket,
            silent,
            over,
            thread: Some(thread),
        }
    }

    pub(crate) fn be_silent(&self, silent: bool) {
        self.silent.store(silent, Ordering::Relaxed);
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

fn answer(mut stream: &UnixStream) -> std::io::Result<()> {
    let mut reader = BufReader::new(stream.try_clone()?);
    let mut first = String::new();
    reader.read_line(&mut first)?;
    let mut header = String::new();
    while reader.read_line(&mut header)? > 2 {
        header.clear();
    }
    let (status, text) = if first.starts_with("GET ") && first.contains("/version") {
        (200, r#"{"Version":"29.0.0","ApiVersion":"1.52"}"#)
    } else {
        (404, r#"{"message":"page not found"}"#)
    };
    write!(
        stream,
        "HTTP/1.1 {status} Double\r\ncontent-type: application/json\r\ncontent-length: {}\r\nconnection: close\r\n\r\n{text}",
        text.len()
    )
}
