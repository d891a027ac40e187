//! Putting a stand-in runner together: the directory that `supervisor` expects as `RUNNER_HOME`.
//!
//! The program is built under the name `runner-listener`, because cargo has no names with a dot;
//! in the directory it is `bin/Runner.Listener`, as in the real one.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::Context;

/// Where the other files of a runner's root lie: `config.sh`, `env.sh`, `externals/`.
const LAYOUT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/layout");

/// Fills `root`, which is made if need be, with a runner whose listener is `program`.
pub fn assemble(program: &Path, root: &Path) -> anyhow::Result<()> {
    copy(Path::new(LAYOUT), root)?;
    let listener = root.join("bin/Runner.Listener");
    fs::copy(program, &listener).with_context(|| {
        format!(
            "cannot copy {} to {}",
            program.display(),
            listener.display()
        )
    })?;
    Ok(())
}

/// The built stand-in, beside the test that asks. Fails when it was not built.
pub fn program() -> anyhow::Result<PathBuf> {
    let test = std::env::current_exe().context("cannot find out where this test lies")?;
    // target/<profile>/deps/<test>
    let built = test
        .ancestors()
        .skip(1)
        .take(2)
        .map(|directory| directory.join("runner-listener"))
        .find(|candidate| candidate.is_file());
    built.with_context(|| {
        format!(
            "no runner-listener near {}; build it with `cargo build -p runner-stand-in`",
            test.display()
        )
    })
}

fn copy(from: &Path, to: &Path) -> anyhow::Result<()> {
    let named = || format!("cannot copy {} to {}", from.display(), to.display());
    fs::create_dir_all(to).with_context(named)?;
    for entry in fs::read_dir(from).with_context(named)? {
        let entry = entry.with_context(named)?;
        let target = to.join(entry.file_name());
        if entry.file_type().with_context(named)?.is_dir() {
            copy(&entry.path(), &target)?;
        } else {
            fs::copy(entry.path(), target).with_context(named)?;
        }
    }
    Ok(())
}
