//! A disk as a log of segments in an object store.

mod cache;
mod changes;
mod clone;
mod collect;
mod disk;
mod engine;
#[cfg(test)]
mod engine_tests;
mod fetch;
mod fill;
mod format;
mod index;
mod layout;
mod local;
mod map;
#[cfg(test)]
mod model;
mod notes;
mod open;
#[cfg(test)]
mod open_tests;
mod origins;
mod reading;
mod ring;
#[cfg(test)]
mod snapshot_tests;
mod snapshots;
mod state;
mod tail;
#[cfg(test)]
mod tests;
mod upload;
mod volume;

pub use clone::CloneOf;
pub use disk::{Durable, LogDisk, Options, Standing};
pub use format::Snapshot;
pub use format::Volume as VolumeInfo;
pub use origins::Opener;
pub use reading::At;
