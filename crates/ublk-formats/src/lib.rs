//! Disks in image formats, as backends of [`ublk_core`].
//!
//! - [`Qcow2`]: QEMU's format, by the crate `imago`.

#![deny(missing_docs)]
#![cfg_attr(
    not(test),
    warn(
        clippy::as_underscore,
        clippy::borrow_as_ptr,
        clippy::cast_lossless,
        clippy::cast_possible_truncation,
        clippy::cast_possible_wrap,
        clippy::cast_ptr_alignment,
        clippy::cast_sign_loss,
        clippy::ptr_as_ptr,
        clippy::ptr_cast_constness,
        clippy::ref_as_ptr
    )
)]

mod qcow2;

pub use qcow2::{Options, Qcow2};
