//! Tools that are published when they are complete, while the job goes on.

use std::fs;
use std::time::{Duration, Instant};

use caches::{Condition, Event, Stop, scan, watch};

use crate::world::{World, empty, publish, unit};

const LIMIT: Duration = Duration::from_secs(180);

fn wait_until(mut holds: impl FnMut() -> bool) {
    let begin = Instant::now();
    while !holds() {
        assert!(begin.elapsed() < LIMIT, "waited in vain");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Watches a machine's tool cache while something is done there.
fn while_watched(world: &World, act: impl FnOnce()) -> caches::Published {
    let caches = world.caches("one");
    let condition = Condition {
        known: scan(&caches.roots[0].path).unwrap().into_iter().collect(),
        ..Condition::default()
    };
    let stop = Stop::within(Some(LIMIT));
    std::thread::scope(|scope| {
        let watching = scope.spawn(|| {
            let tell = |_: Event| ();
            watch(&caches, &condition, &stop, &tell)
        });
        act();
        stop.ask();
        watching.join().unwrap()
    })
}

#[test]
fn a_tool_is_published_as_it_was_when_its_marker_appeared() {
    let world = World::new();
    let tools = world.caches("one").roots[0].path.clone();
    unit(&tools, "kept/1/x64", "kept");
    let published = while_watched(&world, || {
        unit(&tools, "python/3.12.1/x64", "as installed");
        wait_until(|| world.pack("python/3.12.1/x64").exists());
        // What pip does.
        fs::write(tools.join("python/3.12.1/x64/tool"), "changed").unwrap();
        fs::write(tools.join("kept/1/x64/tool"), "changed").unwrap();
    });
    assert_eq!(
        (published.units, published.problems),
        (vec!["python/3.12.1/x64".to_owned()], vec![])
    );
    assert_eq!(world.publish("one").units, ["kept/1/x64"]);
    world.restore("two");
    let tool = world.path("two/tools/python/3.12.1/x64/tool");
    assert_eq!(fs::read_to_string(tool).unwrap(), "as installed");
}

#[test]
fn a_tool_without_marker_is_not_published_early() {
    let world = World::new();
    let tools = world.caches("one").roots[0].path.clone();
    while_watched(&world, || {
        fs::create_dir_all(tools.join("half/1/x64")).unwrap();
        unit(&tools, "whole/1/x64", "whole");
        wait_until(|| world.pack("whole/1/x64").exists());
    });
    assert!(!world.pack("half/1/x64").exists());
}

#[test]
fn what_a_killed_publisher_of_the_same_job_was_writing_is_removed() {
    let world = World::new();
    unit(&world.caches("one").roots[0].path, "one/1/x64", "one");
    world.publish("one");
    let draft = |name: &str| world.store().join("tmp").join(name);
    for name in ["ours-1", "others-1"] {
        fs::write(draft(name), "half").unwrap();
    }
    let condition = Condition {
        drafts: "ours-".to_owned(),
        ..Condition::default()
    };
    unit(&world.caches("one").roots[0].path, "two/1/x64", "two");
    let published = publish(&world.caches("one"), &condition, &empty());
    assert_eq!(published.units, ["two/1/x64"]);
    assert!(!draft("ours-1").exists() && draft("others-1").exists());
}
