//! Disks that have the same data on several others.

mod copier;
mod disk;
mod engine;
mod intents;
mod map;
mod reading;
mod running;
mod sides;
#[cfg(test)]
mod tests;

pub use copier::Copier;
pub use disk::{Mirror, SideInfo};
pub use engine::MirrorEngine;
pub use sides::{Sides, Status};
