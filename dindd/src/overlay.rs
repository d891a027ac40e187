//! Whether the data-root can hold overlay mounts: by making one.
//!
//! Owns that trial. dockerd's overlay2 needs a filesystem that can be an overlay's upper layer;
//! another overlay cannot (EINVAL), which is what the container's own root filesystem is.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result};
use nix::mount::{MntFlags, MsFlags, mount, umount2};

/// Mounts and unmounts an overlay below `folder`.
///
/// # Errors
/// What the kernel said.
pub(crate) fn try_mount(folder: &Path) -> Result<()> {
    let place = folder.join("overlay");
    for layer in ["lower", "upper", "work", "merged"] {
        let path = place.join(layer);
        fs::create_dir_all(&path).with_context(|| format!("cannot make {}", path.display()))?;
    }
    let path = place.display();
    let options = format!("lowerdir={path}/lower,upperdir={path}/upper,workdir={path}/work");
    let merged = place.join("merged");
    mount(
        Some("overlay"),
        &merged,
        Some("overlay"),
        MsFlags::empty(),
        Some(options.as_str()),
    )
    .with_context(|| format!("cannot mount an overlay on {}", folder.display()))?;
    umount2(&merged, MntFlags::MNT_DETACH)
        .with_context(|| format!("cannot unmount {}", merged.display()))
}
