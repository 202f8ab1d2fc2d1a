//! A disk that is in use gets another backend: all that it has is copied there, and then the backend takes the place of its own.
//!
//! 1. *Begin.* Each queue gets an engine that has its own engine and one of the target below it. From then on all requests
//!    go to the disk as before. The target gets the changes of what it has already.
//! 2. *Copy.* Part by part, until the target has all ([`Copier`]). Then changes and flushes succeed only if both have them, and
//!    the target is flushed.
//! 3. The caller writes down durably that the disk is the target. This is the one moment at which it changes: a server that
//!    begins after a kill before it has the old disk, with all that was answered; one that begins after it has the target, with
//!    the same, since a change was answered only if both had it.
//! 4. *Finish.* Changes wait for those in flight, so that both have the same. From the next request on only the target is
//!    asked. When no request of the old disk is in flight, each queue gets the target's engine alone.
//!
//! If the target fails, the disk is as before. If it fails between 2 and 4, what it lacks is not answered until the caller has
//! taken the note of step 3 back, and cancelled.

use super::Device;
use super::bind::PATIENCE;
use super::claiming::claim;
use super::engine_loop::{Between, Gone};
use super::serving::AskQueues;
use super::start::LEAVING;
use super::state::State;
use crate::backend::mirror::{Copier, MirrorEngine, Sides, Status};
use crate::backend::{Backend, Below, FlattenProgress};
use crate::bound::Bound;
use crate::claim::{Claims, FileId};
use crate::error::{Error, ErrorKind, Result};
use crate::io_flusher::IoFlusher;
use crate::report::Reporter;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, Instant};

/// Bytes of a part.
const PART: u64 = 1 << 20;
/// The disk's own side, and the target.
const OLD: usize = 0;
const NEW: usize = 1;
/// How often it is looked whether a queue has what it waits for.
const LOOK: Duration = Duration::from_millis(1);
/// How long requests of the old disk may be in flight when it is not asked for anything more.
const LAST: Duration = Duration::from_secs(60);
/// How long changes that are in flight may take before the target takes the disk's place.
const CHANGES: Duration = Duration::from_secs(10);

