//! The inside of a test's world: namespaces of its own, in which dindd runs for real.
//!
//! The test's own executable is the first process of these namespaces. It makes a storage volume,
//! a cgroup of plain files and a `PATH` with fakes, all on tmpfs, so that nothing outlives the
//! namespaces; starts dindd; does what the test says on standard input; tells on standard output
//! what happens; and looks, after dindd has ended, for what it has left.

use std::convert::Infallible;
use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::net::TcpListener;
use std::os::fd::AsRawFd;
use std::os::unix::fs::symlink;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Mutex;
use std::sync::mpsc::{Sender, channel};
use std::time::Duration;

use nix::mount::{MsFlags, mount};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// The tmpfs that everything is on.
const WORLD: &str = "/run/world";
pub(crate) const STORAGE: &str = "/run/world/storage";
pub(crate) const CGROUP: &str = "/run/world/cgroup";
pub(crate) const SOCKET: &str = "/run/world/sockets/docker.sock";
const JOURNAL: &str = "/run/world/journal";

/// The last line.
pub(crate) const END: &str = "everything was looked at";

/// How long the kernel may take to end what was killed.
const UNDO: Duration = Duration::from_secs(60);

/// The programs that the test's executable stands for.
pub(crate) const FAKES: [&str; 2] = ["dockerd", "iptables"];

/// The first argument that makes the test's executable the first process of a sandbox.
pub(crate) const ARGUMENT: &str = "--be-the-sandbox";

/// Adds a word to the journal; a short append is atomic.
pub(crate) fn journal(word: &str) {
    let mut file = fs::OpenOptions::new().append(true).open(JOURNAL).unwrap();
    file.write_all(format!("{word}\n").as_bytes()).unwrap();
}

/// Whether the test has pulled a trigger.
pub(crate) fn trigger(name: &str) -> bool {
    Path::new(WORLD).join(name).exists()
}

/// The first process. Further arguments: dindd's executable, `NAME=value` for its environment.
pub(crate) fn main() -> u8 {
    let mut words = std::env::args().skip(2);
    let program = words.next().unwrap();
    arrange();
    say("ready");
    let mut dindd = start(&program, words);
    let (relaying, relayed) = channel();
    relay("out", dindd.stdout.take().unwrap(), relaying.clone());
    relay("log", dindd.stderr.take().unwrap(), relaying);
    let pid = Pid::from_raw(dindd.id().cast_signed());
    std::thread::spawn(move || obey(&program, pid));
    let status = wait(&mut dindd);
    say(&format!("exit {status}"));
    for left in left_behind() {
        say(&format!("left {left}"));
    }
    // Both are at the end of their pipe, unless a process that is left holds it.
    relayed.recv_timeout(UNDO).ok();
    say(END);
    0
}

fn arrange() {
    let private = MsFlags::MS_REC | MsFlags::MS_PRIVATE;
    mount(None::<&str>, "/", None::<&str>, private, None::<&str>).unwrap();
    for path in ["/run", "/var/lib"] {
        tmpfs(path);
    }
    for folder in [STORAGE, CGROUP, "/run/world/bin", "/run/lock"] {
        fs::create_dir_all(folder).unwrap();
    }
    tmpfs(STORAGE);
    fs::write(JOURNAL, "").unwrap();
    for (file, text) in [
        ("cgroup.controllers", "cpu memory\n"),
        ("cgroup.type", "domain\n"),
        ("cgroup.procs", ""),
        ("cgroup.subtree_control", ""),
    ] {
        fs::write(Path::new(CGROUP).join(file), text).unwrap();
    }
    let ourselves = std::env::current_exe().unwrap();
    for fake in FAKES {
        symlink(&ourselves, format!("{WORLD}/bin/{fake}")).unwrap();
    }
    bring_up_loopback();
}

