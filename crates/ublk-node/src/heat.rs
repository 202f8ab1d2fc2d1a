//! Where a disk is read and written, and what of it is where, for JavaScript.

use crate::number::number;
use crate::wire;
use napi::bindgen_prelude::{Float64Array, Uint8Array};
use napi_derive::napi;
use ublk_core::telemetry::heat::{Counted, Done};

/// What was done to a disk since it was last asked.
#[napi(object)]
pub struct HeatCounts {
    /// `HEAT_FIELDS` numbers for each cell to which something was done; see `wire.rs`.
    pub cells: Float64Array,
    /// Requests that are not counted, since there were too many.
    pub lost: f64,
}

impl From<Counted> for HeatCounts {
    fn from(counted: Counted) -> Self {
        let fields = |(cell, Done { read, written, faults }): (u64, Done)| {
            let mut fields = [0.0; wire::HEAT_FIELDS];
            fields[wire::HEAT_CELL] = number(cell);
            fields[wire::HEAT_READ] = number(read);
            fields[wire::HEAT_WRITTEN] = number(written);
            fields[wire::HEAT_FAULTS] = number(faults);
            fields
        };
        let cells: Vec<_> = counted.cells.into_iter().flat_map(fields).collect();
        Self { cells: cells.into(), lost: number(counted.lost) }
    }
}

/// Counts where a disk is read and written, until it is stopped.
#[napi]
pub struct Heat(pub(crate) Option<ublk_core::telemetry::Heat>);

#[napi]
impl Heat {
    /// Bytes: what one cell stands for.
    #[napi(getter)]
    pub fn cell(&self) -> f64 {
        self.0.as_ref().map_or(0.0, |heat| number(heat.cell()))
    }

    /// What was counted since it was last asked.
    #[napi]
    pub fn take(&self) -> HeatCounts {
        self.0.as_ref().map(ublk_core::telemetry::Heat::take).unwrap_or_default().into()
    }

    /// Counts no more.
    #[napi]
    pub fn stop(&mut self) {
        self.0 = None;
    }
}

/// How much of each cell something holds for: 0 none, 255 all.
#[napi(object)]
pub struct Shares {
    /// Of a lazy disk: is in its cache.
    pub present: Option<Uint8Array>,
    /// Of one with a bounded cache: was written by a client.
    pub dirty: Option<Uint8Array>,
    /// Of an overlay: was written over its base.
    pub layered: Option<Uint8Array>,
}
