//! The engine of ublk-ts: a Linux ublk server in Rust. It knows nothing of JavaScript.
//!
//! - [`control`]: the driver's control commands, each wait bounded and cancellable.
//! - [`queue`]: one ring, descriptor table, tag state machine and buffer pool, owned by one thread.
//! - [`request`]: operation, range and flags of a request.
//! - [`telemetry`]: counters, latencies and traces of requests.
//! - [`backend`]: where a disk's data lives: memory, nothing, a file.
//! - [`claim`]: locks the disk's files while it is served, and checks that they are still the same.
//! - [`device`]: the lifecycle that ties them together.
//! - [`registry`]: all devices of this machine, of any server, and their users.

pub mod abi;
pub mod backend;
pub mod cancel;
pub mod choice;
pub mod claim;
pub mod control;
pub mod device;
pub mod error;
pub mod features;
pub mod mapping;
pub mod pages;
pub mod queue;
pub mod registry;
pub mod report;
pub mod request;
pub mod spec;
pub mod telemetry;

pub use cancel::Cancel;
pub use control::{Bound, Control};
pub use device::{Device, Event};
pub use error::{Error, ErrorKind, Result};
pub use pages::Pages;
pub use spec::Spec;
