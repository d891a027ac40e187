//! The golden image store: any number of images, warm in every Docker data-root of a host, without
//! a copy of their files and without sharing a data-root.
//!
//! The layers' files are in EROFS images, which nothing can change while they are mounted. A
//! data-root gets a few directories and symbolic links per layer, so attaching costs by the layer
//! and not by the file or the byte.
//!
//! ```text
//! STORE/current                    -> versions/NAME, replaced by a rename
//! STORE/versions/NAME/manifest.json  what is in it; NAME ends with the manifest's checksum
//!                     lease          whoever uses the version holds a shared lock on it
//! STORE/files/SHA256.erofs         file 0 of a version: metadata; the others: files of layers
//! STORE/mounted/SHA256/            where the host may have mounted such a file
//! STORE/lock                       held by a build and by a gc
//! ```
//!
//! Owns the format, the making, the attaching and the removing. Knows what a data-root of `overlay2`
//! looks like, and nothing of how a dockerd is run on it.

mod attach;
mod build;
mod catalogue;
mod checksum;
mod collect;
mod erofs;
mod manifest;
mod metadata;
mod store;
mod verify;

pub use attach::{Attached, Mount, MountedFiles};
pub use build::{Build, Built};
pub use catalogue::{Wanted, familiar};
pub use collect::{Collected, Patience};
pub use manifest::{ErofsFile, FORMAT, Image, Layer, Manifest};
pub use store::{Lock, Store, Version};
pub use verify::{Checked, Verified};

/// The storage driver whose data-roots can be attached to a store.
pub const STORAGE_DRIVER: &str = "overlay2";
