//! What goes wrong when many share a folder by plain rsync, and not with a store of ours. In each
//! test the same happens to both.

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant, SystemTime};

use init::{Child, Deadline, Exit};
use nix::sys::signal::Signal;

use crate::world::{World, assert_same, children, describe, run, unit};

const LIMIT: Duration = Duration::from_secs(180);
/// So many that an rsync is at it when it is stopped.
const FILES: usize = 1500;

fn tool(root: &Path, name: &str) {
    unit(root, name, name);
    let lib = root.join(name).join("lib");
    fs::create_dir(&lib).unwrap();
    for number in 0..FILES {
        // More than pipes hold: what rsync has not written it may not have read either.
        fs::write(lib.join(number.to_string()), name.repeat(500)).unwrap();
    }
}

fn files(tool: &Path) -> usize {
    fs::read_dir(tool.join("lib")).map_or(0, Iterator::count)
}

fn rsync(arguments: &[&str], from: &Path, to: &Path) -> Child {
    let mut command = Command::new("rsync");
    command.args(arguments).arg(from.join("")).arg(to);
    command.stdout(Stdio::null()).stderr(Stdio::null());
    children().spawn(&mut command).unwrap()
}

fn wait_for(mut child: Child) -> Exit {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    runtime
        .block_on(Deadline::within(LIMIT).bound(child.exited()))
        .unwrap()
}

/// An rsync that is stopped when it has copied some files of a tool and not all.
fn half_way(arguments: &[&str], (from, to): (&Path, &Path), name: &str) -> Child {
    let begin = Instant::now();
    loop {
        let child = rsync(arguments, from, to);
        while files(&to.join(name)) < 10 {
            assert!(begin.elapsed() < LIMIT, "rsync copies nothing");
            std::thread::yield_now();
        }
        child.signal_group(Signal::SIGSTOP);
        // Another one may have been faster than we.
        if files(&to.join(name)) < FILES / 2 {
            return child;
        }
        child.signal_group(Signal::SIGCONT);
        wait_for(child);
        fs::remove_dir_all(to).unwrap();
        fs::create_dir(to).unwrap();
    }
}

#[test]
fn two_writers_with_different_tools_do_not_take_each_others_away() {
    let world = World::new();
    let (one, two) = (world.caches("one"), world.caches("two"));
    let (one, two) = (&one.roots[0].path, &two.roots[0].path);
    tool(one, "one/1/x64");
    tool(two, "two/1/x64");
    let plain = world.path("plain");
    fs::create_dir(&plain).unwrap();
    let first = half_way(&["-a", "--delete"], (one, &plain), "one/1/x64");
    assert!(wait_for(rsync(&["-a", "--delete"], two, &plain)).is_success());
    first.signal_group(Signal::SIGCONT);
    wait_for(first);
    assert!(
        files(&plain.join("one/1/x64")) < FILES,
        "plain rsync has become safe"
    );
    std::thread::scope(|scope| {
        scope.spawn(|| world.publish("one"));
        scope.spawn(|| world.publish("two"));
    });
    world.restore("three");
    let three = world.path("three/tools");
    for (name, from) in [("one/1/x64", one), ("two/1/x64", two)] {
        assert_same(&describe(&three.join(name)), &describe(&from.join(name)));
    }
}

#[test]
fn a_reader_of_a_tool_that_is_removed_gets_it_whole_or_not_at_all() {
    let world = World::new();
    let source = world.caches("one").roots[0].path.clone();
    tool(&source, "one/1/x64");
    let (plain, target) = (world.path("plain"), world.path("target"));
    for path in [&plain, &target] {
        fs::create_dir(path).unwrap();
    }
    run(Command::new("rsync")
        .arg("-a")
        .arg(source.join(""))
        .arg(&plain));
    let reader = half_way(&["-a"], (&plain, &target), "one/1/x64");
    fs::remove_dir_all(plain.join("one")).unwrap();
    reader.signal_group(Signal::SIGCONT);
    wait_for(reader);
    assert!(
        target.join("one/1/x64.complete").exists() && files(&target.join("one/1/x64")) < FILES,
        "plain rsync has become safe"
    );
    // Ours, from a pack and from a tool that plain rsync brought, removed at any moment.
    for round in 0..6_u32 {
        let packed = round % 2 == 0;
        let place = if packed {
            world.publish("one");
            world.store().join("units")
        } else {
            fs::create_dir_all(world.store()).unwrap();
            let place = world.store().join("toolcache");
            run(Command::new("rsync")
                .arg("-a")
                .arg(source.join(""))
                .arg(&place));
            place
        };
        std::thread::scope(|scope| {
            scope.spawn(|| world.restore("two"));
            std::thread::sleep(Duration::from_millis(15) * round);
            fs::remove_dir_all(&place).unwrap();
        });
        let two = world.path("two/tools/one/1");
        if two.join("x64.complete").exists() {
            assert_same(
                &describe(&two.join("x64")),
                &describe(&source.join("one/1/x64")),
            );
        }
        fs::remove_dir_all(world.path("two")).unwrap();
        fs::remove_dir_all(world.store()).unwrap();
    }
}

#[test]
fn a_writer_whose_clock_is_ahead_does_not_keep_others_from_publishing() {
    let world = World::new();
    let npm = world.caches("one").roots[1].path.clone();
    let stored = world.store().join("trees/npm");
    fs::create_dir_all(&stored).unwrap();
    fs::write(stored.join("index"), "wrong").unwrap();
    let ahead = SystemTime::now() + Duration::from_secs(3600);
    let file = fs::File::open(stored.join("index")).unwrap();
    file.set_modified(ahead).unwrap();
    fs::write(npm.join("index"), "right").unwrap();
    let read = || fs::read_to_string(stored.join("index")).unwrap();
    run(Command::new("rsync")
        .arg("-au")
        .arg(npm.join(""))
        .arg(&stored));
    assert_eq!(read(), "wrong", "plain rsync has become safe");
    world.publish("one");
    assert_eq!(read(), "right");
}

#[test]
fn the_names_of_one_file_stay_names_of_one_file() {
    use std::os::unix::fs::MetadataExt;
    let world = World::new();
    let (tools, npm) = {
        let caches = world.caches("one");
        (caches.roots[0].path.clone(), caches.roots[1].path.clone())
    };
    unit(&tools, "tool/1/x64", "tool");
    fs::write(npm.join("tool"), "tool").unwrap();
    for top in [&npm, &tools.join("tool/1/x64")] {
        fs::hard_link(top.join("tool"), top.join("other")).unwrap();
    }
    let plain = world.path("plain");
    run(Command::new("rsync")
        .arg("-a")
        .arg(npm.join(""))
        .arg(&plain));
    let names = |file: &Path| fs::metadata(file).unwrap().nlink();
    assert_eq!(names(&plain.join("tool")), 1, "plain rsync has become safe");
    world.publish("one");
    world.restore("two");
    for file in ["npm/tool", "tools/tool/1/x64/tool"] {
        assert_eq!(names(&world.path("two").join(file)), 2, "{file}");
    }
}
