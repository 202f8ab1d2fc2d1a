//! A backend that does what a test says.

use ublk_core::Result;
use ublk_core::backend::{Backend, Discard, Engine, Properties, Site, Step};
use ublk_core::claim::Place;
use ublk_core::queue::{Io, Outcome};

/// Answers every request by calling `answer`.
pub struct Scripted<F> {
    properties: Properties,
    answer: F,
}

impl<F: Fn(&mut Io<'_>) -> Outcome + Send + Sync> Scripted<F> {
    /// A disk of `size` bytes with 512-byte blocks that can do everything.
    pub fn new(size: u64, answer: F) -> Self {
        let discard = Some(Discard { granularity: 512, max: 1 << 30, max_write_zeroes: 1 << 30 });
        Self { properties: Properties { size, block_size: 512, write_cache: true, discard }, answer }
    }
}

impl<F: Fn(&mut Io<'_>) -> Outcome + Send + Sync> Backend for Scripted<F> {
    fn properties(&self) -> Properties {
        self.properties
    }

    fn places(&self) -> Vec<Place<'_>> {
        Vec::new()
    }

    fn engine(&self, _site: &Site) -> Result<Box<dyn Engine + '_>> {
        Ok(Box::new(ScriptedEngine(&self.answer)))
    }
}

struct ScriptedEngine<'a, F>(&'a F);

impl<F: Fn(&mut Io<'_>) -> Outcome> Engine for ScriptedEngine<'_, F> {
    fn start(&mut self, io: &mut Io<'_>) -> Result<Step> {
        Ok(Step::Done((self.0)(io)))
    }
}
