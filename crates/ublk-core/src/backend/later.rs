//! A disk whose requests wait until a test lets them go on.

use super::{
    Backend, Below, Completer, Completion, Engine, Io, PerCall, Piece, Properties, Site, Step, Token,
};
use crate::claim::Place;
use crate::error::Result;
use crate::queue::CopyMode;
use std::sync::{Arc, Mutex};

/// The requests that wait, and their tags.
pub type Waiting = Arc<Mutex<Vec<(Completer, Token, u16)>>>;

/// A disk whose requests wait until the test lets one of them go on, or fail.
pub struct Later {
    pub disk: Arc<dyn Backend>,
    pub waiting: Waiting,
}

impl Backend for Later {
    fn properties(&self) -> Properties {
        self.disk.properties()
    }

    fn copy_modes(&self) -> Vec<CopyMode> {
        vec![CopyMode::Copy]
    }

    fn places(&self) -> Vec<Place<'_>> {
        Vec::new()
    }

    fn engine(self: Arc<Self>, site: &mut Site) -> Result<Box<dyn Engine>> {
        let disk = site.below(self.disk.clone())?;
        let (waiting, completer, pieces) =
            (self.waiting.clone(), site.completer(), PerCall::new(site.depth()));
        Ok(Box::new(LaterEngine { waiting, completer, disk, pieces }))
    }
}

struct LaterEngine {
    waiting: Waiting,
    completer: Completer,
    disk: Below,
    pieces: PerCall<Option<Piece>>,
}

impl Engine for LaterEngine {
    fn start(&mut self, io: &mut Io<'_>, piece: Piece) -> Step {
        *self.pieces.of(io) = Some(piece);
        let waiter = (self.completer.clone(), io.token(3), io.request.ticket.tag);
        self.waiting.lock().unwrap().push(waiter);
        Step::Pending
    }

    fn resume(&mut self, io: &mut Io<'_>, completion: Completion) -> Step {
        let Some(piece) = self.pieces.of(io).take() else { return self.disk.pass_on(io, completion) };
        assert_eq!(completion.key, 3);
        if completion.result < 0 { Step::Done(Err(-completion.result)) } else { self.disk.pass(io, piece) }
    }
}
