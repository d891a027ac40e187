//! Writers and readers of one store, each killed at some instant: nobody ever sees half of a unit.
//!
//! Every writer publishes units whose files all say who wrote them. A reader that was not killed
//! looks at what it restored, and somebody looks at the store all the time. The same watch fails
//! with plain rsync: see [`plain_rsync_shows_half_a_tool`].

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use caches::{Caches, Condition, Order, Rules, prune, scan};
use init::Deadline;

use crate::world::{World, children, empty, publish, restore};

/// In a round that many of each.
const WRITERS: usize = 16;
const READERS: usize = 16;
/// Without [`MORE`].
const ROUNDS: u64 = 30;
const FILES: usize = 40;
const UNITS: usize = 4;

/// A number of rounds for a longer campaign.
const MORE: &str = "CACHES_TEST_ROUNDS";
/// Set for the processes that are killed.
const ROLE: &str = "CACHES_TEST_ROLE";

fn lay_out(root: &Path, writer: &str) {
    for unit in 0..UNITS {
        let name = format!("tool{unit}/1.0.0/x64");
        let directory = root.join(&name);
        fs::create_dir_all(directory.join("lib/deep")).unwrap();
        for file in 0..FILES {
            let place = directory.join(if file % 2 == 0 { "lib" } else { "lib/deep" });
            let text = format!("{writer}\n").repeat(1 + file * 20);
            fs::write(place.join(format!("file{file}")), text).unwrap();
        }
        fs::write(root.join(format!("{name}.complete")), "").unwrap();
    }
}

/// All files of a unit, by one writer.
fn assert_is_whole(root: &Path, unit: &str, case: &str) {
    let mut writers = BTreeSet::new();
    let mut count = 0;
    for place in ["lib", "lib/deep"] {
        for entry in fs::read_dir(root.join(unit).join(place)).unwrap() {
            let entry = entry.unwrap();
            if entry.file_type().unwrap().is_dir() {
                continue;
            }
            let name = entry.file_name().into_string().unwrap();
            let number: usize = name.strip_prefix("file").unwrap().parse().unwrap();
            let text = fs::read_to_string(entry.path()).unwrap();
            assert_eq!(
                text.lines().count(),
                1 + number * 20,
                "{case}: {unit}/{name}"
            );
            writers.extend(text.lines().map(str::to_owned));
            count += 1;
        }
    }
    assert_eq!(
        (count, writers.len()),
        (FILES, 1),
        "{case}: {unit} by {writers:?}"
    );
}

/// What a process of the campaign does until it is killed.
#[test]
fn a_process_of_the_campaign() {
    let Ok(role) = std::env::var(ROLE) else {
        return;
    };
    let (role, rest) = role.split_once(' ').unwrap();
    let (store, root) = rest.split_once(' ').unwrap();
    let caches = machine(Path::new(store), Path::new(root));
    if role == "writer" {
        let published = publish(&caches, &Condition::default(), &empty());
        assert_eq!(published.problems, [""; 0]);
    } else {
        let restored = restore(&caches, &Order::default(), &empty());
        let unexpected = restored
            .problems
            .iter()
            .filter(|problem| !problem.contains("is not there"));
        assert_eq!(unexpected.count(), 0, "{:?}", restored.problems);
    }
}

fn machine(store: &Path, root: &Path) -> Caches {
    Caches {
        store: store.to_owned(),
        roots: vec![caches::Root {
            path: root.to_owned(),
            read_only: false,
            exclude: Vec::new(),
        }],
    }
}

struct Random(u64);

impl Random {
    fn below(&mut self, limit: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % limit
    }
}

