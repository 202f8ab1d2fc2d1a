//! Disks in image formats, as backends of [`ublk_core`].
//!
//! - [`Qcow2`]: QEMU's format, by the crate `imago`.
//!
//! Also diffs of disks in files, and how they are applied.

#![deny(missing_docs)]
// The numbers of tests fit.
#![cfg_attr(test, allow(clippy::cast_possible_truncation, clippy::cast_sign_loss))]

mod diff;
mod qcow2;
mod read;

pub use diff::{
    Applied, Aside, BackingFile, Output, Qcow2Diff, RawDiff, StreamDiff, apply, apply_ranges, is_on,
};
pub use qcow2::{Options, Qcow2};
