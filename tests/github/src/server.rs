//! The listening socket.
//!
//! Owns the server's thread and connections; every request goes through the gate. hyper is used directly because a fault has to be
//! able to end a connection without an answer, which a router cannot.

use std::convert::Infallible;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::ops::Deref;
use std::path::PathBuf;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::Context;
use axum::Router;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use nix::sys::socket::{setsockopt, sockopt};
use tokio::sync::oneshot;

use crate::double::Double;
use crate::faults::Hangup;
use crate::gate::{Gate, HungUp};
use crate::world::apps::App;
use crate::world::scope::Scope;

/// How the service starts out.
#[derive(Clone)]
pub struct Options {
    /// Port 0 for any free one.
    pub listen: SocketAddr,
    /// One JSON object per line; see [`Event`].
    pub event_log: Option<PathBuf>,
    /// A personal access token that may do everything.
    pub pat: Option<String>,
    pub scopes: Vec<Scope>,
    pub app: Option<App>,
    /// How long the broker keeps a poll open.
    pub long_poll: Duration,
    /// How long after its last connection a runner counts as online.
    pub offline_after: Duration,
    /// How long a job stays its runner's without a renewal.
    pub job_lock: Duration,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            listen: SocketAddr::from(([127, 0, 0, 1], 0)),
            event_log: None,
            pat: None,
            scopes: Vec::new(),
            app: None,
            long_poll: crate::world::sessions::LONG_POLL,
            offline_after: Duration::from_secs(2),
            job_lock: Duration::from_mins(10),
        }
    }
}

impl std::fmt::Debug for Options {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Options")
            .field("listen", &self.listen)
            .field("scopes", &self.scopes)
            .finish_non_exhaustive()
    }
}

/// The running service. Dropping it ends it, connections included.
#[derive(Debug)]
pub struct GithubDouble {
    double: Arc<Double>,
    address: SocketAddr,
    stop: Option<oneshot::Sender<Infallible>>,
    thread: Option<JoinHandle<()>>,
}

impl GithubDouble {
    /// Listens and serves in a thread of its own. Fails when the address is taken or the event
    /// log cannot be created.
    pub fn start(options: Options) -> anyhow::Result<Self> {
        let double = Arc::new(Double::new(&options)?);
        let listener = TcpListener::bind(options.listen)
            .with_context(|| format!("--listen: cannot listen on {}", options.listen))?;
        listener.set_nonblocking(true)?;
        let address = listener.local_addr()?;
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .context("cannot make a runtime")?;
        let (stop, stopped) = oneshot::channel::<Infallible>();
        let served = Arc::clone(&double);
        let thread = std::thread::Builder::new()
            .name("github-double".to_owned())
            .spawn(move || {
                runtime.block_on(async {
                    tokio::select! {
                        _ = stopped => {}
                        () = accept(listener, served) => {}
                    }
                });
            })?;
        Ok(Self {
            double,
            address,
            stop: Some(stop),
            thread: Some(thread),
        })
    }

    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// `http://127.0.0.1:PORT`, which stands for `https://github.example`.
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// The REST base of a GitHub Enterprise Server.
    pub fn api_url(&self) -> String {
        format!("{}/api/v3", self.url())
    }

    /// What `GITHUB_URL` would be for a scope: `repo_url("octo/hello")`.
    pub fn repo_url(&self, scope: &str) -> String {
        format!("{}/{scope}", self.url())
    }

    /// Waits until the service ends, which it does only by a failure to accept.
    pub fn wait(mut self) {
        if let Some(thread) = self.thread.take() {
            drop(thread.join());
        }
    }
}

impl Deref for GithubDouble {
    type Target = Double;

    fn deref(&self) -> &Double {
        &self.double
    }
}

impl Drop for GithubDouble {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            drop(thread.join());
        }
    }
}

async fn accept(listener: TcpListener, double: Arc<Double>) {
    let Ok(listener) = tokio::net::TcpListener::from_std(listener) else {
        return;
    };
    let router = crate::http::router(Arc::clone(&double));
    loop {
        let Ok((stream, _)) = listener.accept().await else {
            // Out of descriptors, most likely; they come back when connections end.
            tokio::time::sleep(Duration::from_millis(10)).await;
            continue;
        };
        let Ok(connection) = Connection::new(stream, &router, &double) else {
            continue;
        };
        tokio::spawn(connection.serve());
    }
}

/// One client connection. The second handle on the socket lets a fault turn its end into a reset.
struct Connection {
    stream: tokio::net::TcpStream,
    socket: TcpStream,
    gate: Gate,
}

impl Connection {
    fn new(
        stream: tokio::net::TcpStream,
        router: &Router,
        double: &Arc<Double>,
    ) -> anyhow::Result<Self> {
        let stream = stream.into_std()?;
        let socket = stream.try_clone()?;
        stream.set_nodelay(true)?;
        Ok(Self {
            stream: tokio::net::TcpStream::from_std(stream)?,
            socket,
            gate: Gate {
                router: router.clone(),
                double: Arc::clone(double),
            },
        })
    }

    async fn serve(self) {
        let gate = Arc::new(self.gate);
        let socket = Arc::new(self.socket);
        let service = service_fn(move |request| {
            let gate = Arc::clone(&gate);
            let socket = Arc::clone(&socket);
            async move {
                let answer = gate.pass(request).await;
                if let Err(HungUp(Hangup::Reset)) = &answer {
                    let at_once = nix::libc::linger {
                        l_onoff: 1,
                        l_linger: 0,
                    };
                    setsockopt(&*socket, sockopt::Linger, &at_once)
                        .map_err(|_| HungUp(Hangup::Close))?;
                }
                answer
            }
        });
        // An error here is the client's hanging up or our own; neither is news.
        drop(
            hyper::server::conn::http1::Builder::new()
                .serve_connection(TokioIo::new(self.stream), service)
                .await,
        );
    }
}