/// Starts all processes, kills two of three at some instant, and waits for the rest.
async fn live_and_die(
    (sources, targets): (&[PathBuf], &[PathBuf]),
    store: &Path,
    random: &mut Random,
) {
    let writers = sources.iter().map(|source| ("writer", source));
    let readers = targets.iter().map(|target| ("reader", target));
    let mut running = Vec::new();
    for (role, root) in writers.chain(readers) {
        fs::create_dir_all(root).unwrap();
        let mut command = Command::new("/proc/self/exe");
        command.args([
            "--exact",
            "campaign::a_process_of_the_campaign",
            "--nocapture",
        ]);
        command.env(
            ROLE,
            format!("{role} {} {}", store.display(), root.display()),
        );
        command.stdout(Stdio::null()).stderr(Stdio::null());
        let delay = Duration::from_micros(random.below(400_000));
        let at = tokio::time::Instant::now() + delay;
        let child = children().spawn(&mut command).unwrap();
        running.push((child, at, random.below(3) > 0));
    }
    for (mut child, at, is_killed) in running {
        if is_killed {
            tokio::time::timeout_at(at, child.exited()).await.ok();
            child.signal_group(nix::sys::signal::Signal::SIGKILL);
        }
        let limit = Deadline::within(Duration::from_secs(180));
        let exit = limit.bound(child.exited()).await.unwrap();
        assert!(
            is_killed || exit.is_success(),
            "{}: {exit}",
            store.display()
        );
    }
}

#[test]
fn nobody_sees_half_a_unit_whoever_is_killed() {
    let world = World::new();
    let sources: Vec<PathBuf> = (0..WRITERS)
        .map(|number| world.path(&format!("writer{number}")))
        .collect();
    for (number, source) in sources.iter().enumerate() {
        lay_out(source, &format!("writer{number}"));
    }
    let mut random = Random(0x5EED_CAC4_E000_0001);
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    let rounds = std::env::var(MORE).map_or(ROUNDS, |rounds| rounds.parse().unwrap());
    for round in 0..rounds {
        let store = world.path(&format!("store{round}"));
        let targets: Vec<PathBuf> = (0..READERS)
            .map(|number| world.path(&format!("reader{round}-{number}")))
            .collect();
        runtime.block_on(live_and_die((&sources, &targets), &store, &mut random));
        for target in &targets {
            for unit in scan(target).unwrap() {
                assert_is_whole(target, &unit.to_string(), &format!("round {round}"));
            }
        }
        check_store(&world, &store, round);
        for gone in targets.iter().chain([&store]) {
            fs::remove_dir_all(gone).unwrap();
        }
    }
}

/// After everybody: every pack arrives whole, and prune leaves nothing but packs.
fn check_store(world: &World, store: &Path, round: u64) {
    if !store.join("cache-store.json").exists() {
        return;
    }
    let target = world.path(&format!("last{round}"));
    let caches = machine(store, &target);
    let restored = restore(&caches, &Order::default(), &empty());
    assert_eq!(restored.problems, [""; 0], "round {round}");
    for unit in scan(&target).unwrap() {
        assert_is_whole(
            &target,
            &unit.to_string(),
            &format!("round {round}, at last"),
        );
    }
    let rules = Rules {
        unused: None,
        older: None,
        max_bytes: None,
        grace: Duration::ZERO,
        dry_run: false,
    };
    let pruned = prune(&caches, &rules).unwrap();
    assert_eq!(pruned.problems, [""; 0], "round {round}");
    for name in ["tmp", "trash", "quarantine"] {
        let left = fs::read_dir(store.join(name)).map_or(0, Iterator::count);
        assert_eq!(left, 0, "round {round}: {name}");
    }
    fs::remove_dir_all(target).unwrap();
}

