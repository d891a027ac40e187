//! A fake `dockerd`: strict about how it is started, and as ill-behaved as `FAKE_DOCKERD` says.
//!
//! It notes what happens to it in the journal, in the words of the tests. What it finds wrong with
//! its surroundings it notes as `wrong: …`; no test expects such a word.

use std::collections::BTreeMap;
use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use serde_json::json;

use crate::sandbox::{CGROUP, STORAGE, journal, trigger};

/// Set when containers were told to stop.
static STOPPING: AtomicBool = AtomicBool::new(false);

pub(crate) fn main() -> u8 {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let behaviour = std::env::var("FAKE_DOCKERD").unwrap_or_default();
    let behaves = |word: &str| behaviour.split(',').any(|one| one == word);
    if words == ["--version"] {
        journal("dockerd --version");
        if behaves("version-hangs") {
            sleep_for_ever();
        }
        println!("Docker version 28.5.2, build fake");
        return 0;
    }
    let flags = Flags::parse(&words);
    look_around(&flags);
    journal("dockerd starts");
    if flags.all("userns-remap") == ["default"] && Path::new("/run/docker/sysfs/kernel").exists() {
        journal("containers are remapped");
    }
    if behaves("dies") {
        eprintln!("failed to start daemon: the fake was told to");
        return 1;
    }
    if behaves("container") {
        // A container whose process is ourselves.
        set_populated(true);
    }
    if behaves("litter") {
        for number in 0..200 {
            let layer = format!("{}/overlay2/{number}/diff", flags.one("data-root"));
            fs::create_dir_all(&layer).unwrap();
            for file in 0..100 {
                fs::write(format!("{layer}/{file}"), "x").unwrap();
            }
        }
    }
    if behaves("fork") {
        // What a job forks away belongs to nobody but the namespace.
        std::process::Command::new("sh")
            .args([
                "-c",
                "setsid sleep 1000 & setsid sh -c 'trap \"\" TERM; sleep 1000' &",
            ])
            .status()
            .unwrap();
    }
    let mut signals = signal_hook::iterator::Signals::new([15, 2]).unwrap();
    let deaf = behaves("deaf");
    std::thread::spawn(move || {
        for signal in signals.forever() {
            journal(&format!("dockerd gets {signal}"));
            STOPPING.store(true, Ordering::SeqCst);
            if !deaf {
                set_populated(false);
                journal("dockerd ends");
                std::process::exit(0);
            }
        }
    });
    if behaves("silent") {
        sleep_for_ever();
    }
    serve(&flags, &behaviour)
}

/// What a real dockerd would need, and what a job must not find.
fn look_around(flags: &Flags) {
    let wrong = |what: String| journal(&format!("wrong: {what}"));
    for root in ["data-root", "exec-root"] {
        let path = flags.one(root);
        if fs::write(Path::new(&path).join("written-by-dockerd"), "x").is_err() {
            wrong(format!("{root} {path} cannot be written"));
        }
    }
    let seen = fs::read_dir(STORAGE).map(Iterator::count).unwrap_or(0);
    if seen != 0 {
        wrong(format!("{seen} data-roots are visible"));
    }
    let first = fs::read_to_string("/proc/1/cmdline").unwrap_or_default();
    if !first.contains("inside") {
        wrong(format!("process 1 is {first:?}"));
    }
    if std::env::vars().any(|(name, _)| name.starts_with("DINDD_")) {
        wrong("dindd's settings are in the environment".into());
    }
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    let root = mounts
        .lines()
        .find(|line| line.split(' ').nth(4) == Some("/"));
    if !root.is_some_and(|line| line.contains("shared:")) {
        wrong("/ is not shared".into());
    }
}

fn serve(flags: &Flags, behaviour: &str) -> u8 {
    for host in flags.all("host") {
        let path = host
            .strip_prefix("unix://")
            .unwrap_or_else(|| panic!("host {host}"));
        let listener = UnixListener::bind(path).unwrap();
        let driver = flags.one("storage-driver");
        let behaviour = behaviour.to_owned();
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let (driver, behaviour) = (driver.clone(), behaviour.clone());
                std::thread::spawn(move || answer(&stream.unwrap(), &driver, &behaviour));
            }
        });
    }
    loop {
        if trigger("die") {
            eprintln!("fatal: the fake was told to die");
            return 3;
        }
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// One request for each connection is enough: bollard keeps none.
fn answer(stream: &UnixStream, driver: &str, behaviour: &str) {
    let behaves = |word: &str| behaviour.split(',').any(|one| one == word);
    let mut lines = BufReader::new(stream).lines().map_while(Result::ok);
    let request = lines.next().unwrap_or_default();
    lines.take_while(|line| !line.is_empty()).for_each(drop);
    let path = request.split(' ').nth(1).unwrap_or_default();
    if trigger("hang") || behaves("mute") || (path.ends_with("/info") && behaves("info-hangs")) {
        journal(&format!("dockerd does not answer {path}"));
        sleep_for_ever();
    }
    let driver = if behaves("other-driver") {
        "btrfs"
    } else {
        driver
    };
    let (kind, body) = match path {
        "/_ping" => ("text/plain", "OK".to_owned()),
        "/info" => (
            "application/json",
            json!({ "Driver": driver, "CgroupVersion": "2" }).to_string(),
        ),
        "/version" => (
            "application/json",
            json!({ "Version": "28.5.2", "ApiVersion": "1.51", "KernelVersion": "6.1" })
                .to_string(),
        ),
        _ => {
            journal(&format!("wrong: asked for {path}"));
            return;
        }
    };
    let length = body.len();
    let mut stream = stream;
    // The asker may have given up.
    drop(write!(
        stream,
        "HTTP/1.1 200 OK\r\nContent-Type: {kind}\r\nContent-Length: {length}\r\n\
         Connection: close\r\n\r\n{body}"
    ));
}

fn set_populated(populated: bool) {
    let cgroup = Path::new(CGROUP).join("docker");
    if populated {
        fs::create_dir_all(&cgroup).unwrap();
        fs::write(cgroup.join("cgroup.events"), "populated 1\nfrozen 0\n").unwrap();
    } else {
        // A kernel would keep it with "populated 0"; a plain directory could not be removed then.
        fs::remove_dir_all(&cgroup).ok();
    }
}

fn sleep_for_ever() -> ! {
    loop {
        std::thread::sleep(Duration::from_secs(1000));
    }
}

/// `--name=value`, and nothing else: dindd promises to write them so.
struct Flags(BTreeMap<String, Vec<String>>);

impl Flags {
    fn parse(words: &[String]) -> Self {
        let mut flags: BTreeMap<String, Vec<String>> = BTreeMap::new();
        for word in words {
            match word
                .strip_prefix("--")
                .and_then(|flag| flag.split_once('='))
            {
                Some((name, value)) => flags.entry(name.into()).or_default().push(value.into()),
                None => journal(&format!("wrong: the argument {word}")),
            }
        }
        Self(flags)
    }

    fn all(&self, name: &str) -> &[String] {
        self.0.get(name).map_or(&[], Vec::as_slice)
    }

    fn one(&self, name: &str) -> String {
        match self.all(name) {
            [value] => value.clone(),
            other => {
                journal(&format!("wrong: --{name} is {other:?}"));
                String::new()
            }
        }
    }
}
