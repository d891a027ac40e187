//! What the tests share: images that are hard to copy, stores of them, a registry, tasks with a
//! store.

use std::sync::Mutex;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use chain::driver::{Heard, end, healthy_dind, wait_until};
use chain::{Container, Engine, Stage, Task, TaskOptions};
use testhost::Running;

/// A folder of the host for archives and the registry's files.
const PLACE: &str = "/run/golden";
/// In it, as containers of `golden build` see it: the images `odd:1` and `app:1`.
pub(crate) const ARCHIVE: &str = "/run/golden/one.tar";
/// The same and `app:2`.
pub(crate) const NEWER: &str = "/run/golden/two.tar";

/// Images with what is easily lost in a copy: whiteouts, an opaque directory, hard links, a sparse
/// file, a device node, a setuid program, nanoseconds, a tar file's extended attribute.
const IMAGES: &str = r#"
mkdir -p /run/golden/context /run/golden/registry && cd /run/golden/context
echo attribute >word
tar --format=posix --pax-option=SCHILY.xattr.user.word:=gold -cf odd.tar word
cat >odd <<'DOCKERFILE'
FROM debian:trixie-slim
ADD odd.tar /odd/
RUN cd /odd && echo one >a && ln a b && truncate -s 20M sparse && echo end >>sparse && \
    mknod null c 1 3 && cp /bin/true suid && chmod 4755 suid && mkfifo pipe && \
    mkdir gone opaque && touch gone/x opaque/old 'a name' && chown 1234:4321 a && \
    touch -d '2001-02-03 04:05:06.789' dated && ln -s /nowhere link
RUN cd /odd && rm -rf gone opaque && mkdir opaque && touch opaque/new && rm 'a name'
DOCKERFILE
build() { docker build --quiet --network none --tag "$1" --file "$2" .; }
build odd:1 odd
for number in 1 2; do
  printf 'FROM odd:1\nRUN echo %s >/version\n' $number >app
  build app:$number app
done
docker save --output /run/golden/one.tar odd:1 app:1
docker save --output /run/golden/two.tar odd:1 app:1 app:2
"#;

/// A golden store in a folder of the stage's volume.
pub(crate) struct Store<'a> {
    stage: &'a Stage,
    name: &'static str,
}

impl<'a> Store<'a> {
    /// An empty one. The images are made when the first is asked for.
    pub(crate) fn new(stage: &'a Stage, name: &'static str) -> Result<Self> {
        static IMAGES_ARE_MADE: Mutex<bool> = Mutex::new(false);
        let mut made = IMAGES_ARE_MADE.lock().ok().context("another test failed")?;
        if !*made {
            stage
                .host()
                .run(["bash", "-ec", IMAGES])
                .context("make the images")?;
            *made = true;
        }
        let store = Self { stage, name };
        std::fs::create_dir_all(store.path(""))?;
        Ok(store)
    }

    /// One with the images of [`ARCHIVE`].
    pub(crate) fn with_images(stage: &'a Stage, name: &'static str) -> Result<Self> {
        let store = Self::new(stage, name)?;
        store.golden(&["build", "--archive", ARCHIVE])?;
        Ok(store)
    }

    /// `dindd golden …` in a container of the sidecar's image, as a host runs it.
    pub(crate) fn golden(&self, words: &[&str]) -> Result<String> {
        self.golden_with(&[], words)
    }

    pub(crate) fn golden_with(&self, docker: &[&str], words: &[&str]) -> Result<String> {
        let place = format!("--volume={PLACE}:{PLACE}:ro");
        let docker = [&[place.as_str()], docker].concat();
        self.stage.golden(&self.in_host(), &docker, words)
    }

    /// The command's output, read as JSON.
    pub(crate) fn json(&self, words: &[&str]) -> Result<serde_json::Value> {
        let said = self.golden(&[words, &["--json"]].concat())?;
        serde_json::from_str(&said).with_context(|| format!("{words:?} said {said:?}"))
    }

    /// The store as the host sees it.
    pub(crate) fn in_host(&self) -> std::path::PathBuf {
        self.stage.volume().join(self.name)
    }

