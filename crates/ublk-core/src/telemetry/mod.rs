//! What queues count and report of their requests: counters, latencies, traces.

mod accounts;
pub mod clock;
mod counters;
pub mod heat;
pub mod histogram;
pub mod trace;

pub(crate) use accounts::Accounts;
pub use clock::clock;
pub use counters::{Counter, OpCounters, QueueCounters};
pub use heat::Heat;
pub use trace::Tracer;
