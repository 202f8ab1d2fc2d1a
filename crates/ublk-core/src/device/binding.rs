//! How a queue that is being served gets an engine of another backend: its thread makes the engine between two requests.

use super::queue_worker::engine_of;
use super::serving::ServingState;
use crate::backend::{Backend, Engine, Site, Stages};
use crate::error::{Error, ErrorKind, Result};
use crate::queue::{Completer, CopyMode, Files};
use crate::report::Reporter;
use std::os::fd::RawFd;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// A backend, and the queues that its engines are for.
#[derive(Clone)]
pub struct NewBackend {
    pub backend: Arc<dyn Backend>,
    pub depth: u16,
    /// As [`Site::max_io`].
    pub max_io: u32,
    /// As [`Site::durable`].
    pub durable: bool,
    pub copy: CopyMode,
}

struct Ask {
    new: NewBackend,
    /// What holds the claims on the backend's files. Open until it is answered.
    claims: Arc<[RawFd]>,
    reporter: Reporter,
    stages: Stages,
    answer: SyncSender<Result<()>>,
}

/// What a queue is asked.
#[derive(Default)]
pub struct Binding {
    asked: AtomicBool,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    ask: Option<Ask>,
    /// The queue has ended: nobody will answer.
    ended: bool,
}

impl Binding {
    /// Asks; the queue has to be woken then. If it ends before it answers, or has ended, the receiver is disconnected.
    pub fn ask(&self, new: NewBackend, claims: Arc<[RawFd]>, of: &ServingState) -> Receiver<Result<()>> {
        let (answer, answered) = sync_channel(1);
        let (reporter, stages) = (of.reporter(), of.stages.clone());
        let ask = Ask { new, claims, reporter, stages, answer };
        let mut state = self.state();
        if !state.ended {
            state.ask = Some(ask);
            self.asked.store(true, Ordering::Release);
        }
        answered
    }

    /// The queue has ended.
    pub fn end(&self) {
        let mut state = self.state();
        (state.ended, state.ask) = (true, None);
    }

    /// The engine that the queue is to get, if it is asked. On the queue's thread.
    pub fn make(&self, completer: &Completer, files: &mut Files<'_>) -> Option<Box<dyn Engine>> {
        if !self.asked.load(Ordering::Acquire) {
            return None;
        }
        self.asked.store(false, Ordering::Relaxed);
        let ask = self.state().ask.take()?;
        let made = engine_at(&ask, completer.clone(), files);
        let (engine, result) = match made {
            Ok(engine) => (Some(engine), Ok(())),
            Err(error) => (None, Err(error)),
        };
        let _ = ask.answer.send(result); // the other side may wait no more
        engine
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Makes an engine, and adds its files to the ring. The ring keeps the claims, too, until its last operation has ended.
fn engine_at(ask: &Ask, completer: Completer, files: &mut Files<'_>) -> Result<Box<dyn Engine>> {
    let NewBackend { backend, depth, max_io, durable, copy } = ask.new.clone();
    let site = Site::new(depth, max_io, durable, completer, ask.reporter.clone());
    let mut site =
        site.of_device(copy, ask.stages.clone()).with_files_at(files.next()).with_lines_at(files.next_line());
    let engine = engine_of(backend, &mut site)?;
    let needs = site.needs();
    let (room, wanted) =
        (files.room(), needs.files.len() + ask.claims.len() + usize::from(needs.spare_files));
    if wanted > room {
        return Err(Error::new(
            ErrorKind::Unsupported,
            format!("the backend needs {wanted} files, and the disk's queues have room for {room}"),
        )
        .hint("create the disk with its backend"));
    }
    for file in needs.files.iter().chain(ask.claims.iter()) {
        files.add_raw(*file)?;
    }
    needs.lines.into_iter().for_each(|line| files.add_line(line));
    Ok(engine)
}
