//! A disk over a base that stays as it is: what was written lies in a file of its own.

mod upper;

pub use upper::{Parent, Saved, Shape, Upper, Uuid};
