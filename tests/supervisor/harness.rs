//! A task without containers: a runner's home, a double of GitHub, a store, and the supervisor.
//!
//! A supervisor is asked to stop when the test that started it dies. Directories carry the test
//! process's id; a later run removes what a killed one left.

use std::fs::{self, File};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Once;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use github_double::{Event, GithubDouble, JobSpec, Kind, Options, script::Script};
use nix::sys::signal::{Signal, kill};
use nix::unistd::{Pid, User, geteuid};

pub(crate) use crate::life::{Ended, Supervisor};

pub(crate) const REPOSITORY: &str = "acme/widgets";
pub(crate) const PAT: &str = "ghp_the-operators-token";
/// Far more than anything here takes on a busy machine.
pub(crate) const LIMIT: Duration = Duration::from_secs(180);
/// The unit that is in the store before every trial.
pub(crate) const KEPT: &str = "kept/1.0.0/x64";

pub(crate) struct Trial {
    pub(crate) double: GithubDouble,
    pub(crate) root: PathBuf,
    variables: Vec<(String, String)>,
}

impl Trial {
    pub(crate) fn new() -> Self {
        Self::with_job_lock(Options::default().job_lock)
    }

    /// GitHub takes a job whose runner is silent that long for running.
    pub(crate) fn with_job_lock(job_lock: Duration) -> Self {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        static SWEEP: Once = Once::new();
        let place = place();
        SWEEP.call_once(|| remove_leftovers(&place));
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let root = place.join(format!("supervisor-{}-{number}", std::process::id()));
        lay_out(&root);
        let double = GithubDouble::start(Options {
            pat: Some(PAT.to_owned()),
            scopes: vec![REPOSITORY.parse().unwrap(), "acme".parse().unwrap()],
            job_lock,
            ..Options::default()
        })
        .unwrap();
        let mut trial = Self {
            double,
            root,
            variables: Vec::new(),
        };
        let path = |name: &str| trial.root.join(name).display().to_string();
        let variables = [
            ("GITHUB_URL", trial.double.repo_url(REPOSITORY)),
            ("GITHUB_PAT", PAT.to_owned()),
            ("RUNNER_USER", runner_user()),
            ("RUNNER_HOME", path("home")),
            ("RUNNER_WORKDIR", path("home/_work")),
            ("RUNNER_NAME", "trial".to_owned()),
            ("CACHE_ROOTS", path("tools")),
            ("CACHE_STORE", path("store")),
            ("SUPERVISOR_STATE_FILE", path("state.json")),
            ("LOG_FORMAT", "json".to_owned()),
            ("LOG_LEVEL", "supervisor=debug".to_owned()),
            (
                "PATH",
                format!("{}:/usr/local/bin:/usr/bin:/bin", path("bin")),
            ),
        ];
        trial.variables = variables
            .map(|(name, value)| (name.to_owned(), value))
            .into();
        trial
    }

    /// Sets a variable of the supervisor's environment; an empty value takes it away.
    pub(crate) fn set(&mut self, name: &str, value: impl ToString) -> &mut Self {
        self.variables.retain(|(known, _)| known != name);
        let value = value.to_string();
        if !value.is_empty() {
            self.variables.push((name.to_owned(), value));
        }
        self
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.root.join(name)
    }

    /// Tells the rsync that goes this way what to do: see tests/fakes/rsync.
    pub(crate) fn rsync(&self, way: &str, fault: &str) {
        fs::write(self.path(&format!("rsync-{way}")), fault).unwrap();
    }

    /// The rsync that goes this way is the real one from now on, also one that was held.
    pub(crate) fn let_rsync_go(&self, way: &str) {
        fs::remove_file(self.path(&format!("rsync-{way}"))).unwrap();
    }

    /// The store, from now on, answers nobody who reads or writes it.
    pub(crate) fn hang_store(&self, way: &str) {
        self.rsync(way, "hang");
    }

    /// Whoever copies this way finds the disk full.
    pub(crate) fn fill_disk(&self, way: &str) {
        self.rsync(way, "11");
    }

    /// Tells the runner's stand-in how to misbehave.
    pub(crate) fn script(&self, script: Script) -> &Self {
        self.double.script(None, script);
        self
    }

    pub(crate) fn queue(&self, job: JobSpec) -> String {
        self.double.queue_job(job).0
    }

    /// A job of one step.
    pub(crate) fn queue_step(&self, script: &str) -> String {
        self.queue(JobSpec::new(REPOSITORY, "build").step("only", script))
    }

    /// A step that waits for [`Self::go`].
    pub(crate) fn wait_for_go(&self) -> String {
        format!(
            "while [ ! -e {} ]; do sleep 0.01; done",
            self.path("go").display()
        )
    }

