//! Many readers and writers, damage, and stores that are not what they should be.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::time::{Duration, SystemTime};

use caches::{Condition, Order, Rules, prune};

use crate::world::{World, assert_same, describe, empty, noise, publish, restore, unit};

#[test]
fn the_first_publication_of_a_unit_stays() {
    let world = World::new();
    unit(
        &world.caches("one").roots[0].path,
        "node/22.1.0/x64",
        "first",
    );
    unit(
        &world.caches("two").roots[0].path,
        "node/22.1.0/x64",
        "second",
    );
    assert_eq!(world.publish("one").units, ["node/22.1.0/x64"]);
    let before = fs::read(world.pack("node/22.1.0/x64")).unwrap();
    let second = world.publish("two");
    assert_eq!((second.units.len(), second.problems.len()), (0, 0));
    assert_eq!(fs::read(world.pack("node/22.1.0/x64")).unwrap(), before);
    assert_eq!(fs::read_dir(world.store().join("tmp")).unwrap().count(), 0);
}

#[test]
fn a_damaged_pack_is_quarantined_and_the_rest_arrives() {
    for (name, place) in [("content", 0.1), ("middle", 0.5), ("end", 0.97)] {
        let world = World::new();
        let from = world.caches("one").roots[0].path.clone();
        unit(&from, "good/1/x64", "good");
        unit(&from, "bad/1/x64", &"bad ".repeat(1000));
        world.publish("one");
        let pack = world.pack("bad/1/x64");
        let mut bytes = fs::read(&pack).unwrap();
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "a place in a small file"
        )]
        let at = (bytes.len() as f64 * place) as usize;
        bytes[at] ^= 0x55;
        fs::write(&pack, bytes).unwrap();
        let restored = world.restore("two");
        assert_eq!((restored.units, restored.problems.len()), (1, 1), "{name}");
        assert!(
            restored.problems[0].starts_with("bad/1/x64: the pack is damaged"),
            "{restored:?}"
        );
        let to = world.caches("two").roots[0].path.clone();
        assert!(
            to.join("good/1/x64/tool").exists() && !to.join("bad").exists(),
            "{name}"
        );
        assert!(!pack.exists(), "{name}");
        assert_eq!(
            fs::read_dir(world.store().join("quarantine"))
                .unwrap()
                .count(),
            1,
            "{name}"
        );
        // The next one who has it publishes it again.
        assert_eq!(world.publish("one").units, ["bad/1/x64"], "{name}");
        assert_eq!(world.restore("two").units, 1, "{name}");
    }
}

#[test]
fn of_a_unit_that_is_damaged_nothing_counts_as_restored() {
    let world = World::new();
    let from = world.caches("one").roots[0].path.clone();
    unit(&from, "good/1/x64", "good");
    unit(&from, "bad/1/x64", "bad");
    // Of several frames, the last of which is damaged.
    fs::write(from.join("bad/1/x64/large"), noise(8 << 20)).unwrap();
    world.publish("one");
    let pack = world.pack("bad/1/x64");
    let mut bytes = fs::read(&pack).unwrap();
    let at = bytes.len() - (1 << 20);
    bytes[at] ^= 0x55;
    fs::write(&pack, bytes).unwrap();
    let restored = world.restore("two");
    assert_eq!((restored.units, restored.problems.len()), (1, 1));
    assert_eq!((restored.files, restored.bytes), (1, 4));
}

#[test]
fn a_pack_that_is_cut_off_is_damaged_and_a_newer_one_is_not() {
    let world = World::new();
    let from = world.caches("one").roots[0].path.clone();
    unit(&from, "cut/1/x64", "cut");
    unit(&from, "new/1/x64", "new");
    world.publish("one");
    let cut = world.pack("cut/1/x64");
    let bytes = fs::read(&cut).unwrap();
    fs::write(&cut, &bytes[..bytes.len() - 10]).unwrap();
    let newer = world.pack("new/1/x64");
    let mut bytes = fs::read(&newer).unwrap();
    let seal = bytes
        .windows(16)
        .rposition(|text| text == b"#cache-pack 0001")
        .unwrap();
    bytes[seal + 15] = b'7';
    fs::write(&newer, bytes).unwrap();
    let restored = world.restore("two");
    assert_eq!(
        (restored.units, restored.problems.len()),
        (0, 2),
        "{restored:?}"
    );
    assert!(!cut.exists());
    assert!(newer.exists());
    assert!(
        restored
            .problems
            .iter()
            .any(|problem| problem.contains("update the images")),
        "{restored:?}"
    );
}

