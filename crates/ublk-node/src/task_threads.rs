//! Threads for tasks. One that has nothing to do waits a moment for the next task: most of a short task would be to start
//! and end its thread.

use std::io;
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

/// How many wait.
const MOST: usize = 4;

/// How long each waits.
const IDLE: Duration = Duration::from_millis(500);

type Task = Box<dyn FnOnce() + Send>;

/// The threads that wait, and what sends tasks to each.
type Waiting = Vec<(thread::ThreadId, SyncSender<Task>)>;

static WAITING: Mutex<Waiting> = Mutex::new(Vec::new());

fn waiting() -> MutexGuard<'static, Waiting> {
    WAITING.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Runs the task at once, on a thread on which no other one runs. It must not panic.
pub fn run(task: impl FnOnce() + Send + 'static) -> io::Result<()> {
    let task: Task = Box::new(task);
    let Some((_, thread)) = waiting().pop() else { return start(task) };
    // It waits until it was sent to, once it is not among those that wait.
    thread.send(task).or_else(|unsent| start(unsent.0))
}

fn start(task: Task) -> io::Result<()> {
    thread::Builder::new().name("ublk-task".into()).spawn(move || serve(task)).map(drop)
}

fn serve(mut task: Task) {
    // Room for one: it is sent to once for each time that it waits.
    let (sender, tasks) = sync_channel(1);
    let this = thread::current().id();
    loop {
        task();
        {
            let mut waiting = waiting();
            if waiting.len() >= MOST {
                return;
            }
            waiting.push((this, sender.clone()));
        }
        match next(&tasks, this) {
            Some(next) => task = next,
            None => return,
        }
    }
}

/// The next task; `None` when there was none for a while, and none can come.
fn next(tasks: &Receiver<Task>, this: thread::ThreadId) -> Option<Task> {
    match tasks.recv_timeout(IDLE) {
        Ok(task) => return Some(task),
        Err(RecvTimeoutError::Disconnected) => return None,
        Err(RecvTimeoutError::Timeout) => {}
    }
    let mut waiting = waiting();
    if let Some(at) = waiting.iter().position(|(thread, _)| *thread == this) {
        waiting.remove(at);
        return None;
    }
    drop(waiting);
    tasks.recv().ok() // It was just chosen.
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;
    use std::sync::mpsc::channel;
    use std::time::Instant;

    /// The thread that ran a task.
    fn ran() -> thread::ThreadId {
        let (told, tells) = channel();
        run(move || told.send(thread::current().id()).unwrap()).unwrap();
        tells.recv().unwrap()
    }

    #[test]
    fn tasks_use_threads_again_and_never_wait_for_each_other() {
        // All wait for all: each has a thread of its own.
        let (all, told) = channel();
        let barrier = std::sync::Arc::new(std::sync::Barrier::new(8));
        for _ in 0..8 {
            let (all, barrier) = (all.clone(), barrier.clone());
            run(move || {
                barrier.wait();
                all.send(()).unwrap();
            })
            .unwrap();
        }
        for _ in 0..8 {
            told.recv_timeout(Duration::from_secs(10)).unwrap();
        }
        let until = Instant::now() + Duration::from_secs(10);
        let mut threads = HashSet::new();
        while threads.insert(ran()) {
            assert!(Instant::now() < until, "no thread was used again");
            thread::sleep(Duration::from_millis(10)); // It waits for the next task some time after the last one has told.
        }
        // They end when there is nothing to do, and later tasks run all the same.
        while !waiting().is_empty() {
            assert!(Instant::now() < until, "threads wait for ever");
            thread::sleep(Duration::from_millis(50));
        }
        // Also when they come as a thread gives up.
        for _ in 0..4 {
            ran();
            thread::sleep(IDLE - Duration::from_millis(1));
            ran();
        }
    }
}
