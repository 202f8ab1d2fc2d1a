//! The threads that speak with servers: one runtime for the whole process, which begins when it is first needed.
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

static RUNTIME: OnceLock<Runtime> = OnceLock::new();

/// The runtime of this process.
pub fn runtime() -> io::Result<&'static Runtime> {
    static STARTING: Mutex<()> = Mutex::new(());
    if let Some(runtime) = RUNTIME.get() {
        return Ok(runtime);
    }
    let _starting = STARTING.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(runtime) = RUNTIME.get() {
        return Ok(runtime);
    }
    let runtime = Builder::new_multi_thread()
        .worker_threads(WORKERS)
        .max_blocking_threads(BLOCKING)
        .thread_name("ublk-remote")
        .on_thread_start(|| {
            // Without it a thread allocates like that of any other program: it fails for want of the right, or of an older kernel.
            let _ = ublk_core::become_io_flusher();
        })
        .enable_all()
        .build()?;
    Ok(RUNTIME.get_or_init(|| runtime))
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
