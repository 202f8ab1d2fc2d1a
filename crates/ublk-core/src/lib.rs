//! A Linux ublk server engine: block devices of which this process serves the requests.
//!
//! - [`device`]: the lifecycle of a device that this process serves.
//! - [`backend`]: where a disk's data lives, and how to write a backend.
//! - [`registry`]: which devices there are, which process serves them, and what uses them.
//! - [`features`]: what the kernel's driver can do.
//! - [`queue`]: serves a queue by hand, for a process that has its own loop.
//! - [`telemetry`]: counters, latencies and traces of requests.
//! - [`claim`]: which files hold a disk's data.
//! - [`error`]: the error type, with a way out.
//!
//! Start with [`Device::create`]. The crate's directory `examples` has complete programs.

#![deny(missing_docs)]
// The numbers of tests fit.
#![cfg_attr(test, allow(clippy::cast_possible_truncation, clippy::cast_sign_loss))]

mod abi;
pub mod backend;
mod bound;
mod cancel;
pub mod cells;
mod choice;
pub mod claim;
mod control;
pub mod device;
pub mod error;
pub mod features;
mod hint;
mod io_flusher;
mod mapping;
mod nodes;
mod number;
mod pages;
mod priority;
pub mod queue;
pub mod registry;
mod report;
mod request;
pub mod spec;
pub mod telemetry;
#[cfg(feature = "testing")]
pub mod testing;
mod uring;
mod waker;

#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;

pub use bound::Bound;
pub use cancel::Cancel;
pub use device::{Device, Event};
pub use error::{Error, ErrorKind, Result};
pub use io_flusher::become_io_flusher;
pub use mapping::Mapping;
pub use pages::Pages;
pub use priority::fall_behind;
pub use report::{Report, Reporter};
pub use spec::Spec;
