//! A backend that does what a test says.

use std::sync::Arc;
use ublk_core::Result;
use ublk_core::backend::{Backend, Discard, Engine, Io, Piece, Properties, Site, Step};
use ublk_core::claim::Place;
use ublk_core::queue::Outcome;

/// Answers every request by calling `answer`.
pub struct Scripted<F> {
    properties: Properties,
    answer: Arc<F>,
}

impl<F: Fn(&mut Io<'_>) -> Outcome + Send + Sync + 'static> Scripted<F> {
    /// A disk of `size` bytes with 512-byte blocks that can do everything.
    pub fn new(size: u64, answer: F) -> Self {
        let discard =
            Some(Discard { granularity: 512, alignment: 0, max: 1 << 30, max_write_zeroes: 1 << 30 });
        let properties = Properties { write_cache: true, discard, ..Properties::new(size) };
        Self { properties, answer: Arc::new(answer) }
    }
}

impl<F: Fn(&mut Io<'_>) -> Outcome + Send + Sync + 'static> Backend for Scripted<F> {
    fn properties(&self) -> Properties {
        self.properties
    }

    fn places(&self) -> Vec<Place<'_>> {
        Vec::new()
    }

    fn engine(self: Arc<Self>, _site: &mut Site) -> Result<Box<dyn Engine>> {
        Ok(Box::new(ScriptedEngine(self.answer.clone())))
    }
}

struct ScriptedEngine<F>(Arc<F>);

impl<F: Fn(&mut Io<'_>) -> Outcome> Engine for ScriptedEngine<F> {
    fn start(&mut self, io: &mut Io<'_>, _piece: Piece) -> Step {
        Step::Done((self.0)(io))
    }
}

/// All data of a request.
pub fn data<'a>(io: &'a mut Io<'_>) -> std::result::Result<&'a mut [u8], i32> {
    let whole = io.request.what.piece();
    io.data(&whole)
}

/// A panic with it panics again where it is dropped: what nobody expects who catches panics.
pub struct PanicsAgain;

impl Drop for PanicsAgain {
    fn drop(&mut self) {
        panic!("nothing is as it was");
    }
}