/// A move that is under way.
pub(super) struct Moving {
    sides: Arc<Sides>,
    target: Arc<dyn Backend>,
    /// On the target's files, until the queues have them.
    claims: Mutex<Option<Claims>>,
    /// Where the claims on the disk's files are.
    held: Weak<Mutex<Claims>>,
    queues: AskQueues,
    reporter: Reporter,
    /// Bytes that the target has.
    done: AtomicU64,
    /// The target has all.
    ready: AtomicBool,
    interrupted: AtomicBool,
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Device {
    /// Copies all that a live disk has to another backend, at most `rate` bytes a second, while the disk is in use. Blocks
    /// until the target has all and goes on having it; then [`finish_move`](Self::finish_move) or
    /// [`cancel_move`](Self::cancel_move) has to be called. If it fails, or the bound's token is used, the disk is as before.
    pub fn begin_move(&self, target: Arc<dyn Backend>, rate: Option<u64>, bound: &Bound) -> Result<()> {
        let (moving, old) = self.prepare_move(target).map_err(|error| error.device(self.id))?;
        let copied = self.copy(&moving, &old, rate, bound);
        copied.map_err(|error| {
            let _ = self.undo_move(&moving);
            error.device(self.id)
        })
    }

    /// Serves the disk with the target alone from now on. The former backend is closed.
    ///
    /// If it fails, the target has failed: the move has to be [cancelled](Self::cancel_move).
    pub fn finish_move(&self) -> Result<()> {
        let moving = self.ready_move()?;
        moving.switch().map_err(|error| error.device(self.id))?;
        let old = locked(&self.backend).replace(moving.target.clone());
        if let (Some(held), Some(claims)) = (moving.held.upgrade(), locked(&moving.claims).take()) {
            *locked(&held) = claims;
        }
        moving.settle();
        *locked(&self.moving) = None;
        if let Some(old) = old {
            old.let_go();
            if let Err(error) = old.close() {
                moving.reporter.report(format!("the disk's former backend cannot be closed: {error}"));
            }
        }
        Ok(())
    }

    /// Ends a move whose target has all: the disk is as before.
    pub fn cancel_move(&self) -> Result<()> {
        let moving = self.ready_move()?;
        self.undo_move(&moving)
    }

    /// How far a move has come, while it is under way.
    pub fn moving(&self) -> Option<FlattenProgress> {
        let moving = locked(&self.moving).clone()?;
        let size = moving.sides.size;
        Some(FlattenProgress::new(moving.done.load(SeqCst).min(size), size))
    }

    /// The identity of the target's files, while a move is under way.
    pub fn target_files(&self) -> Result<Vec<FileId>> {
        self.ready_move()?.target.places().iter().map(FileId::of).collect()
    }

    /// Ends a move, before the device's queues leave.
    pub(super) fn interrupt_move(&self, patience: Duration) -> Result<()> {
        let until = Instant::now() + patience;
        loop {
            let Some(moving) = locked(&self.moving).clone() else { return Ok(()) };
            moving.interrupted.store(true, SeqCst);
            if Instant::now() >= until {
                return Err(self.is_moving());
            }
            std::thread::sleep(LOOK);
        }
    }

    /// Fails while the disk moves.
    pub(super) fn stays(&self) -> Result<()> {
        if locked(&self.moving).is_some() { Err(self.is_moving()) } else { Ok(()) }
    }

    fn is_moving(&self) -> Error {
        Error::new(ErrorKind::Busy, "the disk is being moved")
            .hint("wait until that has ended, or end it")
            .device(self.id)
    }

    fn ready_move(&self) -> Result<Arc<Moving>> {
        let moving = locked(&self.moving).clone();
        moving
            .filter(|moving| moving.ready.load(SeqCst))
            .ok_or_else(|| Error::new(ErrorKind::Closed, "the disk is not being moved").device(self.id))
    }

    fn prepare_move(&self, target: Arc<dyn Backend>) -> Result<(Arc<Moving>, Arc<dyn Backend>)> {
        let mut state = self.state();
        self.look(&mut state)?;
        let State::Live(serving) = &*state else { return Err(self.not_live(&state)) };
        let old = self.backend()?;
        if old.is_external() || old.is_unbound() || target.is_external() || target.is_unbound() {
            let what = "a disk that is not served natively cannot be moved, nor can one be moved to it";
            return Err(Error::new(ErrorKind::Unsupported, what));
        }
        if old.flattening().is_some() || old.committing().is_some() {
            let what = "the disk is being flattened or committed";
            return Err(Error::new(ErrorKind::Busy, what).hint("wait until that has ended, or end it"));
        }
        self.stays()?;
        let size = {
            let checked = locked(&self.checked);
            let misfit = |misfit: crate::spec::Misfit| Error::invalid(misfit.message).hint(misfit.remedy);
            checked.fits_when_moved(&*target).map_err(misfit)?;
            checked.size()
        };
        let claims = claim(&*target, size, LEAVING)?;
        let sides = Sides::new(size, PART, 2, Some(OLD))?;
        sides.side(NEW).dirty.set_all(0..sides.parts());
        sides.set_status(OLD, Status::Equal);
        sides.set_status(NEW, Status::Filling);
        let queues = serving.queues();
        let moving = Arc::new(Moving {
            sides: Arc::new(sides),
            target,
            claims: Mutex::new(Some(claims)),
            held: serving.claims().clone(),
            reporter: queues.shared.reporter(),
            queues,
            done: AtomicU64::new(0),
            ready: AtomicBool::new(false),
            interrupted: AtomicBool::new(false),
        });
        *locked(&self.moving) = Some(moving.clone());
        Ok((moving, old))
    }

    fn copy(&self, moving: &Moving, old: &Arc<dyn Backend>, rate: Option<u64>, bound: &Bound) -> Result<()> {
        // What it allocates must not wait for this disk.
        let _flusher = IoFlusher::new();
        self.take_apart(moving)?;
        let Moving { sides, target, reporter, .. } = moving;
        let given_up = || {
            bound.cancel.is_cancelled()
                || moving.interrupted.load(SeqCst)
                || sides.has_ended()
                || sides.failure(NEW).is_some()
        };
        let mut copier = Copier::new(sides.clone(), NEW, old, target, reporter)?;
        let progress = |missing: u64| {
            moving.done.store(sides.size.saturating_sub(missing * sides.part), SeqCst);
        };
        let copied = copier.run(rate, &given_up, &progress).and_then(|()| {
            sides.set_status(NEW, Status::Equal);
            // Flushes and changes that began before end first.
            let era = sides.queues.hold_changes(&(0..0), CHANGES);
            sides.queues.go_on();
            era?;
            copier.flush(&given_up)
        });
        drop(copier);
        moving.done.store(sides.size, SeqCst);
        moving.goes_on(bound)?;
        copied?;
        moving.ready.store(true, SeqCst);
        Ok(())
    }

    /// Puts the engine of a mirror in the place of each queue's.
    fn take_apart(&self, moving: &Moving) -> Result<()> {
        let descriptors: Arc<[_]> = locked(&moving.claims).iter().flat_map(Claims::descriptors).collect();
        let new = moving.queues.shared.new_backend(self, moving.target.clone(), descriptors);
        let (sides, reporter) = (moving.sides.clone(), moving.reporter.clone());
        let made = moving.queues.each(PATIENCE, move |turn: &mut Between<'_>| -> Result<()> {
            let in_flight = turn.queue.owned();
            turn.queue.files().begin_epoch();
            let engine = match new.engine(turn) {
                Ok(engine) => engine,
                Err(error) => {
                    turn.queue.files().retire_last()?;
                    return Err(error);
                }
            };
            let old = std::mem::replace(turn.engine, Box::new(Gone));
            let below = vec![Below::added(old, 0), Below::added(engine, 1)];
            let (completer, durable, depth) = (turn.completer.clone(), new.durable, new.depth);
            let mirror =
                MirrorEngine::new(below, sides.clone(), completer, reporter.clone(), None, durable, depth);
            *turn.engine = Box::new(mirror.after(&in_flight));
            Ok(())
        })?;
        made.into_iter().collect()
    }

