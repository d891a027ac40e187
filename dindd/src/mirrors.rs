//! Mirrors of Docker Hub: which of them answer.
//!
//! Owns one question at start. A mirror that refuses costs dockerd nothing, but one that swallows
//! packets costs every pull thirty seconds (moby's dial timeout), so such a one is left out. For
//! http the answer must be HTTP; for https a connection is enough, because whoever accepts one is
//! no black hole, and a certificate that dockerd does not like makes it go on to Docker Hub.

use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tracing::{info, warn};

use crate::config::Mirror;

/// How long a mirror may take to answer.
const PATIENCE: Duration = Duration::from_secs(2);

/// Asks all at the same time; those that answer, in their order.
pub(crate) async fn that_answer(mirrors: &[Mirror]) -> Vec<Mirror> {
    let mut asked = Vec::new();
    for mirror in mirrors.iter().cloned() {
        asked.push(tokio::spawn(async move {
            let answer = tokio::time::timeout(PATIENCE, ask(&mirror)).await;
            (mirror, answer)
        }));
    }
    let mut answering = Vec::new();
    for one in asked {
        match one.await {
            Ok((mirror, Ok(Ok(())))) => {
                info!(mirror = mirror.url, "registry mirror answers");
                answering.push(mirror);
            }
            Ok((mirror, Ok(Err(cause)))) => leave_out(&mirror, &cause.to_string()),
            Ok((mirror, Err(_))) => leave_out(&mirror, "no answer in time"),
            Err(cause) => warn!("cannot ask a registry mirror: {cause}"),
        }
    }
    answering
}

fn leave_out(mirror: &Mirror, cause: &str) {
    warn!(
        mirror = mirror.url,
        cause, "registry mirror is left out: pulls go to Docker Hub (DINDD_REGISTRY_MIRRORS)"
    );
}

async fn ask(mirror: &Mirror) -> std::io::Result<()> {
    let mut stream = TcpStream::connect((mirror.host.as_str(), mirror.port)).await?;
    if mirror.url.starts_with("https:") {
        return Ok(());
    }
    let Mirror { host, port, .. } = mirror;
    let request = format!("GET /v2/ HTTP/1.1\r\nHost: {host}:{port}\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await?;
    let mut start = [0; 12];
    stream.read_exact(&mut start).await?;
    // A registry answers 200, or 401 when it wants credentials.
    match &start[..] {
        [b'H', b'T', b'T', b'P', b'/', _, _, _, _, b'2' | b'4', _, _] => Ok(()),
        _ => Err(std::io::Error::other(format!(
            "it answered \"{}\"",
            String::from_utf8_lossy(&start)
        ))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read, Write};

    /// Answers every connection with `answer`; its address.
    fn server(answer: &'static str) -> Mirror {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let mirror = format!("http://{}", listener.local_addr().unwrap())
            .parse()
            .unwrap();
        std::thread::spawn(move || {
            for mut stream in listener.incoming().map_while(Result::ok) {
                // What was asked does not matter.
                drop(stream.read(&mut [0; 1024]));
                drop(stream.write_all(answer.as_bytes()));
            }
        });
        mirror
    }

    #[test]
    fn mirrors_that_do_not_answer_as_registries_are_left_out() {
        let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let black_hole = format!("http://{}", silent.local_addr().unwrap())
            .parse()
            .unwrap();
        let good = server("HTTP/1.1 200 OK\r\n\r\n");
        let guarded = server("HTTP/1.1 401 Unauthorized\r\n\r\n");
        let all = [
            black_hole,
            good.clone(),
            "http://127.0.0.1:1".parse().unwrap(),
            server("HTTP/1.1 502 Bad Gateway\r\n\r\n"),
            guarded.clone(),
        ];
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        assert_eq!(runtime.block_on(that_answer(&all)), [good, guarded]);
    }
}