    pub(crate) fn go(&self) {
        fs::write(self.path("go"), "").unwrap();
    }

    pub(crate) fn start(&self, arguments: &[&str]) -> Supervisor {
        let stdout = File::create(self.path("stdout")).unwrap();
        self.start_with_output(arguments, stdout.into())
    }

    pub(crate) fn start_with_output(&self, arguments: &[&str], stdout: Stdio) -> Supervisor {
        let stderr = File::create(self.path("stderr")).unwrap();
        self.start_with_streams(arguments, (stdout, stderr.into()))
    }

    pub(crate) fn start_with_streams(
        &self,
        arguments: &[&str],
        (stdout, stderr): (Stdio, Stdio),
    ) -> Supervisor {
        let mut command = Command::new(env!("CARGO_BIN_EXE_supervisor"));
        command
            .args(arguments)
            .env_clear()
            .envs(self.variables.iter().map(|(name, value)| (name, value)))
            .stdin(Stdio::null())
            .stdout(stdout)
            .stderr(stderr);
        let parent = nix::unistd::getpid();
        // SAFETY: system calls only.
        #[expect(unsafe_code, reason = "std has no way to bind a child's life to ours")]
        unsafe {
            command.pre_exec(move || {
                nix::sys::prctl::set_pdeathsig(Signal::SIGTERM)?;
                if nix::unistd::getppid() != parent {
                    return Err(std::io::ErrorKind::NotFound.into());
                }
                Ok(())
            });
        }
        Supervisor::of(command.spawn().unwrap(), &self.root)
    }

    /// Runs one life to its end.
    pub(crate) fn run(&self) -> Ended {
        self.start(&[]).end()
    }

    /// The supervisor with a listener that waits for a job.
    pub(crate) fn idle(&self) -> Supervisor {
        let supervisor = self.start(&[]);
        supervisor.wait_for_output("Listening for Jobs");
        supervisor
    }

    /// Reports a job as the runner's hook does.
    pub(crate) fn report_job(&self, as_runner: bool, event: &str) -> bool {
        let mut command = Command::new(env!("CARGO_BIN_EXE_supervisor"));
        command.arg("hook").arg(self.path("job.sock")).env_clear();
        command
            .env("GITHUB_EVENT_NAME", event)
            .env("GITHUB_REPOSITORY", REPOSITORY);
        if as_runner && geteuid().is_root() {
            let user = User::from_name(&runner_user()).unwrap().unwrap();
            command.uid(user.uid.as_raw()).gid(user.gid.as_raw());
        }
        command.output().unwrap().status.success()
    }

    pub(crate) fn wait_for(&self, kind: Kind) -> Event {
        self.double
            .wait_for(|event| event.kind == kind, LIMIT)
            .unwrap()
    }

    pub(crate) fn registrations(&self) -> Vec<String> {
        self.double
            .runners()
            .into_iter()
            .map(|runner| runner.name)
            .collect()
    }

    /// What the fakes were asked, in order.
    pub(crate) fn journal(&self) -> Vec<String> {
        let text = fs::read_to_string(self.path("journal")).unwrap_or_default();
        text.lines().map(str::to_owned).collect()
    }

    pub(crate) fn wait_for_journal(&self, word: &str) {
        wait_until(&format!("the journal says {word}"), || {
            self.journal().iter().any(|line| line == word)
        });
    }

    /// Nothing is registered and no process of the trial is left.
    pub(crate) fn assert_nothing_is_left(&self, case: &str) {
        assert_eq!(
            self.registrations(),
            [""; 0],
            "{case}: registrations are left"
        );
        // A killed process is there until its parent has looked.
        let deadline = Instant::now() + LIMIT;
        while !self.processes().is_empty() && Instant::now() < deadline {
            std::thread::sleep(Duration::from_millis(10));
        }
        assert_eq!(self.processes(), [""; 0], "{case}: processes are left");
    }

    /// Waits until what a killed supervisor started has died as well.
    pub(crate) fn wait_for_no_processes(&self) {
        wait_until("no process of the trial is left", || {
            self.processes().is_empty()
        });
    }

    /// Ends what a killed supervisor left: processes with an environment of the trial's.
    pub(crate) fn kill_orphans(&self) {
        let mark = format!("PATH={}:", self.path("bin").display());
        for entry in fs::read_dir("/proc").unwrap().flatten() {
            let environment = fs::read(entry.path().join("environ")).unwrap_or_default();
            let ours = environment
                .split(|byte| *byte == 0)
                .any(|variable| variable.starts_with(mark.as_bytes()));
            let pid = entry.file_name().to_string_lossy().parse();
            if let (true, Ok(pid)) = (ours, pid) {
                // It may have ended by itself.
                kill(Pid::from_raw(pid), Signal::SIGKILL).ok();
            }
        }
    }

