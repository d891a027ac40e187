//! Processes that the job left behind change the trees while they are published.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use rustix::fs::{CWD, RenameFlags, renameat_with};

use crate::world::{World, children, run, unit};

/// As long as the secret, so that its size tells nothing.
const HARMLESS: &str = "public";
const SECRET: &str = "secret";
const FILES: usize = 300;
/// So many changes must have happened during the publications that are looked at.
const SWAPS: usize = 200;

fn fill(directory: &Path, content: &str) {
    fs::create_dir_all(directory).unwrap();
    for number in 0..FILES {
        fs::write(directory.join(number.to_string()), content).unwrap();
    }
}

struct End<'a>(&'a AtomicBool);

impl Drop for End<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Does something again and again while somebody exchanges a directory with a link to another.
fn while_exchanged((directory, link): (&Path, &Path), mut act: impl FnMut()) {
    let (over, swaps) = (AtomicBool::new(false), AtomicUsize::new(0));
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !over.load(Ordering::Relaxed) {
                renameat_with(CWD, directory, CWD, link, RenameFlags::EXCHANGE).unwrap();
                swaps.fetch_add(1, Ordering::Relaxed);
                std::thread::yield_now();
            }
        });
        // Also when an act fails, or nobody would ever end.
        let _end = End(&over);
        let mut rounds = 0;
        while rounds < 5 || swaps.load(Ordering::Relaxed) < SWAPS {
            act();
            rounds += 1;
        }
    });
}

/// Files below a folder that have the secret.
fn secrets(top: &Path) -> String {
    let mut shell = Command::new("sh");
    // Where nothing is found, grep ends with 1.
    shell.args(["-c", &format!("grep -rl {SECRET} . || test $? = 1")]);
    String::from_utf8(run(shell.current_dir(top))).unwrap()
}

#[test]
fn a_directory_that_becomes_a_link_while_its_unit_is_packed_leads_nowhere() {
    children();
    let world = World::new();
    let tools = world.caches("one").roots[0].path.clone();
    unit(&tools, "tool/1/x64", "tool");
    let lib = tools.join("tool/1/x64/lib");
    fill(&lib, HARMLESS);
    fill(&world.path("outside"), SECRET);
    let link = world.path("one/tools/tool/1/x64/link");
    symlink(world.path("outside"), &link).unwrap();
    while_exchanged((&lib, &link), || {
        let published = world.publish("one");
        if !published.units.is_empty() {
            world.restore("two");
            assert_eq!(secrets(&world.path("two")), "");
            fs::remove_dir_all(world.path("two")).unwrap();
            fs::remove_file(world.pack("tool/1/x64")).unwrap();
        }
    });
}

#[test]
fn a_directory_that_becomes_a_link_while_rsync_copies_it_leads_nowhere() {
    children();
    let world = World::new();
    let npm = world.caches("one").roots[1].path.clone();
    let lib = npm.join("lib");
    fill(&lib, HARMLESS);
    fill(&world.path("outside"), SECRET);
    let link = npm.join("link");
    symlink(world.path("outside"), &link).unwrap();
    while_exchanged((&lib, &link), || {
        world.publish("one");
        assert_eq!(secrets(&world.store()), "");
        fs::remove_dir_all(world.store()).unwrap();
    });
}
