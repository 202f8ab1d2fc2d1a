//! How a queue that is being served gets an engine of another backend: its thread makes the engine between two requests.

use super::engine_loop::Between;
use super::queue_worker::engine_of;
use super::serving::ServingState;
use crate::backend::{Backend, Engine, Site, Stages};
use crate::error::{Error, ErrorKind, Result};
use crate::queue::CopyMode;
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
    /// What holds the claims on the backend's files. Open until the queue has answered.
    pub claims: Arc<[RawFd]>,
    pub reporter: Reporter,
    pub stages: Stages,
}

impl NewBackend {
    /// Makes an engine, and adds its files to the ring. The ring keeps the claims, too, until its last operation has ended.
    pub fn engine(&self, turn: &mut Between<'_>) -> Result<Box<dyn Engine>> {
        let Self { backend, depth, max_io, durable, copy, claims, reporter, stages } = self.clone();
        let site = Site::new(depth, max_io, durable, turn.completer.clone(), reporter);
        let mut files = turn.queue.files();
        let (first, room) = (files.next(), files.room());
        let mut site = site.of_device(copy, stages).with_files_at(first).with_lines_at(files.next_line());
        let engine = engine_of(backend, &mut site)?;
        let needs = site.needs();
        let wanted = needs.files.len() + claims.len() + usize::from(needs.spare_files);
        if wanted > room {
            return Err(Error::new(
                ErrorKind::Unsupported,
                format!("the backend needs {wanted} files, and the disk's queues have room for {room}"),
            )
            .hint("create the disk with its backend"));
        }
        for (slot, file) in first.and_more().zip(needs.files.iter().chain(claims.iter())) {
            files.put(slot, *file)?;
        }
        needs.lines.into_iter().for_each(|line| files.add_line(line));
        Ok(engine)
    }
}

/// Something to do on the thread of a queue, between two requests.
pub type Task = Box<dyn FnOnce(&mut Between<'_>) + Send>;

/// What a queue is asked.
#[derive(Default)]
pub struct Binding {
    asked: AtomicBool,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    tasks: Vec<Task>,
    /// The queue has ended: nobody will answer.
    ended: bool,
}

impl Binding {
    /// Asks; the queue has to be woken then. If it ends before it answers, or has ended, the receiver is disconnected.
    pub fn ask<T: Send + 'static>(
        &self,
        what: impl FnOnce(&mut Between<'_>) -> T + Send + 'static,
    ) -> Receiver<T> {
        let (answer, answered): (SyncSender<T>, _) = sync_channel(1);
        let mut state = self.state();
        if !state.ended {
            state.tasks.push(Box::new(move |turn| {
                let _ = answer.send(what(turn)); // the other side may wait no more
            }));
            self.asked.store(true, Ordering::Release);
        }
        answered
    }

    /// The queue has ended.
    pub fn end(&self) {
        let mut state = self.state();
        state.ended = true;
        state.tasks.clear();
    }

    /// Does what the queue is asked. On the queue's thread.
    pub fn run(&self, turn: &mut Between<'_>) {
        if !self.asked.load(Ordering::Acquire) {
            return;
        }
        self.asked.store(false, Ordering::Relaxed);
        let tasks = std::mem::take(&mut self.state().tasks);
        tasks.into_iter().for_each(|task| task(turn));
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl ServingState {
    /// A backend for the queues.
    pub fn new_backend(
        &self,
        device: &super::Device,
        backend: Arc<dyn Backend>,
        claims: Arc<[RawFd]>,
    ) -> NewBackend {
        NewBackend {
            backend,
            depth: device.depth,
            max_io: device.max_io,
            durable: device.durable,
            copy: device.choice.mode.copy,
            claims,
            reporter: self.reporter(),
            stages: self.stages.clone(),
        }
    }
}