    /// Processes whose program or working directory is the trial's.
    fn processes(&self) -> Vec<String> {
        let entries = fs::read_dir("/proc").unwrap().flatten();
        entries
            .filter(|entry| {
                ["exe", "cwd"].iter().any(|link| {
                    fs::read_link(entry.path().join(link))
                        .is_ok_and(|path| path.starts_with(&self.root))
                })
            })
            .filter_map(|entry| fs::read_to_string(entry.path().join("comm")).ok())
            .collect()
    }
}

impl Drop for Trial {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let read = |name: &str| fs::read_to_string(self.path(name)).unwrap_or_default();
            eprint(&format!(
                "--- standard output\n{}--- log\n{}",
                read("stdout"),
                read("stderr")
            ));
        }
        fs::remove_dir_all(&self.root).ok();
    }
}

pub(crate) fn wait_until(what: &str, mut holds: impl FnMut() -> bool) {
    let deadline = Instant::now() + LIMIT;
    while !holds() {
        assert!(Instant::now() < deadline, "waited in vain until {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// The user whom the supervisor can become: anybody for root, else ourselves.
pub(crate) fn runner_user() -> String {
    if geteuid().is_root() {
        "nobody".to_owned()
    } else {
        User::from_uid(geteuid()).unwrap().unwrap().name
    }
}

/// Makes a unit of one file.
pub(crate) fn make_unit(root: &Path, unit: &str, content: &str) {
    fs::create_dir_all(root.join(unit)).unwrap();
    fs::write(root.join(unit).join("tool"), content).unwrap();
    fs::write(root.join(format!("{unit}.complete")), "").unwrap();
}

fn lay_out(root: &Path) {
    let home = root.join("home");
    // The program is linked in place of a copy: it is big, and there are many trials.
    runner_stand_in::assemble(
        Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/Cargo.toml")),
        &home,
    )
    .unwrap();
    let listener = home.join("bin/Runner.Listener");
    fs::remove_file(&listener).unwrap();
    let program = stand_in();
    if fs::hard_link(&program, &listener).is_err() {
        fs::copy(&program, &listener).unwrap();
    }
    fs::rename(home.join("externals"), home.join("externals.dist")).unwrap();
    make_unit(&root.join("store/toolcache"), KEPT, "kept");
    fs::create_dir(root.join("bin")).unwrap();
    let fakes = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/fakes");
    fs::copy(fakes.join("rsync"), root.join("bin/rsync")).unwrap();
    // Whoever copies writes into it: the runner's user publishes, and root copies the externals.
    let journal = root.join("journal");
    fs::write(&journal, "").unwrap();
    fs::set_permissions(&journal, fs::Permissions::from_mode(0o666)).unwrap();
    if geteuid().is_root() {
        let user = User::from_name(&runner_user()).unwrap().unwrap();
        nix::unistd::chown(&home, Some(user.uid), Some(user.gid)).unwrap();
    }
}

fn stand_in() -> PathBuf {
    static BUILD: Once = Once::new();
    BUILD.call_once(|| {
        if runner_stand_in::program().is_err() {
            let mut cargo = Command::new(env!("CARGO"));
            let status = cargo
                .args(["build", "--quiet", "--package", "runner-stand-in"])
                .status();
            assert!(
                status.unwrap().success(),
                "the runner's stand-in does not build"
            );
        }
    });
    runner_stand_in::program().unwrap()
}

/// Where everybody may look: the runner's user is another one when root runs the tests.
fn place() -> PathBuf {
    let own = Path::new(env!("CARGO_TARGET_TMPDIR"));
    let open = |path: &Path| fs::metadata(path).is_ok_and(|meta| meta.mode() & 0o001 != 0);
    let ours = fs::metadata(own).is_ok_and(|meta| meta.uid() == geteuid().as_raw());
    if ours && own.ancestors().all(open) {
        own.to_owned()
    } else {
        std::env::temp_dir()
    }
}

fn remove_leftovers(place: &Path) {
    for entry in fs::read_dir(place).unwrap().flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        let owner = name
            .strip_prefix("supervisor-")
            .and_then(|rest| rest.split('-').next());
        if owner
            .is_some_and(|pid| pid.parse::<u32>().is_ok() && !Path::new("/proc").join(pid).exists())
        {
            fs::remove_dir_all(entry.path()).ok();
        }
    }
}

fn eprint(text: &str) {
    use std::io::Write;
    std::io::stderr().lock().write_all(text.as_bytes()).ok();
}

/// Takes away what the owner of the file may do.
pub(crate) fn set_mode(path: &Path, mode: u32) {
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
}