#[test]
fn plain_rsync_shows_half_a_tool() {
    let world = World::new();
    let (one, two, store) = (world.path("one"), world.path("two"), world.path("store"));
    lay_out(&one, "one");
    // Of another size: rsync compares times to the second only.
    lay_out(&two, "another");
    fs::create_dir_all(&store).unwrap();
    // The marker comes before the contents: rsync sends the files of a directory before what is
    // in its directories.
    let mut rsync = Command::new("rsync");
    rsync
        .args(["-a", "--out-format=%n"])
        .arg(one.join(""))
        .arg(&store);
    let order = String::from_utf8(crate::world::run(&mut rsync)).unwrap();
    let place = |name: &str| order.lines().position(|line| line == name).unwrap();
    assert!(place("tool0/1.0.0/x64.complete") < place("tool0/1.0.0/x64/lib/file0"));
    // A second writer that is killed leaves a mixture under the first one's marker.
    fs::remove_dir_all(two.join("tool0/1.0.0/x64/lib/deep")).unwrap();
    let mut rsync = Command::new("rsync");
    crate::world::run(rsync.arg("-a").arg(two.join("")).arg(&store));
    let mixed = std::panic::catch_unwind(|| assert_is_whole(&store, "tool0/1.0.0/x64", "rsync"));
    assert!(mixed.is_err(), "plain rsync has become safe");
    assert!(store.join("tool0/1.0.0/x64.complete").exists());
    // Ours keeps the first one's.
    let shared = world.path("shared");
    for source in [&one, &two] {
        publish(&machine(&shared, source), &Condition::default(), &empty());
    }
    let target = world.path("target");
    restore(&machine(&shared, &target), &Order::default(), &empty());
    assert_is_whole(&target, "tool0/1.0.0/x64", "ours");
}

#[test]
fn a_temporary_file_that_a_killed_rsync_left_spreads_with_plain_rsync_only() {
    use std::os::unix::fs::PermissionsExt;
    let world = World::new();
    let left = world.store().join("trees/npm/.package.tgz.Ab12Xy");
    fs::create_dir_all(left.parent().unwrap()).unwrap();
    fs::write(&left, "half").unwrap();
    fs::set_permissions(&left, fs::Permissions::from_mode(0o600)).unwrap();
    fs::write(left.with_file_name("package.tgz"), "whole").unwrap();
    let plain = world.path("plain");
    let mut rsync = Command::new("rsync");
    crate::world::run(
        rsync
            .arg("-a")
            .arg(left.parent().unwrap().join(""))
            .arg(&plain),
    );
    assert!(
        plain.join(".package.tgz.Ab12Xy").exists(),
        "plain rsync has become safe"
    );
    world.restore("one");
    let npm = &world.caches("one").roots[1].path;
    assert!(npm.join("package.tgz").exists() && !npm.join(".package.tgz.Ab12Xy").exists());
    let rules = Rules {
        unused: None,
        older: None,
        max_bytes: None,
        grace: Duration::ZERO,
        dry_run: false,
    };
    assert_eq!(prune(&world.caches("one"), &rules).unwrap().leftovers, 1);
    assert!(!left.exists());
}

#[test]
fn a_unit_that_is_pruned_while_it_is_read_arrives_all_the_same_or_not_at_all() {
    let world = World::new();
    let source = world.path("source");
    lay_out(&source, "one");
    let store = world.path("store");
    publish(&machine(&store, &source), &Condition::default(), &empty());
    let rules = Rules {
        unused: None,
        older: None,
        max_bytes: Some(0),
        grace: Duration::from_secs(3600),
        dry_run: false,
    };
    for round in 0..20 {
        let target = world.path(&format!("target{round}"));
        let caches = machine(&store, &target);
        std::thread::scope(|scope| {
            scope.spawn(|| restore(&caches, &Order::default(), &empty()));
            scope.spawn(|| prune(&caches, &rules).unwrap());
        });
        for unit in scan(&target).unwrap() {
            assert_is_whole(&target, &unit.to_string(), "while pruned");
        }
        // What was pruned can still be read by whoever had opened it.
        assert!(fs::read_dir(store.join("trash")).unwrap().count() >= UNITS * (round + 1));
        publish(&machine(&store, &source), &Condition::default(), &empty());
    }
}