#[test]
fn a_store_of_another_architecture_or_a_newer_format_is_left_alone() {
    for (format, expected) in [
        ("{\"format\":1,\"arch\":\"vax\"}", "belongs to vax"),
        ("{\"format\":99,\"arch\":\"x86_64\"}", "has format 99"),
    ] {
        let world = World::new();
        unit(&world.caches("one").roots[0].path, "a/1/x64", "a");
        world.publish("one");
        fs::write(world.store().join("cache-store.json"), format).unwrap();
        let before = describe(&world.store());
        let restored = world.restore("two");
        assert_eq!((restored.units, restored.problems.len()), (0, 1));
        assert!(restored.problems[0].contains(expected), "{restored:?}");
        unit(&world.caches("one").roots[0].path, "b/1/x64", "b");
        let published = world.publish("one");
        assert!(published.problems[0].contains(expected), "{published:?}");
        assert_same(&describe(&world.store()), &before);
    }
}

#[test]
fn a_store_that_is_not_there_is_one_line() {
    let world = World::new();
    let restored = world.restore("one");
    assert_eq!(restored.problems.len(), 1);
    assert!(
        restored.problems[0].starts_with("CACHE_STORE: "),
        "{restored:?}"
    );
}

#[test]
fn what_was_restored_is_not_published_back_changed_and_nothing_new_asks_nothing() {
    let world = World::new();
    unit(&world.caches("one").roots[0].path, "kept/1/x64", "kept");
    fs::write(world.caches("one").roots[1].path.join("loose"), "loose").unwrap();
    world.publish("one");
    let caches = world.caches("two");
    let memory = empty();
    restore(&caches, &Order::default(), &memory);
    let known = Condition {
        known: caches::scan(&caches.roots[0].path)
            .unwrap()
            .into_iter()
            .collect(),
        ..Condition::default()
    };
    // A store that cannot be reached is not missed when there is nothing to tell it.
    let away = world.path("away");
    fs::rename(world.store(), &away).unwrap();
    fs::write(caches.roots[0].path.join("kept/1/x64/tool"), "poison").unwrap();
    for known in [&known, &Condition::default()] {
        let nothing = publish(&caches, known, &memory);
        assert_eq!(
            (nothing.units.len(), nothing.files, nothing.problems),
            (0, 0, vec![])
        );
    }
    assert!(!world.store().exists());
    fs::rename(&away, world.store()).unwrap();
    // A file that only looks unchanged is not.
    let loose = caches.roots[1].path.join("loose");
    let time = fs::metadata(&loose).unwrap().modified().unwrap();
    fs::write(&loose, "LOOSE").unwrap();
    fs::File::open(&loose).unwrap().set_modified(time).unwrap();
    fs::write(caches.roots[1].path.join("added"), "added").unwrap();
    let some = publish(&caches, &known, &memory);
    assert_eq!((some.units.len(), some.problems.len()), (0, 0), "{some:?}");
    assert!(world.store().join("trees/npm/added").exists());
    let stored = fs::read_to_string(world.store().join("trees/npm/loose")).unwrap();
    assert_eq!(stored, "LOOSE");
    world.restore("three");
    let kept = world.caches("three").roots[0].path.join("kept/1/x64/tool");
    assert_eq!(fs::read_to_string(kept).unwrap(), "kept");
}

#[test]
fn a_hostile_tree_is_published_without_what_leads_out_of_it() {
    let world = World::new();
    let root = world.caches("one").roots[0].path.clone();
    fs::write(world.path("outside"), "outside").unwrap();
    // A device, a pipe: the unit is not published. A setuid file loses the bit.
    unit(&root, "pipe/1/x64", "pipe");
    nix::unistd::mkfifo(&root.join("pipe/1/x64/fifo"), nix::sys::stat::Mode::S_IRWXU).unwrap();
    unit(&root, "suid/1/x64", "suid");
    let suid = root.join("suid/1/x64/tool");
    fs::set_permissions(&suid, fs::Permissions::from_mode(0o6755)).unwrap();
    // The unit's directory, or its tool's, is a link.
    symlink(world.path("."), root.join("escape")).unwrap();
    fs::create_dir_all(root.join("linked/1")).unwrap();
    symlink(world.path("."), root.join("linked/1/x64")).unwrap();
    fs::write(root.join("linked/1/x64.complete"), "").unwrap();
    let published = world.publish("one");
    assert_eq!(published.units, ["suid/1/x64"], "{published:?}");
    assert_eq!(published.problems.len(), 1, "{published:?}");
    assert!(
        published.problems[0].contains("pipe/1/x64"),
        "{published:?}"
    );
    world.restore("two");
    let arrived = world.caches("two").roots[0].path.join("suid/1/x64/tool");
    assert_eq!(fs::metadata(arrived).unwrap().mode() & 0o7777, 0o755);
}

