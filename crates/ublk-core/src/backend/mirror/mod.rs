//! Disks that have the same data on several others.

mod copier;
mod engine;
mod intents;
mod sides;

pub use copier::Copier;
pub use engine::MirrorEngine;
pub use sides::{Sides, Status};
