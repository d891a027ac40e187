//! What arrives is what left.

use std::ffi::OsStr;
use std::fs::{self, File, Permissions};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::Path;
use std::process::Command;
use std::time::{Duration, SystemTime};

use crate::world::{World, assert_same, describe, noise, run};

/// Everything that a tree can have and a copy must keep.
fn make_tree(top: &Path) {
    fs::create_dir_all(top.join("empty/deeper")).unwrap();
    fs::create_dir_all(top.join("bin")).unwrap();
    fs::write(top.join("bin/tool"), "#!/bin/sh\n").unwrap();
    fs::set_permissions(top.join("bin/tool"), Permissions::from_mode(0o755)).unwrap();
    fs::write(top.join("bin/secret"), "s").unwrap();
    fs::set_permissions(top.join("bin/secret"), Permissions::from_mode(0o400)).unwrap();
    fs::write(top.join("bin/open"), "o").unwrap();
    fs::set_permissions(top.join("bin/open"), Permissions::from_mode(0o666)).unwrap();
    fs::write(top.join("zero"), "").unwrap();
    fs::write(top.join("new\nline"), "n").unwrap();
    fs::write(top.join(OsStr::from_bytes(b"not-utf8-\xff\xfe")), "u").unwrap();
    symlink("bin/tool", top.join("link")).unwrap();
    symlink("nowhere/at/all", top.join("dangling")).unwrap();
    symlink("empty", top.join("link-to-directory")).unwrap();
    symlink("t".repeat(300), top.join("far")).unwrap();
    fs::hard_link(top.join("bin/tool"), top.join("hard")).unwrap();
    let long = (0..15).fold(top.to_owned(), |path, _| path.join("d".repeat(200)));
    fs::create_dir_all(&long).unwrap();
    fs::write(long.join("f".repeat(255)), "deep").unwrap();
    fs::write(top.join("large"), noise(5 << 20)).unwrap();
    let sparse = File::create(top.join("sparse")).unwrap();
    sparse.set_len(5 << 30).unwrap();
    std::os::unix::fs::FileExt::write_all_at(&sparse, b"in the middle", 3 << 30).unwrap();
    File::create(top.join("hole"))
        .unwrap()
        .set_len(1 << 20)
        .unwrap();
    let old = SystemTime::UNIX_EPOCH + Duration::new(1_500_000_000, 123_456_789);
    for name in [
        "bin/tool",
        "large",
        "sparse",
        "empty/deeper",
        "empty",
        "zero",
    ] {
        File::open(top.join(name))
            .unwrap()
            .set_modified(old)
            .unwrap();
    }
    let ancient = SystemTime::UNIX_EPOCH - Duration::new(1000, 500_000_000);
    File::open(top.join("hole"))
        .unwrap()
        .set_modified(ancient)
        .unwrap();
    fs::set_permissions(top.join("empty/deeper"), Permissions::from_mode(0o711)).unwrap();
}

fn assert_holes_are_kept(top: &Path) {
    for name in ["sparse", "hole"] {
        let meta = fs::metadata(top.join(name)).unwrap();
        assert!(
            meta.blocks() * 512 < 1 << 20,
            "{name} takes {} blocks",
            meta.blocks()
        );
    }
    let mut middle = [0; 13];
    let sparse = File::open(top.join("sparse")).unwrap();
    std::os::unix::fs::FileExt::read_exact_at(&sparse, &mut middle, 3 << 30).unwrap();
    assert_eq!(&middle, b"in the middle");
}

#[test]
fn a_unit_arrives_as_it_left() {
    let world = World::new();
    let from = world.caches("one").roots[0].path.clone();
    make_tree(&from.join("all/1.0.0/x64"));
    fs::write(from.join("all/1.0.0/x64.complete"), "").unwrap();
    let published = world.publish("one");
    assert_eq!(
        (published.units, published.problems),
        (vec!["all/1.0.0/x64".to_owned()], vec![])
    );
    let restored = world.restore("two");
    assert_eq!((restored.units, restored.problems), (1, vec![]));
    let to = world.caches("two").roots[0].path.clone();
    let unit = "all/1.0.0/x64";
    assert_same(&describe(&to.join(unit)), &describe(&from.join(unit)));
    assert_holes_are_kept(&to.join(unit));
}

#[test]
fn a_loose_tree_arrives_as_it_left() {
    let world = World::new();
    let from = world.caches("one").roots[1].path.clone();
    make_tree(&from);
    let published = world.publish("one");
    assert_eq!((published.left_out, published.problems), (vec![], vec![]));
    let restored = world.restore("two");
    assert_eq!(restored.problems, [""; 0]);
    let to = world.caches("two").roots[1].path.clone();
    assert_same(&describe(&to), &describe(&from));
    assert_holes_are_kept(&to);
}

#[test]
fn what_is_loose_in_a_tool_cache_arrives_too_and_unfinished_tools_do_not() {
    let world = World::new();
    let from = world.caches("one").roots[0].path.clone();
    for name in [
        "notes.txt",
        "shared/lib/data/file",
        "half/1.0.0/x64/tool",
        "odd/1/any/tool",
    ] {
        fs::create_dir_all(from.join(name).parent().unwrap()).unwrap();
        fs::write(from.join(name), name).unwrap();
    }
    fs::write(from.join("odd/1/any.complete"), "").unwrap();
    let published = world.publish("one");
    assert_eq!(published.units, ["odd/1/any"]);
    world.restore("two");
    let to = world.caches("two").roots[0].path.clone();
    for (name, is_there) in [
        ("notes.txt", true),
        ("shared/lib/data/file", true),
        ("odd/1/any/tool", true),
        ("half", false),
    ] {
        assert_eq!(to.join(name).exists(), is_there, "{name}");
    }
    assert!(!world.store().join("toolcache/odd").exists());
}

#[test]
fn tar_reads_a_pack_and_its_last_lines_tell_what_it_is() {
    let world = World::new();
    let from = world.caches("one").roots[0].path.clone();
    make_tree(&from.join("all/1.0.0/x64"));
    fs::remove_file(from.join("all/1.0.0/x64/sparse")).unwrap();
    fs::write(from.join("all/1.0.0/x64.complete"), "").unwrap();
    world.publish("one");
    let to = world.path("by-tar");
    fs::create_dir(&to).unwrap();
    let pack = world.pack("all/1.0.0/x64");
    let mut tar = Command::new("tar");
    run(tar
        .args(["--zstd", "--delay-directory-restore", "-xpf"])
        .arg(&pack)
        .arg("-C")
        .arg(&to));
    let unit = "all/1.0.0/x64";
    assert_same(&describe(&to.join(unit)), &describe(&from.join(unit)));
    let bytes = fs::read(&pack).unwrap();
    let last: Vec<&[u8]> = bytes.rsplitn(4, |byte| *byte == b'\n').collect();
    assert!(last[1].starts_with(b"#cache-pack 0001 "));
    let begin = last[2]
        .windows(9)
        .rposition(|text| text == b"{\"format\"")
        .unwrap();
    let manifest = &last[2][begin..];
    let manifest: serde_json::Value = serde_json::from_slice(manifest).unwrap();
    assert_eq!(
        (&manifest["unit"], &manifest["arch"]),
        (&"all/1.0.0/x64".into(), &std::env::consts::ARCH.into())
    );
}
