//! The rules of a disk with faults, for JavaScript.

use crate::number::number;
use napi_derive::napi;
use ublk_core::backend::{Faults, Tally};

/// How often a rule came into question.
#[napi(object)]
pub struct FaultTally {
    /// How many requests it considered.
    pub considered: f64,
    /// To how many it was applied.
    pub applied: f64,
}

impl From<Tally> for FaultTally {
    fn from(Tally { considered, applied }: Tally) -> Self {
        Self { considered: number(considered), applied: number(applied) }
    }
}

/// What the rules of a disk have done.
#[napi(object)]
pub struct FaultTallies {
    /// Of each rule, in their order.
    pub rules: Vec<FaultTally>,
    /// How many requests hang.
    pub hanging: f64,
}

impl From<&Faults> for FaultTallies {
    fn from(faults: &Faults) -> Self {
        let rules = faults.tallies().into_iter().map(FaultTally::from).collect();
        Self { rules, hanging: number(faults.hanging() as u64) }
    }
}
