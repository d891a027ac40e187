//! Who copies between a store and a local disk, and with which command.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::Result;

use crate::programs;

/// Who copies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Way {
    /// supervisor, with a tool cache: one pack for each tool.
    Sealed,
    /// supervisor, with the same files in an ordinary directory: many rsyncs.
    Loose,
    RsyncA,
    Fpsync,
    CpA,
    TarZstd,
    Rclone,
}

pub(crate) const OURS: [Way; 2] = [Way::Sealed, Way::Loose];

pub(crate) const PEERS: [(Way, &str, &str); 5] = [
    (Way::RsyncA, "rsync_a", "rsync -a"),
    (Way::Fpsync, "fpsync", "fpsync -n 128, 80 parts"),
    (Way::CpA, "cp_a", "cp -a --update"),
    (Way::TarZstd, "tar_zstd", "tar and zstd -T0, one archive"),
    (
        Way::Rclone,
        "rclone",
        "rclone copy --transfers 64 --checkers 64",
    ),
];

impl Way {
    /// Those who copy files one by one have the same store and the same local files.
    pub(crate) fn place(self) -> &'static str {
        match self {
            Self::Sealed => "sealed",
            Self::Loose => "loose",
            Self::TarZstd => "tar",
            Self::RsyncA | Self::Fpsync | Self::CpA | Self::Rclone => "plain",
        }
    }

    /// Where the files are in the local directory `local`.
    pub(crate) fn files(self, local: &Path) -> PathBuf {
        match self {
            Self::Sealed => local.join("tools"),
            Self::Loose => local.join("tree"),
            Self::RsyncA | Self::Fpsync | Self::CpA | Self::TarZstd | Self::Rclone => {
                local.to_owned()
            }
        }
    }
}

/// The directories that supervisor caches, the tool cache first.
pub(crate) fn roots(local: &Path) -> [PathBuf; 2] {
    ["tools", "tree"].map(|name| local.join(name))
}

/// From the store; `files` says how many there are.
pub(crate) fn restore(way: Way, (store, local): (&Path, &Path), files: u32) -> Result<Command> {
    match way {
        Way::Sealed | Way::Loose => by_hand("restore", (store, local)),
        Way::TarZstd => {
            let mut tar = Command::new("tar");
            tar.args(["--extract", "--zstd", "--file"])
                .arg(store.join("cache.tar.zst"))
                .arg("-C")
                .arg(local);
            Ok(tar)
        }
        Way::RsyncA | Way::Fpsync | Way::CpA | Way::Rclone => Ok(copy(way, (store, local), files)),
    }
}

/// To the store. supervisor's own command knows nothing of a restore before it.
pub(crate) fn publish(way: Way, (store, local): (&Path, &Path), files: u32) -> Result<Command> {
    match way {
        Way::Sealed | Way::Loose => by_hand("publish", (store, local)),
        Way::TarZstd => {
            let mut tar = Command::new("tar");
            tar.args(["--create", "--use-compress-program=zstd -T0", "--file"])
                .arg(store.join("cache.tar.zst"))
                .arg("-C")
                .arg(local)
                .arg(".");
            Ok(tar)
        }
        Way::RsyncA | Way::Fpsync | Way::CpA | Way::Rclone => Ok(copy(way, (local, store), files)),
    }
}

fn by_hand(verb: &str, (store, local): (&Path, &Path)) -> Result<Command> {
    let mut command = Command::new(programs::find("supervisor")?);
    command.args(["cache", verb, "--store"]).arg(store);
    for root in roots(local) {
        command.arg("--root").arg(root);
    }
    // What a restore remembers is kept beside what it has restored.
    command.env("XDG_STATE_HOME", local.with_file_name("state"));
    Ok(command)
}

fn copy(way: Way, (from, to): (&Path, &Path), files: u32) -> Command {
    let [from_inside, to_inside] = [from, to].map(|path| path.join(""));
    match way {
        Way::Fpsync => {
            let mut fpsync = Command::new("fpsync");
            let part = (files / 80).max(25).to_string();
            // The best of 64 and 128 at once in 40 to 160 parts, with 40,000 files and 1 ms.
            fpsync.args(["-n", "128", "-f", &part]);
            fpsync.arg(from_inside).arg(to_inside);
            fpsync
        }
        Way::CpA => {
            let mut cp = Command::new("cp");
            cp.args(["-a", "--update"]).arg(from.join(".")).arg(to);
            cp
        }
        Way::Rclone => {
            let mut rclone = Command::new("rclone");
            let parallel = ["--transfers=64", "--checkers=64"];
            rclone
                .arg("copy")
                .args(parallel)
                .args(["--links", "--quiet"]);
            rclone.arg(from).arg(to);
            rclone
        }
        Way::RsyncA | Way::TarZstd | Way::Sealed | Way::Loose => {
            let mut rsync = Command::new("rsync");
            rsync.arg("-a").arg(from_inside).arg(to_inside);
            rsync
        }
    }
}
