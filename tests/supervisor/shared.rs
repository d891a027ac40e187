//! The directories that the sidecar must have as well: a job's containers look into them there.

use std::fs;
use std::path::PathBuf;
use std::time::{Duration, SystemTime};

use nix::sys::signal::Signal;

use crate::docker_double::{Containers, DockerDouble};
use crate::harness::{LIMIT, Trial, wait_until};

const SHARED: [&str; 3] = ["home/_work", "home/externals", "tools"];

/// The double ends first: its socket is in the trial's folder.
fn trial() -> (Trial, DockerDouble) {
    let mut trial = Trial::new();
    let docker = DockerDouble::of(&mut trial);
    (trial, docker)
}

/// The files that are left from asking.
fn markers(trial: &Trial) -> Vec<PathBuf> {
    SHARED
        .iter()
        .filter_map(|folder| fs::read_dir(trial.path(folder)).ok())
        .flat_map(|entries| entries.flatten().map(|entry| entry.path()))
        .filter(|path| path.to_string_lossy().contains("/.seen-from-docker-"))
        .collect()
}

#[test]
fn a_runner_whose_directories_the_sidecar_shares_runs_its_job() {
    let (trial, _docker) = trial();
    trial.queue_step("true");
    let ended = trial.run();
    assert_eq!(ended.code, 0, "{}", ended.log_text());
    let detail = ended.detail("shared-directories");
    for folder in SHARED {
        assert!(
            detail.contains(trial.path(folder).to_str().unwrap()),
            "{detail}"
        );
    }
    assert!(markers(&trial).is_empty());
}

#[test]
fn directories_that_the_sidecar_has_elsewhere_end_the_start_in_one_line() {
    for elsewhere in [
        &["home/_work"][..],
        &["home/externals"],
        &["tools"],
        &["tools", "home/_work"],
    ] {
        let (trial, docker) = trial();
        let folders = elsewhere.iter().map(|folder| trial.path(folder)).collect();
        docker.say_of_containers(Containers::Folders(folders));
        let ended = trial.run();
        assert_eq!(ended.code, 69, "{}", ended.log_text());
        let errors = ended.errors();
        assert_eq!(errors.lines().count(), 1, "{errors}");
        for folder in SHARED {
            let named = errors.contains(&format!("{} ", trial.path(folder).display()))
                || errors.contains(&format!("{},", trial.path(folder).display()));
            assert_eq!(named, elsewhere.contains(&folder), "{folder}: {errors}");
        }
        for words in ["docker.sock", "mount the same volume", "WAIT_FOR_DOCKER=0"] {
            assert!(errors.contains(words), "no {words:?} in {errors}");
        }
        assert!(markers(&trial).is_empty());
        trial.assert_nothing_is_left("after directories that are not shared");
    }
}

#[test]
fn who_does_not_wait_for_docker_asks_it_nothing() {
    let (mut trial, docker) = trial();
    docker.say_of_containers(Containers::Folders(vec![trial.path("home")]));
    trial.set("WAIT_FOR_DOCKER", 0).queue_step("true");
    assert_eq!(trial.run().code, 0);
}

#[test]
fn an_engine_that_does_not_tell_is_no_reason_to_end() {
    let (trial, docker) = trial();
    docker.say_of_containers(Containers::Unknown);
    trial.queue_step("true");
    let ended = trial.run();
    assert_eq!(ended.code, 0, "{}", ended.log_text());
    let told = ended.log.iter().any(|line| {
        line["level"] == "WARN" && line["message"].as_str().unwrap().contains("same storage")
    });
    assert!(told, "{}", ended.log_text());
    assert!(markers(&trial).is_empty());
}

#[test]
fn nothing_is_left_in_the_directories_when_the_start_is_cut_off_while_asking() {
    let (trial, docker) = trial();
    docker.say_of_containers(Containers::Silent);
    let supervisor = trial.start(&[]);
    wait_until("it asks", || markers(&trial).len() == SHARED.len());
    supervisor.terminate();
    assert_eq!(supervisor.end().code, 143);
    assert!(markers(&trial).is_empty());
    // A killed one leaves what the next one removes, unless it may be in use by another.
    let (mut trial, docker) = self::trial();
    docker.say_of_containers(Containers::Silent);
    let supervisor = trial.start(&[]);
    wait_until("it asks", || markers(&trial).len() == SHARED.len());
    supervisor.signal(Signal::SIGKILL);
    assert_eq!(supervisor.end().code, 137);
    let left = markers(&trial);
    assert_eq!(left.len(), SHARED.len());
    let long_ago = SystemTime::now() - (LIMIT + Duration::from_secs(60));
    for marker in &left[1..] {
        let file = fs::File::open(marker).unwrap();
        file.set_modified(long_ago).unwrap();
    }
    drop(docker);
    let _docker = DockerDouble::of(&mut trial);
    trial.queue_step("true");
    assert_eq!(trial.run().code, 0);
    assert_eq!(markers(&trial), left[..1]);
}

#[test]
fn check_tells_of_directories_that_are_not_shared() {
    let (trial, docker) = trial();
    fs::create_dir_all(trial.path("tools")).unwrap();
    let check = |expected: i32| {
        let ended = trial.start(&["check"]).end();
        assert_eq!(ended.code, expected, "{}", ended.stdout);
        let line = ended
            .stdout
            .lines()
            .find(|line| line.contains(" shared "))
            .map(str::to_owned);
        line.unwrap_or_else(|| panic!("{}", ended.stdout))
    };
    assert!(check(0).starts_with("ok"));
    docker.say_of_containers(Containers::Folders(vec![trial.path("tools")]));
    let line = check(1);
    assert!(
        line.starts_with("FAIL") && line.contains("mount the same volume"),
        "{line}"
    );
    let ended = trial.start(&["check", "--json"]).end();
    let answer: serde_json::Value = serde_json::from_str(&ended.stdout).unwrap();
    let mut rows = answer["checks"].as_array().unwrap().iter();
    let row = rows.find(|row| row["what"] == "shared").unwrap();
    assert_eq!((ended.code, &row["ok"]), (1, &false.into()), "{row}");
    assert!(row.to_string().contains("mount the same volume"), "{row}");
    assert!(markers(&trial).is_empty());
}
