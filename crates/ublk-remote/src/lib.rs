//! Disks in object stores, for [`ublk_core`]. Whatever needs an asynchronous runtime or TLS is here, and in no crate below.
//!
//! - [`log`]: a disk as a log of segments in a store.
//! - [`store`]: objects in a bucket or a directory.
//! - [`runtime`]: the threads that speak with servers.

#![deny(missing_docs)]
// The numbers of tests fit.
#![cfg_attr(test, allow(clippy::cast_possible_truncation, clippy::cast_sign_loss))]

pub mod log;
pub mod runtime;
pub mod store;