/// A new network namespace has a loopback device that is down (netdevice(7)).
fn bring_up_loopback() {
    let family = nix::sys::socket::AddressFamily::Inet;
    let kind = nix::sys::socket::SockType::Datagram;
    let flags = nix::sys::socket::SockFlag::SOCK_CLOEXEC;
    let socket = nix::sys::socket::socket(family, kind, flags, None).unwrap();
    #[expect(unsafe_code, reason = "there is no safe wrapper of this ioctl")]
    // SAFETY: ifreq is plain data for which zero is valid; the kernel only reads it.
    let done = unsafe {
        let mut request: nix::libc::ifreq = std::mem::zeroed();
        request.ifr_name[0] = b'l'.cast_signed();
        request.ifr_name[1] = b'o'.cast_signed();
        request.ifr_ifru.ifru_flags = 1; // IFF_UP
        nix::libc::ioctl(
            socket.as_raw_fd(),
            nix::libc::SIOCSIFFLAGS,
            &raw const request,
        )
    };
    assert_eq!(done, 0, "bring up lo: {}", std::io::Error::last_os_error());
}

fn tmpfs(path: &str) {
    mount(
        Some("test"),
        path,
        Some("tmpfs"),
        MsFlags::empty(),
        None::<&str>,
    )
    .unwrap_or_else(|error| panic!("mount a tmpfs at {path}: {error}"));
}

fn command(program: &str) -> Command {
    let path = std::env::var("PATH").unwrap_or_default();
    let mut command = Command::new(program);
    command
        .env_clear()
        .env("PATH", format!("{WORLD}/bin:{path}:/usr/sbin:/sbin"))
        .env("LOG_FORMAT", "json")
        .env("DINDD_STORAGE", STORAGE)
        .env("DINDD_CGROUP", CGROUP)
        .env("DINDD_SOCKET", SOCKET)
        .env("DINDD_ALLOW_ANY_FS", "1");
    command
}

fn start(program: &str, variables: impl Iterator<Item = String>) -> Child {
    let mut command = command(program);
    for variable in variables {
        let (name, value) = variable.split_once('=').unwrap();
        match name {
            "WITHOUT_SYS_PTRACE" => drop_sys_ptrace(),
            "FULL_STORAGE" => fill_storage(),
            "SILENT_MIRROR" => listen_and_be_silent(value),
            _ => {
                command.env(name, value);
            }
        }
    }
    command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    command.spawn().unwrap()
}

/// Kills the process whose first argument is this.
fn kill_process(argument: &str) {
    for entry in fs::read_dir("/proc").unwrap().flatten() {
        let line = fs::read_to_string(entry.path().join("cmdline")).unwrap_or_default();
        if line.split('\0').nth(1) == Some(argument) {
            let pid = entry.file_name().to_str().unwrap().parse().unwrap();
            kill(Pid::from_raw(pid), Signal::SIGKILL).unwrap();
        }
    }
}

/// A volume of two megabytes has less than dockerd needs.
fn fill_storage() {
    let flags = MsFlags::MS_REMOUNT;
    mount(None::<&str>, STORAGE, None::<&str>, flags, Some("size=2m")).unwrap();
}

/// A mirror that takes every connection and says nothing.
fn listen_and_be_silent(address: &str) {
    let listener = TcpListener::bind(address).unwrap();
    std::thread::spawn(move || {
        let mut held = Vec::new();
        for stream in listener.incoming() {
            held.push(stream);
            journal("a mirror is asked");
        }
    });
}

/// What this process starts from now on has it not.
fn drop_sys_ptrace() {
    const SYS_PTRACE: nix::libc::c_ulong = 19;
    #[expect(unsafe_code, reason = "there is no safe wrapper of this call")]
    // SAFETY: it takes numbers only.
    let done = unsafe { nix::libc::prctl(nix::libc::PR_CAPBSET_DROP, SYS_PTRACE) };
    assert_eq!(done, 0, "{}", std::io::Error::last_os_error());
}

