//! The threads that serve queues with native engines: one per queue, or a few for the queues of all devices.

use super::queue_worker::{Plan, QueueWorker};
use super::round_robin::RoundRobin;
use crate::abi::sys;
use crate::error::{Error, ErrorKind, Hint, Remedy, Result};
use crate::features::Features;
use crate::queue::{Mode, Transport, Wait, Waker};
use crate::spec::{Spec, Threads};
use std::num::NonZero;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread::{Builder, available_parallelism};
use std::time::{Duration, Instant};

/// Fails if a queue cannot have the requested number of threads with this transport.
pub fn check(wishes: &Spec, mode: Mode, features: Features) -> Result<()> {
    if wishes.threads_per_queue == 1 {
        return Ok(());
    }
    let refused = |why: &str, hint: Hint| {
        let message = format!("{} threads for each queue are not possible: {why}", wishes.threads_per_queue);
        Err(Error::new(ErrorKind::Unsupported, message).hint(hint))
    };
    if wishes.threads == Threads::Shared {
        return refused("shared threads serve several queues each", "leave the threads at own".into());
    }
    if mode.transport == Transport::PerIo && !features.has(sys::UBLK_F_PER_IO_DAEMON.into()) {
        return refused(
            "this kernel lacks PER_IO_DAEMON",
            Hint::from("Linux 6.16 or newer has it").by(Remedy::Features),
        );
    }
    Ok(())
}

/// Has the queue served.
pub fn serve(plan: Plan, threads: Threads) -> Result<()> {
    match threads {
        Threads::Own => own(plan),
        Threads::Shared => shared(plan),
    }
}

fn own(plan: Plan) -> Result<()> {
    let (queue, part) = (plan.pending.index(), plan.pending.part());
    let mut name = format!("ublk{}q{queue}", plan.pending.hold.shared.id);
    if part.of > 1 {
        name += &format!("t{}", part.index);
    }
    spawn(name, move || {
        if let Some(cpus) = &plan.cpus {
            cpus.keep();
        }
        let Some(mut worker) = QueueWorker::open(plan) else { return };
        while !worker.over() {
            let left = worker.deadline().map(|until| until.saturating_duration_since(Instant::now()));
            worker.step(left.map_or(Wait::Forever, Wait::AtMost));
        }
        worker.close();
    })
}

fn spawn(name: String, run: impl FnOnce() + Send + 'static) -> Result<()> {
    Builder::new()
        .name(name)
        .stack_size(256 << 10)
        .spawn(run)
        .map(drop)
        .map_err(|error| Error::system("cannot start a queue's thread", &error))
}

/// A thread that queues share. It lives while it has any.
struct SharedThread {
    number: usize,
    /// What it has or is about to have.
    queues: usize,
    /// What it is to take.
    plans: Vec<Plan>,
    bell: Waker,
}

/// More would hardly find more to do: a thread that shares queues sleeps only when none of them has work.
const MOST_SHARED_THREADS: usize = 4;

/// The process's threads.
static SHARED_THREADS: Mutex<Vec<SharedThread>> = Mutex::new(Vec::new());

fn threads() -> MutexGuard<'static, Vec<SharedThread>> {
    SHARED_THREADS.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Gives the queue to the thread with the fewest queues: to a new one as long as there are fewer than that is good for.
fn shared(mut plan: Plan) -> Result<()> {
    plan.pending.config.poll = Duration::ZERO; // that would keep the other queues waiting
    let most = available_parallelism().map_or(1, NonZero::get).min(MOST_SHARED_THREADS);
    let mut threads = threads();
    if threads.len() < most {
        match start(&mut threads) {
            Err(error) if threads.is_empty() => return Err(error),
            _ => {} // the others do
        }
    }
    if let Some(thread) = threads.iter_mut().min_by_key(|thread| thread.queues) {
        thread.queues += 1;
        thread.plans.push(plan);
        thread.bell.wake();
    }
    Ok(())
}

fn start(threads: &mut Vec<SharedThread>) -> Result<()> {
    let number =
        (0..).find(|number| threads.iter().all(|thread| thread.number != *number)).unwrap_or_default();
    let bell = Waker::new()?;
    let mine = bell.clone();
    spawn(format!("ublk-shared{number}"), move || run(number, mine))?;
    threads.push(SharedThread { number, queues: 0, plans: Vec::new(), bell });
    Ok(())
}

fn run(number: usize, bell: Waker) {
    let _gone = Gone(number);
    let (mut queues, mut left) = (RoundRobin::new(bell), 0);
    loop {
        if left > 0 || queues.rung() || queues.is_empty() {
            let Some(plans) = next(number, left, queues.is_empty()) else { return };
            left = 0;
            for plan in plans {
                match QueueWorker::open(plan) {
                    Some(worker) => queues.add(worker),
                    None => left += 1,
                }
            }
        }
        if !queues.is_empty() {
            left += queues.turn();
        }
    }
}

/// What the thread is to take; nothing, and the thread is gone, when it has no queues and gets none.
fn next(number: usize, left: usize, idle: bool) -> Option<Vec<Plan>> {
    let mut threads = threads();
    let at = threads.iter().position(|thread| thread.number == number)?;
    let thread = &mut threads[at];
    thread.queues -= left;
    if idle && thread.plans.is_empty() {
        threads.remove(at);
        return None;
    }
    Some(std::mem::take(&mut thread.plans))
}

/// A thread that panicked gets no further queues.
struct Gone(usize);

impl Drop for Gone {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            return; // its number may be another's by now
        }
        let mut threads = threads();
        let gone = threads.iter().position(|thread| thread.number == self.0).map(|at| threads.remove(at));
        drop(threads);
        drop(gone); // its pending tell their devices
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALL: Features = Features(u64::MAX);
    const OLD: Features = Features(0x1fe);

    #[test]
    fn a_queue_has_several_threads_only_where_driver_and_transport_let_it() {
        let several = Spec { threads_per_queue: 2, ..Spec::default() };
        let of = |transport| Mode { transport, ..Mode::default() };
        let refused = |wishes: &Spec, transport, features| {
            check(wishes, of(transport), features).err().map(|error| error.message)
        };
        let why = |why| Some(format!("2 threads for each queue are not possible: {why}"));
        assert_eq!(refused(&several, Transport::PerIo, ALL), None);
        assert_eq!(refused(&Spec::default(), Transport::Batch, OLD), None);
        assert_eq!(refused(&several, Transport::PerIo, OLD), why("this kernel lacks PER_IO_DAEMON"));
        assert_eq!(refused(&several, Transport::Batch, OLD), None);
        let shared = Spec { threads: Threads::Shared, ..several };
        assert_eq!(refused(&shared, Transport::PerIo, ALL), why("shared threads serve several queues each"));
    }
}
