//! The native driver of a queue: an OS thread that runs turn → backend → commit.

use super::{Errno, Event, Op, Queue, Ticket, Wait};
use crate::backend::{Engine, Step};
use crate::error::Result;
use std::panic::{AssertUnwindSafe, catch_unwind};

/// How serving ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ended {
    /// The device was stopped, and everything owed was answered.
    Stopped,
    /// The queue was woken to be given up.
    Left,
}

/// Serves `queue`, whose tags have been offered, with `engine` until the device is stopped, or until it is woken
/// and `given_up`.
///
/// A panic of the engine costs its request an `EIO` and is reported through `panicked`.
pub fn serve(
    queue: &mut Queue,
    engine: &mut dyn Engine,
    given_up: &dyn Fn() -> bool,
    panicked: &mut dyn FnMut(String),
) -> Result<Ended> {
    // Requests that failed while their operations were in the ring. A list: it is as good as always empty, and
    // looked at for every request.
    let mut failed = Vec::new();
    loop {
        let mut at = 0;
        while let Some(event) = queue.event(at) {
            at += 1;
            let ticket = match event {
                Event::Request(ticket) | Event::Operation(ticket, _) => ticket,
            };
            if let Step::Done(outcome) = step(queue, engine, event, ticket, &mut failed, panicked) {
                queue.commit(ticket, outcome)?;
            }
        }
        if queue.settled() {
            return Ok(Ended::Stopped);
        }
        if queue.woken() {
            if given_up() {
                return Ok(Ended::Left);
            }
            while let Some((ticket, result)) = engine.ready() {
                let event = Event::Operation(ticket, result);
                if let Step::Done(outcome) = step(queue, engine, event, ticket, &mut failed, panicked) {
                    queue.commit(ticket, outcome)?;
                }
            }
        }
        queue.turn(Wait::Forever)?;
    }
}

fn step(
    queue: &mut Queue,
    engine: &mut dyn Engine,
    event: Event,
    ticket: Ticket,
    failed: &mut Vec<(Ticket, Errno)>,
    panicked: &mut dyn FnMut(String),
) -> Step {
    let Ok(mut io) = queue.io(ticket) else {
        return Step::Pending; // answered meanwhile: nothing is owed
    };
    if let Some(at) = failed.iter().position(|(request, _)| *request == ticket) {
        return Step::Done(Err(failed.swap_remove(at).1));
    }
    let what = io.request.what;
    let answer = catch_unwind(AssertUnwindSafe(|| match event {
        Event::Request(_) if matches!(what.op, Op::Other(_)) => Ok(Step::Done(Err(libc::EOPNOTSUPP))),
        Event::Request(_) => engine.start(&mut io),
        Event::Operation(_, result) => engine.resume(&mut io, result),
    }));
    let errno = match answer {
        Ok(Ok(step)) => return step,
        Ok(Err(error)) => error.errno.unwrap_or(libc::EIO),
        Err(panic) => {
            let why = panic
                .downcast_ref::<&str>()
                .map(|why| (*why).to_owned())
                .or_else(|| panic.downcast_ref::<String>().cloned())
                .unwrap_or_default();
            panicked(format!(
                "the backend panicked at {:?} of {} bytes at {}: {why}",
                what.op, what.length, what.offset
            ));
            libc::EIO
        }
    };
    if queue.operating(ticket) {
        // What it left in the ring uses the buffer, and has to come back first.
        failed.push((ticket, errno));
        return Step::Pending;
    }
    Step::Done(Err(errno))
}
