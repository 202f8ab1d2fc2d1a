//! The threads that speak with servers: two runtimes for the whole process, which begin when they are first needed.
//!
//! Its threads are I/O flushers, those for blocking work as well: a disk may wait for them, so their allocations must not wait
//! for that disk. An idle runtime sleeps.

use std::future::Future;
use std::io;
use std::sync::{Mutex, OnceLock, PoisonError};
use tokio::runtime::{Builder, Runtime};
use tokio::task::JoinHandle;

/// How many threads run tasks. What takes long is the network.
const WORKERS: usize = 2;

/// How many threads may do what blocks: name look-ups, and a directory's files.
const BLOCKING: usize = 32;

/// Threads that begin when they are first needed.
struct Threads {
    runtime: OnceLock<Runtime>,
    starting: Mutex<()>,
    name: &'static str,
    behind: bool,
}

static THREADS: Threads = Threads::new("ublk-remote", false);
static BEHIND: Threads = Threads::new("ublk-behind", true);

impl Threads {
    const fn new(name: &'static str, behind: bool) -> Self {
        Self { runtime: OnceLock::new(), starting: Mutex::new(()), name, behind }
    }

    fn runtime(&'static self) -> io::Result<&'static Runtime> {
        if let Some(runtime) = self.runtime.get() {
            return Ok(runtime);
        }
        let _starting = self.starting.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(runtime) = self.runtime.get() {
            return Ok(runtime);
        }
        let runtime = Builder::new_multi_thread()
            .worker_threads(WORKERS)
            .max_blocking_threads(BLOCKING)
            .thread_name(self.name)
            .on_thread_start(|| {
                // Without it a thread allocates like that of any other program: it fails for want of the right, or of an older
                // kernel.
                let _ = ublk_core::become_io_flusher();
                if self.behind {
                    ublk_core::fall_behind();
                }
            })
            .enable_all()
            .build()?;
        Ok(self.runtime.get_or_init(|| runtime))
    }
}

/// The threads for what a request waits for, or a user.
pub fn runtime() -> io::Result<&'static Runtime> {
    THREADS.runtime()
}

/// Those for what nobody waits for: they run behind all that serve requests.
pub fn behind() -> io::Result<&'static Runtime> {
    BEHIND.runtime()
}

/// Starts a task on the runtime. If it panics, only its handle tells.
pub fn spawn<T: Send + 'static>(task: impl Future<Output = T> + Send + 'static) -> io::Result<JoinHandle<T>> {
    Ok(runtime()?.spawn(task))
}

/// Waits for a task on the runtime, from a thread that is none of it. A panic in it is an error.
pub fn block_on<T: Send + 'static>(task: impl Future<Output = T> + Send + 'static) -> io::Result<T> {
    let runtime = runtime()?;
    let handle = runtime.spawn(task);
    runtime
        .block_on(handle)
        .map_err(|_| io::Error::other("a task of the remote engine panicked: this is a bug"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tasks_run_on_threads_with_a_name_and_a_panic_stays_in_its_task() {
        assert!(block_on(async { panic!("expected in this test") }).is_err());
        let name = || std::thread::current().name().map(str::to_owned);
        assert_eq!(block_on(async move { name() }).unwrap().as_deref(), Some("ublk-remote"));
        let blocking = block_on(async move { tokio::task::spawn_blocking(name).await.unwrap() }).unwrap();
        assert_eq!(blocking.as_deref(), Some("ublk-remote"));
        assert!(std::ptr::eq(runtime().unwrap(), runtime().unwrap()));
    }

    #[test]
    fn what_nobody_waits_for_runs_behind() {
        // SAFETY: plain numbers; 0 is the calling thread.
        let niceness = || unsafe { libc::getpriority(libc::PRIO_PROCESS, 0) };
        let usual = niceness();
        let of = |runtime: &Runtime| {
            let task = runtime
                .spawn(async move { (niceness(), tokio::task::spawn_blocking(niceness).await.unwrap()) });
            runtime.block_on(task).unwrap()
        };
        assert_eq!(of(runtime().unwrap()), (usual, usual));
        let later = usual.max(10);
        assert_eq!(of(behind().unwrap()), (later, later));
    }

    #[test]
    fn its_threads_are_io_flushers_where_that_is_allowed() {
        const PR_GET_IO_FLUSHER: i32 = 58;
        // SAFETY: a plain number.
        let flusher = || unsafe { libc::prctl(PR_GET_IO_FLUSHER, 0, 0, 0, 0) };
        let allowed = std::thread::spawn(move || {
            ublk_core::become_io_flusher().unwrap();
            flusher()
        });
        let allowed = allowed.join().unwrap();
        assert_eq!(block_on(async move { flusher() }).unwrap(), allowed);
        assert_eq!(
            block_on(async move { tokio::task::spawn_blocking(flusher).await.unwrap() }).unwrap(),
            allowed
        );
    }
}
