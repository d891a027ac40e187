//! Where the things under test are.

use std::path::{Path, PathBuf};

/// A path in the checkout that this was built from.
#[must_use]
pub fn checkout(path: &str) -> PathBuf {
    let package = Path::new(env!("CARGO_MANIFEST_DIR"));
    package.ancestors().nth(2).unwrap_or(package).join(path)
}
