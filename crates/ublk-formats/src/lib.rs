//! Disks in image formats, as backends of [`ublk_core`].
//!
//! - [`Qcow2`]: QEMU's format, by the crate `imago`.

#![deny(missing_docs)]
// The numbers of tests fit.
#![cfg_attr(test, allow(clippy::cast_possible_truncation, clippy::cast_sign_loss))]

mod qcow2;

pub use qcow2::{Options, Qcow2};
