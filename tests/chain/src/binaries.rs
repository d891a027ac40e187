//! Where the programs under test and the doubles are: beside the driver, where cargo put them.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

/// A program of this workspace, built in the same profile as the driver.
///
/// # Errors
/// It was not built; the message says how.
pub(crate) fn find(name: &str) -> Result<PathBuf> {
    let driver = std::env::current_exe().context("where this program is")?;
    driver
        .ancestors()
        .skip(1)
        // A test is one folder deeper than the programs.
        .take(2)
        .map(|folder| folder.join(name))
        .find(|path| path.is_file())
        .with_context(|| {
            let folder = driver.parent().unwrap_or(Path::new("."));
            format!(
                "{name} is not beside {}; build the workspace in the same profile first",
                folder.display()
            )
        })
}

/// The checkout that this program was built from.
pub(crate) fn checkout() -> &'static Path {
    let chain = Path::new(env!("CARGO_MANIFEST_DIR"));
    chain.ancestors().nth(2).unwrap_or(chain)
}