#[test]
fn a_link_in_the_store_does_not_lead_a_publication_elsewhere() {
    let world = World::new();
    let outside = world.path("outside");
    fs::create_dir(&outside).unwrap();
    fs::create_dir_all(world.store().join("trees/npm")).unwrap();
    symlink(&outside, world.store().join("trees/npm/packages")).unwrap();
    let npm = world.caches("one").roots[1].path.clone();
    fs::create_dir(npm.join("packages")).unwrap();
    fs::write(npm.join("packages/file"), "file").unwrap();
    let published = world.publish("one");
    assert_eq!(published.problems, [""; 0]);
    assert_eq!(fs::read_dir(&outside).unwrap().count(), 0);
    assert!(world.store().join("trees/npm/packages/file").exists());
}

#[test]
fn a_report_counts_what_the_publication_does() {
    let world = World::new();
    let caches = world.caches("one");
    unit(&caches.roots[0].path, "tool/1/x64", "tool");
    for top in [
        caches.roots[0].path.join("tool/1/x64"),
        caches.roots[1].path.clone(),
    ] {
        fs::write(top.join("file"), "file").unwrap();
        fs::hard_link(top.join("file"), top.join("other")).unwrap();
        symlink("file", top.join("link")).unwrap();
    }
    let report = Condition {
        dry_run: true,
        ..Condition::default()
    };
    // Where there is no store yet, and where there is one that has nothing.
    for name in ["none", "empty"] {
        if name == "empty" {
            fs::create_dir(world.store()).unwrap();
        }
        let told = publish(&caches, &report, &empty());
        assert_eq!((told.units.len(), told.files), (1, 3), "{name}");
        assert_eq!(told.bytes, 12, "{name}");
    }
    let published = world.publish("one");
    assert_eq!((published.files, published.bytes), (3, 12));
}

#[test]
fn each_rule_of_prune_takes_the_units_that_it_names() {
    let day = Duration::from_secs(24 * 3600);
    let rules = Rules {
        unused: None,
        older: None,
        max_bytes: None,
        grace: day,
        dry_run: false,
    };
    let size_of_two = |world: &World| {
        let size = |name| fs::metadata(world.pack(name)).unwrap().len();
        size("kept/1/x64") + size("used/1/x64")
    };
    for (case, gone, why) in [
        ("unused", vec!["old/1/x64"], "not restored for 9 days"),
        (
            "older",
            vec!["kept/1/x64", "old/1/x64", "used/1/x64"],
            "published 0 days ago",
        ),
        (
            "max-size",
            vec!["old/1/x64"],
            "the least recently used of too much",
        ),
        ("none", vec![], ""),
    ] {
        let world = World::new();
        for name in ["kept/1/x64", "old/1/x64", "used/1/x64"] {
            unit(&world.caches("one").roots[0].path, name, name);
        }
        world.publish("one");
        let old = fs::File::options()
            .write(true)
            .open(world.pack("old/1/x64"));
        old.unwrap()
            .set_modified(SystemTime::now() - 9 * day - day / 24)
            .unwrap();
        let rules = Rules {
            unused: (case == "unused").then_some(8 * day),
            older: (case == "older").then_some(Duration::ZERO),
            max_bytes: (case == "max-size").then(|| size_of_two(&world)),
            ..rules.clone()
        };
        let mut pruned = prune(&world.caches("one"), &rules).unwrap();
        pruned.units.sort();
        assert_eq!(pruned.units, gone, "{case}");
        assert!(
            pruned.why.iter().all(|one| one == why),
            "{case}: {:?}",
            pruned.why
        );
        for name in ["kept/1/x64", "old/1/x64", "used/1/x64"] {
            assert_eq!(
                world.pack(name).exists(),
                !gone.contains(&name),
                "{case}: {name}"
            );
        }
    }
}
