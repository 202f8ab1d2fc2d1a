//! Another priority of the calling thread: behind those that serve requests.

use std::io;
use std::marker::PhantomData;

/// The niceness of threads for which no request waits. With that of the others they would take the processor from queues, each
/// time that they wake up.
const BEHIND: i32 = 10;

/// The calling thread runs behind those that serve requests from here on, if it may have that priority.
pub fn fall_behind() {
    set(BEHIND);
}

/// Until it is dropped. The priority is the thread's own, hence not `Send`.
pub struct Priority {
    before: i32,
    thread: PhantomData<*const ()>,
}

impl Priority {
    /// Behind the threads that serve requests. `None`: it may not have that, and keeps its own.
    pub fn behind() -> Option<Self> {
        Self::change(BEHIND)
    }

    /// Gives the calling thread that niceness. `None`: it may not have that, and keeps its own.
    fn change(niceness: i32) -> Option<Self> {
        // SAFETY: plain numbers; 0 is the calling thread. The niceness -1 looks like a failure, so `errno` tells.
        let before = unsafe {
            *libc::__errno_location() = 0;
            libc::getpriority(libc::PRIO_PROCESS, 0)
        };
        let known = before != -1 || io::Error::last_os_error().raw_os_error() == Some(0);
        (known && set(niceness)).then_some(Self { before, thread: PhantomData })
    }
}

impl Drop for Priority {
    fn drop(&mut self) {
        set(self.before); // where it may not, it keeps the other one
    }
}

fn set(niceness: i32) -> bool {
    // SAFETY: plain numbers; 0 is the calling thread.
    unsafe { libc::setpriority(libc::PRIO_PROCESS, 0, niceness) == 0 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_thread_has_another_priority_for_a_while() {
        std::thread::spawn(|| {
            // SAFETY: plain numbers.
            let now = || unsafe { libc::getpriority(libc::PRIO_PROCESS, 0) };
            let before = now();
            let lower = Priority::change(19);
            assert!(lower.is_some() && now() == 19);
            drop(lower); // only the privileged may go back
            assert!(now() == before || now() == 19);
        })
        .join()
        .unwrap();
    }
}