/// Sends every line on as `kind line`; drops `relaying` after the last one.
fn relay(
    kind: &'static str,
    from: impl std::io::Read + Send + 'static,
    relaying: Sender<Infallible>,
) {
    std::thread::spawn(move || {
        let _relaying = relaying;
        for line in BufReader::new(from).lines().map_while(Result::ok) {
            say(&format!("{kind} {line}"));
        }
    });
}

/// Does what the test says. When the test is gone, so is everything here.
fn obey(program: &str, dindd: Pid) {
    for line in std::io::stdin().lines().map_while(Result::ok) {
        match line.as_str() {
            "TERM" => kill(dindd, Signal::SIGTERM).unwrap(),
            "INT" => kill(dindd, Signal::SIGINT).unwrap(),
            "health" => {
                let output = command(program).arg("health").output().unwrap();
                say(&format!("health {}", output.status.code().unwrap()));
            }
            "kill-broker" => kill_process("mounts"),
            "check" => {
                let output = command(program).args(["check", "--json"]).output().unwrap();
                let told: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
                let rows = told["checks"].as_array().unwrap().iter();
                let names: Vec<_> = rows.filter_map(|row| row["name"].as_str()).collect();
                say(&format!(
                    "check {} {}",
                    output.status.code().unwrap(),
                    names.join(" ")
                ));
            }
            "count" => say(&format!("roots {}", fs::read_dir(STORAGE).unwrap().count())),
            "orphan" => {
                let folder = format!("{STORAGE}/{:032x}/data/x", 7);
                fs::create_dir_all(folder).unwrap();
            }
            name => fs::write(Path::new(WORLD).join(name), "").unwrap(),
        }
    }
    std::process::exit(1);
}

/// Waits for dindd and passes on what the fakes note.
fn wait(dindd: &mut Child) -> String {
    let mut told = 0;
    loop {
        let ended = dindd.try_wait().unwrap();
        let journal = fs::read_to_string(JOURNAL).unwrap();
        let whole = journal.rfind('\n').map_or(0, |end| end + 1);
        for word in journal[told..whole].lines() {
            say(&format!("journal {word}"));
        }
        told = whole;
        if let Some(status) = ended {
            return match (status.code(), status.signal()) {
                (Some(code), _) => code.to_string(),
                (None, signal) => format!("signal {signal:?}"),
            };
        }
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// Everything that dindd must not leave: data-roots, sockets, processes, mounts.
fn left_behind() -> Vec<String> {
    let mut left = Vec::new();
    let entries = fs::read_dir(STORAGE).unwrap().flatten();
    left.extend(entries.map(|entry| format!("in the storage: {:?}", entry.file_name())));
    for socket in [SOCKET, "/var/run/docker.sock"] {
        if Path::new(socket).exists() {
            left.push(format!("the socket {socket}"));
        }
    }
    let begun = std::time::Instant::now();
    while let Some(process) = other_process() {
        if begun.elapsed() > UNDO {
            left.push(process);
            break;
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
    for point in mounts.lines().filter_map(|line| line.split(' ').nth(4)) {
        let below = point.starts_with(STORAGE) && point != STORAGE;
        if below || point.starts_with("/var/lib/docker") || point.starts_with("/run/docker") {
            left.push(format!("the mount {point}"));
        }
    }
    left
}

/// A process besides this one that still runs; a zombie has no command line.
fn other_process() -> Option<String> {
    let all = fs::read_dir("/proc").unwrap().flatten();
    let pids = all.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    let others = pids.filter(|pid| *pid != 1);
    let mut lines =
        others.map(|pid| fs::read_to_string(format!("/proc/{pid}/cmdline")).unwrap_or_default());
    let line = lines.find(|line| !line.is_empty())?;
    Some(format!("the process {}", line.replace('\0', " ")))
}

fn say(line: &str) {
    static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());
    let _guard = ONE_AT_A_TIME.lock();
    let mut out = std::io::stdout().lock();
    // Nobody listens any more: then the end is near.
    writeln!(out, "{line}").and_then(|()| out.flush()).ok();
}
