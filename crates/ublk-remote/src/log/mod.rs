//! A disk as a log of segments in an object store.

mod cache;
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
mod map;
mod notes;
mod open;
mod ring;
mod state;
#[cfg(test)]
mod tests;
mod upload;
mod volume;

pub use disk::{Durable, LogDisk, Options, Standing};
pub use format::Volume as VolumeInfo;