    fn undo_move(&self, moving: &Arc<Moving>) -> Result<()> {
        moving.sides.serve_alone(Some(OLD));
        moving.sides.give_up(NEW);
        moving.settle();
        let mut present = locked(&self.moving);
        if present.as_ref().is_some_and(|present| Arc::ptr_eq(present, moving)) {
            *present = None;
        }
        drop(present);
        moving.target.let_go();
        let _ = moving.target.close(); // nobody needs what it has
        Ok(())
    }
}

impl Moving {
    /// Why it ends, if it does.
    fn goes_on(&self, bound: &Bound) -> Result<()> {
        if self.sides.has_ended() {
            return Err(Error::new(ErrorKind::Closed, "the disk was stopped before it was moved"));
        }
        if let Some(errno) = self.sides.failure(NEW) {
            return Err(failed(errno));
        }
        if self.interrupted.load(SeqCst) {
            let what = "the move was ended, since another process is to serve the disk";
            return Err(Error::new(ErrorKind::Busy, what).hint("move it again then"));
        }
        if bound.cancel.is_cancelled() {
            return Err(Error::new(ErrorKind::Cancelled, "the move was cancelled"));
        }
        Ok(())
    }

    /// From the next request on only the target is asked.
    fn switch(&self) -> Result<()> {
        let check = || self.sides.failure(NEW).map_or(Ok(()), |errno| Err(failed(errno)));
        check()?;
        if self.sides.has_ended() {
            return Ok(()); // no request comes any more
        }
        let held = self.sides.queues.hold_changes(&(0..self.sides.size), CHANGES);
        let switched = check().and(held);
        if switched.is_ok() {
            self.sides.serve_alone(Some(NEW));
        }
        self.sides.queues.go_on();
        switched
    }

    /// Has each queue served by the engine of the side that is alone, and lets go of the other one's files.
    fn settle(&self) {
        let until = Instant::now() + LAST;
        let new_stays = self.sides.alone() == Some(NEW);
        loop {
            let settled = self.queues.each(PATIENCE, move |turn: &mut Between<'_>| -> Result<bool> {
                if let Some(engine) = turn.engine.successor() {
                    *turn.engine = engine;
                    let mut files = turn.queue.files();
                    if new_stays { files.retire_others()? } else { files.retire_last()? }
                }
                turn.queue.files().release()
            });
            let settled = match settled {
                Ok(all) => all.into_iter().all(|released| released.unwrap_or(true)),
                Err(error) if error.kind == ErrorKind::Closed => true, // they end with the queue
                Err(_) => false,
            };
            if settled && self.sides.queues.are_empty() || self.sides.has_ended() {
                return;
            }
            if Instant::now() >= until {
                let what = "requests of the disk's former backend do not end: it stays open until they do";
                return self.reporter.report(what.into());
            }
            std::thread::sleep(LOOK);
        }
    }
}

fn failed(errno: i32) -> Error {
    let error = std::io::Error::from_raw_os_error(errno);
    Error::system("cannot write to the disk that it is moved to", &error)
        .kind(ErrorKind::Backend)
        .hint("nothing is lost: the disk is as before")
}