    /// The store as this program sees it.
    pub(crate) fn path(&self, below: &str) -> std::path::PathBuf {
        self.stage.host().path(self.in_host()).join(below)
    }

    /// The arguments with which a sidecar gets the store.
    pub(crate) fn options(&self) -> TaskOptions {
        TaskOptions {
            create: vec![format!("--volume={}:/golden:ro", self.in_host().display())],
            dind: vec![
                "DINDD_GOLDEN=/golden".into(),
                "DINDD_DOCKERD_ARGS=--insecure-registry=172.17.0.0/16".into(),
            ],
            ..TaskOptions::default()
        }
    }

    /// A task whose sidecar is healthy.
    pub(crate) fn task(&self, name: &str) -> Result<Job<'a>> {
        Job::begin(self.stage, name, self.options())
    }

    pub(crate) fn task_with(&self, name: &str, engine: Engine) -> Result<Job<'a>> {
        let options = TaskOptions {
            engine,
            ..self.options()
        };
        Job::begin(self.stage, name, options)
    }
}

impl Drop for Store<'_> {
    fn drop(&mut self) {
        let folder = self.in_host().display().to_string();
        // What cannot be removed is found as a leftover.
        self.stage.host().run(["rm", "-rf", &folder]).ok();
    }
}

/// A task with its Docker.
pub(crate) struct Job<'a> {
    pub(crate) heard: Heard,
    pub(crate) task: Task<'a>,
    pub(crate) dind: Container<'a>,
}

impl<'a> Job<'a> {
    pub(crate) fn begin(stage: &'a Stage, name: &str, options: TaskOptions) -> Result<Self> {
        let heard = Heard::default();
        let task = stage.task(name, options, heard.listener())?;
        let dind = healthy_dind(&task)?;
        Ok(Self { heard, task, dind })
    }

    /// Runs a script as a step of the job; its standard output.
    pub(crate) fn docker(&self, script: &str) -> Result<String> {
        self.task
            .docker(script)
            .with_context(|| format!("heard:{}", self.heard.transcript()))
    }

    /// Runs a script that must end with `last`.
    pub(crate) fn expect(&self, script: &str, last: &str) -> Result<()> {
        let said = self.docker(script)?;
        ensure!(
            said.trim_end().ends_with(last),
            "expected {last:?} at the end of:\n{said}"
        );
        Ok(())
    }

    pub(crate) fn end(self) -> Result<()> {
        end(self.dind, self.task, &self.heard)
    }
}

/// A registry on the host, which ends with this value.
pub(crate) struct Registry {
    /// How containers and the host's Docker reach it.
    pub(crate) address: String,
    _running: Running,
}

impl Registry {
    pub(crate) fn start(stage: &Stage, port: u16) -> Result<Self> {
        let host = stage.host();
        let configuration = format!(
            "version: 0.1\nstorage: {{filesystem: {{rootdirectory: {PLACE}/registry-{port}}}}}\n\
             http: {{addr: '0.0.0.0:{port}'}}\n"
        );
        let path = format!("{PLACE}/registry-{port}.yml");
        std::fs::write(host.path(&path), configuration)?;
        let running = host.follow(["docker-registry", "serve", &path], |_, _| ())?;
        let url = format!("http://127.0.0.1:{port}/v2/");
        wait_until("the registry answers", || {
            Ok(host.run(["curl", "-fsS", &url]).is_ok())
        })?;
        Ok(Self {
            address: format!("{}:{port}", host.gateway()),
            _running: running,
        })
    }

    /// Pushes an image of the host's Docker under another name.
    pub(crate) fn push(&self, stage: &Stage, image: &str, name: &str) -> Result<()> {
        // Docker trusts a registry of its own machine without TLS.
        let (_, port) = self.address.rsplit_once(':').context("no port")?;
        let name = format!("127.0.0.1:{port}/{name}");
        stage.host().run(["docker", "tag", image, &name])?;
        stage.host().run(["docker", "push", "--quiet", &name])?;
        Ok(())
    }
}

/// How long a version may stay in use after its last task.
pub(crate) const SOON: Duration = Duration::from_secs(60);
