//! The states that a disk may be in after a power cut, found in the log of a [`Recorder`](super::Recorder).
//!
//! [`doubt`] says what is certain at a moment and what is not, [`plan`] which moments are tried, [`choose`] which possibilities of
//! each. A state is a map of the disk, so it is made without copying data. [`account`] says what became of each write in it.

pub mod account;
mod bounds;
mod choose;
mod content;
mod doubt;
mod left;
mod plan;
mod states;
#[cfg(test)]
mod tests;
mod view;

pub use bounds::{Bounds, Model};
pub use choose::Choice;
pub use content::LogData;
pub(super) use left::left;
pub use states::{How, Lost, State, States};
pub use view::View;
